package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
)

// diskFS reports as much free space as told.
type diskFS struct {
	vfs.FS
	free atomic.Uint64
}

func (d *diskFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free.Load(), TotalBytes: 1 << 40}, nil
}

func TestNearlyFullDiskRefusesWritesKeepsReadsAndRecovers(t *testing.T) {
	c := newClock()
	fs := &diskFS{FS: vfs.NewMem()}
	fs.free.Store(1 << 40)
	o := small(fs)
	o.Now = c.Now
	s := open(t, o)
	put(t, s, "t", "a", "1")
	fs.free.Store(1 << 20)
	c.Add(time.Second)
	_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("b"), nil) })
	require.ErrorIs(t, err, ErrNoSpace)
	_, err = s.Checkpoint()
	require.ErrorIs(t, err, ErrNoSpace)
	require.Equal(t, "1", get(t, s, "t", "a"))
	require.Equal(t, uint64(1<<20), s.Stats().FreeDisk)
	fs.free.Store(1 << 40)
	c.Add(time.Second)
	put(t, s, "t", "b", "2")
	require.NoError(t, s.Err())
	fs.free.Store(0)
	c.Add(time.Second)
	require.NoError(t, s.Close()) // nothing is flushed, the log has it all
	fs.free.Store(1 << 40)
	s = open(t, o)
	require.Equal(t, "2", get(t, s, "t", "b"))
}

// logFaults injects an error into writes or syncs of log segments.
type logFaults struct {
	op  errorfs.OpKind
	err error
	on  atomic.Bool
}

func (f *logFaults) MaybeError(op errorfs.Op) error {
	if f.on.Load() && op.Kind == f.op && strings.HasSuffix(op.Path, ".seg") {
		return f.err
	}
	return nil
}

func (f *logFaults) String() string { return "log faults" }

func TestDiskThatFillsUpDuringAWriteRefusesOnlyThatWrite(t *testing.T) {
	f := &logFaults{op: errorfs.OpFileWriteAt, err: syscall.ENOSPC}
	s := open(t, small(errorfs.Wrap(vfs.NewMem(), f)))
	put(t, s, "t", "a", "1")
	f.on.Store(true)
	_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("b"), nil) })
	require.ErrorIs(t, err, ErrNoSpace)
	f.on.Store(false)
	require.Equal(t, "1", get(t, s, "t", "a"))
	require.Equal(t, uint64(2), put(t, s, "t", "c", "3").Index)
	require.Equal(t, []string{"a", "c"}, scanKeys(t, s, "t", Range{}))
}

func TestFailedSyncStopsAllAcknowledgements(t *testing.T) {
	f := &logFaults{op: errorfs.OpFileSyncData, err: syscall.EIO}
	mem := vfs.NewCrashableMem()
	s := open(t, small(errorfs.Wrap(mem, f)))
	put(t, s, "t", "a", "1")
	f.on.Store(true)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte(fmt.Sprint("n", i)), nil) })
			if !errors.Is(err, ErrFailed) {
				t.Errorf("a write after a failed sync: %v", err)
			}
		}()
	}
	wg.Wait()
	<-s.Failed()
	require.ErrorIs(t, s.Err(), ErrFailed)
	f.on.Store(false) // the disk seems fine again, but a failed fsync is final
	_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("b"), nil) })
	require.ErrorIs(t, err, ErrFailed)
	_ = s.Close()
	s = open(t, small(mem.CrashClone(vfs.CrashCloneCfg{})))
	require.Equal(t, "1", get(t, s, "t", "a"))
}

func TestFatalErrorOfTheRowStoreFailsTheStoreAndNotTheProcess(t *testing.T) {
	s := openMem(t)
	go s.pebbleLog.Fatalf("MANIFEST sync failed: %v", syscall.EIO)
	<-s.Failed()
	_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("b"), nil) })
	require.ErrorIs(t, err, ErrFailed)
	require.NoError(t, s.Close())
}

func TestDirectoryThatCannotBeSyncedFailsTheStore(t *testing.T) {
	var on atomic.Bool
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == errorfs.OpFileSync && strings.HasSuffix(op.Path, "store") {
			return syscall.EIO
		}
		return nil
	})
	mem := vfs.NewCrashableMem()
	s := open(t, small(errorfs.Wrap(mem, inj)))
	put(t, s, "t", "a", "1")
	on.Store(true)
	_, err := s.Checkpoint()
	require.ErrorIs(t, err, ErrFailed)
	_ = s.Close()
	require.Equal(t, "1", get(t, open(t, small(mem.CrashClone(vfs.CrashCloneCfg{}))), "t", "a"))
}

func TestFlushOnAFullDiskGivesUpAndIsMadeUpForLater(t *testing.T) {
	var on atomic.Bool
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	})
	mem := vfs.NewMem()
	s := open(t, small(errorfs.Wrap(mem, inj)))
	put(t, s, "t", "a", "1")
	on.Store(true)
	_, err := s.Checkpoint()
	require.ErrorIs(t, err, ErrNoSpace)
	require.Equal(t, "1", get(t, s, "t", "a"))
	put(t, s, "t", "b", "2")
	on.Store(false)
	require.Eventually(t, func() bool { _, err := s.Checkpoint(); return err == nil }, 30*time.Second, time.Millisecond)
	put(t, s, "t", "c", "3")
	on.Store(true)
	require.NoError(t, s.Close(), "closing does not need the flush")
	s = open(t, small(mem))
	require.Equal(t, []string{"a", "b", "c"}, scanKeys(t, s, "t", Range{}))
}

// TestDamagedTableMetInApplyStopsTheStoreInOrder damages the only table under the apply loop and under replay.
func TestDamagedTableMetInApplyStopsTheStoreInOrder(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, small(fs))
	for i := range 200 {
		put(t, s, "t", fmt.Sprintf("k%03d", i), strings.Repeat(fmt.Sprint(i), 100))
	}
	require.NoError(t, s.Close())
	s = open(t, small(fs)) // with an empty cache
	put(t, s, "other", "x", "replayed later")
	require.Empty(t, s.Damaged())
	names, err := fs.List("data/store")
	require.NoError(t, err)
	for _, n := range names {
		if strings.HasSuffix(n, ".sst") {
			f, err := fs.OpenReadWrite("data/store/"+n, vfs.WriteCategoryUnspecified)
			require.NoError(t, err)
			_, err = f.WriteAt(make([]byte, 4000), 0)
			require.NoError(t, err)
			require.NoError(t, f.Sync())
			require.NoError(t, f.Close())
		}
	}
	_, err = s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("k000"), nil) }) // must look at the old row
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, s.Err(), ErrCorrupt)
	require.Contains(t, s.Damaged(), ".sst")
	require.NoError(t, s.Close())
	_, err = Open("data", small(fs)) // replay meets the same
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestForeignLockedNewerAndTamperedDirectoriesAreRefused(t *testing.T) {
	t.Run("foreign", func(t *testing.T) {
		fs := vfs.NewMem()
		require.NoError(t, fs.MkdirAll("data/wal", 0o755))
		require.NoError(t, writeFile(fs, "data/wal/0.wal", []byte("somebody else's")))
		before := fs.String()
		_, err := Open("data", small(fs))
		require.ErrorIs(t, err, ErrNotStore)
		require.Equal(t, before, fs.String(), "nothing is changed")
	})
	t.Run("in use", func(t *testing.T) {
		fs := vfs.NewMem()
		s := open(t, small(fs))
		_, err := Open("data", small(fs))
		require.ErrorIs(t, err, ErrInUse)
		require.NoError(t, s.Close())
		open(t, small(fs))
	})
	t.Run("newer", func(t *testing.T) {
		fs := vfs.NewMem()
		require.NoError(t, open(t, small(fs)).Close())
		require.NoError(t, writeFile(fs, "data/FORMAT", []byte("erlmcp-store\nversion 2\nwhatever comes\n")))
		_, err := Open("data", small(fs))
		require.ErrorIs(t, err, ErrVersion)
	})
	t.Run("tampered FORMAT", func(t *testing.T) {
		fs := vfs.NewMem()
		require.NoError(t, open(t, small(fs)).Close())
		d, err := readIdentity(fs, "data")
		require.NoError(t, err)
		good := d.encode()
		for i := range good {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1
			require.NoError(t, writeFile(fs, "data/FORMAT", bad))
			_, err = Open("data", small(fs))
			require.Error(t, err, "byte %d", i)
			require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion), "byte %d: %v", i, err)
		}
		require.NoError(t, writeFile(fs, "data/FORMAT", good))
		open(t, small(fs))
	})
	for _, folder := range []string{"wal", "store"} {
		t.Run("missing "+folder, func(t *testing.T) {
			fs := vfs.NewMem()
			s := open(t, small(fs))
			put(t, s, "t", "a", "1")
			require.NoError(t, s.Close())
			require.NoError(t, fs.RemoveAll("data/"+folder))
			_, err := Open("data", small(fs))
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, folder)
		})
		t.Run("swapped "+folder, func(t *testing.T) {
			fs := vfs.NewMem()
			for _, dir := range []string{"data", "data2"} {
				s, err := Open(dir, small(fs))
				require.NoError(t, err)
				put(t, s, "t", "a", dir)
				require.NoError(t, s.Close())
			}
			require.NoError(t, fs.Rename("data/"+folder, "aside"))
			require.NoError(t, fs.Rename("data2/"+folder, "data/"+folder))
			_, err := Open("data", small(fs))
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
}

func TestLogAndRowsFromDifferentTimesAreRefused(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, small(fs))
	put(t, s, "t", "a", "1")
	require.NoError(t, s.Close())
	_, err := vfs.Clone(fs, fs, "data/wal", "oldwal")
	require.NoError(t, err)
	s = open(t, small(fs))
	put(t, s, "t", "b", "2")
	require.NoError(t, s.Close())
	require.NoError(t, fs.RemoveAll("data/wal"))
	require.NoError(t, fs.Rename("oldwal", "data/wal"))
	_, err = Open("data", small(fs))
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "the log ends at 1, but the rows contain entry 2")
}

func TestInterruptedCreationIsCompleted(t *testing.T) {
	// A store created on a disk that fails at its n-th change; then the power goes.
	for n := 0; ; n += 2 {
		mem := vfs.NewCrashableMem()
		left := atomic.Int64{}
		left.Store(int64(n))
		boom := errors.New("power")
		inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch op.Kind {
			case errorfs.OpCreate, errorfs.OpRename, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync,
				errorfs.OpFileSyncData, errorfs.OpMkdirAll:
				if left.Add(-1) < 0 {
					return boom
				}
			}
			return nil
		})
		o := small(errorfs.Wrap(mem, inj))
		created, err := Open("data", o)
		for _, crash := range []bool{true, false} {
			fs := mem.CrashClone(vfs.CrashCloneCfg{})
			if !crash {
				fs = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: seeded(uint64(n))})
			}
			s, err := Open("data", small(fs))
			require.NoError(t, err, "creation cut at change %d, crash %v", n, crash)
			put(t, s, "t", "a", "1")
			require.NoError(t, s.Close())
		}
		if err == nil {
			left.Store(1 << 40)
			require.NoError(t, created.Close())
			require.Greater(t, n, 10)
			return
		}
	}
}

func TestHalfCreatedDirectoryWithDataIsNotWiped(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, small(fs))
	put(t, s, "t", "a", "1")
	require.NoError(t, s.Close())
	require.NoError(t, fs.Rename("data/FORMAT", "FORMAT.saved"))
	_, err := Open("data", small(fs))
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "FORMAT is missing")
	require.NoError(t, writeFile(fs, "data/CREATING", nil))
	_, err = Open("data", small(fs))
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoError(t, fs.Rename("FORMAT.saved", "data/FORMAT"))
	s = open(t, small(fs))
	require.Equal(t, "1", get(t, s, "t", "a"))
}

func TestOnARealFileSystem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nested", "data")
	o := small(vfs.Default)
	s, err := Open(dir, o)
	require.NoError(t, err)
	put(t, s, "t", "a", "1")
	_, err = Open(dir, o)
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, s.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "CREATING"), nil, 0o600)) // left by an older crash
	s, err = Open(dir, o)
	require.NoError(t, err)
	require.Equal(t, "1", get(t, s, "t", "a"))
	require.Positive(t, s.Stats().StoreBytes)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	_, err = Open(file, o)
	require.Error(t, err)
}

// heldCommitter keeps write sets back until told, so that tests can fill the queue.
type heldCommitter struct {
	*localCommitter
	gate chan struct{}
}

func (h *heldCommitter) Commit(ctx context.Context, ws []byte, d Durability, done func(uint64, ApplyOutcome, error)) error {
	go func() {
		<-h.gate
		if err := h.localCommitter.Commit(ctx, ws, d, done); err != nil {
			done(0, ApplyOutcome{}, err)
		}
	}()
	return nil
}

func openHeld(t *testing.T, o Options) (*Store, chan struct{}) {
	gate := make(chan struct{})
	o.Committer = func(s *Store) (Committer, error) {
		c, err := newLocalCommitter(s)
		return &heldCommitter{c, gate}, err
	}
	return open(t, o), gate
}

func TestFullQueueRefusesAtOnce(t *testing.T) {
	o := small(vfs.NewMem())
	o.MaxPending = 3
	s, gate := openHeld(t, o)
	blind := func(k string) error {
		_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte(k), nil) }, WithDurability(Async))
		return err
	}
	for i := range 3 {
		require.NoError(t, blind(fmt.Sprint(i)))
	}
	require.ErrorIs(t, blind("x"), ErrOverloaded)
	st := s.Stats()
	require.Equal(t, 3, st.Pending)
	require.Equal(t, 3, st.AsyncPending)
	require.Equal(t, uint64(1), st.Overloaded)
	close(gate)
	// Applied comes first, the place in the queue is free a moment later.
	require.Eventually(t, func() bool { return s.Stats().Pending == 0 }, 30*time.Second, time.Millisecond)
	put(t, s, "t", "again", "")
	require.Equal(t, []string{"0", "1", "2", "again"}, scanKeys(t, s, "t", Range{}))
}

func TestFullQueueCountsBytes(t *testing.T) {
	o := small(vfs.NewMem())
	o.MaxPendingBytes = 4096
	s, gate := openHeld(t, o)
	defer close(gate)
	blind := func(n int) error {
		_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("k"), make([]byte, n)) }, WithDurability(Async))
		return err
	}
	require.NoError(t, blind(3000))
	require.ErrorIs(t, blind(2000), ErrOverloaded)
	require.NoError(t, blind(500))
}

func TestGivingUpWaitingSaysThatTheOutcomeIsUnknown(t *testing.T) {
	s, gate := openHeld(t, small(vfs.NewMem()))
	ctx, cancel := context.WithTimeout(bg, time.Millisecond)
	defer cancel()
	_, err := s.Update(ctx, func(tx *Tx) error { return tx.Put("t", []byte("k"), []byte("v")) })
	require.ErrorIs(t, err, ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(gate)
	require.NoError(t, s.waitApplied(bg, 1))
	require.Equal(t, "v", get(t, s, "t", "k"))
}

func TestWaitingForAContendedKeyEndsWithTheContext(t *testing.T) {
	s, gate := openHeld(t, small(vfs.NewMem()))
	first := make(chan error)
	inc := func(tx *Tx) error { _, _ = tx.Get("t", []byte("k")); return tx.Put("t", []byte("k"), []byte("v")) }
	go func() { _, err := s.Update(bg, inc); first <- err }()
	require.Eventually(t, func() bool { return s.Stats().Pending == 1 }, 30*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(bg, time.Millisecond)
	defer cancel()
	_, err := s.Update(ctx, inc)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, ErrUnknownOutcome, "nothing of it was ever placed")
	close(gate)
	require.NoError(t, <-first)
	require.Empty(t, s.win.waiters)
}

func TestAsyncIsOnlyForTransactionsWithoutReads(t *testing.T) {
	s := openMem(t)
	_, err := s.Update(bg, func(tx *Tx) error {
		_, _ = tx.Get("t", []byte("k"))
		return tx.Put("t", []byte("k"), nil)
	}, WithDurability(Async))
	require.ErrorIs(t, err, ErrAsyncReads)
	_, err = s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("k"), nil) },
		WithDurability(Async), WithIdempotencyKey("i", nil))
	require.ErrorIs(t, err, ErrAsyncReads)
	for i := range 100 {
		_, err = s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte(fmt.Sprint(i)), nil) }, WithDurability(Async))
		require.NoError(t, err)
	}
	require.NoError(t, s.Close(), "Close makes what was accepted durable")
	s = open(t, s.o)
	require.Len(t, scanKeys(t, s, "t", Range{}), 100)
}

func TestCommitsAreHeldWhileTooMuchIsUnflushed(t *testing.T) {
	c := newClock()
	fs := &diskFS{FS: vfs.NewMem()}
	fs.free.Store(1 << 40)
	o := small(fs)
	o.Now = c.Now
	o.MaxUnflushed = 1 << 20
	s := open(t, o)
	for i := range 300 {
		put(t, s, "t", fmt.Sprint(i), strings.Repeat("x", 10_000))
		require.LessOrEqual(t, s.Stats().UnflushedBytes, int64(1<<20)+20_000)
	}
	require.Positive(t, s.DurableIndex())
}

func TestCommitsHeldForAFlushThatCannotHappenDoNotKeepTheStoreFromClosing(t *testing.T) {
	c := newClock()
	fs := &diskFS{FS: vfs.NewMem()}
	fs.free.Store(1 << 40)
	o := small(fs)
	o.Now = c.Now
	s := open(t, o)
	fs.free.Store(0) // flushes are not started any more
	c.Add(time.Second)
	s.flush.mu.Lock()
	s.flush.applied += s.o.MaxUnflushed
	s.flush.mu.Unlock()
	ws := WriteSet{Ops: []Op{{Table: "t", Key: []byte("k"), Value: []byte("v")}}}
	done := make(chan error, 1)
	require.NoError(t, s.com.Commit(bg, ws.Encode(nil), Sync, func(_ uint64, _ ApplyOutcome, err error) { done <- err }))
	require.NoError(t, s.waitApplied(bg, 1)) // applied, and then held back
	require.NoError(t, s.Close())
	require.NoError(t, <-done)
	fs.free.Store(1 << 40)
	c.Add(time.Second)
	require.Equal(t, "v", get(t, open(t, o), "t", "k"))
}

func TestDirtyStateIsFlushedByAge(t *testing.T) {
	c := newClock()
	o := small(vfs.NewMem())
	o.Now, o.FlushInterval = c.Now, 20*time.Millisecond
	s := open(t, o)
	put(t, s, "t", "a", "1")
	require.False(t, s.flush.due(s))
	c.Add(time.Second)
	require.Eventually(t, func() bool { return s.DurableIndex() == 1 }, 30*time.Second, time.Millisecond)
	require.False(t, s.flush.due(s))
}
