package tcps

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/engine"
)

// StartWorkOrderInput names the order to start.
type StartWorkOrderInput struct {
	ID         string `json:"id" jsonschema:"id of the queued work order"`
	AssignedTo string `json:"assigned_to,omitempty" jsonschema:"who does the work"`
	SKUID      string `json:"sku_id,omitempty" jsonschema:"the product this order makes, if known by now"`
}

// StartWorkOrder takes a queued order into work: it leaves the queue and takes a
// WIP slot of its bucket. Errors: not_found, already_started, wip_limit,
// blocked_by_dependencies, blocked_by_andons, invalid_transition.
func (l *Ledger) StartWorkOrder(ctx context.Context, in StartWorkOrderInput) (WorkOrder, error) {
	if err := checkText("assigned_to", in.AssignedTo, 200); err != nil {
		return WorkOrder{}, err
	}
	if in.SKUID != "" {
		if err := checkID("sku_id", in.SKUID); err != nil {
			return WorkOrder{}, err
		}
	}
	return changeOrder(ctx, l, "start_work_order", in, in.ID, func(o *op, w *WorkOrder) error {
		if err := o.bindSKU(w, in.SKUID); err != nil {
			return err
		}
		return o.start(w, in.AssignedTo)
	})
}

// start moves w into progress; the caller saves it.
func (o *op) start(w *WorkOrder, assignee string) error {
	if err := o.startable(w); err != nil {
		return err
	}
	wip, err := o.wip(w.Bucket, 0)
	if err != nil {
		return err
	}
	if wip.full() {
		return wipRefusal(wip).with("id", w.ID)
	}
	w.Status = StatusInProgress
	if w.StartedAt.IsZero() {
		w.StartedAt = o.at
	} else {
		w.ReworkCount++ // it was stopped by an andon event after an earlier start
	}
	w.AssignedTo = cmp.Or(assignee, w.AssignedTo)
	return o.orderReceipt(w, ReceiptWorkOrderStarted, "start", map[string]any{
		"bucket": string(w.Bucket), "assigned_to": w.AssignedTo, "rework_count": w.ReworkCount,
	})
}

// startable says why an order cannot be started, WIP limit aside.
func (o *op) startable(w *WorkOrder) error {
	switch {
	case w.Status == StatusInProgress || w.Status == StatusCompleted:
		return refuse(CodeAlreadyStarted, "work order %s is already %s", w.ID, w.Status).with("id", w.ID).with("status", string(w.Status))
	case w.Status == StatusCancelled:
		return wrongMove(w, StatusInProgress, "create a new order instead")
	case w.Status == StatusPending:
		return wrongMove(w, StatusInProgress, "release it into the queue first")
	case len(w.BlockedBy) > 0:
		return refuse(CodeBlockedByDependencies, "work order %s waits for %s; complete or cancel them first", w.ID, strings.Join(w.BlockedBy, ", ")).
			with("id", w.ID).with("blocked_by", w.BlockedBy)
	case len(w.BlockedByAndons) > 0:
		return blockedByAndons("work order "+w.ID, w.BlockedByAndons).with("id", w.ID)
	case !CanMove(w.Status, StatusInProgress):
		return wrongMove(w, StatusInProgress, "it is not in the queue")
	}
	return nil
}

func blockedByAndons(what string, ids []string) *Error {
	return refuse(CodeBlockedByAndons, "%s is stopped by andon events %s; resolve them first", what, strings.Join(ids, ", ")).with("andon_event_ids", ids)
}

// ProgressWorkOrderInput reports a finished stage.
type ProgressWorkOrderInput struct {
	ID       string         `json:"id" jsonschema:"id of the work order in progress"`
	Stage    string         `json:"stage" jsonschema:"requirements, design, implementation, testing, integration or deployment"`
	Evidence map[string]any `json:"evidence,omitempty" jsonschema:"what the quality gate of the stage judges: implementation {errors}; testing {total_tests, passed_tests, coverage}; integration and deployment {artifact_exists, sbom_generated, licenses_compliant, dependencies_pinned, receipt_chain_complete}"`
}

// ProgressResult is a finished stage.
type ProgressResult struct {
	WorkOrder WorkOrder  `json:"work_order"`
	Gate      GateResult `json:"gate"`
	ReceiptID string     `json:"receipt_id"`
}

// ProgressWorkOrder records that an order in progress has finished a stage.
// Stages only go forward (they may be skipped). The quality gate of the stage
// judges the evidence: missing evidence is gate_not_run and changes nothing;
// failing evidence is gate_failed, and then a gate receipt and an andon event
// are recorded and the order is blocked until the event is resolved.
func (l *Ledger) ProgressWorkOrder(ctx context.Context, in ProgressWorkOrderInput) (ProgressResult, error) {
	stage, err := ParseWorkStage(in.Stage)
	if err != nil {
		return ProgressResult{}, err
	}
	if stage == WorkPublished {
		return ProgressResult{}, refuse(CodeInvalidStage, "an order reaches \"published\" by completing it").on("stage")
	}
	if err := checkMap("evidence", in.Evidence); err != nil {
		return ProgressResult{}, err
	}
	return mutate(ctx, l, "progress_work_order", in, func(o *op) (ProgressResult, error) {
		w, err := o.loadOrder(in.ID, CodeNotFound)
		if err != nil {
			return ProgressResult{}, err
		}
		if err := progressable(w, stage); err != nil {
			return ProgressResult{}, err
		}
		gate := CheckGate(gateOf(stage), in.Evidence)
		switch gate.Outcome {
		case GateNotRun:
			return ProgressResult{}, gateNotRun(w, stage, gate)
		case GateFailed:
			return ProgressResult{}, o.failGate(w, stage, gate, in.Evidence)
		}
		w.StagesCompleted = append(w.StagesCompleted, stage)
		w.CurrentStage = stage
		if err := o.receiptFor(w, &Receipt{
			ReceiptType: ReceiptStageCompleted, Stage: string(stage), Status: ReceiptPass, Evidence: in.Evidence,
			Details: map[string]any{"stage": string(stage), "gate": string(gate.Gate), "outcome": string(gate.Outcome)},
		}, "receipt-stage", 1); err != nil {
			return ProgressResult{}, err
		}
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return ProgressResult{}, err
		}
		return ProgressResult{*w, gate, w.Receipts[len(w.Receipts)-1]}, nil
	})
}

func progressable(w *WorkOrder, stage WorkStage) error {
	if len(w.BlockedByAndons) > 0 {
		return blockedByAndons("work order "+w.ID, w.BlockedByAndons).with("id", w.ID)
	}
	if w.Status != StatusInProgress {
		return refuse(CodeInvalidTransition, "work order %s is %s; only orders in progress finish stages, start it first", w.ID, w.Status).
			with("id", w.ID).with("from", string(w.Status))
	}
	if n := len(w.StagesCompleted); n > 0 && stage.index() <= w.StagesCompleted[n-1].index() {
		return refuse(CodeInvalidSequence, "work order %s has finished %s; %s does not come after it", w.ID, w.StagesCompleted[n-1], stage).
			on("stage").with("id", w.ID).with("current_stage", string(w.CurrentStage))
	}
	return nil
}

func gateNotRun(w *WorkOrder, stage WorkStage, g GateResult) *Error {
	required := map[string]any{}
	for k, v := range RequiredEvidence(g.Gate) {
		required[k] = v
	}
	return refuse(CodeGateNotRun, "stage %s of work order %s needs gate %s, and evidence for it is missing or malformed: %s", stage, w.ID, g.Gate, strings.Join(g.Missing, ", ")).
		on("evidence").with("gate", string(g.Gate)).with("missing", g.Missing).with("required", required)
}

// failGate records a failed gate and stops the line: receipt, andon event, order
// blocked. The refusal it returns lets the transaction commit.
func (o *op) failGate(w *WorkOrder, stage WorkStage, g GateResult, data map[string]any) error {
	details := map[string]any{"stage": string(stage), "gate": string(g.Gate), "violations": g.Violations}
	if err := o.receiptFor(w, &Receipt{ReceiptType: ReceiptGate, Stage: string(stage), Status: ReceiptFail, Evidence: data, Details: details}, "RCPT", 2); err != nil {
		return err
	}
	receipt := w.Receipts[len(w.Receipts)-1]
	if err := o.saveOrder(w, ActionUpdated); err != nil {
		return err
	}
	andonDetails := maps.Clone(details)
	andonDetails["reason"] = "quality gate " + string(g.Gate) + " failed: " + strings.Join(g.Violations, "; ")
	andonDetails["receipt_id"] = receipt
	// Before a SKU exists the order itself stands for the product.
	a, err := o.trigger(&Andon{
		FailureType: g.Gate.failure(), Severity: g.Gate.failure().severity(), SKUID: cmp.Or(w.SKUID, w.ID), Stage: andonStageOf(stage),
		DetectedBy: DetectedAutomated, ActionTaken: ActionProductionStopped, WorkOrderID: w.ID, Details: andonDetails,
	})
	if err != nil {
		return err
	}
	return recorded{refusal: refuse(CodeGateFailed, "gate %s of stage %s failed: %s. Andon %s was raised; fix the cause, resolve the event, start work order %s again and report the stage with new evidence",
		g.Gate, stage, strings.Join(g.Violations, "; "), a.EventID, w.ID).
		with("id", w.ID).with("gate", string(g.Gate)).with("violations", g.Violations).with("andon_event_id", a.EventID).with("receipt_id", receipt)}
}

// CompleteWorkOrderInput names the order and what it produced.
type CompleteWorkOrderInput struct {
	ID    string `json:"id" jsonschema:"id of the work order in progress"`
	SKUID string `json:"sku_id" jsonschema:"the product that was made"`
}

// CompleteWorkOrder finishes an order in progress: its WIP slot is free and the
// orders that wait for it may start. Refused while an andon event is open on the
// SKU (blocked_by_andons) or the newest receipt of any stage of the SKU or order
// is a failure (failed_receipts).
func (l *Ledger) CompleteWorkOrder(ctx context.Context, in CompleteWorkOrderInput) (WorkOrder, error) {
	if err := checkID("sku_id", in.SKUID); err != nil {
		return WorkOrder{}, err
	}
	return changeOrder(ctx, l, "complete_work_order", in, in.ID, func(o *op, w *WorkOrder) error {
		if err := o.completable(w, in.SKUID); err != nil {
			return err
		}
		w.SKUID = in.SKUID
		w.Status = StatusCompleted
		w.CompletedAt = o.at
		w.CurrentStage = WorkPublished
		if err := o.orderReceipt(w, ReceiptWorkOrderCompleted, "completion", map[string]any{
			"sku_id": w.SKUID, "lead_time_hours": hours(w.CompletedAt.Sub(w.CreatedAt)), "stages_completed": w.StagesCompleted,
		}); err != nil {
			return err
		}
		return o.freeDependents(w.ID)
	})
}

func (o *op) completable(w *WorkOrder, sku string) error {
	if len(w.BlockedByAndons) > 0 {
		return blockedByAndons("work order "+w.ID, w.BlockedByAndons).with("id", w.ID)
	}
	if w.Status != StatusInProgress {
		why := "only orders in progress can be completed; start it first"
		if w.Status.Final() {
			why = "that state is final"
		}
		return wrongMove(w, StatusCompleted, why)
	}
	if w.SKUID != "" && w.SKUID != sku {
		return refuse(CodeSKUMismatch, "work order %s makes SKU %s, not %s", w.ID, w.SKUID, sku).on("sku_id").with("sku_id", w.SKUID)
	}
	events, err := o.unresolvedOfSKU(sku)
	if err != nil {
		return err
	}
	var stopping []string
	for _, a := range events {
		if o.stops(a) {
			stopping = append(stopping, a.EventID)
		}
	}
	if len(stopping) > 0 {
		return blockedByAndons("SKU "+sku, stopping).with("id", w.ID)
	}
	failed, err := o.failedReceipts(sku, w.ID)
	if err != nil {
		return err
	}
	if len(failed) > 0 {
		return refuse(CodeFailedReceipts, "work order %s cannot be completed: the newest receipts %s report failures; repeat these stages and store passing receipts", w.ID, strings.Join(failed, ", ")).
			with("id", w.ID).with("receipt_ids", failed)
	}
	return nil
}

// failedReceipts returns the ids of receipts of a SKU or order that report a
// failure and have not been superseded by a later receipt of the same stage.
func (o *op) failedReceipts(sku, order string) ([]string, error) {
	newest := map[string]*Receipt{}
	for _, prefix := range []ikey{newKey(receiptSKU).text(sku), newKey(receiptOrder).text(order)} {
		list, err := collect[Receipt](o, indexReceipts, TableReceipts, engine.Prefix(prefix), nil)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			group := r.chain() + "/" + r.Stage
			if r.ReceiptType == ReceiptGate || r.ReceiptType == ReceiptStageCompleted {
				group = "work:" + r.WorkOrderID + "/" + r.Stage
			}
			if old := newest[group]; old == nil || old.Timestamp <= r.Timestamp {
				newest[group] = r
			}
		}
	}
	var failed []string
	for _, r := range newest {
		if r.Status.Bad() {
			failed = append(failed, r.ReceiptID)
		}
	}
	slices.Sort(failed)
	return failed, nil
}

// CancelWorkOrderInput names the order and the reason.
type CancelWorkOrderInput struct {
	ID     string `json:"id" jsonschema:"id of the work order"`
	Reason string `json:"reason" jsonschema:"why it will not be done"`
}

// CancelWorkOrder ends an order without a product: it leaves its queue or frees
// its WIP slot, and orders that wait for it may start.
func (l *Ledger) CancelWorkOrder(ctx context.Context, in CancelWorkOrderInput) (WorkOrder, error) {
	if err := needText("reason", in.Reason, maxTextBytes); err != nil {
		return WorkOrder{}, err
	}
	return changeOrder(ctx, l, "cancel_work_order", in, in.ID, func(o *op, w *WorkOrder) error {
		if !CanMove(w.Status, StatusCancelled) {
			return wrongMove(w, StatusCancelled, "that state is final")
		}
		from := w.Status
		w.Status = StatusCancelled
		w.CancelledAt = o.at
		w.CancellationReason = in.Reason
		w.BlockedBy, w.BlockedByAndons = nil, nil
		if err := o.orderReceipt(w, ReceiptWorkOrderCancelled, "cancellation", map[string]any{"reason": in.Reason, "status_before": string(from)}); err != nil {
			return err
		}
		return o.freeDependents(w.ID)
	})
}

// freeDependents tells the orders that wait for id that they need not any more.
func (o *op) freeDependents(id string) error {
	waiting, err := collect(o, indexWorkOrders, TableWorkOrders, engine.Prefix(newKey(woDependents).text(id)), func(w *WorkOrder) bool {
		return slices.Contains(w.BlockedBy, id)
	})
	if err != nil {
		return err
	}
	for _, w := range waiting {
		w.BlockedBy = remove(w.BlockedBy, id)
		w.settle()
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return err
		}
	}
	return nil
}

// DeleteWorkOrderInput names the order to remove.
type DeleteWorkOrderInput struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Deleted confirms a removal.
type Deleted struct {
	ID string `json:"id"`
}

// DeleteWorkOrder removes an order; its receipts and its history stay. Only with
// Options.AllowDelete, and not while other open orders depend on it.
func (l *Ledger) DeleteWorkOrder(ctx context.Context, in DeleteWorkOrderInput) (Deleted, error) {
	if !l.o.AllowDelete {
		return Deleted{}, refuse(CodeDeleteForbidden, "work orders are never deleted here; cancel it instead")
	}
	return mutate(ctx, l, "delete_work_order", in, func(o *op) (Deleted, error) {
		w, err := o.loadOrder(in.ID, CodeNotFound)
		if err != nil {
			return Deleted{}, err
		}
		waiting, err := o.count(indexWorkOrders, engine.Prefix(newKey(woDependents).text(w.ID)), 1)
		if err != nil {
			return Deleted{}, err
		}
		if waiting > 0 {
			return Deleted{}, refuse(CodeHasDependents, "other orders name %s as a dependency; it must stay", w.ID).with("id", w.ID)
		}
		if err := o.tx.Delete(TableWorkOrders, []byte(w.ID)); err != nil {
			return Deleted{}, err
		}
		return Deleted{w.ID}, o.logChange(EntityWorkOrder, w.ID, ActionDeleted, w.Revision+1)
	})
}
