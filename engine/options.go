package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options configure a store. The zero value is a working single-node store.
type Options struct {
	FS           vfs.FS // file system of log and store; default vfs.Default
	SegmentSize  int64  // bytes per log segment; 0: the log's default (64 MiB)
	Key          []byte // 32 bytes: encrypt log and values at rest with AES-256-GCM; nil: plain
	MemTableSize uint64 // bytes per Pebble memtable; default 16 MiB, at least 256 KiB
	CacheSize    int64  // bytes that Pebble's memtables, usually two, and cached blocks may take together; default two of them and 16 MiB
	RecentRows   int    // rows written last that are remembered (128 bytes each, as they come), so that writing them again reads nothing; default 131072, negative: none

	MaxUnflushed  int64         // bytes of log not yet flushed into Pebble: flush at half, hold commits at full; default 256 MiB
	FlushInterval time.Duration // state dirty for longer than this is flushed; default 30 s, negative: never by age
	RetainLog     int64         // bytes of flushed log kept for audit, watch and tcpsdump; default 256 MiB, negative: none

	MaxPending      int    // transactions in the commit queue, beyond: ErrOverloaded; default 4096
	MaxPendingBytes int64  // bytes in the commit queue, beyond: ErrOverloaded; default 64 MiB
	MinFreeDisk     uint64 // free bytes below which writes get ErrNoSpace; default 128 MiB; 1 turns the check off in effect

	MaxValueBytes int // default 16 MiB
	MaxKeyBytes   int // default 1024

	IdempotencyTTL time.Duration // how long an idempotency key is remembered; default 24 h
	SweepInterval  time.Duration // how often expired rows are looked for; default 1 s, negative: only by SweepExpired

	Indexes   []IndexSpec
	Committer func(*Store) (Committer, error) // nil: the single-node committer (append to the log, then apply)

	Now    func() time.Time // default time.Now
	Rand   io.Reader        // default crypto/rand.Reader; must be safe for concurrent use
	Logger *slog.Logger     // default: discard
	// ReadOnly opens for reading only: Update returns ErrReadOnly. The directory is still locked and the log
	// replayed; for looking at a directory that may be in use or damaged see OpenReadOnly.
	ReadOnly bool
	// NoCompaction keeps the row store as it is but for flushes: for a process that opens a store for a moment, which would only begin
	// rewriting tables and compete with that for the processor.
	NoCompaction bool
}

// IndexSpec describes a secondary index of one table. Keys must be a pure function of its arguments and must
// not keep or change them; it returns 0..n index keys for a row and runs on the apply path, so it must be quick
// and must not panic. A changed Keys function needs a new Name: the log may hold entries that were checked with the old
// one. All nodes of a replicated store must have the same indexes.
type IndexSpec struct {
	Name  string
	Table string
	Keys  func(key, value []byte) [][]byte
}

// Durability says when Update may answer.
type Durability uint8

const (
	// Sync: the answer means durable (on a quorum when replicated) and applied. The default.
	Sync Durability = iota
	// Async: the answer means queued in log order; it becomes durable shortly after, or not at all if the
	// process dies first. Only for transactions without reads.
	Async
)

// TxOption changes one call of Update.
type TxOption func(*txConfig)

type txConfig struct {
	actor       string
	label       string
	idemKey     string
	requestHash []byte
	durability  Durability
	maxTries    int
}

// WithActor names who makes the change; it is stored in the log. At most 1024 bytes.
func WithActor(actor string) TxOption { return func(c *txConfig) { c.actor = actor } }

// WithLabel names the operation; it is stored in the log. At most 1024 bytes.
func WithLabel(label string) TxOption { return func(c *txConfig) { c.label = label } }

// WithIdempotencyKey makes the transaction happen at most once: a second call with the same key returns the first
// one's recorded outcome without running the function. The same key with another request hash is
// ErrIdempotencyMismatch. Key: 1..512 bytes (empty: no key); hash: at most 64 bytes. Remembered for Options.IdempotencyTTL.
func WithIdempotencyKey(key string, requestHash []byte) TxOption {
	return func(c *txConfig) { c.idemKey, c.requestHash = key, requestHash }
}

// WithDurability chooses Sync (default) or Async.
func WithDurability(d Durability) TxOption { return func(c *txConfig) { c.durability = d } }

// WithMaxTries bounds how often a conflicting transaction is run; default 64, 1 means no retry.
func WithMaxTries(n int) TxOption { return func(c *txConfig) { c.maxTries = n } }

// Committer makes write sets durable in one order and has them applied. The store's own appends to the log;
// replication supplies one that runs consensus over the same log.
type Committer interface {
	// Commit proposes an encoded write set. ws must not be changed by either side afterwards. A nil error means
	// done is called exactly once, from any goroutine, after the write set was durably logged and applied (or
	// refused: out.Err), or could not be committed (err). A non-nil error means it was not
	// placed and done is never called. Commit must not block for longer than it takes to queue.
	// done must not be called from within Commit. With Async, done is called all the same; only the store's caller does not wait for it.
	Commit(ctx context.Context, ws []byte, d Durability, done func(index uint64, out ApplyOutcome, err error)) error
	// Barrier returns when everything committed anywhere before the call is applied here.
	Barrier(ctx context.Context) error
	// Close stops the committer; all outstanding done functions are called before it returns.
	Close() error
}

// Sweeping is implemented by a Committer that lets only one node propose removals of expired rows.
type Sweeping interface{ MaySweep() bool }

// ApplyOutcome is what Apply decided about one log entry.
type ApplyOutcome struct {
	Index     uint64
	Err       error  // nil, ErrConflict, ErrIdempotencyMismatch, ErrMalformed; ErrFailed when the store failed
	Duplicate bool   // the idempotency key was known: nothing applied, Outcome is the recorded one
	First     uint64 // for a duplicate: the index that did the work
	Outcome   []byte
}

// Result is the answer of Update.
type Result struct {
	Index     uint64 // log index of the change; 0 when nothing was written, and for Async
	Duplicate bool   // the idempotency key was known; Index and Outcome are those of the first call
	Outcome   []byte // what SetOutcome recorded
}

const (
	defaultMemTable       = 16 << 20
	defaultBlocks         = 16 << 20
	defaultRecentRows     = 128 << 10
	defaultMaxUnflushed   = 256 << 20
	defaultRetainLog      = 256 << 20
	defaultFlushInterval  = 30 * time.Second
	defaultMaxPending     = 4096
	defaultMaxPendBytes   = 64 << 20
	defaultMinFreeDisk    = 128 << 20
	defaultMaxValue       = 16 << 20
	defaultMaxKey         = 1024
	defaultIdempotencyTTL = 24 * time.Hour
	defaultSweepInterval  = time.Second
	defaultTries          = 64

	maxNameBytes    = 64 // table and index names
	maxActorBytes   = 1024
	maxIdemKeyBytes = 512
	maxReqHashBytes = 64
)

func orDefault[T int | int64 | uint64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// withDefaults fills in defaults and refuses what cannot work.
func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	orDefault(&o.MemTableSize, defaultMemTable)
	// What memtables hold is taken out of the cache: one that is not larger than two of them caches nothing, and every write then
	// reads filters and indexes from the files to find the row's old version, at twice the processor time per row.
	orDefault(&o.CacheSize, 2*int64(o.MemTableSize)+defaultBlocks)
	orDefault(&o.RecentRows, defaultRecentRows)
	orDefault(&o.MaxUnflushed, defaultMaxUnflushed)
	orDefault(&o.RetainLog, defaultRetainLog)
	orDefault(&o.FlushInterval, defaultFlushInterval)
	orDefault(&o.MaxPending, defaultMaxPending)
	orDefault(&o.MaxPendingBytes, defaultMaxPendBytes)
	orDefault(&o.MinFreeDisk, defaultMinFreeDisk)
	orDefault(&o.MaxValueBytes, defaultMaxValue)
	orDefault(&o.MaxKeyBytes, defaultMaxKey)
	orDefault(&o.IdempotencyTTL, defaultIdempotencyTTL)
	orDefault(&o.SweepInterval, defaultSweepInterval)
	return o, o.check()
}

func (o Options) check() error {
	for _, c := range []struct {
		bad  bool
		what string
	}{
		{len(o.Key) != 0 && len(o.Key) != 32, "Key must be 32 bytes"},
		{o.MemTableSize < 256<<10, "MemTableSize must be at least 256 KiB"},
		{o.CacheSize < 0, "CacheSize must not be negative"},
		{o.MaxUnflushed < 1<<20, "MaxUnflushed must be at least 1 MiB"},
		{o.MaxPending < 1, "MaxPending must be at least 1"},
		{o.MaxPendingBytes < 1<<10, "MaxPendingBytes must be at least 1 KiB"},
		{o.MaxValueBytes < 1, "MaxValueBytes must be at least 1"},
		{o.MaxKeyBytes < 1 || o.MaxKeyBytes > 32<<10, "MaxKeyBytes must be 1..32768"},
		{o.IdempotencyTTL < time.Second, "IdempotencyTTL must be at least 1 s"},
	} {
		if c.bad {
			return fmt.Errorf("%w: options: %s", ErrInvalid, c.what)
		}
	}
	names := map[string]bool{}
	for _, ix := range o.Indexes {
		if !validName(ix.Name) || names[ix.Name] {
			return fmt.Errorf("%w: index name %q is not [a-z0-9_]{1,64} or is used twice", ErrInvalid, ix.Name)
		}
		if !validName(ix.Table) || ix.Keys == nil {
			return fmt.Errorf("%w: index %s needs a table and a Keys function", ErrInvalid, ix.Name)
		}
		names[ix.Name] = true
	}
	return nil
}

// validName reports whether s is a table or index name: [a-z0-9_]{1,64}.
func validName(s string) bool {
	if s == "" || len(s) > maxNameBytes {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
