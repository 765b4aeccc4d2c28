// Package replication makes an engine store a member of a cluster: its write sets go through raft
// (github.com/hashicorp/raft), and raft's log is the store's own log (package wal).
//
//	node, err := replication.New(replication.Options{ID: "n1", Transport: transport, Members: members})
//	store, err := engine.Open(dir, engine.Options{Committer: node.Start})
//	store.Update(...)   // on the leader; elsewhere a NotLeaderError says where it is
//
// # The way of a write set
//
//	Update ── sequencer ── Commit ──> queue ── feeder ──> raft
//	                                                       │  StoreLogs: one fdatasync here and on each follower
//	                                          majority <───┘
//	                                             │
//	   answer <── waiter <── future <── engine.Apply, on every member, in log order
//
// The feeder hands over what has gathered while three batches are on their way: an append, its fdatasyncs and its messages cost
// about the same for one entry as for a hundred (propose.go). Entries are sent as they stand, encoded by package wire.
//
// Entries, votes and terms share one log and one hash chain, so that there is one thing to sync, one thing to verify,
// and a log of a cluster member that reads like the log of a single node. A single node becomes the first member of a
// cluster without export (Options.Members).
//
// # What always holds
//
//   - An acknowledged write is durable on a majority and applied here. A write whose outcome is not known is answered
//     with engine.ErrUnknownOutcome, never with a refusal; ErrNotLeader means that nothing was written.
//   - View reads what was committed anywhere before it began (read index, no clocks). Without a majority it is refused.
//     ViewLocal reads what is here.
//   - Equal index, equal state: whether a write set is applied is decided by the engine out of log and state alone.
//     Status and engine.Store.StateHashAt let it be compared.
//   - StoreLogs is all or nothing towards raft: entries of a call that failed are taken back.
//   - The durable commit index comes with the entries it was staged with, and never runs ahead of them. The engine
//     replays up to it before raft starts.
//   - "Not found" means "not in the log" and nothing else. A damaged, closed or failed log stops the node
//     (Node.Failed); raft is never left with a view of the log that is not the log's, and never panics over it.
//   - A full disk refuses entries (wal.ErrNoSpace) and holds votes and terms back until there is space.
//   - Two stores with histories of their own never meet: a node joins with an empty directory or comes back.
//
// # Marks instead of snapshots
//
// The row store is on disk anyway. What raft calls a snapshot is a mark here (marks.go): rows flushed up to an index,
// and who the members were. A restart begins behind it; nothing is copied.
//
// # Any member takes writes and reads
//
// With Options.Dial write sets are forwarded to the leader (forward.go) and applied exactly once: a member finds out of
// its own log what became of a write set whose leader died, and sends it again only when it can prove that it was not
// written. Linearizable reads get their read index from the leader. Without a leader both wait for Options.Patience and are
// then refused with an engine.ErrUnavailable that names who was last heard from.
//
// # State transfer
//
// Raft never ships state here. A member that is new, too far behind or not to be trusted fetches it itself (fetch.go) from
// any other member (transfer.go): throttled, resumed when the connection breaks, verified, built in a folder of its own and put in
// the place of the old store in one step (Install). The log of a member is kept as long as the engine likes.
//
// What it does not do: it brings no network of its own, transport and Dial are the caller's; package cluster brings them (packages wire
// and port).
//
// The bytes are in format.go.
package replication
