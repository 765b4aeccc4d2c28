package wire

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ErrClosed: the transport was closed.
var ErrClosed = errors.New("raft transport: closed")

// Options configure a Transport.
type Options struct {
	// Stream opens and accepts connections. Required; closed by the Transport.
	Stream raft.StreamLayer
	// Timeout bounds sending a request and, after that, waiting for its answer; default 10 s. A snapshot gets as much for every 256 KiB.
	Timeout time.Duration
	// InFlight is how many requests of a pipeline may be on their way; default 16, at least 2. Each has up to MaxEntries entries.
	InFlight int
	// Idle is how many unused connections to each member are kept; default 3.
	Idle int
	// Logger hears of connections that ended in a way they should not; default: discard.
	Logger *slog.Logger
}

// Transport implements raft.Transport, raft.WithPreVote and raft.WithClose. Safe for concurrent use.
type Transport struct {
	o      Options
	rpcs   chan raft.RPC
	closed chan struct{}
	once   sync.Once

	mu        sync.Mutex
	idle      map[raft.ServerAddress][]*stream
	open      map[net.Conn]struct{} // accepted
	heartbeat func(raft.RPC)
}

var (
	_ raft.Transport   = (*Transport)(nil)
	_ raft.WithPreVote = (*Transport)(nil)
	_ raft.WithClose   = (*Transport)(nil)
)

// New begins to accept connections.
func New(o Options) *Transport {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.InFlight == 0 {
		o.InFlight = 16
	}
	o.InFlight = max(o.InFlight, 2)
	if o.Idle == 0 {
		o.Idle = 3
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Transport{
		o: o, rpcs: make(chan raft.RPC), closed: make(chan struct{}),
		idle: map[raft.ServerAddress][]*stream{}, open: map[net.Conn]struct{}{},
	}
	go t.accept()
	return t
}

// Close ends everything, accepted and unused connections included.
func (t *Transport) Close() error {
	var err error
	t.once.Do(func() {
		close(t.closed)
		err = t.o.Stream.Close()
		t.mu.Lock()
		defer t.mu.Unlock()
		for c := range t.open {
			_ = c.Close()
		}
		for _, all := range t.idle {
			for _, s := range all {
				_ = s.Close()
			}
		}
		clear(t.idle)
	})
	return err
}

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.rpcs }

// LocalAddr implements raft.Transport.
func (t *Transport) LocalAddr() raft.ServerAddress {
	return raft.ServerAddress(t.o.Stream.Addr().String())
}

// EncodePeer implements raft.Transport.
func (t *Transport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

// DecodePeer implements raft.Transport.
func (t *Transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (t *Transport) SetHeartbeatHandler(fn func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = fn
}

// AppendEntries implements raft.Transport. If a does not fit into one message, a.Entries is cut to what was sent; raft goes on
// behind that.
func (t *Transport) AppendEntries(_ raft.ServerID, to raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	a.Entries = fitting(a.Entries)
	return t.ask(to, a, resp)
}

// RequestVote implements raft.Transport.
func (t *Transport) RequestVote(_ raft.ServerID, to raft.ServerAddress, a *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.ask(to, a, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *Transport) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, a *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.ask(to, a, resp)
}

// TimeoutNow implements raft.Transport.
func (t *Transport) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, a *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.ask(to, a, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *Transport) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, a *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	s, err := t.take(to)
	if err != nil {
		return err
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(t.o.Timeout * time.Duration(1+a.Size/(256<<10))))
	if err := s.write(a); err != nil {
		return err
	}
	if n, err := io.CopyN(s, data, a.Size); err != nil {
		return fmt.Errorf("raft transport: snapshot ended after %d of %d bytes: %w", n, a.Size, err)
	}
	return s.answer(resp)
}

// fitting returns the beginning of the entries that is sent in one message.
func fitting(all []*raft.Log) []*raft.Log {
	size := 0
	for i, e := range all {
		if size += entrySize(e); i > 0 && size > MaxMessage || i == MaxEntries {
			return all[:i]
		}
	}
	return all
}

// ask sends a request on an unused connection and waits for the answer.
func (t *Transport) ask(to raft.ServerAddress, request, answer any) error {
	s, err := t.take(to)
	if err != nil {
		return err
	}
	_ = s.SetDeadline(time.Now().Add(t.o.Timeout)) // a connection that cannot have one is broken, and says so now
	err = s.ask(request, answer)
	var failed FailedError
	if err != nil && !errors.As(err, &failed) {
		_ = s.Close()
		return err
	}
	t.put(to, s)
	return err
}

// take returns an unused connection or opens one.
func (t *Transport) take(to raft.ServerAddress) (*stream, error) {
	t.mu.Lock()
	if all := t.idle[to]; len(all) > 0 {
		s := all[len(all)-1]
		t.idle[to] = all[:len(all)-1]
		t.mu.Unlock()
		return s, nil
	}
	t.mu.Unlock()
	select {
	case <-t.closed:
		return nil, ErrClosed
	default:
	}
	c, err := t.o.Stream.Dial(to, t.o.Timeout)
	if err != nil {
		return nil, err
	}
	return newStream(c), nil
}

func (t *Transport) put(to raft.ServerAddress, s *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.closed:
	default:
		if len(t.idle[to]) < t.o.Idle {
			t.idle[to] = append(t.idle[to], s)
			return
		}
	}
	_ = s.Close()
}
