package store

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func TestLimitedStoreKeepsToItsRate(t *testing.T) {
	d, err := CreateDir(vfs.NewMem(), "x")
	require.NoError(t, err)
	l := Limit(d, 1000)
	now := time.Unix(0, 0)
	l.now = func() time.Time { return now }
	l.sleep = func(_ context.Context, d time.Duration) error { now = now.Add(d); return nil }
	bg := context.Background()
	require.NoError(t, l.Create(bg, "a", make([]byte, 5000)))
	require.Zero(t, now.Sub(time.Unix(0, 0)), "the first goes at once")
	require.NoError(t, l.Create(bg, "b", make([]byte, 2000)))
	require.Equal(t, 5*time.Second, now.Sub(time.Unix(0, 0)))
	_, err = l.GetRange(bg, "a", 0, 1000)
	require.NoError(t, err)
	require.Equal(t, 7*time.Second, now.Sub(time.Unix(0, 0)))
	b, _, err := l.Get(bg, "b")
	require.NoError(t, err)
	require.Len(t, b, 2000)
	require.Equal(t, 8*time.Second, now.Sub(time.Unix(0, 0)))
	v, err := l.Replace(bg, "head", []byte("x"), "")
	require.NoError(t, err)
	require.NotEmpty(t, v)
	require.Equal(t, 10*time.Second, now.Sub(time.Unix(0, 0)))
}

func TestLimitedStoreCanBeCancelled(t *testing.T) {
	d, err := CreateDir(vfs.NewMem(), "x")
	require.NoError(t, err)
	l := Limit(d, 1)
	ctx, cancel := context.WithCancel(context.Background())
	require.NoError(t, l.Create(ctx, "a", make([]byte, 100000)))
	cancel()
	require.ErrorIs(t, l.Create(ctx, "b", nil), context.Canceled)
}
