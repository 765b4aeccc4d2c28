package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
)

// machine is raft's state machine: the engine. Apply and Snapshot are called by raft's one FSM goroutine.
type machine struct {
	store *engine.Store
	fail  func(error)

	router atomic.Pointer[router]

	entries []wal.Entry // owned by the FSM goroutine

	mu    sync.Mutex
	index uint64        // everything up to it is applied
	moved chan struct{} // closed and replaced when index moves; nil if nobody waits
}

var _ raft.BatchingFSM = (*machine)(nil)

func newMachine(s *engine.Store, fail func(error)) *machine {
	return &machine{store: s, fail: fail, index: s.AppliedIndex()}
}

// Apply applies one entry.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch hands committed entries to the engine; the answers are engine.ApplyOutcome. Raft leaves out the
// entries without meaning for a state machine; they are put back as what they are, changes of nothing, so that the
// engine's applied index and state hashes have no holes.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	m.entries = m.entries[:0]
	next := m.index + 1
	for _, l := range logs {
		if l.Index < next {
			continue // the engine knew it from its own recovery
		}
		for ; next < l.Index; next++ {
			m.entries = append(m.entries, wal.Entry{Index: next, Term: l.Term, Type: typeEnvelope + wal.EntryType(raft.LogNoop)})
		}
		e := wal.Entry{Index: l.Index, Term: l.Term, Type: typeEnvelope + wal.EntryType(l.Type)}
		if l.Type == raft.LogCommand && len(l.Extensions) == 0 {
			e.Type, e.Data = typeCommand, l.Data
		}
		m.entries = append(m.entries, e)
		next++
	}
	outs := m.store.Apply(m.entries)
	clear(m.entries)
	answers := make([]any, len(logs))
	at := 0
	for i, l := range logs {
		for at < len(outs) && outs[at].Index < l.Index {
			at++
		}
		if at < len(outs) && outs[at].Index == l.Index {
			answers[i] = outs[at]
		} else {
			answers[i] = engine.ApplyOutcome{Index: l.Index}
		}
	}
	if n := len(outs); n > 0 && errors.Is(outs[n-1].Err, engine.ErrFailed) {
		m.fail(outs[n-1].Err)
		return answers
	}
	if r := m.router.Load(); r != nil {
		for i, l := range logs {
			if out, ok := answers[i].(engine.ApplyOutcome); ok && l.Type == raft.LogCommand {
				r.applied(l.Data, out)
			}
		}
	}
	m.advance(next - 1)
	return answers
}

func (m *machine) advance(index uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index = max(m.index, index)
	if m.moved != nil {
		close(m.moved)
		m.moved = nil
	}
}

// applied returns the index up to which everything is applied, and a channel that is closed when it moves.
func (m *machine) applied() (uint64, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.moved == nil {
		m.moved = make(chan struct{})
	}
	return m.index, m.moved
}

// wait waits until everything up to index is applied.
func (m *machine) wait(ctx context.Context, index uint64, stopped <-chan struct{}) error {
	for {
		at, moved := m.applied()
		if at >= index {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-stopped:
			return engine.ErrClosed
		}
	}
}

// Snapshot begins a mark; see marks.go. Nothing is copied.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return flush{m.store}, nil }

// Restore would replace all rows. Nobody sends them this way.
func (m *machine) Restore(io.ReadCloser) error { return ErrBehind }

// flush makes the rows of a mark durable.
type flush struct{ store *engine.Store }

// Persist flushes the engine. The rows are then durable at least up to the mark, for the engine has applied more.
func (f flush) Persist(sink raft.SnapshotSink) error {
	k, ok := sink.(*markSink)
	if !ok {
		return fmt.Errorf("replication: a mark cannot be stored as %T", sink)
	}
	var err error
	if k.flushed, err = f.store.Checkpoint(); err != nil {
		return fmt.Errorf("replication: flush for mark %d: %w", k.m.index, err)
	}
	return k.Close()
}

// Release has nothing to release.
func (flush) Release() {}
