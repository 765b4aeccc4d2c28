// Package node is one running server: a data directory, the protocol on top of it, and the listeners around both.
//
// # Life
//
//	bind listeners -> open store (replay) -> ledger, MCP runtime -> admin socket, serve.json -> ready -> serving
//	     |                                                                                         |
//	     /health answers, /ready and /mcp say 503 "recovering"                    SIGTERM, end of stdin
//	                                                                                               v
//	             exit 0 <- remove serve.json, socket <- close store <- close runtime <- stopping: /ready says 503
//
// Listeners are bound first: a port that is taken must not cost a replay, and a supervisor may watch the recovery. Files
// are only written into the data directory after the store is open, because until then the directory may belong to somebody else.
//
// # Failure
//
// When the store fails (a write or fsync that the disk refused) nothing more can be acknowledged. Run logs what happened
// and what to do, and returns at once without any tidying up: the process must exit, and the next start recovers from
// what is on disk. A stop that takes longer than server.shutdown_timeout ends the same way, which loses nothing either: what
// was acknowledged is in the log, and the next start replays what was not flushed.
//
// # Concurrency
//
// Run owns everything; handlers and collectors only read the parts, which are safe for concurrent use themselves, through
// an atomically published pointer (see parts).
package node
