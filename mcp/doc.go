// Package mcp serves the Model Context Protocol on top of the official Go SDK
// (github.com/modelcontextprotocol/go-sdk, imported here as sdk).
//
//	r, err := mcp.Open("data", mcp.Options{Name: "notes"})
//	mcp.AddTool(r, &sdk.Tool{Name: "add", Description: "Keeps a note"}, add)
//	mcp.AddTaskTool(r, &sdk.Tool{Name: "digest", Description: "Shortens all notes"}, mcp.TaskOptions{Resumable: true}, digest)
//	http.Handle("/mcp", r.Handler())
//
// The SDK's types are this package's types: tools, resources and prompts are
// registered on [Runtime.Server] exactly as with the SDK alone. [AddTool] is
// the SDK's, only faster; [AddTaskTool] adds tools whose calls survive the
// process. What sessions, streams and tasks need is kept in the directory given
// to [Open], or in the store given to [NewRuntime]; handlers keep rows of their
// own in [Runtime.Store]. docs/guide.md builds a small server step by step.
//
// This package adds what stands between an SDK server and the world:
//
//	stdio ──── lines ─┐
//	                  ├─ guard ── Conn ────────────── sdk.Server ── your handlers
//	TCP, WebSocket ───┘            │
//	                               └─ Journal, Sink
//	HTTP ───── front ─── guard ─┬─ stateless ──────── sdk.Server
//	                            └─ sessions ── Conn ─ (the same)
//	                                  └─ streams ─ events in the store
//
// # One URL, both generations
//
// Protocol 2026-07-28 makes every request stand alone; the revisions before it
// keep a session. [Runtime.Handler] routes between them by the
// Mcp-Protocol-Version header or the version in params._meta.
//
// Requests of 2026-07-28 run in the goroutine and under the context of their
// HTTP request. Their headers must agree with their body (SEP-2243). The answer
// is one JSON body, or an event stream when progress or log messages come
// before it. [sdk.CallToolRequest].Session is shared by requests whose clients
// introduce themselves alike: it tells what the client can do, and is no place
// to keep anything. subscriptions/listen tells of changed lists, resources and
// tasks until the client leaves, on every carrier.
//
// # State without sessions
//
// A tool that must ask the client something returns [Runtime.Ask]: what it knows
// so far travels with the question, sealed, and [Runtime.OpenState] gives it
// back with the answer, on any node. What must outlive a question is kept under
// a [Handle], and what must be finished is a task.
//
// # Fast where it matters
//
// tools/call goes past the SDK's message queue and its decoders; everything
// else about it, middleware, handler and session, is the SDK's. [AddTool] is the
// SDK's function of that name without its 32 KiB of buffers per argument. A
// server under load gains about as much again from a higher GOGC; erlmcp serve
// sets one by itself.
//
// # Nothing bad gets in
//
// Every message is checked before the SDK sees it: size, UTF-8, JSON, JSON-RPC,
// depth, duplicate members, batch rules, and over HTTP also Host, Origin,
// Content-Type, Accept and protocol version. A refused message is answered
// with a JSON-RPC error that says what to change, whatever the carrier, and the
// connection goes on. A handler that panics costs its own request only.
//
// # Bounded
//
// Message size, unanswered requests per connection, HTTP requests and streams
// at once, sessions, subscriptions, the time of one handler and of one blocked
// write all have limits in [Options]. Over a limit the answer is CodeOverloaded
// at once, never a growing queue.
//
// # Who may do what
//
// With Options.Authenticator every HTTP request and every socket has an
// [Identity] (package mcp/auth has one for static tokens and OAuth 2.1), and
// Options.ToolScopes says what callers of a tool must hold. Without it serve
// on loopback only, or behind a proxy that authenticates.
//
// # Sessions outlive the process
//
// A session of the older revisions is a record in the store, committed before
// its id leaves: principal, protocol, initialize parameters, log level,
// subscriptions. In memory it is only while it is used. A request on a session
// that is not in memory, after a restart or after long idleness, connects it
// to the SDK again. It belongs to its principal; to others it does not exist.
//
// Quick answers are plain JSON bodies and cost no commit (but see
// [AuditOptions] for tools that do not declare themselves read-only). An answer that takes
// longer, or has messages before it, is an event stream: each event is
// committed, then sent, and a client that lost its response gets exactly the
// later ones with Last-Event-ID, from the next process too. What a restart
// interrupts ends with an error in the stream, never with silence. Messages
// that belong to no call wait in the session's standalone stream until the
// client opens it. When the store refuses an event, the session is
// disconnected: no client sees what a restart would forget. An answer that is
// too large for the store ([engine.ErrTooLarge]) becomes an error,
// CodeMessageTooLarge, and a message from the server that is fails in the handler.
//
// The handler itself does not outlive the process, and neither does a question
// it asked the client: a late answer to one is refused with an error that says so.
//
// # Tasks
//
// A tool registered with [AddTaskTool] answers with a task (SEP-2663) that is
// in the store before the client learns its id:
//
//		tools/call ── one transaction: record, lease ── worker ── handler(ctx, *Task, in)
//		                                                   │         Step, Sleep, Elicit, Ask: one
//		tasks/get, tasks/update, tasks/cancel ── store ────┘         transaction each, then go on
//
//	  - A task belongs to its principal, never to a session. Any process that has
//	    the store answers for it.
//	  - Whoever runs a task holds a lease with a fencing token, which every write
//	    of the worker compares in its transaction. A worker that lost the lease
//	    to a cancellation or to another node can write nothing.
//	  - A handler that is started again, after a crash, a failed attempt or a stop
//	    of the server, gets the results of its finished steps from the journal.
//	    A handler that says it cannot be started again is reported as failed.
//	  - A handler that waits for an answer or a time occupies no worker, and one
//	    that can be resumed no memory: the task is on disk only ([ErrSuspended]).
//	  - The queue, the workers, the tasks that have not ended and the journal of
//	    each are bounded ([TaskLimits]), and what one principal may take of them;
//	    over a bound a call is refused at once and nothing is stored.
//
// Tasks on the wire are those of protocol 2026-07-28. What 2025-11-25 calls
// tasks is a different, experimental protocol that the official SDK does not
// speak and SEP-2663 replaces; it is not served. In a session, and for clients
// without the extension, a call of a task tool waits for its task over the same
// machinery and returns the result; what the task asks reaches them as an
// elicitation, or as an input request of the call. A tool of mode TaskRequired
// refuses them.
//
// # Conn
//
// [Conn] is this package's own implementation of the SDK's Connection, for
// every carrier. It commits every outbound message to a [Journal] before a
// [Sink] delivers it, takes the ids of server-to-client requests from the
// journal, and knows for each message which call it belongs to ([CallFrom]).
// stdio runs on it with a [VolatileJournal]; the sessions of HTTP are journals
// whose streams are the sinks.
//
// An idle session is evicted from memory (Options.EvictAfter) unless it has
// subscriptions. It is then not told that lists of tools, prompts or resources
// changed, and a *sdk.ServerSession that a handler kept for later is closed;
// use the session of the request at hand.
package mcp
