package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// TestClockJumpsLoseNothing lets the wall clock jump to anywhere within ten years before every step, across kills and restarts. Rows without a deadline, their order in the log and the state hash may not notice.
func TestClockJumpsLoseNothing(t *testing.T) {
	const seed, year = 7, 365 * 24 * time.Hour
	rng := rand.New(rand.NewPCG(seed, seed))
	steady, jumping := newClock(), newClock()
	right := steady.Now()
	fs := []*vfs.MemFS{vfs.NewCrashableMem(), vfs.NewCrashableMem()}
	stores := make([]*Store, 2)
	start := func(i int) {
		o := small(fs[i])
		o.Now = []func() time.Time{steady.Now, jumping.Now}[i]
		stores[i] = open(t, o)
	}
	start(0)
	start(1)
	want := map[string]string{}
	for step := range 200 {
		jumping.Add(right.Add(time.Duration(rng.Int64N(int64(20*year))) - 10*year).Sub(jumping.Now()))
		key, value := fmt.Sprintf("k%02d", rng.IntN(40)), fmt.Sprint(step)
		for _, s := range stores {
			_, err := s.Update(bg, func(tx *Tx) error {
				if err := tx.PutUntil("lease", []byte(key), nil, tx.Now().Add(time.Hour)); err != nil {
					return err
				}
				return tx.Put("t", []byte(key), []byte(value))
			})
			require.NoError(t, err, "seed %d, step %d", seed, step)
			_, err = s.SweepExpired(bg)
			require.NoError(t, err, "seed %d, step %d", seed, step)
		}
		want[key] = value
		if step%37 == 36 {
			for i := range stores {
				fs[i] = fs[i].CrashClone(vfs.CrashCloneCfg{})
				start(i)
			}
		}
	}
	for _, s := range stores {
		require.Len(t, scanKeys(t, s, "t", Range{}), len(want))
		for key, value := range want {
			require.Equal(t, value, get(t, s, "t", key), "seed %d", seed)
		}
		rep, err := s.Verify(bg)
		require.NoError(t, err)
		require.Empty(t, rep.Findings)
		w := s.Watch(bg, WatchOptions{Table: "t", From: 1})
		var last uint64
		for range 200 {
			e, err := w.Next()
			require.NoError(t, err)
			require.Greater(t, e.Index, last, "the log orders events, not the clock")
			last = e.Index
		}
		require.NoError(t, w.Close())
	}
}

// TestAClockThatGoesBackKeepsWhatHasADeadline: what a deadline protects is kept longer, never given up early.
func TestAClockThatGoesBackKeepsWhatHasADeadline(t *testing.T) {
	c := newClock()
	o := small(vfs.NewMem())
	o.Now = c.Now
	s := open(t, o)
	do := func() Result {
		res, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("k"), nil) }, WithIdempotencyKey("i", nil))
		require.NoError(t, err)
		return res
	}
	putUntil(t, s, "lease", c.Now().Add(time.Hour))
	require.False(t, do().Duplicate)
	c.Add(-10 * 365 * 24 * time.Hour)
	n, err := s.SweepExpired(bg)
	require.NoError(t, err)
	require.Zero(t, n)
	require.True(t, do().Duplicate)
	require.Equal(t, "v", get(t, s, "t", "lease"))
}
