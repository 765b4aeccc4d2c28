package logs

import (
	"errors"
	"sync"
)

// maxGroupBytes closes a group: the same bound as wal.Options.MaxBatchBytes.
const maxGroupBytes = 4 << 20

var errClosed = errors.New("log closed")

// group is the entries that will become durable together. add and size are the
// payloads and their bytes; done is closed when the sync has returned.
type group[T any] struct {
	add  T
	size int
	done chan struct{}
	err  error
}

// Group is a group commit without timers: one committer goroutine takes what is
// waiting, commits it, and finds the next group filled while it was in the
// sync. All writers of a group are woken by one close.
type Group[T any] struct {
	join   func(into *T, data []byte) // under mu: keep it short
	commit func(T) error              // called by the committer only
	reset  func(*T)

	mu     sync.Mutex
	room   sync.Cond
	cur    *group[T]
	closed bool
	wake   chan struct{}
	idle   chan struct{}
}

// NewGroup starts a committer. join puts one payload into the open group,
// commit makes a group durable, reset empties it for reuse.
func NewGroup[T any](join func(*T, []byte), commit func(T) error, reset func(*T)) *Group[T] {
	g := &Group[T]{
		join: join, commit: commit, reset: reset,
		cur:  &group[T]{done: make(chan struct{})},
		wake: make(chan struct{}, 1), idle: make(chan struct{}),
	}
	g.room.L = &g.mu
	go g.run()
	return g
}

// Append returns when data is durable.
func (g *Group[T]) Append(data []byte) error {
	g.mu.Lock()
	for !g.closed && g.cur.size > 0 && g.cur.size+len(data) > maxGroupBytes {
		g.room.Wait()
	}
	if g.closed {
		g.mu.Unlock()
		return errClosed
	}
	mine := g.cur
	g.join(&mine.add, data)
	first := mine.size == 0
	mine.size += len(data)
	g.mu.Unlock()
	if first {
		g.nudge()
	}
	<-mine.done
	return mine.err
}

func (g *Group[T]) nudge() {
	select {
	case g.wake <- struct{}{}:
	default: // one is already under way
	}
}

// Close commits what is waiting and stops the committer.
func (g *Group[T]) Close() {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.closed = true
	g.room.Broadcast()
	g.mu.Unlock()
	g.nudge()
	<-g.idle
}

func (g *Group[T]) run() {
	defer close(g.idle)
	spare := &group[T]{}
	var failed error
	for {
		<-g.wake
		for {
			taken, closed := g.take(spare)
			if taken == nil && closed {
				return
			}
			if taken == nil {
				break
			}
			if failed == nil {
				failed = g.commit(taken.add)
			}
			taken.err = failed
			close(taken.done)
			// The writers still read taken.err, so its buffers move to a fresh
			// group and the old one is left to them.
			spare = &group[T]{add: taken.add}
			g.reset(&spare.add)
		}
	}
}

// take swaps the open group for next; nil when nobody waits, and whether anybody
// still can.
func (g *Group[T]) take(next *group[T]) (taken *group[T], closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cur.size == 0 {
		return nil, g.closed
	}
	taken = g.cur
	next.done = make(chan struct{})
	g.cur = next
	g.room.Broadcast()
	return taken, false
}

// batchLog is a peer which can write many entries with one sync and leaves it to
// its caller to collect them.
type batchLog interface {
	AppendBatch(data [][]byte) error
	Replay(fn func(data []byte) error) error
	Close() error
}

// grouped puts the shared group commit in front of a peer.
type grouped struct {
	batchLog
	queue *Group[[][]byte]
}

func newGrouped(b batchLog) *grouped {
	return &grouped{batchLog: b, queue: NewGroup(
		func(into *[][]byte, data []byte) { *into = append(*into, data) },
		b.AppendBatch,
		func(s *[][]byte) { clear(*s); *s = (*s)[:0] },
	)}
}

func (g *grouped) Append(data []byte) error { return g.queue.Append(data) }

func (g *grouped) Close() error {
	g.queue.Close()
	return g.batchLog.Close()
}
