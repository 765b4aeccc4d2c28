package tcps_test

import (
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

func TestTriggerStopsTheSKUAndItsOrders(t *testing.T) {
	b := start(t)
	bySKU := b.running(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	waiting := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	held := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID, in.Hold = "SKU-1", true })
	named, other := b.running(tcps.BucketFeatures), b.running(tcps.BucketFeatures)
	done := b.running(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	b.complete(done.ID, "SKU-1")

	a := b.andon("SKU-1", func(in *tcps.TriggerAndonInput) {
		in.WorkOrderID, in.Details, in.DetectedBy, in.ActionTaken = named.ID, map[string]any{"test": "x"}, "human", "quarantine"
	})
	require.Regexp(t, `^ANDON-[0-9]{16}-[0-9]{6}-[0-9]{6}$`, a.EventID)
	require.Equal(t, tcps.AndonOpen, a.Status)
	require.Equal(t, tcps.SeverityMedium, a.Severity)
	require.Equal(t, tcps.DetectedHuman, a.DetectedBy)
	require.Equal(t, tcps.ActionQuarantine, a.ActionTaken)
	require.False(t, a.Quarantined)
	for _, id := range []string{bySKU.ID, waiting.ID, named.ID} {
		require.Equal(t, tcps.StatusBlocked, b.get(id).Status)
		require.Equal(t, []string{a.EventID}, b.get(id).BlockedByAndons)
	}
	require.Equal(t, tcps.StatusPending, b.get(held.ID).Status)
	require.Equal(t, tcps.StatusInProgress, b.get(other.ID).Status)
	require.Equal(t, tcps.StatusCompleted, b.get(done.ID).Status)

	blocked, err := b.IsBlocked(b.ctx, "SKU-1")
	require.NoError(t, err)
	require.True(t, blocked)
	for _, stage := range []string{"compilation", "deployment", "publication", "smoke", "testing", "requirements"} {
		p, err := b.CanProceed(b.ctx, "SKU-1", stage)
		require.NoError(t, err)
		require.False(t, p.CanProceed)
		require.Equal(t, []string{a.EventID}, p.BlockedBy)
	}
	p, err := b.CanProceed(b.ctx, "SKU-2", "testing")
	require.NoError(t, err)
	require.True(t, p.CanProceed)

	r, err := b.GetReceipt(b.ctx, a.Receipts[0])
	require.NoError(t, err)
	require.Regexp(t, `^RCPT-[0-9]{16}-[0-9]{6}-[0-9]{6}$`, r.ReceiptID)
	require.Equal(t, tcps.ReceiptAndonEvent, r.ReceiptType)
	require.Equal(t, tcps.ReceiptOpen, r.Status)
	require.Equal(t, a.EventID, r.AndonEventID)
	require.Contains(t, r.OntologyRefs, "tcps:StopTheLine")

	second := b.andon("SKU-1")
	b.resolve(a.EventID)
	require.Equal(t, tcps.StatusBlocked, b.get(bySKU.ID).Status, "a second event still stops it")
	require.Equal(t, tcps.StatusQueued, b.get(named.ID).Status)
	b.resolve(second.EventID)
	require.Equal(t, tcps.StatusQueued, b.get(bySKU.ID).Status)
	require.Equal(t, tcps.StatusPending, b.get(held.ID).Status)
	b.sound()
}

func TestTriggerRefusals(t *testing.T) {
	b := start(t)
	ok := tcps.TriggerAndonInput{FailureType: "test_failure", SKUID: "SKU-1", Stage: "testing"}
	for _, c := range []struct {
		name   string
		change func(*tcps.TriggerAndonInput)
		code   tcps.Code
		field  string
	}{
		{"no failure type", func(in *tcps.TriggerAndonInput) { in.FailureType = "" }, tcps.CodeMissingRequiredField, "failure_type"},
		{"unknown failure type", func(in *tcps.TriggerAndonInput) { in.FailureType = "gremlins" }, tcps.CodeInvalidFailureType, "failure_type"},
		{"no SKU", func(in *tcps.TriggerAndonInput) { in.SKUID = "" }, tcps.CodeMissingRequiredField, "sku_id"},
		{"no stage", func(in *tcps.TriggerAndonInput) { in.Stage = "" }, tcps.CodeMissingRequiredField, "stage"},
		{"unknown stage", func(in *tcps.TriggerAndonInput) { in.Stage = "lunch" }, tcps.CodeInvalidStage, "stage"},
		{"unknown severity", func(in *tcps.TriggerAndonInput) { in.Severity = "meh" }, tcps.CodeInvalidSeverity, "severity"},
		{"unknown order", func(in *tcps.TriggerAndonInput) { in.WorkOrderID = "WO-0" }, tcps.CodeWorkOrderNotFound, ""},
		{"bad order id", func(in *tcps.TriggerAndonInput) { in.WorkOrderID = "W O" }, tcps.CodeInvalidField, "work_order_id"},
		{"unknown detector", func(in *tcps.TriggerAndonInput) { in.DetectedBy = "cat" }, tcps.CodeInvalidField, "detected_by"},
		{"unknown action", func(in *tcps.TriggerAndonInput) { in.ActionTaken = "nap" }, tcps.CodeInvalidField, "action_taken"},
		{"details without JSON form", func(in *tcps.TriggerAndonInput) { in.Details = map[string]any{"f": func() {}} }, tcps.CodeInvalidField, "details"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := ok
			c.change(&in)
			_, err := b.TriggerAndon(b.ctx, in)
			refused(t, err, c.code, c.field)
		})
	}
	n, err := b.CountOpenAndons(b.ctx)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestDefaultSeverities(t *testing.T) {
	b := start(t)
	for f, want := range map[string]tcps.Severity{
		"shacl_violation": tcps.SeverityCritical, "compilation_failure": tcps.SeverityCritical, "non_determinism": tcps.SeverityCritical,
		"test_failure": tcps.SeverityMedium, "missing_receipt": tcps.SeverityMedium,
		"SecurityVulnerability": tcps.SeverityCritical, "performance_regression": tcps.SeverityMedium, "BUILD_TIMEOUT": tcps.SeverityMedium,
	} {
		a := b.andon("SKU-1", func(in *tcps.TriggerAndonInput) { in.FailureType = f })
		require.Equal(t, want, a.Severity, f)
		require.Equal(t, want == tcps.SeverityCritical, a.Quarantined)
	}
	a := b.andon("SKU-1", func(in *tcps.TriggerAndonInput) { in.Severity = "WARNING" })
	require.Equal(t, tcps.SeverityMedium, a.Severity)
	a = b.andon("SKU-1", func(in *tcps.TriggerAndonInput) { in.Severity = "high" })
	require.True(t, a.Quarantined)
}

func TestAndonGoesFromOpenToClosed(t *testing.T) {
	b := start(t)
	a := b.andon("SKU-1")
	_, err := b.CloseAndon(b.ctx, tcps.CloseAndonInput{EventID: a.EventID})
	refused(t, err, tcps.CodeNotResolved, "")
	_, err = b.AcknowledgeAndon(b.ctx, tcps.AcknowledgeAndonInput{EventID: a.EventID})
	refused(t, err, tcps.CodeMissingRequiredField, "assigned_to")
	_, err = b.AcknowledgeAndon(b.ctx, tcps.AcknowledgeAndonInput{EventID: a.EventID, AssignedTo: "kim", EstimatedResolution: "soon"})
	refused(t, err, tcps.CodeInvalidField, "estimated_resolution")
	_, err = b.AcknowledgeAndon(b.ctx, tcps.AcknowledgeAndonInput{EventID: "ANDON-0", AssignedTo: "kim"})
	refused(t, err, tcps.CodeAndonNotFound, "")

	got, err := b.AcknowledgeAndon(b.ctx, tcps.AcknowledgeAndonInput{EventID: a.EventID, AssignedTo: "kim", EstimatedResolution: "2026-01-26T12:00:00Z"})
	require.NoError(t, err)
	require.Equal(t, tcps.AndonInvestigating, got.Status)
	require.Equal(t, tcps.Time("2026-01-26T12:00:00.000Z"), got.EstimatedResolution)
	_, err = b.AcknowledgeAndon(b.ctx, tcps.AcknowledgeAndonInput{EventID: a.EventID, AssignedTo: "lee"})
	refused(t, err, tcps.CodeAlreadyAcknowledged, "")
	blocked, err := b.IsBlocked(b.ctx, "SKU-1")
	require.NoError(t, err)
	require.True(t, blocked, "an investigated event still stops the line")

	b.clock.advance(90 * time.Minute)
	got = b.resolve(a.EventID)
	require.Equal(t, tcps.AndonResolved, got.Status)
	require.Equal(t, int64(90), got.Resolution.ResolutionTimeMinutes)
	require.Equal(t, tcps.Time("2026-01-26T11:30:00.000Z"), got.ResolutionTimestamp)
	require.Len(t, got.Receipts, 2)
	r, err := b.GetReceipt(b.ctx, got.Receipts[1])
	require.NoError(t, err)
	require.Equal(t, tcps.ReceiptResolution, r.ReceiptType)
	require.Equal(t, tcps.ReceiptResolved, r.Status)

	_, err = b.ResolveAndon(b.ctx, resolution(a.EventID))
	refused(t, err, tcps.CodeAlreadyResolved, "")
	_, err = b.AcknowledgeAndon(b.ctx, tcps.AcknowledgeAndonInput{EventID: a.EventID, AssignedTo: "lee"})
	refused(t, err, tcps.CodeAlreadyResolved, "")
	got, err = b.CloseAndon(b.ctx, tcps.CloseAndonInput{EventID: a.EventID})
	require.NoError(t, err)
	require.Equal(t, tcps.AndonClosed, got.Status)
	_, err = b.CloseAndon(b.ctx, tcps.CloseAndonInput{EventID: a.EventID})
	refused(t, err, tcps.CodeAlreadyClosed, "")
	_, err = b.ResolveAndon(b.ctx, resolution(a.EventID))
	refused(t, err, tcps.CodeAlreadyResolved, "")
	h, err := b.History(b.ctx, tcps.EntityAndon, a.EventID, 0)
	require.NoError(t, err)
	require.Equal(t, []tcps.Action{tcps.ActionUpdated, tcps.ActionResolved, tcps.ActionUpdated, tcps.ActionCreated},
		[]tcps.Action{h[0].Action, h[1].Action, h[2].Action, h[3].Action})
	b.sound()
}

func TestResolveRulesDependOnSeverity(t *testing.T) {
	b := start(t)
	minus := int64(-1)
	for _, c := range []struct {
		name     string
		severity string
		change   func(*tcps.ResolveAndonInput)
		code     tcps.Code
		field    string
	}{
		{"no root cause", "low", func(in *tcps.ResolveAndonInput) { in.RootCause = "" }, tcps.CodeMissingRequiredField, "root_cause"},
		{"blank root cause", "low", func(in *tcps.ResolveAndonInput) { in.RootCause = " \t" }, tcps.CodeInvalidField, "root_cause"},
		{"no fix", "low", func(in *tcps.ResolveAndonInput) { in.FixApplied = "" }, tcps.CodeMissingRequiredField, "fix_applied"},
		{"no prevention", "low", func(in *tcps.ResolveAndonInput) { in.PreventionAdded = "" }, tcps.CodeMissingRequiredField, "prevention_added"},
		{"negative time", "low", func(in *tcps.ResolveAndonInput) { in.ResolutionTimeMinutes = &minus }, tcps.CodeInvalidField, "resolution_time_minutes"},
		{"bad analysis id", "low", func(in *tcps.ResolveAndonInput) { in.RCAID = "a b" }, tcps.CodeInvalidField, "rca_id"},
		{"critical without analysis", "critical", func(in *tcps.ResolveAndonInput) { in.RCAID = "" }, tcps.CodeRCARequired, "rca_id"},
		{"high without analysis", "high", func(in *tcps.ResolveAndonInput) { in.RCAID = "" }, tcps.CodeRCARequired, "rca_id"},
		{"high unverified", "high", func(in *tcps.ResolveAndonInput) { in.FixVerified = false }, tcps.CodeInvalidField, "fix_verified"},
		{"critical without resolver", "critical", func(in *tcps.ResolveAndonInput) { in.Resolver = "" }, tcps.CodeMissingRequiredField, "resolver"},
		{"critical by the system", "critical", func(in *tcps.ResolveAndonInput) { in.Resolver = "System" }, tcps.CodeInvalidField, "resolver"},
		{"high by the system is fine", "high", func(in *tcps.ResolveAndonInput) { in.Resolver = "" }, "", ""},
		{"medium needs no analysis", "medium", func(in *tcps.ResolveAndonInput) { in.RCAID, in.FixVerified, in.Resolver = "", false, "" }, "", ""},
		{"critical with everything", "critical", func(*tcps.ResolveAndonInput) {}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := b.andon("SKU-1", func(in *tcps.TriggerAndonInput) { in.Severity = c.severity })
			in := resolution(a.EventID)
			c.change(&in)
			got, err := b.ResolveAndon(b.ctx, in)
			if c.code != "" {
				refused(t, err, c.code, c.field)
				still, err := b.GetAndon(b.ctx, a.EventID)
				require.NoError(t, err)
				require.Equal(t, a, still)
				return
			}
			require.NoError(t, err)
			want := in.Resolver
			if want == "" {
				want = "system"
			}
			require.Equal(t, want, got.Resolution.Resolver)
			require.False(t, got.Quarantined)
		})
	}
	_, err := b.ResolveAndon(b.ctx, resolution("ANDON-0"))
	refused(t, err, tcps.CodeAndonNotFound, "")
}

func TestBlockSeveritiesNarrowTheStop(t *testing.T) {
	b := startWith(t, tcps.Options{BlockSeverities: []tcps.Severity{tcps.SeverityCritical, tcps.SeverityHigh}})
	w := b.running(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	b.andon("SKU-1")
	require.Equal(t, tcps.StatusInProgress, b.get(w.ID).Status)
	p, err := b.CanProceed(b.ctx, "SKU-1", "testing")
	require.NoError(t, err)
	require.True(t, p.CanProceed)
	b.andon("SKU-1", func(in *tcps.TriggerAndonInput) { in.Severity = "high" })
	require.Equal(t, tcps.StatusBlocked, b.get(w.ID).Status)
	n, err := b.CountOpenAndons(b.ctx)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	b.sound()
}

func TestListAndonsFiltersAndPagesOldestFirst(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketCost)
	var all []string
	for i := range 12 {
		a := b.andon(skuName(i%3), func(in *tcps.TriggerAndonInput) {
			in.Severity = []string{"low", "high"}[i%2]
			if i == 5 {
				in.WorkOrderID = w.ID
			}
		})
		all = append(all, a.EventID)
		b.clock.advance(time.Second)
	}
	b.resolve(all[0])
	_, err := b.AcknowledgeAndon(b.ctx, tcps.AcknowledgeAndonInput{EventID: all[1], AssignedTo: "kim"})
	require.NoError(t, err)
	pick := func(idx ...int) []string {
		out := []string{}
		for _, i := range idx {
			out = append(out, all[i])
		}
		return out
	}
	for _, c := range []struct {
		name string
		in   tcps.ListAndonsInput
		want []string
	}{
		{"all", tcps.ListAndonsInput{}, all},
		{"unresolved", tcps.ListAndonsInput{Unresolved: true}, all[1:]},
		{"open", tcps.ListAndonsInput{Status: "open"}, all[2:]},
		{"resolved", tcps.ListAndonsInput{Status: "resolved"}, pick(0)},
		{"high", tcps.ListAndonsInput{Severity: "high"}, pick(1, 3, 5, 7, 9, 11)},
		{"a SKU", tcps.ListAndonsInput{SKUID: skuName(0)}, pick(0, 3, 6, 9)},
		{"unresolved of a SKU, high", tcps.ListAndonsInput{SKUID: skuName(0), Unresolved: true, Severity: "high"}, pick(3, 9)},
		{"an order", tcps.ListAndonsInput{WorkOrderID: w.ID}, pick(5)},
		{"nothing", tcps.ListAndonsInput{SKUID: "SKU-x"}, pick()},
	} {
		for _, limit := range []int{1, 2, 5, 100} {
			in := c.in
			in.Limit = limit
			got := []string{}
			for {
				page, err := b.ListAndons(b.ctx, in)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page.Andons), limit)
				for _, a := range page.Andons {
					got = append(got, a.EventID)
				}
				if in.Cursor = page.NextCursor; in.Cursor == "" {
					break
				}
			}
			require.Equal(t, c.want, got, "%s by %d", c.name, limit)
		}
	}
	_, err = b.ListAndons(b.ctx, tcps.ListAndonsInput{Status: "asleep"})
	refused(t, err, tcps.CodeInvalidStatus, "status")
	_, err = b.ListAndons(b.ctx, tcps.ListAndonsInput{Severity: "meh"})
	refused(t, err, tcps.CodeInvalidSeverity, "severity")
	_, err = b.ListAndons(b.ctx, tcps.ListAndonsInput{Cursor: "x"})
	refused(t, err, tcps.CodeInvalidCursor, "cursor")
	_, err = b.CanProceed(b.ctx, "", "testing")
	refused(t, err, tcps.CodeMissingRequiredField, "sku_id")
	_, err = b.CanProceed(b.ctx, "SKU-1", "lunch")
	refused(t, err, tcps.CodeInvalidStage, "stage")
	_, err = b.GetAndon(b.ctx, "ANDON-0")
	refused(t, err, tcps.CodeAndonNotFound, "")
}
