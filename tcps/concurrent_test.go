package tcps_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

// parallel runs fn in n goroutines and returns their errors.
func parallel(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	return errs
}

func TestConcurrentStartsNeverExceedTheLimit(t *testing.T) {
	b := start(t)
	var ids []string
	for range 24 {
		ids = append(ids, b.order(tcps.BucketCost).ID)
	}
	started := 0
	for _, err := range parallel(len(ids), func(i int) error {
		_, err := b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: ids[i]})
		return err
	}) {
		if err == nil {
			started++
			continue
		}
		require.ErrorIs(t, err, tcps.ErrWIPLimit)
	}
	require.Equal(t, 5, started)
	w, err := b.WIP(b.ctx, "cost")
	require.NoError(t, err)
	require.Equal(t, 5, w.Current)
	b.sound()
}

func TestConcurrentWorkersNeverGetTheSameOrder(t *testing.T) {
	b := start(t)
	_, err := b.SetWIPLimit(b.ctx, tcps.SetWIPLimitInput{Bucket: "cost", Limit: 3})
	require.NoError(t, err)
	const orders = 20
	for range orders {
		b.order(tcps.BucketCost)
	}
	var done atomic.Int64
	var mu sync.Mutex
	seen := map[string]bool{}
	for _, err := range parallel(6, func(i int) error {
		for done.Load() < orders {
			r, err := b.DequeueNext(b.ctx, tcps.DequeueNextInput{Bucket: "cost"})
			if err != nil {
				return err
			}
			if r.WIP.Current > 3 {
				return errors.New("more in progress than the limit allows")
			}
			if r.Outcome != tcps.DequeueOrder {
				continue
			}
			mu.Lock()
			twice := seen[r.WorkOrder.ID]
			seen[r.WorkOrder.ID] = true
			mu.Unlock()
			if twice {
				return errors.New("order " + r.WorkOrder.ID + " was handed out twice")
			}
			if _, err := b.CompleteWorkOrder(b.ctx, tcps.CompleteWorkOrderInput{ID: r.WorkOrder.ID, SKUID: "SKU-" + r.WorkOrder.ID}); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	require.Len(t, seen, orders)
	b.sound()
}

func TestConcurrentCreatesDoNotConflict(t *testing.T) {
	b := start(t)
	before := b.store.Stats()
	for _, err := range parallel(8, func(int) error {
		for range 20 {
			if _, err := b.CreateWorkOrder(b.ctx, tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s"}}); err != nil {
				return err
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	after := b.store.Stats()
	require.Equal(t, before.Conflicts, after.Conflicts, "creates in one bucket touch nothing in common")
	require.Len(t, b.queued(tcps.BucketFeatures), 160)
	b.sound()
}

func TestConcurrentCrossDependenciesCannotCloseACycle(t *testing.T) {
	for range 10 {
		b := start(t)
		x, y := b.order(tcps.BucketCost), b.order(tcps.BucketCost)
		pairs := [][2]string{{x.ID, y.ID}, {y.ID, x.ID}}
		failures := 0
		for _, err := range parallel(2, func(i int) error {
			_, err := b.AddDependency(b.ctx, tcps.AddDependencyInput{ID: pairs[i][0], DependsOn: pairs[i][1]})
			return err
		}) {
			if err != nil {
				require.ErrorIs(t, err, tcps.ErrCircularDependency)
				failures++
			}
		}
		require.Equal(t, 1, failures)
	}
}

func TestConcurrentReceiptsNeverFork(t *testing.T) {
	b := start(t)
	w := b.order(tcps.BucketCost)
	stored := 0
	for _, err := range parallel(12, func(int) error {
		_, err := b.StoreReceipt(b.ctx, pipeline(w.ID, "pull"))
		return err
	}) {
		if err == nil {
			stored++
			continue
		}
		require.ErrorIs(t, err, tcps.ErrReceiptFork)
	}
	require.Equal(t, 1, stored)
	for _, err := range parallel(8, func(int) error {
		_, err := b.StoreReceipt(b.ctx, production("SKU-1", "compile", "fail"))
		return err
	}) {
		require.NoError(t, err, "attempts are lined up behind each other")
	}
	rep, err := b.VerifyChain(b.ctx, tcps.VerifyChainInput{SKUID: "SKU-1"})
	require.NoError(t, err)
	require.Len(t, rep.Receipts, 8)
	require.True(t, rep.Valid, "%v", rep.Issues)
	b.sound()
}

func TestAnAndonAndAStartCannotMissEachOther(t *testing.T) {
	for range 10 {
		b := start(t)
		w := b.order(tcps.BucketCost, func(in *tcps.CreateWorkOrderInput) { in.SKUID = "SKU-1" })
		parallel(3, func(i int) error {
			var err error
			switch i {
			case 0:
				_, err = b.TriggerAndon(b.ctx, tcps.TriggerAndonInput{FailureType: "test_failure", SKUID: "SKU-1", Stage: "testing"})
			case 1:
				_, err = b.StartWorkOrder(b.ctx, tcps.StartWorkOrderInput{ID: w.ID})
			default:
				_, err = b.CreateWorkOrder(b.ctx, tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "internal_request", Source: "s"}, SKUID: "SKU-1"})
			}
			return err
		})
		page, err := b.ListWorkOrders(b.ctx, tcps.ListWorkOrdersInput{})
		require.NoError(t, err)
		require.Len(t, page.WorkOrders, 2)
		for _, w := range page.WorkOrders {
			require.Equal(t, tcps.StatusBlocked, w.Status, "whatever the order of events, the line stands")
		}
		b.sound()
	}
}
