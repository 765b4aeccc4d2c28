package tcps

import (
	"cmp"
	"context"
	"slices"

	"github.com/erlmcp/erlmcp/engine"
)

// GetAndon returns one event.
func (l *Ledger) GetAndon(ctx context.Context, id string) (Andon, error) {
	var out Andon
	err := l.view(ctx, "get_andon", func(o *op) error {
		a, err := o.loadAndon(id)
		if err == nil {
			out = *a
		}
		return err
	})
	return out, err
}

// ListAndonsInput filters and pages; all given filters must match.
type ListAndonsInput struct {
	Status      string `json:"status,omitempty" jsonschema:"open, investigating, resolved or closed"`
	Severity    string `json:"severity,omitempty" jsonschema:"critical, high, medium or low"`
	SKUID       string `json:"sku_id,omitempty"`
	WorkOrderID string `json:"work_order_id,omitempty"`
	Unresolved  bool   `json:"unresolved,omitempty" jsonschema:"only open and investigating ones"`
	Limit       int    `json:"limit,omitempty" jsonschema:"1..1000, default 100"`
	Cursor      string `json:"cursor,omitempty" jsonschema:"next_cursor of the page before"`
}

// AndonPage is one page of events, oldest first.
type AndonPage struct {
	Andons     []Andon `json:"andons"`
	NextCursor string  `json:"next_cursor,omitempty"`
}

// filter turns the input into the narrowest index range and a test for the rest.
func (in ListAndonsInput) filter() (prefixes []ikey, keep func(*Andon) bool, err error) {
	var status AndonStatus
	var severity Severity
	if in.Status != "" {
		if status, err = ParseAndonStatus(in.Status); err != nil {
			return nil, nil, err
		}
	}
	if in.Severity != "" {
		if severity, err = ParseSeverity(in.Severity); err != nil {
			return nil, nil, err
		}
	}
	for field, id := range map[string]string{"sku_id": in.SKUID, "work_order_id": in.WorkOrderID} {
		if id != "" {
			if err := checkID(field, id); err != nil {
				return nil, nil, err
			}
		}
	}
	keep = func(a *Andon) bool {
		return (status == "" || a.Status == status) && (severity == "" || a.Severity == severity) &&
			(in.SKUID == "" || a.SKUID == in.SKUID) && (!in.Unresolved || a.Status.Unresolved()) &&
			(in.WorkOrderID == "" || a.WorkOrderID == in.WorkOrderID || a.RelatedWorkOrderID == in.WorkOrderID)
	}
	switch {
	case in.SKUID != "" && in.Unresolved:
		return []ikey{newKey(andonOpenSKU).text(in.SKUID)}, keep, nil
	case in.SKUID != "":
		return []ikey{newKey(andonSKU).text(in.SKUID)}, keep, nil
	case in.WorkOrderID != "":
		return []ikey{newKey(andonOrder).text(in.WorkOrderID)}, keep, nil
	case status != "":
		return []ikey{newKey(andonStatus).text(string(status))}, keep, nil
	case in.Unresolved:
		return []ikey{newKey(andonStatus).text(string(AndonOpen)), newKey(andonStatus).text(string(AndonInvestigating))}, keep, nil
	case severity != "":
		return []ikey{newKey(andonSeverity).text(string(severity))}, keep, nil
	}
	for _, s := range AndonStatuses() {
		prefixes = append(prefixes, newKey(andonStatus).text(string(s)))
	}
	return prefixes, keep, nil
}

// ListAndons returns events oldest first.
func (l *Ledger) ListAndons(ctx context.Context, in ListAndonsInput) (AndonPage, error) {
	prefixes, keep, err := in.filter()
	if err != nil {
		return AndonPage{}, err
	}
	limit, err := pageSize(in.Limit)
	if err != nil {
		return AndonPage{}, err
	}
	page := AndonPage{Andons: []Andon{}}
	err = l.view(ctx, "list_andons", func(o *op) error {
		lists := make([][]Andon, len(prefixes))
		more := false
		for i, p := range prefixes {
			list, next, err := pageOldestFirst(o, indexAndons, TableAndons, p, in.Cursor, limit, keep)
			if err != nil {
				return err
			}
			lists[i] = list
			more = more || next != ""
		}
		page.Andons = mergeAndons(lists)
		if len(page.Andons) > limit {
			page.Andons, more = page.Andons[:limit], true
		}
		if more {
			last := page.Andons[len(page.Andons)-1]
			page.NextCursor = encodeCursor(place{last.Timestamp.Millis(), last.EventID})
		}
		return nil
	})
	return page, err
}

// mergeAndons joins sorted lists into one, oldest first.
func mergeAndons(lists [][]Andon) []Andon {
	all := slices.Concat(lists...)
	some(&all)
	slices.SortFunc(all, func(x, y Andon) int {
		return cmp.Or(cmp.Compare(x.Timestamp, y.Timestamp), cmp.Compare(x.EventID, y.EventID))
	})
	return all
}

// CountOpenAndons returns the number of unresolved events.
func (l *Ledger) CountOpenAndons(ctx context.Context) (int, error) {
	n := 0
	err := l.view(ctx, "count_open_andons", func(o *op) error {
		var err error
		n, err = o.countOpenAndons()
		return err
	})
	return n, err
}

func (o *op) countOpenAndons() (int, error) {
	n := 0
	for _, s := range AndonStatuses() {
		if !s.Unresolved() {
			continue
		}
		k, err := o.count(indexAndons, engine.Prefix(newKey(andonStatus).text(string(s))), 0)
		if err != nil {
			return 0, err
		}
		n += k
	}
	return n, nil
}

// unresolvedOfSKU returns the unresolved events of a SKU, oldest first.
func (o *op) unresolvedOfSKU(sku string) ([]*Andon, error) {
	return collect[Andon](o, indexAndons, TableAndons, engine.Prefix(newKey(andonOpenSKU).text(sku)), nil)
}

// IsBlocked reports whether an unresolved event stops a SKU.
func (l *Ledger) IsBlocked(ctx context.Context, sku string) (bool, error) {
	r, err := l.CanProceed(ctx, sku, string(AndonExecution))
	return err == nil && !r.CanProceed, err
}

// ProceedResult says whether a SKU may enter a stage.
type ProceedResult struct {
	SKUID      string   `json:"sku_id"`
	Stage      string   `json:"stage"`
	CanProceed bool     `json:"can_proceed"`
	BlockedBy  []string `json:"blocked_by"` // andon event ids, oldest first
}

// CanProceed reports whether a SKU may enter a stage (of an andon event, of a
// work order or of production). An unresolved event stops every stage.
func (l *Ledger) CanProceed(ctx context.Context, sku, stage string) (ProceedResult, error) {
	if err := checkID("sku_id", sku); err != nil {
		return ProceedResult{}, err
	}
	name, err := anyStage(stage)
	if err != nil {
		return ProceedResult{}, err
	}
	r := ProceedResult{SKUID: sku, Stage: name, BlockedBy: []string{}}
	err = l.view(ctx, "can_proceed", func(o *op) error {
		events, err := o.unresolvedOfSKU(sku)
		for _, a := range events {
			if o.stops(a) {
				r.BlockedBy = append(r.BlockedBy, a.EventID)
			}
		}
		return err
	})
	r.CanProceed = err == nil && len(r.BlockedBy) == 0
	return r, err
}

func anyStage(s string) (string, error) {
	if v, err := ParseProductionStage(s); err == nil {
		return string(v), nil
	}
	if v, err := ParseWorkStage(s); err == nil {
		return string(v), nil
	}
	v, err := ParseAndonStage(s)
	return string(v), err
}
