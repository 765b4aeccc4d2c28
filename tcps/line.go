package tcps

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/engine"
)

// TriggerAndonInput describes a defect.
type TriggerAndonInput struct {
	FailureType string         `json:"failure_type" jsonschema:"shacl_violation, test_failure, non_determinism, missing_receipt, compilation_failure, security_vulnerability, performance_regression or build_timeout"`
	SKUID       string         `json:"sku_id" jsonschema:"the product that is stopped"`
	Stage       string         `json:"stage" jsonschema:"compilation, testing, validation, execution, integration or deployment"`
	Severity    string         `json:"severity,omitempty" jsonschema:"critical, high, medium or low; default by failure type"`
	WorkOrderID string         `json:"work_order_id,omitempty" jsonschema:"the order in which the defect was found; it is stopped too"`
	Details     map[string]any `json:"details,omitempty" jsonschema:"what happened"`
	Metadata    map[string]any `json:"metadata,omitempty"`
	DetectedBy  string         `json:"detected_by,omitempty" jsonschema:"AUTOMATED (default) or HUMAN"`
	ActionTaken string         `json:"action_taken,omitempty" jsonschema:"PRODUCTION_STOPPED (default), QUARANTINE, NOTIFY_TEAM or ROLLBACK"`
	AssignedTo  string         `json:"assigned_to,omitempty"`
}

func (in TriggerAndonInput) event() (*Andon, error) {
	a := &Andon{
		SKUID: in.SKUID, WorkOrderID: in.WorkOrderID, Details: in.Details, Metadata: in.Metadata,
		DetectedBy: DetectedAutomated, ActionTaken: ActionProductionStopped, AssignedTo: in.AssignedTo,
	}
	var err error
	if a.FailureType, err = ParseFailureType(in.FailureType); err != nil {
		return nil, err
	}
	if err := checkID("sku_id", in.SKUID); err != nil {
		return nil, err
	}
	if a.Stage, err = ParseAndonStage(in.Stage); err != nil {
		return nil, err
	}
	a.Severity = a.FailureType.severity()
	if in.Severity != "" {
		if a.Severity, err = ParseSeverity(in.Severity); err != nil {
			return nil, err
		}
	}
	if in.WorkOrderID != "" {
		if err := checkID("work_order_id", in.WorkOrderID); err != nil {
			return nil, err
		}
	}
	if in.DetectedBy != "" {
		if a.DetectedBy, err = oneOf("detected_by", in.DetectedBy, DetectedAutomated, DetectedHuman); err != nil {
			return nil, err
		}
	}
	if in.ActionTaken != "" {
		if a.ActionTaken, err = oneOf("action_taken", in.ActionTaken, ActionProductionStopped, ActionQuarantine, ActionNotifyTeam, ActionRollback); err != nil {
			return nil, err
		}
	}
	if err := checkMap("details", in.Details); err != nil {
		return nil, err
	}
	if err := checkMap("metadata", in.Metadata); err != nil {
		return nil, err
	}
	return a, checkText("assigned_to", in.AssignedTo, 200)
}

// oneOf accepts one of the given upper-case words in any spelling.
func oneOf(field, s string, words ...string) (string, error) {
	u := strings.ToUpper(snake(s))
	if slices.Contains(words, u) {
		return u, nil
	}
	return "", invalid(field, "%q is not one of %s", s, strings.Join(words, ", "))
}

// TriggerAndon stops the line for a SKU: its queued and running orders, and the
// order named in the input, are blocked until the event is resolved. Writes a
// receipt.
func (l *Ledger) TriggerAndon(ctx context.Context, in TriggerAndonInput) (Andon, error) {
	if _, err := in.event(); err != nil {
		return Andon{}, err
	}
	return mutate(ctx, l, "trigger_andon", in, func(o *op) (Andon, error) {
		event, err := in.event() // a new one for each try of the transaction
		if err != nil {
			return Andon{}, err
		}
		a, err := o.trigger(event)
		if err != nil {
			return Andon{}, err
		}
		return *a, nil
	})
}

// trigger stores a new event with its receipt and blocks the orders it stops.
func (o *op) trigger(a *Andon) (*Andon, error) {
	id, err := o.freshID(TableAndons, "ANDON", 2)
	if err != nil {
		return nil, err
	}
	a.EventID, a.Timestamp, a.UpdatedAt, a.Status = id, o.at, o.at, AndonOpen
	a.Quarantined = a.Severity.Quarantines()
	stopped, err := o.ordersOf(a)
	if err != nil {
		return nil, err
	}
	if err := o.andonReceipt(a, ReceiptAndonEvent, ReceiptOpen); err != nil {
		return nil, err
	}
	a.Revision = 1
	if err := o.save(TableAndons, id, a, EntityAndon, ActionCreated, a.Revision); err != nil {
		return nil, err
	}
	if !o.stops(a) {
		return a, nil
	}
	for _, w := range stopped {
		w.BlockedByAndons = include(w.BlockedByAndons, id)
		w.settle()
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// ordersOf returns the open orders an event concerns: those of its SKU and the
// one it names, without the related one.
func (o *op) ordersOf(a *Andon) ([]*WorkOrder, error) {
	list, err := collect(o, indexWorkOrders, TableWorkOrders, engine.Prefix(newKey(woSKU).text(a.SKUID)), func(w *WorkOrder) bool {
		return w.ID != a.RelatedWorkOrderID
	})
	if err != nil || a.WorkOrderID == "" {
		return list, err
	}
	if slices.ContainsFunc(list, func(w *WorkOrder) bool { return w.ID == a.WorkOrderID }) {
		return list, nil
	}
	w, err := o.loadOrder(a.WorkOrderID, CodeWorkOrderNotFound)
	if err != nil {
		return nil, err
	}
	if w.open() {
		list = append(list, w)
	}
	return list, nil
}

func (o *op) andonReceipt(a *Andon, t ReceiptType, s ReceiptStatus) error {
	details := map[string]any{"failure_type": string(a.FailureType), "severity": string(a.Severity), "details": a.Details}
	if a.Resolution != nil {
		details["resolution"] = a.Resolution
	}
	r := &Receipt{
		ReceiptType: t, Stage: string(a.Stage), Status: s, SKUID: a.SKUID, WorkOrderID: a.WorkOrderID, AndonEventID: a.EventID, Details: details,
		OntologyRefs: []string{"tcps:AndonEvent", "tcps:" + string(a.FailureType), "tcps:" + string(a.Stage), "tcps:StopTheLine"},
	}
	if err := o.addReceipt(r, "RCPT", 2); err != nil {
		return err
	}
	a.Receipts = append(a.Receipts, r.ReceiptID)
	return nil
}

// changeAndon is a mutation of one event.
func changeAndon(ctx context.Context, l *Ledger, name string, input any, id string, action Action, fn func(o *op, a *Andon) error) (Andon, error) {
	return mutate(ctx, l, name, input, func(o *op) (Andon, error) {
		a, err := o.loadAndon(id)
		if err != nil {
			return Andon{}, err
		}
		if err := fn(o, a); err != nil {
			return Andon{}, err
		}
		a.Revision++
		a.UpdatedAt = o.at
		if err := o.save(TableAndons, a.EventID, a, EntityAndon, action, a.Revision); err != nil {
			return Andon{}, err
		}
		return *a, nil
	})
}

func (o *op) loadAndon(id string) (*Andon, error) {
	if err := checkID("event_id", id); err != nil {
		return nil, err
	}
	a := new(Andon)
	if err := o.load(TableAndons, id, a, CodeAndonNotFound, "andon event"); err != nil {
		return nil, err
	}
	return a, nil
}

// AcknowledgeAndonInput says who looks into an event.
type AcknowledgeAndonInput struct {
	EventID             string `json:"event_id"`
	AssignedTo          string `json:"assigned_to" jsonschema:"who investigates"`
	EstimatedResolution Time   `json:"estimated_resolution,omitempty" jsonschema:"when it is expected to be resolved, e.g. 2026-01-26T10:00:00Z"`
}

// AcknowledgeAndon takes an open event under investigation. The line stays
// stopped. Errors: andon_not_found, already_acknowledged, already_resolved.
func (l *Ledger) AcknowledgeAndon(ctx context.Context, in AcknowledgeAndonInput) (Andon, error) {
	if err := needText("assigned_to", in.AssignedTo, 200); err != nil {
		return Andon{}, err
	}
	estimate := in.EstimatedResolution
	if !estimate.IsZero() {
		var err error
		if estimate, err = ParseTime(string(estimate)); err != nil {
			return Andon{}, invalid("estimated_resolution", "is not readable: %v", err)
		}
	}
	return changeAndon(ctx, l, "acknowledge_andon", in, in.EventID, ActionUpdated, func(o *op, a *Andon) error {
		switch {
		case !a.Status.Unresolved():
			return alreadyResolved(a)
		case a.Status == AndonInvestigating:
			return refuse(CodeAlreadyAcknowledged, "andon %s is already investigated by %s", a.EventID, a.AssignedTo).with("event_id", a.EventID).with("assigned_to", a.AssignedTo)
		}
		a.Status = AndonInvestigating
		a.AcknowledgedAt = o.at
		a.AssignedTo, a.EstimatedResolution = in.AssignedTo, estimate
		return nil
	})
}

func alreadyResolved(a *Andon) *Error {
	return refuse(CodeAlreadyResolved, "andon %s is already %s", a.EventID, a.Status).with("event_id", a.EventID).with("status", string(a.Status))
}

// ResolveAndonInput says what was wrong and what was done about it.
type ResolveAndonInput struct {
	EventID               string `json:"event_id"`
	RootCause             string `json:"root_cause" jsonschema:"why it happened"`
	FixApplied            string `json:"fix_applied" jsonschema:"what was changed"`
	PreventionAdded       string `json:"prevention_added" jsonschema:"what keeps it from happening again"`
	FixVerified           bool   `json:"fix_verified,omitempty" jsonschema:"the fix was checked; required for critical and high"`
	RCAID                 string `json:"rca_id,omitempty" jsonschema:"id of the finished root cause analysis; required for critical and high"`
	Resolver              string `json:"resolver,omitempty" jsonschema:"who resolved it; required for critical and not \"system\" then; default system"`
	ResolutionTimeMinutes *int64 `json:"resolution_time_minutes,omitempty" jsonschema:"default: from trigger to now"`
}

func (in ResolveAndonInput) check() error {
	for _, f := range []struct{ name, value string }{
		{"root_cause", in.RootCause}, {"fix_applied", in.FixApplied}, {"prevention_added", in.PreventionAdded},
	} {
		if err := needText(f.name, f.value, maxTextBytes); err != nil {
			return err
		}
	}
	if in.RCAID != "" {
		if err := checkID("rca_id", in.RCAID); err != nil {
			return err
		}
	}
	if in.ResolutionTimeMinutes != nil && (*in.ResolutionTimeMinutes < 0 || *in.ResolutionTimeMinutes > maxExactInt) {
		return invalid("resolution_time_minutes", "must not be negative")
	}
	return checkText("resolver", in.Resolver, 200)
}

// need applies the rules that depend on the severity of the event.
func (in ResolveAndonInput) need(a *Andon) error {
	if !a.Severity.Quarantines() {
		return nil
	}
	if in.RCAID == "" {
		return refuse(CodeRCARequired, "andon %s is %s: it needs a finished root cause analysis (five whys); give its id in rca_id", a.EventID, a.Severity).
			on("rca_id").with("event_id", a.EventID).with("severity", string(a.Severity))
	}
	if !in.FixVerified {
		return invalid("fix_verified", "must be true for a %s event: verify the fix before resolving", a.Severity)
	}
	if a.Severity != SeverityCritical {
		return nil
	}
	if strings.TrimSpace(in.Resolver) == "" {
		return missing("resolver")
	}
	if strings.EqualFold(strings.TrimSpace(in.Resolver), systemActor) {
		return invalid("resolver", "must name who takes responsibility; a critical event is not resolved by %q", systemActor)
	}
	return nil
}

// ResolveAndon resolves an event: its SKU is released, and orders it alone held
// back return to their queues. Writes a receipt. Errors: andon_not_found,
// already_resolved, missing_required_field, invalid_field, rca_required.
func (l *Ledger) ResolveAndon(ctx context.Context, in ResolveAndonInput) (Andon, error) {
	if err := in.check(); err != nil {
		return Andon{}, err
	}
	return changeAndon(ctx, l, "resolve_andon", in, in.EventID, ActionResolved, func(o *op, a *Andon) error {
		if !a.Status.Unresolved() {
			return alreadyResolved(a)
		}
		if err := in.need(a); err != nil {
			return err
		}
		minutes := max(0, o.at.Sub(a.Timestamp).Milliseconds()/time.Minute.Milliseconds())
		if in.ResolutionTimeMinutes != nil {
			minutes = *in.ResolutionTimeMinutes
		}
		resolver := strings.TrimSpace(in.Resolver)
		if resolver == "" {
			resolver = systemActor
		}
		a.Status, a.ResolutionTimestamp, a.RCAID, a.Quarantined = AndonResolved, o.at, in.RCAID, false
		a.Resolution = &Resolution{
			RootCause: in.RootCause, FixApplied: in.FixApplied, PreventionAdded: in.PreventionAdded,
			FixVerified: in.FixVerified, Resolver: resolver, ResolutionTimeMinutes: minutes,
		}
		if err := o.andonReceipt(a, ReceiptResolution, ReceiptResolved); err != nil {
			return err
		}
		return o.releaseOrders(a.EventID)
	})
}

// releaseOrders lets the orders go that an event held back.
func (o *op) releaseOrders(event string) error {
	held, err := collect[WorkOrder](o, indexWorkOrders, TableWorkOrders, engine.Prefix(newKey(woAndon).text(event)), nil)
	if err != nil {
		return err
	}
	for _, w := range held {
		w.BlockedByAndons = remove(w.BlockedByAndons, event)
		w.settle()
		if err := o.saveOrder(w, ActionUpdated); err != nil {
			return err
		}
	}
	return nil
}

// CloseAndonInput names a resolved event.
type CloseAndonInput struct {
	EventID string `json:"event_id"`
}

// CloseAndon files a resolved event. Errors: andon_not_found, not_resolved,
// already_closed.
func (l *Ledger) CloseAndon(ctx context.Context, in CloseAndonInput) (Andon, error) {
	return changeAndon(ctx, l, "close_andon", in, in.EventID, ActionUpdated, func(o *op, a *Andon) error {
		switch {
		case a.Status.Unresolved():
			return refuse(CodeNotResolved, "andon %s is %s; resolve it before closing it", a.EventID, a.Status).with("event_id", a.EventID)
		case a.Status == AndonClosed:
			return refuse(CodeAlreadyClosed, "andon %s is already closed", a.EventID).with("event_id", a.EventID)
		}
		a.Status, a.ClosedAt = AndonClosed, o.at
		return nil
	})
}
