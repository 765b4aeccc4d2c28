package mcp

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
)

// Bounds of what may wait for one socket whose peer reads slowly.
const (
	maxQueued      = 5000     // messages
	maxQueuedBytes = 16 << 20 // beyond one message, which may be larger
)

// An outQueue is the [Sink] of a socket. Deliver never waits for the peer: a
// handler must not stand still because somebody reads slowly, and a peer that
// leaves maxQueued messages unread is disconnected.
type outQueue struct {
	write  func([]byte) error // one message; called by one goroutine
	finish func()             // closes the carrier, after the last message
	slow   *atomic.Uint64     // counts peers that were disconnected for not reading

	mu      sync.Mutex
	queue   [][]byte
	bytes   int
	closed  bool
	counted bool          // in slow already
	wake    chan struct{} // capacity 1
	done    chan struct{} // closed when the goroutine ended
}

func newOutQueue(slow *atomic.Uint64, write func([]byte) error, finish func()) *outQueue {
	q := &outQueue{slow: slow, write: write, finish: finish, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Deliver implements [Sink].
func (q *outQueue) Deliver(_ context.Context, e Event) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrConnClosed
	}
	if len(q.queue) >= maxQueued || len(q.queue) > 0 && q.bytes+len(e.Data) > maxQueuedBytes {
		q.closed = true
		q.queue = nil // it would be sent for ever
		q.counted = true
		q.slow.Add(1)
		signal(q.wake)
		return errSlowPeer
	}
	q.queue = append(q.queue, e.Data)
	q.bytes += len(e.Data)
	signal(q.wake)
	return nil
}

// Close implements [Sink]: what is queued is still sent, then the carrier is
// closed. It does not wait for that.
func (q *outQueue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	signal(q.wake)
	return nil
}

func (q *outQueue) run() {
	defer close(q.done)
	defer q.finish()
	for range q.wake {
		for {
			q.mu.Lock()
			if len(q.queue) == 0 {
				closed := q.closed
				q.queue = nil
				q.mu.Unlock()
				if closed {
					return
				}
				break
			}
			next := q.queue[0]
			q.queue[0] = nil
			q.queue = q.queue[1:]
			q.bytes -= len(next)
			q.mu.Unlock()
			if err := q.write(next); err != nil {
				q.mu.Lock()
				if !q.counted && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)) {
					q.slow.Add(1)
				}
				q.closed, q.queue = true, nil
				q.mu.Unlock()
				return
			}
		}
	}
}
