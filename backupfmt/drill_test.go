package backupfmt

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/engine"
)

func (w *world) drillOptions() (DrillOptions, vfs.FS) {
	e := w.engineOptions()
	e.FS = vfs.NewMem()
	return DrillOptions{Scratch: "scratch", Engine: e}, e.FS
}

func TestADrillProvesThatTheBackupRestores(t *testing.T) {
	w := history(t, 80)
	o, fs := w.drillOptions()
	ran := false
	o.Checks = []DrillCheck{{Name: "rows are there", Run: func(ctx context.Context, s *engine.Store) error {
		ran = true
		return s.View(ctx, func(tx *engine.Tx) error { _, err := tx.Get("bulk", []byte("key-000007")); return err })
	}}}
	p, err := w.repo.Drill(bg, o)
	require.NoError(t, err)
	require.True(t, p.OK, "%+v", p)
	require.True(t, ran)
	require.Equal(t, w.s.AppliedIndex(), p.Index)
	require.NotZero(t, p.RTO)
	names, err := fs.List("")
	require.NoError(t, err)
	require.Empty(t, names, "scratch is removed")
	proofs, err := w.repo.Proofs(bg)
	require.NoError(t, err)
	require.Len(t, proofs, 1)
	require.Equal(t, p.StateHash, proofs[0].StateHash)
}

func TestAFailedDrillSaysWhyAndKeepsTheScratchStore(t *testing.T) {
	w := history(t, 81)
	o, fs := w.drillOptions()
	o.Checks = []DrillCheck{{Name: "balance", Run: func(context.Context, *engine.Store) error { return errors.New("books do not balance") }}}
	p, err := w.repo.Drill(bg, o)
	require.NoError(t, err)
	require.False(t, p.OK)
	require.Equal(t, "books do not balance", p.Checks[1].Message)
	require.Equal(t, "scratch", p.Scratch)
	_, err = fs.Stat("scratch")
	require.NoError(t, err)
}

func TestADamagedBackupNeverGetsAProof(t *testing.T) {
	w := history(t, 82)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	newest := c.Links[len(c.Links)-1]
	for _, ref := range append(append([]Ref{}, newest.Packs...), newest.Lists...) {
		st := w.copyOf()
		b, _, err := st.Get(bg, ref.Name)
		require.NoError(t, err)
		clear(b[len(b)/8 : len(b)*7/8])
		put(t, st, ref.Name, b)
		r, err := Open(bg, st, w.options())
		require.NoError(t, err)
		o, _ := w.drillOptions()
		p, err := r.Drill(bg, o)
		require.NoError(t, err)
		require.False(t, p.OK, ref.Name)
		require.NotEmpty(t, p.Error)
		proofs, err := r.Proofs(bg)
		require.NoError(t, err)
		require.False(t, proofs[0].OK)
	}
}

func TestAFullBackupSharesNothingWithOneThatLostObjects(t *testing.T) {
	w := history(t, 83)
	c, err := w.repo.Chain(bg)
	require.NoError(t, err)
	require.NoError(t, w.repo.Store().Delete(bg, lastFull(c).Packs[0].Name))
	for _, fresh := range []bool{false, true} {
		src, err := EngineSource(w.s, object.ID{})
		require.NoError(t, err)
		l, err := w.repo.Backup(bg, src, BackupOptions{Type: Full, Fresh: fresh})
		require.NoError(t, err)
		require.NoError(t, src.Close())
		require.Equal(t, l.Chunks, l.NewChunks, "everything is stored again")
		o, _ := w.drillOptions()
		o.Target = Target{Seq: l.Seq}
		p, err := w.repo.Drill(bg, o)
		require.NoError(t, err)
		require.True(t, p.OK, "%+v", p)
		// The next one may share again: what it shares is whole.
	}
}
