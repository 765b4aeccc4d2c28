package engine

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// flusher bounds how much log a restart must replay, and how much log is kept. Its goroutine owns flushing and
// truncation; the apply loop reports to it through note and is held by it in hold.
type flusher struct {
	durable atomic.Uint64 // applied index flushed into Pebble
	kick    chan struct{} // flush now
	flushed chan struct{} // Pebble finished a flush

	mu         sync.Mutex
	cond       sync.Cond
	applied    int64     // bytes of log applied since open
	safe       int64     // of these, known to be flushed
	marks      []mark    // where in applied an index is, ascending; also seeds of the log before open
	dirtySince time.Time // of the oldest unflushed change, zero if none
	pins       map[string]uint64
	running    bool
	trouble    chan struct{} // closed and replaced when Pebble's background work fails
	troubleErr error
}

// mark says: the log up to and including index is the first bytes bytes.
type mark struct {
	index uint64
	bytes int64
}

const markEvery = 256 << 10

func (f *flusher) init() {
	f.cond.L = &f.mu
	f.kick, f.flushed = make(chan struct{}, 1), make(chan struct{}, 1)
	f.pins = map[string]uint64{}
	f.trouble = make(chan struct{})
}

// stumbled is called by Pebble when a flush or compaction failed; it will be tried again. Pebble holds its locks.
func (f *flusher) stumbled(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.troubleErr = err
	close(f.trouble)
	f.trouble = make(chan struct{})
}

func (f *flusher) troubleChan() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trouble
}

// whatTrouble is why the last background work failed.
func (f *flusher) whatTrouble() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.troubleErr
}

// poke sends without waiting.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// note is called by the apply loop after each group.
func (f *flusher) note(s *Store, index uint64, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied += bytes
	n := len(f.marks)
	if n > 1 && f.applied-f.marks[n-2].bytes < markEvery {
		f.marks[n-1] = mark{index, f.applied}
	} else {
		f.marks = append(f.marks, mark{index, f.applied})
	}
	if f.dirtySince.IsZero() {
		f.dirtySince = s.o.Now()
	}
	if f.applied-f.safe >= s.o.MaxUnflushed/2 {
		poke(f.kick)
	}
}

// hold keeps the apply loop back while too much is unflushed.
func (f *flusher) hold(s *Store) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.running && f.applied-f.safe >= s.o.MaxUnflushed && !s.broken() {
		poke(f.kick)
		f.cond.Wait()
	}
}

// run is the flusher goroutine.
func (f *flusher) run(s *Store) {
	defer s.wg.Done()
	every := min(max(s.o.FlushInterval/4, 10*time.Millisecond), 5*time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.failed:
			f.release()
			<-s.stop
			return
		case <-f.flushed:
			if err := s.settle(); err != nil {
				s.o.Logger.Warn("engine: after a flush", "error", err)
			}
		case <-f.kick:
			s.flushIfPossible()
		case <-tick.C:
			if f.due(s) {
				s.flushIfPossible()
			}
		}
	}
}

// due reports whether the oldest unflushed change is too old, or too much is unflushed.
func (f *flusher) due(s *Store) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirtySince.IsZero() {
		return false
	}
	if f.applied-f.safe >= s.o.MaxUnflushed/2 {
		return true
	}
	return s.o.FlushInterval > 0 && s.o.Now().Sub(f.dirtySince) >= s.o.FlushInterval
}

func (f *flusher) release() {
	f.mu.Lock()
	f.running = false
	f.mu.Unlock()
	f.cond.Broadcast()
}

// flushIfPossible flushes unless the disk is nearly full: then flushing could make Pebble fail for good.
func (s *Store) flushIfPossible() {
	if s.space.low() {
		return
	}
	if err := s.flushNow(); err != nil {
		s.o.Logger.Warn("engine: flush", "error", err)
	}
}

func (s *Store) flushNow() error {
	if s.broken() {
		return s.failure()
	}
	trouble := s.flush.troubleChan()
	done, err := s.db.AsyncFlush()
	if err != nil {
		return s.storeErr("flush", nil, err)
	}
	select {
	case <-done:
	case <-s.failed: // Pebble may never finish
		return s.failure()
	case <-trouble: // Pebble goes on trying, the caller need not wait for that
		err := s.flush.whatTrouble()
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			s.space.exhausted()
			return fmt.Errorf("%w: flush: %w", ErrNoSpace, err)
		}
		return fmt.Errorf("engine: flush: %w", err)
	}
	s.stats.flushes.Add(1)
	return s.settle()
}

// settle takes note of what Pebble has flushed and lets go of log that is not needed any more.
func (s *Store) settle() error {
	row, err := s.durableRow()
	if err != nil {
		return err
	}
	f := &s.flush
	f.mu.Lock()
	moved := row.index > f.durable.Load()
	if moved {
		f.durable.Store(row.index)
	}
	if i := markAt(f.marks, row.index); i >= 0 && f.marks[i].bytes > f.safe {
		f.safe = f.marks[i].bytes
	}
	if row.index >= s.applied.Load() {
		f.dirtySince = time.Time{}
		f.safe = f.applied
	} else if moved {
		f.dirtySince = s.o.Now() // roughly: what is dirty now came during the flush
	}
	f.mu.Unlock()
	f.cond.Broadcast()
	return s.truncateLog(row.index)
}

// markAt is the position of the last mark at or below index, -1 if there is none.
func markAt(marks []mark, index uint64) int {
	i, ok := slices.BinarySearchFunc(marks, index, func(m mark, ix uint64) int {
		switch {
		case m.index < ix:
			return -1
		case m.index > ix:
			return 1
		}
		return 0
	})
	if ok {
		return i
	}
	return i - 1
}

// durableRow reads the applied row as a crash right now would leave it.
func (s *Store) durableRow() (appliedRow, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: appliedKey, UpperBound: []byte{spaceMeta, metaApplied + 1}, OnlyReadGuaranteedDurable: true,
	})
	if err != nil {
		return appliedRow{}, s.storeErr("read", appliedKey, err)
	}
	defer it.Close()
	if !it.First() {
		if err := it.Error(); err != nil {
			return appliedRow{}, s.storeErr("read", appliedKey, err)
		}
		return appliedRow{}, nil
	}
	raw, err := it.ValueAndErr()
	if err != nil {
		return appliedRow{}, s.storeErr("read", appliedKey, err)
	}
	row, err := parseAppliedRow(raw)
	if err != nil {
		return appliedRow{}, s.storeErr("read", appliedKey, err)
	}
	return row, nil
}

// seed spreads the log that existed at open evenly over its indexes, so that retention holds across restarts.
func (f *flusher) seed(first, last uint64, bytes int64) {
	if last < first || last == 0 {
		return
	}
	const pieces = 64
	n := last - first + 1
	for i := uint64(1); i <= pieces; i++ {
		ix := first + n/pieces*i
		if i == pieces {
			ix = last
		}
		if len(f.marks) > 0 && f.marks[len(f.marks)-1].index >= ix {
			continue
		}
		f.marks = append(f.marks, mark{ix, -bytes + bytes/pieces*int64(i)})
	}
	f.marks[len(f.marks)-1].bytes = 0
}

// truncateLog drops log that is flushed, not pinned, and beyond RetainLog.
func (s *Store) truncateLog(durable uint64) error {
	f := &s.flush
	f.mu.Lock()
	keep := max(s.o.RetainLog, 0)
	cut := uint64(0)
	for _, m := range f.marks {
		if f.applied-m.bytes < keep || m.index > durable {
			break
		}
		cut = m.index
	}
	for _, pin := range f.pins {
		cut = min(cut, max(pin, 1)-1)
	}
	f.mu.Unlock()
	first := s.log.FirstIndex()
	if cut <= first || cut > s.log.LastIndex() {
		return nil
	}
	// Entries up to cut may go; the entry at cut stays, so that the log is never empty.
	if err := s.log.TruncateFront(cut); err != nil {
		return s.logErr(fmt.Errorf("engine: truncate the log: %w", err))
	}
	f.mu.Lock()
	if i := markAt(f.marks, cut-1); i > 0 {
		f.marks = slices.Delete(f.marks, 0, i)
	}
	f.mu.Unlock()
	return s.dropMarkers(s.log.FirstIndex())
}

// dropMarkers forgets refusals of entries that the log no longer holds.
func (s *Store) dropMarkers(first uint64) error {
	gone := false
	s.mu.Lock()
	for i := range s.rejected {
		if i < first {
			delete(s.rejected, i)
			gone = true
		}
	}
	s.mu.Unlock()
	if !gone {
		return nil
	}
	if err := s.db.DeleteRange(markerKey(0), markerKey(first), pebble.NoSync); err != nil {
		return s.storeErr("delete", markerKey(0), err)
	}
	return nil
}

// Checkpoint flushes everything applied so far into Pebble and returns the durable applied index. It gives up at the
// first failure of the flush (ErrNoSpace on a full disk); the flush itself is tried again in the background.
func (s *Store) Checkpoint() (index uint64, err error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.end()
	if s.space.low() {
		return 0, fmt.Errorf("%w: not flushing on a nearly full disk", ErrNoSpace)
	}
	if err := s.flushNow(); err != nil {
		return 0, err
	}
	return s.DurableIndex(), nil
}

// PinLog keeps log entries at and above index from being dropped, until UnpinLog or a later PinLog of the same name.
// Backups, archivers and slow followers use it. Pins do not outlive the process.
func (s *Store) PinLog(name string, index uint64) {
	s.flush.mu.Lock()
	defer s.flush.mu.Unlock()
	s.flush.pins[name] = index
}

// UnpinLog releases a pin.
func (s *Store) UnpinLog(name string) {
	s.flush.mu.Lock()
	defer s.flush.mu.Unlock()
	delete(s.flush.pins, name)
}
