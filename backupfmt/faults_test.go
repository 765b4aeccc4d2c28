package backupfmt

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// operation is something that changes a repository and may be killed while it does.
type operation struct {
	name string
	step int // of the thinned enumeration
	run  func(w *world) error
}

func operations() []operation {
	backup := func(kind string) func(w *world) error {
		return func(w *world) error { _, err := w.tryBackup(kind); return err }
	}
	return []operation{
		{"full", 2, backup(Full)},
		{"incremental", 1, backup(Incremental)},
		{"prune", 2, func(w *world) error { _, err := w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}}); return err }},
		{"consolidate", 2, func(w *world) error { _, err := w.repo.Consolidate(bg, 2, nil); return err }},
		{"archive", 1, func(w *world) error {
			var err error
			if w.ar, err = w.repo.OpenArchive(bg, w.life()); err != nil {
				return err
			}
			// In three pieces, as it is shipped second by second.
			for _, back := range []uint64{4, 2, 0} {
				if _, err := w.ar.Ship(bg, w.s.Log(), w.s.AppliedIndex()-back); err != nil {
					return err
				}
			}
			return nil
		}},
		{"rotate", 1, func(w *world) error { return w.repo.Rotate(bg) }},
	}
}

// sharedBy opens a copy of the repository of a world, on a store that dies after n changes; n < 0: never.
func (w *world) sharedBy(n int) *world {
	w.t.Helper()
	c := *w
	c.disk = w.copyOf()
	c.reopen(n)
	return &c
}

func (w *world) reopen(n int) {
	w.t.Helper()
	st := w.disk
	if n >= 0 {
		st = newFaulty(st, n)
	}
	var err error
	w.repo, err = Open(bg, st, w.options())
	require.NoError(w.t, err)
}

// whole: no damage, and every backup and the newest state restore to what was recorded; nothing that was acknowledged is missing.
func (w *world) whole(acked uint64) {
	w.t.Helper()
	c, err := w.repo.Chain(bg)
	require.NoError(w.t, err)
	require.NotEmpty(w.t, c.Backups(""))
	for _, l := range c.Backups("") {
		w.restore(Target{Seq: l.Seq})
	}
	rep := w.restore(Target{})
	require.GreaterOrEqual(w.t, rep.Index, acked)
	v, err := w.repo.Verify(bg, VerifyOptions{ReadData: true, NoLedger: true})
	require.NoError(w.t, err)
	require.False(w.t, v.Lost(), "%+v", v.Damage)
}

// TestEveryOperationMayBeKilledAnywhere kills each operation at every change it makes to the store (thinned; ERLMCP_TEST_BACKUP_KILLS=all
// leaves no point out). After each: nothing is damaged, everything retained restores to the recorded state hash, nobody has to
// unlock anything, and the operation gets through when it is repeated.
func TestEveryOperationMayBeKilledAnywhere(t *testing.T) {
	origin := brief(t, 110)
	origin.write(5)
	total := 0
	for _, op := range operations() {
		points := 0
		for n := 0; ; n += everyPoint(op.step) {
			w := origin.sharedBy(n)
			err := op.run(w)
			if err == nil {
				break
			}
			require.ErrorIs(t, err, errKilled, "%s killed at change %d", op.name, n)
			points++
			acked := w.ar.Last()
			w.reopen(-1)
			w.whole(acked)
			require.NoError(t, op.run(w), "%s repeated after a kill at change %d", op.name, n)
			w.whole(w.ar.Last())
			require.Less(t, n, 200)
		}
		t.Logf("%s: %d points", op.name, points)
		require.NotZero(t, points, op.name)
		total += points
	}
	t.Logf("%d points in all", total)
}

// TestACopyMayBeKilledAnywhere: the target is no repository yet, or a sound one, at every moment, also while it is brought to what a prune left.
func TestACopyMayBeKilledAnywhere(t *testing.T) {
	w := brief(t, 111)
	old, err := store.CreateDir(vfs.NewMem(), "old")
	require.NoError(t, err)
	_, err = Copy(bg, w.disk, old, nil)
	require.NoError(t, err)
	w.write(3)
	w.backup(Full)
	w.write(2)
	w.ship()
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.NoError(t, err)
	points := 0
	for _, begun := range []bool{false, true} {
		for n := 0; ; n += everyPoint(3) {
			to, err := store.CreateDir(vfs.NewMem(), "copy")
			require.NoError(t, err)
			if begun {
				_, err := Copy(bg, old, to, nil)
				require.NoError(t, err)
			}
			_, err = Mirror(bg, w.disk, newFaulty(to, n), CopyOptions{Delete: true})
			if err == nil {
				break
			}
			require.ErrorIs(t, err, errKilled)
			points++
			c := *w
			c.disk = to
			if c.repo, err = Open(bg, to, w.options()); err == nil {
				c.whole(0)
			} else {
				require.ErrorIs(t, err, ErrNotRepo)
				require.False(t, begun)
			}
			_, err = Mirror(bg, w.disk, to, CopyOptions{Delete: true})
			require.NoError(t, err)
			require.Equal(t, tree(t, w.disk), tree(t, to), "byte by byte")
		}
	}
	t.Logf("%d points", points)
}

func TestAMirrorDeletesOnlyWhatTheSourcePruned(t *testing.T) {
	w := brief(t, 112)
	to, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(t, err)
	_, err = Copy(bg, w.disk, to, nil)
	require.NoError(t, err)
	was := tree(t, to)
	w.write(2)
	w.backup(Full)
	for range 2 { // the second removes the link of the first one
		_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
		require.NoError(t, err)
		_, err = w.repo.session(bg, "abandoned")
		require.NoError(t, err)
	}
	rep, err := Copy(bg, w.disk, to, nil)
	require.NoError(t, err)
	require.Zero(t, rep.Deleted)
	for name := range was {
		require.Contains(t, tree(t, to), name, "without Delete nothing goes")
	}
	rep, err = Mirror(bg, w.disk, to, CopyOptions{Delete: true})
	require.NoError(t, err)
	require.NotZero(t, rep.Deleted)
	want := tree(t, w.disk)
	for name := range want {
		if hasAnyPrefix(name, []string{folderSessions}) {
			delete(want, name)
		}
	}
	require.Equal(t, want, tree(t, to))

	// The other way round, or with a life of its own, a target is not touched.
	before := tree(t, w.disk)
	older, err := store.CreateDir(vfs.NewMem(), "older")
	require.NoError(t, err)
	for name, b := range was {
		require.NoError(t, older.Create(bg, name, b))
	}
	_, err = Mirror(bg, older, w.disk, CopyOptions{Delete: true})
	require.ErrorIs(t, err, ErrDiverged)
	require.Equal(t, before, tree(t, w.disk))
	forked := *w
	forked.disk = older
	forked.reopen(-1)
	for range 4 {
		w.write(1)
		forked.backup(Full)
	}
	before = tree(t, older)
	for range 4 {
		w.write(1)
		w.backup(Incremental)
	}
	_, err = Mirror(bg, w.disk, older, CopyOptions{Delete: true})
	require.ErrorIs(t, err, ErrDiverged)
	require.Equal(t, before, tree(t, older), "nothing was changed")
}

// A nonce belongs to one frame of one object, and the key to one object of one epoch: also after a rekey, interrupted and done again.
func TestNoKeyAndNonceMeetTwoPlaintexts(t *testing.T) {
	w := brief(t, 113)
	type place struct {
		epoch uint32
		id    object.ID
		kind  object.Kind
	}
	seen := map[place][]byte{}
	look := func() {
		for _, n := range w.names("") {
			b, _, err := w.disk.Get(bg, n)
			require.NoError(t, err)
			h, err := object.ParseHeader(b)
			if err != nil {
				continue
			}
			p := place{h.Epoch, h.ID, h.Kind}
			if was, ok := seen[p]; ok {
				require.Equal(t, was, b, "%s: the same key sealed two contents", n)
			}
			seen[p] = b
		}
	}
	look()
	for n := 4; ; n += 3 {
		_, err := ChangeMaster(bg, newFaulty(w.disk, n), w.rekeyOptions())
		look()
		if err == nil {
			break
		}
	}
	require.Greater(t, len(seen), 20)
}
