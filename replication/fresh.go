package replication

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A node that has heard from its leader a moment ago may still be far behind: heartbeats carry no entries. So the age of what it
// has is proven like a current read: everything committed before a read round began is in the state once the round's index is
// applied. Every round of a current read proves it by the way; when there are none, the node asks for itself (keepFresh).

const (
	proofEvery = 250 * time.Millisecond
	maxProofs  = 32 // of rounds whose index is not applied yet; more are forgotten
)

// proof: the state at index has everything that was committed at the time.
type proof struct {
	at    time.Time // with its monotonic clock
	index uint64
}

type freshness struct {
	mu      sync.Mutex
	newest  proof   // applied; zero: none
	waiting []proof // not applied yet, oldest first
}

func (f *freshness) add(p proof) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == maxProofs {
		f.waiting = append(f.waiting[:0], f.waiting[1:]...)
	}
	f.waiting = append(f.waiting, p)
}

// of returns the newest proof that holds for a state with everything up to applied.
func (f *freshness) of(applied uint64) proof {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := f.waiting[:0]
	for _, p := range f.waiting {
		switch {
		case p.index > applied:
			rest = append(rest, p)
		case p.at.After(f.newest.at):
			f.newest = p
		}
	}
	f.waiting = rest
	return f.newest
}

// AsOf is a time before which everything that was committed anywhere is in this node's state: a read that does not ask other nodes
// is at most that old. It is proven by a majority and needs no clock but this node's monotonic one. Zero: nothing is proven since
// the start.
func (n *Node) AsOf() time.Time {
	at, _ := n.machine.applied()
	return n.fresh.of(at).at
}

// keepFresh is the goroutine that proves it when no reads do.
func (n *Node) keepFresh() {
	tick := time.NewTicker(proofEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.stopped:
			return
		}
		n.fresh.mu.Lock()
		idle := len(n.fresh.waiting) == 0 && time.Since(n.fresh.newest.at) > proofEvery/2
		n.fresh.mu.Unlock()
		if !idle && time.Since(n.AsOf()) < proofEvery {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 4*proofEvery)
		n.prove(ctx)
		cancel()
	}
}

// prove fails quietly: the age grows then.
func (n *Node) prove(ctx context.Context) {
	if n.raft.State() == raft.Leader {
		_, _ = n.reads.index(ctx) // the round proves it
		return
	}
	if n.router == nil {
		return
	}
	n.router.mu.Lock()
	link := n.router.link
	ready := link != nil && link.term != 0
	n.router.mu.Unlock()
	if !ready {
		n.router.wake()
		return
	}
	began := time.Now()
	if index, err := link.ask(ctx); err == nil {
		n.fresh.add(proof{began, index})
	}
}
