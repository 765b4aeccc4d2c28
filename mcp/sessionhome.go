package mcp

import (
	"context"
	"errors"

	"github.com/erlmcp/erlmcp/engine"
)

// This file keeps a session of a replicated store in the hands of one process
// at a time, wherever its client's requests arrive:
//
//	request ── home row names another run ── claim ── connect from the record ── serve
//	                                           │
//	the run that had it: its commits are refused from here on, and it lets go of the session as soon as it hears of it
//
// A run that was cut off, frozen or simply left by its client may believe for
// any time that a session is its own. Nothing that it does with it counts: every
// commit to a stream compares the home row, so that an event id means one
// event, and every request does before it trusts what memory says. The claim
// moves whole sessions: calls that run elsewhere end as by a restart.

// tableHome names the run of a process that holds a session: session id -> boot.
// Rows exist only among several nodes.
const tableHome = "mcp_session_home"

// errMoved: another process has taken the session over.
var errMoved = errors.New("mcp: the session goes on at another member, where its client sent a request")

// claim makes boot the home of a session that exists.
func (e *engineSessions) claim(ctx context.Context, id string) error {
	if !e.shared {
		return nil
	}
	return e.update(ctx, "session claim", func(tx *engine.Tx) error {
		if _, err := readSession(tx, id); err != nil {
			return err
		}
		return tx.Put(tableHome, []byte(id), []byte(e.boot))
	})
}

// home returns errMoved unless boot is the session's home, ErrNoSession when it ended.
func (e *engineSessions) home(ctx context.Context, id string) error {
	if !e.shared {
		return nil
	}
	return e.store.View(ctx, func(tx *engine.Tx) error { return e.atHome(tx, id) })
}

// atHome is home within a transaction, and fences it.
func (e *engineSessions) atHome(tx *engine.Tx, id string) error {
	if !e.shared {
		return nil
	}
	boot, err := tx.Get(tableHome, []byte(id))
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return ErrNoSession
	case err == nil && string(boot) != e.boot:
		return errMoved
	}
	return err
}

// followHomes lets go of sessions that other processes took over or ended. It
// runs until the runtime or the store closes.
func (r *sessions) followHomes(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.followHomesOnce(ctx); !errors.Is(err, engine.ErrCompacted) {
			return // ctx has ended, or the store has
		}
		r.mu.Lock()
		all := make([]*session, 0, len(r.live))
		for _, s := range r.live {
			all = append(all, s)
		}
		r.mu.Unlock()
		for _, s := range all {
			r.letGoIfAway(ctx, s.id)
		}
	}
}

func (r *sessions) followHomesOnce(ctx context.Context) error {
	w := r.rt.store.Watch(ctx, engine.WatchOptions{Table: tableHome})
	defer w.Close()
	for {
		event, err := w.Next()
		if err != nil {
			return err
		}
		r.mu.Lock()
		here := r.live[string(event.Key)] != nil
		r.mu.Unlock()
		if here && (event.Deleted || string(event.Value) != r.boot) {
			r.letGoIfAway(ctx, string(event.Key)) // an older claim than this process's own may be heard of late
		}
	}
}

// away reports that a session is no longer this process's: it is another one's, or it ended.
func away(err error) bool { return errors.Is(err, errMoved) || errors.Is(err, ErrNoSession) }

func (r *sessions) letGoIfAway(ctx context.Context, id string) {
	if away(r.store.home(ctx, id)) {
		r.letGo(id)
	}
}

// letGo disconnects a session that is another process's. The store keeps it.
func (r *sessions) letGo(id string) {
	r.mu.Lock()
	s := r.live[id]
	r.mu.Unlock()
	if s == nil {
		return
	}
	select {
	case <-s.ready:
	default:
		return // it is being connected, and claims the session
	}
	if s.err != nil {
		return
	}
	r.forget(s)
	s.kill()
}
