package tcps_test

import (
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

func TestSignalsAreRoutedAndPrioritised(t *testing.T) {
	meta := func(bucket any) map[string]any { return map[string]any{"bucket": bucket} }
	for _, c := range []struct {
		name     string
		signal   tcps.PullSignal
		bucket   tcps.Bucket
		priority int
	}{
		{"a CVE", tcps.PullSignal{Type: "cve", Source: "CVE-2026-1234"}, tcps.BucketSecurity, 10},
		{"a CVE by its source", tcps.PullSignal{Type: "github_issue", Source: "CVE-2026-1234", Labels: []string{"bug"}}, tcps.BucketSecurity, 10},
		{"label security wins over bug", tcps.PullSignal{Type: "github_issue", Source: "s", Labels: []string{"bug", "security"}}, tcps.BucketSecurity, 8},
		{"label bug", tcps.PullSignal{Type: "github_issue", Source: "s", Labels: []string{"Bug"}}, tcps.BucketReliability, 5},
		{"critical bug", tcps.PullSignal{Type: "github_issue", Source: "s", Labels: []string{"bug", "critical"}}, tcps.BucketReliability, 9},
		{"high bug", tcps.PullSignal{Type: "github_pr", Source: "s", Labels: []string{"bug", "high"}}, tcps.BucketReliability, 7},
		{"medium bug", tcps.PullSignal{Type: "github_issue", Source: "s", Labels: []string{"bug", "medium"}}, tcps.BucketReliability, 5},
		{"label compliance", tcps.PullSignal{Type: "github_issue", Source: "s", Labels: []string{"compliance"}}, tcps.BucketCompliance, 4},
		{"label refactor", tcps.PullSignal{Type: "github_issue", Source: "s", Labels: []string{"refactor"}}, tcps.BucketTechnicalDebt, 3},
		{"critical refactor is clamped", tcps.PullSignal{Type: "github_issue", Source: "s", Labels: []string{"refactor", "critical"}}, tcps.BucketTechnicalDebt, 4},
		{"label performance", tcps.PullSignal{Type: "github_pr", Source: "s", Labels: []string{"performance"}}, tcps.BucketCost, 5},
		{"refund", tcps.PullSignal{Type: "marketplace_refund", Source: "s"}, tcps.BucketReliability, 8},
		{"install", tcps.PullSignal{Type: "marketplace_install", Source: "s"}, tcps.BucketFeatures, 4},
		{"plain issue", tcps.PullSignal{Type: "github_issue", Source: "s"}, tcps.BucketFeatures, 3},
		{"plain pull request", tcps.PullSignal{Type: "github_pr", Source: "s"}, tcps.BucketFeatures, 4},
		{"internal request", tcps.PullSignal{Type: "internal_request", Source: "s"}, tcps.BucketFeatures, 4},
		{"internal request with bucket", tcps.PullSignal{Type: "internal_request", Source: "s", Metadata: meta("cost-reduction")}, tcps.BucketCost, 5},
		{"other types ignore metadata.bucket", tcps.PullSignal{Type: "github_issue", Source: "s", Metadata: meta("cost")}, tcps.BucketFeatures, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := tcps.Route(c.signal)
			require.NoError(t, err)
			require.Equal(t, c.bucket, b)
			require.Equal(t, c.priority, tcps.Priority(c.signal, b))

			w, err := start(t).CreateWorkOrder(t.Context(), tcps.CreateWorkOrderInput{Signal: c.signal})
			require.NoError(t, err)
			require.Equal(t, c.bucket, w.Bucket)
			require.Equal(t, c.priority, w.Priority)
		})
	}
	_, err := tcps.Route(tcps.PullSignal{Type: "internal_request", Source: "s", Metadata: meta("kitchen")})
	refused(t, err, tcps.CodeInvalidBucket, "signal.metadata.bucket")
	_, err = tcps.Route(tcps.PullSignal{Type: "internal_request", Source: "s", Metadata: meta(7)})
	refused(t, err, tcps.CodeInvalidBucket, "signal.metadata.bucket")
}

func TestPrioritizeSignalsSortsDescendingAndStable(t *testing.T) {
	got := tcps.PrioritizeSignals([]tcps.PullSignal{
		{Type: "github_issue", Source: "low"},
		{Type: "marketplace_install", Source: "first install"},
		{Type: "cve", Source: "CVE-2026-1234"},
		{Type: "marketplace_install", Source: "second install"},
		{Type: "marketplace_refund", Source: "refund"},
	})
	var sources []string
	for _, s := range got {
		sources = append(sources, s.Source)
	}
	require.Equal(t, []string{"CVE-2026-1234", "refund", "first install", "second install", "low"}, sources)
}

func TestDeadlineFollowsTheBucket(t *testing.T) {
	b := start(t)
	for bucket, d := range map[tcps.Bucket]time.Duration{
		tcps.BucketSecurity: 24 * time.Hour, tcps.BucketReliability: 168 * time.Hour, tcps.BucketCompliance: 168 * time.Hour,
		tcps.BucketCost: 720 * time.Hour, tcps.BucketFeatures: 720 * time.Hour,
	} {
		w := b.order(bucket)
		require.Equal(t, d, w.SLADeadline.Sub(w.CreatedAt), bucket)
	}
	require.Equal(t, tcps.Time("2126-01-26T10:00:00.000Z"), b.order(tcps.BucketTechnicalDebt).SLADeadline)
}

func TestBadSignalsAreRefusedWithTheFieldNamed(t *testing.T) {
	b := start(t)
	ok := tcps.PullSignal{Type: "internal_request", Source: "s"}
	long := make([]byte, 70<<10)
	for i := range long {
		long[i] = 'x'
	}
	for _, c := range []struct {
		name  string
		in    tcps.CreateWorkOrderInput
		code  tcps.Code
		field string
	}{
		{"no type", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Source: "s"}}, tcps.CodeMissingRequiredField, "signal.type"},
		{"unknown type", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "fax", Source: "s"}}, tcps.CodeInvalidSignalType, "signal.type"},
		{"no source", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "cve", Source: " "}}, tcps.CodeMissingRequiredField, "signal.source"},
		{"not a CVE id", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "cve", Source: "CVE-1"}}, tcps.CodeInvalidField, "signal.source"},
		{"NUL byte", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "github_issue", Source: "a\x00b"}}, tcps.CodeInvalidField, "signal.source"},
		{"invalid UTF-8", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "github_issue", Source: "s", Description: "\xff"}}, tcps.CodeInvalidField, "signal.description"},
		{"long text", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "github_issue", Source: "s", Description: string(long)}}, tcps.CodeTooLarge, "signal.description"},
		{"metadata without JSON form", tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "github_issue", Source: "s", Metadata: map[string]any{"n": int64(1<<53 + 1)}}}, tcps.CodeInvalidField, "signal.metadata"},
		{"unknown bucket", tcps.CreateWorkOrderInput{Signal: ok, Bucket: "kitchen"}, tcps.CodeInvalidBucket, "bucket"},
		{"priority 11", tcps.CreateWorkOrderInput{Signal: ok, Priority: 11}, tcps.CodeInvalidField, "priority"},
		{"priority -1", tcps.CreateWorkOrderInput{Signal: ok, Priority: -1}, tcps.CodeInvalidField, "priority"},
		{"bad SKU", tcps.CreateWorkOrderInput{Signal: ok, SKUID: "a b"}, tcps.CodeInvalidField, "sku_id"},
		{"unknown dependency", tcps.CreateWorkOrderInput{Signal: ok, Dependencies: []string{"WO-0"}}, tcps.CodeWorkOrderNotFound, ""},
		{"blank dependency", tcps.CreateWorkOrderInput{Signal: ok, Dependencies: []string{""}}, tcps.CodeMissingRequiredField, "dependencies"},
		{"too many dependencies", tcps.CreateWorkOrderInput{Signal: ok, Dependencies: make([]string, 101)}, tcps.CodeInvalidField, "dependencies"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := b.CreateWorkOrder(b.ctx, c.in)
			refused(t, err, c.code, c.field)
		})
	}
	page, err := b.ListWorkOrders(b.ctx, tcps.ListWorkOrdersInput{})
	require.NoError(t, err)
	require.Empty(t, page.WorkOrders, "refused signals leave nothing behind")
	require.Zero(t, b.sound().FilesChecked)
}

func TestSecondOpenOrderForOneDemandIsRejected(t *testing.T) {
	b := start(t)
	in := tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "github_issue", Source: "https://example.com/issues/7"}}
	first, err := b.CreateWorkOrder(b.ctx, in)
	require.NoError(t, err)

	_, err = b.CreateWorkOrder(b.ctx, in)
	e := refused(t, err, tcps.CodeRejected, "signal.source")
	require.Equal(t, "duplicate_source", e.Details["reason"])
	require.Equal(t, first.ID, e.Details["work_order_id"])

	in.AllowDuplicate = true
	_, err = b.CreateWorkOrder(b.ctx, in)
	require.NoError(t, err)

	in.AllowDuplicate = false
	page, err := b.ListWorkOrders(b.ctx, tcps.ListWorkOrdersInput{})
	require.NoError(t, err)
	for _, w := range page.WorkOrders {
		_, err := b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: w.ID, Reason: "duplicate"})
		require.NoError(t, err)
	}
	_, err = b.CreateWorkOrder(b.ctx, in)
	require.NoError(t, err, "a finished order does not stand in the way")

	refund := tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "marketplace_refund", Source: "shop"}}
	for range 2 {
		_, err := b.CreateWorkOrder(b.ctx, refund)
		require.NoError(t, err, "refunds repeat legitimately")
	}
	b.sound()
}

func TestACVERaisesAnAndonAtOnceAndItsOrderStaysStartable(t *testing.T) {
	b := start(t)
	other := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	w, err := b.CreateWorkOrder(b.ctx, tcps.CreateWorkOrderInput{
		Signal: tcps.PullSignal{Type: "cve", Source: "cve-2026-4711", Metadata: map[string]any{"sku_id": "SKU-1"}}, SKUID: "SKU-1",
	})
	require.NoError(t, err)
	list, err := b.ListAndons(b.ctx, tcps.ListAndonsInput{WorkOrderID: w.ID})
	require.NoError(t, err)
	require.Len(t, list.Andons, 1)
	a := list.Andons[0]
	require.Equal(t, tcps.SeverityCritical, a.Severity)
	require.Equal(t, tcps.FailureSecurity, a.FailureType)
	require.Equal(t, "CVE-2026-4711", a.Details["cve"])
	require.Equal(t, tcps.StatusBlocked, b.get(other.ID).Status, "the affected product stops")
	require.Equal(t, tcps.StatusQueued, b.get(w.ID).Status, "the cure goes on")
	b.begin(w.ID)
	_, err = b.CompleteWorkOrder(b.ctx, tcps.CompleteWorkOrderInput{ID: w.ID, SKUID: "SKU-1"})
	refused(t, err, tcps.CodeBlockedByAndons, "")
	b.resolve(a.EventID)
	b.complete(w.ID, "SKU-1")

	// The cure may also learn only at its start which product it is for.
	cure, err := b.CreateWorkOrder(b.ctx, tcps.CreateWorkOrderInput{
		Signal: tcps.PullSignal{Type: "cve", Source: "CVE-2026-4712", Metadata: map[string]any{"sku_id": "SKU-1"}},
	})
	require.NoError(t, err)
	cure, err = b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: cure.ID, SKUID: "SKU-1"})
	require.NoError(t, err)
	require.Equal(t, "SKU-1", cure.SKUID)
	b.sound()
}

func TestNamesAreReadInAllSpellings(t *testing.T) {
	for in, want := range map[string]tcps.Bucket{
		"security": tcps.BucketSecurity, "RELIABILITY_BUCKET": tcps.BucketReliability, "TechnicalDebtBucket": tcps.BucketTechnicalDebt, "debt": tcps.BucketTechnicalDebt,
		"cost-reduction": tcps.BucketCost, "new-feature": tcps.BucketFeatures, "Technical Debt": tcps.BucketTechnicalDebt, "Compliance": tcps.BucketCompliance,
	} {
		got, err := tcps.ParseBucket(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for in, want := range map[string]tcps.Status{"InProgress": tcps.StatusInProgress, "IN_PROGRESS": tcps.StatusInProgress, "failed": tcps.StatusCancelled, "queued": tcps.StatusQueued} {
		got, err := tcps.ParseStatus(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	got, err := tcps.ParseAndonStatus("IN_PROGRESS")
	require.NoError(t, err)
	require.Equal(t, tcps.AndonInvestigating, got)
	sev, err := tcps.ParseSeverity("WARNING")
	require.NoError(t, err)
	require.Equal(t, tcps.SeverityMedium, sev)
	for _, f := range []func(string) error{
		func(s string) error { _, err := tcps.ParseBucket(s); return err },
		func(s string) error { _, err := tcps.ParseStatus(s); return err },
		func(s string) error { _, err := tcps.ParseWorkStage(s); return err },
		func(s string) error { _, err := tcps.ParseAndonStatus(s); return err },
		func(s string) error { _, err := tcps.ParseSeverity(s); return err },
		func(s string) error { _, err := tcps.ParsePipelineStage(s); return err },
		func(s string) error { _, err := tcps.ParseProductionStage(s); return err },
	} {
		require.Error(t, f("nonsense"))
		require.Error(t, f(""))
	}
}
