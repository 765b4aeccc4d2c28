package wal

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A Log is an open write-ahead log. All methods are safe for concurrent use.
//
// Ownership: the committer goroutine (commit.go) owns the tail: the active
// segment's file, the chain, the batch number. Operations that move the log's
// borders borrow the tail through exclusive. The maintainer goroutine
// (maintain.go) owns prepared, spare and retired files. mu guards what
// appenders share; idx guards what readers share.
type Log struct {
	dir string
	o   Options
	id  identity
	fs  vfs.FS

	mu        sync.Mutex
	work      sync.Cond // the committer waits for a batch
	quiet     sync.Cond // borrowers of the tail wait for the committer
	room      sync.Cond // appenders wait for room in the queue
	queue     []*request
	queued    int    // encoded bytes in queue
	nextIndex uint64 // of the next entry to be placed
	flying    bool   // a batch is in fdatasync: the committer sleeps until enough is queued
	busy      bool   // the committer has requests that are not finished
	exclusive bool   // somebody borrowed the tail
	closing   bool
	closed    atomic.Bool

	// Owned by the committer.
	tail       tail
	chainer    *chainer
	scratch    []byte // encrypted batch
	mark       []byte // end mark block
	logFile    vfs.File
	head       headMark // last written to LOG
	headBuf    [headMarkSize]byte
	headSynced uint64 // sequence of the newest head mark that is durable
	nonce      [nonceSize]byte
	committed  atomic.Uint64

	idx      sync.RWMutex
	segments []*segment // ascending, the last one is active
	start    logStart
	last     uint64 // last durable index; start.index-1 when empty
	metas    map[string][]byte
	ring     *ring

	durableCommit atomic.Uint64
	failure       atomic.Pointer[error]
	failed        chan struct{}
	done          chan struct{} // committer has ended

	keep     *maintainer
	stats    counters
	recovery Recovery
}

// tail is where the next batch goes.
type tail struct {
	seg *segment
	position
}

// A segment is one file of the running log.
type segment struct {
	id       uint64
	name     string
	file     vfs.File
	header   segmentHeader
	seed     uint32
	aead     cipher.AEAD
	first    uint64 // index of the first entry
	sealed   bool
	tail     int64
	batches  []batchRef
	offsets  []uint32
	entries  uint64
	readers  sync.RWMutex // held for reading while the file is read, for writing to retire it
	released bool
}

// Open opens the log in dir, creating it if dir is empty or does not exist.
// It verifies everything and recovers by the table in recover.go. Damage is
// returned as a *CorruptError and changes nothing on disk.
//
// Only one process may have a log open; the caller must hold a lock on a
// directory above.
func Open(dir string, o Options) (*Log, error) {
	began := time.Now()
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &survey{fs: o.FS, dir: dir, key: o.Key, keep: true}
	l := &Log{
		dir: dir, o: o, fs: o.FS, chainer: newChainer(),
		failed: make(chan struct{}), done: make(chan struct{}), metas: map[string][]byte{},
	}
	l.work.L, l.quiet.L, l.room.L = &l.mu, &l.mu, &l.mu
	if err := l.load(s); err != nil {
		s.close()
		if l.logFile != nil {
			_ = l.logFile.Close()
		}
		return nil, err
	}
	l.recovery.Duration = time.Since(began)
	go l.commitLoop()
	go l.keep.run()
	if l.tail.offset >= l.id.segmentSize/4 {
		l.keep.prepareSoon()
	}
	return l, nil
}

// load surveys the directory and takes over what it found.
func (l *Log) load(s *survey) error {
	if err := s.list(); err != nil {
		return notThere("", err)
	}
	if len(s.unknown) > 0 && !s.exists {
		return fmt.Errorf("%w: %s holds %q", ErrNotLog, l.dir, s.unknown[0])
	}
	if !s.exists || s.halfCreated() {
		if err := l.create(s); err != nil {
			return err
		}
	}
	if err := s.openKeys(); err != nil {
		return err
	}
	l.id = s.identity
	l.o.SegmentSize = s.identity.segmentSize
	l.o.limitTo(s.identity.segmentSize)
	if err := s.readFromDisk(); err != nil {
		return err
	}
	if err := s.scanAll(min(2, runtime.GOMAXPROCS(0))); err != nil {
		return err
	}
	end := s.judge()
	if err := s.firstDamage(); err != nil {
		return err
	}
	return l.takeOver(s, end)
}

// halfCreated reports that the first Open of a log was cut short before the
// identity was durable. Nothing was ever acknowledged then.
func (s *survey) halfCreated() bool {
	return !s.idOK && len(s.used) == 0 && (len(s.files) == 0 || len(s.files) == 1 && s.next != nil && s.next.id == 1)
}

// create makes the first segment and then, last, the identity.
func (l *Log) create(s *survey) error {
	for _, f := range s.files {
		f.close()
		if err := l.fs.Remove(l.fs.PathJoin(l.dir, f.name)); err != nil {
			return fmt.Errorf("wal: create: %w", err)
		}
	}
	s.files, s.next, s.findings = nil, nil, nil
	if err := mkdirAll(l.fs, l.dir); err != nil {
		return fmt.Errorf("wal: create: %w", err)
	}
	var d identity
	if _, err := io.ReadFull(l.o.Rand, d.logID[:]); err != nil {
		return fmt.Errorf("wal: create: random log id: %w", err)
	}
	d.segmentSize, d.createdMs = l.o.SegmentSize, unixMs(l.o.Now())
	if l.o.Key != nil {
		d.flags |= flagEncrypted
		d.keyCheck = keyCheck(l.o.Key, d.logID)
	}
	if err := prepareSegment(l.fs, l.dir, 1, d.segmentSize); err != nil {
		return err
	}
	if err := writeIdentity(l.fs, l.dir, &d); err != nil {
		return err
	}
	l.recovery.Created = true
	s.identity, s.idOK, s.exists = d, true, true
	f := &segmentFile{id: 1, name: segmentName(1)}
	s.files = append(s.files, f)
	s.next = f
	return s.readHeader(f)
}

// mkdirAll creates dir and makes its whole path durable; also levels that an
// earlier, cut-short Open created. A directory above that may not be opened is
// not ours to sync.
func mkdirAll(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for d := dir; fs.PathDir(d) != d; d = fs.PathDir(d) {
		if err := syncDir(fs, fs.PathDir(d)); err != nil && !oserror.IsPermission(err) {
			return err
		}
	}
	return nil
}

func writeIdentity(fs vfs.FS, dir string, d *identity) error {
	tmp := fs.PathJoin(dir, identityName+".tmp")
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("wal: write identity: %w", err)
	}
	_, err = f.Write(d.encode())
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = fs.Rename(tmp, fs.PathJoin(dir, identityName))
	}
	if err != nil {
		return fmt.Errorf("wal: write identity: %w", err)
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("wal: open directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("wal: sync directory: %w", err)
	}
	return nil
}

// takeOver turns a survey without damage into the running log.
func (l *Log) takeOver(s *survey, end ending) error {
	l.start = s.start
	l.metas = s.metas
	if l.metas == nil {
		l.metas = map[string][]byte{}
	}
	live := s.live()
	for _, f := range live {
		if end.active == nil && f.id == end.activate {
			continue // activated again below
		}
		l.segments = append(l.segments, f.running(f != end.active))
	}
	if err := l.repair(s, live); err != nil {
		return err
	}
	if err := l.makeDurable(live); err != nil {
		return err
	}
	if l.o.RingBytes > 0 {
		l.ring = newRing(l.o.RingBytes)
	}
	l.keep = newMaintainer(l, s)
	var err error
	if l.logFile, err = l.fs.OpenReadWrite(l.fs.PathJoin(l.dir, identityName), vfs.WriteCategoryUnspecified); err != nil {
		return fmt.Errorf("wal: open identity: %w", err)
	}
	// What a killed process wrote may be in the page cache only.
	if err := l.logFile.SyncData(); err != nil {
		return fmt.Errorf("wal: sync identity: %w", err)
	}
	l.head, l.headSynced = s.head, s.head.sequence
	if err := l.resume(s, end); err != nil {
		return err
	}
	l.summarise(s, end)
	return nil
}

// makeDurable makes what was found valid durable before anything is built on
// it: a killed process may have left names and bytes in the page cache only.
// After a failed fdatasync that is not enough, see failedMark.
func (l *Log) makeDurable(live []*segmentFile) error {
	if err := syncDir(l.fs, l.dir); err != nil {
		return err
	}
	for _, f := range live[max(0, len(live)-2):] {
		if err := f.file.SyncData(); err != nil {
			return fmt.Errorf("wal: sync %s: %w", f.name, err)
		}
	}
	return nil
}

// resume places the tail: behind the last batch, or in a segment activated
// now.
func (l *Log) resume(s *survey, end ending) error {
	if end.active == nil {
		f := s.next
		if f == nil || f.id != end.activate {
			f = s.used[len(s.used)-1] // row 20
		}
		l.tail.position = end.before
		l.tail.timeMs = 0
		if err := l.wipeFailed(s, f); err != nil {
			return err
		}
		if err := l.activate(f.file, end.activate, end.before.nextIndex, nil); err != nil {
			return err
		}
	} else {
		l.tail = tail{l.segments[len(l.segments)-1], end.active.end}
		if err := l.writeEndMark(); err != nil {
			return err
		}
		if err := l.tail.seg.file.SyncData(); err != nil {
			return fmt.Errorf("wal: sync %s: %w", l.tail.seg.name, err)
		}
		if err := l.clearFailedMark(s); err != nil {
			return err
		}
	}
	l.last = l.tail.nextIndex - 1
	l.nextIndex = l.tail.nextIndex
	l.committed.Store(l.tail.commit)
	l.durableCommit.Store(l.tail.commit)
	return nil
}

func (l *Log) summarise(s *survey, end ending) {
	r := &l.recovery
	r.Segments, r.TornTail = len(l.segments), end.torn
	for _, f := range s.live() {
		r.Bytes += f.end.offset - dataStart
	}
	if last := l.last; last >= l.start.index {
		r.Entries = last + 1 - l.start.index
	}
	for _, f := range s.findings {
		if f.Severity == SeverityRepaired {
			r.Repairs = append(r.Repairs, f)
			l.o.Logger.Warn("log repaired", "kind", f.Kind, "file", f.File, "offset", f.Offset, "what", f.Message)
		}
	}
	if end.torn != nil {
		l.o.Logger.Info("torn write cut", "file", end.torn.File, "offset", end.torn.Offset, "what", end.torn.Message)
	}
}

// running is the scanned segment as part of the running log.
func (f *segmentFile) running(sealed bool) *segment {
	g := &segment{
		id: f.id, name: f.name, file: f.file, header: f.header, seed: f.seed, aead: f.aead,
		first: f.header.firstIndex, sealed: sealed, tail: f.end.offset, entries: f.entries,
		batches: f.batches, offsets: f.offsets,
	}
	if sealed && f.footerOK {
		g.batches, g.offsets = nil, nil // read from the footer when needed
	}
	return g
}

// repair rewrites redundant bytes that were found damaged (rows 10, 11, 18).
func (l *Log) repair(s *survey, live []*segmentFile) error {
	if !s.idOK {
		if err := writeIdentity(l.fs, l.dir, &s.identity); err != nil {
			return err
		}
	}
	for i, f := range live {
		dirty := false
		for c, ok := range f.copies {
			if ok {
				continue
			}
			var b [headerSize]byte
			f.header.encode(b[:])
			if _, err := f.file.WriteAt(b[:], int64(c*headerCopy)); err != nil {
				return fmt.Errorf("wal: repair header of %s: %w", f.name, err)
			}
			dirty = true
		}
		if sealed := i+1 < len(live) || f.tail == tailSealed; sealed && !f.footerOK {
			if err := writeFooter(f.file, f.running(true), f.end, unixMs(l.o.Now())); err != nil {
				return err
			}
			dirty = true
		}
		if !dirty {
			continue
		}
		if err := f.file.SyncData(); err != nil {
			return fmt.Errorf("wal: repair %s: %w", f.name, err)
		}
	}
	return nil
}

// Close waits for queued appends, makes the end mark durable and releases the
// files. Appends after Close return ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closing = true
	for l.exclusive {
		l.quiet.Wait()
	}
	l.work.Signal()
	l.quiet.Broadcast()
	l.room.Broadcast()
	l.mu.Unlock()
	<-l.done
	l.closed.Store(true)
	l.keep.stop()
	var err error
	if l.Err() == nil {
		// The end mark was written when the log went idle; durable, it and the
		// head mark leave nothing undecidable behind a clean stop.
		if err = errors.Join(l.tail.seg.file.SyncData(), l.writeHeadMark(true)); err != nil {
			err = fmt.Errorf("wal: sync on close: %w", err)
		}
	}
	err = errors.Join(err, l.logFile.Close())
	l.idx.RLock()
	segments := slices.Clone(l.segments)
	l.idx.RUnlock()
	for _, g := range segments {
		g.readers.Lock()
		g.released = true
		err = errors.Join(err, g.file.Close())
		g.readers.Unlock()
	}
	return err
}

// Err returns why the log failed for good (an ErrFailed), or nil.
func (l *Log) Err() error {
	if p := l.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Failed is closed when the log has failed for good. The process should say
// so and exit: a restart recovers from what is certainly on disk.
func (l *Log) Failed() <-chan struct{} { return l.failed }

func (l *Log) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrFailed, err)
	if l.failure.CompareAndSwap(nil, &err) {
		l.writeFailedMark()
		close(l.failed)
		l.o.Logger.Error("log failed", "error", err)
	}
	return l.Err()
}

// ID is the random identity of the log, made when it was created.
func (l *Log) ID() [16]byte { return l.id.logID }

// Recovery says what Open found and did.
func (l *Log) Recovery() Recovery { return l.recovery }

// FirstIndex is the index of the oldest entry, 0 if the log is empty.
func (l *Log) FirstIndex() uint64 {
	l.idx.RLock()
	defer l.idx.RUnlock()
	if l.last < l.start.index {
		return 0
	}
	return l.start.index
}

// LastIndex is the index of the newest durable entry, 0 if the log is empty.
func (l *Log) LastIndex() uint64 {
	l.idx.RLock()
	defer l.idx.RUnlock()
	if l.last < l.start.index {
		return 0
	}
	return l.last
}

// NextIndex is the index the next appended entry gets once everything queued
// is durable. It is meaningful in an empty log too.
func (l *Log) NextIndex() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nextIndex
}

// CommitIndex is the newest commit index that is durable (see SetCommitIndex).
func (l *Log) CommitIndex() uint64 { return l.durableCommit.Load() }

// SetCommitIndex gives the owner's commit index to be stored in the trailer
// of the next batch. It costs nothing and waits for nothing.
func (l *Log) SetCommitIndex(index uint64) { l.committed.Store(index) }

// Meta returns a copy of a value stored with SetMeta.
func (l *Log) Meta(key string) ([]byte, bool) {
	l.idx.RLock()
	defer l.idx.RUnlock()
	v, ok := l.metas[key]
	return append([]byte(nil), v...), ok
}

// metaSnapshot copies the meta map for a state record.
func (l *Log) metaSnapshot() map[string][]byte {
	l.idx.RLock()
	defer l.idx.RUnlock()
	return maps.Clone(l.metas)
}
