package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// rig is a log on an in-memory file system with tiny segments.
type rig struct {
	t   *testing.T
	fs  *vfs.MemFS
	o   Options
	log *Log
}

func newRig(t *testing.T, change ...func(*Options)) *rig {
	t.Helper()
	now := time.UnixMilli(1_700_000_000_000)
	r := &rig{t: t, fs: vfs.NewMem()}
	r.o = Options{FS: r.fs, SegmentSize: minSegmentSize, Rand: rand.NewChaCha8([32]byte{1}), Now: func() time.Time { return now }}
	for _, c := range change {
		c(&r.o)
	}
	t.Cleanup(func() {
		if r.log != nil {
			_ = r.log.Close()
		}
	})
	return r
}

func (r *rig) open() *rig {
	r.t.Helper()
	l, err := Open("db/wal", r.o)
	require.NoError(r.t, err)
	r.log = l
	return r
}

func (r *rig) close() *rig {
	r.t.Helper()
	require.NoError(r.t, r.log.Close())
	r.log = nil
	return r
}

func (r *rig) reopen() *rig { r.t.Helper(); return r.close().open() }

// crash drops the log without closing it and continues on what a kill -9
// leaves: all that was written.
func (r *rig) crash() *rig {
	r.t.Helper()
	old := r.log
	r.log = nil
	if old.Err() == nil { // idle: the end mark of the last batch is written
		require.NoError(r.t, old.borrow())
		old.giveBack()
	}
	snapshot := cloneFS(r.t, r.fs)
	require.NoError(r.t, old.Close())
	r.fs = snapshot
	r.o.FS = snapshot
	return r
}

func cloneFS(t *testing.T, from *vfs.MemFS) *vfs.MemFS {
	t.Helper()
	to := vfs.NewMem()
	ok, err := vfs.Clone(from, to, "db", "db")
	require.NoError(t, err)
	require.True(t, ok)
	return to
}

func payload(i uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(i, 7))
	for j := range b {
		b[j] = byte(rng.Uint32())
	}
	return b
}

// fill appends entries one by one, sizes 0..2000, and checks their indexes.
func (r *rig) fill(n int) *rig {
	r.t.Helper()
	next := r.log.NextIndex()
	for i := range uint64(n) {
		last, err := r.log.Append(Entry{Term: 3, Type: 1, Data: payload(next+i, int((next+i)*37%2000))})
		require.NoError(r.t, err)
		require.Equal(r.t, next+i, last)
	}
	return r
}

// holds checks that exactly first..last can be read, by Get and by Iterate.
func (r *rig) holds(first, last uint64) *rig {
	r.t.Helper()
	require.Equal(r.t, first, r.log.FirstIndex())
	require.Equal(r.t, last, r.log.LastIndex())
	next := max(first, 1)
	require.NoError(r.t, r.log.Iterate(0, func(e Entry) error {
		require.Equal(r.t, next, e.Index)
		require.Equal(r.t, uint64(3), e.Term)
		require.True(r.t, bytes.Equal(payload(e.Index, int(e.Index*37%2000)), e.Data), "entry %d", e.Index)
		next++
		return nil
	}))
	require.Equal(r.t, last+1, max(next, last+1))
	require.Equal(r.t, last+1, next)
	for i := first; i <= last && first > 0; i++ {
		e, err := r.log.Get(i)
		require.NoError(r.t, err)
		require.True(r.t, bytes.Equal(payload(i, int(i*37%2000)), e.Data), "entry %d", i)
	}
	_, err := r.log.Get(last + 1)
	require.ErrorIs(r.t, err, ErrNotFound)
	return r
}

func TestAppendedEntriesSurviveCloseAndCrash(t *testing.T) {
	for _, key := range [][]byte{nil, bytes.Repeat([]byte{7}, 32)} {
		for _, ring := range []int64{-1, 4096, 0} {
			t.Run(fmt.Sprintf("encrypted=%v ring=%d", key != nil, ring), func(t *testing.T) {
				r := newRig(t, func(o *Options) { o.Key, o.RingBytes = key, ring }).open()
				require.True(t, r.log.Recovery().Created)
				require.Zero(t, r.log.LastIndex())
				r.fill(200).holds(1, 200)
				require.Greater(t, r.log.Stats().Rotations, uint64(2))
				r.reopen().holds(1, 200)
				require.False(t, r.log.Recovery().Created)
				require.Nil(t, r.log.Recovery().TornTail)
				r.fill(50).crash().open().holds(1, 250)
				require.Nil(t, r.log.Recovery().TornTail)
				r.fill(10).reopen().holds(1, 260)
			})
		}
	}
}

func TestConcurrentAppendsShareBatchesAndKeepOrder(t *testing.T) {
	r := newRig(t).open()
	var wg sync.WaitGroup
	seen := make([]sync.Map, 16)
	for w := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 100 {
				data := fmt.Appendf(nil, "writer %d entry %d", w, i)
				last, err := r.log.Append(Entry{Type: 1, Data: data}, Entry{Type: 2, Data: data})
				if err != nil {
					t.Error(err)
					return
				}
				seen[w].Store(last, string(data))
			}
		}()
	}
	wg.Wait()
	require.Equal(t, uint64(3200), r.log.LastIndex())
	require.NoError(t, r.log.Close())
	r.open()
	for w := range seen {
		seen[w].Range(func(k, v any) bool {
			for i, typ := range []EntryType{1, 2} {
				e, err := r.log.Get(k.(uint64) - 1 + uint64(i))
				require.NoError(t, err)
				require.Equal(t, v, string(e.Data))
				require.Equal(t, typ, e.Type)
			}
			return true
		})
	}
}

func TestTruncateFrontRecyclesWholeSegments(t *testing.T) {
	r := newRig(t).open().fill(300)
	before := r.log.Stats().Segments
	require.NoError(t, r.log.TruncateFront(200))
	r.holds(200, 300)
	require.Less(t, r.log.Stats().Segments, before)
	r.reopen().holds(200, 300)
	r.fill(300).holds(200, 600) // through recycled files
	require.NoError(t, r.log.TruncateFront(601))
	require.Zero(t, r.log.LastIndex())
	require.Zero(t, r.log.FirstIndex())
	r.crash().open()
	require.Zero(t, r.log.LastIndex())
	r.fill(3).holds(601, 603)
	require.ErrorIs(t, r.log.TruncateFront(605), ErrInvalid)
	require.NoError(t, r.log.TruncateFront(5))
	r.reopen().holds(601, 603)
}

func TestTruncateBackIsARecordAndIndexesContinueBelow(t *testing.T) {
	r := newRig(t).open().fill(200)
	require.NoError(t, r.log.TruncateBack(150))
	r.holds(1, 149)
	r.reopen().holds(1, 149)
	r.fill(20).holds(1, 169)
	require.NoError(t, r.log.TruncateBack(100))
	require.NoError(t, r.log.TruncateBack(90))
	r.crash().open().holds(1, 89)
	r.fill(200).reopen().holds(1, 289)
	require.NoError(t, r.log.TruncateFront(80))
	require.NoError(t, r.log.TruncateBack(50)) // everything goes
	require.Zero(t, r.log.LastIndex())
	r.reopen().fill(10).holds(50, 59)
	require.NoError(t, r.log.TruncateBack(1000))
	r.holds(50, 59)
}

func TestAnEmptyLogAcceptsAnyFirstIndex(t *testing.T) {
	r := newRig(t).open()
	_, err := r.log.Append(Entry{Index: 5000, Term: 3, Type: 1, Data: payload(5000, 5000*37%2000)})
	require.NoError(t, err)
	r.holds(5000, 5000)
	_, err = r.log.Append(Entry{Index: 5002, Type: 1})
	require.ErrorIs(t, err, ErrIndexGap)
	r.fill(5).reopen().holds(5000, 5005)
	require.NoError(t, r.log.TruncateFront(5006))
	_, err = r.log.Append(Entry{Index: 9000, Term: 3, Type: 1, Data: payload(9000, 9000*37%2000)})
	require.NoError(t, err)
	r.holds(9000, 9000).crash().open().holds(9000, 9000)
}

func TestMetaValuesAndCommitIndexSurviveRotationAndTruncation(t *testing.T) {
	r := newRig(t).open()
	require.NoError(t, r.log.SetMeta("term", []byte("7")))
	require.NoError(t, r.log.SetMeta("vote", []byte("n1")))
	require.NoError(t, r.log.SetMeta("gone", []byte("x")))
	require.NoError(t, r.log.SetMeta("gone", nil))
	r.log.SetCommitIndex(42)
	r.fill(300)
	require.NoError(t, r.log.TruncateFront(300))
	r.crash().open()
	v, ok := r.log.Meta("term")
	require.True(t, ok)
	require.Equal(t, "7", string(v))
	v, _ = r.log.Meta("vote")
	require.Equal(t, "n1", string(v))
	_, ok = r.log.Meta("gone")
	require.False(t, ok)
	require.Equal(t, uint64(42), r.log.CommitIndex())
	require.ErrorIs(t, r.log.SetMeta("", nil), ErrInvalid)
	require.ErrorIs(t, r.log.SetMeta("big", make([]byte, 5000)), ErrInvalid)
}

func TestLimitsAreRefusedAndNothingChanges(t *testing.T) {
	r := newRig(t).open().fill(3)
	for _, bad := range []Entry{{Type: 0}, {Type: 1, Term: 1 << 56}, {Type: 1, Index: 9}} {
		_, err := r.log.Append(bad)
		require.Error(t, err)
	}
	_, err := r.log.Append()
	require.ErrorIs(t, err, ErrInvalid)
	_, err = r.log.Append(Entry{Type: 1, Data: make([]byte, minSegmentSize)})
	require.ErrorIs(t, err, ErrTooLarge)
	// The largest entry fits, also right after a rotation.
	for range 5 {
		_, err = r.log.Append(Entry{Type: 1, Data: make([]byte, minSegmentSize/2-recordHeader-8)})
		require.NoError(t, err)
	}
	require.Equal(t, uint64(8), r.reopen().log.LastIndex())
	require.NoError(t, r.log.Close())
	_, err = r.log.Append(Entry{Type: 1})
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, r.log.Close())
}

func TestKeyMistakesAreNamed(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	r := newRig(t, func(o *Options) { o.Key = key }).open().fill(5).close()
	try := func(k []byte) error {
		o := r.o
		o.Key = k
		_, err := Open("db/wal", o)
		return err
	}
	require.ErrorIs(t, try(nil), ErrKeyRequired)
	require.ErrorIs(t, try(bytes.Repeat([]byte{2}, 32)), ErrWrongKey)
	require.ErrorIs(t, try([]byte("short")), ErrInvalid)
	r.open().holds(1, 5)
	plain := newRig(t).open().fill(1).close()
	plain.o.Key = key
	_, err := Open("db/wal", plain.o)
	require.ErrorIs(t, err, ErrWrongKey)
}

func TestAForeignDirectoryIsRefusedAndUntouched(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.fs.MkdirAll("db/wal", 0o755))
	f, err := r.fs.Create("db/wal/notes.txt", vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = Open("db/wal", r.o)
	require.ErrorIs(t, err, ErrNotLog)
	names, err := r.fs.List("db/wal")
	require.NoError(t, err)
	require.Equal(t, []string{"notes.txt"}, names)
}

// faultyFS fails writes or syncs of segment files on demand.
type faultyFS struct {
	vfs.FS
	mu       sync.Mutex
	writeErr error
	syncErr  error
	free     uint64
	onWrite  func(p []byte) error // asked before every write; nil: no objection
	dirty    map[string]bool      // files written since their last SyncData
	syncs    map[string]int
	onRemove func(name string)
}

func (f *faultyFS) Remove(name string) error {
	if f.onRemove != nil {
		f.onRemove(name)
	}
	return f.FS.Remove(name)
}

func (f *faultyFS) setDirty(name string, dirty bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirty == nil {
		f.dirty, f.syncs = map[string]bool{}, map[string]int{}
	}
	f.dirty[name] = dirty
	if !dirty {
		f.syncs[name]++
	}
}

type faultyFile struct {
	vfs.File
	fs   *faultyFS
	name string
}

func (f *faultyFS) err(p *error) error { f.mu.Lock(); defer f.mu.Unlock(); return *p }

func (f *faultyFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, o...)
	return &faultyFile{file, f, name}, err
}

func (f *faultyFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: f.free}, nil
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.err(&f.fs.writeErr); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	ask := f.fs.onWrite
	f.fs.mu.Unlock()
	if ask != nil {
		if err := ask(p); err != nil {
			return 0, err
		}
	}
	f.fs.setDirty(f.name, true)
	return f.File.WriteAt(p, off)
}

func (f *faultyFile) SyncData() error {
	if err := f.fs.err(&f.fs.syncErr); err != nil {
		return err
	}
	f.fs.setDirty(f.name, false)
	return f.File.SyncData()
}

// The end mark is written when the queue is empty; what is placed while that
// write fails must be refused like everything behind a failure, and not be
// acknowledged beside a FAILED mark that makes the next start cut it.
func TestWhatIsPlacedWhileAnEndMarkFailsIsRefused(t *testing.T) {
	ffs := &faultyFS{free: 1 << 40}
	r := newRig(t)
	ffs.FS, r.o.FS = r.fs, ffs
	r.open().fill(10)
	require.NoError(t, r.log.TruncateBack(math.MaxUint64)) // at rest: the end mark behind the ten is written
	late := &syncWaiter{done: make(chan struct{}, 1)}
	var once sync.Once
	ffs.mu.Lock()
	ffs.onWrite = func(p []byte) (err error) {
		if string(p[:4]) == magicEndMark {
			once.Do(func() {
				_, _, placed := r.log.AppendAsync([]Entry{{Term: 3, Type: 1, Data: []byte("late")}}, late)
				err = errors.Join(errors.New("medium error"), placed)
			})
		}
		return err
	}
	ffs.mu.Unlock()
	_, err := r.log.Append(Entry{Term: 3, Type: 1, Data: payload(11, 407)})
	require.NoError(t, err, "its own batch was durable before the end mark")
	<-late.done
	require.ErrorIs(t, late.err, ErrFailed)
	<-r.log.Failed()
	require.Equal(t, uint64(11), r.log.LastIndex())
	_ = r.log.Close()
	r.open().holds(1, 11).fill(3).reopen().holds(1, 14)
}

// When the first batch of a segment failed, the segment is activated again. The
// failed batch may be valid in the page cache only: it must be gone for good
// before the mark that makes it void goes.
func TestAFailedFirstBatchIsGoneBeforeItsMarkIs(t *testing.T) {
	ffs := &faultyFS{free: 1 << 40}
	r := newRig(t)
	ffs.FS, r.o.FS = r.fs, ffs
	r.open().fill(10)
	boom := errors.New("medium error")
	var once sync.Once
	ffs.mu.Lock()
	ffs.onWrite = func(p []byte) error { // the header of segment 2; the sync of its first batch fails then
		if bytes.HasPrefix(p, []byte(magicSegment)) {
			once.Do(func() { ffs.mu.Lock(); ffs.syncErr = boom; ffs.mu.Unlock() })
		}
		return nil
	}
	ffs.mu.Unlock()
	require.ErrorIs(t, r.log.TruncateBack(8), ErrFailed)
	_ = r.log.Close()
	ffs.mu.Lock()
	ffs.syncErr, ffs.onWrite = nil, nil
	ffs.mu.Unlock()

	name := "db/wal/" + segmentName(2)
	page := func() []byte {
		b, err := readFile(r.fs, name, 2*dataStart)
		require.NoError(t, err)
		return b[dataStart:]
	}
	require.True(t, bytes.HasPrefix(page(), []byte(magicBatch)), "the failed batch is there")
	removed := false
	ffs.onRemove = func(file string) {
		if file == "db/wal/"+failedName {
			removed = true
			require.Equal(t, make([]byte, dataStart), page(), "the failed batch is wiped")
			ffs.mu.Lock()
			defer ffs.mu.Unlock()
			require.False(t, ffs.dirty[name], "and the wipe is durable")
		}
	}
	r.open().holds(1, 10)
	require.True(t, removed)
	r.fill(3).reopen().holds(1, 13)
}

func TestAFailedSyncIsFinal(t *testing.T) {
	ffs := &faultyFS{free: 1 << 40}
	r := newRig(t)
	ffs.FS, r.o.FS = r.fs, ffs
	r.open().fill(10)
	boom := errors.New("medium error")
	ffs.mu.Lock()
	ffs.syncErr = boom
	ffs.mu.Unlock()
	_, err := r.log.Append(Entry{Term: 3, Type: 1})
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, err, boom)
	ffs.mu.Lock()
	ffs.syncErr = nil
	ffs.mu.Unlock()
	<-r.log.Failed()
	_, err = r.log.Append(Entry{Term: 3, Type: 1})
	require.ErrorIs(t, err, ErrFailed, "the disk works again, the process must not")
	require.Equal(t, uint64(10), r.log.LastIndex())
	_ = r.log.Close()
	// The batch is valid in the page cache, but the disk may not have it: the
	// next process cuts it instead of building on it.
	r.open().holds(1, 10)
	require.NotNil(t, r.log.Recovery().TornTail)
	r.fill(5).reopen().holds(1, 15)
	_, err = r.fs.Stat("db/wal/FAILED")
	require.Error(t, err)
}

func TestAFullDiskRefusesAppendsAndRecovers(t *testing.T) {
	ffs := &faultyFS{free: 10 * minSegmentSize}
	r := newRig(t)
	ffs.FS, r.o.FS = r.fs, ffs
	r.open()
	ffs.mu.Lock()
	ffs.free = 100
	ffs.mu.Unlock()
	acked := uint64(0)
	var err error
	for range 500 {
		var last uint64
		if last, err = r.log.Append(Entry{Term: 3, Type: 1, Data: payload(acked+1, int((acked+1)*37%2000))}); err != nil {
			break
		}
		acked = last
	}
	require.ErrorIs(t, err, ErrNoSpace)
	require.NoError(t, r.log.Err())
	r.holds(1, acked)
	ffs.mu.Lock()
	ffs.free = 10 * minSegmentSize
	ffs.mu.Unlock()
	r.fill(100).holds(1, acked+100)
	r.o.FS = r.fs
	r.reopen().holds(1, acked+100)
}

func TestAppendAsyncCompletesInOrder(t *testing.T) {
	r := newRig(t).open()
	c := &recorder{done: make(chan struct{}), want: 100}
	for i := range uint64(100) {
		first, last, err := r.log.AppendAsync([]Entry{{Term: 3, Type: 1, Data: payload(i+1, int((i+1)*37%2000))}}, c)
		require.NoError(t, err)
		require.Equal(t, i+1, first)
		require.Equal(t, i+1, last)
	}
	<-c.done
	for i, x := range c.got {
		require.Equal(t, uint64(i+1), x)
	}
	r.holds(1, 100)
}

type recorder struct {
	got  []uint64
	want int
	done chan struct{}
}

func (c *recorder) Complete(first, _ uint64, err error) {
	if err == nil {
		c.got = append(c.got, first)
	}
	if len(c.got) == c.want {
		close(c.done)
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	r := newRig(t, func(o *Options) { o.SegmentSize = 16 << 20 }).open()
	e := []Entry{{Term: 1, Type: 1, Data: make([]byte, 100)}}
	for range 5000 {
		_, err := r.log.Append(e...)
		require.NoError(t, err)
	}
	allocs := testing.AllocsPerRun(1000, func() { _, _ = r.log.Append(e...) })
	require.Less(t, allocs, 1.0)
}
