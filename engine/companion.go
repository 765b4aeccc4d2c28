package engine

import (
	"context"
	"sync/atomic"
)

// A Companion is what one change takes along: the first transaction that commits
// a change under its context also commits what its function writes. Either both
// are there afterwards or neither is. An audit log uses it, so that there is no
// change without its record.
//
// All methods are safe for concurrent use.
type Companion struct {
	store     *Store
	write     func(tx *Tx) error
	tried     atomic.Bool
	committed atomic.Bool
	closed    atomic.Bool
}

type companionKey struct{}

// WithCompanion returns a context whose first committed change to s takes along
// what write writes. write is run at the end of a transaction that changes
// something, again whenever that one is; an error abandons the transaction. It
// must be safe for concurrent use if the context is. Other stores know nothing
// of it.
func (s *Store) WithCompanion(ctx context.Context, write func(tx *Tx) error) (context.Context, *Companion) {
	c := &Companion{store: s, write: write}
	return context.WithValue(ctx, companionKey{}, c), c
}

// WithoutCompanion returns a context whose changes take nothing along.
func WithoutCompanion(ctx context.Context) context.Context {
	if ctx.Value(companionKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, companionKey{}, (*Companion)(nil))
}

// Close ends it and reports whether what it writes may be in the store, or come
// into it through a transaction that is still under way.
func (c *Companion) Close() bool {
	c.closed.Store(true)
	return c.tried.Load()
}

// companion is who goes along with tx: nil for a transaction without a change
// and for one of the engine itself.
func (tx *Tx) companion(ctx context.Context) *Companion {
	if len(tx.ops) == 0 || tx.system {
		return nil
	}
	c, _ := ctx.Value(companionKey{}).(*Companion)
	if c == nil || c.store != tx.s || c.committed.Load() || c.closed.Load() {
		return nil
	}
	return c
}

// join writes what goes along.
func (c *Companion) join(tx *Tx) error {
	if c == nil {
		return nil
	}
	c.tried.Store(true)
	return c.write(tx)
}

// went notes that the transaction was committed.
func (c *Companion) went() {
	if c != nil {
		c.committed.Store(true)
	}
}
