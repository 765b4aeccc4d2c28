package backupfmt

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// put back: every object as it was, nothing else.
func (w *world) putBack(was map[string][]byte) {
	w.t.Helper()
	var err error
	w.disk, err = store.CreateDir(vfs.NewMem(), "old")
	require.NoError(w.t, err)
	for name, b := range was {
		require.NoError(w.t, w.disk.Create(bg, name, b))
	}
	w.repo, err = Open(bg, w.disk, w.options())
	require.NoError(w.t, err)
}

// rolledBack: everything that reads or writes the chain refuses.
func (w *world) rolledBack(m Mark) {
	w.t.Helper()
	before := tree(w.t, w.disk)
	w.reopen(-1)
	w.repo.Expect(m)
	_, err := w.repo.Plan(bg, Target{})
	require.ErrorIs(w.t, err, ErrRolledBack)
	_, err = w.tryBackup(Auto)
	require.ErrorIs(w.t, err, ErrRolledBack)
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.ErrorIs(w.t, err, ErrRolledBack)
	_, err = w.repo.Consolidate(bg, 0, nil)
	require.ErrorIs(w.t, err, ErrRolledBack)
	keyless, err := OpenKeyless(bg, w.disk, nil)
	require.NoError(w.t, err)
	keyless.Expect(m)
	for _, r := range []*Repo{w.repo, keyless} {
		v, err := r.Verify(bg, VerifyOptions{NoLedger: true})
		require.NoError(w.t, err)
		require.True(w.t, v.Lost())
		require.Equal(w.t, "rolled-back", v.Damage[0].Kind)
	}
	require.Equal(w.t, before, tree(w.t, w.disk), "nothing was changed")
}

func TestARepositoryThatWasPutBackIsRefusedByWhoRemembers(t *testing.T) {
	w := brief(t, 700)
	old := tree(t, w.disk)
	w.write(3)
	w.backup(Incremental)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	m := c.Mark()
	require.Equal(t, w.repo.Seen(), m)
	good := tree(t, w.disk)
	for _, mark := range []Mark{m, {Seq: m.Seq}, {Seq: m.Seq, Digest: m.Digest[:8]}} {
		w.putBack(old)
		w.rolledBack(mark)
		w.putBack(good)
		w.repo.Expect(mark)
		w.restore(Target{})
	}
	// The open repository of a long-lived process remembers by itself.
	w.putBack(good)
	w.restore(Target{})
	for name := range tree(t, w.disk) {
		if b, ok := old[name]; ok {
			put(t, w.disk, name, b)
		} else {
			require.NoError(t, w.disk.Delete(bg, name))
		}
	}
	_, err = w.tryBackup(Full)
	require.ErrorIs(t, err, ErrRolledBack)
	// Somebody without a memory goes on: the number is as high as it was, but the link is another one, or its successor follows another.
	w.putBack(old)
	w.write(1)
	w.backup(Incremental)
	w.rolledBack(m)
	w.write(1)
	w.repo.Forget()
	w.backup(Full)
	w.rolledBack(m)
	w.repo.Forget()
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 2}})
	require.NoError(t, err)
	w.rolledBack(m)
	// It was meant.
	w.repo.Forget()
	w.restore(Target{})
	w.backup(Auto)
}

func TestMarksAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]Mark{
		"7": {Seq: 7}, "412:9c56ab0de1f2a7b8": {Seq: 412, Digest: "9c56ab0de1f2a7b8"},
	} {
		m, err := ParseMark(text)
		require.NoError(t, err)
		require.Equal(t, want, m)
		require.Equal(t, text, m.String())
	}
	for _, text := range []string{"", "0", "x", "-1", "7:", "7:abc", "7:zzzzzzzz", "7:ABCDEF01"} {
		_, err := ParseMark(text)
		require.ErrorIs(t, err, ErrInvalid, text)
	}
}
