package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/mcp"
)

// connectSession opens a session of protocol 2025-11-25.
func (s *server) connectSession() *sdk.ClientSession {
	s.t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "session-test", Version: "7"}, nil)
	session, err := client.Connect(context.Background(), &sdk.StreamableClientTransport{Endpoint: s.run.MCPURL, MaxRetries: -1},
		&sdk.ClientSessionOptions{ProtocolVersion: "2025-11-25"})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = session.Close() })
	return session
}

func listSessions(t *testing.T, dir string) []mcp.SessionInfo {
	t.Helper()
	r := run(t, "session", "list", "--data", dir, "--json")
	require.Zero(t, r.code, r.stderr)
	var page admin.SessionPage
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &page))
	return page.Sessions
}

func TestSessionsAreListedShownAndEndedOnARunningAndAStoppedServer(t *testing.T) {
	s := start(t, t.TempDir())
	require.Empty(t, listSessions(t, s.dir))
	first, second := s.connectSession(), s.connectSession()
	require.NoError(t, first.Subscribe(context.Background(), &sdk.SubscribeParams{URI: "tcps://andon"}))

	list := listSessions(t, s.dir)
	require.Len(t, list, 2)
	for _, info := range list {
		require.Equal(t, "session-test", info.Client)
		require.Equal(t, "2025-11-25", info.Protocol)
		require.Equal(t, mcp.Anonymous, info.Principal)
		require.True(t, info.Initialized)
		require.True(t, info.InMemory)
	}
	require.Contains(t, run(t, "session", "list", "--data", s.dir).stdout, first.ID())
	require.Contains(t, run(t, "__complete", "session", "show", "--data", s.dir, first.ID()[:5]).stdout, first.ID())

	show := func() mcp.SessionInfo {
		r := run(t, "session", "show", "--data", s.dir, "--json", first.ID()[:12])
		require.Zero(t, r.code, r.stderr)
		var info mcp.SessionInfo
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &info))
		return info
	}
	require.Equal(t, []string{"tcps://andon"}, show().Subscriptions)
	require.Contains(t, run(t, "session", "show", "--data", s.dir, first.ID()).stdout, "tcps://andon")

	r := run(t, "session", "terminate", "--data", s.dir, second.ID())
	require.Zero(t, r.code, r.stderr)
	_, err := second.ListTools(context.Background(), nil)
	require.Error(t, err)
	r = run(t, "session", "terminate", "--data", s.dir, second.ID())
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "no such session")

	s.kill()
	require.Len(t, listSessions(t, s.dir), 1)
	require.Equal(t, []string{"tcps://andon"}, show().Subscriptions)
	require.False(t, show().InMemory)
	r = run(t, "session", "terminate", "--data", s.dir, first.ID())
	require.Zero(t, r.code, r.stderr)
	require.Empty(t, listSessions(t, s.dir))
}

func TestSessionCommandsWhereNothingIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	for _, args := range [][]string{{"list"}, {"show", "abc"}, {"terminate", "abc"}} {
		r := run(t, append(append([]string{"session"}, args...), "--data", dir)...)
		require.Equal(t, exitFailure, r.code)
		require.Contains(t, r.stderr, dir)
	}
	require.NoDirExists(t, dir)
	require.Equal(t, exitUsage, run(t, "session", "show").code)
	require.Equal(t, exitUsage, run(t, "session", "lst").code)
}
