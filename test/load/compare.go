package load

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/erlmcp/erlmcp/test/process"
)

// Depth says how much Compare reads.
type Depth bool

const (
	// Changed compares what was created or changed since the last comparison, and looks for newer orders that nobody asked for.
	// It takes time in proportion to the work since then.
	Changed Depth = false
	// Everything compares all orders and events.
	Everything Depth = true
)

// Compare holds the server's ledger against the clients' records. Nothing may be in flight: call Settle first. What it
// finds is in Violations; an error means that it could not be done.
func (l *Load) Compare(ctx context.Context, s *process.Server, depth Depth) error {
	caller := s.Caller()
	defer caller.Close()
	orders, andons := l.known(depth)
	for _, kind := range []struct {
		tool, list string
		known      map[string]*record
	}{
		{"work_order_list", "work_orders", orders},
		{"andon_list", "andons", andons},
	} {
		found, err := l.read(ctx, caller, kind.tool, kind.list, depth, kind.known)
		if err != nil {
			return err
		}
		problems := compare(kind.known, found, l.clean)
		l.mu.Lock()
		l.total.Compared += len(kind.known)
		l.violations = append(l.violations, problems...)
		l.mu.Unlock()
		for _, r := range kind.known {
			r.dirty = false
		}
	}
	return nil
}

// known collects the records to compare by name.
func (l *Load) known(depth Depth) (orders, andons map[string]*record) {
	orders, andons = map[string]*record{}, map[string]*record{}
	for _, c := range l.clients {
		for from, to := range map[*map[string]*record]map[string]*record{&c.orders: orders, &c.andons: andons} {
			for name, r := range *from {
				if r.dirty || depth == Everything {
					to[name] = r
				}
			}
		}
	}
	return orders, andons
}

// clean reports whether a name is on record and was compared before.
func (l *Load) clean(name string) bool {
	for _, c := range l.clients {
		for _, r := range []*record{c.orders[name], c.andons[name]} {
			if r != nil && !r.dirty {
				return true
			}
		}
	}
	return false
}

// read returns the documents on the server by name. With Changed it reads the newest orders until it meets one that
// was compared before, and what is still missing one by one.
func (l *Load) read(ctx context.Context, caller *process.Caller, tool, list string, depth Depth, known map[string]*record) (map[string][]document, error) {
	found := map[string][]document{}
	args := map[string]any{"limit": 1000}
	paged := depth == Everything || tool == "work_order_list" // events are listed oldest first
	for paged {
		docs, next, err := page(ctx, caller, tool, list, args)
		if err != nil {
			return nil, err
		}
		met := false
		for _, d := range docs {
			name := nameOf(d)
			found[name] = append(found[name], d)
			met = met || l.clean(name)
		}
		if next == "" || met && depth == Changed {
			break
		}
		args["cursor"] = next
	}
	for name, r := range known {
		if len(found[name]) > 0 || depth == Everything {
			continue
		}
		var docs []document
		var err error
		if tool == "andon_list" {
			docs, _, err = page(ctx, caller, tool, list, map[string]any{"sku_id": name, "limit": 10})
		} else {
			docs, err = one(ctx, caller, r.id)
		}
		if err != nil {
			return nil, err
		}
		if len(docs) > 0 {
			found[name] = docs
		}
	}
	return found, nil
}

// nameOf is what the client called it: the source of an order, the SKU of an event.
func nameOf(d document) string {
	if d.EventID != "" {
		return d.SKU
	}
	return d.Source
}

func page(ctx context.Context, caller *process.Caller, tool, list string, args map[string]any) ([]document, string, error) {
	raw, err := caller.Call(ctx, tool, args)
	if err != nil {
		return nil, "", err
	}
	var outer map[string]json.RawMessage
	var docs []document
	var next string
	if err := json.Unmarshal(raw, &outer); err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(outer[list], &docs); err != nil {
		return nil, "", fmt.Errorf("%s: %w", tool, err)
	}
	if cursor := outer["next_cursor"]; cursor != nil {
		err = json.Unmarshal(cursor, &next)
	}
	return docs, next, err
}

// one reads an order; none if the server does not know it.
func one(ctx context.Context, caller *process.Caller, id string) ([]document, error) {
	raw, err := caller.Call(ctx, "work_order_get", map[string]any{"id": id})
	if no, ok := err.(*process.Refused); ok && no.Code == "not_found" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := documentOf(raw)
	return []document{d}, err
}

// compare says what is lost, doubled, different or unexplained. explained names what is on the server besides known.
func compare(known map[string]*record, found map[string][]document, explained func(name string) bool) (problems []string) {
	for name, r := range known {
		switch docs := found[name]; len(docs) {
		case 0:
			problems = append(problems, fmt.Sprintf("LOST: %s (%s) was acknowledged and is not there", name, r.id))
		case 1:
			if d := r.differs(docs[0]); d != "" {
				problems = append(problems, "DIFFERENT: "+d)
			}
		default:
			problems = append(problems, fmt.Sprintf("TWICE: %s (%s) is there %d times", name, r.id, len(docs)))
		}
	}
	for name, docs := range found {
		if known[name] == nil && !explained(name) {
			problems = append(problems, fmt.Sprintf("UNEXPLAINED: nobody asked for %q: %+v", name, docs))
		}
	}
	return problems
}
