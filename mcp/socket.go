package mcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// errSlowPeer ends a socket whose peer reads too little.
var errSlowPeer = errors.New("mcp: the peer reads too slowly; disconnected")

// helloTimeout is how long a peer may take to say who it is.
const helloTimeout = 10 * time.Second

// ServeTCP serves newline-delimited JSON-RPC to everybody who connects to l:
// one message per line, one session per connection, which ends with it. For TLS
// pass a listener of crypto/tls. It returns nil when ctx ends or the runtime is
// closed, and closes l.
//
// With Options.Authenticator the first line of a connection must be
//
//	Authorization: Bearer TOKEN
//
// which is not answered when it is accepted; otherwise the answer is an error
// line (CodeUnauthenticated) and the end of the connection. Without an
// Authenticator such a line is skipped. A first line that is neither this nor
// JSON ends the connection: a browser that was tricked into sending an HTTP
// request here must not get through with its body.
//
// A connection without a message in either direction and without a running
// call ends after Options.SocketIdle; send pings to keep it.
func (r *Runtime) ServeTCP(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-ctx.Done():
		case <-r.done:
		}
		_ = l.Close()
	}()
	var pause time.Duration
	for {
		c, err := l.Accept()
		if err == nil {
			pause = 0
			go r.serveTCP(ctx, c)
			continue
		}
		select {
		case <-r.done:
			return nil
		case <-ctx.Done():
			return nil
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("mcp: accept: %w", err)
		}
		// Out of file descriptors and the like: it passes.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		r.log.Warn("no connection accepted", "error", err, "again in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-r.done:
		}
	}
}

// serveTCP serves one connection.
func (r *Runtime) serveTCP(ctx context.Context, c net.Conn) {
	defer c.Close()
	write := func(p []byte) error {
		_ = c.SetWriteDeadline(time.Now().Add(stallTimeout))
		_, err := c.Write(append(p[:len(p):len(p)], '\n'))
		return err
	}
	refuseAll := func(bad *wireError) {
		r.stats.refuse(bad.Code)
		r.log.Debug("connection refused", "remote", c.RemoteAddr().String(), "code", bad.Code, "reason", bad.Message)
		_ = write(bad.encode())
	}
	leave, bad := r.enterSocket(c.RemoteAddr().String())
	if bad != nil {
		refuseAll(bad)
		return
	}
	defer leave()
	lines := newLineReader(c, r.opts.MaxMessageBytes)
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	req := &http.Request{Header: make(http.Header), RemoteAddr: c.RemoteAddr().String()}
	first, err := lines.hello(req.Header)
	if err != nil {
		return // silent, gone, or no JSON-RPC at all
	}
	_ = c.SetReadDeadline(time.Time{})
	req, bad = r.authenticate(req.WithContext(ctx))
	if bad != nil {
		refuseAll(bad)
		return
	}
	if r.opts.Authenticator != nil {
		held, stop := r.whileCredentialHolds(req)
		defer stop()
		req = req.WithContext(held)
	}
	s := &socket{rt: r, carrier: "tcp", first: first, next: lines.next, count: &r.stats.tcp}
	s.queue = newOutQueue(&r.stats.slowPeers, s.noting(write), func() { _ = c.Close() })
	if err := s.serve(req); err != nil {
		r.log.Debug("connection ended", "carrier", s.carrier, "remote", req.RemoteAddr, "error", err)
	}
}

// hello reads the first line: an Authorization header into h, or the first
// message, which is returned.
func (l *lineReader) hello(h http.Header) ([]byte, error) {
	first, err := l.next()
	if err != nil {
		return nil, err
	}
	if name, value, ok := bytes.Cut(first, []byte(":")); ok && bytes.EqualFold(bytes.TrimSpace(name), []byte("Authorization")) {
		h.Set("Authorization", string(bytes.TrimSpace(value)))
		return nil, nil
	}
	if first[0] != '{' && first[0] != '[' {
		return nil, errors.New("the first line is not JSON-RPC")
	}
	return first, nil
}

// enterSocket admits a new socket.
func (r *Runtime) enterSocket(remote string) (leave func(), bad *wireError) {
	if bad := r.limitConnection(remote); bad != nil {
		return nil, bad
	}
	if n := r.stats.sockets.Add(1); n > int64(r.opts.MaxSockets) {
		r.stats.sockets.Add(-1)
		return nil, refuse(http.StatusServiceUnavailable, CodeOverloaded,
			"overloaded: %d sockets are open; try again later", r.opts.MaxSockets)
	}
	return func() { r.stats.sockets.Add(-1) }, nil
}

// A socket is one session over a connection of its own.
type socket struct {
	rt      *Runtime
	carrier string
	first   []byte                 // message read already; nil: none
	next    func() ([]byte, error) // the next message, or *wireError for one to be refused
	queue   *outQueue
	count   *atomic.Uint64 // messages read
	moved   atomic.Int64   // when a message last went either way, Unix nanoseconds
}

// noting wraps a write so that it counts as a sign of life.
func (s *socket) noting(write func([]byte) error) func([]byte) error {
	return func(p []byte) error {
		err := write(p)
		s.moved.Store(s.rt.opts.Now().UnixNano())
		return err
	}
}

// serve runs the session until the peer closes, the credential of req ends, it
// is idle for too long, or the runtime closes.
func (s *socket) serve(req *http.Request) error {
	s.moved.Store(s.rt.opts.Now().UnixNano())
	who := identityIn(req.Context())
	conn := s.rt.NewConn(s.queue, ConnOptions{Principal: who.Subject, Remote: req.RemoteAddr})
	defer s.watchIdle(conn)()
	err := s.rt.serveFrames(req.Context(), conn, s.read, s.count)
	_ = conn.Close()
	<-s.queue.done // what was answered is sent
	return err
}

func (s *socket) read() ([]byte, error) {
	if s.first != nil {
		first := s.first
		s.first = nil
		return first, nil
	}
	frame, err := s.next()
	s.moved.Store(s.rt.opts.Now().UnixNano())
	return frame, err
}

// watchIdle closes conn when nothing happens on it for Options.SocketIdle.
func (s *socket) watchIdle(conn *Conn) (stop func()) {
	var timer atomic.Pointer[func() bool]
	var check func()
	arm := func(after time.Duration) {
		t := s.rt.opts.AfterFunc(after, check)
		timer.Store(&t)
	}
	check = func() {
		select {
		case <-conn.closed:
			return
		default:
		}
		limit := s.rt.opts.SocketIdle
		quiet := s.rt.opts.Now().Sub(time.Unix(0, s.moved.Load()))
		switch {
		case conn.running() > 0:
			arm(limit)
		case quiet < limit:
			arm(limit - quiet)
		default:
			_ = conn.Refuse(context.Background(), refuse(http.StatusRequestTimeout, jsonrpc.CodeInvalidRequest,
				"closed: no message for %s; send a ping now and then to keep the connection", limit))
			_ = conn.Close()
		}
	}
	arm(s.rt.opts.SocketIdle)
	return func() { (*timer.Load())() }
}

// serveFrames runs one session over a carrier that delivers frames one by one:
// next returns the next frame, a *wireError for one that must be refused, or
// io.EOF at the end.
func (r *Runtime) serveFrames(ctx context.Context, conn *Conn, next func() ([]byte, error), count *atomic.Uint64) error {
	session, err := r.server.Connect(ctx, conn, nil)
	if err != nil {
		return fmt.Errorf("mcp: connect: %w", err)
	}
	failed := make(chan error, 1)
	go func() {
		failed <- r.pump(ctx, next, conn, count)
		conn.EndOfInput(ctx) // after the error is in failed: the session ends only now
	}()
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err := <-ended:
		return streamEnd(err, failed)
	case <-ctx.Done():
		_ = conn.Close()
		r.closeSession(session)
		return ctx.Err()
	case <-r.done:
		_ = conn.Close()
		r.closeSession(session)
		return nil
	}
}

// pump moves frames into conn until the input ends.
func (r *Runtime) pump(ctx context.Context, next func() ([]byte, error), conn *Conn, count *atomic.Uint64) error {
	for {
		frame, err := next()
		var bad *wireError
		switch {
		case errors.As(err, &bad):
			err = conn.Refuse(ctx, bad)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("mcp: read: %w", err)
		default:
			count.Add(1)
			err = conn.Receive(ctx, frame)
		}
		if err != nil {
			return err
		}
	}
}
