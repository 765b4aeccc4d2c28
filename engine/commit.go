package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/erlmcp/erlmcp/wal"
)

// answer is what the committer reported about a write set.
type answer struct {
	index uint64
	out   ApplyOutcome
	err   error
}

// commit places a write set into the log order and waits for its application.
func (s *Store) commit(ctx context.Context, ws *WriteSet, feet []foot, cfg *txConfig) (Result, *conflict, error) {
	ch := make(chan answer, 1)
	c, err := s.place(ctx, ws, feet, cfg, ch)
	if c != nil || err != nil {
		return Result{}, c, err
	}
	if cfg.durability == Async {
		return Result{Outcome: ws.Outcome}, nil, nil
	}
	select {
	case a := <-ch:
		return s.interpret(ws, a)
	case <-s.failed:
		return Result{}, nil, s.failure()
	case <-ctx.Done():
		select {
		case a := <-ch:
			return s.interpret(ws, a)
		default:
		}
		return Result{}, nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
}

func (s *Store) interpret(ws *WriteSet, a answer) (Result, *conflict, error) {
	switch {
	case a.err != nil:
		return Result{}, nil, s.logErr(a.err)
	case errors.Is(a.out.Err, ErrConflict):
		return Result{}, &conflict{index: a.index}, nil
	case a.out.Err != nil:
		return Result{}, nil, a.out.Err
	case a.out.Duplicate:
		s.stats.duplicates.Add(1)
		return Result{Index: a.out.First, Duplicate: true, Outcome: a.out.Outcome}, nil, nil
	}
	s.stats.commits.Add(1)
	return Result{Index: a.index, Outcome: ws.Outcome}, nil, nil
}

// place is the sequencer: it refuses what is known to be stale and hands the rest to the committer, in one order.
func (s *Store) place(ctx context.Context, ws *WriteSet, feet []foot, cfg *txConfig, ch chan<- answer) (*conflict, error) {
	points, ranges := ws.points(nil), ws.ranges(nil)
	data := ws.Encode(make([]byte, 0, s.sizeHint(ws)))
	if len(data) > s.maxEntry {
		return nil, fmt.Errorf("%w: transaction of %d bytes, limit %d", ErrTooLarge, len(data), s.maxEntry)
	}
	snapshot := ws.Snapshot
	w := s.win
	w.mu.Lock()
	for {
		c, known := w.check(points, ranges, snapshot)
		if c != nil {
			w.mu.Unlock()
			return c, nil
		}
		if known {
			break
		}
		// The window does not reach back to the snapshot: check against the newest version and go on from there.
		w.mu.Unlock()
		newer, c, err := s.revalidate(ws)
		if c != nil || err != nil {
			return c, err
		}
		snapshot = newer
		w.mu.Lock()
	}
	defer w.mu.Unlock()
	if w.count >= s.o.MaxPending || (w.count > 0 && w.bytes+int64(len(data)) > s.o.MaxPendingBytes) {
		s.stats.overloaded.Add(1)
		return nil, fmt.Errorf("%w: %d transactions of %d bytes are waiting", ErrOverloaded, w.count, w.bytes)
	}
	async := cfg.durability == Async
	w.place(feet, len(data), async)
	err := s.com.Commit(ctx, data, cfg.durability, func(index uint64, out ApplyOutcome, err error) {
		w.mu.Lock()
		w.unplace(feet, len(data), async)
		w.mu.Unlock()
		if async && err == nil && out.Err == nil {
			s.stats.commits.Add(1)
		}
		ch <- answer{index, out, err}
	})
	if err != nil {
		w.unplace(feet, len(data), async)
		return nil, s.logErr(err)
	}
	return nil, nil
}

func (s *Store) sizeHint(ws *WriteSet) int {
	n := 128 + len(ws.Actor) + len(ws.Label) + len(ws.IdempotencyKey) + len(ws.Outcome)
	for i := range ws.Reads {
		n += len(ws.Reads[i].Key) + 16
	}
	for i := range ws.Ops {
		n += len(ws.Ops[i].Key) + len(ws.Ops[i].Value) + 24
	}
	return n + 96*len(ws.ScanReads)
}

// logErr gives errors of the committer their meaning for callers of Update.
func (s *Store) logErr(err error) error {
	switch {
	case errors.Is(err, wal.ErrNoSpace):
		s.stats.noSpace.Add(1)
		s.space.exhausted()
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, wal.ErrFailed):
		return s.fail("the log cannot be written", err)
	case errors.Is(err, wal.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, wal.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// localCommitter is the single-node committer: append to the log, then apply. Its goroutine is the apply loop.
type localCommitter struct {
	s    *Store
	term uint64

	mu      sync.Mutex
	wake    sync.Cond
	queue   []*localEntry // durable or failed, waiting for the apply loop
	flying  int           // appended, not yet answered
	closing bool
	done    chan struct{}
}

// localEntry is one write set on its way; it is the log's Completion.
type localEntry struct {
	c     *localCommitter
	entry [1]wal.Entry
	done  func(uint64, ApplyOutcome, error)
	err   error
}

func newLocalCommitter(s *Store) (*localCommitter, error) {
	c := &localCommitter{s: s, term: 1, done: make(chan struct{})}
	c.wake.L = &c.mu
	if last := s.log.LastIndex(); last >= s.log.FirstIndex() && last > 0 {
		e, err := s.log.Get(last)
		if err != nil {
			return nil, fmt.Errorf("engine: read the newest log entry: %w", err)
		}
		c.term = max(e.Term, 1)
	}
	go c.applyLoop()
	return c, nil
}

// Commit appends to the log.
func (c *localCommitter) Commit(_ context.Context, ws []byte, _ Durability, done func(uint64, ApplyOutcome, error)) error {
	e := &localEntry{c: c, done: done}
	e.entry[0] = wal.Entry{Term: c.term, Type: EntryWriteSet, Data: ws}
	c.mu.Lock()
	c.flying++
	c.mu.Unlock()
	_, _, err := c.s.log.AppendAsync(e.entry[:], e)
	if err != nil {
		c.mu.Lock()
		c.flying--
		c.mu.Unlock()
		c.wake.Signal()
	}
	return err
}

// Complete is called by the log, in log order, when the entry is durable or has failed.
func (e *localEntry) Complete(first, _ uint64, err error) {
	e.entry[0].Index, e.err = first, err
	e.c.mu.Lock()
	e.c.queue = append(e.c.queue, e)
	e.c.mu.Unlock()
	e.c.wake.Signal()
}

// Barrier is immediate: on a single node a write is applied before it is acknowledged.
func (c *localCommitter) Barrier(ctx context.Context) error { return ctx.Err() }

// Close waits for everything appended to be durable, applied and answered. The log calls Complete for every
// accepted entry, also when it fails, so this ends.
func (c *localCommitter) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.wake.Signal()
	<-c.done
	return nil
}

// applyLoop takes everything durable that waits, applies it as one group and answers.
func (c *localCommitter) applyLoop() {
	defer close(c.done)
	var batch []*localEntry
	var entries []wal.Entry
	var outs []ApplyOutcome
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && (!c.closing || c.flying > 0) {
			c.wake.Wait()
		}
		if len(c.queue) == 0 {
			c.mu.Unlock()
			return
		}
		batch, c.queue = c.queue, batch[:0]
		c.mu.Unlock()
		entries = entries[:0]
		for _, e := range batch {
			if e.err == nil {
				entries = append(entries, e.entry[0])
			}
		}
		outs = c.s.applyGroup(entries, outs[:0])
		n := 0
		for i, e := range batch {
			if e.err != nil {
				e.done(0, ApplyOutcome{}, e.err)
			} else {
				c.answer(e, outs[n])
				n++
			}
			batch[i] = nil
		}
		c.mu.Lock()
		c.flying -= len(batch)
		c.mu.Unlock()
		clear(entries)
		clear(outs)
	}
}

func (c *localCommitter) answer(e *localEntry, out ApplyOutcome) {
	if errors.Is(out.Err, ErrFailed) {
		e.done(out.Index, out, out.Err)
		return
	}
	e.done(out.Index, out, nil)
}
