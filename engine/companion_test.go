package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// along returns a context whose first change takes the row along/key with it.
func along(s *Store, key string) (context.Context, *Companion) {
	return s.WithCompanion(bg, func(tx *Tx) error { return tx.Put("along", []byte(key), []byte("companion")) })
}

func change(t *testing.T, s *Store, ctx context.Context, key string, opts ...TxOption) Result {
	t.Helper()
	res, err := s.Update(ctx, func(tx *Tx) error { return tx.Put("t", []byte(key), []byte("v")) }, opts...)
	require.NoError(t, err)
	return res
}

func TestCompanionCommitsWithTheFirstChange(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, small(fs))
	ctx, c := along(s, "a")
	_, err := s.Update(ctx, func(tx *Tx) error { _, err := tx.Get("t", []byte("x")); _ = err; return nil })
	require.NoError(t, err)
	require.Empty(t, scanKeys(t, s, "along", Range{}), "a transaction without a change takes nothing along")

	boom := errors.New("boom")
	_, err = s.Update(ctx, func(tx *Tx) error { return errors.Join(tx.Put("t", []byte("x"), nil), boom) })
	require.ErrorIs(t, err, boom)
	require.False(t, c.tried.Load())

	first := change(t, s, ctx, "x")
	second := change(t, s, ctx, "y")
	require.Greater(t, second.Index, first.Index)
	require.NoError(t, s.View(bg, func(tx *Tx) error {
		_, mod, err := tx.GetVersion("along", []byte("a"))
		require.Equal(t, first.Index, mod, "in the same entry of the log, and once")
		return err
	}))
	require.True(t, c.Close())

	s = open(t, small(fs.CrashClone(vfs.CrashCloneCfg{})))
	require.Equal(t, []string{"a"}, scanKeys(t, s, "along", Range{}), "after a crash it is where the change is")
	require.Equal(t, []string{"x", "y"}, scanKeys(t, s, "t", Range{}))
}

func TestCompanionStaysBehind(t *testing.T) {
	s, other := open(t, small(vfs.NewCrashableMem())), open(t, small(vfs.NewCrashableMem()))
	ctx, c := along(s, "a")
	change(t, other, ctx, "x") // another store
	change(t, s, WithoutCompanion(ctx), "x")
	require.False(t, c.Close())
	change(t, s, ctx, "late") // closed
	require.Empty(t, scanKeys(t, s, "along", Range{}))
	require.Empty(t, scanKeys(t, other, "along", Range{}))
	require.Equal(t, bg, WithoutCompanion(bg))
}

func TestCompanionOfARepetitionWaitsForAChange(t *testing.T) {
	s := open(t, small(vfs.NewCrashableMem()))
	change(t, s, bg, "x", WithIdempotencyKey("k", nil))
	ctx, _ := along(s, "a")
	require.True(t, change(t, s, ctx, "x", WithIdempotencyKey("k", nil)).Duplicate)
	require.Empty(t, scanKeys(t, s, "along", Range{}), "nothing was changed")
	change(t, s, ctx, "y")
	require.Equal(t, []string{"a"}, scanKeys(t, s, "along", Range{}))
}

func TestCompanionThatFailsAbandonsTheChange(t *testing.T) {
	s := open(t, small(vfs.NewCrashableMem()))
	boom := errors.New("boom")
	ctx, _ := s.WithCompanion(bg, func(*Tx) error { return boom })
	_, err := s.Update(ctx, func(tx *Tx) error { return tx.Put("t", []byte("x"), nil) })
	require.ErrorIs(t, err, boom)
	require.Empty(t, scanKeys(t, s, "t", Range{}))
}

func TestCompanionSurvivesConflicts(t *testing.T) {
	s := open(t, small(vfs.NewCrashableMem()))
	ctx, _ := along(s, "a")
	tries := 0
	_, err := s.Update(ctx, func(tx *Tx) error {
		if _, err := tx.Get("t", []byte("n")); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if tries++; tries == 1 {
			change(t, s, bg, "n") // gets in the way
		}
		return tx.Put("t", []byte("n"), []byte("mine"))
	})
	require.NoError(t, err)
	require.Equal(t, 2, tries)
	require.Equal(t, "mine", get(t, s, "t", "n"))
	require.Equal(t, []string{"a"}, scanKeys(t, s, "along", Range{}))
}
