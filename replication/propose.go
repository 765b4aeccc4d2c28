package replication

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication/wire"
	"github.com/hashicorp/raft"
)

// proposals are the write sets on their way through raft. The engine proposes while it holds the lock that applying
// needs too, so handing over must never wait for raft: write sets queue up here (the engine bounds how many), the feeder
// goroutine gives them to raft in batches, and the waiter goroutine answers them in the same order.
//
// Whatever the feeder gives to raft at once becomes one append, one fdatasync on every member and one message to each of them, all
// of which costs about the same for one entry as for a hundred. So while openBatches are not answered, write sets wait for one
// of them, as they would wait for the disk. A lone writer never does.
type proposals struct {
	n *Node

	mu      sync.Mutex
	work    sync.Cond   // the feeder may go on
	flown   sync.Cond   // the waiter may go on
	queue   []*proposal // not yet given to raft
	flying  []*proposal // given to raft, or just about to be, not yet answered
	open    int         // batches in flying
	holding *time.Timer // runs while the queue waits for a batch
	held    bool        // it has waited long enough
	ended   bool
}

type proposal struct {
	data   []byte
	term   uint64 // it may be proposed in this term only
	last   bool   // of its batch
	done   func(uint64, engine.ApplyOutcome, error)
	future raft.ApplyFuture
}

const (
	openBatches = 3   // one on this disk, one on its way to the others and on their disks, one being applied
	fullBatch   = 256 // so many wait for nobody
	// holdLimit bounds the waiting where members are far apart: a batch is open for at least a round trip.
	holdLimit = 20 * time.Millisecond
)

func newProposals(n *Node) *proposals {
	p := &proposals{n: n}
	p.work.L, p.flown.L = &p.mu, &p.mu
	go p.feed()
	go p.wait()
	return p
}

// add queues a write set for the given term; false: the node has ended and done will not be called.
func (p *proposals) add(data []byte, term uint64, done func(uint64, engine.ApplyOutcome, error)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.queue = append(p.queue, &proposal{data: data, term: term, done: done})
	p.work.Signal()
	return true
}

// feed is the feeder goroutine.
func (p *proposals) feed() {
	var futures []raft.ApplyFuture
	for {
		batch := p.take()
		if batch == nil {
			return
		}
		futures = futures[:0]
		for _, x := range batch {
			var f raft.ApplyFuture = lateProposal{}
			if p.n.raft.CurrentTerm() == x.term {
				f = p.n.raft.Apply(x.data, 0)
			}
			futures = append(futures, f)
		}
		p.mu.Lock()
		for i, x := range batch {
			x.future = futures[i]
		}
		p.flown.Signal()
		p.mu.Unlock()
		clear(futures)
	}
}

// take waits for a batch and moves it to flying; nil: the node has ended.
func (p *proposals) take() []*proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.ended:
			return nil
		case len(p.queue) == 0:
		case p.open < openBatches, len(p.queue) >= fullBatch, p.held:
			return p.begin()
		case p.holding == nil:
			p.holding = time.AfterFunc(holdLimit, func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.held = p.holding != nil
				p.work.Signal()
			})
		}
		p.work.Wait()
	}
}

// begin is the end of take. mu is held.
func (p *proposals) begin() []*proposal {
	if p.holding != nil {
		p.holding.Stop()
		p.holding, p.held = nil, false
	}
	n := min(len(p.queue), wire.MaxEntries) // what raft takes at once: the rest would keep these from being answered
	batch := p.queue[:n:n]
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	batch[n-1].last = true
	p.open++
	p.flying = append(p.flying, batch...)
	return batch
}

// wait is the waiter goroutine. Raft leaves futures unanswered when it is shut down in the middle; then end answers in
// its place, and this goroutine stays behind with the one it was waiting for.
func (p *proposals) wait() {
	for {
		p.mu.Lock()
		for (len(p.flying) == 0 || p.flying[0].future == nil) && !p.ended {
			p.flown.Wait()
		}
		if p.ended {
			p.mu.Unlock()
			return
		}
		x := p.flying[0]
		p.mu.Unlock()
		err := x.future.Error()
		p.mu.Lock()
		if p.ended {
			p.mu.Unlock()
			return
		}
		p.flying[0] = nil
		p.flying = p.flying[1:]
		if x.last {
			p.open--
			p.work.Signal()
		}
		p.mu.Unlock()
		x.answer(p.n, err)
	}
}

// lateProposal is the future of a write set whose term was over before it reached raft.
type lateProposal struct{}

func (lateProposal) Error() error  { return raft.ErrNotLeader }
func (lateProposal) Response() any { return nil }
func (lateProposal) Index() uint64 { return 0 }

func (x *proposal) answer(n *Node, err error) {
	if err != nil {
		x.done(x.future.Index(), engine.ApplyOutcome{}, n.proposalErr(err))
		return
	}
	out, ok := x.future.Response().(engine.ApplyOutcome)
	switch {
	case !ok:
		x.done(0, out, fmt.Errorf("%w: raft answered with %T", engine.ErrUnknownOutcome, x.future.Response()))
	case errors.Is(out.Err, engine.ErrFailed):
		x.done(out.Index, out, out.Err)
	default:
		x.done(out.Index, out, nil)
	}
}

// proposalErr tells what certainly did not happen from what may have.
func (n *Node) proposalErr(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return n.notLeader(err)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, ErrHalted):
		return fmt.Errorf("%w: %w", engine.ErrUnknownOutcome, err)
	}
	return err // of the log: nothing was stored
}

// end answers everything that is still on its way; raft is shut down.
func (p *proposals) end() {
	p.mu.Lock()
	queue, flying := p.queue, p.flying
	p.queue, p.flying, p.ended = nil, nil, true
	if p.holding != nil {
		p.holding.Stop()
	}
	p.work.Signal()
	p.flown.Signal()
	p.mu.Unlock()
	for _, x := range flying {
		x.done(0, engine.ApplyOutcome{}, fmt.Errorf("%w: the node stopped", engine.ErrUnknownOutcome))
	}
	for _, x := range queue {
		x.done(0, engine.ApplyOutcome{}, fmt.Errorf("%w: the node stopped before the change was proposed", engine.ErrClosed))
	}
}
