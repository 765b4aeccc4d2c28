package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/engine"
)

// tableHistory has one row: the id of the history that the members share. Whoever makes a cluster of a directory, or takes one
// member out of the ruins of one, begins a history of its own: what comes next must not be mixed with what another cluster, or
// the lost members, made of the same past. Backups keep histories apart by it.
const tableHistory = "cluster_history"

var historyRow = []byte("id")

// ErrNoHistory: the first leader has not named the history yet. It is about to.
var ErrNoHistory = errors.New("cluster: the history has no name yet")

// History is the id of the history that all members share. It needs a quorum. ErrNoHistory before the first leader wrote it.
func (m *Member) History(ctx context.Context) (id [16]byte, err error) {
	return m.history(ctx, (*engine.Store).View)
}

// HistoryHere is History as this member knows it. It asks nobody: what it returns was the history's id once.
func (m *Member) HistoryHere(ctx context.Context) (id [16]byte, err error) {
	return m.history(ctx, (*engine.Store).ViewLocal)
}

func (m *Member) history(ctx context.Context, view func(*engine.Store, context.Context, func(*engine.Tx) error) error) (id [16]byte, err error) {
	m.mu.Lock()
	store, begins := m.store, m.me.Begins
	m.mu.Unlock()
	if store == nil || begins {
		return id, ErrNoHistory
	}
	err = view(store, ctx, func(tx *engine.Tx) error { return getHistory(tx, &id) })
	return id, err
}

func getHistory(tx *engine.Tx, id *[16]byte) error {
	v, err := tx.Get(tableHistory, historyRow)
	if errors.Is(err, engine.ErrNotFound) {
		return ErrNoHistory
	}
	if err == nil && copy(id[:], v) != len(id) {
		err = fmt.Errorf("cluster: the id of the history has %d bytes, want %d", len(v), len(id))
	}
	return err
}

// nameHistory gives the history an id if it has none, or must have a new one. Only a leader calls it.
func (m *Member) nameHistory(ctx context.Context, store *engine.Store) error {
	m.mu.Lock()
	begins := m.me.Begins
	m.mu.Unlock()
	_, err := store.Update(internal(ctx), func(tx *engine.Tx) error { return putHistory(tx, begins) },
		engine.WithActor("cluster:"+m.name), engine.WithLabel("cluster history"))
	if err != nil || !begins {
		return err
	}
	return m.change(func(me *member) { me.Begins = false })
}

// putHistory writes a random id; unless afresh, only where there is none.
func putHistory(tx *engine.Tx, afresh bool) error {
	_, err := tx.Get(tableHistory, historyRow)
	if err == nil && !afresh {
		return nil
	}
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return tx.Put(tableHistory, historyRow, id)
}
