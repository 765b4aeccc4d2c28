// Package conversation kills the server between any two messages of a
// conversation and checks that the client does not suffer from it.
//
//	client ──── Wire ──── fixture server (mcp/conformance)
//	             │            │
//	             │            └─ data directory, trace of effects
//	             └─ counts messages, kills and restarts the server behind one of
//	                them, keeps a record of ids
//
// The clients are the official Go SDK and the official TypeScript SDK; each
// follows a script (golang.go, client.mjs) and reports what it saw. A run
// without a kill counts the messages; then the same script runs once for every
// message, with the server killed right behind it. What must hold every time is
// in judge.go.
//
// The Wire stands for a network whose other end went away: connections to a
// killed server break, new requests wait until the next one is up.
package conversation
