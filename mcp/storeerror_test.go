package mcp_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

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
}

func (s *refusing) refuse(actor string) { s.actor.Store(&actor) }

func (s *refusing) Update(ctx context.Context, fn func(*engine.Tx) error, o ...engine.TxOption) (engine.Result, error) {
	return s.Store.Update(ctx, func(tx *engine.Tx) error {
		if actor := s.actor.Load(); actor != nil && strings.HasPrefix(tx.Actor(), *actor) {
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
