package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/mcp"
)

func listTasks(t *testing.T, dir string, flags ...string) []mcp.TaskInfo {
	t.Helper()
	r := run(t, append([]string{"task", "list", "--data", dir, "--json"}, flags...)...)
	require.Zero(t, r.code, r.stderr)
	var page admin.TaskPage
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &page))
	return page.Tasks
}

func showTask(t *testing.T, dir, id string) mcp.TaskInfo {
	t.Helper()
	r := run(t, "task", "show", "--data", dir, "--json", id)
	require.Zero(t, r.code, r.stderr)
	var info mcp.TaskInfo
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &info))
	return info
}

func TestTasksAreListedShownCancelledAndRetriedOnARunningAndAStoppedServer(t *testing.T) {
	s := start(t, t.TempDir())
	require.Empty(t, listTasks(t, s.dir))
	session := s.connect()
	good, err := session.CallTool(context.Background(), &sdk.CallToolParams{Name: "store_verify"})
	require.NoError(t, err)
	require.False(t, good.IsError, "%v", good.Content)
	bad, err := session.CallTool(context.Background(), &sdk.CallToolParams{
		Name: "store_verify", Arguments: map[string]any{"skip": []string{"ledger", "nonsense"}},
	})
	require.NoError(t, err)
	require.True(t, bad.IsError)

	require.Len(t, listTasks(t, s.dir), 2)
	require.Len(t, listTasks(t, s.dir, "--status", "completed", "--tool", "store_verify", "--principal", mcp.Anonymous), 2)
	require.Empty(t, listTasks(t, s.dir, "--status", "working"))
	require.Len(t, listTasks(t, s.dir, "--limit", "1"), 1)
	require.Equal(t, exitUsage, run(t, "task", "list", "--status", "sleeping").code)
	var verified, refused string
	for _, info := range listTasks(t, s.dir) {
		if len(showTask(t, s.dir, info.ID).Steps) == 2 {
			verified = info.ID
		} else {
			refused = info.ID
		}
	}
	require.NotEmpty(t, verified)
	require.Contains(t, run(t, "task", "list", "--data", s.dir).stdout, verified)
	text := run(t, "task", "show", "--data", s.dir, verified[:8]).stdout
	require.Contains(t, text, `step "ledger"`)
	require.Contains(t, text, "intact")
	require.Contains(t, run(t, "__complete", "task", "show", "--data", s.dir, verified[:5]).stdout, verified)

	r := run(t, "task", "retry", "--data", s.dir, verified)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "only a task that failed")
	r = run(t, "task", "cancel", "--data", s.dir, verified)
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "completed", "a task that has ended stays as it is")
	r = run(t, "task", "cancel", "--data", s.dir, "NOTHING")
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "no such task")
	require.NoError(t, session.Close())
	require.Zero(t, s.stop())

	// The stopped directory.
	require.Len(t, listTasks(t, s.dir), 2)
	r = run(t, "task", "retry", "--data", s.dir, refused)
	require.Zero(t, r.code, r.stderr)
	require.Equal(t, mcp.TaskWorking, showTask(t, s.dir, refused).Status)
	again := start(t, s.dir)
	require.Eventually(t, func() bool {
		info := showTask(t, s.dir, refused)
		return info.Status == mcp.TaskCompleted && info.Attempt == 2
	}, patience, 50*time.Millisecond)
	require.Zero(t, again.stop())
	r = run(t, "task", "list", "--data", t.TempDir())
	require.Equal(t, exitFailure, r.code)
}
