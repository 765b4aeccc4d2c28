package backupfmt

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
)

// sending counts the bytes of packs that are stored, and dies when a limit is reached.
type sending struct {
	store.Store
	sent  atomic.Int64
	limit int64 // 0: none
}

func (s *sending) Create(ctx context.Context, name string, b []byte) error {
	if strings.HasPrefix(name, folderPacks) {
		if n := s.sent.Add(int64(len(b))); s.limit > 0 && n > s.limit {
			return errKilled
		}
	}
	return s.Store.Create(ctx, name, b)
}

// through lets a world use its repository through a store that counts.
func (w *world) through(limit int64) *sending {
	w.t.Helper()
	s := &sending{Store: w.disk, limit: limit}
	var err error
	w.repo, err = Open(bg, s, w.options())
	require.NoError(w.t, err)
	return s
}

// noise makes rows of 1 KiB that do not compress: much to store in few rows.
func (w *world) noise(rows int) {
	w.t.Helper()
	for at := 0; at < rows; at += 100 {
		_, err := w.s.Update(bg, func(tx *engine.Tx) error {
			for i := at; i < at+100; i++ {
				v := make([]byte, 0, 1024)
				for len(v) < 1024 {
					v = binary.LittleEndian.AppendUint64(v, w.rng.Uint64())
				}
				if err := tx.Put("noise", fmt.Appendf(nil, "key-%06d", i), v); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(w.t, err)
	}
	index, hash := w.s.StateHash()
	w.hash[index] = hash
}

func TestAnInterruptedFullBackupGoesOnWithWhatItHadStored(t *testing.T) {
	w := newWorld(t, 120)
	w.noise(6000)
	probe := w.sharedBy(-1)
	whole := probe.through(0)
	probe.backup(Full)
	require.Greater(t, len(probe.names(folderPacks)), 9)

	w.through(whole.sent.Load() * 8 / 10)
	_, err := w.tryBackup(Full)
	require.ErrorIs(t, err, errKilled)
	stored := len(w.names(folderPacks))
	w.write(3) // the world goes on meanwhile
	second := w.through(0)
	l := w.backup(Full)
	t.Logf("whole %d bytes, sent again %d", whole.sent.Load(), second.sent.Load())
	require.LessOrEqual(t, second.sent.Load(), whole.sent.Load()/4)
	require.Equal(t, uint64(second.sent.Load()), l.NewBytes-listBytes(l))
	// The old session is given up by and by, and what the backup uses of it stays.
	for range 3 {
		_, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
		require.NoError(t, err)
	}
	require.Empty(t, w.names(folderSessions))
	require.GreaterOrEqual(t, len(w.names(folderPacks)), stored)
	w.restore(Target{})
	rep, err := w.repo.Verify(bg, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
	require.Empty(t, rep.Stray)
}

func listBytes(l *Link) (n uint64) {
	for _, ref := range l.Lists {
		n += uint64(ref.Size)
	}
	return n
}

// A prune that gives the interrupted session up while a backup goes on with its packs fences that backup: it must not count without them.
func TestABackupThatGoesOnIsFencedWhenAPruneTookWhatItUses(t *testing.T) {
	w := newWorld(t, 121)
	w.noise(2000)
	probe := w.sharedBy(-1)
	whole := probe.through(0)
	probe.backup(Full)
	w.through(whole.sent.Load() * 7 / 10)
	_, err := w.tryBackup(Full)
	require.ErrorIs(t, err, errKilled)
	require.NotEmpty(t, w.names(folderPacks))
	old := strings.TrimPrefix(w.names(folderSessions)[0], folderSessions)
	pruner, err := Open(bg, w.disk, w.options())
	require.NoError(t, err)
	w.repo, err = Open(bg, &pausing{Store: w.disk, before: func(name string) {
		if name != manifestName(1) {
			return
		}
		c, err := pruner.Chain(bg)
		require.NoError(t, err)
		_, err = pruner.commit(bg, c, Inventory{Kind: Prune, Aborted: []string{old}}, Details{}, func(*Link) error { return errStale })
		require.NoError(t, err)
	}}, w.options())
	require.NoError(t, err)
	_, err = w.tryBackup(Full)
	require.ErrorIs(t, err, ErrFenced)
	// From then on nobody uses the packs of the session that was given up, even while they are still there.
	w.repo = pruner
	l := w.backup(Full)
	for _, ref := range l.Packs {
		require.NotEqual(t, old, sessionOf(ref.Name))
	}
	w.restore(Target{})
	for range 3 {
		_, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
		require.NoError(t, err)
	}
	require.Empty(t, w.names(folderPacks+old+"/"))
	w.restore(Target{})
}
