package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/erlmcp/erlmcp/wal"
)

// Store is an open data directory. All methods are safe for concurrent use.
//
// Ownership: ap (the applier) belongs to the apply loop; it alone changes Pebble rows, indexes, lanes and applied. mu makes
// these changes visible at once: it is held while a group's batch is committed and while a version is taken. The flusher
// goroutine owns flushing and log truncation, the sweeper proposes removals of expired rows. win has its own lock,
// which is never held while mu is taken.
type Store struct {
	o        Options
	dir      string
	walDir   string
	storeDir string
	maxEntry int
	ident    identity
	seal     *sealer
	lock     io.Closer
	db       *pebble.DB
	log      *wal.Log
	com      Committer

	byTable map[string][]int // table -> positions in indexes
	byName  map[string]int   // index name -> position
	win     *window
	ap      applier
	flush   flusher
	sweep   sweeper
	space   spaceCheck

	mu       sync.Mutex
	indexes  []*liveIndex // trees guarded by mu
	current  *version     // newest version with users, nil if none
	hashes   hashRing
	lanes    lanes
	rejected map[uint64]byte // markers of the retained log
	moved    chan struct{}   // closed and replaced when applied moves; nil if nobody waits
	active   int             // running Update, View, Verify calls
	closing  bool
	idle     chan struct{} // closed when closing and active reaches 0

	applied  atomic.Uint64
	distrust bool // tests: apply looks at the rows even where the window proves the answer

	failOnce  sync.Once
	failErr   atomic.Pointer[error]
	failed    chan struct{}
	damage    atomic.Pointer[string] // see Damaged
	pebbleLog *pebbleLogger
	stop      chan struct{} // ends the background goroutines
	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error

	stats     counters
	snapshots atomic.Int64
	watchers  atomic.Int64
}

// View runs fn on a consistent snapshot of the newest applied state; on a replicated store everything committed
// anywhere before the call is in it. fn cannot write.
func (s *Store) View(ctx context.Context, fn func(tx *Tx) error) error {
	return s.view(ctx, fn, !IsStale(ctx))
}

type staleKey struct{}

// WithStale returns a context with which View is ViewLocal: for whoever would rather have an old answer than none. Update is not
// affected.
func WithStale(ctx context.Context) context.Context { return context.WithValue(ctx, staleKey{}, true) }

// IsStale reports whether ctx comes from WithStale.
func IsStale(ctx context.Context) bool {
	stale, _ := ctx.Value(staleKey{}).(bool)
	return stale
}

// ViewLocal is View without asking other nodes: on a replicated store the state may be old.
func (s *Store) ViewLocal(ctx context.Context, fn func(tx *Tx) error) error {
	return s.view(ctx, fn, false)
}

func (s *Store) view(ctx context.Context, fn func(tx *Tx) error, barrier bool) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	if err := ctx.Err(); err != nil {
		return err
	}
	if barrier {
		if err := s.com.Barrier(ctx); err != nil {
			return fmt.Errorf("engine: read barrier: %w", err)
		}
	}
	tx := &Tx{s: s, cfg: &txConfig{}, now: s.now()}
	defer tx.close()
	if err := tx.open(); err != nil {
		return err
	}
	return fn(tx)
}

// Update runs fn in a transaction and commits what it wrote; it answers when the change is durable and applied. When
// another transaction got in the way fn is run again, until ctx ends or the tries are used up (ErrConflict), so fn
// must have no effects besides tx. An error from fn, or a panic, abandons the transaction. A fn that writes nothing
// commits nothing, but its reads are as current and consistent as View's.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error, opts ...TxOption) (Result, error) {
	cfg := txConfig{maxTries: defaultTries}
	for _, o := range opts {
		o(&cfg)
	}
	if err := cfg.check(); err != nil {
		return Result{}, err
	}
	return s.update(ctx, fn, &cfg, false)
}

func (c *txConfig) check() error {
	switch {
	case len(c.actor) > maxActorBytes || len(c.label) > maxActorBytes:
		return fmt.Errorf("%w: actor and label are at most %d bytes", ErrTooLarge, maxActorBytes)
	case len(c.idemKey) > maxIdemKeyBytes:
		return fmt.Errorf("%w: idempotency key of %d bytes, limit %d", ErrTooLarge, len(c.idemKey), maxIdemKeyBytes)
	case len(c.requestHash) > maxReqHashBytes:
		return fmt.Errorf("%w: request hash of %d bytes, limit %d", ErrTooLarge, len(c.requestHash), maxReqHashBytes)
	case c.durability > Async:
		return fmt.Errorf("%w: durability %d", ErrInvalid, c.durability)
	case c.maxTries < 1:
		return fmt.Errorf("%w: %d tries", ErrInvalid, c.maxTries)
	}
	return nil
}

func (s *Store) update(ctx context.Context, fn func(tx *Tx) error, cfg *txConfig, system bool) (Result, error) {
	if s.o.ReadOnly {
		return Result{}, ErrReadOnly
	}
	if err := s.begin(); err != nil {
		return Result{}, err
	}
	defer s.end()
	var turn *foot // the footprint this transaction was queued for
	for try := 1; ; try++ {
		res, c, err := s.attempt(ctx, fn, cfg, system, turn)
		if c == nil {
			return res, err
		}
		s.stats.conflicts.Add(1)
		if try >= cfg.maxTries {
			return Result{}, fmt.Errorf("%w: still after %d tries", ErrConflict, try)
		}
		s.stats.retries.Add(1)
		if turn, err = s.await(ctx, c, turn, try); err != nil {
			return Result{}, err
		}
	}
}

// await waits until it makes sense to run a conflicting transaction again.
func (s *Store) await(ctx context.Context, c *conflict, turn *foot, try int) (*foot, error) {
	if !c.pending {
		if err := s.waitApplied(ctx, c.index); err != nil {
			return nil, err
		}
		if try > 3 { // several got in the way: spread out
			return nil, s.pause(ctx, time.Duration(rand.Int64N(int64(min(try, 32))*int64(100*time.Microsecond))))
		}
		return nil, nil
	}
	ch := s.win.join(c.foot, turn != nil && *turn == c.foot)
	if ch == nil {
		return nil, nil
	}
	select {
	case <-ch:
		return &c.foot, nil
	case <-ctx.Done():
		s.win.leave(c.foot, ch)
		return nil, ctx.Err()
	case <-s.failed:
		return nil, s.failure()
	}
}

func (s *Store) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.failed:
		return s.failure()
	}
}

// attempt runs fn once. A conflict is returned as such and not as an error. Whatever happens, the turn at a contended
// footprint is handed on: the next in line may find it taken by this transaction's successor and queue again, but
// nobody waits for a wake-up that nobody owes.
func (s *Store) attempt(ctx context.Context, fn func(tx *Tx) error, cfg *txConfig, system bool, turn *foot) (Result, *conflict, error) {
	if turn != nil {
		defer s.win.pass(*turn)
	}
	if err := ctx.Err(); err != nil {
		return Result{}, nil, err
	}
	if err := s.writable(); err != nil {
		return Result{}, nil, err
	}
	tx := &Tx{s: s, cfg: cfg, now: s.now(), writable: true, system: system}
	defer tx.close()
	if cfg.idemKey != "" {
		if cfg.durability == Async {
			return Result{}, nil, ErrAsyncReads // looking for the key is a read
		}
		if res, found, err := tx.recorded(); found || err != nil {
			return res, nil, err
		}
	}
	if err := fn(tx); err != nil {
		return Result{}, nil, err
	}
	along := tx.companion(ctx)
	if err := along.join(tx); err != nil {
		return Result{}, nil, err
	}
	if tx.size > s.maxEntry {
		return Result{}, nil, fmt.Errorf("%w: transaction of more than %d bytes", ErrTooLarge, s.maxEntry)
	}
	if cfg.durability == Async && len(tx.reads)+len(tx.scans) > 0 {
		return Result{}, nil, ErrAsyncReads
	}
	ws := tx.writeSet()
	if len(ws.Ops) == 0 && cfg.idemKey == "" {
		c, err := s.confirmReads(ctx, tx, ws)
		return Result{Outcome: tx.outcome}, c, err
	}
	feet, err := tx.feet()
	if err != nil {
		return Result{}, nil, err
	}
	res, c, err := s.commit(ctx, ws, feet, cfg)
	if c == nil && err == nil && !res.Duplicate {
		along.went()
	}
	return res, c, err
}

// recorded looks for the outcome of an earlier call with the same idempotency key.
func (tx *Tx) recorded() (Result, bool, error) {
	if err := tx.open(); err != nil {
		return Result{}, false, err
	}
	r, err := tx.v.readRow(appendRowKey(nil, idemTable, []byte(tx.cfg.idemKey)))
	if errors.Is(err, ErrNotFound) {
		return Result{}, false, nil
	}
	if err != nil {
		return Result{}, false, err
	}
	rec, err := parseIdemRow(r.value)
	if err != nil {
		return Result{}, false, tx.s.storeErr("read", []byte(tx.cfg.idemKey), err)
	}
	if string(rec.reqHash) != string(tx.cfg.requestHash) {
		return Result{}, true, fmt.Errorf("%w: key %q", ErrIdempotencyMismatch, tx.cfg.idemKey)
	}
	tx.s.stats.duplicates.Add(1)
	return Result{Index: rec.index, Duplicate: true, Outcome: rec.outcome}, true, nil
}

// confirmReads makes a transaction without writes as current as View: after a barrier what it read must still hold.
func (s *Store) confirmReads(ctx context.Context, tx *Tx, ws *WriteSet) (*conflict, error) {
	if _, local := s.com.(*localCommitter); local || tx.v == nil {
		return nil, nil // every acknowledged write was applied before the version was taken
	}
	if err := s.com.Barrier(ctx); err != nil {
		return nil, fmt.Errorf("engine: read barrier: %w", err)
	}
	_, c, err := s.revalidate(ws)
	return c, err
}

// revalidate checks the reads of a write set against the newest version and returns its index.
func (s *Store) revalidate(ws *WriteSet) (uint64, *conflict, error) {
	v, err := s.acquire()
	if err != nil {
		return 0, nil, err
	}
	defer v.release()
	if v.index == ws.Snapshot {
		return v.index, nil, nil
	}
	ok, err := s.readsHold(v, ws)
	if err != nil {
		return 0, nil, err
	}
	if !ok {
		return 0, &conflict{index: v.index}, nil
	}
	return v.index, nil, nil
}

// now is the present in the resolution of the log.
func (s *Store) now() time.Time { return s.o.Now().UTC().Truncate(time.Millisecond) }

// begin registers a running call; end must follow.
func (s *Store) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrClosed
	}
	if s.broken() {
		return s.failure()
	}
	s.active++
	return nil
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if s.closing && s.active == 0 {
		close(s.idle)
	}
}

// waitApplied waits until the applied index is at least index.
func (s *Store) waitApplied(ctx context.Context, index uint64) error {
	for s.applied.Load() < index {
		s.mu.Lock()
		if s.moved == nil {
			s.moved = make(chan struct{})
		}
		moved := s.moved
		there := s.applied.Load() >= index
		s.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.failed:
			return s.failure()
		case <-s.stop:
			return ErrClosed
		}
	}
	return nil
}

// AppliedIndex is the log index of the newest applied entry.
func (s *Store) AppliedIndex() uint64 { return s.applied.Load() }

// DurableIndex is the newest applied index known to be flushed into Pebble; replay after a crash starts behind it.
func (s *Store) DurableIndex() uint64 { return s.flush.durable.Load() }

// Log is the store's log. Only the owner of the commit order (the Committer) may append to it.
func (s *Store) Log() *wal.Log { return s.log }

// Recovery is what opening the log found.
func (s *Store) Recovery() wal.Recovery { return s.log.Recovery() }

// StateHash returns the applied index and the hash of all rows at it. Equal on all nodes at equal index.
func (s *Store) StateHash() (index uint64, hash [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied.Load(), s.lanes.bytes()
}

// StateHashAt returns the state hash at one of the last 4096 applied indexes.
func (s *Store) StateHashAt(index uint64) (hash [32]byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.hashes.at(index)
	return l.bytes(), ok
}

// hashRing remembers the state hash at recent indexes.
type hashRing struct {
	ring []struct {
		index uint64
		lanes lanes
	}
}

const hashRingSize = 4096

func (r *hashRing) put(index uint64, l lanes) {
	if r.ring == nil {
		r.ring = make([]struct {
			index uint64
			lanes lanes
		}, hashRingSize)
	}
	e := &r.ring[index%hashRingSize]
	e.index, e.lanes = index, l
}

func (r *hashRing) at(index uint64) (lanes, bool) {
	if r.ring == nil {
		return lanes{}, false
	}
	e := r.ring[index%hashRingSize]
	if e.index != index {
		return lanes{}, false
	}
	return e.lanes, true
}

// Failed is closed when the store has failed for good; the process must then exit with an error.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err is the reason of the failure, nil before.
func (s *Store) Err() error {
	if p := s.failErr.Load(); p != nil {
		return *p
	}
	return nil
}

func (s *Store) broken() bool { return s.failErr.Load() != nil }

// failure is the error callers get from a failed store.
func (s *Store) failure() error {
	if err := s.Err(); err != nil {
		return err
	}
	return ErrFailed
}

// Damaged is the first damage that was met in the files of the rows since the store was opened, "" if none was. What met it got
// an error; the rest works.
func (s *Store) Damaged() string {
	if p := s.damage.Load(); p != nil {
		return *p
	}
	return ""
}

// fail stops the store for good. Only the first cause counts.
func (s *Store) fail(doing string, cause error) error {
	s.failOnce.Do(func() {
		err := fmt.Errorf("%w: %s: %w", ErrFailed, doing, cause)
		s.failErr.Store(&err)
		close(s.failed)
	})
	return s.failure()
}
