// Package replication runs raft (github.com/hashicorp/raft) over the log of package wal.
//
// LogStore is raft's log and stable store. Entries, votes and terms share one log and one hash chain, so that
// there is one thing to sync, one thing to verify, and a log of a cluster member that reads like the log of a
// single node.
//
//	raft ── StoreLogs ──> LogStore ── Append ──> wal (one fdatasync; commit index in the batch trailer)
//	raft <── GetLog ────  LogStore <── Get ────  wal's ring of recent entries
//
// # What always holds
//
//   - StoreLogs is all or nothing towards raft: entries of a call that failed are taken back.
//   - The durable commit index comes with the entries it was staged with, and never runs ahead of them.
//   - "Not found" means "not in the log" and nothing else. A damaged, closed or failed log halts the node; raft is never
//     left with a view of the log that is not the log's.
//   - A full disk refuses entries (wal.ErrNoSpace) and holds votes and terms back until there is space.
//
// The bytes are in format.go.
package replication
