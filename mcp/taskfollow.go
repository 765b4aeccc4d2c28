package mcp

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/erlmcp/erlmcp/engine"
)

// follow hears of every committed change of a task on any node of a replicated store, so that clients of this node who wait
// for a task, or subscribed to it, hear of what another node did. It runs until the runtime or the store closes.
func (tr *taskRunner) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := tr.followOnce(ctx)
		if !errors.Is(err, engine.ErrCompacted) {
			return // ctx has ended, or the store has
		}
		// The log no longer reaches back to what was not read yet: anything may have changed.
		tr.rt.listeners.allTasks()
		tr.poke()
	}
}

func (tr *taskRunner) followOnce(ctx context.Context) error {
	w := tr.rt.store.Watch(ctx, engine.WatchOptions{Table: tableTasks})
	defer w.Close()
	for {
		event, err := w.Next()
		if err != nil {
			return err
		}
		var rec taskRecord
		if event.Deleted || json.Unmarshal(event.Value, &rec) != nil || rec.ID != string(event.Key) {
			continue // expired, or the part of a task that is not its record
		}
		tr.mu.Lock()
		run := tr.active[rec.ID]
		tr.mu.Unlock()
		if run != nil {
			run.poke() // an answer may have come through another node
		}
		tr.tellWaiters(&rec)
		tr.rt.publishTask(rec.Principal, rec.ID)
	}
}

// allTasks tells every subscriber of tasks to look at all of them.
func (h *listeners) allTasks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, set := range h.byTask {
		for l := range set {
			l.mark(&l.tasks, id)
		}
	}
}
