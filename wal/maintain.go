package wal

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A maintainer prepares the next segment ahead of time and recycles retired
// ones, in a goroutine of its own, so that no append pays for it.
//
// A prepared segment has its final name, its full size, no header, and is
// durable including its directory entry. A retired file is renamed away
// before its header is wiped, and wiped before it gets its new name.
type maintainer struct {
	fs   vfs.FS
	dir  string
	size int64
	log  *Log

	mu       sync.Mutex
	cond     sync.Cond
	nextID   uint64
	prepared *preparedSegment
	err      error // of the last attempt to prepare
	wanted   bool  // somebody waits for a prepared segment
	soon     bool  // the active segment has filled a quarter
	retired  []*segment
	spares   []string
	stopping bool
	ended    chan struct{}
}

type preparedSegment struct {
	id   uint64
	file vfs.File
}

// maxSpares bounds the files kept for reuse.
const maxSpares = 2

func newMaintainer(l *Log, s *survey) *maintainer {
	m := &maintainer{fs: l.fs, dir: l.dir, size: l.id.segmentSize, log: l, nextID: 1, ended: make(chan struct{})}
	m.cond.L = &m.mu
	live := map[uint64]bool{}
	for _, f := range s.live() {
		live[f.id] = true
		m.nextID = f.id + 1
	}
	m.spares = append(m.spares, s.spares...)
	for _, f := range s.files {
		switch {
		case live[f.id] || f == s.next:
		case f.id < s.start.segment: // row 16
			m.retired = append(m.retired, &segment{id: f.id, name: f.name, file: f.file})
		default:
			f.close() // headerless and beyond the next one: overwritten when its turn comes
		}
	}
	m.adoptNext(s)
	return m
}

// adoptNext takes the prepared segment that the survey found, unless it is
// about to be activated by resume (then s.used ends sealed or is empty).
func (m *maintainer) adoptNext(s *survey) {
	f := s.next
	if f == nil {
		return
	}
	m.nextID = f.id + 1
	sealed := len(s.used) == 0 || s.used[len(s.used)-1].tail == tailSealed
	if sealed {
		return
	}
	var page [dataStart]byte
	_, err := f.file.WriteAt(page[:], 0)
	if err == nil && f.size == m.size {
		err = f.file.SyncData()
	}
	if err != nil || f.size != m.size {
		m.nextID = f.id
		f.close()
		return
	}
	m.prepared = &preparedSegment{f.id, f.file}
}

// run is the maintainer goroutine.
func (m *maintainer) run() {
	defer close(m.ended)
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		switch {
		case len(m.retired) > 0:
			g := m.retired[0]
			m.retired = m.retired[1:]
			m.mu.Unlock()
			m.recycle(g)
			m.mu.Lock()
		case m.stopping:
			return
		case m.prepared == nil && (m.wanted || m.soon && m.err == nil):
			m.wanted, m.soon = false, false
			m.prepareNext()
			m.cond.Broadcast()
		default:
			m.cond.Wait()
		}
	}
}

// prepareSoon asks for the next segment. A log that is hardly written to does
// without: that makes its first start fast and halves its disk space.
func (m *maintainer) prepareSoon() {
	m.mu.Lock()
	m.soon = m.prepared == nil
	m.cond.Broadcast()
	m.mu.Unlock()
}

func (m *maintainer) stop() {
	m.mu.Lock()
	m.stopping = true
	m.cond.Broadcast()
	m.mu.Unlock()
	<-m.ended
	if m.prepared != nil {
		_ = m.prepared.file.Close()
		m.prepared = nil
	}
}

// take returns the prepared segment, waiting for it if need be. The error is
// ErrNoSpace if the disk is full; a later call tries again.
func (m *maintainer) take() (*preparedSegment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.prepared == nil {
		m.err, m.wanted = nil, true
		m.cond.Broadcast()
		for m.prepared == nil && m.err == nil && !m.stopping {
			m.cond.Wait()
		}
	}
	if m.prepared == nil {
		return nil, errors.Join(m.err, errIf(m.stopping, ErrClosed))
	}
	p := m.prepared
	m.prepared = nil
	m.cond.Broadcast()
	return p, nil
}

// giveBack returns a prepared segment that was not used.
func (m *maintainer) giveBack(p *preparedSegment) {
	m.mu.Lock()
	m.prepared = p
	m.mu.Unlock()
}

func errIf(c bool, err error) error {
	if c {
		return err
	}
	return nil
}

// prepareNext makes the next segment. Called with mu held, which it releases
// while it works.
func (m *maintainer) prepareNext() {
	id := m.nextID
	spare := ""
	if n := len(m.spares); n > 0 {
		spare, m.spares = m.spares[n-1], m.spares[:n-1]
	}
	m.mu.Unlock()
	file, err := m.prepare(id, spare)
	m.mu.Lock()
	m.err = err
	if err != nil {
		m.log.o.Logger.Error("cannot prepare the next log segment", "segment", id, "error", err)
		return
	}
	m.prepared = &preparedSegment{id, file}
	m.nextID = id + 1
}

func (m *maintainer) prepare(id uint64, spare string) (vfs.File, error) {
	if spare != "" {
		if err := m.reuse(id, spare); err == nil {
			return m.openSegment(id)
		} else if rmErr := m.fs.Remove(m.fs.PathJoin(m.dir, spare)); rmErr == nil {
			m.log.o.Logger.Warn("spare segment not usable, removed", "file", spare, "error", err)
		}
	}
	if err := prepareSegment(m.fs, m.dir, id, m.size); err != nil {
		return nil, err
	}
	return m.openSegment(id)
}

func (m *maintainer) openSegment(id uint64) (vfs.File, error) {
	f, err := m.fs.OpenReadWrite(m.fs.PathJoin(m.dir, segmentName(id)), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("wal: open prepared segment: %w", err)
	}
	return f, nil
}

// reuse gives a spare file the name of segment id. Its header is wiped and
// durable before that; the rest keeps bytes of its older life, which never
// validate under another seed.
func (m *maintainer) reuse(id uint64, spare string) error {
	path := m.fs.PathJoin(m.dir, spare)
	f, err := m.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != m.size {
		err = fmt.Errorf("wal: spare has %d bytes", info.Size())
	}
	var page [dataStart]byte
	if err == nil {
		_, err = f.WriteAt(page[:], 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := m.fs.Rename(path, m.fs.PathJoin(m.dir, segmentName(id))); err != nil {
		return err
	}
	return syncDir(m.fs, m.dir)
}

// retire takes segments that the log no longer needs.
func (m *maintainer) retire(old []*segment) {
	if len(old) == 0 {
		return
	}
	m.mu.Lock()
	m.retired = append(m.retired, old...)
	m.cond.Broadcast()
	m.mu.Unlock()
}

// recycle waits for readers of a retired segment and keeps or removes its
// file.
func (m *maintainer) recycle(g *segment) {
	g.readers.Lock()
	g.released = true
	_ = g.file.Close()
	g.readers.Unlock()
	path := m.fs.PathJoin(m.dir, g.name)
	m.mu.Lock()
	keep := len(m.spares) < maxSpares
	m.mu.Unlock()
	if !keep {
		if err := m.fs.Remove(path); err != nil {
			m.log.o.Logger.Warn("cannot remove retired segment", "file", g.name, "error", err)
		}
		return
	}
	spare := fmt.Sprintf("%016x%s", g.id, spareSuffix)
	// The rename must be durable before reuse wipes the header, or a power loss
	// leaves a segment without a header under the old name.
	err := m.fs.Rename(path, m.fs.PathJoin(m.dir, spare))
	if err == nil {
		err = syncDir(m.fs, m.dir)
	}
	if err != nil {
		m.log.o.Logger.Warn("cannot recycle retired segment", "file", g.name, "error", err)
		return
	}
	m.mu.Lock()
	m.spares = append(m.spares, spare)
	m.mu.Unlock()
}

// zeroChunk is written at once when a segment is zero-filled; syncing every
// chunk keeps the log's own fdatasync from waiting behind 64 MiB.
const zeroChunk = 4 << 20

// prepareSegment zero-fills a new segment file and makes it durable under its
// name. It refuses with ErrNoSpace before it fills the disk to the brim.
func prepareSegment(fs vfs.FS, dir string, id uint64, size int64) error {
	if u, err := fs.GetDiskUsage(dir); err == nil && u.AvailBytes < uint64(size)+uint64(size)/4 {
		return fmt.Errorf("%w: a segment of %d bytes is needed, %d bytes are free", ErrNoSpace, size, u.AvailBytes)
	}
	tmp := fs.PathJoin(dir, tempName)
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return spaceError("create segment", err)
	}
	buf := make([]byte, min(size, 1<<20))
	for done := int64(0); done < size && err == nil; {
		n := min(int64(len(buf)), size-done)
		_, err = f.Write(buf[:n])
		done += n
		if err == nil && done%zeroChunk == 0 {
			err = f.SyncData()
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = fs.Remove(tmp)
		return spaceError("zero-fill segment", err)
	}
	if err := fs.Rename(tmp, fs.PathJoin(dir, segmentName(id))); err != nil {
		return spaceError("name segment", err)
	}
	return syncDir(fs, dir)
}

func spaceError(what string, err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %s: %w", ErrNoSpace, what, err)
	}
	return fmt.Errorf("wal: %s: %w", what, err)
}
