package clusters

import (
	"context"
	"fmt"
	"slices"
)

// KeySpace is how many different keys the load of the tables writes. It bounds
// what the state machines that live in memory hold: 64 MiB of 1 KiB values.
const KeySpace = 1 << 16

// A Node is one member. Its methods are safe for concurrent use.
type Node interface {
	// Put returns when the row is committed and applied on this member.
	Put(ctx context.Context, key, value []byte) error
	// State may be asked at any time.
	State() State
	Close() error
}

// State is what a member knows of itself.
type State struct {
	Leader  bool
	Known   bool // it knows who leads
	Term    uint64
	Applied uint64 // log index
	Address string // where it serves MCP, if it does
}

// Compacts is a node that can throw its log away, so that a member which comes
// back needs a snapshot.
type Compacts interface{ Compact() error }

// Options of a node.
type Options struct {
	Dir     string
	ID      int        // 0, 1, ...
	Members [][]string // addresses of every member: between members, for clients
	// Snapshots makes members keep so little log that one which comes back
	// needs the state.
	Snapshots bool
	// Log is a file that the node's own messages go to; empty: nowhere.
	Log string
}

func (o Options) name() string { return fmt.Sprint("n", o.ID) }

// A Kind is one way to replicate a store.
type Kind struct {
	Name  string
	About string // how it is set, for the tables
	Peer  bool   // not ours
	Slow  bool   // a lost leader is replaced after many seconds
	Open  func(Options) (Node, error)
}

// Kinds are all of them, in table order.
func Kinds() []Kind {
	return []Kind{
		{Name: "erlmcp", About: "profile fast: heartbeat and election 250 ms, lease 125 ms", Open: openOurs(fast)},
		{Name: "erlmcp-compat", About: "profile compat: heartbeat and election 5 s, lease 2.5 s", Slow: true, Open: openOurs(compat)},
		{Name: "raft-wal", About: "hashicorp/raft and raft-wal, all defaults (1 s, 1 s, 500 ms)", Peer: true, Open: openStock(walLogs, stock{})},
		{Name: "raft-wal-tuned", About: "the same with our batches and pipeline (1024 entries, 16 in flight, BatchApplyCh)", Peer: true, Open: openStock(walLogs, stock{batches: true})},
		{Name: "raft-wal-pebble", About: "raft-wal-tuned with its rows in Pebble, as ours are, instead of in a map", Peer: true, Open: openStock(walLogs, stock{batches: true, disk: true})},
		{Name: "raft-wal-timed", About: "the same as raft-wal with our timeouts (250 ms, 250 ms, 125 ms)", Peer: true, Open: openStock(walLogs, stock{timeouts: true})},
		{Name: "raft-boltdb", About: "hashicorp/raft and raft-boltdb v2, all defaults", Peer: true, Open: openStock(boltLogs, stock{})},
		{Name: "etcd", About: "etcd 3.6.16, all defaults (heartbeat 100 ms, election 1 s)", Peer: true, Open: openEtcd},
	}
}

// Pick returns the kinds of these names, in this order.
func Pick(names []string) ([]Kind, error) {
	var out []Kind
	for _, n := range names {
		i := slices.IndexFunc(Kinds(), func(k Kind) bool { return k.Name == n })
		if i < 0 {
			return nil, fmt.Errorf("there is no cluster of kind %q", n)
		}
		out = append(out, Kinds()[i])
	}
	return out, nil
}
