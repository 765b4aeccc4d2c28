package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/hashicorp/raft"
)

var noOutcome engine.ApplyOutcome

// maxForwarded bounds the write sets of one member that are in this leader's raft at the same time, maxReads its read
// requests.
const (
	maxForwarded = 8192
	maxReads     = 1024
)

// inbox is what this leader has received from one member: the newest serial of its boot in a term, and the stream that
// delivers now. One stream at a time, so that "received" is well defined.
type inbox struct {
	mu       sync.Mutex // held while a stream of this member is served
	conn     net.Conn   // guarded by inboxes.mu
	boot     [bootBytes]byte
	term     uint64
	received uint64
}

type inboxes struct {
	mu sync.Mutex
	of map[string]*inbox
}

// take ends the stream of the member that is served so far and waits for its end.
func (s *inboxes) take(member string, c net.Conn) *inbox {
	s.mu.Lock()
	if s.of == nil {
		s.of = map[string]*inbox{}
	}
	in := s.of[member]
	if in == nil {
		in = &inbox{}
		s.of[member] = in
	}
	if in.conn != nil {
		_ = in.conn.Close()
	}
	in.conn = c
	s.mu.Unlock()
	in.mu.Lock()
	return in
}

// ServeForward serves the forwarding stream of another member until it ends. member is who the transport says that
// it is; empty: whoever the hello names.
func (n *Node) ServeForward(member string, c net.Conn) error {
	defer c.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-n.stopped:
			_ = c.Close()
		case <-ended:
		}
	}()
	f := newFrames(c)
	hello, err := f.read()
	if err != nil {
		return err
	}
	if hello.kind != frameHello || len(hello.payload) <= bootBytes || len(hello.payload) > 1024 {
		return fmt.Errorf("%w: no hello", errFormat)
	}
	name := string(hello.payload[bootBytes:])
	switch {
	case hello.id != forwardVersion:
		return f.write(frameReject, 0, fmt.Appendf(nil, "forwarding protocol %d, this node speaks %d", hello.id, forwardVersion))
	case member != "" && member != name:
		return f.write(frameReject, 0, fmt.Appendf(nil, "%s says that it is %s", member, name))
	case !n.member(name):
		return f.write(frameReject, 0, fmt.Appendf(nil, "%s is not a member of this cluster", name))
	}
	term := n.raft.CurrentTerm()
	if n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return f.write(frameReject, 0, []byte(n.notLeader(nil).Error()))
	}
	in := n.inboxes.take(name, c)
	defer in.mu.Unlock()
	if in.term != term || string(in.boot[:]) != string(hello.payload[:bootBytes]) {
		in.term, in.received = term, 0
		copy(in.boot[:], hello.payload)
	}
	if err := f.write(frameWelcome, term, binary.BigEndian.AppendUint64(nil, in.received)); err != nil {
		return err
	}
	s := &forwarded{n: n, f: f, in: in, term: term, told: make(chan struct{}, 1)}
	go s.tell(ended)
	return s.serve()
}

// member reports whether the newest configuration names the node.
func (n *Node) member(id string) bool {
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) == id {
			return true
		}
	}
	return false
}

type forwarded struct {
	n     *Node
	f     *frames
	in    *inbox
	term  uint64
	props atomic.Int64
	reads atomic.Int64

	committed atomic.Uint64 // newest index of the member's changes that is committed
	told      chan struct{} // it moved
}

// tell says what is committed until the stream has ended; what moves while it writes is said at once.
func (s *forwarded) tell(ended <-chan struct{}) {
	for {
		select {
		case <-s.told:
			_ = s.f.write(frameIndex, 0, binary.BigEndian.AppendUint64(nil, s.committed.Load())) // a broken stream shows when it is read
		case <-ended:
			return
		}
	}
}

// done is told of a change of the member that is committed. Changes are answered in log order.
func (s *forwarded) done(index uint64) {
	s.committed.Store(index)
	select {
	case s.told <- struct{}{}:
	default:
	}
}

func (s *forwarded) serve() error {
	for {
		x, err := s.f.read()
		if err != nil {
			return err
		}
		switch x.kind {
		case framePropose:
			s.propose(x)
		case frameRead:
			if s.reads.Add(1) > maxReads {
				s.reads.Add(-1)
				s.fail(frameFail, x.id, engine.ErrOverloaded)
				continue
			}
			go s.read(x.id)
		default:
			return fmt.Errorf("%w: frame kind %d", errFormat, x.kind)
		}
	}
}

func (s *forwarded) fail(kind byte, id uint64, err error) {
	_ = s.f.write(kind, id, []byte{refusalCode(err)}, []byte(err.Error())) // a broken stream shows when it is read
}

// propose hands a write set to raft. Only certain refusals are answered; see frameRefuse.
func (s *forwarded) propose(x frame) {
	if x.id <= s.in.received {
		return
	}
	s.in.received = x.id
	if s.props.Add(1) > maxForwarded {
		s.props.Add(-1)
		s.fail(frameRefuse, x.id, fmt.Errorf("%w: %d changes of this member are waiting", engine.ErrOverloaded, maxForwarded))
		return
	}
	ok := s.n.props.add(x.payload, s.term, func(index uint64, _ engine.ApplyOutcome, err error) {
		s.props.Add(-1)
		if err == nil {
			s.done(index)
		} else if !errors.Is(err, engine.ErrUnknownOutcome) && !errors.Is(err, engine.ErrFailed) {
			s.fail(frameRefuse, x.id, err)
		}
	})
	if !ok {
		s.props.Add(-1)
		s.fail(frameRefuse, x.id, s.n.notLeader(nil))
	}
}

func (s *forwarded) read(id uint64) {
	defer s.reads.Add(-1)
	index, err := s.n.reads.leaderIndex()
	if err != nil {
		s.fail(frameFail, id, err)
		return
	}
	_ = s.f.write(frameIndex, id, binary.BigEndian.AppendUint64(nil, index))
}
