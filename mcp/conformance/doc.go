// Conformance serves the fixtures that the public MCP conformance suite (npm:
// @modelcontextprotocol/conformance) asks for, on a durable runtime: both
// protocol generations on one URL, all state in one directory. The test of this
// package runs the suite against it; docs/conformance.md says how to do so by
// hand.
//
//	go run ./mcp/conformance -http 127.0.0.1:3000 -data DIR
//
// Names, arguments and texts are the suite's, so that its checks find what they
// look for. They mean nothing else: do not take this server as an example of
// how tools should look (docs/guide.md is one).
package main
