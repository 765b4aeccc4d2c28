package replication

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
)

// ErrNotLeader: this node cannot do it, another one can. Nothing was written. See NotLeaderError.
var ErrNotLeader = errors.New("replication: this node is not the leader")

// NotLeaderError says where to go instead, or that no majority can be reached: then errors.Is(err,
// engine.ErrUnavailable) holds. errors.Is(err, ErrNotLeader) holds always.
type NotLeaderError struct {
	Leader, Address string    // of the leader as far as this node knows; empty: none known
	Heard           time.Time // when this node last heard from a leader; zero: never since it started
	HeardFrom       string    // who that was; may be empty
	Cause           error     // may be nil
}

// Error names the leader, or says that there is none.
func (e *NotLeaderError) Error() string {
	s := ErrNotLeader.Error()
	switch {
	case e.Leader != "":
		s += fmt.Sprintf("; %s at %s is", e.Leader, e.Address)
	case e.Heard.IsZero():
		s += "; no leader is known, none was heard from since the start; nothing was written, try again, here or on another node"
	case e.HeardFrom != "":
		s += fmt.Sprintf("; no leader is known, last heard from %s at %s; nothing was written, try again, here or on another node",
			e.HeardFrom, e.Heard.UTC().Format(time.RFC3339Nano))
	default:
		s += fmt.Sprintf("; no leader is known, last heard from one at %s; nothing was written, try again, here or on another node",
			e.Heard.UTC().Format(time.RFC3339Nano))
	}
	if e.Cause != nil {
		s += fmt.Sprintf(" (%v)", e.Cause)
	}
	return s
}

// Unwrap makes errors.Is work for ErrNotLeader and the cause.
func (e *NotLeaderError) Unwrap() []error {
	all := []error{ErrNotLeader}
	if e.Leader == "" {
		all = append(all, engine.ErrUnavailable)
	}
	if e.Cause != nil {
		all = append(all, e.Cause)
	}
	return all
}

// A Node is one member of a cluster: an engine store whose write sets go through raft. All methods are safe for
// concurrent use after the store was opened.
//
// Raft's goroutines own the log's end and the order of applying; the feeder and the waiter (propose.go) own the way
// of write sets into raft and back; the round goroutine (read.go) owns read rounds; watch waits for failures. The store owns
// the node: closing the store closes it.
type Node struct {
	o       Options
	store   *engine.Store
	log     *wal.Log
	logs    *LogStore
	machine *machine
	raft    *raft.Raft
	wire    *based
	props   *proposals
	reads   *reads
	router  *router // nil without Options.Dial: changes are proposed here or not at all
	inboxes inboxes // of the other members, while this one leads

	transfers transfers
	fresh     freshness

	running atomic.Bool // raft's goroutines exist
	once    sync.Once
	failed  chan struct{}
	reason  error
	halt    sync.Once
	halting raft.Future
	stopped chan struct{} // raft has ended, or is being ended
}

// New checks the options. The node begins to work when the store is opened with it:
//
//	node, err := replication.New(replication.Options{ID: "n1", Transport: t, Members: members})
//	store, err := engine.Open(dir, engine.Options{Committer: node.Start})
func New(o Options) (*Node, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Node{
		o: o, failed: make(chan struct{}), stopped: make(chan struct{}),
		transfers: transfers{stop: make(chan struct{})},
	}, nil
}

// Start is the engine.Options.Committer of the node's store; it may be used once.
func (n *Node) Start(s *engine.Store) (engine.Committer, error) {
	if n.store != nil {
		return nil, fmt.Errorf("%w: the node was started before", ErrInvalid)
	}
	n.store, n.log = s, s.Log()
	n.logs = NewLogStore(n.log, LogOptions{Halt: n.leave})
	m, err := markAt(n.log, s.AppliedIndex())
	if err != nil {
		return nil, err
	}
	// What lies behind the mark names the members; the rest the engine keeps as long as it likes (Options.RetainLog), and a
	// member that is further behind gets the state (transfer.go).
	s.PinLog(markKey, max(m.index, 1))
	if err := n.enrol(m); err != nil {
		return nil, err
	}
	n.machine = newMachine(s, n.fail)
	if err := n.startRaft(m); err != nil {
		return nil, err
	}
	n.props = newProposals(n)
	n.reads = newReads(n)
	if n.o.Dial != nil {
		n.router = newRouter(n)
		n.machine.router.Store(n.router)
	}
	go n.watch()
	go n.keepFresh()
	return committer{n}, nil
}

// enrol makes a store a member of a new cluster, if it is to be one and has never been a member. Two stores with
// different histories must never meet in a cluster: raft would take equal indexes and terms for equal entries.
func (n *Node) enrol(m mark) error {
	known := len(m.configuration.Servers) > 0
	err := n.log.Iterate(m.index+1, func(e wal.Entry) error {
		known = known || e.Type == typeEnvelope+wal.EntryType(raft.LogConfiguration)
		return nil
	})
	if err != nil {
		return err
	}
	last := n.log.LastIndex()
	if n.o.Restart != nil {
		return n.restart(last)
	}
	if known {
		return nil
	}
	if last == 0 && len(n.o.Members) == 0 {
		return nil // waits to be added
	}
	alone := len(n.o.Members) == 1 && string(n.o.Members[0].ID) == n.o.ID
	if last != 0 && !alone {
		return fmt.Errorf("%w: this store has %d entries of its own history; it can begin a cluster alone (Members: only %s), "+
			"but joins another one only with an empty directory", ErrInvalid, last, n.o.ID)
	}
	term := uint64(1)
	if last != 0 {
		e, err := n.log.Get(last)
		if err != nil {
			return fmt.Errorf("replication: read the newest entry: %w", err)
		}
		term = max(e.Term, 1)
	}
	c := raft.Configuration{Servers: n.o.Members}
	if err := checkMembers(c, n.o.ID); err != nil {
		return err
	}
	if err := n.logs.SetUint64([]byte("CurrentTerm"), term); err != nil {
		return err
	}
	return n.logs.StoreLog(&raft.Log{Index: last + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)})
}

// restart appends a configuration as if a leader of a new term had.
func (n *Node) restart(last uint64) error {
	if err := checkMembers(*n.o.Restart, n.o.ID); err != nil {
		return err
	}
	term, err := n.logs.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		return err
	}
	if last > 0 {
		e, err := n.log.Get(last)
		if err != nil {
			return fmt.Errorf("replication: read the newest entry: %w", err)
		}
		term = max(term, e.Term)
	}
	term++
	if err := n.logs.SetUint64([]byte("CurrentTerm"), term); err != nil {
		return err
	}
	return n.logs.StoreLog(&raft.Log{Index: last + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(*n.o.Restart)})
}

func checkMembers(c raft.Configuration, self string) error {
	ids, voters := map[raft.ServerID]bool{}, 0
	for _, s := range c.Servers {
		if s.ID == "" || s.Address == "" || ids[s.ID] {
			return fmt.Errorf("%w: member %q at %q has no name or address, or is named twice", ErrInvalid, s.ID, s.Address)
		}
		ids[s.ID] = true
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters == 0 || !ids[raft.ServerID(self)] {
		return fmt.Errorf("%w: Members must name this node, %s, and a voter", ErrInvalid, self)
	}
	return nil
}

func (n *Node) startRaft(m mark) (err error) {
	defer func() { // raft panics on entries it cannot read
		if p := recover(); p != nil {
			err = fmt.Errorf("replication: start raft: %v", p)
		}
	}()
	n.running.Store(true)
	n.wire = newBased(n.o.Transport, n.log, m, n.stopped)
	n.wire.silent = n.stalled
	n.o.Transport = n.wire
	n.raft, err = raft.NewRaft(n.o.raftConfig(), n.machine, raftLog{n.logs, n}, n.logs, &marks{log: n.log, current: m, moved: func(index uint64) { n.store.PinLog(markKey, index) }}, n.o.Transport)
	if err != nil {
		return fmt.Errorf("replication: start raft: %w", err)
	}
	n.wire.raft.Store(n.raft)
	return nil
}

// raftLog is the log as raft sees it. Raft panics if it cannot read a committed entry it is about to apply; this node
// has to stop then, but in good order.
type raftLog struct {
	*LogStore
	n *Node
}

// GetLog is LogStore.GetLog, but does not return a damaged entry's error to where raft would panic.
func (l raftLog) GetLog(index uint64, e *raft.Log) error {
	err := l.LogStore.GetLog(index, e)
	if errors.Is(err, ErrHalted) && calledBy("raft.(*Raft).processLogs") {
		l.n.leave(err)
	}
	return err
}

func calledBy(name string) bool {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, name) {
			return true
		}
		if !more {
			return false
		}
	}
}

// leave ends the calling goroutine of raft, which must not go on and would panic if it were told why.
func (n *Node) leave(err error) {
	n.fail(err)
	if n.running.Load() {
		runtime.Goexit()
	}
}

// fail stops the node for good; only the first cause counts.
func (n *Node) fail(cause error) {
	n.once.Do(func() {
		n.reason = fmt.Errorf("replication: node %s stops: %w", n.o.ID, cause)
		close(n.failed)
	})
}

// watch ends raft when the node, its log or its store has failed.
func (n *Node) watch() {
	select {
	case <-n.store.Failed():
		n.fail(n.store.Err())
	case <-n.logs.Halted():
		n.fail(n.logs.Err())
	case <-n.failed:
	case <-n.stopped:
		return
	}
	n.o.Logger.Error("replication: failed", "node", n.o.ID, "error", n.reason)
	n.shutDown()
	n.endAll()
}

// endAll answers whatever is on its way; raft has ended.
func (n *Node) endAll() {
	if n.router != nil {
		<-n.router.over
	}
	n.props.end()
}

// shutDown ends raft and waits until none of its goroutines is left.
func (n *Node) shutDown() {
	n.halt.Do(func() {
		n.logs.Interrupt()
		n.halting = n.raft.Shutdown()
		close(n.stopped)
	})
	_ = n.halting.Error() // never fails
}

// ended is why the node does nothing any more.
func (n *Node) ended() error {
	if err := n.Err(); err != nil {
		return fmt.Errorf("%w: %w", engine.ErrFailed, err)
	}
	return engine.ErrClosed
}

// Failed is closed when the node has failed for good: its log cannot be used or its store has failed. It takes no part in
// the cluster any more; the process should say so and exit.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err is the reason of the failure, nil before.
func (n *Node) Err() error {
	select {
	case <-n.failed:
		return n.reason
	default:
		return nil
	}
}

func (n *Node) notLeader(cause error) error {
	switch {
	case n.Err() != nil:
		return n.ended()
	case errors.Is(cause, raft.ErrNotLeader), errors.Is(cause, raft.ErrLeadershipLost):
		cause = nil // says no more than the error itself
	}
	addr, id := n.raft.LeaderWithID()
	if string(id) == n.o.ID { // about to step down, or not sure yet
		addr, id = "", ""
	}
	e := &NotLeaderError{Leader: string(id), Address: string(addr), Heard: n.raft.LastContact(), Cause: cause}
	if r := n.router; r != nil {
		r.mu.Lock()
		e.HeardFrom = r.heard
		r.mu.Unlock()
	}
	return e
}

// committer is the node as the engine sees it.
type committer struct{ n *Node }

var (
	_ engine.Committer = committer{}
	_ engine.Sweeping  = committer{}
)

// Commit proposes a write set. Errors: NotLeaderError, engine.ErrClosed, engine.ErrFailed; to done also
// engine.ErrUnknownOutcome when leadership or the node was lost in between.
func (c committer) Commit(ctx context.Context, ws []byte, _ engine.Durability, done func(uint64, engine.ApplyOutcome, error)) error {
	n := c.n
	select {
	case <-n.stopped:
		return n.ended()
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.stalled() {
		return n.diskStalled()
	}
	if n.router != nil {
		if !n.router.add(ws, done) {
			return n.ended()
		}
		return nil
	}
	term := n.raft.CurrentTerm()
	if n.raft.State() != raft.Leader {
		return n.notLeader(nil)
	}
	if !n.props.add(ws, term, done) {
		return n.ended()
	}
	return nil
}

// Barrier makes the reads that follow linearizable. NotLeaderError on other nodes and on a leader without a majority.
func (c committer) Barrier(ctx context.Context) error {
	if c.n.stalled() {
		return c.n.diskStalled()
	}
	return c.n.reads.barrier(ctx)
}

// MaySweep: only the leader removes expired rows.
func (c committer) MaySweep() bool { return c.n.raft.State() == raft.Leader }

// Close hands leadership over if it can, and ends raft.
func (c committer) Close() error {
	n := c.n
	if n.o.HandOver > 0 && n.raft.State() == raft.Leader && n.Err() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), n.o.HandOver)
		defer cancel()
		if err := n.HandOver(ctx); err != nil {
			n.o.Logger.Warn("replication: leadership not handed over", "error", err)
		}
	}
	n.shutDown()
	n.endAll()
	return nil
}
