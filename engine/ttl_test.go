package engine

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func putUntil(t *testing.T, s *Store, key string, at time.Time) {
	t.Helper()
	_, err := s.Update(bg, func(tx *Tx) error { return tx.PutUntil("t", []byte(key), []byte("v"), at) })
	require.NoError(t, err)
}

func TestExpiredRowsStayUntilTheirRemovalIsCommitted(t *testing.T) {
	c := newClock()
	fs := vfs.NewCrashableMem()
	o := small(fs)
	o.Now = c.Now
	s := open(t, o)
	w := s.Watch(bg, WatchOptions{Table: "t", Prefix: []byte("soon"), From: 1})
	putUntil(t, s, "soon", c.Now().Add(time.Second))
	putUntil(t, s, "later", c.Now().Add(time.Hour))
	putUntil(t, s, "extended", c.Now().Add(time.Second))
	putUntil(t, s, "extended", c.Now().Add(time.Hour))
	putUntil(t, s, "kept", c.Now().Add(time.Second))
	put(t, s, "t", "kept", "for ever")
	n, err := s.SweepExpired(bg)
	require.NoError(t, err)
	require.Zero(t, n)

	c.Add(2 * time.Second)
	require.Equal(t, "v", get(t, s, "t", "soon"))
	n, err = s.SweepExpired(bg)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"extended", "kept", "later"}, scanKeys(t, s, "t", Range{}))
	_, err = w.Next()
	require.NoError(t, err)
	e, err := w.Next()
	require.NoError(t, err)
	require.True(t, e.Deleted)
	require.Equal(t, "_ttl", e.Actor)

	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	s = open(t, o)
	c.Add(2 * time.Hour)
	n, err = s.SweepExpired(bg)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []string{"kept"}, scanKeys(t, s, "t", Range{}))
	rep, err := s.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, rep.Findings)
	require.Zero(t, rep.Deadlines)
}

func TestManyExpiredRowsAreRemovedInBatches(t *testing.T) {
	c := newClock()
	o := small(vfs.NewMem())
	o.Now = c.Now
	s := open(t, o)
	const rows = 3*sweepBatch + 7
	_, err := s.Update(bg, func(tx *Tx) error {
		for i := range rows {
			at := c.Now().Add(time.Duration(i%5) * time.Second)
			if err := tx.PutUntil("t", []byte(fmt.Sprintf("%06d", i)), nil, at); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
	c.Add(time.Minute)
	n, err := s.SweepExpired(bg)
	require.NoError(t, err)
	require.Equal(t, rows, n)
	require.Empty(t, scanKeys(t, s, "t", Range{}))
	require.Equal(t, uint64(1+4), s.AppliedIndex())
}

func TestIdempotencyKeyIsForgottenAfterItsTime(t *testing.T) {
	c := newClock()
	o := small(vfs.NewMem())
	o.Now = c.Now
	s := open(t, o)
	do := func() Result {
		res, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("k"), nil) }, WithIdempotencyKey("i", nil))
		require.NoError(t, err)
		return res
	}
	require.False(t, do().Duplicate)
	c.Add(23 * time.Hour)
	_, err := s.SweepExpired(bg)
	require.NoError(t, err)
	require.True(t, do().Duplicate)
	c.Add(2 * time.Hour)
	_, err = s.SweepExpired(bg)
	require.NoError(t, err)
	require.False(t, do().Duplicate)
}

func TestTheStoreSweepsByItself(t *testing.T) {
	o := small(vfs.NewMem())
	o.SweepInterval = time.Millisecond
	s := open(t, o)
	putUntil(t, s, "k", time.Now())
	require.Eventually(t, func() bool { return get(t, s, "t", "k") == "" }, 30*time.Second, time.Millisecond)
}

func TestRemovalLosesAgainstAnExtensionOfTheDeadline(t *testing.T) {
	c := newClock()
	o := small(vfs.NewMem())
	o.Now = c.Now
	s := open(t, o)
	putUntil(t, s, "k", c.Now().Add(time.Second))
	c.Add(time.Minute)
	rows, err := s.findExpired(c.Now().UnixMilli())
	require.NoError(t, err)
	require.Len(t, rows, 1)
	putUntil(t, s, "k", c.Now().Add(time.Hour)) // the owner is alive after all
	n, err := s.remove(bg, rows)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, "v", get(t, s, "t", "k"))
	require.False(t, errors.Is(s.Err(), ErrFailed))
}
