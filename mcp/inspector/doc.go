// Package inspector holds the test that drives the real erlmcp binary with the
// MCP Inspector, a client that is not ours and not in Go. The commands it runs
// are documented in docs/inspector.md.
package inspector
