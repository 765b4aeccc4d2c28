package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

//lint:file-ignore SA1019 roots, sampling and logging are deprecated, not gone: clients use them

const (
	// maxResidents bounds the sessions kept for clients that look different.
	// Most servers see a handful of client programs; beyond the bound the one
	// that was used longest ago makes room.
	maxResidents = 64
	// maxResidentKey bounds the memory of one: clients that introduce
	// themselves at greater length get a session per request.
	maxResidentKey = 4 << 10
)

// residents lends out the SDK sessions that requests of protocol 2026-07-28 run
// in. The protocol has no sessions, but the SDK's handlers are given one, which
// tells them what the client can do. Building one for every request is most of
// what such a request costs, so requests that introduce their client in the
// same words share one.
type residents struct {
	rt *Runtime

	mu     sync.Mutex
	open   map[string]*resident
	clock  uint64 // counts loans: the order of last use
	closed bool
}

// A resident is one SDK session behind which no client connection stands.
type resident struct {
	rt      *Runtime
	session *sdk.ServerSession
	loop    *loop

	key    string // "" when it serves one request only
	users  int
	lastly uint64
}

// lend returns a session for a client that introduced itself by meta, and must
// be paired with giveBack.
func (p *residents) lend(meta *requestMeta) (*resident, *wireError) {
	var buf [512]byte
	key := meta.appendKey(buf[:0])
	p.mu.Lock()
	if r := p.open[string(key)]; r != nil {
		p.clock++
		r.users++
		r.lastly = p.clock
		p.mu.Unlock()
		return r, nil
	}
	p.mu.Unlock()

	state, bad := meta.state()
	if bad != nil {
		return nil, bad
	}
	r, err := p.rt.newResident(state, nil)
	if err != nil {
		return nil, refuse(http.StatusInternalServerError, jsonrpc.CodeInternalError, "no session for the request: %v", err)
	}
	if len(key) > maxResidentKey {
		return r, nil
	}
	return p.keep(string(key), r), nil
}

// keep enters a new resident, unless another request was faster.
func (p *residents) keep(key string, r *resident) *resident {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.open[key] == nil && len(p.open) >= maxResidents && !p.evict() {
		return r
	}
	if other := p.open[key]; other != nil {
		go r.close()
		r = other
	} else {
		if p.open == nil {
			p.open = make(map[string]*resident)
		}
		r.key = key
		p.open[key] = r
	}
	p.clock++
	r.users++
	r.lastly = p.clock
	return r
}

// evict ends the idle resident that was used longest ago. It is false when all
// are in use. p.mu is held.
func (p *residents) evict() bool {
	var oldest *resident
	for _, r := range p.open {
		if r.users == 0 && (oldest == nil || r.lastly < oldest.lastly) {
			oldest = r
		}
	}
	if oldest == nil {
		return false
	}
	delete(p.open, oldest.key)
	go oldest.close()
	return true
}

// giveBack ends a loan.
func (p *residents) giveBack(r *resident) {
	if r.key == "" {
		r.close()
		return
	}
	p.mu.Lock()
	r.users--
	p.mu.Unlock()
}

// close lets every later request run in a session of its own; the kept ones
// are closed with the server's other sessions.
func (p *residents) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	clear(p.open)
}

// newResident opens an SDK session. observe is called with every notification
// that the SDK sends to it of its own accord; it may be nil.
func (r *Runtime) newResident(state *sdk.ServerSessionState, observe func(method string, params json.RawMessage)) (*resident, error) {
	loop := &loop{
		in: make(chan jsonrpc.Message), closed: make(chan struct{}),
		waiting: make(map[jsonrpc.ID]chan<- *jsonrpc.Response), observe: observe,
	}
	session, err := r.server.Connect(context.Background(), loop, &sdk.ServerSessionOptions{State: state})
	if err != nil {
		return nil, err
	}
	r.hidden.Store(session, struct{}{})
	return &resident{rt: r, session: session, loop: loop}, nil
}

// isHidden reports whether session is one of the runtime's own.
func (r *Runtime) isHidden(session *sdk.ServerSession) bool {
	_, ok := r.hidden.Load(session)
	return ok
}

// requestMeta is what params._meta says about the sender of a request
// (SEP-2575), as raw texts; nil where it says nothing.
type requestMeta struct {
	clientInfo, capabilities, logLevel []byte
}

func parseMeta(params []byte) requestMeta {
	var m requestMeta
	meta := member(params, "_meta")
	if len(meta) == 0 || meta[0] != '{' {
		return m
	}
	s := &scanner{data: meta}
	_ = s.members(0, func(k, v []byte) error {
		switch {
		case isName(k, sdk.MetaKeyClientInfo):
			m.clientInfo = v
		case isName(k, sdk.MetaKeyClientCapabilities):
			m.capabilities = v
		case isName(k, sdk.MetaKeyLogLevel):
			m.logLevel = v
		}
		return nil
	})
	return m
}

// appendKey appends what tells residents apart. A zero byte cannot occur in
// the texts.
func (m *requestMeta) appendKey(buf []byte) []byte {
	buf = append(buf, m.clientInfo...)
	buf = append(buf, 0)
	buf = append(buf, m.capabilities...)
	buf = append(buf, 0)
	return append(buf, m.logLevel...)
}

// state checks what the client says about itself and puts it where the SDK's
// handlers look for it.
func (m *requestMeta) state() (*sdk.ServerSessionState, *wireError) {
	init := &sdk.InitializeParams{ProtocolVersion: versionStateless}
	if m.clientInfo != nil {
		if !isObject(m.clientInfo) || decodeJSON(m.clientInfo, &init.ClientInfo) != nil {
			return nil, invalidMeta("invalid", sdk.MetaKeyClientInfo)
		}
	}
	caps := struct {
		sdk.ClientCapabilities
		Roots *sdk.RootCapabilities `json:"roots,omitempty"`
	}{}
	if !isObject(m.capabilities) || decodeJSON(m.capabilities, &caps) != nil {
		return nil, invalidMeta("missing or invalid", sdk.MetaKeyClientCapabilities)
	}
	if caps.Roots != nil { // as the SDK reads them
		caps.RootsV2 = caps.Roots
		caps.ClientCapabilities.Roots = *caps.Roots
	}
	init.Capabilities = &caps.ClientCapabilities
	level, _ := unquote(m.logLevel)
	return &sdk.ServerSessionState{
		InitializeParams: init, InitializedParams: new(sdk.InitializedParams),
		NegotiatedProtocolVersion: init.ProtocolVersion, LogLevel: sdk.LoggingLevel(level),
	}, nil
}

func invalidMeta(how, key string) *wireError {
	return refuse(http.StatusBadRequest, jsonrpc.CodeInvalidParams, "%s _meta field %q", how, key)
}

func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }

// close ends the session. Nothing may run in it.
func (r *resident) close() {
	_ = r.session.Close()
	r.rt.hidden.Delete(r.session)
}

// A loop is the connection of a resident: there is no client, but requests can
// be put in for what only the SDK's own dispatcher can do, such as methods
// whose parameter types it alone knows.
type loop struct {
	in      chan jsonrpc.Message
	observe func(method string, params json.RawMessage)
	closed  chan struct{}
	once    sync.Once

	mu      sync.Mutex
	last    int64
	waiting map[jsonrpc.ID]chan<- *jsonrpc.Response
}

// Connect implements [sdk.Transport].
func (l *loop) Connect(context.Context) (sdk.Connection, error) { return l, nil }

// SessionID implements [sdk.Connection].
func (l *loop) SessionID() string { return "" }

// Read implements [sdk.Connection].
func (l *loop) Read(ctx context.Context) (jsonrpc.Message, error) {
	select {
	case msg := <-l.in:
		return msg, nil
	case <-l.closed:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Write implements [sdk.Connection].
func (l *loop) Write(_ context.Context, msg jsonrpc.Message) error {
	switch m := msg.(type) {
	case *jsonrpc.Response:
		l.mu.Lock()
		answer := l.waiting[m.ID]
		delete(l.waiting, m.ID)
		l.mu.Unlock()
		if answer != nil {
			answer <- m
		}
		return nil
	case *jsonrpc.Request:
		if !m.IsCall() && l.observe != nil {
			l.observe(m.Method, bytes.Clone(m.Params))
			return nil
		}
		return rejected(fmt.Sprintf("%s belongs to no open request of this client", m.Method))
	}
	return rejected(fmt.Sprintf("cannot write a %T", msg))
}

// Close implements [sdk.Connection].
func (l *loop) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// call runs one request through the SDK's dispatcher. When ctx ends the handler
// is told so; call returns when it has returned.
func (l *loop) call(ctx context.Context, method string, params json.RawMessage, extra *sdk.RequestExtra) (*jsonrpc.Response, error) {
	answer := make(chan *jsonrpc.Response, 1)
	l.mu.Lock()
	l.last++
	number := l.last
	id, err := jsonrpc.MakeID(float64(number))
	l.waiting[id] = answer
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	req := &jsonrpc.Request{ID: id, Method: method, Params: params}
	if extra != nil {
		req.Extra = extra
	}
	if err := l.put(req); err != nil { // closed: nobody looks at waiting any more
		return nil, err
	}
	select {
	case resp := <-answer:
		return resp, nil
	case <-ctx.Done():
	case <-l.closed:
		return nil, ErrConnClosed
	}
	cancel := &jsonrpc.Request{Method: "notifications/cancelled", Params: fmt.Appendf(nil, `{"requestId":%d}`, number)}
	if err := l.put(cancel); err != nil {
		return nil, err
	}
	select {
	case resp := <-answer:
		return resp, nil
	case <-l.closed:
		return nil, ErrConnClosed
	}
}

func (l *loop) put(msg jsonrpc.Message) error {
	select {
	case l.in <- msg:
		return nil
	case <-l.closed:
		return ErrConnClosed
	}
}
