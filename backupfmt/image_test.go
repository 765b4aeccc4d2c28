package backupfmt

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
)

func TestASnapshotInstallsTheStateItWasTakenOf(t *testing.T) {
	w := newWorld(t, 90)
	w.fill(3000)
	w.write(100)
	src, err := EngineSource(w.s, object.ID{})
	require.NoError(t, err)
	defer src.Close()
	src.SetMembership([]byte("three nodes"))
	index, hash := w.s.StateHash()
	w.write(10)
	var b bytes.Buffer
	f, err := WriteSnapshot(bg, &b, src, [32]byte{1})
	require.NoError(t, err)
	require.Equal(t, hash, f.StateHash)

	o := w.engineOptions()
	o.FS = vfs.NewMem()
	o.Key = bytes.Repeat([]byte{1}, 32)
	h, err := InstallSnapshot(bg, bytes.NewReader(b.Bytes()), "follower", o)
	require.NoError(t, err)
	require.Equal(t, "three nodes", string(h.Membership))
	s, err := engine.Open("follower", o)
	require.NoError(t, err)
	gotIndex, gotHash := s.StateHash()
	require.Equal(t, index, gotIndex)
	require.Equal(t, hash, gotHash)
	e, err := s.Log().Get(index)
	require.NoError(t, err)
	require.Equal(t, engine.EntryBase, e.Type)
	require.NoError(t, s.Close())

	// Damage anywhere leaves nothing that opens.
	for _, at := range []int{50, b.Len() / 2, b.Len() - 200} {
		bad := bytes.Clone(b.Bytes())
		bad[at] ^= 1
		o.FS = vfs.NewMem()
		_, err := InstallSnapshot(bg, bytes.NewReader(bad), "follower", o)
		require.ErrorIs(t, err, snapshot.ErrCorrupt)
		names, lerr := o.FS.List("follower")
		if lerr == nil {
			require.NotContains(t, names, "FORMAT")
		}
	}
}

// The state hash of package snapshot and the engine's are one.
func TestStateHashesAgree(t *testing.T) {
	w := newWorld(t, 91)
	_, err := w.s.Update(bg, func(tx *engine.Tx) error { return tx.Put("big", []byte("k"), make([]byte, 100<<10)) })
	require.NoError(t, err)
	w.write(50)
	src, err := EngineSource(w.s, object.ID{})
	require.NoError(t, err)
	defer src.Close()
	var h snapshot.StateHash
	require.NoError(t, src.Rows(bg, func(e *snapshot.Entry) error { h.Add(e); return nil }))
	require.Equal(t, src.State().Hash, h.Sum())
}

func TestConsolidationNeedsNoStoreAndKeepsTheState(t *testing.T) {
	w := newWorld(t, 92)
	w.fill(15000)
	w.backup(Full)
	var last *Link
	for range 4 {
		w.write(15)
		last = w.backup(Incremental)
	}
	l, err := w.repo.Consolidate(bg, 0, nil)
	require.NoError(t, err)
	require.Equal(t, Full, l.Kind)
	require.Equal(t, last.Index, l.Index)
	require.Equal(t, last.StateHash, l.StateHash)
	again, err := w.repo.Consolidate(bg, 0, nil)
	require.NoError(t, err)
	require.Equal(t, l.Seq, again.Seq)
	w.write(5)
	next := w.backup(Incremental)
	require.Equal(t, l.Seq, next.Base, "the chain is short again")
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.NoError(t, err)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	require.Len(t, c.Backups(""), 2)
	w.restore(Target{Seq: l.Seq})
	w.restore(Target{})
	rep, err := w.repo.Verify(bg, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
}
