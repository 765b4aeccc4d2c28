package replication

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/hashicorp/raft"
)

// router brings write sets to whoever leads, from any member, exactly once. It answers a write set when this member has
// applied it, so that the caller reads its own write here.
//
// A write set is queued, then sent: to this node's raft while it leads, else over a stream to the leader (courier).
// What was sent and not refused may have been written. It is never sent again on a guess, but found out:
//
//   - It appears among the applied entries: done. A tag makes its bytes unlike those of any other.
//   - It was sent in term t, and an entry of a later term is committed and everything before it is applied here: it is
//     not in the log and never will be, because terms only grow along the log and a stream proposes in one term only. It is
//     queued again. (Raft could keep a proposal in its queue beyond a term only if it had not one idle moment between
//     losing leadership and winning it again; it answers it with ErrNotLeader in the first.)
//   - The stream broke and the same leader in the same term says at the next hello which numbers it received: those it
//     did not receive are queued again.
//
// Only when none of that happens for Options.Patience the caller hears engine.ErrUnknownOutcome.
//
// mu guards all fields. run owns sending; applied is called by the FSM goroutine.
type router struct {
	n    *Node
	seed maphash.Seed
	boot [bootBytes]byte

	mu     sync.Mutex
	queue  []*parcel            // to be sent, ascending by number
	sent   map[uint64][]*parcel // by hash of the content
	flying int                  // in sent
	next   uint64
	serial uint64
	link   *courier
	ended  bool
	kick   chan struct{}

	seen  uint64 // newest log index that applied was told of
	heard string // who led when somebody was last heard from, for error messages
	over  chan struct{}
}

// parcel is a write set on its way.
type parcel struct {
	number uint64
	ws     []byte
	hash   uint64
	done   func(uint64, engine.ApplyOutcome, error)
	since  time.Time
	term   uint64 // in which it was sent
	serial uint64 // of the sending: what is sent again gets a new one, so that a stream's serials only grow
	over   bool   // answered
}

func newRouter(n *Node) *router {
	r := &router{n: n, seed: maphash.MakeSeed(), sent: map[uint64][]*parcel{}, kick: make(chan struct{}, 1), over: make(chan struct{})}
	copy(r.boot[:], n.o.Boot[:])
	go r.run()
	return r
}

// add queues a write set; false: the node has ended.
func (r *router) add(ws []byte, done func(uint64, engine.ApplyOutcome, error)) bool {
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return false
	}
	r.next++
	var tag [16]byte
	copy(tag[:8], r.boot[:])
	binary.BigEndian.PutUint64(tag[8:], r.next)
	ws = engine.TagWriteSet(ws, tag)
	r.queue = append(r.queue, &parcel{number: r.next, ws: ws, hash: maphash.Bytes(r.seed, ws), done: done, since: r.n.o.Now()})
	r.mu.Unlock()
	r.wake()
	return true
}

func (r *router) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run is the router's goroutine.
func (r *router) run() {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		tick := false
		select {
		case <-r.kick:
		case <-t.C:
			tick = true
		case <-r.n.stopped:
			r.end()
			close(r.over)
			return
		}
		r.dispatch()
		if tick {
			r.settle()
			r.expire()
		}
	}
}

// dispatch sends the queue to the leader, if there is one.
func (r *router) dispatch() {
	n := r.n
	if n.raft.State() == raft.Leader {
		r.cut(nil)
		r.dispatchHere(n.raft.CurrentTerm())
		return
	}
	address, id := n.raft.LeaderWithID()
	if id == "" || string(id) == n.o.ID {
		return
	}
	r.mu.Lock()
	r.heard = string(id)
	link := r.link
	stale := link != nil && (link.leader != string(id) || link.term != 0 && link.term < n.raft.CurrentTerm())
	r.mu.Unlock()
	if link == nil || stale {
		if link != nil {
			r.cut(link)
		}
		if link = r.open(string(id), string(address)); link == nil {
			return
		}
	}
	r.mu.Lock()
	if link.term == 0 || r.link != link { // no welcome yet
		r.mu.Unlock()
		return
	}
	batch := r.take(link.term)
	r.mu.Unlock()
	for _, p := range batch {
		if link.frames.write(framePropose, p.serial, p.ws) != nil {
			r.cut(link)
			return // what was not received will be asked for at the next hello
		}
	}
}

// take moves the queue to sent. mu is held.
func (r *router) take(term uint64) []*parcel {
	batch := r.queue
	r.queue = nil
	for _, p := range batch {
		r.serial++
		p.term, p.serial = term, r.serial
		r.sent[p.hash] = append(r.sent[p.hash], p)
		r.flying++
	}
	return batch
}

// dispatchHere proposes on this node. The future answers, so these parcels are not looked for among the applied entries
// unless leadership is lost.
func (r *router) dispatchHere(term uint64) {
	r.mu.Lock()
	batch := r.queue
	r.queue = nil
	r.mu.Unlock()
	for _, p := range batch {
		p.term = term
		if !r.n.props.add(p.ws, term, func(index uint64, out engine.ApplyOutcome, err error) { r.proposed(p, index, out, err) }) {
			p.answer(0, engine.ApplyOutcome{}, r.n.ended())
		}
	}
}

// proposed is the answer of this node's raft.
func (r *router) proposed(p *parcel, index uint64, out engine.ApplyOutcome, err error) {
	switch {
	case err == nil || !errors.Is(err, ErrNotLeader) && !errors.Is(err, engine.ErrUnknownOutcome):
		p.answer(index, out, err)
		return
	case errors.Is(err, ErrNotLeader): // nothing was written
		r.mu.Lock()
		ended := r.ended
		if !ended {
			r.requeue(p)
		}
		r.mu.Unlock()
		if ended {
			p.answer(0, engine.ApplyOutcome{}, err)
		}
		return
	}
	// Leadership was lost with the entry at index, if it has one. From now on it is looked for in the log.
	r.mu.Lock()
	lost := r.ended || index != 0 && r.seen >= index // too late to look for it
	if !lost {
		r.sent[p.hash] = append(r.sent[p.hash], p)
		r.flying++
	}
	r.mu.Unlock()
	if lost {
		p.answer(0, engine.ApplyOutcome{}, err)
	}
}

// requeue puts parcels back in the order of their numbers. mu is held.
func (r *router) requeue(ps ...*parcel) {
	r.queue = append(r.queue, ps...)
	slices.SortFunc(r.queue, func(a, b *parcel) int { return cmp.Compare(a.number, b.number) })
}

// forget takes a parcel out of sent; false: it was not in there. mu is held.
func (r *router) forget(p *parcel) bool {
	same := r.sent[p.hash]
	i := slices.Index(same, p)
	if i < 0 {
		return false
	}
	if len(same) == 1 {
		delete(r.sent, p.hash)
	} else {
		r.sent[p.hash] = slices.Delete(same, i, i+1)
	}
	r.flying--
	return true
}

// applied is told of every applied write set, in log order, with its outcome.
func (r *router) applied(ws []byte, out engine.ApplyOutcome) {
	r.mu.Lock()
	r.seen = out.Index
	if r.flying == 0 {
		r.mu.Unlock()
		return
	}
	var found *parcel
	for _, p := range r.sent[maphash.Bytes(r.seed, ws)] {
		if bytes.Equal(p.ws, ws) {
			found = p
			break
		}
	}
	if found != nil {
		r.forget(found)
	}
	r.mu.Unlock()
	if found != nil {
		found.answer(out.Index, out, nil)
	}
}

// settle queues again what can be proven not to have been written.
func (r *router) settle() {
	r.mu.Lock()
	flying := r.flying
	r.mu.Unlock()
	if flying == 0 {
		return
	}
	commit := r.n.raft.CommitIndex()
	e, err := r.n.log.Get(commit)
	if err != nil {
		return // too old or damaged; patience ends it
	}
	last, err := r.n.reads.lastChange(commit)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if applied, _ := r.n.machine.applied(); applied < last {
		return
	}
	// machine.applied moves after the router has seen the entries, so whatever is still here is not among them.
	var lost []*parcel
	for _, same := range r.sent {
		for _, p := range same {
			if p.term < e.Term {
				lost = append(lost, p)
			}
		}
	}
	for _, p := range lost {
		r.forget(p)
	}
	if len(lost) > 0 {
		r.requeue(lost...)
		r.wake()
	}
}

// expire ends the waiting of callers.
func (r *router) expire() {
	now := r.n.o.Now()
	var refused, unknown []*parcel
	r.mu.Lock()
	keep := r.queue[:0]
	for _, p := range r.queue {
		if now.Sub(p.since) > r.n.o.Patience {
			refused = append(refused, p)
		} else {
			keep = append(keep, p)
		}
	}
	clear(r.queue[len(keep):])
	r.queue = keep
	for _, same := range r.sent {
		for _, p := range same {
			if now.Sub(p.since) > 2*r.n.o.Patience {
				unknown = append(unknown, p)
			}
		}
	}
	for _, p := range unknown {
		r.forget(p)
	}
	r.mu.Unlock()
	for _, p := range refused {
		p.answer(0, engine.ApplyOutcome{}, r.n.notLeader(nil))
	}
	for _, p := range unknown {
		p.answer(0, engine.ApplyOutcome{}, fmt.Errorf("%w: no leader said within %v what became of the change (%w)",
			engine.ErrUnknownOutcome, 2*r.n.o.Patience, r.n.notLeader(nil)))
	}
}

// end answers everything.
func (r *router) end() {
	r.cut(nil)
	r.mu.Lock()
	r.ended = true
	queue, sent := r.queue, r.sent
	r.queue, r.sent, r.flying = nil, map[uint64][]*parcel{}, 0
	r.mu.Unlock()
	for _, p := range queue {
		p.answer(0, engine.ApplyOutcome{}, fmt.Errorf("%w: the node stopped before the change was proposed", engine.ErrClosed))
	}
	for _, same := range sent {
		for _, p := range same {
			p.answer(0, engine.ApplyOutcome{}, fmt.Errorf("%w: the node stopped", engine.ErrUnknownOutcome))
		}
	}
}

func (p *parcel) answer(index uint64, out engine.ApplyOutcome, err error) {
	if p.over {
		return
	}
	p.over = true
	if err == nil && errors.Is(out.Err, engine.ErrFailed) {
		err = out.Err
	}
	p.done(index, out, err)
}

// readIndex asks the leader for an index that is behind everything committed before the call.
func (r *router) readIndex(ctx context.Context) (uint64, error) {
	deadline := time.NewTimer(r.n.o.Patience)
	defer deadline.Stop()
	for {
		index, err := r.tryReadIndex(ctx)
		if err == nil || !errors.Is(err, ErrNotLeader) {
			return index, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline.C:
			return 0, r.n.notLeader(nil)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-r.n.stopped:
			return 0, r.n.ended()
		}
	}
}

func (r *router) tryReadIndex(ctx context.Context) (uint64, error) {
	if r.n.raft.State() == raft.Leader {
		return r.n.reads.verify()
	}
	r.mu.Lock()
	link := r.link
	ready := link != nil && link.term != 0
	r.mu.Unlock()
	if !ready {
		r.wake()
		return 0, r.n.notLeader(nil)
	}
	return link.ask(ctx)
}
