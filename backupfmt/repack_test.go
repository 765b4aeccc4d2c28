package backupfmt

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
)

// churn writes rows of the table "noise" anew, chosen at random.
func (w *world) churn(rows, of int) {
	w.t.Helper()
	for at := 0; at < rows; at += 100 {
		_, err := w.s.Update(bg, func(tx *engine.Tx) error {
			for range min(100, rows-at) {
				v := make([]byte, 0, 904)
				for len(v) < 900 {
					v = binary.LittleEndian.AppendUint64(v, w.rng.Uint64())
				}
				if err := tx.Put("noise", fmt.Appendf(nil, "key-%06d", w.rng.IntN(of)), v); err != nil {
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

// worn makes a repository whose packs are mostly unused once the older full backups are gone.
func worn(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(t, seed)
	w.noise(500)
	w.backup(Full)
	for range 4 { // a third of the chunks each, about
		w.churn(16, 500)
		w.ship()
		w.backup(Full)
	}
	w.write(5)
	w.ship()
	w.backup(Incremental)
	w.write(3)
	w.ship()
	return w
}

// tight is a prune that leaves next to nothing unused.
var tight = PruneOptions{Policy: Policy{Last: 2}, MaxUnused: 0.01}

func (w *world) packBytes() (n int64) {
	w.t.Helper()
	require.NoError(w.t, w.disk.List(bg, folderPacks, func(i store.Info) error { n += i.Size; return nil }))
	return n
}

// tidy: nothing is damaged and nothing lies about.
func (w *world) tidy() {
	w.t.Helper()
	keyed, err := w.repo.Verify(bg, VerifyOptions{ReadData: true, NoLedger: true})
	require.NoError(w.t, err)
	keyless, err := Scrub(bg, w.disk, VerifyOptions{NoLedger: true})
	require.NoError(w.t, err)
	for _, v := range []*VerifyReport{keyed, keyless} {
		require.Empty(w.t, v.Damage)
		require.Empty(w.t, v.Stray)
	}
}

func TestAPruneStoresPacksAnewThatAreMostlyUnused(t *testing.T) {
	w := worn(t, 500)
	probe := w.sharedBy(-1)
	dry := tight
	dry.DryRun = true
	before := tree(t, probe.disk)
	planned, err := probe.repo.Prune(bg, dry)
	require.NoError(t, err)
	require.Equal(t, before, tree(t, probe.disk), "a dry run changes nothing")
	require.NotZero(t, planned.Repack.Packs)
	require.Greater(t, planned.Repack.Unused, planned.Repack.Stored/10)

	lazy := tight
	lazy.NoRepack = true
	rep, err := probe.repo.Prune(bg, lazy)
	require.NoError(t, err)
	require.Zero(t, rep.Repack)
	left := probe.packBytes()
	require.Equal(t, planned.Repack.Stored, left)
	lazy.NoRepack, lazy.MaxUnused = false, 1
	rep, err = probe.repo.Prune(bg, lazy)
	require.NoError(t, err)
	require.Zero(t, rep.Repack.Packs)
	require.Equal(t, left, probe.packBytes())

	var told int64
	o := tight
	o.Progress = func(done, total int64) { told = done; require.Equal(t, planned.Repack.Read, total) }
	rep, err = w.repo.Prune(bg, o)
	require.NoError(t, err)
	require.Equal(t, planned.Repack.Packs, rep.Repack.Packs)
	require.Equal(t, planned.Repack.Read, told)
	require.InEpsilon(t, planned.Repack.Freed, rep.Repack.Freed, 0.2, "what was planned")
	require.Equal(t, left-rep.Repack.Freed, w.packBytes(), "what was freed")
	require.InEpsilon(t, left-planned.Repack.Unused, w.packBytes(), 0.1)
	require.Empty(t, w.names(folderSessions))
	w.restoresAll()
	w.tidy()
	// Whoever opens it now sees the same; and so does the next prune, which has nothing to move and says again where everything is.
	w.reopen(-1)
	w.restoresAll()
	rep, err = w.repo.Prune(bg, tight)
	require.NoError(t, err)
	require.Zero(t, rep.Repack.Packs)
	for range 2 {
		w.churn(25, 500)
		w.ship()
		w.backup(Full)
	}
	rep, err = w.repo.Prune(bg, tight)
	require.NoError(t, err)
	require.NotZero(t, rep.Repack.Packs, "%+v", rep)
	w.restoresAll()
	w.tidy()
	_, err = w.repo.Prune(bg, PruneOptions{MaxUnused: 1.5})
	require.ErrorIs(t, err, ErrInvalid)
}

// What was repacked can be repacked, copied, rekeyed, consolidated, spread, signed like anything else.
func TestWhatWasRepackedIsLikeAnythingElse(t *testing.T) {
	w := worn(t, 501)
	_, err := w.repo.Prune(bg, tight)
	require.NoError(t, err)
	w.churn(25, 500)
	w.ship()
	l := w.backup(Full)
	require.Less(t, l.NewChunks, l.Chunks, "it shares repacked chunks")
	w.churn(20, 500)
	w.ship()
	w.backup(Incremental)
	w.tidy()
	to, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(t, err)
	_, err = Mirror(bg, w.disk, to, CopyOptions{Delete: true})
	require.NoError(t, err)
	_, err = ChangeMaster(bg, w.disk, w.rekeyOptions())
	require.NoError(t, err)
	w.repo, err = Open(bg, w.disk, w.newOptions())
	require.NoError(t, err)
	w.onlyNewKeys()
	w.everythingRestores()
	w.tidy()
	w.churn(30, 500)
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	w.ship()
	w.backup(Full)
	_, err = Mirror(bg, w.disk, to, CopyOptions{Delete: true})
	require.NoError(t, err)
	o := tight
	o.Policy.Last = 1
	rep, err := w.repo.Prune(bg, o)
	require.NoError(t, err)
	require.NotZero(t, rep.Repack.Packs, "also packs that a rekey sealed anew")
	w.everythingRestores()
	w.tidy()
	_, err = Mirror(bg, w.disk, to, CopyOptions{Delete: true})
	require.NoError(t, err)
	require.Equal(t, tree(t, w.disk), tree(t, to))
}

// Everything that is kept restores to the recorded state hash, whatever was written, backed up, pruned and moved in whatever order.
func TestRepackingKeepsEveryState(t *testing.T) {
	moved := 0
	for seed := range uint64(21 - everyPoint(20)) {
		w := newWorld(t, 510+seed)
		rng := rand.New(rand.NewPCG(seed, 77))
		w.noise(300)
		w.ship()
		w.backup(Full)
		for range 26 - everyPoint(12) {
			switch rng.IntN(6) {
			case 0, 1:
				w.churn(1+rng.IntN(150), 300)
				w.ship()
				w.backup(Full)
			case 2, 3:
				w.churn(1+rng.IntN(30), 300)
				w.ship()
				w.backup(Auto)
			case 4:
				_, err := w.repo.Consolidate(bg, 0, nil)
				require.NoError(t, err)
			case 5:
				rep, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1 + rng.IntN(4)}, MaxUnused: []float64{-1, 0, 0.02, 0.3}[rng.IntN(4)]})
				require.NoError(t, err)
				moved += rep.Repack.Packs
				w.restoresAll()
				w.tidy()
			}
		}
		w.restoresAll()
	}
	require.NotZero(t, moved)
}

// TestARepackMayBeKilledAnywhere: also of a signed repository, and of one whose packs are spread.
func TestARepackMayBeKilledAnywhere(t *testing.T) {
	for _, form := range []string{"plain", "signed"} {
		origin := worn(t, 520)
		if form == "signed" {
			one := signer(t, 1)
			_, err := origin.as(one).BeginSigning(bg)
			require.NoError(t, err)
			origin.become(origin.as(one))
			for range 3 {
				origin.churn(40, 500)
				origin.ship()
				origin.backup(Full)
			}
			_, err = origin.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 3}, NoRepack: true}) // nothing is left that is not signed
			require.NoError(t, err)
		}
		signed := func(w *world, n int) {
			st := w.disk
			if n >= 0 {
				st = newFaulty(st, n)
			}
			o := w.options()
			if form == "signed" {
				o.Signer = signer(t, 1)
			}
			var err error
			w.repo, err = Open(bg, st, o)
			require.NoError(t, err)
		}
		points := 0
		for n := 0; ; n += everyPoint(40) {
			w := origin.sharedBy(-1)
			signed(w, n)
			_, err := w.repo.Prune(bg, tight)
			if err == nil {
				break
			}
			require.ErrorIs(t, err, errKilled)
			points++
			signed(w, -1)
			w.whole(w.ar.Last())
			for range 3 { // the session that was killed is given up by the second
				_, err = w.repo.Prune(bg, tight)
				require.NoError(t, err)
			}
			require.Empty(t, w.names(folderSessions), "killed at change %d", n)
			w.whole(w.ar.Last())
			w.tidy()
			require.Less(t, n, 500)
		}
		t.Logf("%s: %d points", form, points)
		require.NotZero(t, points)
	}
}

// beside runs something once, just before the object of that name is stored.
func (w *world) beside(prefix string, fn func()) *Repo {
	w.t.Helper()
	var fired atomic.Bool // two objects are stored at a time
	r, err := Open(bg, &pausing{Store: w.disk, before: func(name string) {
		if strings.HasPrefix(name, prefix) && fired.CompareAndSwap(false, true) {
			fn()
		}
	}}, w.options())
	require.NoError(w.t, err)
	return r
}

// A backup that is made while packs are moved is either given lists of its own, or fenced; never does it count without its data.
func TestABackupBesideARepackIsWholeOrFenced(t *testing.T) {
	for i, when := range []string{folderPacks, folderLists, folderManifest} {
		for j, kind := range []string{Full, Incremental} {
			if (2*i+j)%everyPoint(6) != everyPoint(6)-1 {
				continue
			}
			w := worn(t, 530)
			w.churn(10, 500)
			w.ship()
			w.churn(10, 500)
			good := w.repo
			w.repo = w.beside(when, func() {
				again := w.repo
				w.repo = good
				w.ship()
				w.backup(kind)
				w.repo = again
			})
			rep, err := w.repo.Prune(bg, tight)
			require.NoError(t, err)
			require.NotZero(t, rep.Repack.Packs, "%s, before %s", kind, when)
			w.repo = good
			w.restoresAll()
			w.tidy()
			require.Empty(t, w.names(folderSessions))
		}
	}
	// The other way round: packs that it shares are moved while it is made.
	for i, when := range []string{folderPacks, folderManifest} {
		if i%everyPoint(2) != 0 {
			continue
		}
		w := worn(t, 531)
		w.churn(30, 500)
		w.ship()
		good := w.repo
		w.repo = w.beside(when, func() {
			open, err := good.Prune(bg, tight)
			require.NoError(t, err)
			require.True(t, open.Repack.Postponed, "a backup is running")
			o := tight
			o.AbortAll = true
			rep, err := good.Prune(bg, o)
			require.NoError(t, err)
			require.NotZero(t, rep.Repack.Packs)
		})
		_, err := w.tryBackup(Full)
		require.ErrorIs(t, err, ErrFenced)
		w.repo = good
		w.restoresAll()
		w.backup(Full)
		w.restoresAll()
	}
}

// The fence asks for the packs themselves: a backup that began after the prune had looked for sessions is not in anybody's list.
func TestABackupThatSharesAPackWhichWasMovedIsFenced(t *testing.T) {
	w := worn(t, 532)
	w.churn(30, 500)
	w.ship()
	good := w.repo
	var late error
	ran := false
	// The backup starts when the prune has already copied, and commits when that has committed.
	pruner := w.beside(folderLists, func() {
		w.repo = w.beside(folderManifest, func() { // its own link: let the prune go first
			again := w.repo
			w.repo = good
			o := tight
			o.AbortAll = true
			_, err := good.Prune(bg, PruneOptions{Policy: Policy{Last: 2}, NoRepack: true})
			require.NoError(t, err)
			w.repo = again
		})
		_, late = w.tryBackup(Full)
		ran = true
	})
	_, err := pruner.Prune(bg, tight)
	require.NoError(t, err)
	require.True(t, ran)
	require.NoError(t, late, "that prune moved nothing that it shares")
	w.repo = good
	w.restoresAll()
	w.tidy()
}

func TestTwoRepacksAtOnceHarmNothing(t *testing.T) {
	for i, when := range []string{folderPacks, folderLists, folderManifest} {
		for j, all := range []bool{false, true} {
			if (2*i+j)%everyPoint(6) != everyPoint(6)-1 {
				continue
			}
			w := worn(t, 533)
			good := w.repo
			r := w.beside(when, func() {
				o := tight
				o.AbortAll = all
				_, err := good.Prune(bg, o)
				require.NoError(t, err)
			})
			_, err := r.Prune(bg, tight)
			require.NoError(t, err)
			for range 3 {
				_, err = good.Prune(bg, tight)
				require.NoError(t, err)
			}
			require.Empty(t, w.names(folderSessions))
			w.restoresAll()
			w.tidy()
		}
	}
}

func TestARepackLeavesDamagedPacksAlone(t *testing.T) {
	w := worn(t, 534)
	for range 6 {
		w.churn(12, 500)
		w.ship()
		w.backup(Full)
	}
	all := PruneOptions{Policy: Policy{Last: 4}, MaxUnused: -1}
	dry := all
	dry.DryRun = true
	rep, err := w.repo.Prune(bg, dry)
	require.NoError(t, err)
	u, err := w.repo.usage(bg, rep.Kept)
	require.NoError(t, err)
	chosen := u.choose(0, maxMoved)
	require.Greater(t, len(chosen), 1)
	bad := chosen[0].ref.Name
	b, _, err := w.disk.Get(bg, bad)
	require.NoError(t, err)
	clear(b[80 : len(b)*6/10]) // its directory is at the end
	put(t, w.disk, bad, b)
	rep, err = w.repo.Prune(bg, all)
	require.NoError(t, err)
	require.Contains(t, w.names(folderPacks), bad, "it may still be brought back from a copy")
	v, err := w.repo.Verify(bg, VerifyOptions{ReadData: true, NoLedger: true})
	require.NoError(t, err)
	require.True(t, v.Lost())
	for _, d := range v.Damage {
		require.Equal(t, bad, d.Object)
	}
	require.NotZero(t, rep.Repack.Packs, "the others")
	require.Equal(t, 1, rep.Repack.Left)
}

// reading runs a function before the n-th read of a pack.
type reading struct {
	store.Store
	at     int
	before func()
}

func (r *reading) GetRange(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if strings.HasPrefix(name, folderPacks) {
		if r.at--; r.at == 0 {
			r.before()
		}
	}
	return r.Store.GetRange(ctx, name, off, n)
}

// A restore and a verification that run while packs are moved, and pieces of the log merged, find what they need where it is now.
func TestARestoreAndAVerificationGoOnWhilePacksAreMoved(t *testing.T) {
	w := worn(t, 540)
	for range 12 {
		w.write(1)
		w.ship()
	}
	good := w.repo
	for _, at := range []int{1, 4}[:3-everyPoint(2)] {
		c := *w
		c.disk = w.copyOf()
		pruner, err := Open(bg, c.disk, c.options())
		require.NoError(t, err)
		fired := false
		o := c.options()
		o.Workers = 1
		c.repo, err = Open(bg, &reading{Store: c.disk, at: at, before: func() {
			fired = true
			rep, err := pruner.Prune(bg, tight)
			require.NoError(t, err)
			require.NotZero(t, rep.Repack.Packs)
			require.NotZero(t, rep.Merged.Into)
		}}, o)
		require.NoError(t, err)
		c.restore(Target{})
		require.True(t, fired)

		c.disk = w.copyOf()
		pruner, err = Open(bg, c.disk, c.options())
		require.NoError(t, err)
		fired = false
		c.repo, err = Open(bg, c.disk, c.options())
		require.NoError(t, err)
		rep, err := c.repo.Verify(bg, VerifyOptions{ReadData: true, NoLedger: true, Progress: func(string, int64, int64) {
			if !fired {
				fired = true
				_, err := pruner.Prune(bg, tight)
				require.NoError(t, err)
			}
		}})
		require.NoError(t, err)
		require.True(t, fired)
		for _, d := range rep.Damage {
			require.True(t, strings.HasPrefix(d.Object, folderArchive), "%+v", d)
		}
	}
	w.repo = good
}
