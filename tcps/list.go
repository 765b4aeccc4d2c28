package tcps

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"slices"

	"github.com/erlmcp/erlmcp/engine"
)

// GetWorkOrder returns one order.
func (l *Ledger) GetWorkOrder(ctx context.Context, id string) (WorkOrder, error) {
	var out WorkOrder
	err := l.view(ctx, "get_work_order", func(o *op) error {
		w, err := o.loadOrder(id, CodeNotFound)
		if err == nil {
			out = *w
		}
		return err
	})
	return out, err
}

// WorkOrderStatusView is everything about one order.
type WorkOrderStatusView struct {
	WorkOrder    WorkOrder      `json:"work_order"`
	ElapsedHours float64        `json:"elapsed_hours"` // from creation to now, or to the end
	SLA          SLAStatus      `json:"sla_status"`
	Dependencies DependencyView `json:"dependencies"`
	Receipts     []Receipt      `json:"receipts"` // oldest first, at most 1000
	Andons       []Andon        `json:"andons"`   // oldest first, at most 1000
}

// WorkOrderStatus returns one order with its SLA standing, dependencies,
// receipts and andon events, all from one moment.
func (l *Ledger) WorkOrderStatus(ctx context.Context, id string) (WorkOrderStatusView, error) {
	v := WorkOrderStatusView{Receipts: []Receipt{}, Andons: []Andon{}}
	err := l.view(ctx, "work_order_status", func(o *op) error {
		w, err := o.loadOrder(id, CodeNotFound)
		if err != nil {
			return err
		}
		v.WorkOrder = *w
		end := o.at
		if w.Status.Final() {
			end = max(w.CompletedAt, w.CancelledAt)
		}
		v.ElapsedHours = hours(end.Sub(w.CreatedAt))
		v.SLA = w.sla(o.at)
		if v.Dependencies, err = o.dependencies(w); err != nil {
			return err
		}
		r := engine.Prefix(newKey(receiptOrder).text(id))
		r.Limit = maxPage
		receipts, err := collect[Receipt](o, indexReceipts, TableReceipts, r, nil)
		if err != nil {
			return err
		}
		for _, d := range receipts {
			v.Receipts = append(v.Receipts, *d)
		}
		r = engine.Prefix(newKey(andonOrder).text(id))
		r.Limit = maxPage
		andons, err := collect[Andon](o, indexAndons, TableAndons, r, nil)
		for _, d := range andons {
			v.Andons = append(v.Andons, *d)
		}
		return err
	})
	return v, err
}

// ListWorkOrdersInput filters and pages.
type ListWorkOrdersInput struct {
	Status string `json:"status,omitempty" jsonschema:"pending, queued, in_progress, blocked, completed or cancelled"`
	Bucket string `json:"bucket,omitempty"`
	Limit  int    `json:"limit,omitempty" jsonschema:"1..1000, default 100"`
	Cursor string `json:"cursor,omitempty" jsonschema:"next_cursor of the page before"`
}

// WorkOrderPage is one page of orders, newest first.
type WorkOrderPage struct {
	WorkOrders []WorkOrder `json:"work_orders"`
	NextCursor string      `json:"next_cursor,omitempty"` // empty on the last page
}

// place is where an order stands in a newest-first list.
type place struct {
	created int64
	id      string
}

func (p place) compare(q place) int {
	if p.created != q.created {
		if p.created < q.created {
			return -1
		}
		return 1
	}
	return bytes.Compare([]byte(p.id), []byte(q.id))
}

// ListWorkOrders returns orders by status and bucket, newest first. Each page is
// consistent in itself; an order whose status changes between two pages may be
// missed or seen twice when filtering by status, never otherwise.
func (l *Ledger) ListWorkOrders(ctx context.Context, in ListWorkOrdersInput) (WorkOrderPage, error) {
	statuses, buckets := Statuses(), Buckets()
	if in.Status != "" {
		s, err := ParseStatus(in.Status)
		if err != nil {
			return WorkOrderPage{}, err
		}
		statuses = []Status{s}
	}
	if in.Bucket != "" {
		b, err := ParseBucket(in.Bucket)
		if err != nil {
			return WorkOrderPage{}, err
		}
		buckets = []Bucket{b}
	}
	limit, err := pageSize(in.Limit)
	if err != nil {
		return WorkOrderPage{}, err
	}
	after, err := decodeCursor(in.Cursor)
	if err != nil {
		return WorkOrderPage{}, err
	}
	page := WorkOrderPage{WorkOrders: []WorkOrder{}}
	err = l.view(ctx, "list_work_orders", func(o *op) error {
		var places []place
		for _, s := range statuses {
			for _, b := range buckets {
				// Each of the sorted lists contributes at most a page; the newest of all make the page.
				if places, err = o.places(places, newKey(woList).text(string(s)).text(string(b)), after, limit+1); err != nil {
					return err
				}
			}
		}
		slices.SortFunc(places, func(x, y place) int { return y.compare(x) })
		if len(places) > limit {
			places = places[:limit]
			page.NextCursor = encodeCursor(places[limit-1])
		}
		for _, p := range places {
			w, err := o.loadOrder(p.id, CodeNotFound)
			if err != nil {
				return err
			}
			page.WorkOrders = append(page.WorkOrders, *w)
		}
		return nil
	})
	return page, err
}

// places appends up to limit places older than after (nil: from the newest).
func (o *op) places(out []place, prefix ikey, after *place, limit int) ([]place, error) {
	r := engine.Prefix(prefix)
	r.Reverse, r.Limit = true, limit
	if after != nil {
		r.Hi = slices.Clone(prefix).num(after.created).text(after.id)
	}
	err := o.tx.ScanIndex(indexWorkOrders, r, func(ikey, key, _ []byte) bool {
		out = append(out, place{timeInKey(ikey, len(prefix)), string(key)})
		return true
	})
	return out, err
}

// Cursors are opaque to callers: version, time, id.
const cursorVersion = 1

func encodeCursor(p place) string {
	b := append([]byte{cursorVersion}, newKey(0).num(p.created)[1:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, p.id...))
}

func decodeCursor(s string) (*place, error) {
	if s == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) < 10 || b[0] != cursorVersion || checkID("cursor", string(b[9:])) != nil {
		return nil, refuse(CodeInvalidCursor, "the cursor is not one this server gave; start again without it").on("cursor")
	}
	return &place{int64(binary.BigEndian.Uint64(b[1:]) & (1<<63 - 1)), string(b[9:])}, nil
}

// pageOldestFirst reads one page of an index whose keys end in "time, id",
// oldest first, skipping what keep refuses.
func pageOldestFirst[D any, P interface {
	*D
	document
}](o *op, index, table string, prefix ikey, cursor string, limit int, keep func(P) bool) ([]D, string, error) {
	after, err := decodeCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	r := engine.Prefix(prefix)
	if after != nil {
		r.Lo = append(slices.Clone(prefix).num(after.created).text(after.id), 0) // the first key behind it
	}
	out := []D{}
	next := ""
	last := place{}
	var failed error
	err = o.tx.ScanIndex(index, r, func(ikey, key, value []byte) bool {
		d := P(new(D))
		if failed = openAt(table, string(key), value, d); failed != nil {
			return false
		}
		if !keep(d) {
			return true
		}
		if len(out) == limit {
			next = encodeCursor(last)
			return false
		}
		out = append(out, *d)
		last = place{timeInKey(ikey, len(prefix)), string(key)}
		return true
	})
	if err == nil {
		err = failed
	}
	return out, next, err
}
