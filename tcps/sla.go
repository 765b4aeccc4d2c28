package tcps

import (
	"context"
	"time"

	"github.com/erlmcp/erlmcp/engine"
)

// SLAState says how an order stands against its deadline.
type SLAState string

// The SLA states.
const (
	SLAOnTime   SLAState = "on_time"
	SLAWarning  SLAState = "warning" // less than a quarter of the SLA is left
	SLABreached SLAState = "breached"
)

// slaWarningShare is the part of the SLA below which the rest is a warning.
const slaWarningShare = 0.25

// SLAStatus is the standing of one order against its deadline.
type SLAStatus struct {
	WorkOrderID    string   `json:"work_order_id"`
	Bucket         Bucket   `json:"bucket"`
	Priority       int      `json:"priority"`
	Status         Status   `json:"status"`
	State          SLAState `json:"state"`
	Deadline       Time     `json:"deadline"`
	RemainingHours float64  `json:"remaining_hours"` // negative: hours over
	NoDeadline     bool     `json:"no_deadline"`     // the bucket has no SLA
}

// sla judges an order at a moment. Final orders are on time: they no longer wait.
func (w *WorkOrder) sla(now Time) SLAStatus {
	remaining := w.SLADeadline.Sub(now)
	s := SLAStatus{
		WorkOrderID: w.ID, Bucket: w.Bucket, Priority: w.Priority, Status: w.Status,
		State: SLAOnTime, Deadline: w.SLADeadline, RemainingHours: hours(remaining),
	}
	total := w.Bucket.rule().sla
	if total == slaNone {
		s.NoDeadline = true
	}
	switch {
	case w.Status.Final():
	case remaining < 0:
		s.State = SLABreached
	case !s.NoDeadline && float64(remaining) < slaWarningShare*float64(total):
		s.State = SLAWarning
	}
	return s
}

// CheckSLA returns the SLA standing of one order.
func (l *Ledger) CheckSLA(ctx context.Context, id string) (SLAStatus, error) {
	var s SLAStatus
	err := l.view(ctx, "check_sla", func(o *op) error {
		w, err := o.loadOrder(id, CodeNotFound)
		if err == nil {
			s = w.sla(o.at)
		}
		return err
	})
	return s, err
}

// SLAReport lists what is late and what soon will be, earliest deadline first,
// at most 1000 entries each.
type SLAReport struct {
	GeneratedAt Time        `json:"generated_at"`
	Breaches    []SLAStatus `json:"breaches"`
	Warnings    []SLAStatus `json:"warnings"`
}

// maxWarningHours is a century: beyond it lie only orders without a deadline.
const maxWarningHours = 100 * 365 * 24

// SLAReport returns the breached orders and those whose deadline is at most the
// given number of hours away. Only queued and running orders are listed.
func (l *Ledger) SLAReport(ctx context.Context, withinHours float64) (SLAReport, error) {
	if !(withinHours >= 0 && withinHours <= maxWarningHours) {
		return SLAReport{}, invalid("hours", "must be between 0 and %d", maxWarningHours)
	}
	rep := SLAReport{}
	err := l.view(ctx, "sla_report", func(o *op) error {
		rep.GeneratedAt = o.at
		now := o.at.Millis()
		var err error
		if rep.Breaches, err = o.deadlines(0, now); err != nil {
			return err
		}
		until := now + int64(withinHours*float64(time.Hour/time.Millisecond))
		rep.Warnings, err = o.deadlines(now, until+1)
		return err
	})
	return rep, err
}

// SLABreaches returns the queued and running orders past their deadline.
func (l *Ledger) SLABreaches(ctx context.Context) ([]SLAStatus, error) {
	r, err := l.SLAReport(ctx, 0)
	return r.Breaches, err
}

// SLAWarnings returns the queued and running orders whose deadline is at most
// the given number of hours away and not past.
func (l *Ledger) SLAWarnings(ctx context.Context, withinHours float64) ([]SLAStatus, error) {
	r, err := l.SLAReport(ctx, withinHours)
	return r.Warnings, err
}

// deadlines lists open orders with lo <= deadline < hi (unix ms).
func (o *op) deadlines(lo, hi int64) ([]SLAStatus, error) {
	out := []SLAStatus{}
	r := engine.Range{Lo: newKey(woDeadline).num(lo), Hi: newKey(woDeadline).num(hi), Limit: maxPage}
	list, err := collect[WorkOrder](o, indexWorkOrders, TableWorkOrders, r, nil)
	for _, w := range list {
		out = append(out, w.sla(o.at))
	}
	return out, err
}

// slaBreachSKU stands in for the product in the andon event of a late order.
const slaBreachSKU = "sla-breach"

// RaiseSLABreaches raises one andon event for every breached order of the
// security bucket that has none yet, and returns the new events. It is meant
// to be called periodically; a call without new breaches writes nothing.
func (l *Ledger) RaiseSLABreaches(ctx context.Context) ([]Andon, error) {
	return mutate(ctx, l, "raise_sla_breaches", nil, func(o *op) ([]Andon, error) {
		events := []Andon{}
		r := engine.Range{Lo: newKey(woDeadline).num(0), Hi: newKey(woDeadline).num(o.at.Millis())}
		late, err := collect(o, indexWorkOrders, TableWorkOrders, r, func(w *WorkOrder) bool {
			return w.Bucket == BucketSecurity && w.SLAAndonID == ""
		})
		if err != nil {
			return nil, err
		}
		for _, found := range late[:min(len(late), maxPage)] {
			w, err := o.loadOrder(found.ID, CodeNotFound) // afresh: an earlier round may have touched it
			if err != nil {
				return nil, err
			}
			s := w.sla(o.at)
			a, err := o.trigger(&Andon{
				FailureType: FailureMissingReceipt, Severity: FailureMissingReceipt.severity(), SKUID: slaBreachSKU, Stage: AndonExecution,
				DetectedBy: DetectedAutomated, ActionTaken: ActionNotifyTeam, RelatedWorkOrderID: w.ID,
				Details: map[string]any{"reason": "SLA breached", "work_order_id": w.ID, "deadline": string(w.SLADeadline), "hours_over": -s.RemainingHours},
			})
			if err != nil {
				return nil, err
			}
			w.SLAAndonID = a.EventID
			if err := o.saveOrder(w, ActionUpdated); err != nil {
				return nil, err
			}
			events = append(events, *a)
		}
		return events, nil
	})
}
