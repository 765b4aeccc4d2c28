package tcps

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/erlmcp/erlmcp/engine"
)

// ReportInput is a period; empty ends mean the last 30 days until now.
type ReportInput struct {
	From Time `json:"from,omitempty" jsonschema:"start, inclusive; default 30 days before the end"`
	To   Time `json:"to,omitempty" jsonschema:"end, exclusive; default now"`
}

// Report sums up a period. Totals by bucket and status are of the orders created
// in it, everything about finishing is of the orders finished in it.
type Report struct {
	From              Time           `json:"from"`
	To                Time           `json:"to"`
	TotalWorkOrders   int            `json:"total_work_orders"`
	ByBucket          map[string]int `json:"by_bucket"`
	ByStatus          map[string]int `json:"by_status"`
	Completed         int            `json:"completed"`
	Cancelled         int            `json:"cancelled"`
	AverageLeadTime   float64        `json:"average_lead_time"`   // hours from creation to completion
	SLAComplianceRate float64        `json:"sla_compliance_rate"` // percent of completed orders with an SLA that met it; 100 if there are none
	ThroughputPerDay  float64        `json:"throughput_per_day"`  // completed orders per day, both ends counted
	TopPriorities     []WorkOrder    `json:"top_priorities"`      // the ten most urgent open orders, now
}

// reportPeriod is the default length of a report, maxReportPeriod the longest.
const (
	reportPeriod    = 30 * 24 * time.Hour
	maxReportPeriod = 10 * 366 * 24 * time.Hour
)

// Report sums up a period of at most ten years.
func (l *Ledger) Report(ctx context.Context, in ReportInput) (Report, error) {
	var rep Report
	for _, f := range []struct {
		name string
		t    *Time
	}{{"from", &in.From}, {"to", &in.To}} {
		if !f.t.IsZero() {
			t, err := ParseTime(string(*f.t))
			if err != nil {
				return rep, invalid(f.name, "is not readable: %v", err)
			}
			*f.t = t
		}
	}
	err := l.view(ctx, "report", func(o *op) error {
		rep = Report{From: in.From, To: cmp.Or(in.To, TimeOfMillis(o.at.Millis()+1)), ByBucket: map[string]int{}, ByStatus: map[string]int{}, TopPriorities: []WorkOrder{}}
		if rep.From.IsZero() {
			rep.From = TimeOf(rep.To.Time().Add(-reportPeriod))
		}
		if rep.From >= rep.To || rep.To.Time().Sub(rep.From.Time()) > maxReportPeriod {
			return invalid("from", "must be before \"to\" and at most ten years back")
		}
		if err := o.reportCreated(&rep); err != nil {
			return err
		}
		if err := o.reportFinished(&rep); err != nil {
			return err
		}
		return o.reportTop(&rep)
	})
	return rep, err
}

func (o *op) reportCreated(rep *Report) error {
	for _, s := range Statuses() {
		for _, b := range Buckets() {
			prefix := newKey(woList).text(string(s)).text(string(b))
			r := engine.Range{Lo: slices.Clone(prefix).num(rep.From.Millis()), Hi: slices.Clone(prefix).num(rep.To.Millis())}
			n, err := o.count(indexWorkOrders, r, 0)
			if err != nil {
				return err
			}
			rep.TotalWorkOrders += n
			if n > 0 {
				rep.ByBucket[string(b)] += n
				rep.ByStatus[string(s)] += n
			}
		}
	}
	return nil
}

func (o *op) reportFinished(rep *Report) error {
	r := engine.Range{Lo: newKey(woFinished).num(rep.From.Millis()), Hi: newKey(woFinished).num(rep.To.Millis())}
	var lead float64
	withSLA, met := 0, 0
	var failed error
	err := o.tx.ScanIndex(indexWorkOrders, r, func(_, key, value []byte) bool {
		w := new(WorkOrder)
		if failed = openAt(TableWorkOrders, string(key), value, w); failed != nil {
			return false
		}
		if w.Status == StatusCancelled {
			rep.Cancelled++
			return true
		}
		rep.Completed++
		lead += hours(w.CompletedAt.Sub(w.CreatedAt))
		if w.Bucket.rule().sla != slaNone {
			withSLA++
			if w.CompletedAt <= w.SLADeadline {
				met++
			}
		}
		return true
	})
	if err = cmp.Or(err, failed); err != nil {
		return err
	}
	rep.SLAComplianceRate = 100
	if withSLA > 0 {
		rep.SLAComplianceRate = 100 * float64(met) / float64(withSLA)
	}
	if rep.Completed > 0 {
		rep.AverageLeadTime = lead / float64(rep.Completed)
		first := rep.From.Time().Truncate(24 * time.Hour)
		last := TimeOfMillis(rep.To.Millis() - 1).Time().Truncate(24 * time.Hour)
		rep.ThroughputPerDay = float64(rep.Completed) / (last.Sub(first).Hours()/24 + 1)
	}
	return nil
}

// reportTop collects the most urgent open orders: the heads of the queues, what
// runs and what is blocked (newest thousand per bucket).
func (o *op) reportTop(rep *Report) error {
	const top = 10
	var open []*WorkOrder
	for _, b := range Buckets() {
		for _, part := range []struct {
			prefix ikey
			limit  int
		}{
			{newKey(woQueue).text(string(b)), top},
			{newKey(woRunning).text(string(b)), maxPage},
			{newKey(woList).text(string(StatusBlocked)).text(string(b)), maxPage},
		} {
			r := engine.Prefix(part.prefix)
			r.Limit = part.limit
			list, err := collect[WorkOrder](o, indexWorkOrders, TableWorkOrders, r, nil)
			if err != nil {
				return err
			}
			open = append(open, list...)
		}
	}
	slices.SortFunc(open, func(x, y *WorkOrder) int {
		return cmp.Or(cmp.Compare(y.Priority, x.Priority), cmp.Compare(x.CreatedAt, y.CreatedAt), cmp.Compare(x.ID, y.ID))
	})
	for _, w := range open[:min(len(open), top)] {
		rep.TopPriorities = append(rep.TopPriorities, *w)
	}
	return nil
}

// Metrics are the present gauges of the line.
type Metrics struct {
	At                  Time           `json:"at"`
	WorkInProgress      []WIP          `json:"work_in_progress"`
	QueueDepthByBucket  map[string]int `json:"queue_depth_by_bucket"`
	Queued              int            `json:"queued"`
	Blocked             int            `json:"blocked"`
	Pending             int            `json:"pending"`
	OpenAndons          int            `json:"open_andons"`
	OpenBySeverity      map[string]int `json:"open_andons_by_severity"`
	OldestOpenAndonTime Time           `json:"oldest_open_andon,omitempty"`
	SLABreaches         int            `json:"sla_breaches"`
	LogIndex            uint64         `json:"log_index"` // newest applied change
}

// Metrics reads the gauges from one moment.
func (l *Ledger) Metrics(ctx context.Context) (Metrics, error) {
	m := Metrics{WorkInProgress: []WIP{}, QueueDepthByBucket: map[string]int{}, OpenBySeverity: map[string]int{}}
	err := l.view(ctx, "metrics", func(o *op) error {
		m.At, m.LogIndex = o.at, l.store.AppliedIndex()
		for _, b := range Buckets() {
			w, err := o.wip(b, countAll)
			if err != nil {
				return err
			}
			m.WorkInProgress = append(m.WorkInProgress, w)
			depth, err := o.count(indexWorkOrders, queueRange(b), 0)
			if err != nil {
				return err
			}
			m.QueueDepthByBucket[string(b)] = depth
			m.Queued += depth
		}
		var err error
		for _, c := range []struct {
			to *int
			r  engine.Range
		}{
			{&m.Blocked, engine.Prefix(newKey(woList).text(string(StatusBlocked)))},
			{&m.Pending, engine.Prefix(newKey(woList).text(string(StatusPending)))},
			{&m.SLABreaches, engine.Range{Lo: newKey(woDeadline).num(0), Hi: newKey(woDeadline).num(o.at.Millis())}},
		} {
			if *c.to, err = o.count(indexWorkOrders, c.r, 0); err != nil {
				return err
			}
		}
		return o.andonGauges(&m)
	})
	return m, err
}

func (o *op) andonGauges(m *Metrics) error {
	for _, s := range AndonStatuses() {
		if !s.Unresolved() {
			continue
		}
		list, err := collect[Andon](o, indexAndons, TableAndons, engine.Prefix(newKey(andonStatus).text(string(s))), nil)
		if err != nil {
			return err
		}
		for _, a := range list {
			m.OpenAndons++
			m.OpenBySeverity[string(a.Severity)]++
			if m.OldestOpenAndonTime.IsZero() || a.Timestamp < m.OldestOpenAndonTime {
				m.OldestOpenAndonTime = a.Timestamp
			}
		}
	}
	return nil
}
