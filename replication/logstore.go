package replication

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
)

// ErrHalted: the log cannot serve raft any more. It wraps the reason.
var ErrHalted = errors.New("replication: the log of this node cannot be used any more")

// ErrGap: entries do not follow the newest one, or a range lies in the middle of the log. Nothing was changed.
var ErrGap = errors.New("replication: entries would not be contiguous")

// LogOptions configure a LogStore. The zero value works.
type LogOptions struct {
	// MaxAppendBytes bounds the entries of one append to the log; a longer StoreLogs is several appends. Default
	// 4 MiB, the log's own group commit.
	MaxAppendBytes int
	// RecentBytes bounds the data of the newest entries that are kept as raft gave them; default 4 MiB, negative: none.
	RecentBytes int
	// SpaceRetry is how often a vote or term that met a full disk is tried again; default 50 ms.
	SpaceRetry time.Duration
	// Halt is called, on raft's goroutine, when a write tells that raft must not go on with this log. Raft answers
	// some errors with a panic; a Halt that does not return keeps it from doing so. nil: the error is returned.
	Halt func(error)
}

// A LogStore is raft's LogStore and StableStore on a log of package wal. It also implements
// raft.MonotonicLogStore and raft.CommitTrackingLogStore. The log is not closed by it.
//
// All methods are safe for concurrent use, but the log must have no other appender. mu serialises what changes
// the log's end, and guards staged, scratch and shortened; reads go to the newest entries in memory or straight to the log.
//
// Fail-stop: after an error that leaves raft and the log with different views (a failed or closed log, damage,
// an append that could not be taken back) every write halts, so that this node stops instead of guessing. What is
// durable can still be read.
type LogStore struct {
	log    *wal.Log
	o      LogOptions
	recent *recent // a part of what is durable
	pace   *pace

	mu        sync.Mutex
	staged    uint64
	shortened bool // the end was cut and nothing has been stored since; raft still counts the entries
	scratch   []wal.Entry

	once    sync.Once
	halted  chan struct{}
	reason  error
	release chan struct{} // closed by Interrupt
	ended   sync.Once
}

var (
	_ raft.LogStore               = (*LogStore)(nil)
	_ raft.MonotonicLogStore      = (*LogStore)(nil)
	_ raft.CommitTrackingLogStore = (*LogStore)(nil)
	_ raft.StableStore            = (*LogStore)(nil)
)

// NewLogStore returns raft's view of the log.
func NewLogStore(log *wal.Log, o LogOptions) *LogStore {
	if o.MaxAppendBytes <= 0 {
		o.MaxAppendBytes = 4 << 20
	}
	if o.RecentBytes == 0 {
		o.RecentBytes = 4 << 20
	}
	if o.SpaceRetry <= 0 {
		o.SpaceRetry = 50 * time.Millisecond
	}
	return &LogStore{log: log, o: o, recent: newRecent(o.RecentBytes), pace: newPace(), halted: make(chan struct{}), release: make(chan struct{})}
}

// Halted is closed when the log cannot serve raft any more; Err then says why.
func (s *LogStore) Halted() <-chan struct{} { return s.halted }

// Err is the reason of the halt, an ErrHalted; nil before.
func (s *LogStore) Err() error {
	select {
	case <-s.halted:
		return s.reason
	default:
		return nil
	}
}

// condemn allows no more writes; only the first reason counts.
func (s *LogStore) condemn(reason error) error {
	s.once.Do(func() {
		s.reason = fmt.Errorf("%w: %w", ErrHalted, reason)
		close(s.halted)
	})
	return s.reason
}

// halt is how a write ends that must be the last one.
func (s *LogStore) halt(reason error) error {
	err := s.condemn(reason)
	if s.o.Halt != nil {
		s.o.Halt(err)
	}
	return err
}

// alive is the first line of every write.
func (s *LogStore) alive() error {
	select {
	case <-s.halted:
		return s.halt(s.reason)
	default:
	}
	if err := s.log.Err(); err != nil {
		return s.halt(err)
	}
	return nil
}

// FirstIndex returns the index of the oldest entry, 0 if there is none.
func (s *LogStore) FirstIndex() (uint64, error) { return s.log.FirstIndex(), nil }

// LastIndex returns the index of the newest durable entry, 0 if there is none.
func (s *LogStore) LastIndex() (uint64, error) { return s.log.LastIndex(), nil }

// GetLog reads the entry with the given index into l. Errors: raft.ErrLogNotFound outside the log, ErrHalted if the
// entry is damaged.
func (s *LogStore) GetLog(index uint64, l *raft.Log) error {
	if index >= s.log.FirstIndex() && s.recent.get(index, l) { // the engine lets go of the front of the log
		return nil
	}
	e, err := s.log.Get(index)
	if errors.Is(err, wal.ErrNotFound) { // raft takes it for "compacted away"; the log uses it for nothing else
		return raft.ErrLogNotFound
	}
	if err != nil {
		return s.condemn(fmt.Errorf("read entry %d: %w", index, err))
	}
	if err := decodeEntry(&e, l); err != nil {
		return s.condemn(err)
	}
	return nil
}

// StoreLog stores one entry.
func (s *LogStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries; all are durable when it returns nil, none is in the log when it returns an error.
// Entries must follow the newest one without a gap (ErrGap), except in an empty log, which may start anywhere.
// wal.ErrNoSpace and wal.ErrTooLarge may be tried again or not as they say; other errors halt.
func (s *LogStore) StoreLogs(logs []*raft.Log) error {
	if err := s.alive(); err != nil {
		return err
	}
	if len(logs) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := s.encode(logs)
	defer clear(entries)
	if err != nil {
		return err
	}
	if last := s.log.LastIndex(); last != 0 && entries[0].Index != last+1 {
		return fmt.Errorf("%w: entry %d after %d", ErrGap, entries[0].Index, last)
	}
	durable := s.log.CommitIndex()
	done := s.pace.writing()
	stored, err := s.appendAll(entries)
	done()
	if err == nil {
		s.shortened = false
		s.recent.put(logs)
		return nil
	}
	s.log.SetCommitIndex(durable)
	return s.undo(entries[0].Index, stored, err)
}

// encode fills scratch. mu is held.
func (s *LogStore) encode(logs []*raft.Log) ([]wal.Entry, error) {
	s.scratch = s.scratch[:0]
	for i, l := range logs {
		if want := logs[0].Index + uint64(i); l.Index != want || l.Index == 0 {
			return s.scratch, fmt.Errorf("%w: entry %d where %d belongs", ErrGap, l.Index, want)
		}
		e, err := encodeEntry(l)
		if err != nil {
			return s.scratch, err
		}
		s.scratch = append(s.scratch, e)
	}
	return s.scratch, nil
}

// appendAll appends entries in pieces the log accepts and returns how many are durable. mu is held.
func (s *LogStore) appendAll(entries []wal.Entry) (stored int, err error) {
	most := len(entries)
	for stored < len(entries) {
		n, size := 0, 0
		for stored+n < len(entries) && n < most && (n == 0 || size+len(entries[stored+n].Data) <= s.o.MaxAppendBytes) {
			size += len(entries[stored+n].Data)
			n++
		}
		piece := entries[stored : stored+n]
		// The commit index travels in the trailer of the batch that holds the entries, and never runs ahead of them.
		s.log.SetCommitIndex(min(s.staged, piece[n-1].Index))
		_, err := s.log.Append(piece...)
		if errors.Is(err, wal.ErrTooLarge) && n > 1 {
			most = n / 2 // the log's own limit follows from its segment size
			continue
		}
		if err != nil {
			return stored, err
		}
		stored += n
	}
	return stored, nil
}

// undo takes back the pieces of a StoreLogs that failed on the way: raft believes that none of it is there. mu is held.
func (s *LogStore) undo(first uint64, stored int, cause error) error {
	if errors.Is(cause, wal.ErrFailed) || errors.Is(cause, wal.ErrClosed) {
		return s.halt(cause)
	}
	if stored > 0 {
		if err := s.log.TruncateBack(first); err != nil {
			return s.halt(fmt.Errorf("take back entries from %d after %w: %w", first, cause, err))
		}
	}
	if s.shortened {
		// raft has not noticed that the end was cut (it learns of it from the append that follows a cut). It would
		// go on counting entries that are gone; a restart reads the truth.
		return s.halt(fmt.Errorf("append after a truncation: %w", cause))
	}
	return fmt.Errorf("replication: store entries from %d: %w", first, cause)
}

// DeleteRange removes the entries from lo to hi, both included: a prefix, a suffix or all of the log. A range in the
// middle is ErrGap; one that holds no entry changes nothing.
func (s *LogStore) DeleteRange(lo, hi uint64) error {
	if err := s.alive(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last := s.log.FirstIndex(), s.log.LastIndex()
	if last == 0 || lo > hi || lo > last || hi < first {
		return nil
	}
	s.recent.remove(lo, hi)
	var err error
	switch {
	case hi >= last && lo <= first: // everything; what comes next may start anywhere
		err = s.log.TruncateFront(last + 1)
		s.shortened = true
	case hi >= last:
		err = s.log.TruncateBack(lo)
		s.shortened = true
	case lo <= first:
		err = s.log.TruncateFront(hi + 1)
	default:
		return fmt.Errorf("%w: cannot remove %d..%d out of %d..%d", ErrGap, lo, hi, first, last)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, wal.ErrNoSpace):
		s.shortened = false
		return fmt.Errorf("replication: remove entries %d..%d: %w", lo, hi, err)
	}
	return s.halt(fmt.Errorf("remove entries %d..%d: %w", lo, hi, err))
}

// IsMonotonic tells raft that the log has no gaps: after a restore raft removes the old entries instead of leaving one.
func (s *LogStore) IsMonotonic() bool { return true }

// StageCommitIndex gives the commit index that the next StoreLogs makes durable together with its entries.
func (s *LogStore) StageCommitIndex(index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staged = max(s.staged, index)
	return nil
}

// GetCommitIndex returns the newest durable commit index, never beyond LastIndex; 0 if none is known.
func (s *LogStore) GetCommitIndex() (uint64, error) {
	return min(s.log.CommitIndex(), s.log.LastIndex()), nil
}
