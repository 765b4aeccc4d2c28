// Package port is the one port of a cluster member. Everything between members goes through it, over TLS 1.3 with
// certificates on both sides; the protocol is negotiated in the handshake (ALPN):
//
//	erlmcp-raft/2       raft's messages (replication/wire)
//	erlmcp-forward/1    write sets and read requests to the leader (replication/forward_wire.go)
//	erlmcp-transfer/1   the state for a member that needs it (replication/transfer.go)
//	erlmcp-admin/1      questions and orders of other members, HTTP/1.1 with JSON
//	erlmcp-join/1       a machine with a token asks for a certificate, HTTP/1.1 with JSON; the only one without a client certificate
//
// A number is raised when a protocol changes: two versions find out in the handshake that they do not fit, and say so.
package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/hashicorp/raft"
)

// The protocols.
const (
	Raft     = "erlmcp-raft/2"
	Forward  = "erlmcp-forward/1"
	Transfer = "erlmcp-transfer/1"
	Admin    = "erlmcp-admin/1"
	Join     = "erlmcp-join/1"
)

// ErrProtocol: the other side does not know the protocol, because it runs another version or is not a member at all.
var ErrProtocol = errors.New("cluster port: no common protocol")

// noProtocol is what crypto/tls makes of the alert 120 (RFC 7301, section 3.2), whose type it keeps to itself.
const noProtocol = "tls: no application protocol"

const (
	handshake     = 10 * time.Second
	maxHandshakes = 256 // connections that have not shown who they are
)

// Conn is an accepted connection of a member; Member is empty for Join.
type Conn struct {
	net.Conn
	Member string
}

// Port accepts connections and hands them to whoever serves their protocol. Safe for concurrent use.
type Port struct {
	id     *trust.Identity
	l      net.Listener
	log    *slog.Logger
	shakes chan struct{}

	mu     sync.Mutex
	serve  map[string]func(Conn)
	conns  map[net.Conn]struct{}
	closed bool
}

// Listen opens the port.
func Listen(address string, id *trust.Identity, log *slog.Logger) (*Port, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cluster port: cannot listen on %s: %w", address, err)
	}
	p := &Port{
		id: id, l: l, log: log, shakes: make(chan struct{}, maxHandshakes),
		serve: map[string]func(Conn){}, conns: map[net.Conn]struct{}{},
	}
	go p.accept()
	return p, nil
}

// Addr is the address as bound.
func (p *Port) Addr() net.Addr { return p.l.Addr() }

// Handle serves a protocol from now on; nil: not any more, new connections are refused. fn is called on a goroutine of its
// own and owns the connection.
func (p *Port) Handle(protocol string, fn func(Conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serve[protocol] = fn
}

// Close ends the port and every connection that came through it.
func (p *Port) Close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	return p.l.Close()
}

func (p *Port) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.log.Warn("cluster port: accept", "error", err)
			time.Sleep(50 * time.Millisecond) // out of file descriptors, most likely
			continue
		}
		select {
		case p.shakes <- struct{}{}:
			go p.welcome(c)
		default:
			_ = c.Close()
		}
	}
}

func (p *Port) welcome(raw net.Conn) {
	c := tls.Server(raw, p.id.Server([]string{Raft, Forward, Transfer, Admin}, []string{Join}))
	ctx, cancel := context.WithTimeout(context.Background(), handshake)
	err := c.HandshakeContext(ctx)
	cancel()
	<-p.shakes
	if err != nil {
		p.log.Debug("cluster port: refused", "from", raw.RemoteAddr().String(), "error", err)
		_ = c.Close()
		return
	}
	s := c.ConnectionState()
	conn := Conn{Conn: &tracked{Conn: c, p: p}}
	if len(s.VerifiedChains) > 0 {
		conn.Member = s.PeerCertificates[0].Subject.CommonName
	}
	p.mu.Lock()
	serve := p.serve[s.NegotiatedProtocol]
	refuse := serve == nil || p.closed
	if !refuse {
		p.conns[conn.Conn] = struct{}{}
	}
	p.mu.Unlock()
	if refuse {
		_ = c.Close()
		return
	}
	serve(conn)
}

// tracked takes itself off the port's list when it is closed.
type tracked struct {
	net.Conn
	p    *Port
	once sync.Once
}

func (t *tracked) Close() error {
	t.once.Do(func() {
		go func() { // Close of the port holds mu
			t.p.mu.Lock()
			defer t.p.mu.Unlock()
			delete(t.p.conns, t)
		}()
	})
	return t.Conn.Close()
}

// Dial connects to a member; name: who it must be, empty: any member of the cluster.
func Dial(ctx context.Context, id *trust.Identity, protocol, name, address string) (net.Conn, error) {
	return dialTLS(ctx, address, id.Client(protocol, name))
}

// DialJoin connects with a token.
func DialJoin(ctx context.Context, t trust.Token, address string) (net.Conn, error) {
	return dialTLS(ctx, address, t.Joining(Join))
}

func dialTLS(ctx context.Context, address string, c *tls.Config) (net.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: c}
	conn, err := d.DialContext(ctx, "tcp", address)
	switch {
	case err != nil && strings.Contains(err.Error(), noProtocol):
		return nil, fmt.Errorf("%w: %s does not speak %s; bring both members to the same version", ErrProtocol, address, c.NextProtos[0])
	case err != nil:
		return nil, trust.Explain(address, err)
	case conn.(*tls.Conn).ConnectionState().NegotiatedProtocol == "":
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %s does not speak %s", ErrProtocol, address, c.NextProtos[0])
	}
	return plain{conn}, nil
}

// plain hides from net/http that a connection is TLS: it would look for HTTP/2.
type plain struct{ net.Conn }

// Layer is raft's view of the port: a raft.StreamLayer that may be closed and made anew while the port lives.
type Layer struct {
	p       *Port
	address string
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once

	mu   sync.Mutex
	open map[net.Conn]struct{} // raft's transport forgets its connections when it is closed
}

var _ raft.StreamLayer = (*Layer)(nil)

// Layer begins to take raft's connections. advertise is how the others call this member.
func (p *Port) Layer(advertise string) *Layer {
	l := &Layer{p: p, address: advertise, conns: make(chan net.Conn), closed: make(chan struct{}), open: map[net.Conn]struct{}{}}
	p.Handle(Raft, func(c Conn) {
		select {
		case l.conns <- l.own(c):
		case <-l.closed:
			_ = c.Close()
		}
	})
	return l
}

// Accept implements net.Listener.
func (l *Layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; the port goes on.
func (l *Layer) Close() error {
	l.once.Do(func() {
		l.p.Handle(Raft, nil)
		close(l.closed)
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.open {
			_ = c.(*owned).Conn.Close()
		}
	})
	return nil
}

// owned is a connection that ends with its layer.
type owned struct {
	net.Conn
	l *Layer
}

func (l *Layer) own(c net.Conn) net.Conn {
	o := &owned{c, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[o] = struct{}{}
	select {
	case <-l.closed:
		_ = c.Close()
	default:
	}
	return o
}

func (o *owned) Close() error {
	o.l.mu.Lock()
	delete(o.l.open, o)
	o.l.mu.Unlock()
	return o.Conn.Close()
}

// Addr implements net.Listener.
func (l *Layer) Addr() net.Addr { return address(l.address) }

// Dial implements raft.StreamLayer.
func (l *Layer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := Dial(ctx, l.p.id, Raft, "", string(to))
	if err != nil {
		return nil, err
	}
	return l.own(c), nil
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }
