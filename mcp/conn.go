package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// ErrConnClosed is returned by [Conn.Receive] after the connection ended.
var ErrConnClosed = errors.New("mcp: connection closed")

// ConnOptions configures a [Conn]. Zero values select the defaults named.
type ConnOptions struct {
	SessionID string        // announced to the SDK; empty for carriers with one session
	Principal string        // who is at the other end, where the context of Receive has no identity; default Anonymous
	Remote    string        // address of the peer whose rate is limited; empty: it is not, as on stdio
	Journal   Journal       // default: a new VolatileJournal
	Drain     time.Duration // how long calls may still finish after [Conn.EndOfInput]; default 10 s
}

// A Conn is the runtime's own [sdk.Connection]. A carrier (stdio, a socket,
// an HTTP request) pushes inbound frames in with [Conn.Receive]; outbound
// messages are committed to a [Journal] and then leave through a [Sink].
//
//	carrier --Receive--> guard --Read--> SDK session --Write--> Journal --> Sink
//
// Conn holds what must hold for every carrier: frames are checked before the
// SDK sees them, a bad frame is answered and the session goes on, ids of
// server-to-client requests come from the Journal, the number of unanswered
// calls is bounded.
//
// Conn is also an [sdk.Transport] that connects to itself.
// All methods are safe for concurrent use, except that Receive and EndOfInput
// belong to one goroutine, the carrier's reader.
type Conn struct {
	rt      *Runtime
	opts    ConnOptions
	sink    Sink     // nil for HTTP
	http    *session // for HTTP: takes the outbound messages; otherwise nil
	journal Journal

	life   context.Context // ends with Close
	die    context.CancelFunc
	in     chan jsonrpc.Message
	ended  chan struct{} // closed by EndOfInput
	idle   chan struct{} // closed when ended and no call is left
	closed chan struct{} // closed by Close

	writeMu sync.Mutex // held over commit and delivery: their orders must agree

	mu          sync.Mutex // guards what follows
	calls       map[jsonrpc.ID]*Call
	sent        map[int64]jsonrpc.ID // server-to-client requests: id on the wire -> id of the SDK
	version     string               // negotiated protocol version, "" before initialize
	initialized bool                 // an initialize request was seen
	initID      jsonrpc.ID           // its id, until it is answered
	isEnded     bool
	isIdle      bool
	isClosed    bool
}

// A Call is an inbound request that has not been answered yet. Handlers find
// theirs with [CallFrom].
type Call struct {
	ID        jsonrpc.ID
	Method    string
	SessionID string
	Principal string
	Version   string // protocol version that a request of 2026-07-28 or later names; "" for those of a session
	Received  time.Time

	conn     *Conn
	exchange *exchange          // the answer of a request of protocol 2026-07-28 over HTTP
	session  *sdk.ServerSession // in which such a request runs
	ctx      context.Context    // whose values the handler gets beside its own; may be nil
	rawID    json.RawMessage
	params   json.RawMessage // of requests that the SDK's types cannot hold

	stream string // Event.Stream of everything that belongs to the call
	extra  *sdk.RequestExtra
	batch  *batchReply

	identity *Identity // never nil

	direct   bool               // goes past the SDK's queue, and has its time limit already
	cancel   context.CancelFunc // of a direct call
	http     *stream            // for sessions over HTTP: where answers and messages of the call go
	internal bool               // made by inject: its answer goes nowhere
}

// batchReply gathers the answers to one inbound batch.
type batchReply struct {
	left  int
	parts []json.RawMessage
}

type callKey struct{}

// httpRequestKey is the context key of the *http.Request that brings calls.
type httpRequestKey struct{}

// CallFrom returns the call that ctx belongs to. It is false outside handlers.
func CallFrom(ctx context.Context) (*Call, bool) {
	call, ok := ctx.Value(callKey{}).(*Call)
	return call, ok
}

// NewConn returns a connection that delivers to sink. Pass it to
// Server().Connect, then feed it.
func (r *Runtime) NewConn(sink Sink, o ConnOptions) *Conn {
	r.ready()
	if o.Journal == nil {
		o.Journal = new(VolatileJournal)
	}
	if o.Drain == 0 {
		o.Drain = 10 * time.Second
	}
	setDefault(&o.Principal, Anonymous)
	life, die := context.WithCancel(context.Background())
	return &Conn{
		rt: r, opts: o, sink: sink, journal: o.Journal, life: life, die: die,
		in:    make(chan jsonrpc.Message),
		ended: make(chan struct{}), idle: make(chan struct{}), closed: make(chan struct{}),
		calls: make(map[jsonrpc.ID]*Call),
		sent:  make(map[int64]jsonrpc.ID),
	}
}

// Connect implements [sdk.Transport].
func (c *Conn) Connect(context.Context) (sdk.Connection, error) { return c, nil }

// SessionID implements [sdk.Connection].
func (c *Conn) SessionID() string { return c.opts.SessionID }

// Read implements [sdk.Connection]. After [Conn.EndOfInput] it waits until the
// calls received before are answered: the SDK drops every answer that is not
// written when Read reports the end.
func (c *Conn) Read(ctx context.Context) (jsonrpc.Message, error) {
	select {
	case msg := <-c.in:
		return msg, nil
	case <-c.closed:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.ended:
	}
	drain := time.NewTimer(c.opts.Drain)
	defer drain.Stop()
	select {
	case <-c.idle:
	case <-drain.C:
	case <-c.closed:
	case <-ctx.Done():
	}
	return nil, io.EOF
}

// Receive takes one inbound frame, a message or a batch, and returns when the
// SDK has taken it over. Its calls belong to the sender that ctx names (see
// [IdentityFrom]), and otherwise to ConnOptions.Principal. A frame that must be refused is answered and is not
// an error. frame must not be modified afterwards.
func (c *Conn) Receive(ctx context.Context, frame []byte) error {
	c.rt.stats.bytesIn.Add(int64(len(frame)))
	list, batch, bad := parseMessages(frame)
	if bad == nil && c.opts.Remote != "" {
		if bad = c.rt.limit(identityIn(ctx), c.opts.Remote, list); bad != nil && !batch {
			bad = bad.withID(list[0].id)
		}
	}
	if bad == nil {
		bad = c.admit(ctx, list, batch, nil)
	}
	if bad != nil {
		return c.Refuse(ctx, bad)
	}
	for i := range list {
		if err := c.push(ctx, &list[i]); err != nil && !errors.Is(err, errStray) {
			return err
		}
	}
	return nil
}

// errStray means that the client answered a request that is not open.
var errStray = errors.New("mcp: answer to no open request")

// accept is Receive for HTTP: the messages are checked already, what belongs
// to their calls goes to st, and refusals are the caller's to answer.
func (c *Conn) accept(ctx context.Context, list []envelope, batch bool, st *stream) error {
	if bad := c.admit(ctx, list, batch, st); bad != nil {
		return bad
	}
	for i := range list {
		// The client may leave now, but a frame is handed over whole or not at all.
		if err := c.push(context.WithoutCancel(ctx), &list[i]); err != nil && !(batch && errors.Is(err, errStray)) {
			return err
		}
	}
	return nil
}

// inject makes the session handle a request that no client sent.
func (c *Conn) inject(ctx context.Context, id, method string, params json.RawMessage) error {
	rawID, err := marshal(id)
	if err != nil {
		return err
	}
	env := &envelope{id: rawID, method: method, params: params}
	c.mu.Lock()
	c.register(ctx, env, nil, nil)
	c.calls[decodeID(rawID)].internal = true
	c.mu.Unlock()
	return c.push(ctx, env)
}

// Refuse answers an inbound message that never reached a handler.
func (c *Conn) Refuse(ctx context.Context, bad error) error {
	var w *wireError
	if !errors.As(bad, &w) {
		w = &wireError{Code: jsonrpc.CodeInternalError, Message: bad.Error()}
	}
	c.rt.stats.refuse(w.Code)
	c.rt.log.Debug("message refused", "code", w.Code, "reason", w.Message)
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return c.sink.Deliver(ctx, Event{Data: w.encode(), Final: true})
}

// push hands one admitted message to Read.
func (c *Conn) push(ctx context.Context, env *envelope) error {
	if env.call != nil && env.call.direct {
		c.startDirect(env.call, env.params)
		return nil
	}
	msg := env.message()
	if req, ok := msg.(*jsonrpc.Request); ok {
		if env.call != nil {
			req.Extra = env.call.extra
		}
		if env.method == "notifications/cancelled" {
			c.cancelDirect(env.params)
		}
	} else if !c.resolve(msg.(*jsonrpc.Response)) {
		c.rt.stats.strayAnswers.Add(1)
		c.rt.log.Debug("answer to no open request", "id", string(env.id))
		return errStray
	}
	select {
	case c.in <- msg:
		return nil
	case <-c.closed:
		return ErrConnClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resolve puts the SDK's own request id into an answer from the client. It is
// false when nothing waits for the answer.
func (c *Conn) resolve(resp *jsonrpc.Response) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	wire, ok := resp.ID.Raw().(int64)
	if !ok {
		return false
	}
	id, ok := c.sent[wire]
	if ok {
		delete(c.sent, wire)
		resp.ID = id
	}
	return ok
}

// admit checks the messages of one frame against the state of the session and
// registers their calls: all of them or none.
func (c *Conn) admit(ctx context.Context, list []envelope, batch bool, st *stream) *wireError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if batch {
		if bad := c.admitBatch(); bad != nil {
			return bad
		}
	}
	pending := len(c.calls)
	for i := range list {
		env := &list[i]
		if !env.isCall() {
			continue
		}
		pending++
		if bad := c.admitCall(env, pending); bad != nil {
			return bad.withID(env.id)
		}
	}
	var reply *batchReply
	if batch && st == nil {
		reply = new(batchReply)
	}
	for i := range list {
		if env := &list[i]; env.isCall() {
			c.register(ctx, env, reply, st)
		}
	}
	return nil
}

func (c *Conn) admitBatch() *wireError {
	switch {
	case c.version == "":
		return invalid("invalid request: a batch before initialize")
	case c.version >= versionNoBatch:
		return invalid("invalid request: protocol version %s has no batches; send one message per line", c.version)
	}
	return nil
}

func (c *Conn) admitCall(env *envelope, pending int) *wireError {
	switch {
	case c.calls[decodeID(env.id)] != nil:
		return invalid("invalid request: id %s belongs to a request that is still running", env.id)
	case pending > c.rt.opts.MaxPending:
		return refuse(http.StatusServiceUnavailable, CodeOverloaded,
			"overloaded: %d requests of this session are still running; wait for answers and try again", c.rt.opts.MaxPending)
	case !c.initialized && env.version < versionStateless && !beforeInitialize(env.method):
		return refuse(http.StatusBadRequest, CodeNotInitialized,
			"not initialized: send initialize (or a %s request with its _meta fields) before %s", versionStateless, env.method)
	}
	return nil
}

// beforeInitialize tells the methods that need no session.
func beforeInitialize(method string) bool {
	return method == "initialize" || method == "ping" || method == "server/discover"
}

// register makes an admitted call known. c.mu is held.
func (c *Conn) register(ctx context.Context, env *envelope, reply *batchReply, st *stream) {
	who, ok := ctx.Value(identityKey{}).(*Identity)
	if !ok {
		who = &Identity{Subject: c.opts.Principal}
	}
	call := &Call{
		ID: decodeID(env.id), Method: env.method,
		SessionID: c.opts.SessionID, Principal: who.Subject, Received: c.rt.opts.Now(),
		Version: env.version, rawID: env.id,
		conn: c, stream: string(env.id), extra: new(sdk.RequestExtra), batch: reply, identity: who,
	}
	if env.method == methodListen {
		call.params = env.params
	}
	if reply != nil {
		reply.left++
	}
	if st != nil {
		call.http = st
		call.extra.CloseSSEStream = func(args sdk.CloseSSEStreamArgs) {
			if err := st.hangUp(context.WithoutCancel(ctx), args.RetryAfter); err != nil {
				st.s.fail(err)
			}
		}
		if req, ok := ctx.Value(httpRequestKey{}).(*http.Request); ok {
			call.extra.Header, call.ctx = req.Header, req.Context()
		}
	}
	if env.method == "initialize" && !c.initialized {
		c.initialized = true
		c.initID = call.ID
		// The answer may correct this. Messages sent behind initialize without
		// waiting for it are judged by what the client asked for.
		c.version, _ = unquote(member(env.params, "protocolVersion"))
	}
	c.calls[call.ID] = call
	env.call = call
	if call.direct = st != nil && c.isDirect(env); !call.direct {
		c.rt.calls.Store(call.extra, call)
	}
}

// running is the number of calls without an answer.
func (c *Conn) running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// EndOfInput says that the carrier will deliver nothing more. Calls that run
// may still finish (ConnOptions.Drain); requests to the client fail at once,
// since nobody can answer them.
func (c *Conn) EndOfInput(ctx context.Context) {
	c.mu.Lock()
	orphans := make([]jsonrpc.ID, 0, len(c.sent))
	for _, id := range c.sent {
		orphans = append(orphans, id)
	}
	clear(c.sent)
	c.isEnded = true
	c.mu.Unlock()
	for _, id := range orphans {
		gone := &jsonrpc.Response{ID: id, Error: &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "the client closed its input"}}
		select {
		case c.in <- gone:
		case <-c.closed:
		case <-ctx.Done():
		}
	}
	close(c.ended)
	c.settle()
}

// settle reports idleness once nothing is left to answer. A subscription never
// ends by itself and is not waited for.
func (c *Conn) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isEnded || c.isIdle {
		return
	}
	for _, call := range c.calls {
		if call.Method != methodListen {
			return
		}
	}
	c.isIdle = true
	close(c.idle)
}

// Close implements [sdk.Connection].
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.isClosed {
		c.mu.Unlock()
		return nil
	}
	c.isClosed = true
	for _, call := range c.calls {
		c.rt.calls.Delete(call.extra)
	}
	clear(c.calls)
	close(c.closed)
	c.die()
	c.mu.Unlock()
	if c.http != nil {
		return c.http.closed()
	}
	return c.sink.Close()
}

// negotiated returns the protocol version agreed on.
func (c *Conn) negotiated() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// isInitialized reports whether initialize succeeded.
func (c *Conn) isInitialized() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.initialized
}

// openCalls returns how many requests of either side are unanswered.
func (c *Conn) openCalls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) + len(c.sent)
}
