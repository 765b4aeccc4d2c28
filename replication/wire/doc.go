// Package wire carries raft's messages between members: a raft.Transport on streams that somebody else opens and accepts
// (replication/port). Every committed change passes through it once per follower, so a message is encoded into one buffer and
// written with one call, and its entries are not copied when it is decoded.
//
//	t := wire.New(wire.Options{Stream: layer, Timeout: 2 * time.Second})
//
// A stream carries requests in one direction and their answers, in the same order, in the other (format.go). Heartbeats go past the
// requests that wait for raft, on streams of their own. Replication keeps several requests on the way (pipeline.go).
//
// What always holds: no bytes from a peer make it panic or take memory that they do not fill; a stream that carried anything
// that is not a message is closed, and the requests on it end with an error; a message has at most MaxEntries entries and, if it has more than one, about
// MaxMessage bytes: of what raft hands over, the beginning is sent, and raft is told so (Transport.AppendEntries).
//
// What it does not do: it does not know who the peer is; the stream does.
package wire
