package engine

import (
	"context"
	"time"
)

// Store is an open data directory. Safe for concurrent use.
type Store struct{}

// Open opens or creates the store in dir.
func Open(dir string, o Options) (*Store, error) { return nil, ErrClosed }

// Update runs fn in a transaction and commits what it wrote.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error, opts ...TxOption) (Result, error) {
	return Result{}, ErrClosed
}

// View runs fn on a consistent snapshot of the newest applied state.
func (s *Store) View(ctx context.Context, fn func(tx *Tx) error) error { return ErrClosed }

// Watch returns a watcher of committed changes.
func (s *Store) Watch(ctx context.Context, o WatchOptions) *Watcher { return &Watcher{} }

// StateHash returns the applied index and the hash of all rows there.
func (s *Store) StateHash() (index uint64, hash [32]byte) { return }

// StateHashAt returns the state hash at a recent index.
func (s *Store) StateHashAt(index uint64) (hash [32]byte, ok bool) { return }

// Checkpoint flushes and returns the durable applied index.
func (s *Store) Checkpoint() (index uint64, err error) { return 0, ErrClosed }

// AppliedIndex is the log index of the newest applied entry.
func (s *Store) AppliedIndex() uint64 { return 0 }

// DurableIndex is the newest applied index that is flushed into Pebble.
func (s *Store) DurableIndex() uint64 { return 0 }

// Stats returns counters and gauges.
func (s *Store) Stats() Stats { return Stats{} }

// Verify re-reads and re-computes everything.
func (s *Store) Verify(ctx context.Context) (VerifyReport, error) { return VerifyReport{}, ErrClosed }

// Failed is closed when the store has failed for good.
func (s *Store) Failed() <-chan struct{} { return nil }

// Err is the reason of the failure, nil before.
func (s *Store) Err() error { return ErrClosed }

// Close flushes and releases the directory.
func (s *Store) Close() error { return nil }

// SweepExpired proposes the removal of expired rows now.
func (s *Store) SweepExpired(ctx context.Context) (int, error) { return 0, ErrClosed }

// Range selects keys in [Lo, Hi); nil is open. Limit 0 is no limit.
type Range struct {
	Lo, Hi  []byte
	Reverse bool
	Limit   int
}

// Prefix is the range of all keys that begin with p.
func Prefix(p []byte) Range { return Range{} }

// Tx is a transaction.
type Tx struct{}

// Get returns a copy of the row's value, or ErrNotFound.
func (tx *Tx) Get(table string, key []byte) ([]byte, error) { return nil, ErrClosed }

// GetVersion also returns the log index that wrote the row.
func (tx *Tx) GetVersion(table string, key []byte) (value []byte, modIndex uint64, err error) {
	return nil, 0, ErrClosed
}

// Put writes a row.
func (tx *Tx) Put(table string, key, value []byte) error { return ErrClosed }

// PutUntil writes a row that expires.
func (tx *Tx) PutUntil(table string, key, value []byte, deadline time.Time) error { return ErrClosed }

// Delete removes a row; removing an absent row is no error.
func (tx *Tx) Delete(table string, key []byte) error { return ErrClosed }

// Scan calls fn for each row of the range until it returns false. fn may keep key and value.
func (tx *Tx) Scan(table string, r Range, fn func(key, value []byte) bool) error { return ErrClosed }

// ScanIndex calls fn for each index entry of the range, ordered by (indexKey, key).
func (tx *Tx) ScanIndex(index string, r Range, fn func(indexKey, key, value []byte) bool) error {
	return ErrClosed
}

// SetOutcome records what a repeated idempotency key returns.
func (tx *Tx) SetOutcome(b []byte) {}

// Now is the transaction's time.
func (tx *Tx) Now() time.Time { return time.Time{} }

// Actor is who makes the change.
func (tx *Tx) Actor() string { return "" }

// WatchOptions select changes.
type WatchOptions struct {
	Table  string // "" is every table (engine tables excepted)
	Prefix []byte // of the key
	From   uint64 // first wanted index; 0: only what is committed after the call of Watch
}

// Event is one committed change of one row.
type Event struct {
	Index        uint64
	Time         time.Time
	Actor, Label string
	Table        string
	Key, Value   []byte
	Deleted      bool
}

// Watcher delivers events in log order. One goroutine may call Next at a time.
type Watcher struct{}

// Next waits for the next event. ErrCompacted, ErrClosed, ErrFailed or the context's error end the watch.
func (w *Watcher) Next() (Event, error) { return Event{}, ErrClosed }

// Close ends the watch; a waiting Next returns ErrClosed.
func (w *Watcher) Close() error { return nil }

// Stats are counters since open and present gauges.
type Stats struct {
	Applied, Durable     uint64 // log indexes
	Commits, Conflicts   uint64 // acknowledged transactions; conflicts seen by the sequencer or at apply
	Retries, Duplicates  uint64
	Rejected, Overloaded uint64 // refused at apply (markers in the log); refused at the queue
	NoSpace              uint64 // refused for want of disk space
	Groups, Entries      uint64 // apply groups and entries
	Pending              int    // transactions in the commit queue
	PendingBytes         int64
	AsyncPending         int // of them Async: not yet durable though answered
	UnflushedBytes       int64
	FreeDisk             uint64 // last known free bytes; MaxUint64: unlimited
	Expired, Flushes     uint64
	Snapshots            int // versions held by running transactions
	Watchers             int
	IndexEntries         int
	ReplayedEntries      uint64
	ReplayDuration       time.Duration
	OpenDuration         time.Duration
	StoreBytes           uint64 // disk space of Pebble
	TruncatedTo          uint64 // first index of the log
}

// VerifyReport is the result of Verify.
type VerifyReport struct {
	Index       uint64
	Rows        uint64
	Bytes       uint64
	IndexRows   uint64
	Tables      map[string]uint64 // rows per table
	StateHash   [32]byte
	SSTables    int
	SSTBytes    uint64
	LogEntries  uint64
	LogSegments int
	Findings    []Finding
	Duration    time.Duration
}

// Finding is one thing Verify found wrong.
type Finding struct {
	Kind    string // "state-hash", "row", "index", "deadline", "sstable", "log", "meta"
	Where   string
	Message string
	Advice  string
}

// OK reports whether nothing was found.
func (r VerifyReport) OK() bool { return len(r.Findings) == 0 }
