package mcp_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// asTask is a call of a client with the tasks extension.
func asTask(tool, arguments string) string {
	return strings.Replace(callOf(tool, arguments), `clientCapabilities":{}`,
		`clientCapabilities":{"elicitation":{},"extensions":{"`+mcp.ExtensionTasks+`":{}}}`, 1)
}

// taskAs calls a task tool as somebody.
func taskAs(t testing.TB, r *mcp.Runtime, who, tool string) (a answer) {
	t.Helper()
	require.NoError(t, json.Unmarshal(ask(r, "127.0.0.1:1", who, asTask(tool, `{}`)).Body.Bytes(), &a))
	return a
}

// busy adds "busy", which runs until release is closed, and "idle", which waits for an answer.
func busy(t testing.TB, o mcp.Options) (r *mcp.Runtime, release chan struct{}) {
	t.Helper()
	o.Audit.Off = true
	r, err := mcp.NewRuntime(auditStore(t), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	release = make(chan struct{})
	mcp.AddTaskTool(r, &sdk.Tool{Name: "busy", Description: "works"}, mcp.TaskOptions{},
		func(context.Context, *mcp.Task, struct{}) (any, error) { <-release; return "x", nil })
	mcp.AddTaskTool(r, &sdk.Tool{Name: "idle", Description: "waits"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, task *mcp.Task, _ struct{}) (any, error) {
			_, err := task.Elicit(ctx, nameForm())
			return "x", err
		})
	return r, release
}

// refusedFor checks that a is a refusal for want of room in a limit.
func refusedFor(t *testing.T, a answer, limit string, most int) {
	t.Helper()
	require.NotNil(t, a.Error)
	require.Equal(t, mcp.CodeOverloaded, a.Error.Code)
	require.Contains(t, a.Error.Message, "nothing was stored")
	require.Contains(t, a.Error.Message, "try again")
	require.Contains(t, a.Error.Message, limit)
	require.Equal(t, map[string]any{"limit": "mcp.tasks." + limit, "max": float64(most)}, a.Error.Data)
}

func TestOnePrincipalCannotFillTheQueue(t *testing.T) {
	r, release := busy(t, mcp.Options{
		Authenticator: people{"ann": nil, "bob": nil, "eve": nil, "joe": nil, "kim": nil}, Tasks: mcp.TaskLimits{Workers: 1, Queue: 8},
	})
	require.Nil(t, taskAs(t, r, "ann", "busy").Error)
	require.Eventually(t, func() bool { return r.Stats().Tasks.Running == 1 }, 20*time.Second, time.Millisecond)
	for _, who := range []string{"ann", "bob", "eve", "joe"} { // a quarter each
		for range 2 {
			require.Nil(t, taskAs(t, r, who, "busy").Error, "%s has room", who)
		}
		if who != "joe" {
			refusedFor(t, taskAs(t, r, who, "busy"), "queue_per_principal", 2)
		}
	}
	refusedFor(t, taskAs(t, r, "kim", "busy"), "queue", 8)
	close(release)
	require.Eventually(t, func() bool { return r.Stats().Tasks.Completed == 9 }, 20*time.Second, time.Millisecond)
	require.Nil(t, taskAs(t, r, "ann", "busy").Error, "there is room again")
}

func TestOnePrincipalCannotHaveAllUnfinishedTasks(t *testing.T) {
	store := auditStore(t)
	limits := mcp.TaskLimits{Unfinished: 8, WaitGrace: time.Millisecond}
	start := func() *mcp.Runtime {
		r, err := mcp.NewRuntime(store, mcp.Options{Authenticator: people{"ann": nil, "bob": nil}, Tasks: limits, Audit: mcp.AuditOptions{Off: true}})
		require.NoError(t, err)
		mcp.AddTaskTool(r, &sdk.Tool{Name: "idle", Description: "waits"}, mcp.TaskOptions{Resumable: true},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (any, error) {
				_, err := task.Elicit(ctx, nameForm())
				return "x", err
			})
		return r
	}
	r := start()
	first := taskAs(t, r, "ann", "idle")
	require.Nil(t, first.Error)
	require.Nil(t, taskAs(t, r, "ann", "idle").Error)
	refusedFor(t, taskAs(t, r, "ann", "idle"), "unfinished_per_principal", 2)
	require.Nil(t, taskAs(t, r, "bob", "idle").Error)
	suspended(t, r, 3)
	require.NoError(t, r.Close())

	r = start() // the next runtime counts what it finds
	defer r.Close()
	require.Eventually(t, func() bool { return r.Stats().Tasks.Waiting == 3 }, 20*time.Second, time.Millisecond)
	refusedFor(t, taskAs(t, r, "ann", "idle"), "unfinished_per_principal", 2)
	_, err := r.CancelTask(t.Context(), first.str("taskId"))
	require.NoError(t, err)
	require.Nil(t, taskAs(t, r, "ann", "idle").Error, "there is room again")
}

func TestClientsThatCannotBeToldApartShareTheWholeQueue(t *testing.T) {
	r, release := busy(t, mcp.Options{Tasks: mcp.TaskLimits{Workers: 1, Queue: 8}})
	require.Nil(t, taskAs(t, r, "", "busy").Error)
	require.Eventually(t, func() bool { return r.Stats().Tasks.Running == 1 }, 20*time.Second, time.Millisecond)
	for range 8 {
		require.Nil(t, taskAs(t, r, "", "busy").Error)
	}
	// Every worker is busy until release is closed, which comes behind the answer: nothing waits for a worker.
	const tries = 200
	took := make([]time.Duration, tries)
	for i := range took {
		begin := time.Now()
		refusedFor(t, taskAs(t, r, "", "busy"), "queue", 8)
		took[i] = time.Since(begin)
	}
	require.Equal(t, 1, r.Stats().Tasks.Running)
	slices.Sort(took)
	t.Logf("a refused call takes %s (median of %d; slowest %s)", took[tries/2], tries, took[tries-1])
	close(release)
}
