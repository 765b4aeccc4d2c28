package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/wal"
)

// WatchOptions select changes.
type WatchOptions struct {
	Table  string // one table; "" is every table except the engine's own, whose names begin with "_"
	Prefix []byte // of the key
	From   uint64 // first wanted log index; 0: only what is applied after the call of Watch
}

// Event is one committed change of one row. Key and Value belong to the receiver.
type Event struct {
	Index   uint64    // log index of the transaction; its events follow each other, ascending by (table, key)
	Time    time.Time // when the transaction ran, by the clock of its node
	Actor   string    // "_ttl" for the removal of an expired row
	Label   string
	Table   string
	Key     []byte
	Value   []byte
	Deleted bool // the transaction removed the row, or made sure that there is none
}

// Watcher delivers every committed change with index >= From, in log order, first from the log and then live, without
// gap or repetition. It reads the log, whose newest part is in memory, so a slow watcher costs nobody anything; one that
// falls behind the retained log gets ErrCompacted. One goroutine may call Next at a time.
type Watcher struct {
	s      *Store
	o      WatchOptions
	parent context.Context
	ctx    context.Context
	cancel context.CancelFunc
	next   uint64 // index to read next
	events []Event
	err    error
}

// watchBatch bounds how many log entries are decoded ahead.
const watchBatch = 64

// Watch starts a watch; it ends with ctx, Close, or the store. Problems are reported by Next.
func (s *Store) Watch(ctx context.Context, o WatchOptions) *Watcher {
	w := &Watcher{s: s, o: o, next: o.From, parent: ctx}
	w.o.Prefix = bytes.Clone(o.Prefix)
	if o.From == 0 {
		w.next = s.applied.Load() + 1
	}
	if o.Table != "" && !validName(o.Table) {
		w.err = fmt.Errorf("%w: table name %q is not [a-z0-9_]{1,64}", ErrInvalid, o.Table)
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	s.watchers.Add(1)
	context.AfterFunc(w.ctx, func() { s.watchers.Add(-1) })
	return w
}

// Close ends the watch; a waiting Next returns ErrClosed.
func (w *Watcher) Close() error {
	w.cancel()
	return nil
}

// Next waits for the next event. An error ends the watch: ErrCompacted, ErrClosed, ErrFailed, or the context's.
func (w *Watcher) Next() (Event, error) {
	for len(w.events) == 0 {
		if w.err == nil {
			w.err = w.fill()
		}
		if w.err != nil {
			w.cancel()
			return Event{}, w.err
		}
	}
	e := w.events[0]
	w.events = w.events[1:]
	return e, nil
}

// fill waits until there is something to read and decodes a few entries.
func (w *Watcher) fill() error {
	if err := w.wait(); err != nil {
		return err
	}
	w.events = w.events[:0]
	applied := w.s.applied.Load()
	for n := 0; n < watchBatch && w.next <= applied && len(w.events) < watchBatch; n++ {
		e, err := w.s.log.Get(w.next)
		switch {
		case errors.Is(err, wal.ErrNotFound):
			return w.missing(applied)
		case errors.Is(err, wal.ErrClosed):
			return ErrClosed
		case err != nil:
			return fmt.Errorf("engine: watch: log entry %d: %w", w.next, err)
		}
		if err := w.take(e); err != nil {
			return err
		}
		w.next++
	}
	return nil
}

// missing explains why an entry at or below the applied index cannot be read.
func (w *Watcher) missing(applied uint64) error {
	return fmt.Errorf("%w: wanted %d, the log holds %d to %d", ErrCompacted, w.next, w.s.log.FirstIndex(), applied)
}

func (w *Watcher) wait() error {
	for {
		if err := w.ctx.Err(); err != nil {
			return w.ended()
		}
		err := w.s.waitApplied(w.ctx, w.next)
		if w.ctx.Err() != nil {
			return w.ended()
		}
		if err != nil || w.s.applied.Load() >= w.next {
			return err
		}
	}
}

// ended tells the end of the caller's context from that of the watcher.
func (w *Watcher) ended() error {
	if err := w.parent.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// take turns a log entry into events.
func (w *Watcher) take(e wal.Entry) error {
	if e.Type != EntryWriteSet || w.s.wasRejected(e.Index) {
		return nil
	}
	ws, err := DecodeWriteSet(e.Data)
	if err != nil {
		return fmt.Errorf("engine: watch: log entry %d: %w", e.Index, err)
	}
	for i := range ws.Ops {
		op := &ws.Ops[i]
		if !w.wants(op) {
			continue
		}
		w.events = append(w.events, Event{
			Index: e.Index, Time: time.UnixMilli(ws.Time).UTC(), Actor: ws.Actor, Label: ws.Label,
			Table: op.Table, Key: bytes.Clone(op.Key), Value: bytes.Clone(op.Value), Deleted: op.Delete,
		})
	}
	return nil
}

func (w *Watcher) wants(op *Op) bool {
	if w.o.Table == "" {
		if op.Table[0] == '_' {
			return false
		}
	} else if op.Table != w.o.Table {
		return false
	}
	return bytes.HasPrefix(op.Key, w.o.Prefix)
}

func (s *Store) wasRejected(index uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.rejected[index]
	return ok
}
