// Package admin is the conversation between a running server and the commands that ask about it.
//
// A server that owns a data directory leaves two things in it:
//
//	DIR/serve.json   who it is: process id, addresses, start time      (see RunFile)
//	DIR/admin.sock   a Unix socket, mode 0600, that speaks HTTP        (see Serve and Client)
//
//	GET  /status     a Status document
//	GET  /health     a Health document
//	POST /cluster    an order to the member of a cluster, JSON in and out (ClusterRequest)
//	GET  /audit      audit records, newest first; one JSON object per line, the last says that it was all
//	POST /verify     runs the integrity checks; one JSON object per line: each check as it ends, then the report
//	POST /backup     stores the state in a repository; one JSON object per line: progress, then what was stored
//	GET  /sessions?after=ID&limit=N, GET /sessions/ID, DELETE /sessions/ID    the MCP sessions; DELETE ends one
//	GET  /tasks?after=ID&limit=N&status=S&tool=T&principal=P, GET /tasks/ID     the durable tasks
//	POST /tasks/ID/cancel, POST /tasks/ID/retry
//
// Both exist while the server runs and are removed when it stops. After a kill -9 they are left behind; the next server
// replaces them, which is safe because it holds the directory's lock by then, and a client notices that nobody listens.
// Whoever may open the socket may read the whole state, hence its mode; what it changes is to end sessions, to cancel and
// retry tasks, and with POST /cluster who the members are. Requests may carry
// the passphrase of a repository, which is neither logged nor kept.
package admin
