package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
)

// reads makes reads linearizable with raft's read index: the leader notes its commit index, asks a majority whether it
// still leads, and waits until that index is applied. One round serves everybody who came before it began; no clock
// is involved.
type reads struct {
	n *Node

	mu    sync.Mutex
	next  *round // collects those who wait for the next round
	kick  chan struct{}
	ready uint64 // term in which this leader has applied everything of earlier ones; owned by the round goroutine
}

type round struct {
	done  chan struct{}
	index uint64 // of the newest change of the state machine that has to be applied
	err   error
}

func newReads(n *Node) *reads {
	r := &reads{n: n, kick: make(chan struct{}, 1)}
	go r.run()
	return r
}

// barrier returns when everything committed anywhere before the call is applied here.
func (r *reads) barrier(ctx context.Context) error {
	index, err := r.index(ctx)
	if err != nil {
		return err
	}
	return r.n.machine.wait(ctx, index, r.n.stopped)
}

// leaderIndex is index for the round of another member; it never asks further.
func (r *reads) leaderIndex() (uint64, error) {
	if r.n.raft.State() != raft.Leader {
		return 0, r.n.notLeader(nil)
	}
	return r.index(context.Background())
}

// index joins the next round and returns what it found.
func (r *reads) index(ctx context.Context) (uint64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-r.n.stopped:
		return 0, r.n.ended()
	}
}

// run is the round goroutine.
func (r *reads) run() {
	for {
		select {
		case <-r.kick:
		case <-r.n.stopped:
			return
		}
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.mu.Unlock()
		if now == nil {
			continue
		}
		began := time.Now()
		if now.index, now.err = r.find(); now.err == nil {
			r.n.fresh.add(proof{began, now.index})
		}
		close(now.done)
	}
}

// find proves it here, or has the leader prove it.
func (r *reads) find() (uint64, error) {
	if r.n.router != nil {
		return r.n.router.readIndex(context.Background())
	}
	return r.verify()
}

// verify returns an index that was committed when it began, and behind everything committed anywhere before. It is
// called by the round goroutine only.
func (r *reads) verify() (uint64, error) {
	n := r.n
	term := n.raft.CurrentTerm()
	if n.raft.State() != raft.Leader {
		return 0, n.notLeader(nil)
	}
	// A new leader does not know the newest commit index until an entry of its own term is committed.
	if r.ready != term {
		if err := n.await(context.Background(), n.raft.Barrier(0)); err != nil {
			return 0, n.notLeader(err)
		}
		if n.raft.CurrentTerm() != term {
			return 0, n.notLeader(nil)
		}
		r.ready = term
	}
	index := n.raft.CommitIndex()
	if err := n.await(context.Background(), n.raft.VerifyLeader()); err != nil {
		return 0, n.notLeader(err)
	}
	if n.raft.CurrentTerm() != term { // index may be of a time when somebody else led
		return 0, n.notLeader(nil)
	}
	return r.lastChange(index)
}

// lastChange is the newest index up to index that reaches the state machine: raft keeps no-ops and barriers to itself.
func (r *reads) lastChange(index uint64) (uint64, error) {
	for {
		if at, _ := r.n.machine.applied(); index <= at {
			return at, nil
		}
		e, err := r.n.log.Get(index)
		if err != nil {
			if errors.Is(err, wal.ErrNotFound) {
				return 0, r.n.notLeader(err) // another leader has cut the log: this one leads no more
			}
			return 0, fmt.Errorf("replication: read barrier: %w", err)
		}
		t := raft.LogType(e.Type - typeEnvelope)
		if e.Type == typeCommand || t == raft.LogCommand || t == raft.LogConfiguration {
			return index, nil
		}
		index--
	}
}

// await is the future's Error, or the end of ctx or of the node: raft forgets futures when it is shut down.
func (n *Node) await(ctx context.Context, f raft.Future) error {
	got := make(chan error, 1)
	go func() { got <- f.Error() }()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return n.ended()
	}
}
