// Package logs puts every durable log which the benchmark compares behind one
// interface.
//
//	                     Append (concurrent)            AppendBatch (one caller)
//	erlmcp     --------------> own group commit  <--------------
//	pebble     --------------> own group commit  <--------------
//	raw        --------------> Group ---pwrite+fdatasync on zeroed blocks
//	raft-wal, etcd, tidwall -> Group ---their own batch call, one sync each
//
// Peers without a group commit of their own get one, the same for all of them:
// Group takes whatever is waiting, hands it over in one call and wakes all of
// its writers at once. It is also the committer of the raw baseline, which
// stores payloads with a length and nothing else: no checksum, no index, no
// chain. Raw is what the file system and this group commit can do; the distance
// to it is the price of being a log.
//
// Settings of a peer are its defaults unless the comment at its constructor
// says why not, and every deviation is in the peer's favour.
package logs
