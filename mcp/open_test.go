package mcp_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

func TestOpenOwnsItsStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	r, err := mcp.Open(dir, mcp.Options{})
	require.NoError(t, err)
	_, err = r.Store().Update(t.Context(), func(tx *engine.Tx) error {
		return tx.Put("notes", []byte("k"), []byte("v"))
	})
	require.NoError(t, err)

	_, err = mcp.Open(dir, mcp.Options{})
	require.ErrorIs(t, err, engine.ErrInUse, "a directory belongs to one process")

	require.NoError(t, r.Close())
	require.NoError(t, r.Close(), "closing again does nothing")
	_, err = r.Store().Update(t.Context(), func(tx *engine.Tx) error { return nil })
	require.ErrorIs(t, err, engine.ErrClosed)

	r, err = mcp.Open(dir, mcp.Options{})
	require.NoError(t, err)
	require.NoError(t, r.Store().View(t.Context(), func(tx *engine.Tx) error {
		v, err := tx.Get("notes", []byte("k"))
		require.Equal(t, "v", string(v))
		return err
	}))
	require.NoError(t, r.Close())
}

func TestNewRuntimeLeavesTheStoreOpen(t *testing.T) {
	store, err := engine.Open(t.TempDir(), engine.Options{})
	require.NoError(t, err)
	r, err := mcp.NewRuntime(store, mcp.Options{})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, store.View(context.Background(), func(*engine.Tx) error { return nil }))
	require.NoError(t, store.Close())
}

func TestOpenWithBadOptionsTouchesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	_, err := mcp.Open(dir, mcp.Options{MaxSessions: -1})
	require.ErrorContains(t, err, "MaxSessions")
	require.NoDirExists(t, dir)
}
