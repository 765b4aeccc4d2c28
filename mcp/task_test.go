package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// openStore opens an engine in dir; a closed one may be opened again.
func openStore(t testing.TB, dir string) *engine.Store {
	t.Helper()
	store, err := engine.Open(dir, engine.Options{SweepInterval: -1, SegmentSize: 1 << 20, MemTableSize: 256 << 10})
	require.NoError(t, err)
	return store
}

// taskServer is a runtime with a store and an HTTP endpoint.
type taskServer struct {
	t     testing.TB
	store *engine.Store
	rt    *mcp.Runtime
	http  *httptest.Server
	once  sync.Once
}

// serveTasks starts a runtime on dir; add registers its tools.
func serveTasks(t testing.TB, dir string, o mcp.Options, add func(r *mcp.Runtime)) *taskServer {
	t.Helper()
	s := &taskServer{t: t, store: openStore(t, dir)}
	rt, err := mcp.NewRuntime(s.store, o)
	require.NoError(t, err)
	s.rt = rt
	add(rt)
	s.http = httptest.NewServer(rt.Handler())
	t.Cleanup(s.stop)
	return s
}

// stop ends the server gracefully.
func (s *taskServer) stop() {
	s.once.Do(func() {
		require.NoError(s.t, s.rt.Close())
		s.http.Close()
		require.NoError(s.t, s.store.Close())
	})
}

// answer is what a request came to.
type answer struct {
	status int
	Result map[string]any `json:"result"`
	Error  *struct {
		Code    int            `json:"code"`
		Message string         `json:"message"`
		Data    map[string]any `json:"data"`
	} `json:"error"`
}

func (a answer) str(name string) string { v, _ := a.Result[name].(string); return v }

// text is the first text of a CallToolResult, inlined or not.
func (a answer) text() string {
	result := a.Result
	if inner, ok := result["result"].(map[string]any); ok {
		result = inner
	}
	content, _ := result["content"].([]any)
	if len(content) == 0 {
		return ""
	}
	text, _ := content[0].(map[string]any)["text"].(string)
	return text
}

// abilities of a client with everything.
var allAbilities = map[string]any{
	"elicitation": map[string]any{}, "sampling": map[string]any{},
	"extensions": map[string]any{mcp.ExtensionTasks: map[string]any{}},
}

// rpc sends one request of protocol 2026-07-28.
func (s *taskServer) rpc(abilities map[string]any, method string, params map[string]any) answer {
	s.t.Helper()
	p := map[string]any{}
	for k, v := range params {
		p[k] = v
	}
	meta := map[string]any{
		sdk.MetaKeyProtocolVersion: newProtocol, sdk.MetaKeyClientCapabilities: abilities,
		sdk.MetaKeyClientInfo: map[string]any{"name": "tester", "version": "1"},
	}
	if extra, ok := params["_meta"].(map[string]any); ok {
		for k, v := range extra {
			meta[k] = v
		}
	}
	p["_meta"] = meta
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": p})
	require.NoError(s.t, err)
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.http.URL, bytes.NewReader(body))
	require.NoError(s.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Mcp-Protocol-Version", newProtocol)
	req.Header.Set("Mcp-Method", method)
	for _, name := range []string{"name", "taskId"} {
		if v, ok := p[name].(string); ok {
			req.Header.Set("Mcp-Name", v)
		}
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	if i := bytes.Index(text, []byte("data: {")); i >= 0 { // the last event of a stream
		text = text[bytes.LastIndex(text, []byte("data: {"))+len("data: "):]
	}
	a := answer{status: res.StatusCode}
	require.NoError(s.t, json.Unmarshal(bytes.TrimSpace(text), &a), "%s", text)
	return a
}

// call calls a tool as a client with the tasks extension.
func (s *taskServer) call(tool string, args map[string]any) answer {
	s.t.Helper()
	return s.rpc(allAbilities, "tools/call", map[string]any{"name": tool, "arguments": args})
}

// make calls a tool and returns the id of the task.
func (s *taskServer) make(tool string, args map[string]any) string {
	s.t.Helper()
	a := s.call(tool, args)
	require.Nil(s.t, a.Error)
	require.Equal(s.t, "task", a.str("resultType"), "%v", a.Result)
	return a.str("taskId")
}

func (s *taskServer) get(id string) answer {
	s.t.Helper()
	return s.rpc(allAbilities, "tasks/get", map[string]any{"taskId": id})
}

// until polls a task until it has the status.
func (s *taskServer) until(id string, want mcp.TaskStatus) answer {
	s.t.Helper()
	var a answer
	require.Eventually(s.t, func() bool {
		a = s.get(id)
		require.Nil(s.t, a.Error)
		status := mcp.TaskStatus(a.str("status"))
		require.True(s.t, status == want || !status.Final(), "task ended: %v", a.Result)
		return status == want
	}, 20*time.Second, 5*time.Millisecond, "no %s", want)
	return a
}

type nameIn struct {
	Name string `json:"name" jsonschema:"whom"`
}

func TestTaskToolAnswersWithATaskThatCompletes(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "greet", Description: "greets"}, mcp.TaskOptions{},
			func(ctx context.Context, task *mcp.Task, in nameIn) (textOut, error) {
				if mcp.IdentityFrom(ctx).Subject != task.Principal() {
					return textOut{}, errors.New("wrong principal")
				}
				return textOut{Text: "Hello, " + in.Name + "!"}, nil
			})
	})
	require.Contains(t, s.rpc(allAbilities, "server/discover", nil).Result["capabilities"].(map[string]any)["extensions"], mcp.ExtensionTasks)
	made := s.call("greet", map[string]any{"name": "Ada"})
	require.Nil(t, made.Error)
	require.Equal(t, "task", made.str("resultType"))
	require.Equal(t, "working", made.str("status"))
	require.GreaterOrEqual(t, len(made.str("taskId")), 26, "128 bits in base32")
	for _, absent := range []string{"result", "error", "inputRequests", "requestState", "content", "ttl", "pollInterval", "task"} {
		require.NotContains(t, made.Result, absent)
	}
	done := s.until(made.str("taskId"), mcp.TaskCompleted)
	require.Equal(t, "complete", done.str("resultType"))
	require.JSONEq(t, `{"text":"Hello, Ada!"}`, done.text())
	require.Positive(t, done.Result["ttlMs"])
	require.EqualValues(t, 1000, done.Result["pollIntervalMs"])
	require.Eventually(t, func() bool { return s.rt.Stats().Tasks.Completed == 1 }, 10*time.Second, time.Millisecond, "counted a moment after it is told")
}

func TestBadArgumentsMakeNoTask(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, addGreet)
	a := s.call("greet", map[string]any{"name": 5})
	require.Equal(t, true, a.Result["isError"])
	require.Contains(t, a.text(), "name")
	require.Zero(t, s.rt.Stats().Tasks.Created)
}

// addGreet registers a tool that needs the extension and asks for a name if it
// was given none.
func addGreet(r *mcp.Runtime) {
	mcp.AddTaskTool(r, &sdk.Tool{Name: "greet", Description: "greets"}, mcp.TaskOptions{Mode: mcp.TaskRequired, Resumable: true},
		func(ctx context.Context, task *mcp.Task, in nameIn) (*sdk.CallToolResult, error) {
			if in.Name == "" {
				got, err := task.Elicit(ctx, nameForm())
				if err != nil {
					return nil, err
				}
				in.Name = fmt.Sprint(got.Action, " ", got.Content["name"])
			}
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "Hello, " + in.Name + "!"}}}, nil
		})
}

func nameForm() *sdk.ElicitParams {
	return &sdk.ElicitParams{
		Message:         "Who?",
		RequestedSchema: json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}`),
	}
}

func TestClientWithoutTheExtensionIsToldWhatIsMissing(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, addGreet)
	id := s.make("greet", map[string]any{"name": "x"})
	for method, params := range map[string]map[string]any{
		"tools/call":   {"name": "greet", "arguments": map[string]any{"name": "x"}},
		"tasks/get":    {"taskId": id},
		"tasks/update": {"taskId": id, "inputResponses": map[string]any{}},
		"tasks/cancel": {"taskId": id},
	} {
		a := s.rpc(map[string]any{}, method, params)
		require.NotNil(t, a.Error, method)
		require.Equal(t, -32021, a.Error.Code, method)
		extensions := a.Error.Data["requiredCapabilities"].(map[string]any)["extensions"]
		require.Contains(t, extensions, mcp.ExtensionTasks)
	}
	for _, removed := range []string{"tasks/list", "tasks/result"} {
		require.Equal(t, -32601, s.rpc(allAbilities, removed, map[string]any{"taskId": id}).Error.Code)
	}
	for _, method := range []string{"tasks/get", "tasks/update", "tasks/cancel"} {
		a := s.rpc(allAbilities, method, map[string]any{"taskId": "nope", "inputResponses": map[string]any{}})
		require.Equal(t, -32602, a.Error.Code, method)
	}
}

func TestTaskAsksAndGoesOnWithTheAnswer(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, addGreet)
	id := s.make("greet", map[string]any{"name": ""})
	asked := s.until(id, mcp.TaskInputRequired)
	requests := asked.Result["inputRequests"].(map[string]any)
	require.Len(t, requests, 1)
	var key string
	for key = range requests {
	}
	require.Equal(t, "elicitation/create", requests[key].(map[string]any)["method"])
	require.Zero(t, s.rt.Stats().Tasks.Running, "no worker is held while people think")

	update := func(responses map[string]any) answer {
		return s.rpc(allAbilities, "tasks/update", map[string]any{"taskId": id, "inputResponses": responses})
	}
	ack := update(map[string]any{"unknown": map[string]any{"action": "accept"}})
	require.Nil(t, ack.Error)
	require.Equal(t, "complete", ack.str("resultType"))
	require.NotContains(t, ack.Result, "taskId")
	require.Equal(t, "input_required", s.get(id).str("status"))
	bad := update(map[string]any{key: map[string]any{"action": "accept", "content": map[string]any{"name": 5}}})
	require.Equal(t, -32602, bad.Error.Code)
	require.Equal(t, "input_required", s.get(id).str("status"))

	require.Nil(t, update(map[string]any{key: map[string]any{"action": "accept", "content": map[string]any{"name": "Ada"}}}).Error)
	require.Equal(t, "Hello, accept Ada!", s.until(id, mcp.TaskCompleted).text())
	require.Nil(t, update(map[string]any{key: map[string]any{"action": "decline"}}).Error, "late answers are acknowledged and ignored")
}

func TestErrorsAndFailuresAreToldApart(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, func(r *mcp.Runtime) {
		add := func(name string, err error) {
			mcp.AddTaskTool(r, &sdk.Tool{Name: name, Description: "fails"}, mcp.TaskOptions{},
				func(context.Context, *mcp.Task, struct{}) (any, error) {
					if err == nil {
						panic("a bug in a handler")
					}
					return nil, err
				})
		}
		add("tool", errors.New("no such file"))
		add("protocol", &jsonrpc.Error{Code: -32050, Message: "bad day"})
		add("panic", nil)
	})
	tool := s.until(s.make("tool", nil), mcp.TaskCompleted)
	require.Equal(t, true, tool.Result["result"].(map[string]any)["isError"])
	require.Equal(t, "no such file", tool.text())
	protocol := s.until(s.make("protocol", nil), mcp.TaskFailed)
	require.EqualValues(t, -32050, protocol.Result["error"].(map[string]any)["code"])
	require.NotContains(t, protocol.Result, "result")
	panicked := s.until(s.make("panic", nil), mcp.TaskFailed)
	require.EqualValues(t, -32603, panicked.Result["error"].(map[string]any)["code"])
	require.NotContains(t, fmt.Sprint(panicked.Result), "a bug in a handler")
}

func TestCancelledTaskStopsItsHandlerAndStaysCancelled(t *testing.T) {
	stopped := make(chan error, 1)
	s := serveTasks(t, t.TempDir(), mcp.Options{}, func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "wait", Description: "waits"}, mcp.TaskOptions{},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (any, error) {
				<-ctx.Done()
				stopped <- task.Step(context.Background(), "late", func(context.Context) error { return nil })
				return "done all the same", nil
			})
	})
	id := s.make("wait", nil)
	for range 2 {
		ack := s.rpc(allAbilities, "tasks/cancel", map[string]any{"taskId": id})
		require.Nil(t, ack.Error)
		require.Equal(t, "complete", ack.str("resultType"))
		require.NotContains(t, ack.Result, "status")
	}
	require.Equal(t, "cancelled", s.get(id).str("status"))
	require.Error(t, <-stopped, "a cancelled handler can write nothing")
	require.Equal(t, "cancelled", s.get(id).str("status"))
}

func TestFullQueueRefusesAtOnceAndStoresNothing(t *testing.T) {
	release := make(chan struct{})
	s := serveTasks(t, t.TempDir(), mcp.Options{
		Tasks: mcp.TaskLimits{Workers: 1, Queue: 2}, Audit: mcp.AuditOptions{Off: true}, // which has commits of its own
	}, func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "wait", Description: "waits"}, mcp.TaskOptions{},
			func(context.Context, *mcp.Task, struct{}) (any, error) { <-release; return "x", nil })
	})
	ids := []string{s.make("wait", nil)}
	require.Eventually(t, func() bool { return s.rt.Stats().Tasks.Running == 1 }, 10*time.Second, time.Millisecond)
	ids = append(ids, s.make("wait", nil), s.make("wait", nil))
	before := s.store.AppliedIndex()
	a := s.call("wait", nil)
	require.Equal(t, mcp.CodeOverloaded, a.Error.Code)
	require.Equal(t, before, s.store.AppliedIndex())
	require.EqualValues(t, 1, s.rt.Stats().Tasks.Overloaded)
	close(release)
	for _, id := range ids {
		s.until(id, mcp.TaskCompleted)
	}
}

func TestIdempotencyKeyMakesOneTask(t *testing.T) {
	var runs atomic.Int32
	s := serveTasks(t, t.TempDir(), mcp.Options{}, func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "count", Description: "counts"}, mcp.TaskOptions{},
			func(_ context.Context, _ *mcp.Task, in nameIn) (any, error) { return runs.Add(1), nil })
	})
	call := func(name string) answer {
		return s.rpc(allAbilities, "tools/call", map[string]any{
			"name": "count", "arguments": map[string]any{"name": name}, "_meta": map[string]any{mcp.MetaIdempotencyKey: "k1"},
		})
	}
	var group sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		group.Go(func() { ids[i] = call("a").str("taskId") })
	}
	group.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	s.until(ids[0], mcp.TaskCompleted)
	require.EqualValues(t, 1, runs.Load())
	require.Equal(t, ids[0], call("a").str("taskId"), "also after its end")
	require.Equal(t, -32602, call("b").Error.Code)
}

// serveOn puts an HTTP endpoint in front of a runtime that the caller stops.
func serveOn(t testing.TB, rt *mcp.Runtime) *taskServer {
	return &taskServer{t: t, rt: rt, http: httptest.NewServer(rt.Handler())}
}

// question waits until the task asks one thing and returns its key.
func (s *taskServer) question(id string) string {
	s.t.Helper()
	requests := s.until(id, mcp.TaskInputRequired).Result["inputRequests"].(map[string]any)
	require.Len(s.t, requests, 1)
	for key := range requests {
		return key
	}
	return ""
}

// answerWith accepts the form of nameForm.
func (s *taskServer) answerWith(id, key, name string) answer {
	s.t.Helper()
	return s.rpc(allAbilities, "tasks/update", map[string]any{"taskId": id, "inputResponses": map[string]any{
		key: map[string]any{"action": "accept", "content": map[string]any{"name": name}},
	}})
}

// waiting waits until n tasks wait for an answer or a time.
func (s *taskServer) waiting(n int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.rt.Stats().Tasks.Waiting == n }, 20*time.Second, time.Millisecond)
}
