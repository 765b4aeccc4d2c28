package mcp_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// refusing is a store whose transactions with some actor fail with an error.
type refusing struct {
	mcp.Store
	err   error
	actor atomic.Pointer[string] // prefix; nil: nothing is refused
	count atomic.Int64           // of refusals
}

func (s *refusing) refuse(actor string) { s.actor.Store(&actor) }

func (s *refusing) allow() { s.actor.Store(nil) }

// refuses waits until it has refused n more.
func (s *refusing) refuses(t *testing.T, n int64) {
	t.Helper()
	from := s.count.Load()
	require.Eventually(t, func() bool { return s.count.Load() >= from+n }, 20*time.Second, time.Millisecond)
}

func (s *refusing) Update(ctx context.Context, fn func(*engine.Tx) error, o ...engine.TxOption) (engine.Result, error) {
	return s.Store.Update(ctx, func(tx *engine.Tx) error {
		if actor := s.actor.Load(); actor != nil && strings.HasPrefix(tx.Actor(), *actor) {
			s.count.Add(1)
			return fmt.Errorf("fault: %w", s.err)
		}
		return fn(tx)
	}, o...)
}

// Every way on which a client could hear of something: when the store refuses, it hears of a refusal instead.
func TestWhatTheStoreRefusesIsARefusalWithItsCodeOnEveryPath(t *testing.T) {
	for _, c := range []struct {
		err    error
		code   int
		status int
	}{
		{engine.ErrOverloaded, mcp.CodeOverloaded, http.StatusServiceUnavailable},
		{engine.ErrNoSpace, mcp.CodeOverloaded, http.StatusServiceUnavailable},
		{engine.ErrUnavailable, mcp.CodeOverloaded, http.StatusServiceUnavailable},
		{engine.ErrUnknownOutcome, -32603, http.StatusInternalServerError},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			store := &refusing{Store: auditStore(t), err: c.err}
			r := newStored(t, store, mcp.Options{Audit: mcp.AuditOptions{Off: true}, Authenticator: people{"ann": nil}})
			mcp.AddTaskTool(r, &sdk.Tool{Name: "idle", Description: "waits"}, mcp.TaskOptions{Resumable: true},
				func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
					answer, err := task.Elicit(ctx, nameForm())
					if err != nil {
						return "", err
					}
					return fmt.Sprint(answer.Action), nil
				})
			url := serveHTTP(t, r).URL
			ann := map[string]string{"Authorization": "Bearer ann"}
			_, _, header := post(t, url, ann, initialize)
			session := with(with(ann, "Mcp-Session-Id", header.Get("Mcp-Session-Id")), "Mcp-Protocol-Version", oldProtocol)
			made := taskAs(t, r, "ann", "idle")
			require.Nil(t, made.Error)

			store.refuse("ann") // what clients change in tasks
			refused := taskAs(t, r, "ann", "idle")
			require.Equal(t, c.code, refused.Error.Code, "a task")
			require.Empty(t, refused.str("taskId"))
			id := `"taskId":"` + made.str("taskId") + `"`
			tasks := func(method, params string) string {
				return ask(r, "127.0.0.1:1", "ann", strings.Replace(stateless("1", method, params), `clientCapabilities":{}`,
					`clientCapabilities":{"extensions":{"`+mcp.ExtensionTasks+`":{}}}`, 1)).Body.String()
			}
			code := fmt.Sprintf(`"code":%d`, c.code)
			require.Contains(t, tasks("tasks/cancel", id), code)
			require.Contains(t, tasks("tasks/update", id+`,"inputResponses":{"input-1":{"action":"decline"}}`), code)
			require.NotContains(t, tasks("tasks/get", id), "cancelled", "nothing of it is visible")

			store.refuse("mcp:sessions")
			status, answer, header := post(t, url, ann, initialize)
			require.Equal(t, c.status, status, "a session")
			require.Equal(t, c.code, answer.Error.Code)
			require.Empty(t, header.Get("Mcp-Session-Id"))
			_, answer, _ = post(t, url, session, `{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"test://one"}}`)
			require.Equal(t, c.code, answer.Error.Code, "a subscription")
		})
	}
}

// What a task does goes to the store before anybody hears of it: neither those who ask nor those who listen, nor the handler itself.
func TestNothingOfATaskIsShownOrBuiltUponBeforeItIsStored(t *testing.T) {
	store := &refusing{Store: auditStore(t), err: engine.ErrNoSpace}
	one, two, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var ones, twos atomic.Int64
	rt, err := mcp.NewRuntime(store, mcp.Options{})
	require.NoError(t, err)
	mcp.AddTaskTool(rt, &sdk.Tool{Name: "work", Description: "works"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
			if err := task.Step(ctx, "one", func(context.Context) error { ones.Add(1); <-one; return nil }); err != nil {
				return "", err
			}
			if err := task.Progress("half"); err != nil {
				return "", err
			}
			if err := task.Step(ctx, "two", func(context.Context) error { twos.Add(1); <-two; return nil }); err != nil {
				return "", err
			}
			<-end
			return "all", nil
		})
	s := serveOn(t, rt)
	t.Cleanup(func() {
		require.NoError(t, rt.Close())
		s.http.Close()
	})
	id := s.make("work", nil)
	next := s.listen(id)
	heard := make(chan map[string]any, 100)
	go func() { // until the task has ended
		defer close(heard)
		for params := map[string]any{}; params["status"] != "completed"; heard <- params {
			_, params = next()
		}
	}()
	require.Equal(t, "working", (<-heard)["status"], "as it is when the listening begins")
	require.Eventually(t, func() bool { return ones.Load() == 1 }, 20*time.Second, time.Millisecond)

	store.refuse("mcp:tasks")
	close(one)
	store.refuses(t, 3)
	require.Zero(t, twos.Load(), "the next step waits for the result of the first")
	require.Zero(t, rt.Stats().Tasks.Steps)
	require.Empty(t, heard)
	store.allow()
	require.Eventually(t, func() bool { return twos.Load() == 1 }, 20*time.Second, time.Millisecond)
	require.EqualValues(t, 1, ones.Load(), "it ran once")

	close(two)
	require.Eventually(t, func() bool { return rt.Stats().Tasks.Steps == 2 }, 20*time.Second, time.Millisecond)
	require.Equal(t, "half", (<-heard)["statusMessage"])
	store.refuse("mcp:tasks")
	close(end)
	store.refuses(t, 3)
	a := s.get(id)
	require.Equal(t, "working", a.str("status"), "a result that is not stored is none")
	require.NotContains(t, a.Result, "result")
	require.Empty(t, heard)
	require.Zero(t, rt.Stats().Tasks.Completed)
	store.allow()
	require.Equal(t, `"all"`, s.until(id, mcp.TaskCompleted).text())
	require.Equal(t, "completed", (<-heard)["status"])
	require.Empty(t, heard)
}

// Progress that is not stored is not shown either.
func TestProgressThatIsNotStoredIsNotShown(t *testing.T) {
	store := &refusing{Store: auditStore(t), err: engine.ErrNoSpace}
	began, goOn := make(chan struct{}), make(chan struct{})
	rt, err := mcp.NewRuntime(store, mcp.Options{})
	require.NoError(t, err)
	mcp.AddTaskTool(rt, &sdk.Tool{Name: "work", Description: "works"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
			close(began)
			<-goOn
			err := task.Progress("half")
			return fmt.Sprint(err), nil
		})
	s := serveOn(t, rt)
	t.Cleanup(func() {
		require.NoError(t, rt.Close())
		s.http.Close()
	})
	id := s.make("work", nil)
	<-began
	store.refuse("mcp:tasks")
	close(goOn)
	store.refuses(t, 2)
	require.NotContains(t, fmt.Sprint(s.get(id).Result), "half")
	store.allow()
	s.until(id, mcp.TaskCompleted)
}
