package tcps_test

import (
	"slices"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

func priority(p int) func(*tcps.CreateWorkOrderInput) {
	return func(in *tcps.CreateWorkOrderInput) { in.Priority = p }
}

func (b *bench) queued(bucket tcps.Bucket) []string {
	b.t.Helper()
	q, err := b.Queue(b.ctx, string(bucket))
	require.NoError(b.t, err)
	require.Equal(b.t, len(q.WorkOrders), q.Depth)
	ids := []string{}
	for _, w := range q.WorkOrders {
		ids = append(ids, w.ID)
	}
	return ids
}

func TestQueueIsByPriorityThenFirstInFirstOut(t *testing.T) {
	b := start(t)
	low1, high1, low2, high2 := b.order(tcps.BucketFeatures, priority(2)), b.order(tcps.BucketFeatures, priority(6)), b.order(tcps.BucketFeatures, priority(2)), b.order(tcps.BucketFeatures, priority(9))
	require.Equal(t, 6, high2.Priority, "clamped into the range of the bucket")
	b.order(tcps.BucketCost)
	want := []string{high1.ID, high2.ID, low1.ID, low2.ID}
	require.Equal(t, want, b.queued(tcps.BucketFeatures))
	b.restart()
	require.Equal(t, want, b.queued(tcps.BucketFeatures))
	_, err := b.Queue(b.ctx, "kitchen")
	refused(t, err, tcps.CodeInvalidBucket, "bucket")
}

func TestDequeueTakesTheHeadAndSkipsBlockedOrders(t *testing.T) {
	b := start(t)
	r, err := b.DequeueNext(b.ctx, tcps.DequeueNextInput{Bucket: "security"})
	require.NoError(t, err)
	require.Equal(t, tcps.DequeueEmpty, r.Outcome)

	dep := b.order(tcps.BucketCost)
	b.order(tcps.BucketSecurity, priority(10), func(in *tcps.CreateWorkOrderInput) { in.Dependencies = []string{dep.ID} })
	second := b.order(tcps.BucketSecurity, priority(8))
	first := b.order(tcps.BucketSecurity, priority(9))
	for i, want := range []string{first.ID, second.ID} {
		r, err := b.DequeueNext(b.ctx, tcps.DequeueNextInput{Bucket: "security", AssignedTo: "kim"})
		require.NoError(t, err)
		require.Equal(t, tcps.DequeueOrder, r.Outcome)
		require.Equal(t, want, r.WorkOrder.ID)
		require.Equal(t, "kim", r.WorkOrder.AssignedTo)
		require.Equal(t, tcps.StatusInProgress, r.WorkOrder.Status)
		require.Equal(t, i+1, r.WIP.Current)
	}
	r, err = b.DequeueNext(b.ctx, tcps.DequeueNextInput{Bucket: "security"})
	require.NoError(t, err)
	require.Equal(t, tcps.DequeueEmpty, r.Outcome)

	_, err = b.SetWIPLimit(b.ctx, tcps.SetWIPLimitInput{Bucket: "security", Limit: 2})
	require.NoError(t, err)
	b.order(tcps.BucketSecurity)
	r, err = b.DequeueNext(b.ctx, tcps.DequeueNextInput{Bucket: "security"})
	require.NoError(t, err)
	require.Equal(t, tcps.DequeueWIPLimit, r.Outcome)
	require.Nil(t, r.WorkOrder)
	b.sound()
}

func TestReorderQueueNeedsAPermutation(t *testing.T) {
	b := start(t)
	a, c, d := b.order(tcps.BucketCost), b.order(tcps.BucketCost), b.order(tcps.BucketCost, priority(7))
	other := b.order(tcps.BucketFeatures)
	for name, ids := range map[string][]string{
		"empty": {}, "one missing": {a.ID, c.ID}, "one twice": {a.ID, c.ID, c.ID}, "one from elsewhere": {a.ID, c.ID, other.ID},
		"one too many": {a.ID, c.ID, d.ID, other.ID},
	} {
		_, err := b.ReorderQueue(b.ctx, tcps.ReorderQueueInput{Bucket: "cost", IDs: ids})
		e := refused(t, err, tcps.CodeInvalidQueueOrder, "ids")
		require.Equal(t, []string{d.ID, a.ID, c.ID}, e.Details["queued"], name)
	}
	want := []string{c.ID, d.ID, a.ID}
	_, err := b.ReorderQueue(b.ctx, tcps.ReorderQueueInput{Bucket: "cost", IDs: want})
	require.NoError(t, err)
	require.Equal(t, want, b.queued(tcps.BucketCost))
	b.clock.advance(time.Minute)
	late, urgent := b.order(tcps.BucketCost), b.order(tcps.BucketCost, priority(7))
	require.Equal(t, []string{c.ID, urgent.ID, d.ID, a.ID, late.ID}, b.queued(tcps.BucketCost), "later arrivals find their place by priority")

	// Every permutation is reachable, also among orders of one moment.
	ids := b.queued(tcps.BucketCost)
	for range 20 {
		ids[0], ids[1], ids[2], ids[3], ids[4] = ids[3], ids[0], ids[4], ids[2], ids[1]
		_, err := b.ReorderQueue(b.ctx, tcps.ReorderQueueInput{Bucket: "cost", IDs: ids})
		require.NoError(t, err)
		require.Equal(t, ids, b.queued(tcps.BucketCost))
	}
	b.sound()
}

func TestWIPLimitsAreKept(t *testing.T) {
	b := start(t)
	for _, w := range mustAll(b) {
		want := 5
		if w.Bucket == tcps.BucketFeatures {
			want = 10
		}
		require.Equal(t, tcps.WIP{Bucket: w.Bucket, Limit: want, Available: want}, w)
	}
	for range 5 {
		b.running(tcps.BucketCost)
	}
	w := b.order(tcps.BucketCost)
	_, err := b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: w.ID})
	e := refused(t, err, tcps.CodeWIPLimit, "")
	require.Equal(t, 5, e.Details["limit"])
	require.Equal(t, []string{w.ID}, b.queued(tcps.BucketCost))
	got, err := b.WIP(b.ctx, "cost")
	require.NoError(t, err)
	require.Equal(t, tcps.WIP{Bucket: tcps.BucketCost, Limit: 5, Current: 5, Utilization: 1}, got)

	got, err = b.SetWIPLimit(b.ctx, tcps.SetWIPLimitInput{Bucket: "cost", Limit: 2})
	require.NoError(t, err, "a limit below the load is allowed")
	require.Equal(t, tcps.WIP{Bucket: tcps.BucketCost, Limit: 2, Current: 5, Utilization: 2.5}, got)
	got, err = b.SetWIPLimit(b.ctx, tcps.SetWIPLimitInput{Bucket: "cost", Unlimited: true})
	require.NoError(t, err)
	require.Equal(t, tcps.WIP{Bucket: tcps.BucketCost, Unlimited: true, Current: 5}, got)
	b.begin(w.ID)
	b.restart()
	got, err = b.SetWIPLimit(b.ctx, tcps.SetWIPLimitInput{Bucket: "cost", Limit: 0})
	require.NoError(t, err)
	require.Equal(t, tcps.WIP{Bucket: tcps.BucketCost, Current: 6}, got, "a closed bucket has utilization 0")
	_, err = b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: b.order(tcps.BucketCost).ID})
	refused(t, err, tcps.CodeWIPLimit, "")

	h, err := b.History(b.ctx, tcps.EntityKanban, "cost", 0)
	require.NoError(t, err)
	require.Len(t, h, 3)
	require.Equal(t, tcps.ActionCreated, h[2].Action)

	for in, want := range map[tcps.SetWIPLimitInput][2]string{
		{}: {"missing_bucket", "bucket"}, {Bucket: "kitchen"}: {"invalid_bucket", "bucket"}, {Bucket: "cost", Limit: -1}: {"invalid_field", "limit"},
		{Bucket: "cost", Limit: 10_001}: {"invalid_field", "limit"}, {Bucket: "cost", Limit: 3, Unlimited: true}: {"invalid_field", "limit"},
	} {
		_, err := b.SetWIPLimit(b.ctx, in)
		refused(t, err, tcps.Code(want[0]), want[1])
	}
	b.sound()
}

func mustAll(b *bench) []tcps.WIP {
	all, err := b.WIPAll(b.ctx)
	require.NoError(b.t, err)
	return all
}

func TestConfiguredWIPLimitsReplaceTheDefaults(t *testing.T) {
	b := startWith(t, tcps.Options{WIPLimits: map[tcps.Bucket]int{tcps.BucketCost: 1, tcps.BucketFeatures: -1}})
	all := mustAll(b)
	i := slices.IndexFunc(all, func(w tcps.WIP) bool { return w.Bucket == tcps.BucketCost })
	require.Equal(t, 1, all[i].Limit)
	i = slices.IndexFunc(all, func(w tcps.WIP) bool { return w.Bucket == tcps.BucketFeatures })
	require.True(t, all[i].Unlimited)
	for range 12 {
		b.running(tcps.BucketFeatures)
	}
	_, err := tcps.New(b.store, tcps.Options{WIPLimits: map[tcps.Bucket]int{"kitchen": 1}})
	require.ErrorIs(t, err, tcps.ErrInvalidBucket)
}

func TestPullSignalsGoStraightIntoProgress(t *testing.T) {
	b := start(t)
	payload := map[string]any{"source": "line 3", "description": "more bolts"}
	for in, want := range map[*tcps.KanbanSignalInput][2]string{
		{Payload: payload}:                                        {"missing_bucket", "bucket"},
		{Bucket: "kitchen", Payload: payload}:                     {"invalid_bucket", "bucket"},
		{Bucket: "cost"}:                                          {"missing_payload", "payload"},
		{Bucket: "cost", Payload: map[string]any{"n": 1<<60 + 1}}: {"invalid_payload", "payload"},
	} {
		_, err := b.ProcessPullSignal(b.ctx, *in)
		refused(t, err, tcps.Code(want[0]), want[1])
	}
	for range 5 {
		w, err := b.ProcessPullSignal(b.ctx, tcps.KanbanSignalInput{Bucket: "cost", Payload: payload})
		require.NoError(t, err)
		require.Equal(t, tcps.StatusInProgress, w.Status)
		require.Equal(t, "line 3", w.DemandSignal)
		require.Len(t, w.Receipts, 2)
	}
	_, err := b.ProcessPullSignal(b.ctx, tcps.KanbanSignalInput{Bucket: "cost", Payload: payload})
	e := refused(t, err, tcps.CodeLimitReached, "")
	r, err := b.GetReceipt(b.ctx, e.Details["receipt_id"].(string))
	require.NoError(t, err)
	require.Equal(t, tcps.ReceiptWorkOrderRefused, r.ReceiptType)
	require.Equal(t, "wip_limit_reached", r.Details["reason"])
	b.sound()
}

func TestDependencies(t *testing.T) {
	b := start(t)
	depend := func(id, on string) (tcps.WorkOrder, error) {
		return b.AddDependency(b.ctx, tcps.AddDependencyInput{ID: id, DependsOn: on})
	}
	x, y, z := b.order(tcps.BucketCost), b.order(tcps.BucketCost), b.order(tcps.BucketCost)
	for _, c := range []struct {
		id, on string
		code   tcps.Code
		field  string
	}{
		{x.ID, "", tcps.CodeMissingRequiredField, "depends_on"},
		{x.ID, "WO-0", tcps.CodeWorkOrderNotFound, ""},
		{"WO-0", x.ID, tcps.CodeWorkOrderNotFound, ""},
		{x.ID, x.ID, tcps.CodeCircularDependency, "depends_on"},
	} {
		_, err := depend(c.id, c.on)
		refused(t, err, c.code, c.field)
	}
	w, err := depend(x.ID, y.ID)
	require.NoError(t, err)
	require.Equal(t, tcps.StatusBlocked, w.Status)
	again, err := depend(x.ID, y.ID)
	require.NoError(t, err)
	require.Equal(t, w, again, "adding twice changes nothing")
	_, err = depend(y.ID, z.ID)
	require.NoError(t, err)
	_, err = depend(z.ID, x.ID)
	refused(t, err, tcps.CodeCircularDependency, "depends_on")

	v, err := b.Dependencies(b.ctx, y.ID)
	require.NoError(t, err)
	require.Equal(t, tcps.DependencyView{ID: y.ID, DependsOn: []string{z.ID}, BlockedBy: []string{z.ID}, Blocking: []string{x.ID}}, v)
	_, err = b.Dependencies(b.ctx, "WO-0")
	refused(t, err, tcps.CodeWorkOrderNotFound, "")

	b.begin(z.ID)
	_, err = depend(z.ID, b.order(tcps.BucketCost).ID)
	refused(t, err, tcps.CodeAlreadyStarted, "")
	b.complete(z.ID, "SKU-1")
	_, err = depend(z.ID, b.order(tcps.BucketCost).ID)
	refused(t, err, tcps.CodeInvalidTransition, "")
	require.Equal(t, tcps.StatusQueued, b.get(y.ID).Status, "the last dependency is done")
	require.Equal(t, tcps.StatusBlocked, b.get(x.ID).Status)
	w, err = depend(x.ID, z.ID)
	require.NoError(t, err)
	require.Equal(t, []string{y.ID}, w.BlockedBy, "a finished dependency blocks nothing")
	b.begin(y.ID)
	b.complete(y.ID, "SKU-2")
	require.Equal(t, tcps.StatusQueued, b.get(x.ID).Status)
	b.sound()
}

func TestSLA(t *testing.T) {
	b := start(t)
	sec, debt := b.order(tcps.BucketSecurity), b.order(tcps.BucketTechnicalDebt)
	state := func(id string) tcps.SLAStatus {
		s, err := b.CheckSLA(b.ctx, id)
		require.NoError(t, err)
		return s
	}
	require.Equal(t, tcps.SLAOnTime, state(sec.ID).State)
	b.clock.advance(18 * time.Hour)
	require.Equal(t, tcps.SLAOnTime, state(sec.ID).State, "exactly a quarter is left")
	b.clock.advance(time.Millisecond)
	require.Equal(t, tcps.SLAWarning, state(sec.ID).State)
	warn, err := b.SLAWarnings(b.ctx, 6)
	require.NoError(t, err)
	require.Len(t, warn, 1)
	require.InDelta(t, 6, warn[0].RemainingHours, 0.001)
	warn, err = b.SLAWarnings(b.ctx, 5)
	require.NoError(t, err)
	require.Empty(t, warn)
	none, err := b.RaiseSLABreaches(b.ctx)
	require.NoError(t, err)
	require.Empty(t, none)

	b.clock.advance(7 * time.Hour)
	b.begin(sec.ID)
	require.Equal(t, tcps.SLABreached, state(sec.ID).State)
	require.InDelta(t, -1, state(sec.ID).RemainingHours, 0.001)
	rep, err := b.SLAReport(b.ctx, 1000)
	require.NoError(t, err)
	require.Len(t, rep.Breaches, 1)
	require.Empty(t, rep.Warnings)
	require.True(t, state(debt.ID).NoDeadline)

	events, err := b.RaiseSLABreaches(b.ctx)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, "sla-breach", events[0].SKUID)
	require.Equal(t, tcps.FailureMissingReceipt, events[0].FailureType)
	require.Equal(t, tcps.AndonExecution, events[0].Stage)
	require.Equal(t, tcps.StatusInProgress, b.get(sec.ID).Status, "the late order is not stopped by the alarm about it")
	events, err = b.RaiseSLABreaches(b.ctx)
	require.NoError(t, err)
	require.Empty(t, events, "once per order")

	b.complete(sec.ID, "SKU-1")
	require.Equal(t, tcps.SLAOnTime, state(sec.ID).State)
	breaches, err := b.SLABreaches(b.ctx)
	require.NoError(t, err)
	require.Empty(t, breaches)
	_, err = b.CheckSLA(b.ctx, "WO-0")
	refused(t, err, tcps.CodeNotFound, "")
	_, err = b.SLAWarnings(b.ctx, -1)
	refused(t, err, tcps.CodeInvalidField, "hours")
	b.sound()
}

func TestReportAndMetrics(t *testing.T) {
	b := start(t)
	rep, err := b.Report(b.ctx, tcps.ReportInput{})
	require.NoError(t, err)
	require.Equal(t, 100.0, rep.SLAComplianceRate)

	sec := b.running(tcps.BucketSecurity)
	cost := b.running(tcps.BucketCost)
	gone := b.order(tcps.BucketCost)
	top := b.order(tcps.BucketSecurity, priority(10))
	b.order(tcps.BucketFeatures)
	b.clock.advance(10 * time.Hour)
	b.complete(cost.ID, "SKU-1")
	_, err = b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: gone.ID, Reason: "no"})
	require.NoError(t, err)
	b.clock.advance(20 * time.Hour)
	b.complete(sec.ID, "SKU-2")
	a := b.andon("SKU-3")

	rep, err = b.Report(b.ctx, tcps.ReportInput{})
	require.NoError(t, err)
	require.Equal(t, 5, rep.TotalWorkOrders)
	require.Equal(t, map[string]int{"security": 2, "cost": 2, "features": 1}, rep.ByBucket)
	require.Equal(t, map[string]int{"completed": 2, "cancelled": 1, "queued": 2}, rep.ByStatus)
	require.Equal(t, 2, rep.Completed)
	require.Equal(t, 1, rep.Cancelled)
	require.Equal(t, 20.0, rep.AverageLeadTime)
	require.Equal(t, 50.0, rep.SLAComplianceRate)
	require.Equal(t, top.ID, rep.TopPriorities[0].ID)
	require.Len(t, rep.TopPriorities, 2)

	day, err := b.Report(b.ctx, tcps.ReportInput{From: "2026-01-26T00:00:00Z", To: "2026-01-27T00:00:00Z"})
	require.NoError(t, err)
	require.Equal(t, 1, day.Completed)
	require.Equal(t, 1.0, day.ThroughputPerDay)
	_, err = b.Report(b.ctx, tcps.ReportInput{From: "2026-01-27T00:00:00Z", To: "2026-01-26T00:00:00Z"})
	refused(t, err, tcps.CodeInvalidField, "from")
	_, err = b.Report(b.ctx, tcps.ReportInput{From: "monday"})
	refused(t, err, tcps.CodeInvalidField, "from")

	m, err := b.Metrics(b.ctx)
	require.NoError(t, err)
	require.Equal(t, 2, m.Queued)
	require.Equal(t, 1, m.QueueDepthByBucket["security"])
	require.Equal(t, 1, m.OpenAndons)
	require.Equal(t, map[string]int{"medium": 1}, m.OpenBySeverity)
	require.Equal(t, a.Timestamp, m.OldestOpenAndonTime)
	require.Equal(t, 1, m.SLABreaches)
	require.NotZero(t, m.LogIndex)
}

func TestReorderHoldsAlsoForOrdersOfOneMicrosecond(t *testing.T) {
	b := start(t)
	second, err := tcps.New(b.store, b.opts) // as on another node: its clock shows the same moment
	require.NoError(t, err)
	x := b.order(tcps.BucketCost)
	y, err := second.CreateWorkOrder(b.ctx, tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s"}, Bucket: "cost"})
	require.NoError(t, err)
	require.Equal(t, x.QueuePosition, y.QueuePosition)
	for _, want := range [][]string{{x.ID, y.ID}, {y.ID, x.ID}} {
		_, err := b.ReorderQueue(b.ctx, tcps.ReorderQueueInput{Bucket: "cost", IDs: want})
		require.NoError(t, err)
		require.Equal(t, want, b.queued(tcps.BucketCost))
	}
}
