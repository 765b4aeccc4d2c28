// Package mcp serves the Model Context Protocol on top of the official Go SDK
// (github.com/modelcontextprotocol/go-sdk, imported here as sdk).
//
// The SDK's types are this package's types: tools, resources and prompts are
// registered on [Runtime.Server] exactly as with the SDK alone. This package
// adds what stands between an SDK server and the world:
//
//	stdio ──── lines ─┐
//	                  ├─ guard ── Conn ────────────── sdk.Server ── your handlers
//	(sockets) ────────┘            │
//	                               └─ Journal, Sink
//	HTTP ───── front ─── guard ─┬─ stateless ──────── sdk.Server
//	                            └─ SDK sessions ───── (the same)
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
// # The seam for durable sessions
//
// [Conn] is this package's own implementation of the SDK's Connection. It
// commits every outbound message to a [Journal] before a [Sink] delivers it,
// takes the ids of server-to-client requests from the journal, and knows for
// each message which call it belongs to ([CallFrom]). stdio runs on it with a
// [VolatileJournal].
//
// # What this package does not do yet
//
// HTTP sessions and their event streams live in the memory of the process: a
// client that meets CodeSessionNotFound after a restart initializes again.
// There is no authentication; serve it on loopback or behind a proxy that has it.
package mcp
