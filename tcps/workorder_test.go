package tcps_test

import (
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

func TestAnOrderLivesFromSignalToProduct(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketReliability)
	require.Regexp(t, `^WO-[0-9]{16}-[0-9]{6}$`, w.ID)
	require.Equal(t, tcps.StatusQueued, w.Status)
	require.Equal(t, "planning", w.DemandSignal)
	require.Equal(t, tcps.Time("2026-01-26T10:00:00.000Z"), w.CreatedAt)
	require.NotNil(t, w.Dependencies)
	require.Len(t, w.Receipts, 1)

	b.clock.advance(time.Hour)
	w, err := b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: w.ID, AssignedTo: "kim"})
	require.NoError(t, err)
	require.Equal(t, tcps.StatusInProgress, w.Status)
	require.Equal(t, "kim", w.AssignedTo)
	require.Equal(t, tcps.Time("2026-01-26T11:00:00.000Z"), w.StartedAt)

	release := map[string]any{"artifact_exists": true, "sbom_generated": true, "licenses_compliant": true, "dependencies_pinned": true, "receipt_chain_complete": true}
	for _, s := range []struct {
		stage    string
		evidence map[string]any
	}{
		{"requirements", nil},
		{"Design", nil},
		{"implementation", map[string]any{"errors": 0}},
		{"testing", map[string]any{"total_tests": 100, "passed_tests": 95, "coverage": 0.8}},
		{"integration", release},
		{"deployment", release},
	} {
		p, err := b.ProgressWorkOrder(b.ctx, tcps.ProgressWorkOrderInput{ID: w.ID, Stage: s.stage, Evidence: s.evidence})
		require.NoError(t, err, s.stage)
		r, err := b.GetReceipt(b.ctx, p.ReceiptID)
		require.NoError(t, err)
		require.Equal(t, tcps.ReceiptStageCompleted, r.ReceiptType)
		require.Equal(t, string(p.WorkOrder.CurrentStage), r.Details["stage"])
	}
	b.clock.advance(time.Hour)
	w = b.complete(w.ID, "SKU-1")
	require.Equal(t, tcps.StatusCompleted, w.Status)
	require.Equal(t, tcps.WorkPublished, w.CurrentStage)
	require.Equal(t, "SKU-1", w.SKUID)
	require.Len(t, w.StagesCompleted, 6)

	v, err := b.WorkOrderStatus(b.ctx, w.ID)
	require.NoError(t, err)
	require.Equal(t, 2.0, v.ElapsedHours)
	require.Equal(t, tcps.SLAOnTime, v.SLA.State)
	require.Len(t, v.Receipts, 9)
	last := v.Receipts[len(v.Receipts)-1]
	require.Equal(t, tcps.ReceiptWorkOrderCompleted, last.ReceiptType)
	require.Regexp(t, `^receipt-completion-[0-9]{16}-[0-9]{6}$`, last.ReceiptID)
	require.Equal(t, 2.0, last.Details["lead_time_hours"])
	require.Equal(t, "SKU-1", last.Details["sku_id"])
	require.Equal(t, "tester", last.Executor)
	b.sound()
}

func TestStartRefusals(t *testing.T) {
	b := start(t)
	begin := func(id string) error {
		_, err := b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: id})
		return err
	}
	refused(t, begin(""), tcps.CodeMissingRequiredField, "id")
	refused(t, begin("WO 1"), tcps.CodeInvalidField, "id")
	refused(t, begin("WO-1"), tcps.CodeNotFound, "")

	w := b.running(tcps.BucketFeatures)
	e := refused(t, begin(w.ID), tcps.CodeAlreadyStarted, "")
	require.ErrorIs(t, e, tcps.ErrAlreadyStarted)
	require.NotErrorIs(t, e, tcps.ErrNotFound)
	b.complete(w.ID, "SKU-1")
	refused(t, begin(w.ID), tcps.CodeAlreadyStarted, "")

	c := b.order(tcps.BucketFeatures)
	_, err := b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: c.ID, Reason: "no"})
	require.NoError(t, err)
	refused(t, begin(c.ID), tcps.CodeInvalidTransition, "")

	dep := b.order(tcps.BucketFeatures)
	waits := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.Dependencies = []string{dep.ID} })
	e = refused(t, begin(waits.ID), tcps.CodeBlockedByDependencies, "")
	require.Equal(t, []string{dep.ID}, e.Details["blocked_by"])

	a := b.andon("SKU-9")
	stopped := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-9" })
	e = refused(t, begin(stopped.ID), tcps.CodeBlockedByAndons, "")
	require.Equal(t, []string{a.EventID}, e.Details["andon_event_ids"])

	// Naming the stopped product only at the start does not get around it.
	late := b.order(tcps.BucketFeatures)
	_, err = b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: late.ID, SKUID: "SKU-9"})
	refused(t, err, tcps.CodeBlockedByAndons, "")
	require.Empty(t, b.get(late.ID).SKUID)
	_, err = b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: stopped.ID, SKUID: "SKU-8"})
	refused(t, err, tcps.CodeSKUMismatch, "sku_id")
	b.sound()
}

func TestPendingOrdersWaitForRelease(t *testing.T) {
	b := start(t)
	dep := b.order(tcps.BucketCost)
	w := b.order(tcps.BucketCost, func(in *tcps.CreateWorkOrderInput) { in.Hold = true })
	blocked := b.order(tcps.BucketCost, func(in *tcps.CreateWorkOrderInput) { in.Hold, in.Dependencies = true, []string{dep.ID} })
	require.Equal(t, tcps.StatusPending, w.Status)
	q, err := b.Queue(b.ctx, "cost")
	require.NoError(t, err)
	require.Equal(t, 1, q.Depth)
	_, err = b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: w.ID})
	refused(t, err, tcps.CodeInvalidTransition, "")

	w, err = b.ReleaseWorkOrder(b.ctx, tcps.ReleaseWorkOrderInput{ID: w.ID})
	require.NoError(t, err)
	require.Equal(t, tcps.StatusQueued, w.Status)
	_, err = b.ReleaseWorkOrder(b.ctx, tcps.ReleaseWorkOrderInput{ID: w.ID})
	refused(t, err, tcps.CodeInvalidTransition, "")
	blocked, err = b.ReleaseWorkOrder(b.ctx, tcps.ReleaseWorkOrderInput{ID: blocked.ID})
	require.NoError(t, err)
	require.Equal(t, tcps.StatusBlocked, blocked.Status)
	b.sound()
}

func TestMovesAreThoseOfTheTable(t *testing.T) {
	allowed := map[[2]tcps.Status]bool{
		{tcps.StatusPending, tcps.StatusQueued}: true, {tcps.StatusPending, tcps.StatusCancelled}: true,
		{tcps.StatusQueued, tcps.StatusInProgress}: true, {tcps.StatusQueued, tcps.StatusBlocked}: true, {tcps.StatusQueued, tcps.StatusCancelled}: true,
		{tcps.StatusBlocked, tcps.StatusQueued}: true, {tcps.StatusBlocked, tcps.StatusCancelled}: true,
		{tcps.StatusInProgress, tcps.StatusCompleted}: true, {tcps.StatusInProgress, tcps.StatusCancelled}: true, {tcps.StatusInProgress, tcps.StatusBlocked}: true,
	}
	for _, from := range tcps.Statuses() {
		for _, to := range tcps.Statuses() {
			require.Equal(t, allowed[[2]tcps.Status{from, to}], tcps.CanMove(from, to), "%s -> %s", from, to)
		}
	}
}

func TestProgressRefusals(t *testing.T) {
	b := start(t)
	progress := func(id, stage string, evidence map[string]any) error {
		_, err := b.ProgressWorkOrder(b.ctx, tcps.ProgressWorkOrderInput{ID: id, Stage: stage, Evidence: evidence})
		return err
	}
	w := b.order(tcps.BucketFeatures)
	refused(t, progress(w.ID, "design", nil), tcps.CodeInvalidTransition, "")
	refused(t, progress("WO-1", "design", nil), tcps.CodeNotFound, "")
	b.begin(w.ID)
	refused(t, progress(w.ID, "", nil), tcps.CodeMissingRequiredField, "stage")
	refused(t, progress(w.ID, "lunch", nil), tcps.CodeInvalidStage, "stage")
	refused(t, progress(w.ID, "published", nil), tcps.CodeInvalidStage, "stage")
	require.NoError(t, progress(w.ID, "design", nil), "stages may be skipped")
	refused(t, progress(w.ID, "design", nil), tcps.CodeInvalidSequence, "stage")
	refused(t, progress(w.ID, "requirements", nil), tcps.CodeInvalidSequence, "stage")

	before := b.get(w.ID)
	for _, evidence := range []map[string]any{nil, {}, {"errors": "none"}, {"errors": -1}, {"warnings": 0}} {
		e := refused(t, progress(w.ID, "implementation", evidence), tcps.CodeGateNotRun, "evidence")
		require.Equal(t, "compilation", e.Details["gate"])
		require.Equal(t, []string{"errors"}, e.Details["missing"])
		require.Contains(t, e.Details["required"], "errors")
	}
	require.Equal(t, before, b.get(w.ID), "a gate that was not run changes nothing")
}

func TestAFailedGateStopsTheLine(t *testing.T) {
	b := start(t)
	w := b.running(tcps.BucketFeatures)
	_, err := b.ProgressWorkOrder(b.ctx, tcps.ProgressWorkOrderInput{ID: w.ID, Stage: "testing", Evidence: map[string]any{"total_tests": 10, "passed_tests": 8, "coverage": 0.5}})
	e := refused(t, err, tcps.CodeGateFailed, "")
	require.Len(t, e.Details["violations"], 2)

	w = b.get(w.ID)
	event := e.Details["andon_event_id"].(string)
	require.Equal(t, tcps.StatusBlocked, w.Status)
	require.Equal(t, []string{event}, w.BlockedByAndons)
	require.Empty(t, w.StagesCompleted)
	a, err := b.GetAndon(b.ctx, event)
	require.NoError(t, err)
	require.Equal(t, tcps.FailureTest, a.FailureType)
	require.Equal(t, w.ID, a.SKUID, "before a SKU exists the order stands for it")
	r, err := b.GetReceipt(b.ctx, e.Details["receipt_id"].(string))
	require.NoError(t, err)
	require.Equal(t, tcps.ReceiptFail, r.Status)
	require.Equal(t, 0.5, r.Evidence["coverage"])
	wip, err := b.WIP(b.ctx, "features")
	require.NoError(t, err)
	require.Zero(t, wip.Current, "a blocked order holds no WIP slot")

	_, err = b.ProgressWorkOrder(b.ctx, tcps.ProgressWorkOrderInput{ID: w.ID, Stage: "testing"})
	refused(t, err, tcps.CodeBlockedByAndons, "")
	_, err = b.CompleteWorkOrder(b.ctx, tcps.CompleteWorkOrderInput{ID: w.ID, SKUID: "SKU-1"})
	refused(t, err, tcps.CodeBlockedByAndons, "")

	b.resolve(event)
	require.Equal(t, tcps.StatusQueued, b.get(w.ID).Status)
	w = b.begin(w.ID)
	require.Equal(t, 1, w.ReworkCount)
	_, err = b.CompleteWorkOrder(b.ctx, tcps.CompleteWorkOrderInput{ID: w.ID, SKUID: "SKU-1"})
	e = refused(t, err, tcps.CodeFailedReceipts, "")
	require.Equal(t, []string{r.ReceiptID}, e.Details["receipt_ids"])

	b.clock.advance(time.Minute)
	_, err = b.ProgressWorkOrder(b.ctx, tcps.ProgressWorkOrderInput{ID: w.ID, Stage: "testing", Evidence: map[string]any{"total_tests": 10, "passed_tests": 10, "coverage": 0.9}})
	require.NoError(t, err)
	b.complete(w.ID, "SKU-1")
	b.sound()
}

func TestGatesJudgeEvidence(t *testing.T) {
	h1, h2 := string(make64('a')), string(make64('b'))
	release := func(change string) map[string]any {
		m := map[string]any{"artifact_exists": true, "sbom_generated": true, "licenses_compliant": true, "dependencies_pinned": true, "receipt_chain_complete": true}
		if change != "" {
			m[change] = false
		}
		return m
	}
	for _, c := range []struct {
		name string
		gate tcps.Gate
		data map[string]any
		want tcps.GateOutcome
	}{
		{"shapes conform", tcps.GateSHACL, map[string]any{"conforms": true}, tcps.GatePassed},
		{"shapes violated", tcps.GateSHACL, map[string]any{"conforms": false}, tcps.GateFailed},
		{"shapes unknown", tcps.GateSHACL, map[string]any{"conforms": "yes"}, tcps.GateNotRun},
		{"compiles", tcps.GateCompilation, map[string]any{"errors": 0.0}, tcps.GatePassed},
		{"does not compile", tcps.GateCompilation, map[string]any{"errors": int64(1)}, tcps.GateFailed},
		{"tests at the thresholds", tcps.GateTest, map[string]any{"total_tests": 20, "passed_tests": 19, "coverage": 0.80}, tcps.GatePassed},
		{"too many failures", tcps.GateTest, map[string]any{"total_tests": 100, "passed_tests": 94, "coverage": 0.9}, tcps.GateFailed},
		{"too little coverage", tcps.GateTest, map[string]any{"total_tests": 20, "passed_tests": 20, "coverage": 0.79}, tcps.GateFailed},
		{"no tests", tcps.GateTest, map[string]any{"total_tests": 0, "passed_tests": 0, "coverage": 0.9}, tcps.GateFailed},
		{"coverage in percent", tcps.GateTest, map[string]any{"total_tests": 20, "passed_tests": 20, "coverage": 85}, tcps.GateNotRun},
		{"more passed than run", tcps.GateTest, map[string]any{"total_tests": 1, "passed_tests": 2, "coverage": 0.9}, tcps.GateNotRun},
		{"coverage unknown", tcps.GateTest, map[string]any{"total_tests": 20, "passed_tests": 20}, tcps.GateNotRun},
		{"secure", tcps.GateSecurity, map[string]any{"dependency_vulns": 0, "hardcoded_secrets": 0, "insecure_patterns": 0}, tcps.GatePassed},
		{"a secret", tcps.GateSecurity, map[string]any{"dependency_vulns": 0, "hardcoded_secrets": 1, "insecure_patterns": 0}, tcps.GateFailed},
		{"half scanned", tcps.GateSecurity, map[string]any{"dependency_vulns": 0}, tcps.GateNotRun},
		{"two equal builds", tcps.GateDeterministic, map[string]any{"hashes": []any{h1, h1}}, tcps.GatePassed},
		{"equal but for case", tcps.GateDeterministic, map[string]any{"hashes": []string{h1, "A" + h1[1:]}}, tcps.GatePassed},
		{"two different builds", tcps.GateDeterministic, map[string]any{"hashes": []any{h1, h2}}, tcps.GateFailed},
		{"one build", tcps.GateDeterministic, map[string]any{"hashes": []any{h1}}, tcps.GateNotRun},
		{"not hashes", tcps.GateDeterministic, map[string]any{"hashes": []any{h1, "x"}}, tcps.GateNotRun},
		{"good quality", tcps.GateQuality, map[string]any{"quality_gate_pass_rate": 0.95, "defect_rate": 0.05, "first_pass_yield": 0.9}, tcps.GatePassed},
		{"too many defects", tcps.GateQuality, map[string]any{"quality_gate_pass_rate": 0.95, "defect_rate": 0.06, "first_pass_yield": 0.9}, tcps.GateFailed},
		{"releasable", tcps.GateRelease, release(""), tcps.GatePassed},
		{"licence trouble", tcps.GateRelease, release("licenses_compliant"), tcps.GateFailed},
		{"release unknown", tcps.GateRelease, nil, tcps.GateNotRun},
		{"smoke passes", tcps.GateSmoke, map[string]any{"passed": true}, tcps.GatePassed},
		{"smoke fails", tcps.GateSmoke, map[string]any{"passed": false}, tcps.GateFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := tcps.CheckGate(c.gate, c.data)
			require.Equal(t, c.want, r.Outcome, "%v %v", r.Violations, r.Missing)
			require.Equal(t, c.want == tcps.GateNotRun, len(r.Missing) > 0)
			for _, m := range r.Missing {
				require.Contains(t, tcps.RequiredEvidence(c.gate), m)
			}
		})
	}
	require.Equal(t, tcps.GateNotAsked, tcps.CheckGate("", nil).Outcome)

	all := tcps.CheckAllGates(map[tcps.Gate]map[string]any{
		tcps.GateSHACL: {"conforms": true}, tcps.GateCompilation: {"errors": 3}, tcps.GateTest: {},
	})
	require.Len(t, all, 2, "the first failure ends the check")
	require.Equal(t, tcps.GateFailed, all[1].Outcome)
}

func make64(c byte) []byte {
	b := make([]byte, 64)
	for i := range b {
		b[i] = c
	}
	return b
}

func TestCompleteRefusals(t *testing.T) {
	b := start(t)
	complete := func(id, sku string) error {
		_, err := b.CompleteWorkOrder(b.ctx, tcps.CompleteWorkOrderInput{ID: id, SKUID: sku})
		return err
	}
	w := b.order(tcps.BucketFeatures)
	refused(t, complete(w.ID, ""), tcps.CodeMissingRequiredField, "sku_id")
	refused(t, complete("WO-1", "SKU-1"), tcps.CodeNotFound, "")
	refused(t, complete(w.ID, "SKU-1"), tcps.CodeInvalidTransition, "")
	_, err := b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: w.ID, SKUID: "SKU-1"})
	require.NoError(t, err)
	refused(t, complete(w.ID, "SKU-2"), tcps.CodeSKUMismatch, "sku_id")

	free := b.running(tcps.BucketFeatures)
	a := b.andon("SKU-3")
	refused(t, complete(free.ID, "SKU-3"), tcps.CodeBlockedByAndons, "")
	b.resolve(a.EventID)

	bad := tcps.StoreReceiptInput{SKUID: "SKU-3", Stage: "compile", Status: "fail", Evidence: map[string]any{"log": "x"}}
	_, err = b.StoreReceipt(b.ctx, bad)
	require.NoError(t, err)
	refused(t, complete(free.ID, "SKU-3"), tcps.CodeFailedReceipts, "")
	bad.Status = "pass"
	_, err = b.StoreReceipt(b.ctx, bad)
	require.NoError(t, err)
	require.NoError(t, complete(free.ID, "SKU-3"), "a later passing receipt of the stage supersedes the failure")
	refused(t, complete(free.ID, "SKU-3"), tcps.CodeInvalidTransition, "")
	b.sound()
}

func TestCancelFreesWhatTheOrderHeld(t *testing.T) {
	b := start(t)
	_, err := b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: "WO-1"})
	refused(t, err, tcps.CodeMissingRequiredField, "reason")
	_, err = b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: "WO-1", Reason: "  "})
	refused(t, err, tcps.CodeInvalidField, "reason")
	_, err = b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: "WO-1", Reason: "no"})
	refused(t, err, tcps.CodeNotFound, "")

	w := b.running(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
	waits := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.Dependencies = []string{w.ID} })
	w, err = b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: w.ID, Reason: "customer left"})
	require.NoError(t, err)
	require.Equal(t, tcps.StatusCancelled, w.Status)
	require.Equal(t, "customer left", w.CancellationReason)
	require.Equal(t, tcps.StatusQueued, b.get(waits.ID).Status)
	wip, err := b.WIP(b.ctx, "features")
	require.NoError(t, err)
	require.Zero(t, wip.Current)
	_, err = b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: w.ID, Reason: "again"})
	refused(t, err, tcps.CodeInvalidTransition, "")

	a := b.andon("SKU-2", func(in *tcps.TriggerAndonInput) { in.WorkOrderID = waits.ID })
	_, err = b.CancelWorkOrder(b.ctx, tcps.CancelWorkOrderInput{ID: waits.ID, Reason: "no"})
	require.NoError(t, err)
	b.resolve(a.EventID)
	require.Equal(t, tcps.StatusCancelled, b.get(waits.ID).Status, "resolving does not wake a cancelled order")
	b.sound()
}

func TestDeletedOrdersKeepTheirHistory(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketFeatures)
	_, err := b.DeleteWorkOrder(b.ctx, tcps.DeleteWorkOrderInput{ID: w.ID})
	refused(t, err, tcps.CodeDeleteForbidden, "")

	b = startWith(t, tcps.Options{AllowDelete: true})
	w = b.order(tcps.BucketFeatures)
	dependent := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.Dependencies = []string{w.ID} })
	_, err = b.DeleteWorkOrder(b.ctx, tcps.DeleteWorkOrderInput{ID: w.ID})
	refused(t, err, tcps.CodeHasDependents, "")
	_, err = b.DeleteWorkOrder(b.ctx, tcps.DeleteWorkOrderInput{ID: dependent.ID})
	require.NoError(t, err)
	_, err = b.DeleteWorkOrder(b.ctx, tcps.DeleteWorkOrderInput{ID: w.ID})
	require.NoError(t, err)
	_, err = b.GetWorkOrder(b.ctx, w.ID)
	refused(t, err, tcps.CodeNotFound, "")
	h, err := b.History(b.ctx, tcps.EntityWorkOrder, w.ID, 0)
	require.NoError(t, err)
	require.Equal(t, tcps.ActionDeleted, h[0].Action)
	require.Equal(t, tcps.ActionCreated, h[len(h)-1].Action)
	b.sound()
}

func TestListPagesNewestFirst(t *testing.T) {
	b := start(t)
	var ids []string
	for i := range 25 {
		bucket := tcps.Buckets()[i%6]
		ids = append(ids, b.order(bucket).ID)
		if i%3 == 0 {
			b.clock.advance(time.Second)
		}
	}
	var got []string
	in := tcps.ListWorkOrdersInput{Limit: 4}
	for pages := 1; ; pages++ {
		page, err := b.ListWorkOrders(b.ctx, in)
		require.NoError(t, err)
		for _, w := range page.WorkOrders {
			got = append(got, w.ID)
		}
		if page.NextCursor == "" {
			require.Equal(t, 7, pages)
			break
		}
		in.Cursor = page.NextCursor
	}
	for i, j := 0, len(ids)-1; i < j; i, j = i+1, j-1 {
		ids[i], ids[j] = ids[j], ids[i]
	}
	require.Equal(t, ids, got)

	started := b.begin(ids[0])
	page, err := b.ListWorkOrders(b.ctx, tcps.ListWorkOrdersInput{Status: "InProgress"})
	require.NoError(t, err)
	require.Len(t, page.WorkOrders, 1)
	require.Equal(t, started.ID, page.WorkOrders[0].ID)
	page, err = b.ListWorkOrders(b.ctx, tcps.ListWorkOrdersInput{Bucket: "debt"})
	require.NoError(t, err)
	require.Len(t, page.WorkOrders, 4)

	for in, code := range map[tcps.ListWorkOrdersInput]tcps.Code{
		{Status: "sleeping"}: tcps.CodeInvalidStatus, {Bucket: "kitchen"}: tcps.CodeInvalidBucket, {Limit: -1}: tcps.CodeInvalidField,
		{Limit: 1001}: tcps.CodeInvalidField, {Cursor: "!"}: tcps.CodeInvalidCursor, {Cursor: "AAAA"}: tcps.CodeInvalidCursor,
	} {
		_, err := b.ListWorkOrders(b.ctx, in)
		var e *tcps.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, code, e.Code)
	}
}
