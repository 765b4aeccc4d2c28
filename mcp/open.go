package mcp

import (
	"fmt"

	"github.com/erlmcp/erlmcp/engine"
)

// Open returns a runtime that keeps its state in the directory dir, which is
// created if it is absent and must belong to no other process meanwhile. What
// the runtime acknowledged before a crash is there again after Open.
//
// The runtime owns the store: [Runtime.Close] closes it. A program that needs
// options of the storage, such as encryption or indexes, opens the store
// itself with [engine.Open] and passes it to [NewRuntime].
//
// The errors are those of engine.Open (engine.ErrInUse, engine.ErrNotStore,
// engine.ErrVersion, engine.ErrCorrupt) and of invalid options.
func Open(dir string, o Options) (*Runtime, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	store, err := engine.Open(dir, engine.Options{Now: o.Now, Logger: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("mcp: %w", err)
	}
	r, err := NewRuntime(store, o)
	if err != nil {
		_ = store.Close() // nothing was written; err is what the caller must see
		return nil, err
	}
	r.owned = store
	return r, nil
}

// Store returns the store that the runtime stands on, for handlers that keep
// rows of their own beside the runtime's tables, whose names begin with
// "mcp_". It is nil for a runtime without one.
func (r *Runtime) Store() Store { return r.store }
