package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/faults/faultfs"
	"github.com/erlmcp/erlmcp/test/load"
	"github.com/erlmcp/erlmcp/test/process"
)

// product is the binary that users run, faulty the same with the injector.
var product, faulty string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "erlmcp-faults-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if product, err = process.Build(dir); err != nil {
		return 0, err
	}
	if faulty, err = process.Build(dir, "faults"); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// site is a data directory with its disk's rules and the crowd that works in it.
type site struct {
	t            *testing.T
	dir, control string
	args         []string
	crowd        *load.Load
	server       *process.Server
}

// smallSegments make the log rotate many times a second.
var smallSegments = []string{"--set", "storage.segment_size=128KiB", "--set", "storage.max_value_bytes=32KiB"}

// newSite prepares a directory. The free-space check is off: it must not come before the disk's own refusal.
func newSite(t *testing.T, clients int, args ...string) *site {
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "data"), control: filepath.Join(t.TempDir(), "rules")}
	s.args = append([]string{"--set", "storage.min_free_disk=0"}, args...)
	s.crowd = load.New(clients, 0, seed(t))
	require.NoError(t, os.MkdirAll(s.dir, 0o700))
	t.Cleanup(func() {
		if s.server != nil {
			s.server.Kill()
			if t.Failed() {
				t.Logf("stderr of the last server:\n%s", s.server.Stderr())
			}
		}
	})
	return s
}

func seed(t *testing.T) uint64 {
	n := uint64(time.Now().UnixNano())
	if v := os.Getenv("ERLMCP_FAULTS_SEED"); v != "" {
		var err error
		n, err = strconv.ParseUint(v, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("seed %d (repeat with ERLMCP_FAULTS_SEED=%d)", n, n)
	return n
}

// rules replaces the control file; what begins from now on follows them.
func (s *site) rules(text string) {
	tmp := s.control + ".new"
	require.NoError(s.t, os.WriteFile(tmp, []byte(text), 0o600))
	require.NoError(s.t, os.Rename(tmp, s.control))
}

func (s *site) options() process.Options {
	return process.Options{Binary: faulty, Dir: s.dir, Args: s.args, Env: []string{faultfs.Variable + "=" + s.control}}
}

// start runs a server whose disk follows the rules as they are.
func (s *site) start() {
	var err error
	s.server, err = process.Start(s.options())
	require.NoError(s.t, err)
}

func (s *site) prepare() { require.NoError(s.t, s.crowd.Prepare(context.Background(), s.server)) }

// work lets the crowd work for a while without any trouble expected.
func (s *site) work(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	require.Empty(s.t, s.crowd.Run(ctx, s.server))
	require.Empty(s.t, s.crowd.Violations())
}

// workUntilRefused lets the crowd work until the full disk has refused something.
func (s *site) workUntilRefused() {
	deadline := time.Now().Add(process.Patience)
	for s.crowd.Totals().Refused["no_space"] == 0 {
		require.True(s.t, time.Now().Before(deadline), "the disk is full and no write was refused")
		s.work(300 * time.Millisecond) // refusals are answers: nobody is cut off
	}
}

// nothingLost settles what has no answer and holds the server against the crowd's own record.
func (s *site) nothingLost() {
	require.NoError(s.t, s.crowd.Settle(context.Background(), s.server))
	require.NoError(s.t, s.crowd.Compare(context.Background(), s.server, load.Everything))
	require.Empty(s.t, s.crowd.Violations())
}

// stopAndVerify ends the server gracefully and checks the directory.
func (s *site) stopAndVerify() {
	code, err := s.server.Stop()
	require.NoError(s.t, err)
	require.Zero(s.t, code, s.server.Stderr())
	code, out, err := process.Command(context.Background(), product, "verify", "--data", s.dir)
	require.NoError(s.t, err)
	require.Zero(s.t, code, out)
}

func (s *site) metrics() map[string]float64 {
	c := s.server.Caller()
	defer c.Close()
	m, err := c.Metrics(context.Background())
	require.NoError(s.t, err)
	return m
}
