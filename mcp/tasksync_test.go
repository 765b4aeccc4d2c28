package mcp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// addForms registers a tool that asks two things at once and then a third.
func addForms(r *mcp.Runtime) {
	mcp.AddTaskTool(r, &sdk.Tool{Name: "forms", Description: "asks thrice"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, task *mcp.Task, _ struct{}) (*sdk.CallToolResult, error) {
			two, err := task.Ask(ctx, sdk.InputRequestMap{"first": nameForm(), "second": nameForm()})
			if err != nil {
				return nil, err
			}
			third, err := task.Elicit(ctx, nameForm())
			if err != nil {
				return nil, err
			}
			name := func(r sdk.InputResponse) any { return r.(*sdk.ElicitResult).Content["name"] }
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{
				Text: fmt.Sprint(name(two["first"]), " ", name(two["second"]), " ", name(third)),
			}}}, nil
		})
}

func accept(name string) map[string]any {
	return map[string]any{"action": "accept", "content": map[string]any{"name": name}}
}

func TestPartialAnswersLeaveTheOtherQuestionsOpenAndKeysAreNeverUsedTwice(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, addForms)
	id := s.make("forms", nil)
	open := func() map[string]any {
		return s.until(id, mcp.TaskInputRequired).Result["inputRequests"].(map[string]any)
	}
	seen := map[string]bool{}
	for key := range open() {
		seen[key] = true
	}
	require.Len(t, seen, 2)
	for key := range open() {
		require.Nil(t, s.rpc(allAbilities, "tasks/update", map[string]any{"taskId": id, "inputResponses": map[string]any{key: accept(key)}}).Error)
		if len(seen) == 2 && len(open()) == 1 {
			require.NotContains(t, open(), key)
		}
	}
	require.Eventually(t, func() bool { return s.get(id).str("status") == "input_required" }, 10*time.Second, time.Millisecond)
	third := s.question(id)
	require.False(t, seen[third], "key %s was used before", third)
	require.Nil(t, s.answerWith(id, third, "c").Error)
	require.Equal(t, "first-1 second-2 c", sortedNames(s.until(id, mcp.TaskCompleted).text()))
}

// sortedNames hides in which order the two first questions got their numbers.
func sortedNames(text string) string {
	return strings.NewReplacer("first-2", "first-1", "second-1", "second-2").Replace(text)
}

func TestSessionClientGetsTheResultAndIsAskedDirectly(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, func(r *mcp.Runtime) { addForms(r); addGreet(r) })
	asked := 0
	session := connectHTTP(t, s.http.URL, oldProtocol, &sdk.ClientOptions{
		ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			asked++
			return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
		},
	})
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "forms"})
	require.NoError(t, err)
	require.Equal(t, "Ada Ada Ada", res.Content[0].(*sdk.TextContent).Text)
	require.Equal(t, 3, asked)
	_, err = session.CallTool(t.Context(), &sdk.CallToolParams{Name: "greet", Arguments: map[string]any{"name": "x"}})
	require.ErrorContains(t, err, mcp.ExtensionTasks, "a tool that requires tasks says so")
}

func TestStatelessClientWithoutTheExtensionIsAskedByRoundTrips(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, addForms)
	able := map[string]any{"elicitation": map[string]any{}}
	params := map[string]any{"name": "forms", "arguments": map[string]any{}}
	rounds := 0
	for {
		a := s.rpc(able, "tools/call", params)
		require.Nil(t, a.Error)
		if a.str("resultType") == "complete" {
			require.Equal(t, "Ada Ada Ada", a.text())
			break
		}
		require.Equal(t, "input_required", a.str("resultType"))
		require.NotContains(t, a.Result, "taskId")
		answers := map[string]any{}
		for key := range a.Result["inputRequests"].(map[string]any) {
			answers[key] = accept("Ada")
		}
		params = map[string]any{
			"name": "forms", "arguments": map[string]any{}, "inputResponses": answers, "requestState": a.Result["requestState"],
		}
		rounds++
	}
	require.Equal(t, 2, rounds)
	require.EqualValues(t, 1, s.rt.Stats().Tasks.Created)
	params["requestState"] = "erlmcp-task:FORGED"
	require.Equal(t, -32602, s.rpc(able, "tools/call", params).Error.Code)
}

func TestClientThatCannotBeAskedIsToldSo(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, addForms)
	a := s.rpc(map[string]any{}, "tools/call", map[string]any{"name": "forms", "arguments": map[string]any{}})
	require.Nil(t, a.Error)
	require.Equal(t, true, a.Result["isError"])
	require.Contains(t, a.text(), "elicitation/create")
}

func TestAbandonedCallCancelsItsTask(t *testing.T) {
	started, gone := make(chan struct{}), make(chan error, 1)
	s := serveTasks(t, t.TempDir(), mcp.Options{}, func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "wait", Description: "waits"}, mcp.TaskOptions{},
			func(ctx context.Context, _ *mcp.Task, _ struct{}) (any, error) {
				close(started)
				<-ctx.Done()
				gone <- context.Cause(ctx)
				return nil, ctx.Err()
			})
	})
	session := connectHTTP(t, s.http.URL, newProtocol, nil)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := session.CallTool(ctx, &sdk.CallToolParams{Name: "wait"})
		failed <- err
	}()
	<-started // a task that is cancelled before its handler began never runs it
	cancel()
	require.Error(t, <-failed)
	require.Error(t, <-gone)
	require.Eventually(t, func() bool { return s.rt.Stats().Tasks.Cancelled == 1 }, 10*time.Second, time.Millisecond)
}

func TestQuestionsBeforeTheTaskAndAnswersThatAreKnownAtOnce(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "ask_first", Description: "asks, then makes a task"}, mcp.TaskOptions{
			Before: func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
				if string(req.Params.Arguments) == `{"name":"known"}` {
					return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "at once"}}}, nil
				}
				if _, ok := req.Params.InputResponses["who"]; !ok {
					return &sdk.CallToolResult{InputRequests: sdk.InputRequestMap{"who": nameForm()}}, nil
				}
				return nil, nil
			},
		}, func(_ context.Context, task *mcp.Task, _ nameIn) (any, error) {
			return task.Responses()["who"].(*sdk.ElicitResult).Content["name"], nil
		})
	})
	require.Equal(t, "at once", s.call("ask_first", map[string]any{"name": "known"}).text())
	first := s.call("ask_first", map[string]any{"name": ""})
	require.Equal(t, "input_required", first.str("resultType"))
	require.NotContains(t, first.Result, "taskId")
	require.Zero(t, s.rt.Stats().Tasks.Created)
	second := s.rpc(allAbilities, "tools/call", map[string]any{
		"name": "ask_first", "arguments": map[string]any{"name": ""}, "inputResponses": map[string]any{"who": accept("Ada")},
	})
	require.Equal(t, "task", second.str("resultType"))
	require.NotContains(t, second.Result, "requestState")
	require.JSONEq(t, `"Ada"`, s.until(second.str("taskId"), mcp.TaskCompleted).text())
}

func TestSubscriberHearsOfEveryCommittedStatus(t *testing.T) {
	s := serveTasks(t, t.TempDir(), mcp.Options{}, addGreet)
	id := s.make("greet", map[string]any{"name": ""})
	key := s.question(id)
	next := s.listen(id)
	method, params := next()
	require.Equal(t, "notifications/tasks", method)
	require.Contains(t, params["inputRequests"], key)
	require.EqualValues(t, 7, params["_meta"].(map[string]any)[sdk.MetaKeySubscriptionID])
	require.Nil(t, s.answerWith(id, key, "Ada").Error)
	for params["status"] != "completed" {
		method, params = next()
		require.Equal(t, "notifications/tasks", method)
	}
	require.NotNil(t, params["result"], "the notification is what tasks/get returns")
}

func TestSubscriberOfOneNodeHearsOfATaskOnAnother(t *testing.T) {
	clock := newClock()
	store, err := engine.Open("data", engine.Options{FS: vfs.NewMem(), Now: clock.Now, SweepInterval: -1, SegmentSize: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	a := onNode(t, store, clock, "a", addGreet)
	id := a.make("greet", map[string]any{"name": ""})
	key := a.question(id)
	b := onNode(t, store, clock, "b", addGreet) // the task runs on a
	require.Eventually(t, func() bool { return len(ownerRows(t, store)) == 2 }, 10*time.Second, time.Millisecond)
	next := b.listen(id)
	_, params := next()
	require.Contains(t, params["inputRequests"], key)
	require.Nil(t, a.answerWith(id, key, "Ada").Error)
	for params["status"] != "completed" {
		var method string
		method, params = next()
		require.Equal(t, "notifications/tasks", method)
	}
	require.Eventually(t, func() bool { return a.rt.Stats().Tasks.Completed == 1 }, 10*time.Second, time.Millisecond, "counted a moment after it is told")
	require.Zero(t, b.rt.Stats().Tasks.Completed)
	require.Equal(t, "Hello, accept Ada!", b.get(id).text())
}

// listen subscribes to a task and returns what waits for its next notification.
func (s *taskServer) listen(id string) (next func() (method string, params map[string]any)) {
	t := s.t
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen", "params": map[string]any{
		"notifications": map[string]any{"taskIds": []string{id, "UNKNOWN"}},
		"_meta": map[string]any{
			sdk.MetaKeyProtocolVersion: newProtocol, sdk.MetaKeyClientCapabilities: allAbilities,
		},
	}})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.http.URL, bytes.NewReader(body))
	require.NoError(t, err)
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": newProtocol, "Mcp-Method": "subscriptions/listen",
	} {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	next = func() (method string, params map[string]any) {
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var m struct {
					Method string
					Params map[string]any
				}
				require.NoError(t, json.Unmarshal([]byte(text), &m))
				return m.Method, m.Params
			}
		}
		require.NoError(t, lines.Err())
		return "", nil
	}
	method, params := next()
	require.Equal(t, "notifications/subscriptions/acknowledged", method)
	require.Equal(t, []any{id}, params["notifications"].(map[string]any)["taskIds"])
	return next
}

// onNode starts a runtime of a named node on a store that it shares.
func onNode(t *testing.T, store *engine.Store, clock *fakeClock, node string, add func(*mcp.Runtime)) *taskServer {
	rt, err := mcp.NewRuntime(store, mcp.Options{
		Now: clock.Now, AfterFunc: clock.AfterFunc, Tasks: mcp.TaskLimits{Node: node, Lease: 10 * time.Second},
	})
	require.NoError(t, err)
	add(rt)
	s := serveOn(t, rt)
	t.Cleanup(func() {
		require.NoError(t, rt.Close())
		s.http.Close()
	})
	return s
}

func TestAnotherNodeTakesOverFromASilentOneAndFencesIt(t *testing.T) {
	clock := newClock()
	store, err := engine.Open("data", engine.Options{FS: vfs.NewMem(), Now: clock.Now, SweepInterval: -1, SegmentSize: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	var world effects
	silent := newClock() // of the node that stops: its timers stand still
	late := make(chan error, 1)
	entered, release := make(chan struct{}, 4), make(chan struct{})
	add := func(node string) func(*mcp.Runtime) {
		return func(r *mcp.Runtime) {
			mcp.AddTaskTool(r, &sdk.Tool{Name: "steps", Description: "steps"}, mcp.TaskOptions{Resumable: true},
				func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
					if err := task.Step(ctx, "one", func(context.Context) error { world.do("one"); return nil }); err != nil {
						return "", err
					}
					entered <- struct{}{}
					if node == "a" {
						<-release
						err := task.Step(context.Background(), "two", func(context.Context) error { return nil })
						late <- err
						return "from a", err
					}
					return "from b", task.Step(ctx, "two", func(context.Context) error { world.do("two"); return nil })
				})
		}
	}
	a := onNode(t, store, silent, "a", add("a"))
	require.Eventually(t, func() bool { return len(ownerRows(t, store)) == 1 }, 10*time.Second, time.Millisecond)
	id := a.make("steps", nil)
	<-entered
	b := onNode(t, store, clock, "b", add("b"))
	require.Eventually(t, func() bool { return len(ownerRows(t, store)) == 2 }, 10*time.Second, time.Millisecond)
	require.Equal(t, "working", b.get(id).str("status"), "any node answers for any task")
	require.Eventually(t, func() bool {
		clock.advance(time.Second)
		return b.get(id).str("status") == "completed"
	}, 20*time.Second, 10*time.Millisecond)
	require.JSONEq(t, `"from b"`, b.get(id).text())
	require.Equal(t, 1, world.count("one"))
	close(release)
	require.Error(t, <-late, "the silent node can write nothing any more")
	require.Equal(t, "completed", b.get(id).str("status"))
	require.JSONEq(t, `"from b"`, a.get(id).text())
}

func TestAnswerGivenToOneNodeReachesTheHandlerOnAnother(t *testing.T) {
	clock := newClock()
	store, err := engine.Open("data", engine.Options{FS: vfs.NewMem(), Now: clock.Now, SweepInterval: -1, SegmentSize: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	a := onNode(t, store, clock, "a", addGreet)
	id := a.make("greet", map[string]any{"name": ""})
	key := a.question(id)
	a.waiting(1)
	b := onNode(t, store, clock, "b", addGreet) // now: it could have taken the task itself
	require.Nil(t, b.answerWith(id, key, "Ada").Error)
	require.Eventually(t, func() bool {
		clock.advance(100 * time.Millisecond) // slowly: a node that gets no turn for long loses its leases
		return b.get(id).str("status") == "completed"
	}, 60*time.Second, 10*time.Millisecond)
	require.Equal(t, "Hello, accept Ada!", b.get(id).text())
	require.Eventually(t, func() bool { return a.rt.Stats().Tasks.Completed == 1 }, 10*time.Second, time.Millisecond, "counted a moment after it is told")
}

// ownerRows are the runtimes that may hold leases.
func ownerRows(t *testing.T, store *engine.Store) (keys []string) {
	require.NoError(t, store.ViewLocal(t.Context(), func(tx *engine.Tx) error {
		return tx.Scan("mcp_task_queue", engine.Prefix([]byte("o")), func(key, _ []byte) bool {
			keys = append(keys, string(key))
			return true
		})
	}))
	return keys
}
