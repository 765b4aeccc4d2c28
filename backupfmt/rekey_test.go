package backupfmt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

var newKeyFile = bytes.Repeat([]byte{0x3c}, keys.KeySize)

// everyPoint: ERLMCP_TEST_BACKUP_KILLS=all enumerates every operation; otherwise step of them are left out between two.
func everyPoint(step int) int {
	if os.Getenv("ERLMCP_TEST_BACKUP_KILLS") == "all" {
		return 1
	}
	return step
}

// brief makes a small repository with everything in it.
func brief(t *testing.T, seed uint64) *world {
	t.Helper()
	return small(t, seed, 300)
}

func small(t *testing.T, seed uint64, rows int) *world {
	t.Helper()
	w := newWorld(t, seed)
	w.fill(rows)
	w.backup(Full)
	w.write(5)
	w.ship()
	w.backup(Incremental)
	w.write(4)
	w.ship()
	w.backup(Full)
	w.write(3)
	w.ship()
	return w
}

func (w *world) rekeyOptions() RekeyOptions {
	return RekeyOptions{Options: w.options(), New: newKeyFile, KDF: keys.File, Label: "new"}
}

func (w *world) newOptions() Options {
	o := w.options()
	o.Secret = newKeyFile
	return o
}

// everythingRestores restores every backup and the newest state.
func (w *world) everythingRestores() {
	w.t.Helper()
	c, err := w.repo.Chain(bg)
	require.NoError(w.t, err)
	for _, l := range c.Backups("") {
		w.restore(Target{Seq: l.Seq})
	}
	w.restoresAll()
}

func (w *world) restoresAll() {
	w.t.Helper()
	rep := w.restore(Target{})
	require.Equal(w.t, w.ar.Last(), rep.Index, "everything that was acknowledged as archived comes back")
}

// onlyNewKeys: nothing in the tree is sealed with, or wraps, a key of an older generation.
func (w *world) onlyNewKeys() {
	w.t.Helper()
	require.NotZero(w.t, w.repo.first)
	for _, n := range w.names("") {
		b, _, err := w.disk.Get(bg, n)
		require.NoError(w.t, err)
		switch {
		case strings.HasPrefix(n, nameConfig), strings.HasPrefix(n, folderSessions), n == nameLedger:
		case strings.HasPrefix(n, folderKeys):
			s, err := keys.ParseSlot(b)
			require.NoError(w.t, err)
			require.Equal(w.t, w.repo.Generation(), s.Generation, n)
		case strings.HasPrefix(n, folderEpochs):
			e, err := keys.ParseEpoch(b)
			require.NoError(w.t, err)
			require.Equal(w.t, w.repo.Generation(), e.Generation, n)
			c, err := w.repo.master.OpenCarried(e)
			require.NoError(w.t, err)
			require.True(w.t, c == nil || len(c.Epochs) == 0, n)
		default:
			h, err := object.ParseHeader(b)
			require.NoError(w.t, err, n)
			require.GreaterOrEqual(w.t, h.Epoch, w.repo.first, n)
		}
	}
}

func TestARekeyLeavesNothingThatTheOldKeysOpenAndEverythingRestores(t *testing.T) {
	w := small(t, 100, 2000)
	_, err := w.repo.Drill(bg, func() DrillOptions { o, _ := w.drillOptions(); return o }())
	require.NoError(t, err)
	before, err := w.repo.Chain(bg)
	require.NoError(t, err)
	var told int64
	o := w.rekeyOptions()
	o.Progress = func(_ string, done, total int64) {
		require.LessOrEqual(t, done, total)
		told = done
	}
	rep, err := ChangeMaster(bg, w.disk, o)
	require.NoError(t, err)
	require.NotZero(t, told)
	require.NotEmpty(t, rep.Removed)
	_, err = Open(bg, w.disk, w.options())
	require.ErrorIs(t, err, ErrWrongKey)
	w.repo, err = Open(bg, w.disk, w.newOptions())
	require.NoError(t, err)
	require.False(t, w.repo.Rekeying())
	w.onlyNewKeys()
	w.everythingRestores()
	after, err := w.repo.Chain(bg)
	require.NoError(t, err)
	require.Len(t, after.Backups(""), len(before.Backups("")), "every backup is there under its number")
	proofs, err := w.repo.Proofs(bg)
	require.NoError(t, err)
	require.Len(t, proofs, 1)
	for _, data := range []bool{false, true} {
		v, err := w.repo.Verify(bg, VerifyOptions{ReadData: data})
		require.NoError(t, err)
		require.Empty(t, v.Damage)
		v, err = Scrub(bg, w.disk, VerifyOptions{ReadData: data})
		require.NoError(t, err)
		require.Empty(t, v.Damage)
	}
	// Life goes on: backups, log, retention, rotation, and the next rekey back to the first secret.
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	require.NoError(t, w.repo.Rotate(bg))
	w.write(4)
	w.ship()
	w.backup(Incremental)
	w.write(4)
	w.ship()
	l := w.backup(Full)
	require.Less(t, l.NewChunks, l.Chunks, "chunks keep their names over a rekey, so they are still shared")
	w.everythingRestores()
	back := w.rekeyOptions()
	back.Secret, back.New = newKeyFile, keyFile
	_, err = ChangeMaster(bg, w.disk, back)
	require.NoError(t, err)
	w.repo, err = Open(bg, w.disk, w.options())
	require.NoError(t, err)
	require.Equal(t, uint32(2), w.repo.Generation())
	w.onlyNewKeys()
	w.everythingRestores()
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.NoError(t, err)
	w.everythingRestores()
	v, err := w.repo.Verify(bg, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, v.Damage)
}

// TestARekeyKilledAtEveryOperationLosesNothing kills a rekey at each operation that changes the store. At every point the repository opens
// with one of the two secrets, everything that counts restores to the recorded state, and the same call carries the rekey on.
func TestARekeyKilledAtEveryOperationLosesNothing(t *testing.T) {
	origin := brief(t, 101)
	points := 0
	for n := 0; ; n += everyPoint(2) {
		w := *origin
		w.disk = origin.copyOf()
		_, err := ChangeMaster(bg, newFaulty(w.disk, n), w.rekeyOptions())
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errKilled, "point %d", n)
		points++
		o := w.newOptions()
		if w.repo, err = Open(bg, w.disk, o); err != nil {
			require.ErrorIs(t, err, ErrWrongKey, "point %d", n)
			w.repo, err = Open(bg, w.disk, w.options())
		}
		require.NoError(t, err, "point %d: neither the old nor the new key opens the repository", n)
		if n%5 == 0 {
			w.everythingRestores()
		} else {
			w.restoresAll()
		}
		v, err := w.repo.Verify(bg, VerifyOptions{ReadData: true})
		require.NoError(t, err)
		require.False(t, v.Lost(), "point %d: %+v", n, v.Damage) // at worst the second of two copies is not there yet
		_, err = ChangeMaster(bg, w.disk, w.rekeyOptions())
		require.NoError(t, err, "point %d: the second try", n)
		w.repo, err = Open(bg, w.disk, w.newOptions())
		require.NoError(t, err)
		w.onlyNewKeys()
		w.restoresAll()
		v, err = w.repo.Verify(bg, VerifyOptions{ReadData: true})
		require.NoError(t, err)
		require.Empty(t, v.Damage, "point %d", n)
		again, err := ChangeMaster(bg, w.disk, w.rekeyOptions())
		require.NoError(t, err)
		require.True(t, again.Nothing, "point %d", n)
		require.Less(t, n, 500)
	}
	t.Logf("%d points", points)
	require.Greater(t, points, 10)
}

// Whoever opened the repository before cannot add anything that the new keys do not open, at whatever moment he tries.
func TestAProcessWithTheOldKeysIsFencedByARekey(t *testing.T) {
	origin := brief(t, 102)
	total := 0
	counted := &pausing{Store: origin.copyOf(), before: func(string) { total++ }}
	_, err := ChangeMaster(bg, counted, origin.rekeyOptions())
	require.NoError(t, err)
	for at := 0; at <= total; at += everyPoint(2) {
		w := *origin
		w.disk = origin.copyOf()
		w.repo, err = Open(bg, w.disk, w.options())
		require.NoError(t, err)
		w.ar, err = w.repo.OpenArchive(bg, w.life())
		require.NoError(t, err)
		var berr, serr error
		acked := w.ar.Last()
		attempt := func() {
			_, berr = w.tryBackup(Full)
			var last uint64
			if last, serr = w.ar.Ship(bg, w.s.Log(), w.s.AppliedIndex()); serr == nil {
				acked = last
			}
		}
		origin.write(2) // shared store
		n := 0
		_, err := ChangeMaster(bg, &pausing{Store: w.disk, before: func(string) {
			if n == at {
				attempt()
			}
			n++
		}}, w.rekeyOptions())
		require.NoError(t, err, "at %d", at)
		if n <= at {
			attempt()
			require.Error(t, berr)
			require.Error(t, serr)
		}
		for _, err := range []error{berr, serr} {
			require.True(t, err == nil || errors.Is(err, ErrRekeyed) || errors.Is(err, object.ErrNoKey), "at %d: %v", at, err)
		}
		w.repo, err = Open(bg, w.disk, w.newOptions())
		require.NoError(t, err)
		c, err := w.repo.Chain(bg)
		require.NoError(t, err)
		if berr == nil {
			require.Len(t, c.Backups(""), 4, "at %d: an acknowledged backup stays", at)
		}
		rep := w.restore(Target{})
		require.GreaterOrEqual(t, rep.Index, acked, "at %d", at)
		w.ar, err = w.repo.OpenArchive(bg, w.life())
		require.NoError(t, err)
		w.ship()
		w.restoresAll()
		v, err := w.repo.Verify(bg, VerifyOptions{ReadData: true})
		require.NoError(t, err)
		require.False(t, v.Lost() && len(v.Stray) == 0, "%+v", v.Damage)
	}
}

func TestTwoRekeysAtOnceMakeOneGeneration(t *testing.T) {
	w := brief(t, 103)
	other := w.rekeyOptions()
	other.New = bytes.Repeat([]byte{7}, keys.KeySize)
	fired := false
	_, err := ChangeMaster(bg, &pausing{Store: w.disk, before: func(name string) {
		if !fired && strings.HasPrefix(name, folderEpochs) {
			fired = true
			_, err := ChangeMaster(bg, w.disk, other)
			require.NoError(t, err)
		}
	}}, w.rekeyOptions())
	require.ErrorIs(t, err, ErrRekeyed)
	_, err = Open(bg, w.disk, w.newOptions())
	require.ErrorIs(t, err, ErrWrongKey)
	o := w.options()
	o.Secret = other.New
	w.repo, err = Open(bg, w.disk, o)
	require.NoError(t, err)
	require.Len(t, w.names(folderKeys), 2, "the slot of the one that came second is gone")
	w.onlyNewKeys()
	w.everythingRestores()
}

func TestARekeySaysWhichSlotsWouldGoAndNeedsEncryption(t *testing.T) {
	w := brief(t, 104)
	_, err := w.repo.AddSlot(bg, bytes.Repeat([]byte{3}, 32), keys.File, "deputy")
	require.NoError(t, err)
	before := tree(t, w.disk)
	_, err = ChangeMaster(bg, w.disk, w.rekeyOptions())
	require.ErrorIs(t, err, ErrInvalid)
	require.Equal(t, before, tree(t, w.disk), "nothing was changed")
	o := w.rekeyOptions()
	o.OtherSlots = true
	_, err = ChangeMaster(bg, w.disk, o)
	require.NoError(t, err)
	require.Len(t, w.names(folderKeys), 2)

	empty, err := store.CreateDir(vfs.NewMem(), "plain")
	require.NoError(t, err)
	_, err = Init(bg, empty, InitOptions{Options: Options{Plain: true}})
	require.NoError(t, err)
	o.Options = Options{Plain: true}
	_, err = ChangeMaster(bg, empty, o)
	require.ErrorIs(t, err, ErrNotEncrypted)
	o.New = nil
	_, err = ChangeMaster(bg, w.disk, o)
	require.ErrorIs(t, err, ErrInvalid)
}

func TestARekeyHealsWhatItCanAndKeepsTheOldKeysForWhatItCannot(t *testing.T) {
	w := brief(t, 105)
	packs := w.names(folderPacks)
	b, _, err := w.disk.Get(bg, packs[0])
	require.NoError(t, err)
	b[len(b)/3] ^= 1
	put(t, w.disk, packs[0], b)
	bad, _, err := w.disk.Get(bg, packs[1])
	require.NoError(t, err)
	good := bytes.Clone(bad)
	clear(bad[100 : len(bad)-200])
	put(t, w.disk, packs[1], bad)
	_, err = ChangeMaster(bg, w.disk, w.rekeyOptions())
	var d *DamageError
	require.ErrorAs(t, err, &d)
	require.Equal(t, packs[1], d.Object)
	put(t, w.disk, packs[1], good) // brought back from a copy
	rep, err := ChangeMaster(bg, w.disk, w.rekeyOptions())
	require.NoError(t, err)
	require.True(t, rep.Resumed)
	w.repo, err = Open(bg, w.disk, w.newOptions())
	require.NoError(t, err)
	w.onlyNewKeys()
	w.everythingRestores()
}

func TestACopyFollowsARekey(t *testing.T) {
	w := brief(t, 106)
	to, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(t, err)
	_, err = Copy(bg, w.disk, to, nil)
	require.NoError(t, err)
	_, err = ChangeMaster(bg, w.disk, w.rekeyOptions())
	require.NoError(t, err)
	for n := 0; ; n++ {
		require.Less(t, n, 100)
		if _, err := Copy(bg, w.disk, newFaulty(to, 4), nil); err == nil {
			break
		}
	}
	require.Equal(t, tree(t, w.disk), tree(t, to))
	rep, err := Copy(bg, w.disk, to, nil)
	require.NoError(t, err)
	require.Zero(t, rep.Copied)
}

func TestACancelledRekeyGoesOn(t *testing.T) {
	w := brief(t, 107)
	ctx, cancel := context.WithCancel(bg)
	o := w.rekeyOptions()
	o.Progress = func(string, int64, int64) { cancel() }
	_, err := ChangeMaster(ctx, w.disk, o)
	require.ErrorIs(t, err, context.Canceled)
	rep, err := ChangeMaster(bg, w.disk, w.rekeyOptions())
	require.NoError(t, err)
	require.True(t, rep.Resumed)
}
