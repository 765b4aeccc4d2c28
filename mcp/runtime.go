package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"go.opentelemetry.io/otel/trace"

	"github.com/erlmcp/erlmcp/engine"
)

// Limits of Options.MaxMessageBytes and its default.
const (
	MinMessageBytes     = 1 << 10
	MaxMessageBytes     = 100 << 20
	DefaultMessageBytes = 16 << 20
)

// Options configures a [Runtime]. The zero value is a working configuration.
type Options struct {
	Name         string // server name told to clients; default "erlmcp"
	Version      string // server version told to clients; default "dev"
	Title        string // display name; default Name
	Instructions string // how a model should use the server; may be empty

	Logger *slog.Logger // default: discard

	// MaxMessageBytes bounds one inbound message, and one outbound answer on
	// stdio. MinMessageBytes..MaxMessageBytes, default DefaultMessageBytes.
	MaxMessageBytes int64
	// AllowedHosts are further values of the Host header to accept, without
	// port; "*" accepts every host. Loopback names are always accepted, and
	// when the listener is not on loopback every host is, unless this is set.
	AllowedHosts []string
	// AllowedOrigins are further values of the Origin header to accept, such
	// as "https://dash.example.com"; "*" accepts every origin. Loopback
	// origins and requests without Origin are always accepted.
	AllowedOrigins []string

	// Authenticator names the senders of HTTP requests and of sockets. nil:
	// everybody who can reach the server is [Anonymous]. stdio has no
	// authentication: whoever started the process is at the other end.
	Authenticator Authenticator
	// ToolScopes are the scopes that the callers of a tool must hold, all of
	// them, by name of the tool. A name that ends in * stands for all tools
	// that begin so; the most specific rule counts alone. Tools without a rule
	// need no scope. Scopes are only checked where there is authentication.
	ToolScopes map[string][]string

	SessionTimeout time.Duration // idle HTTP sessions end after this; default 30 min
	EvictAfter     time.Duration // idle HTTP sessions without subscriptions are kept in the store only; default 5 min
	EventTTL       time.Duration // how long events of a stream can be asked for again; default 1 h
	StreamEvents   int           // events kept of one call's stream, the newest, at most 16 MiB; default 100
	// StreamAfter is how long a request of a session may take before its
	// answer turns into an event stream, which the client can resume: long
	// enough for quick tools, whose answers then cost no commit. Default 30 ms.
	StreamAfter      time.Duration
	CallTimeout      time.Duration // longest run of one handler; default 5 min
	BodyTimeout      time.Duration // longest time to receive an HTTP body; default 60 s
	KeepAlive        time.Duration // comment on silent event streams; default 30 s
	MaxSessions      int           // HTTP sessions that exist at once; default 10000
	MaxRequests      int           // HTTP requests worked on at once; default 1000
	MaxStreams       int           // event streams open at once; default 1000
	MaxPending       int           // unanswered requests of one connection; default 1000
	MaxSubscriptions int           // resource subscriptions of one session; default 1000
	MaxProgress      int           // running requests with a progress token; default 10000
	MaxHandles       int           // state handles of one principal; default 1000
	StateTTL         time.Duration // how long a requestState is accepted; default 15 min
	MaxSockets       int           // raw TCP connections and WebSockets at once; default 1000
	SocketIdle       time.Duration // sockets without a message and without a running call end after this; default 5 min

	// Rates bounds what one client may ask for per second.
	Rates RateLimits
	// Audit configures the audit log of tool calls.
	Audit AuditOptions
	// Tracer makes spans of requests and of the steps of tasks; nil: none.
	Tracer trace.TracerProvider

	// Tasks bounds durable tasks; see [AddTaskTool].
	Tasks TaskLimits

	// Freshness is what the state is worth when other nodes are not asked: the
	// index of its newest change, and how old it is at most (negative: not
	// known). nil: nothing is ever old. See [MetaStale].
	Freshness func() (index uint64, age time.Duration)

	Now func() time.Time // default time.Now
	// AfterFunc calls f in its own goroutine after d, unless stop is called
	// before; default [time.AfterFunc]. Tests pass a clock that fits Now.
	AfterFunc func(d time.Duration, f func()) (stop func() bool)
}

// withDefaults fills in the zero fields and checks the others.
func (o Options) withDefaults() (Options, error) {
	if o.MaxMessageBytes == 0 {
		o.MaxMessageBytes = DefaultMessageBytes
	}
	if o.MaxMessageBytes < MinMessageBytes || o.MaxMessageBytes > MaxMessageBytes {
		return o, fmt.Errorf("mcp: MaxMessageBytes is %d, want %d to %d", o.MaxMessageBytes, MinMessageBytes, MaxMessageBytes)
	}
	setDefault(&o.Name, "erlmcp")
	setDefault(&o.Version, "dev")
	setDefault(&o.Title, o.Name)
	setDefault(&o.SessionTimeout, 30*time.Minute)
	setDefault(&o.EvictAfter, 5*time.Minute)
	setDefault(&o.EventTTL, time.Hour)
	setDefault(&o.StreamEvents, 100)
	setDefault(&o.StreamAfter, 30*time.Millisecond)
	setDefault(&o.CallTimeout, 5*time.Minute)
	setDefault(&o.BodyTimeout, time.Minute)
	setDefault(&o.KeepAlive, 30*time.Second)
	setDefault(&o.MaxSessions, 10000)
	setDefault(&o.MaxRequests, 1000)
	setDefault(&o.MaxStreams, 1000)
	setDefault(&o.MaxPending, 1000)
	setDefault(&o.MaxSubscriptions, 1000)
	setDefault(&o.MaxProgress, 10000)
	setDefault(&o.MaxSockets, 1000)
	setDefault(&o.SocketIdle, 5*time.Minute)
	o.Rates.setDefaults()
	setDefault(&o.MaxHandles, 1000)
	setDefault(&o.StateTTL, 15*time.Minute)
	if err := o.Audit.setDefaults(); err != nil {
		return o, err
	}
	for name, v := range map[string]int64{
		"SessionTimeout": int64(o.SessionTimeout), "EvictAfter": int64(o.EvictAfter), "EventTTL": int64(o.EventTTL), "StreamAfter": int64(o.StreamAfter), "CallTimeout": int64(o.CallTimeout),
		"BodyTimeout": int64(o.BodyTimeout), "KeepAlive": int64(o.KeepAlive),
		"StreamEvents": int64(o.StreamEvents), "MaxSessions": int64(o.MaxSessions), "MaxRequests": int64(o.MaxRequests), "MaxStreams": int64(o.MaxStreams),
		"MaxPending": int64(o.MaxPending), "MaxSubscriptions": int64(o.MaxSubscriptions), "MaxProgress": int64(o.MaxProgress),
		"MaxHandles": int64(o.MaxHandles), "StateTTL": int64(o.StateTTL),
		"MaxSockets": int64(o.MaxSockets), "SocketIdle": int64(o.SocketIdle),
	} {
		if v < 0 {
			return o, fmt.Errorf("mcp: %s is negative", name)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.AfterFunc == nil {
		o.AfterFunc = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	var err error
	o.Tasks, err = o.Tasks.withDefaults()
	return o, err
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Store is what the runtime needs of the storage below it.
// *engine.Store implements it.
type Store interface {
	Update(ctx context.Context, fn func(tx *engine.Tx) error, opts ...engine.TxOption) (engine.Result, error)
	View(ctx context.Context, fn func(tx *engine.Tx) error) error      // linearizable
	ViewLocal(ctx context.Context, fn func(tx *engine.Tx) error) error // what this node has applied
	Watch(ctx context.Context, o engine.WatchOptions) *engine.Watcher

	Failed() <-chan struct{} // closed when the store failed for good
	Err() error              // why
}

// A Runtime serves one MCP server over any number of carriers.
// All methods are safe for concurrent use.
type Runtime struct {
	opts   Options
	store  Store
	log    *slog.Logger
	server *sdk.Server
	http   http.Handler
	stats  counters
	info   *sdk.Implementation
	// signature is info as the beginning of an encoded result.
	signature []byte
	calls     sync.Map // *sdk.RequestExtra -> *Call, for calls that the SDK dispatches
	hidden    sync.Map // *sdk.ServerSession -> struct{}: sessions without a client

	completions sync.Map // reference -> CompletionFunc
	updates     *updates
	sessions    *sessions
	tasks       *taskRunner
	scopes      toolScopes
	limiter     *limiter
	measures    measures
	audit       *auditor     // nil: no audit log
	tracer      trace.Tracer // nil: no spans
	listeners   *listeners
	cut         *cutOff
	catalog     catalog
	stateless   *stateless
	workers     *workers
	stateSecret secret

	base     sdk.MethodHandler // the SDK's own dispatch, behind all middleware
	chain    sdk.MethodHandler // dispatch through all middleware; set by ready
	observer *resident         // the session that hears of changes; set by ready
	prepare  sync.Once

	// taskNotification returns the parameters of notifications/tasks for a
	// task. It is false for tasks that principal does not own. Nil without tasks.
	taskNotification func(ctx context.Context, principal, taskID string) (params json.RawMessage, ok bool)

	owned io.Closer // the store, if Close must close it

	done     chan struct{} // closed by Close
	close    sync.Once
	closeErr error // set by close
	work     sync.WaitGroup
}

// NewRuntime returns a runtime without features; register them on Server().
// store may be nil for servers that keep no state. Call Close when done, then
// close the store; [Open] does both in one.
func NewRuntime(store Store, o Options) (*Runtime, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Runtime{opts: o, store: store, log: o.Logger, done: make(chan struct{}), scopes: newToolScopes(o.ToolScopes), limiter: newLimiter(o.Rates, o.Now)}
	r.cut = newCutOff()
	r.updates = newUpdates(r)
	if r.sessions, err = newSessions(r); err != nil {
		return nil, err
	}
	quiet := slog.New(atLeast{slog.LevelWarn, o.Logger.Handler()})
	r.listeners = newListeners(r)
	r.catalog.rt = r
	r.stateless = newStateless(r)
	r.workers = newWorkers(r.done)
	r.stateSecret = secret{store: r.store, name: keyStateSecret}
	r.info = &sdk.Implementation{Name: o.Name, Title: o.Title, Version: o.Version}
	r.signature = signatureOf(r.info)
	r.server = sdk.NewServer(
		r.info,
		&sdk.ServerOptions{
			Instructions:       o.Instructions,
			Logger:             quiet,
			CompletionHandler:  r.complete,
			SubscribeHandler:   r.updates.subscribe,
			UnsubscribeHandler: r.updates.unsubscribe,
			GetSessionID:       newSessionID,
			SetCacheable:       setCacheable,
		})
	r.tasks = newTaskRunner(r)
	r.addTaskMethods()
	r.server.AddReceivingMiddleware(r.middleware, r.taskMiddleware)
	r.server.AddSendingMiddleware(r.sending)
	r.http = newFront(r)
	if o.Tracer != nil {
		r.tracer = o.Tracer.Tracer(tracerName)
	}
	if store != nil && !o.Audit.Off {
		r.audit = newAuditor(store, o.Audit, o.Logger, o.Now)
	}
	r.Go(func(context.Context) { r.updates.run() })
	r.Go(r.sessions.run)
	if r.sessions.shared() {
		r.Go(r.sessions.followHomes)
		if o.Freshness != nil {
			r.Go(r.watchMajority)
		}
	}
	return r, nil
}

// setCacheable keeps shared caches from holding what resources show; the SDK's
// default is public.
func setCacheable(_ context.Context, req sdk.Request, c *sdk.Cacheable) {
	if _, ok := req.(*sdk.ReadResourceRequest); ok && c.CacheScope == "" {
		c.CacheScope = "private"
	}
}

// Go runs fn in the background until the runtime closes: ctx ends then, and
// Close waits for fn to return. Call it before Close.
func (r *Runtime) Go(fn func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	r.work.Add(1)
	go func() {
		defer r.work.Done()
		defer cancel()
		fn(ctx)
	}()
	go func() {
		select {
		case <-r.done:
			cancel()
		case <-ctx.Done():
		}
	}()
}

// ready finishes the runtime when the first client shows up: by then the
// server has all its middleware.
func (r *Runtime) ready() {
	r.prepare.Do(func() {
		observer, err := r.newResident(nil, r.listeners.observe)
		if err != nil { // the loop's Connect cannot fail
			panic(fmt.Sprintf("mcp: no session for the observer: %v", err))
		}
		r.observer = observer
		r.server.AddReceivingMiddleware(r.gate)
	})
}

// Server returns the official SDK's server: tools, resources and prompts are
// registered on it with the SDK's own types, at any time. Receiving middleware
// must be added before the first request arrives.
func (r *Runtime) Server() *sdk.Server { return r.server }

// Handler returns the Streamable HTTP endpoint. It serves protocol 2026-07-28
// (stateless) and the session based revisions up to 2025-11-25 on one URL.
func (r *Runtime) Handler() http.Handler { return r.http }

// Close ends all sessions and streams, waiting at most a few seconds for
// running calls. HTTP requests that arrive afterwards are refused. Close it
// before http.Server.Shutdown, which waits for open streams.
//
// A runtime of [Open] closes its store too and returns the store's error; one
// of [NewRuntime] leaves the store open and returns nil. Later calls return
// the same.
func (r *Runtime) Close() error {
	r.close.Do(func() {
		close(r.done)
		r.stateless.residents.close()
		r.sessions.shutdown()
		var all sync.WaitGroup
		all.Add(1)
		go func() {
			defer all.Done()
			r.stateless.wait(closePatience)
		}()
		for session := range r.server.Sessions() {
			all.Add(1)
			go func() {
				defer all.Done()
				r.closeSession(session)
			}()
		}
		all.Wait()
		r.work.Wait()
		r.audit.close() // behind everything that may call a tool
		if r.owned != nil {
			r.closeErr = r.owned.Close()
		}
	})
	return r.closeErr
}

// closePatience is how long a session may take to finish its calls when it is
// closed; a process that gets SIGTERM has 5 s in all.
const closePatience = 2 * time.Second

func (r *Runtime) closeSession(session *sdk.ServerSession) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = session.Close()
	}()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
		r.log.Warn("session closed with calls still running", "session", session.ID())
	}
}

// failure returns why the store cannot be used any more, or nil.
func (r *Runtime) failure() error {
	if r.store == nil {
		return nil
	}
	select {
	case <-r.store.Failed():
		if err := r.store.Err(); err != nil {
			return err
		}
		return fmt.Errorf("the store failed")
	default:
		return nil
	}
}

// atLeast hides what the SDK logs for every connection at info level.
type atLeast struct {
	level slog.Level
	slog.Handler
}

func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.level, h.Handler.WithAttrs(attrs)}
}

func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.level, h.Handler.WithGroup(name)}
}
