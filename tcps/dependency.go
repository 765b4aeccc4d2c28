package tcps

import (
	"context"
	"slices"

	"github.com/erlmcp/erlmcp/engine"
)

// maxDependencyGraph bounds the walk that looks for cycles.
const maxDependencyGraph = 10_000

// AddDependencyInput says which order waits for which.
type AddDependencyInput struct {
	ID        string `json:"id" jsonschema:"id of the order that waits"`
	DependsOn string `json:"depends_on" jsonschema:"id of the order that must be finished first"`
}

// AddDependency makes one order wait for another; a queued order becomes blocked
// until the other is completed or cancelled. Adding a dependency twice changes
// nothing. Errors: work_order_not_found, circular_dependency, already_started,
// invalid_transition (final order).
func (l *Ledger) AddDependency(ctx context.Context, in AddDependencyInput) (WorkOrder, error) {
	if err := checkID("depends_on", in.DependsOn); err != nil {
		return WorkOrder{}, err
	}
	return mutate(ctx, l, "add_dependency", in, func(o *op) (WorkOrder, error) {
		w, err := o.loadOrder(in.ID, CodeWorkOrderNotFound)
		if err != nil {
			return WorkOrder{}, err
		}
		if slices.Contains(w.Dependencies, in.DependsOn) {
			return *w, nil
		}
		switch {
		case w.Status.Final():
			return WorkOrder{}, wrongMove(w, StatusBlocked, "that state is final")
		case w.Status == StatusInProgress:
			return WorkOrder{}, refuse(CodeAlreadyStarted, "work order %s is in progress; it cannot get new dependencies", w.ID).with("id", w.ID)
		case len(w.Dependencies) >= maxDependencies:
			return WorkOrder{}, invalid("depends_on", "would be dependency %d of this order, the limit is %d", len(w.Dependencies)+1, maxDependencies)
		}
		if err := o.refuseCycle(in.ID, in.DependsOn); err != nil {
			return WorkOrder{}, err
		}
		if err := o.depend(w, in.DependsOn); err != nil {
			return WorkOrder{}, err
		}
		w.settle()
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return WorkOrder{}, err
		}
		return *w, nil
	})
}

// refuseCycle walks what "on" depends on and fails if id is among it. Every
// order on the way is read inside the transaction, so two additions that would
// close a cycle only together cannot both commit.
func (o *op) refuseCycle(id, on string) error {
	seen := map[string]bool{}
	next := []string{on}
	for len(next) > 0 {
		at := next[len(next)-1]
		next = next[:len(next)-1]
		if at == id {
			return refuse(CodeCircularDependency, "work order %s already depends, directly or through others, on %s; they would wait for each other for ever", on, id).
				on("depends_on").with("id", id).with("depends_on", on)
		}
		if seen[at] {
			continue
		}
		seen[at] = true
		if len(seen) > maxDependencyGraph {
			return invalid("depends_on", "leads to more than %d orders; split the work differently", maxDependencyGraph)
		}
		w, err := o.loadOrder(at, CodeWorkOrderNotFound)
		if err != nil {
			return err
		}
		next = append(next, w.Dependencies...)
	}
	return nil
}

// DependencyView shows an order's place in the dependency graph.
type DependencyView struct {
	ID        string   `json:"id"`
	DependsOn []string `json:"depends_on"` // all dependencies
	BlockedBy []string `json:"blocked_by"` // of those, the unfinished ones
	Blocking  []string `json:"blocking"`   // orders that wait for this one
}

// Dependencies returns what an order waits for and what waits for it.
func (l *Ledger) Dependencies(ctx context.Context, id string) (DependencyView, error) {
	var v DependencyView
	err := l.view(ctx, "dependencies", func(o *op) error {
		w, err := o.loadOrder(id, CodeWorkOrderNotFound)
		if err != nil {
			return err
		}
		v, err = o.dependencies(w)
		return err
	})
	return v, err
}

func (o *op) dependencies(w *WorkOrder) (DependencyView, error) {
	v := DependencyView{ID: w.ID, DependsOn: w.Dependencies, BlockedBy: w.BlockedBy, Blocking: []string{}}
	waiting, err := collect(o, indexWorkOrders, TableWorkOrders, engine.Prefix(newKey(woDependents).text(w.ID)), func(d *WorkOrder) bool {
		return slices.Contains(d.BlockedBy, w.ID)
	})
	for _, d := range waiting {
		v.Blocking = append(v.Blocking, d.ID)
	}
	return v, err
}
