package tcps_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

func TestNewNeedsTheIndexes(t *testing.T) {
	_, err := tcps.New(nil, tcps.Options{})
	require.Error(t, err)
	b := start(t)
	require.NoError(t, b.store.Close())
	var openErr error
	b.store, openErr = engine.Open("other", engine.Options{FS: b.fs, Now: b.clock.now, SweepInterval: -1})
	require.NoError(t, openErr)
	_, err = tcps.New(b.store, tcps.Options{})
	require.ErrorContains(t, err, "tcps.Indexes()")
}

func TestARepeatedIdempotencyKeyReturnsTheFirstResult(t *testing.T) {
	b := start(t)
	ctx := tcps.WithIdempotencyKey(b.ctx, "key-1")
	in := tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s", Metadata: map[string]any{"n": 1.5}}}
	first, err := b.CreateWorkOrder(ctx, in)
	require.NoError(t, err)
	b.clock.advance(time.Minute)
	again, err := b.CreateWorkOrder(ctx, in)
	require.NoError(t, err)
	require.Equal(t, first, again)
	b.restart()
	again, err = b.CreateWorkOrder(ctx, in)
	require.NoError(t, err)
	require.Equal(t, first, again, "also after a restart")
	page, err := b.ListWorkOrders(b.ctx, tcps.ListWorkOrdersInput{})
	require.NoError(t, err)
	require.Len(t, page.WorkOrders, 1)

	in.Priority = 5
	_, err = b.CreateWorkOrder(ctx, in)
	refused(t, err, tcps.CodeIdempotencyMismatch, "idempotency_key")
	_, err = b.StartWorkOrder(ctx, tcps.StartWorkOrderInput{ID: first.ID})
	refused(t, err, tcps.CodeIdempotencyMismatch, "idempotency_key")

	_, err = b.CreateWorkOrder(tcps.WithIdempotencyKey(b.ctx, strings.Repeat("k", 513)), in)
	refused(t, err, tcps.CodeInvalidIdempotencyKey, "idempotency_key")
	_, err = b.CreateWorkOrder(tcps.WithIdempotencyKey(b.ctx, "\xff"), in)
	refused(t, err, tcps.CodeInvalidIdempotencyKey, "idempotency_key")
	_, err = b.CreateWorkOrder(tcps.WithIdempotencyKey(b.ctx, ""), in)
	require.NoError(t, err, "an empty key is no key")
	b.sound()
}

func TestARepeatedKeyReturnsTheFirstRefusalIfThatWasRecorded(t *testing.T) {
	b := start(t)
	w := b.running(tcps.BucketFeatures)
	ctx := tcps.WithIdempotencyKey(b.ctx, "gate")
	in := tcps.ProgressWorkOrderInput{ID: w.ID, Stage: "implementation", Evidence: map[string]any{"errors": 2}}
	_, err := b.ProgressWorkOrder(ctx, in)
	first := refused(t, err, tcps.CodeGateFailed, "")
	_, err = b.ProgressWorkOrder(ctx, in)
	again := refused(t, err, tcps.CodeGateFailed, "")
	require.Equal(t, first.Details["andon_event_id"], again.Details["andon_event_id"])
	n, err := b.CountOpenAndons(b.ctx)
	require.NoError(t, err)
	require.Equal(t, 1, n)

	// A refusal that changed nothing is not remembered: the call may succeed later.
	ctx = tcps.WithIdempotencyKey(b.ctx, "start")
	_, err = b.StartWorkOrder(ctx, tcps.StartWorkOrderInput{ID: w.ID})
	refused(t, err, tcps.CodeBlockedByAndons, "")
	b.resolve(first.Details["andon_event_id"].(string))
	_, err = b.StartWorkOrder(ctx, tcps.StartWorkOrderInput{ID: w.ID})
	require.NoError(t, err)
	b.sound()
}

func TestHistoryTellsWhoDidWhat(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketFeatures)
	b.clock.advance(time.Minute)
	_, err := b.StartWorkOrder(tcps.WithActor(b.ctx, "mcp:claude"), tcps.StartWorkOrderInput{ID: w.ID})
	require.NoError(t, err)
	_, err = b.CancelWorkOrder(context.Background(), tcps.CancelWorkOrderInput{ID: w.ID, Reason: "no"})
	require.NoError(t, err)

	h, err := b.History(b.ctx, "WorkOrder", w.ID, 0)
	require.NoError(t, err)
	require.Len(t, h, 3)
	for i, want := range []struct {
		operation, actor string
		action           tcps.Action
	}{
		{"cancel_work_order", "system", tcps.ActionUpdated},
		{"start_work_order", "mcp:claude", tcps.ActionUpdated},
		{"create_work_order", "tester", tcps.ActionCreated},
	} {
		require.Equal(t, want.operation, h[i].Operation)
		require.Equal(t, want.actor, h[i].Actor)
		require.Equal(t, want.action, h[i].Action)
		require.Equal(t, uint64(3-i), h[i].Revision)
		require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, h[i].UUID)
	}
	require.Greater(t, h[0].LogIndex, h[1].LogIndex)
	require.Greater(t, h[1].LogIndex, h[2].LogIndex)
	require.Equal(t, tcps.Time("2026-01-26T10:01:00.000Z"), h[1].Timestamp)
	r, err := b.History(b.ctx, tcps.EntityReceipt, w.Receipts[0], 0)
	require.NoError(t, err)
	require.Len(t, r, 1)
	require.Equal(t, h[2].LogIndex, r[0].LogIndex, "order and receipt are one transaction")

	two, err := b.History(b.ctx, tcps.EntityWorkOrder, w.ID, 2)
	require.NoError(t, err)
	require.Equal(t, h[:2], two)
	none, err := b.History(b.ctx, tcps.EntityWorkOrder, "WO-0", 0)
	require.NoError(t, err)
	require.Empty(t, none)
	_, err = b.History(b.ctx, "kitchen", w.ID, 0)
	refused(t, err, tcps.CodeInvalidField, "entity")
	_, err = b.History(b.ctx, tcps.EntityWorkOrder, "", 0)
	refused(t, err, tcps.CodeMissingRequiredField, "entity_id")
	_, err = b.History(b.ctx, tcps.EntityWorkOrder, w.ID, 1001)
	refused(t, err, tcps.CodeInvalidField, "limit")
}

func TestActorNamesAreMadeSafe(t *testing.T) {
	b := start(t)
	for in, want := range map[string]string{"": "system", "  ": "system", " kim ": "kim", "a\xffb": "a?b", strings.Repeat("ä", 200): strings.Repeat("ä", 128)} {
		w, err := b.CreateWorkOrder(tcps.WithActor(context.Background(), in), tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s"}})
		require.NoError(t, err)
		h, err := b.History(b.ctx, tcps.EntityWorkOrder, w.ID, 0)
		require.NoError(t, err)
		require.Equal(t, want, h[0].Actor)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	b := start(t)
	dep := b.running(tcps.BucketFeatures)
	w := b.order(tcps.BucketFeatures, func(in *tcps.CreateWorkOrderInput) { in.Dependencies, in.SKUID = []string{dep.ID}, "SKU-1" })
	b.produce("SKU-1", time.Minute)
	a := b.andon("SKU-1")
	_, err := b.SetWIPLimit(b.ctx, tcps.SetWIPLimitInput{Bucket: "features", Limit: 1})
	require.NoError(t, err)
	before, err := b.WorkOrderStatus(b.ctx, w.ID)
	require.NoError(t, err)
	hash := func() [32]byte { _, h := b.store.StateHash(); return h }
	was := hash()
	b.restart()
	require.Equal(t, was, hash())
	after, err := b.WorkOrderStatus(b.ctx, w.ID)
	require.NoError(t, err)
	require.Equal(t, before, after)
	_, err = b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: b.order(tcps.BucketFeatures).ID})
	refused(t, err, tcps.CodeWIPLimit, "")
	blocked, err := b.IsBlocked(b.ctx, "SKU-1")
	require.NoError(t, err)
	require.True(t, blocked)
	b.resolve(a.EventID)
	b.complete(dep.ID, "SKU-0")
	require.Equal(t, tcps.StatusQueued, b.get(w.ID).Status)
	b.sound()
}

func TestEngineErrorsAreNotDisguised(t *testing.T) {
	b := start(t)
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err := b.CreateWorkOrder(ctx, tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s"}})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "create_work_order")
	var e *tcps.Error
	require.False(t, errors.As(err, &e))
	_, err = b.GetWorkOrder(ctx, "WO-1")
	require.ErrorIs(t, err, context.Canceled)
}

func TestABrokenRandomSourceIsAnErrorNotADuplicate(t *testing.T) {
	b := start(t)
	for name, r := range map[string]string{"ends": "", "repeats": strings.Repeat("\x00", 1<<16)} {
		l, err := tcps.New(b.store, tcps.Options{Rand: strings.NewReader(r)})
		require.NoError(t, err)
		_, err = l.CreateWorkOrder(b.ctx, tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s"}})
		if name == "ends" {
			require.ErrorContains(t, err, "random source")
		} else {
			require.NoError(t, err, "the clock part of an id never repeats")
		}
	}
	b.sound()
}
