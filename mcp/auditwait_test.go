package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// auditGate is a store that holds back the commits of audit records; all others pass.
type auditGate struct {
	mcp.Store
	arrived chan struct{} // one for each commit that begins
	release chan error    // one for each that may go on; an error is what becomes of it
	forget  atomic.Bool   // commit first, then return the error
}

func newAuditGate(store mcp.Store) *auditGate {
	return &auditGate{Store: store, arrived: make(chan struct{}, 1000), release: make(chan error, 1000)}
}

func (g *auditGate) Update(ctx context.Context, fn func(*engine.Tx) error, o ...engine.TxOption) (engine.Result, error) {
	var after error
	res, err := g.Store.Update(ctx, func(tx *engine.Tx) error {
		if tx.Actor() != "mcp" {
			return fn(tx)
		}
		g.arrived <- struct{}{}
		err := <-g.release
		if g.forget.Load() {
			after = err
			err = nil
		}
		return errors.Join(err, fn(tx))
	}, o...)
	return res, errors.Join(err, after)
}

// open lets everything pass from now on.
func (g *auditGate) open() { close(g.release) }

// addAudited adds "look", which says that it changes nothing, and "job", a task.
func addAudited(r *mcp.Runtime) {
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "look", Description: "looks", Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true}},
		func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, textOut, error) {
			return nil, textOut{Text: "seen"}, nil
		})
	mcp.AddTaskTool(r, &sdk.Tool{Name: "job", Description: "a task", Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true}}, mcp.TaskOptions{},
		func(context.Context, *mcp.Task, struct{}) (string, error) { return "done", nil })
}

// taskCallOf is a call of a client that knows tasks.
func taskCallOf(tool string) string {
	return strings.Replace(callOf(tool, `{}`), `clientCapabilities":{}`, `clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}`, 1)
}

// asking calls a tool in the background.
func asking(r *mcp.Runtime, message string) <-chan *httptest.ResponseRecorder {
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- ask(r, "127.0.0.1:1", "", message) }()
	return answer
}

func TestAnAnswerWaitsForItsRecord(t *testing.T) {
	look, job := callOf("look", `{}`), taskCallOf("job")
	nowhere := callOf("nowhere", `{}`)
	for _, c := range []struct {
		name       string
		durability mcp.AuditDurability
		message    string
		waits      bool
	}{
		{"a tool that may change something", mcp.AuditBeforeAnswer, echo, true},
		{"a task", mcp.AuditBeforeAnswer, job, true},
		{"a tool that is not there", mcp.AuditBeforeAnswer, nowhere, true},
		{"a tool that only reads", mcp.AuditBeforeAnswer, look, true},
		{"batched", mcp.AuditBatched, echo, false},
		{"batched task", mcp.AuditBatched, job, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			gate := newAuditGate(auditStore(t))
			r := newStored(t, gate, mcp.Options{Audit: mcp.AuditOptions{Durability: c.durability, Lag: time.Microsecond}})
			addAudited(r)
			answer := asking(r, c.message)
			<-gate.arrived // the record is on its way to the store and not there
			if c.waits {
				require.Empty(t, answer, "nothing is answered before its record is durable")
				require.Zero(t, r.Stats().Audit.Written)
				gate.open()
				<-answer
				require.EqualValues(t, 1, r.Stats().Audit.Written, "it is durable when the answer is there")
				return
			}
			require.Equal(t, http.StatusOK, (<-answer).Code, "the answer does not wait")
			require.Zero(t, r.Stats().Audit.Written)
			gate.open()
			waitAudited(t, r, 1)
		})
	}
}

func TestARefusalForWantOfAScopeWaitsForItsRecord(t *testing.T) {
	gate := newAuditGate(auditStore(t))
	r := newStored(t, gate, mcp.Options{Audit: mcp.AuditOptions{Durability: mcp.AuditBeforeAnswer}, Authenticator: people{"ann": {"b"}}, ToolScopes: map[string][]string{"echo": {"c"}}})
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- ask(r, "127.0.0.1:1", "ann", echo) }()
	<-gate.arrived
	require.Empty(t, answer)
	gate.open()
	require.Equal(t, http.StatusForbidden, (<-answer).Code)
	require.Equal(t, "denied", audited(t, r, mcp.AuditQuery{})[0].Outcome)
}

func TestCallsThatEndTogetherShareACommit(t *testing.T) {
	gate := newAuditGate(auditStore(t))
	r := newStored(t, gate, mcp.Options{Audit: mcp.AuditOptions{Durability: mcp.AuditBeforeAnswer}})
	first := asking(r, echo)
	<-gate.arrived
	const more = 50
	answers := make([]<-chan *httptest.ResponseRecorder, more)
	for i := range answers {
		answers[i] = asking(r, echo)
	}
	require.Eventually(t, func() bool { return r.Stats().Audit.Waiting == more+1 }, 20*time.Second, time.Millisecond)
	gate.release <- nil
	<-first
	<-gate.arrived
	gate.release <- nil
	for _, answer := range answers {
		require.Equal(t, http.StatusOK, (<-answer).Code)
	}
	require.Empty(t, gate.arrived, "one commit for all that came during the one before")
	require.Len(t, audited(t, r, mcp.AuditQuery{}), more+1)
	gate.open()
}

func TestACallWhoseRecordIsRefusedIsNotAnsweredAndTheNextIsNotRun(t *testing.T) {
	gate := newAuditGate(auditStore(t))
	r := newStored(t, gate, mcp.Options{Audit: mcp.AuditOptions{Durability: mcp.AuditBeforeAnswer}})
	addAudited(r)
	var runs atomic.Int32
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "count", Description: "counts"},
		func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, textOut, error) {
			return nil, textOut{Text: fmt.Sprint(runs.Add(1))}, nil
		})
	count := callOf("count", `{}`)
	answer := asking(r, count)
	gate.release <- engine.ErrNoSpace
	body := (<-answer).Body.String()
	require.Contains(t, body, `"reason":"not_audited"`)
	require.Contains(t, body, "-32603")
	require.NotContains(t, body, "structuredContent")
	require.EqualValues(t, 1, runs.Load())

	refused := ask(r, "127.0.0.1:1", "", count).Body.String()
	require.Contains(t, refused, "-32010")
	require.Contains(t, refused, "the store takes no records")
	require.EqualValues(t, 1, runs.Load(), "what cannot be audited is not run")

	gate.open()
	require.Eventually(t, func() bool { return !r.Stats().Audit.Failing }, 20*time.Second, time.Millisecond)
	require.Contains(t, ask(r, "127.0.0.1:1", "", count).Body.String(), "structuredContent")
	waitAudited(t, r, 3)
	list := audited(t, r, mcp.AuditQuery{Tool: "count"})
	require.Len(t, list, 3, "the record of the call that was not answered is there too")
	require.Equal(t, "ok", list[2].Outcome)
	require.EqualValues(t, -32010, list[1].Code)
}

func TestACommitWithAnUnknownOutcomeIsNotMadeTwice(t *testing.T) {
	gate := newAuditGate(auditStore(t))
	r := newStored(t, gate, mcp.Options{Audit: mcp.AuditOptions{Durability: mcp.AuditBeforeAnswer}})
	gate.forget.Store(true)
	answer := asking(r, echo)
	gate.release <- errors.New("the leader went away")
	require.Contains(t, (<-answer).Body.String(), "not_audited", "it is not known to be durable")
	require.Len(t, audited(t, r, mcp.AuditQuery{}), 1, "though it is")
	gate.open()
	waitAudited(t, r, 1)
	require.Len(t, audited(t, r, mcp.AuditQuery{}), 1)
}
