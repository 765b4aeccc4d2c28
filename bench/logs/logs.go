package logs

import (
	"fmt"
	"slices"
	"strings"
)

// Log is one durable append-only log.
type Log interface {
	// Append returns when data is on disk. Safe for concurrent use.
	Append(data []byte) error
	// AppendBatch writes all of data with one sync. One caller at a time and
	// none beside Append.
	AppendBatch(data [][]byte) error
	// Replay calls fn with every entry, oldest first. The slice is valid only
	// during the call. An error of the log or of fn ends it.
	Replay(fn func(data []byte) error) error
	Close() error
}

// Options are the few settings the measurements need to vary.
type Options struct {
	// SegmentSize in bytes; 0 is the log's own default.
	SegmentSize int
	// Recycle lets the log give up its oldest entries while it is written, as
	// a log below a store does in steady state. Only the logs which reuse
	// segments heed it.
	Recycle bool
}

// Engine is a log by name.
type Engine struct {
	Name string
	// Note says what is particular about it, for the table's legend.
	Note string
	Open func(dir string, o Options) (Log, error)
	// Segmented tells that the log is made of files which can be taken away or
	// swapped one by one.
	Segmented bool
	// Store tells that it is a key-value store used as a log.
	Store bool
	// Peer tells that the engine is somebody else's product, so that it counts
	// for "best peer".
	Peer bool
}

var engines = []Engine{
	{Name: "raw", Open: openRaw, Note: "one zeroed 64 MiB file written round and round; group commit, pwrite, fdatasync; no checksum, no index"},
	{Name: "raw-seg", Open: openRawSegments, Note: "raw over fresh 64 MiB segments, zeroed in the background as it goes; nothing is reused"},
	{Name: "erlmcp", Open: openOurs, Segmented: true, Note: "our log below a store: entries more than one segment old are given up, so segments are recycled"},
	{Name: "erlmcp-grow", Open: openOursGrowing, Segmented: true, Note: "our log when nothing is ever given up: every segment has to be zeroed first, as in raw-seg"},
	{Name: "raft-wal", Open: openRaftWAL, Segmented: true, Peer: true, Note: "hashicorp/raft-wal StoreLogs behind the shared group commit"},
	{Name: "etcd", Open: openEtcd, Segmented: true, Peer: true, Note: "etcd server/v3 storage/wal Save behind the shared group commit"},
	{Name: "pebble", Open: openPebble, Peer: true, Note: "Pebble Batch.Commit(Sync), its own group commit; 64 MiB memtable, no compactions"},
	{Name: "tidwall", Open: openTidwall, Segmented: true, Peer: true, Note: "tidwall/wal WriteBatch behind the shared group commit"},
	{Name: "bbolt", Open: openBolt, Store: true, Note: "bbolt, one Update per sync"},
	{Name: "badger", Open: openBadger, Store: true, Note: "badger v4, SyncWrites"},
}

// All returns every engine in table order.
func All() []Engine { return slices.Clone(engines) }

// Pick returns the named engines in the given order; an unknown name is an
// error which lists the known ones.
func Pick(names []string) ([]Engine, error) {
	var picked []Engine
	for _, name := range names {
		i := slices.IndexFunc(engines, func(e Engine) bool { return e.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no log named %q; have %s", name, strings.Join(Names(nil), ", "))
		}
		picked = append(picked, engines[i])
	}
	return picked, nil
}

// Names lists the engines which which accepts, in table order; nil accepts all.
func Names(which func(Engine) bool) []string {
	var names []string
	for _, e := range engines {
		if which == nil || which(e) {
			names = append(names, e.Name)
		}
	}
	return names
}
