package tcps

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/erlmcp/erlmcp/engine"
)

// WIP is the load of a bucket: orders in progress against the limit.
type WIP struct {
	Bucket      Bucket  `json:"bucket"`
	Limit       int     `json:"limit"` // 0 with Unlimited false: the bucket is closed
	Unlimited   bool    `json:"unlimited"`
	Current     int     `json:"current"`
	Available   int     `json:"available"`   // 0 when unlimited
	Utilization float64 `json:"utilization"` // current/limit; 0 for no limit and for limit 0
}

func (w WIP) full() bool { return !w.Unlimited && w.Current >= w.Limit }

func (w *WIP) derive() {
	if w.Unlimited || w.Limit == 0 {
		return
	}
	w.Available = max(0, w.Limit-w.Current)
	w.Utilization = float64(w.Current) / float64(w.Limit)
}

// wipLimit is the stored limit of a bucket.
type wipLimit struct {
	Bucket    Bucket `json:"bucket"`
	Limit     int    `json:"limit"`
	Unlimited bool   `json:"unlimited"`
	UpdatedAt Time   `json:"updated_at"`
	Revision  uint64 `json:"revision"`
	Checksum  string `json:"checksum"`
}

func (w *wipLimit) docChecksum() *string { return &w.Checksum }
func (w *wipLimit) docNormalise()        {}

// maxWIPLimit keeps the count of running orders, and so the scan that checks
// the limit, small. Use Unlimited beyond it.
const maxWIPLimit = 10_000

// loadLimit returns the stored limit of a bucket, or the configured default with
// revision 0.
func (o *op) loadLimit(b Bucket) (*wipLimit, error) {
	raw, err := o.tx.Get(TableWIPLimits, []byte(b))
	if errors.Is(err, engine.ErrNotFound) {
		limit := b.rule().wip
		if v, ok := o.o.WIPLimits[b]; ok {
			limit = v
		}
		if limit < 0 {
			return &wipLimit{Bucket: b, Unlimited: true}, nil
		}
		return &wipLimit{Bucket: b, Limit: limit}, nil
	}
	if err != nil {
		return nil, err
	}
	w := new(wipLimit)
	return w, openAt(TableWIPLimits, string(b), raw, w)
}

// wip counts the orders in progress of a bucket. The count stops at the limit
// unless all is set: a start only needs to know whether there is room, and the
// shorter the scan the fewer conflicts.
func (o *op) wip(b Bucket, countTo int) (WIP, error) {
	limit, err := o.loadLimit(b)
	if err != nil {
		return WIP{}, err
	}
	w := WIP{Bucket: b, Limit: limit.Limit, Unlimited: limit.Unlimited}
	if w.Unlimited && countTo == 0 {
		return w, nil // any number is fine: do not read what would only conflict
	}
	if countTo == 0 {
		countTo = max(limit.Limit, 1)
	}
	w.Current, err = o.count(indexWorkOrders, engine.Prefix(newKey(woRunning).text(string(b))), max(countTo, 0))
	w.derive()
	return w, err
}

// countAll is a bound for counting running orders that no bucket reaches.
const countAll = 1 << 30

func wipRefusal(w WIP) *Error {
	return refuse(CodeWIPLimit, "bucket %s has %d orders in progress and its WIP limit is %d; finish or cancel one first, or raise the limit", w.Bucket, w.Current, w.Limit).
		with("bucket", string(w.Bucket)).with("current", w.Current).with("limit", w.Limit)
}

// WIP returns the load of one bucket.
func (l *Ledger) WIP(ctx context.Context, bucket string) (WIP, error) {
	b, err := ParseBucket(bucket)
	if err != nil {
		return WIP{}, err
	}
	var w WIP
	err = l.view(ctx, "wip", func(o *op) error {
		w, err = o.wip(b, countAll)
		return err
	})
	return w, err
}

// WIPAll returns the load of all buckets, in the order of [Buckets].
func (l *Ledger) WIPAll(ctx context.Context) ([]WIP, error) {
	out := []WIP{}
	err := l.view(ctx, "wip", func(o *op) error {
		for _, b := range Buckets() {
			w, err := o.wip(b, countAll)
			if err != nil {
				return err
			}
			out = append(out, w)
		}
		return nil
	})
	return out, err
}

// SetWIPLimitInput is the new limit of a bucket.
type SetWIPLimitInput struct {
	Bucket    string `json:"bucket"`
	Limit     int    `json:"limit" jsonschema:"most orders in progress at once; 0 closes the bucket"`
	Unlimited bool   `json:"unlimited,omitempty" jsonschema:"no limit; limit must be 0 then"`
}

// SetWIPLimit changes the limit of a bucket. Orders in progress above a lowered
// limit go on; no new one starts until there is room. Writes a receipt
// wip_limit_changed.
func (l *Ledger) SetWIPLimit(ctx context.Context, in SetWIPLimitInput) (WIP, error) {
	if in.Bucket == "" {
		return WIP{}, refuse(CodeMissingBucket, "name the bucket, one of %s", names(Buckets())).on("bucket")
	}
	b, err := ParseBucket(in.Bucket)
	if err != nil {
		return WIP{}, err
	}
	if in.Limit < 0 || in.Limit > maxWIPLimit || in.Unlimited && in.Limit != 0 {
		return WIP{}, invalid("limit", "must be between 0 and %d, and 0 together with unlimited", maxWIPLimit)
	}
	return mutate(ctx, l, "set_wip_limit", in, func(o *op) (WIP, error) {
		limit, err := o.loadLimit(b)
		if err != nil {
			return WIP{}, err
		}
		details := map[string]any{
			"bucket": string(b), "old_limit": limit.Limit, "old_unlimited": limit.Unlimited,
			"new_limit": in.Limit, "new_unlimited": in.Unlimited,
		}
		action := ActionUpdated
		if limit.Revision == 0 {
			action = ActionCreated
		}
		limit.Limit, limit.Unlimited, limit.UpdatedAt = in.Limit, in.Unlimited, o.at
		limit.Revision++
		if err := o.save(TableWIPLimits, string(b), limit, EntityKanban, action, limit.Revision); err != nil {
			return WIP{}, err
		}
		if err := o.addReceipt(&Receipt{ReceiptType: ReceiptWIPLimitChanged, Status: ReceiptCompleted, Details: details}, "RCPT", 2); err != nil {
			return WIP{}, err
		}
		return o.wip(b, countAll)
	})
}

// KanbanSignalInput is a pull signal that names its bucket.
type KanbanSignalInput struct {
	Bucket   string         `json:"bucket"`
	Priority int            `json:"priority,omitempty" jsonschema:"0 (by rule) or 1..10, clamped to the bucket's range"`
	Payload  map[string]any `json:"payload" jsonschema:"what is demanded; source and description are used if they are text"`
}

// ProcessPullSignal admits work straight into progress: the order is created and
// started in one transaction. Errors: missing_bucket, invalid_bucket,
// missing_payload, invalid_payload, and limit_reached when the bucket is full,
// which records a receipt work_order_refused.
func (l *Ledger) ProcessPullSignal(ctx context.Context, in KanbanSignalInput) (WorkOrder, error) {
	create, b, err := in.order()
	if err != nil {
		return WorkOrder{}, err
	}
	return mutate(ctx, l, "process_pull_signal", in, func(o *op) (WorkOrder, error) {
		wip, err := o.wip(b, 0)
		if err != nil {
			return WorkOrder{}, err
		}
		if wip.full() {
			return WorkOrder{}, o.refuseSignal(in, wip)
		}
		w, err := o.create(create, b)
		if err != nil {
			return WorkOrder{}, err
		}
		if err := o.start(w, ""); err != nil {
			return WorkOrder{}, err
		}
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return WorkOrder{}, err
		}
		return *w, nil
	})
}

func (in KanbanSignalInput) order() (CreateWorkOrderInput, Bucket, error) {
	var c CreateWorkOrderInput
	if strings.TrimSpace(in.Bucket) == "" {
		return c, "", refuse(CodeMissingBucket, "name the bucket, one of %s", names(Buckets())).on("bucket")
	}
	b, err := ParseBucket(in.Bucket)
	if err != nil {
		return c, "", err
	}
	if in.Payload == nil {
		return c, "", refuse(CodeMissingPayload, "say in payload what is demanded").on("payload")
	}
	text := func(key, fallback string) string {
		if s, ok := in.Payload[key].(string); ok && strings.TrimSpace(s) != "" {
			return s
		}
		return fallback
	}
	c = CreateWorkOrderInput{
		Signal: PullSignal{
			Type: SignalInternalRequest, Source: text("source", "kanban"),
			Description: text("description", ""), Metadata: maps.Clone(in.Payload),
		},
		Bucket: string(b), Priority: in.Priority,
	}
	if _, err := c.normalise(); err != nil {
		return c, "", refuse(CodeInvalidPayload, "the payload cannot be accepted: %v", err).on("payload")
	}
	return c, b, nil
}

// refuseSignal leaves a receipt of the refusal; the transaction commits.
func (o *op) refuseSignal(in KanbanSignalInput, wip WIP) error {
	r := &Receipt{ReceiptType: ReceiptWorkOrderRefused, Status: ReceiptFailed, Details: map[string]any{
		"reason": "wip_limit_reached", "bucket": string(wip.Bucket), "current": wip.Current, "limit": wip.Limit, "payload": in.Payload,
	}}
	if err := o.addReceipt(r, "RCPT", 2); err != nil {
		return err
	}
	return recorded{refusal: refuse(CodeLimitReached, "bucket %s has reached its WIP limit of %d; the refusal is recorded as %s, try again when an order is finished", wip.Bucket, wip.Limit, r.ReceiptID).
		with("bucket", string(wip.Bucket)).with("limit", wip.Limit).with("receipt_id", r.ReceiptID)}
}
