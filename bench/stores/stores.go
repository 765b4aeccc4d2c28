package stores

import (
	"fmt"
	"slices"
	"strings"
)

// memTable is the write buffer of every store which has one.
const memTable = 64 << 20

// Store is one durable ordered key-value store.
type Store interface {
	// Put writes one pair in a transaction of its own and returns when it is on
	// disk. Safe for concurrent use.
	Put(key, value []byte) error
	// PutBatch writes all pairs in one transaction with one sync.
	PutBatch(keys, values [][]byte) error
	// Scan calls fn with every pair in ascending key order. The slices are valid
	// only during the call. An error of the store or of fn ends it.
	Scan(fn func(key, value []byte) error) error
	Close() error
}

// Options are the few settings the measurements need to vary.
type Options struct {
	// LogOnly keeps a store as close to a pure log as it goes: nothing is
	// compacted. For the comparison with logs.
	LogOnly bool
}

// Engine is a store by name.
type Engine struct {
	Name string
	Note string // what is particular about it, for the table's legend
	Open func(dir string, o Options) (Store, error)
	Peer bool // somebody else's product
}

var engines = []Engine{
	{Name: "erlmcp", Open: openOurs, Note: "engine.Update: isolation, conflict check, state hash, audit trail"},
	{Name: "pebble", Open: OpenPebble, Peer: true, Note: "Batch.Set, Commit(Sync); no isolation, no conflict check"},
	{Name: "bbolt", Open: OpenBolt, Peer: true, Note: "Update: one transaction and one sync per write"},
	{Name: "bbolt-batch", Open: openBoltBatch, Peer: true, Note: "Batch: concurrent writes share a transaction, up to 10 ms of waiting"},
	{Name: "badger", Open: OpenBadger, Peer: true, Note: "Update with SyncWrites, no compression"},
}

// Pick returns the named engines in the given order; an unknown name is an
// error which lists the known ones.
func Pick(names []string) ([]Engine, error) {
	var picked []Engine
	for _, name := range names {
		i := slices.IndexFunc(engines, func(e Engine) bool { return e.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no store named %q; have %s", name, strings.Join(Names(), ", "))
		}
		picked = append(picked, engines[i])
	}
	return picked, nil
}

// Names lists every engine in table order.
func Names() []string {
	var names []string
	for _, e := range engines {
		names = append(names, e.Name)
	}
	return names
}
