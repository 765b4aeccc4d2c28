package inspector

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// version is the newest release line whose command line runs on Node 20 and
// newer; docs/inspector.md names the same one.
const (
	module  = "@modelcontextprotocol/inspector"
	version = "1.0.3"
)

// unavailable skips the test on a desk, and fails it where nobody would notice
// the skip.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s; CI must run this test", why)
	}
	t.Skipf("%s; the MCP Inspector was not run", why)
}

// install returns the inspector's executable, installing the pinned version
// into a cache that runs of the test share.
func install(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			unavailable(t, program+" is not installed")
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	dir := filepath.Join(cache, "erlmcp", "inspector-"+version)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX), "another test is installing")

	bin := filepath.Join(dir, "node_modules", ".bin", "mcp-inspector")
	done := filepath.Join(dir, "installed") // a killed npm leaves half a tree
	if _, err := os.Stat(done); err == nil {
		return bin
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", module+"@"+version)
	if out, err := npm.CombinedOutput(); err != nil {
		unavailable(t, "npm could not install "+module+": "+err.Error()+"\n"+string(out))
	}
	require.NoError(t, os.WriteFile(done, nil, 0o600))
	return bin
}

// build compiles the real binary.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "erlmcp")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/erlmcp").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return bin
}

// inspect runs the inspector once and decodes what it prints.
func inspect(t *testing.T, program string, args ...string) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"--cli"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%v\n%s\n%s", args, stdout.Bytes(), stderr.Bytes())
	var result map[string]any
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &result), "%v\n%s\n%s", args, stdout.Bytes(), stderr.Bytes())
	return result
}

// serve starts the server over HTTP and returns its MCP URL.
func serve(t *testing.T, erlmcp, data string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), erlmcp, "serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
	var logs bytes.Buffer
	cmd.Stderr = &logs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	var run struct {
		PID int    `json:"pid"`
		URL string `json:"mcp_url"`
	}
	require.Eventually(t, func() bool {
		file, err := os.ReadFile(filepath.Join(data, "serve.json"))
		return err == nil && json.Unmarshal(file, &run) == nil && run.PID == cmd.Process.Pid && run.URL != ""
	}, time.Minute, 20*time.Millisecond)
	return run.URL
}

func names(t *testing.T, result map[string]any, list string) string {
	t.Helper()
	data, err := json.Marshal(result[list])
	require.NoError(t, err)
	return string(data)
}

func TestInspectorDrivesTheServer(t *testing.T) {
	if testing.Short() {
		t.Skip("installs and runs a Node program")
	}
	inspector := install(t)
	erlmcp := build(t)
	data := filepath.Join(t.TempDir(), "data")
	var id string

	t.Run("stdio", func(t *testing.T) {
		stdio := func(args ...string) map[string]any {
			return inspect(t, inspector, append([]string{erlmcp, "serve", "--stdio", "--data", data}, args...)...)
		}
		require.Contains(t, names(t, stdio("--method", "tools/list"), "tools"), `"work_order_create"`)
		created := stdio("--method", "tools/call", "--tool-name", "work_order_create",
			"--tool-arg", `signal={"type":"github_issue","source":"https://example.com/issues/1","labels":["bug"]}`)
		id, _ = created["structuredContent"].(map[string]any)["id"].(string)
		require.True(t, strings.HasPrefix(id, "WO-"), "%v", created)
	})
	require.NotEmpty(t, id)

	t.Run("http", func(t *testing.T) {
		url := serve(t, erlmcp, data)
		http := func(args ...string) map[string]any {
			return inspect(t, inspector, append([]string{url, "--transport", "http"}, args...)...)
		}
		require.Contains(t, names(t, http("--method", "tools/list"), "tools"), `"andon_trigger"`)

		// What one process acknowledged over stdio, another finds.
		found := http("--method", "tools/call", "--tool-name", "work_order_get", "--tool-arg", "id="+id)
		require.Contains(t, names(t, found, "structuredContent"), id)

		refused := http("--method", "tools/call", "--tool-name", "work_order_get", "--tool-arg", "id=WO-none")
		require.Equal(t, true, refused["isError"], "%v", refused)
		require.Equal(t, "not_found", refused["structuredContent"].(map[string]any)["code"])

		require.Contains(t, names(t, http("--method", "resources/templates/list"), "resourceTemplates"), "tcps://work_orders/{id}")
		read := http("--method", "resources/read", "--uri", "tcps://work_orders/"+id)
		require.Contains(t, names(t, read, "contents"), id)
		prompt := http("--method", "prompts/get", "--prompt-name", "plan_next_batch", "--prompt-args", "size=3")
		require.Contains(t, names(t, prompt, "messages"), id)
	})
}
