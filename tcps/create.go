package tcps

import (
	"context"
	"slices"

	"github.com/erlmcp/erlmcp/engine"
)

// maxDependencies bounds what one order may wait for.
const maxDependencies = 100

// CreateWorkOrderInput describes demanded work.
type CreateWorkOrderInput struct {
	Signal         PullSignal     `json:"signal" jsonschema:"the demand behind the work"`
	Bucket         string         `json:"bucket,omitempty" jsonschema:"overrides the bucket chosen from the signal"`
	Priority       int            `json:"priority,omitempty" jsonschema:"1..10, 10 most urgent; overrides the rule and is clamped to the range of the bucket"`
	SKUID          string         `json:"sku_id,omitempty" jsonschema:"the product this order makes, if already known"`
	AssignedTo     string         `json:"assigned_to,omitempty" jsonschema:"who will do the work"`
	Dependencies   []string       `json:"dependencies,omitempty" jsonschema:"ids of orders that must be finished first"`
	Metadata       map[string]any `json:"metadata,omitempty" jsonschema:"further facts kept with the order"`
	Hold           bool           `json:"hold,omitempty" jsonschema:"create as pending; ReleaseWorkOrder queues it"`
	AllowDuplicate bool           `json:"allow_duplicate,omitempty" jsonschema:"accept a second open order for the same issue, pull request or CVE"`
}

func (in *CreateWorkOrderInput) normalise() (Bucket, error) {
	if err := in.Signal.normalise(); err != nil {
		return "", err
	}
	if in.Priority < 0 || in.Priority > 10 {
		return "", invalid("priority", "must be between 1 and 10")
	}
	if in.SKUID != "" {
		if err := checkID("sku_id", in.SKUID); err != nil {
			return "", err
		}
	}
	if err := checkText("assigned_to", in.AssignedTo, 200); err != nil {
		return "", err
	}
	if err := checkMap("metadata", in.Metadata); err != nil {
		return "", err
	}
	if len(in.Dependencies) > maxDependencies {
		return "", invalid("dependencies", "has %d ids, the limit is %d", len(in.Dependencies), maxDependencies)
	}
	for _, d := range in.Dependencies {
		if err := checkID("dependencies", d); err != nil {
			return "", err
		}
	}
	if in.Bucket != "" {
		return ParseBucket(in.Bucket)
	}
	return Route(in.Signal)
}

// CreateWorkOrder accepts a pull signal: it routes it to a bucket, gives it
// priority and deadline and puts the order into the bucket's queue (blocked, if
// it depends on unfinished orders or its SKU is stopped). A CVE raises an andon
// event at once. A second open order for the same issue, pull request or CVE is
// rejected unless AllowDuplicate is set.
func (l *Ledger) CreateWorkOrder(ctx context.Context, in CreateWorkOrderInput) (WorkOrder, error) {
	request := in
	bucket, err := in.normalise()
	if err != nil {
		return WorkOrder{}, err
	}
	return mutate(ctx, l, "create_work_order", request, func(o *op) (WorkOrder, error) {
		w, err := o.create(in, bucket)
		if err != nil {
			return WorkOrder{}, err
		}
		return *w, nil
	})
}

// create stores a new order; in is normalised.
func (o *op) create(in CreateWorkOrderInput, bucket Bucket) (*WorkOrder, error) {
	if !in.AllowDuplicate {
		if err := o.refuseDuplicate(in.Signal); err != nil {
			return nil, err
		}
	}
	id, err := o.freshID(TableWorkOrders, "WO", 1)
	if err != nil {
		return nil, err
	}
	priority := Priority(in.Signal, bucket)
	if in.Priority != 0 {
		priority = bucket.clamp(in.Priority)
	}
	w := &WorkOrder{
		ID: id, Bucket: bucket, Priority: priority, Status: StatusQueued,
		Description: in.Signal.Description, PullSignal: in.Signal, DemandSignal: in.Signal.Source,
		CreatedAt: o.at, SLADeadline: bucket.deadline(o.now),
		SKUID: in.SKUID, AssignedTo: in.AssignedTo, Metadata: in.Metadata,
		QueueClass: 10 - priority, QueuePosition: o.tick(o.now),
	}
	for _, d := range in.Dependencies {
		if err := o.depend(w, d); err != nil {
			return nil, err
		}
	}
	if err := o.bindSKU(w, in.SKUID); err != nil {
		return nil, err
	}
	if in.Hold {
		w.Status = StatusPending
	} else {
		w.settle()
	}
	if err := o.orderReceipt(w, ReceiptWorkOrderCreated, "creation", map[string]any{
		"bucket": string(w.Bucket), "priority": w.Priority, "sla_deadline": string(w.SLADeadline),
	}); err != nil {
		return nil, err
	}
	if err := o.saveOrder(w, ActionCreated); err != nil {
		return nil, err
	}
	if in.Signal.isCVE() {
		return w, o.alertCVE(w)
	}
	return w, nil
}

// refuseDuplicate looks for an open order of the same demand. Installs, refunds
// and internal requests repeat legitimately and are not checked.
func (o *op) refuseDuplicate(s PullSignal) error {
	if s.Type != SignalGitHubIssue && s.Type != SignalGitHubPR && s.Type != SignalCVE {
		return nil
	}
	prefix := engine.Prefix(newKey(woSource).text(string(s.Type)).text(clip(s.Source)))
	same, err := collect(o, indexWorkOrders, TableWorkOrders, prefix, func(w *WorkOrder) bool { return w.PullSignal.Source == s.Source })
	if err != nil || len(same) == 0 {
		return err
	}
	return refuse(CodeRejected, "work order %s is already open for %s; work on that one, or set allow_duplicate", same[0].ID, s.Source).
		on("signal.source").with("reason", "duplicate_source").with("work_order_id", same[0].ID)
}

// depend adds a dependency to w; the caller has excluded cycles.
func (o *op) depend(w *WorkOrder, on string) error {
	if slices.Contains(w.Dependencies, on) {
		return nil
	}
	d, err := o.loadOrder(on, CodeWorkOrderNotFound)
	if err != nil {
		return err
	}
	w.Dependencies = include(w.Dependencies, on)
	if d.open() {
		w.BlockedBy = include(w.BlockedBy, on)
	}
	return nil
}

// bindSKU ties an order to its product and to the events that stop the product.
func (o *op) bindSKU(w *WorkOrder, sku string) error {
	if sku == "" {
		return nil
	}
	if w.SKUID != "" && w.SKUID != sku {
		return refuse(CodeSKUMismatch, "work order %s makes SKU %s, not %s", w.ID, w.SKUID, sku).on("sku_id").with("sku_id", w.SKUID)
	}
	w.SKUID = sku
	events, err := o.unresolvedOfSKU(sku)
	if err != nil {
		return err
	}
	for _, a := range events {
		if o.stops(a) && a.RelatedWorkOrderID != w.ID {
			w.BlockedByAndons = include(w.BlockedByAndons, a.EventID)
		}
	}
	return nil
}

// alertCVE raises the andon event of a vulnerability. The order is the cure, so
// the event names it as related and does not stop it. The affected product is
// metadata.sku_id; without one the CVE id stands for it.
func (o *op) alertCVE(w *WorkOrder) error {
	sku, _ := w.PullSignal.Metadata["sku_id"].(string)
	if checkID("sku_id", sku) != nil {
		sku = w.PullSignal.Source
	}
	_, err := o.trigger(&Andon{
		FailureType: FailureSecurity, Severity: SeverityCritical, SKUID: sku, Stage: AndonValidation,
		DetectedBy: DetectedAutomated, ActionTaken: ActionNotifyTeam, RelatedWorkOrderID: w.ID,
		Details: map[string]any{"cve": w.PullSignal.Source, "work_order_id": w.ID, "reason": w.Description},
	})
	return err
}

// ReleaseWorkOrderInput names a pending order.
type ReleaseWorkOrderInput struct {
	ID string `json:"id" jsonschema:"id of the pending work order"`
}

// ReleaseWorkOrder validates a pending order: it enters the queue of its bucket.
func (l *Ledger) ReleaseWorkOrder(ctx context.Context, in ReleaseWorkOrderInput) (WorkOrder, error) {
	return changeOrder(ctx, l, "release_work_order", in, in.ID, func(o *op, w *WorkOrder) error {
		if w.Status != StatusPending {
			return wrongMove(w, StatusQueued, "only pending orders can be released")
		}
		w.Status = StatusQueued
		w.settle()
		return nil
	})
}

// changeOrder is a mutation of one work order.
func changeOrder(ctx context.Context, l *Ledger, name string, input any, id string, fn func(o *op, w *WorkOrder) error) (WorkOrder, error) {
	return mutate(ctx, l, name, input, func(o *op) (WorkOrder, error) {
		w, err := o.loadOrder(id, CodeNotFound)
		if err != nil {
			return WorkOrder{}, err
		}
		if err := fn(o, w); err != nil {
			return WorkOrder{}, err
		}
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return WorkOrder{}, err
		}
		return *w, nil
	})
}

func wrongMove(w *WorkOrder, to Status, why string) *Error {
	return refuse(CodeInvalidTransition, "work order %s is %s and cannot become %s: %s", w.ID, w.Status, to, why).
		with("id", w.ID).with("from", string(w.Status)).with("to", string(to))
}

// collect decodes the documents an index range leads to, in index order, and
// keeps those that keep accepts (nil: all).
func collect[D any, P interface {
	*D
	document
}](o *op, index, table string, r engine.Range, keep func(P) bool) ([]P, error) {
	var out []P
	var failed error
	err := o.tx.ScanIndex(index, r, func(_, key, value []byte) bool {
		d := P(new(D))
		if failed = openAt(table, string(key), value, d); failed != nil {
			return false
		}
		if keep == nil || keep(d) {
			out = append(out, d)
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// count returns the number of index entries in a range, at most limit of them
// (0: all).
func (o *op) count(index string, r engine.Range, limit int) (int, error) {
	n := 0
	r.Limit = limit
	err := o.tx.ScanIndex(index, r, func(_, _, _ []byte) bool { n++; return true })
	return n, err
}
