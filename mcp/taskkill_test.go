package mcp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// killDir is set for the process that TestTasksSurviveKill9 starts and kills.
const killDir = "ERLMCP_TASK_KILL_DIR"

// TestTaskServerProcess is no test but that process.
func TestTaskServerProcess(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("runs as a child of TestTasksSurviveKill9")
	}
	store, err := engine.Open(filepath.Join(dir, "data"), engine.Options{SegmentSize: 1 << 20, MemTableSize: 256 << 10})
	require.NoError(t, err)
	rt, err := mcp.NewRuntime(store, mcp.Options{})
	require.NoError(t, err)
	note := func(format string, args ...any) error {
		f, err := os.OpenFile(filepath.Join(dir, "world"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = fmt.Fprintf(f, format+"\n", args...)
		return err
	}
	addGreet(rt)
	mcp.AddTaskTool(rt, &sdk.Tool{Name: "steps", Description: "five steps"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, task *mcp.Task, _ nameIn) (string, error) {
			var names []string
			for i := range 5 {
				name, err := mcp.Step(ctx, task, fmt.Sprint(i), func(context.Context) (string, error) {
					time.Sleep(3 * time.Millisecond) // room for a kill
					return fmt.Sprint("s", i), note("did %s %d", task.ID(), i)
				})
				if err != nil {
					return "", err
				}
				if err := note("journaled %s %d", task.ID(), i); err != nil {
					return "", err
				}
				names = append(names, name)
			}
			return strings.Join(names, " "), nil
		})
	mcp.AddTaskTool(rt, &sdk.Tool{Name: "wait", Description: "waits"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, _ *mcp.Task, _ struct{}) (any, error) { <-ctx.Done(); return nil, ctx.Err() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fmt.Printf("listening http://%s\n", l.Addr())
	_ = http.Serve(l, rt.Handler()) // until it is killed
}

// victim is one life of that process.
type victim struct {
	*taskServer
	cmd *exec.Cmd
}

func startVictim(t *testing.T, dir string) *victim {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestTaskServerProcess$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), killDir+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	v := &victim{cmd: cmd}
	t.Cleanup(v.kill)
	lines := bufio.NewScanner(out)
	var seen []string
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "listening "); ok {
			v.taskServer = &taskServer{t: t, http: &httptest.Server{URL: url}}
			return v
		}
		seen = append(seen, lines.Text())
	}
	t.Fatalf("the process did not start: %s %s", strings.Join(seen, "\n"), stderr.String())
	return nil
}

// kill is kill -9; it returns when the process is gone.
func (v *victim) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

// try calls a tool; the process may die meanwhile.
func (v *victim) try(tool, key string, args map[string]any) (id string, ok bool) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{
		"name": tool, "arguments": args, "_meta": map[string]any{
			sdk.MetaKeyProtocolVersion: newProtocol, sdk.MetaKeyClientCapabilities: allAbilities, mcp.MetaIdempotencyKey: key,
		},
	}})
	require.NoError(v.t, err)
	req, err := http.NewRequest(http.MethodPost, v.http.URL, bytes.NewReader(body))
	require.NoError(v.t, err)
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": newProtocol, "Mcp-Method": "tools/call", "Mcp-Name": tool,
	} {
		req.Header.Set(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	var a answer
	if json.NewDecoder(res.Body).Decode(&a) != nil {
		return "", false
	}
	require.Nil(v.t, a.Error)
	return a.str("taskId"), true
}

func TestTasksSurviveKill9(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills processes")
	}
	dir := t.TempDir()
	v := startVictim(t, dir)
	asking := v.make("greet", map[string]any{"name": ""})
	key := v.question(asking)
	cancelled := v.make("wait", nil)
	require.Nil(t, v.rpc(allAbilities, "tasks/cancel", map[string]any{"taskId": cancelled}).Error)
	// Acknowledged tasks, and the keys of calls that got no answer: these are repeated.
	var ids []string
	open := map[string]bool{}
	for round := range 20 {
		name := fmt.Sprint("key-", round)
		open[name] = true
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
			v.kill()
		}()
		for name := range open {
			if id, ok := v.try("steps", name, map[string]any{"name": "x"}); ok {
				ids = append(ids, id)
				delete(open, name)
			}
		}
		<-stop
		v = startVictim(t, dir)
	}
	for name := range open {
		id, ok := v.try("steps", name, map[string]any{"name": "x"})
		require.True(t, ok)
		ids = append(ids, id)
	}
	require.Len(t, ids, 20)
	for _, id := range ids {
		require.JSONEq(t, `"s0 s1 s2 s3 s4"`, v.until(id, mcp.TaskCompleted).text())
	}
	require.Equal(t, "cancelled", v.get(cancelled).str("status"))
	require.Equal(t, key, v.question(asking))
	require.Nil(t, v.answerWith(asking, key, "Ada").Error)
	require.Equal(t, "Hello, accept Ada!", v.until(asking, mcp.TaskCompleted).text())
	checkWorld(t, filepath.Join(dir, "world"), ids)
}

// checkWorld reads what the steps did: each at least once, and never again
// after its result was durable.
func checkWorld(t *testing.T, path string, ids []string) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	did, journaled := map[string]int{}, map[string]bool{}
	repeated := 0
	for line := range strings.Lines(string(text)) {
		what, step, _ := strings.Cut(strings.TrimSpace(line), " ")
		if what == "journaled" {
			journaled[step] = true
			continue
		}
		require.False(t, journaled[step], "step %s ran again after it was journaled", step)
		if did[step]++; did[step] > 1 {
			repeated++
		}
	}
	for _, id := range ids {
		for i := range 5 {
			require.Positive(t, did[fmt.Sprint(id, " ", i)])
		}
	}
	require.Len(t, did, 5*len(ids), "no task ran that nobody was told of")
	t.Logf("%d steps, %d of them repeated because the process died before their result was durable", len(did), repeated)
}
