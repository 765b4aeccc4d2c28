package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/bench/mcpclient"
	"github.com/erlmcp/erlmcp/bench/mcpserve"
)

// TestEveryServerAnswersTheGenerator: a generator that takes wrong answers for
// right ones would measure nothing.
func TestEveryServerAnswersTheGenerator(t *testing.T) {
	for _, b := range mcpserve.Backends() {
		s, err := startServer(b, filepath.Join(t.TempDir(), "data"), "")
		require.NoError(t, err, b.Name)
		for _, version := range []string{mcpclient.Old, mcpclient.New} {
			c, err := mcpclient.Dial(s.address, s.path(version), version)
			require.NoError(t, err)
			if version == mcpclient.Old {
				require.NoError(t, c.Initialize(), b.Name)
				require.NotEmpty(t, c.Session)
			}
			for range 3 {
				require.NoError(t, c.Echo(payload), "%s %s", b.Name, version)
			}
			_, err = c.Call("none", `{}`)
			require.Error(t, err, "%s %s: a tool that does not exist", b.Name, version)
			_ = c.Close()
		}
		m, err := s.memory()
		require.NoError(t, err)
		require.Positive(t, m.Resident)
		s.stop()
	}
}

func TestSessionsAndTasksAreDurableInTheBenchmark(t *testing.T) {
	b, err := mcpserve.Pick("erlmcp")
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "data")
	s, err := startServer(b, dir, "")
	require.NoError(t, err)
	c, err := mcpclient.Dial(s.address, s.Old, mcpclient.Old)
	require.NoError(t, err)
	require.NoError(t, c.Initialize())
	session := c.Session
	tasks, err := mcpclient.Dial(s.address, s.New, mcpclient.New)
	require.NoError(t, err)
	require.NoError(t, tasks.Task("task", payload))
	s.kill()
	s, err = startServer(b, dir, "")
	require.NoError(t, err)
	defer s.stop()
	c, err = mcpclient.Dial(s.address, s.Old, mcpclient.Old)
	require.NoError(t, err)
	c.Session = session
	require.NoError(t, c.Echo(payload))
}
