package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/stretchr/testify/require"
)

func TestWatchDeliversHistoryThenLiveWithoutGapAcrossRestart(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, small(fs))
	for i := range 10 {
		put(t, s, "t", fmt.Sprintf("a%d", i), "x")
		put(t, s, "t", fmt.Sprintf("b%d", i), "y")
		put(t, s, "other", "a", "z")
	}
	s = open(t, small(fs.CrashClone(vfs.CrashCloneCfg{})))
	w := s.Watch(bg, WatchOptions{Table: "t", Prefix: []byte("a"), From: 4})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 10; i < 300; i++ {
			put(t, s, "t", fmt.Sprintf("a%d", i), "x")
		}
	}()
	last := uint64(0)
	for i := 1; i < 300; i++ {
		e, err := w.Next()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("a%d", i), string(e.Key))
		require.Greater(t, e.Index, last)
		last = e.Index
	}
	wg.Wait()
	require.NoError(t, w.Close())
	_, err := w.Next()
	require.ErrorIs(t, err, ErrClosed)
}

func TestWatchTellsWhoDidWhat(t *testing.T) {
	c := newClock()
	o := small(vfs.NewMem())
	o.Now = c.Now
	s := open(t, o)
	live := s.Watch(bg, WatchOptions{})
	_, err := s.Update(bg, func(tx *Tx) error {
		_ = tx.Put("a", []byte("k"), []byte("v"))
		return tx.Delete("b", []byte("gone"))
	}, WithActor("mcp:claude"), WithLabel("work_order_create"), WithIdempotencyKey("i", nil))
	require.NoError(t, err)
	e, err := live.Next()
	require.NoError(t, err)
	require.Equal(t, Event{
		Index: 1, Time: c.Now(), Actor: "mcp:claude", Label: "work_order_create", Table: "a", Key: []byte("k"), Value: []byte("v"),
	}, e)
	e, err = live.Next()
	require.NoError(t, err)
	require.True(t, e.Deleted)
	require.Equal(t, "b", e.Table)
}

func TestWatchEndsWithItsContextAndWithTheStore(t *testing.T) {
	s := openMem(t)
	ctx, cancel := context.WithTimeout(bg, time.Millisecond)
	defer cancel()
	_, err := s.Watch(ctx, WatchOptions{}).Next()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	ctx, cancel2 := context.WithCancel(bg)
	cancel2()
	_, err = s.Watch(ctx, WatchOptions{}).Next()
	require.ErrorIs(t, err, context.Canceled)
	w := s.Watch(bg, WatchOptions{Table: "NO"})
	_, err = w.Next()
	require.ErrorIs(t, err, ErrInvalid)
	w = s.Watch(bg, WatchOptions{})
	done := make(chan error)
	go func() { _, err := w.Next(); done <- err }()
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-done, ErrClosed)
	require.ErrorIs(t, s.View(bg, nil), ErrClosed)
	_, err = s.Update(bg, nil)
	require.ErrorIs(t, err, ErrClosed)
}

func TestWatchSkipsRefusedEntries(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := small(fs)
	s := open(t, o)
	put(t, s, "t", "a", "1")
	// What only a remote, late proposer can do: log a write set whose read is stale.
	stale := WriteSet{Snapshot: 0, Reads: []Read{{Table: "t", Key: []byte("a")}}, Ops: []Op{{Table: "t", Key: []byte("bad")}}}
	done := make(chan ApplyOutcome, 1)
	err := s.com.Commit(bg, stale.Encode(nil), Sync, func(_ uint64, out ApplyOutcome, err error) {
		require.NoError(t, err)
		done <- out
	})
	require.NoError(t, err)
	require.ErrorIs(t, (<-done).Err, ErrConflict)
	err = s.com.Commit(bg, []byte("rubbish"), Sync, func(_ uint64, out ApplyOutcome, err error) { done <- out })
	require.NoError(t, err)
	require.ErrorIs(t, (<-done).Err, ErrMalformed)
	put(t, s, "t", "c", "3")
	check := func(s *Store) {
		w := s.Watch(bg, WatchOptions{From: 1})
		for _, want := range []string{"a", "c"} {
			e, err := w.Next()
			require.NoError(t, err)
			require.Equal(t, want, string(e.Key))
		}
		require.Equal(t, []string{"a", "c"}, scanKeys(t, s, "t", Range{}))
	}
	check(s)
	_, err = s.Checkpoint()
	require.NoError(t, err)
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	s = open(t, o)
	require.Zero(t, s.Stats().ReplayedEntries)
	check(s)
}

func TestRetainedLogIsBoundedAndCompactedWatchersAreTold(t *testing.T) {
	fs := vfs.NewMem()
	o := small(fs)
	o.RetainLog = 64 << 10
	s := open(t, o)
	big := string(make([]byte, 16<<10))
	fill := func(s *Store) {
		for i := range 100 {
			put(t, s, "t", fmt.Sprint(i%7), big)
			if i%10 == 9 {
				_, err := s.Checkpoint()
				require.NoError(t, err)
			}
		}
	}
	fill(s)
	first := s.Log().FirstIndex()
	require.Greater(t, first, uint64(40))
	require.LessOrEqual(t, first, s.DurableIndex())
	_, err := s.Watch(bg, WatchOptions{From: 1}).Next()
	require.ErrorIs(t, err, ErrCompacted)
	s.PinLog("backup", first)
	fill(s)
	require.Equal(t, first, s.Log().FirstIndex())
	require.NoError(t, s.Close())
	s = open(t, o) // retention goes on after a restart
	fill(s)
	require.Greater(t, s.Log().FirstIndex(), uint64(200))
	put(t, s, "t", "k", "v")
	require.NoError(t, s.Close())
	s = open(t, o)
	require.Equal(t, "v", get(t, s, "t", "k"))
}

func TestEntriesOfOtherTypesOnlyMoveTheAppliedIndex(t *testing.T) {
	s := openMem(t)
	put(t, s, "t", "a", "1")
	_, before := s.StateHash()
	outs := s.Apply([]wal.Entry{{Index: 1, Type: EntryWriteSet, Data: []byte("already applied")}, {Index: 2, Type: 1, Data: []byte("noop")}})
	require.Equal(t, []ApplyOutcome{{Index: 1}, {Index: 2}}, outs)
	index, hash := s.StateHash()
	require.Equal(t, uint64(2), index)
	require.Equal(t, before, hash)
	at, ok := s.StateHashAt(1)
	require.True(t, ok)
	require.Equal(t, before, at)
	_, ok = s.StateHashAt(77)
	require.False(t, ok)
}
