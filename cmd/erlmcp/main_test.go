package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
)

// binary is the program under test, built once and the way `make build` does it.
var binary string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "erlmcp-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "erlmcp")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-X github.com/erlmcp/erlmcp/internal/version.stamp=v0.0.0-test", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build erlmcp: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// patience is how long a test waits for something that takes milliseconds on an idle machine.
const patience = 30 * time.Second

// environment of the programs under test: nothing of the developer's own settings.
func environment(t testing.TB, extra ...string) []string {
	env := []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	return append(env, extra...)
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// run executes a command that ends by itself.
func run(t testing.TB, args ...string) result {
	t.Helper()
	return runEnv(t, environment(t), args...)
}

func runEnv(t testing.TB, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &stdout, &stderr
	err := cmd.Run()
	require.NoError(t, ctx.Err(), "erlmcp %v did not end; stderr:\n%s", args, stderr.String())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// buffer collects output that is read while it grows.
type buffer struct {
	mu  sync.Mutex
	b   bytes.Buffer
	new chan struct{} // one token when something was written
}

func newBuffer() *buffer { return &buffer{new: make(chan struct{}, 1)} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.new <- struct{}{}:
	default:
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// server is a running `erlmcp serve`.
type server struct {
	t              testing.TB
	cmd            *exec.Cmd
	dir            string
	stdout, stderr *buffer
	ended          chan struct{}
	run            admin.RunFile
}

// start runs `erlmcp serve` on dir with free ports and waits until its banner is complete.
func start(t testing.TB, dir string, args ...string) *server {
	t.Helper()
	return startEnv(t, environment(t), dir, args...)
}

func startEnv(t testing.TB, env []string, dir string, args ...string) *server {
	t.Helper()
	s := launch(t, env, append([]string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}, args...)...)
	s.dir = dir
	timeout := time.After(patience)
	for !strings.Contains(s.stdout.String(), "Ctrl-C stops it.") {
		select {
		case <-s.stdout.new:
		case <-s.ended:
			require.FailNow(t, "the server ended at its start", "exit %d\n%s", s.cmd.ProcessState.ExitCode(), s.stderr.String())
		case <-timeout:
			require.FailNow(t, "the server did not get ready", s.stderr.String())
		}
	}
	var err error
	s.run, err = admin.ReadRunFile(dir)
	require.NoError(t, err)
	return s
}

// launch starts a command and makes sure that it is gone when the test ends.
func launch(t testing.TB, env []string, args ...string) *server {
	t.Helper()
	s := &server{t: t, stdout: newBuffer(), stderr: newBuffer(), ended: make(chan struct{})}
	s.cmd = exec.Command(binary, args...)
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = env, s.stdout, s.stderr
	require.NoError(t, s.cmd.Start())
	go func() {
		_ = s.cmd.Wait() // the exit code is read from ProcessState
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.ended
		if t.Failed() {
			t.Logf("stderr of %v:\n%s", args, s.stderr.String())
		}
	})
	return s
}

// stop sends SIGTERM and returns the exit code.
func (s *server) stop() int {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	return s.wait()
}

func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.ended:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		require.FailNow(s.t, "the server did not end", s.stderr.String())
		return -1
	}
}

// kill ends the server like a power failure would, as far as the process is concerned.
func (s *server) kill() {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Kill())
	<-s.ended
}

func (s *server) url(path string) string { return "http://" + s.run.Listen + path }

// get fetches a URL and decodes its JSON when into is not nil.
func get(t testing.TB, url string, into any) (code int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if into != nil {
		require.NoError(t, json.Unmarshal(raw, into), "%s", raw)
	}
	return resp.StatusCode, string(raw)
}

// connect opens a session of the official SDK's client.
func (s *server) connect() *sdk.ClientSession {
	s.t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(context.Background(), &sdk.StreamableClientTransport{Endpoint: s.run.MCPURL}, nil)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = session.Close() })
	return session
}

// call calls a tool and decodes its structured answer.
func call(t testing.TB, session *sdk.ClientSession, tool string, args map[string]any, into any) {
	t.Helper()
	res, err := session.CallTool(context.Background(), &sdk.CallToolParams{Name: tool, Arguments: args})
	require.NoError(t, err)
	raw, err := json.Marshal(res.StructuredContent)
	require.NoError(t, err)
	require.False(t, res.IsError, "%s: %s", tool, raw)
	if into != nil {
		require.NoError(t, json.Unmarshal(raw, into))
	}
}
