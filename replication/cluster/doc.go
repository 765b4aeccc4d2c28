// Package cluster is the life of a member of a cluster: how it comes to be one, opens its store, looks after the others, and is
// repaired. Package replication below it is the consensus, package port the network, package trust who may take part.
//
//	m, err := cluster.Open(dir, cluster.Options{Listen: "10.0.0.1:7400", Engine: engineOptions})
//	store, err := m.Start(ctx)       // joins, fetches the state, replays: whatever this directory needs
//	...                              // the store is an ordinary engine.Store
//	<-m.Rebuild()                    // this member's store cannot be used any more: stop using it, then
//	m.Stop(); store, err = m.Start(ctx)
//	m.Close()
//
// Files, beside those of the store:
//
//	DIR/cluster/member.json      who this member is (member)
//	DIR/cluster/*.crt, *.key     package trust
//	DIR/cluster/rebuild/         a store that is being fetched
//	DIR/cluster/damaged-*/       a store that could not be opened and was replaced; delete it when nobody needs it any more
//
// Replicated tables:
//
//	cluster_members   name -> Member as it announced itself
//	cluster_events    number of the event, 8 bytes BE -> Event: elections, hand-overs, members that came and went
//	cluster_tokens    nonce of a join token, and when it expires -> how often it was used
//
// # Who decides what
//
// Raft's configuration says who is a member and who votes. The leader alone changes it: it admits (admit), promotes
// non-voters that are to be voters when they have caught up, and removes voters that have been silent for Options.DeadAfter,
// if enough others are left (autopilot.go). Every member judges itself: it compares its state hash with the others' (compare.go) and, when a
// majority disagrees with it, stops serving and asks for a rebuild.
package cluster
