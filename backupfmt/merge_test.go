package backupfmt

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// shipped makes a repository whose log was shipped in many small pieces.
func shipped(t *testing.T, seed uint64, pieces int) *world {
	t.Helper()
	w := newWorld(t, seed)
	w.write(3)
	w.backup(Full)
	w.ar.StartAfter(w.s.AppliedIndex())
	for range pieces {
		w.write(2)
		w.ship()
	}
	require.Len(t, w.names(folderArchive), pieces)
	return w
}

// anyIndex restores some moments of the log, its ends among them, and checks everything.
func (w *world) anyIndex(step uint64) {
	w.t.Helper()
	for i := uint64(4); i < w.ar.Last(); i += step {
		require.Equal(w.t, i, w.restore(Target{Index: i}).Index)
	}
	w.restoresAll()
	for _, data := range []bool{false, true} {
		rep, err := w.repo.Verify(bg, VerifyOptions{ReadData: data, NoLedger: true})
		require.NoError(w.t, err)
		require.Empty(w.t, rep.Damage)
	}
}

func TestManySmallPiecesBecomeFewAndEveryMomentStaysRestorable(t *testing.T) {
	w := shipped(t, 130, 30)
	src, err := EngineSource(w.s, w.life())
	require.NoError(t, err)
	_, err = w.repo.Backup(bg, src, BackupOptions{Type: Incremental, Archive: w.ar}) // it names the newest piece
	require.NoError(t, err)
	require.NoError(t, src.Close())
	w.write(2)
	w.ship()
	rep, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 2}})
	require.NoError(t, err)
	require.Equal(t, MergeReport{Pieces: 30, Into: 1}, rep.Merged)
	require.Len(t, w.names(folderArchive), 2, "one large piece, and the newest one")
	w.anyIndex(7)
	// An archiver that was open all the time goes on, and so does one that is opened now.
	w.write(2)
	w.ship()
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	for range 10 {
		w.write(1)
		w.ship()
	}
	_, err = w.repo.Consolidate(bg, 0, nil)
	require.NoError(t, err)
	require.Len(t, w.names(folderArchive), 2)
	w.anyIndex(9)
	spans, err := w.repo.Spans(bg)
	require.NoError(t, err)
	require.Equal(t, []uint64{4, w.ar.Last()}, []uint64{spans[0].First, spans[0].Last})
	// A lost merged piece is named with what it costs.
	require.NoError(t, w.disk.Delete(bg, w.names(folderArchive)[0]))
	v, err := w.repo.Verify(bg, VerifyOptions{})
	require.NoError(t, err)
	require.True(t, v.Lost())
	_, err = w.repo.Plan(bg, Target{Index: 10})
	require.Error(t, err)
}

func TestAMergeMayBeKilledAnywhere(t *testing.T) {
	origin := shipped(t, 131, 11)
	points := 0
	for n := 0; ; n += everyPoint(3) {
		w := origin.sharedBy(n)
		_, err := w.repo.MergeArchive(bg)
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errKilled)
		points++
		w.reopen(-1)
		w.anyIndex(12)
		_, err = w.repo.MergeArchive(bg)
		require.NoError(t, err)
		require.LessOrEqual(t, len(w.names(folderArchive)), 8, "killed at %d", n)
		w.restoresAll()
	}
	require.Greater(t, points, 2)
}

// Two merges and a prune at once never delete an entry that counts.
func TestMergesAndPrunesAtOnceLoseNothing(t *testing.T) {
	origin := shipped(t, 132, 12)
	for at := 0; at < 12; at += everyPoint(4) {
		w := origin.sharedBy(-1)
		other := w.repo
		n := 0
		var err error
		w.repo, err = Open(bg, &deleting{Store: &pausing{Store: w.disk, before: func(string) {}}, before: func() {
			if n == at {
				w.repo = other
				for range 3 {
					w.write(1)
					ar, err := other.OpenArchive(bg, w.life())
					require.NoError(t, err)
					_, err = ar.Ship(bg, w.s.Log(), w.s.AppliedIndex())
					require.NoError(t, err)
					w.ar = ar
				}
				_, err := other.MergeArchive(bg)
				require.NoError(t, err)
				w.backup(Incremental)
				_, err = other.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
				require.NoError(t, err)
			}
			n++
		}}, w.options())
		require.NoError(t, err)
		_, err = w.repo.MergeArchive(bg)
		require.NoError(t, err)
		w.repo = other
		w.anyIndex(11)
	}
}

// deleting runs a function before every deletion.
type deleting struct {
	store.Store
	before func()
}

func (d *deleting) Delete(ctx context.Context, name string) error {
	d.before()
	return d.Store.Delete(ctx, name)
}
