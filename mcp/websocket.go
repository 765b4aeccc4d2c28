package mcp

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// webSocketProtocol is the subprotocol that clients must offer.
const webSocketProtocol = "mcp"

// WebSocket returns the handler of the WebSocket carrier: subprotocol "mcp", one
// JSON-RPC message per text frame, one session per connection, which ends with
// it. Host, Origin, credentials and limits are those of [Runtime.Handler]. The
// server pings every Options.KeepAlive; a connection without a message and
// without a running call ends after Options.SocketIdle.
func (r *Runtime) WebSocket() http.Handler { return webSocket{newFront(r)} }

type webSocket struct{ f *front }

// ServeHTTP implements [http.Handler].
func (h webSocket) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r := h.f.rt
	defer h.f.recover(w, req)
	req, leave, bad := h.admit(w, req)
	if bad != nil {
		h.f.refuse(w, req, bad)
		return
	}
	defer leave()
	ctx := req.Context()
	if r.opts.Authenticator != nil { // before the peer can know that it is connected
		held, stop := r.whileCredentialHolds(req)
		defer stop()
		ctx = held
	}
	c, err := websocket.Accept(w, req, &websocket.AcceptOptions{
		Subprotocols: []string{webSocketProtocol}, InsecureSkipVerify: true, // checkSource has verified the Origin
	})
	if err != nil {
		r.log.Debug("no WebSocket", "remote", req.RemoteAddr, "error", err) // Accept has answered
		return
	}
	defer c.CloseNow()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &socket{rt: r, carrier: "websocket", next: h.reader(ctx, c), count: &r.stats.webSocket}
	s.queue = newOutQueue(&r.stats.slowPeers, s.noting(func(p []byte) error {
		ctx, cancel := context.WithTimeout(context.Background(), stallTimeout)
		defer cancel()
		return c.Write(ctx, websocket.MessageText, p)
	}), func() { h.goodbye(c) })
	go h.keepAlive(ctx, c)
	if err := s.serve(req.WithContext(ctx)); err != nil {
		r.log.Debug("connection ended", "carrier", s.carrier, "remote", req.RemoteAddr, "error", err)
	}
}

// admit does what the front does, in its order.
func (h webSocket) admit(w http.ResponseWriter, req *http.Request) (_ *http.Request, leave func(), bad *wireError) {
	r := h.f.rt
	if bad := r.opts.checkSource(req); bad != nil {
		return req, nil, bad
	}
	if bad := checkConnection(req); bad != nil {
		w.Header().Set("Connection", "close")
		return req, nil, bad
	}
	if bad := h.f.available(); bad != nil {
		return req, nil, bad
	}
	req, bad = r.authenticate(req)
	if bad != nil {
		return req, nil, bad
	}
	offered := strings.Split(strings.Join(req.Header.Values("Sec-WebSocket-Protocol"), ","), ",")
	if !slices.ContainsFunc(offered, func(p string) bool { return strings.TrimSpace(p) == webSocketProtocol }) {
		return req, nil, refuse(http.StatusBadRequest, jsonrpc.CodeInvalidRequest,
			"this is a WebSocket endpoint: connect with the subprotocol %q", webSocketProtocol)
	}
	if r.stats.sockets.Add(1) > int64(r.opts.MaxSockets) {
		r.stats.sockets.Add(-1)
		return req, nil, refuse(http.StatusServiceUnavailable, CodeOverloaded,
			"overloaded: %d sockets are open; try again later", r.opts.MaxSockets)
	}
	return req, func() { r.stats.sockets.Add(-1) }, nil
}

// reader returns a function that reads one message. One over the limit is read
// to its end in constant memory and reported with its id, as on the other carriers.
func (h webSocket) reader(ctx context.Context, c *websocket.Conn) func() ([]byte, error) {
	limit := h.f.rt.opts.MaxMessageBytes
	c.SetReadLimit(drainLimit + limit)
	return func() ([]byte, error) {
		kind, body, err := c.Reader(ctx)
		if err != nil {
			return nil, ended(err)
		}
		if kind != websocket.MessageText {
			_ = c.Close(websocket.StatusUnsupportedData, "messages are text frames")
			return nil, errors.New("a binary frame")
		}
		frame, err := io.ReadAll(io.LimitReader(body, limit+1))
		if err != nil {
			return nil, ended(err)
		}
		if int64(len(frame)) <= limit {
			return frame, nil
		}
		var ids idScan
		ids.write(frame)
		size := int64(len(frame))
		frame = nil
		rest, err := io.CopyBuffer(idWriter{&ids}, body, make([]byte, lineBuffer))
		if err != nil {
			return nil, ended(err)
		}
		return nil, tooLarge(size+rest, limit).withID(ids.found())
	}
}

// ended is io.EOF when the peer closed as it should, or is gone.
func ended(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return io.EOF
	}
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

// goodbye says why the server closes.
func (h webSocket) goodbye(c *websocket.Conn) {
	select {
	case <-h.f.rt.done:
		_ = c.Close(websocket.StatusGoingAway, "the server is shutting down")
	default:
		_ = c.Close(websocket.StatusNormalClosure, "the session ended")
	}
}

// keepAlive finds out whether the peer is still there.
func (h webSocket) keepAlive(ctx context.Context, c *websocket.Conn) {
	interval := h.f.rt.opts.KeepAlive
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		ping, cancel := context.WithTimeout(ctx, interval)
		err := c.Ping(ping)
		cancel()
		if err != nil {
			_ = c.CloseNow()
			return
		}
	}
}
