package replication

import (
	"errors"
	"fmt"
	"sync"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/hashicorp/raft"
)

// proposals are the write sets on their way through raft. The engine proposes while it holds the lock that applying
// needs too, so handing over must never wait for raft: write sets queue up here (the engine bounds how many), the feeder
// goroutine gives them to raft in order, and the waiter goroutine answers them in the same order.
type proposals struct {
	n *Node

	mu     sync.Mutex
	wake   sync.Cond
	queue  []*proposal // not yet given to raft
	flying []*proposal // given to raft, not yet answered
	ended  bool
}

type proposal struct {
	data   []byte
	term   uint64 // it may be proposed in this term only
	done   func(uint64, engine.ApplyOutcome, error)
	future raft.ApplyFuture
}

func newProposals(n *Node) *proposals {
	p := &proposals{n: n}
	p.wake.L = &p.mu
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
	p.wake.Broadcast()
	return true
}

// feed is the feeder goroutine.
func (p *proposals) feed() {
	for {
		p.mu.Lock()
		for len(p.queue) == 0 && !p.ended {
			p.wake.Wait()
		}
		batch := p.queue
		p.queue = nil
		p.flying = append(p.flying, batch...)
		ended := p.ended
		p.mu.Unlock()
		if ended {
			return
		}
		for _, x := range batch {
			var f raft.ApplyFuture = lateProposal{}
			if p.n.raft.CurrentTerm() == x.term {
				f = p.n.raft.Apply(x.data, 0)
			}
			p.mu.Lock()
			x.future = f
			p.wake.Broadcast()
			p.mu.Unlock()
		}
	}
}

// wait is the waiter goroutine. Raft leaves futures unanswered when it is shut down in the middle; then end answers in
// its place, and this goroutine stays behind with the one it was waiting for.
func (p *proposals) wait() {
	for {
		p.mu.Lock()
		for (len(p.flying) == 0 || p.flying[0].future == nil) && !p.ended {
			p.wake.Wait()
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
	p.wake.Broadcast()
	p.mu.Unlock()
	for _, x := range flying {
		x.done(0, engine.ApplyOutcome{}, fmt.Errorf("%w: the node stopped", engine.ErrUnknownOutcome))
	}
	for _, x := range queue {
		x.done(0, engine.ApplyOutcome{}, fmt.Errorf("%w: the node stopped before the change was proposed", engine.ErrClosed))
	}
}
