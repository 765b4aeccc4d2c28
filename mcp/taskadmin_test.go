package mcp_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// operatorGate is a store in which changes by operators wait for release.
type operatorGate struct {
	mcp.Store
	arrived, release chan struct{}
	changes          atomic.Int32
}

func (g *operatorGate) Update(ctx context.Context, fn func(*engine.Tx) error, o ...engine.TxOption) (engine.Result, error) {
	return g.Store.Update(ctx, func(tx *engine.Tx) error {
		if tx.Actor() == "operator" {
			g.changes.Add(1)
			g.arrived <- struct{}{}
			<-g.release
		}
		return fn(tx)
	}, o...)
}

func TestOperatorsWaitNoLongerThanTheyWant(t *testing.T) {
	gate := &operatorGate{Store: auditStore(t), arrived: make(chan struct{}, 10), release: make(chan struct{})}
	r, err := mcp.NewRuntime(gate, mcp.Options{Audit: mcp.AuditOptions{Off: true}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	started, stopped := make(chan struct{}), make(chan struct{})
	mcp.AddTaskTool(r, &sdk.Tool{Name: "long", Description: "runs until it is cancelled"}, mcp.TaskOptions{},
		func(ctx context.Context, task *mcp.Task, _ struct{}) (any, error) {
			if task.Attempt() > 1 {
				return nil, nil
			}
			close(started)
			<-ctx.Done()
			close(stopped)
			return nil, ctx.Err()
		})
	id := taskAs(t, r, "", "long").str("taskId")
	<-started

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, change := range []func(context.Context, string) (mcp.TaskInfo, error){r.CancelTask, r.RetryTask} {
		_, err = change(gone, id)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "unchanged")
	}
	require.Zero(t, gate.changes.Load())

	leaving, leave := context.WithCancelCause(t.Context())
	answer := make(chan error, 1)
	go func() {
		_, err := r.CancelTask(leaving, id)
		answer <- err
	}()
	<-gate.arrived
	leave(context.DeadlineExceeded)
	err = <-answer // before the store has answered
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "may still happen")
	close(gate.release)
	<-stopped // what follows from the change happens all the same
	require.Eventually(t, func() bool { return r.Stats().Tasks.Cancelled == 1 }, 20*time.Second, time.Millisecond)
	info, err := r.CancelTask(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, mcp.TaskCancelled, info.Status)
	_, err = r.RetryTask(t.Context(), id)
	require.NoError(t, err)
}
