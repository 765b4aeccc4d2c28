package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// memory is a Journal and a Sink that remember everything, in one order.
type memory struct {
	mu        sync.Mutex
	committed []mcp.Event
	delivered []mcp.Event
	lastID    int64
	fail      error // of the next commits
	arrived   chan mcp.Event
}

func newMemory(lastID int64) *memory {
	return &memory{lastID: lastID, arrived: make(chan mcp.Event, 1000)}
}

func (m *memory) NextRequestID(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastID++
	return m.lastID, nil
}

func (m *memory) Commit(_ context.Context, e *mcp.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	e.ID = fmt.Sprint("event-", len(m.committed))
	m.committed = append(m.committed, *e)
	return nil
}

func (m *memory) Deliver(_ context.Context, e mcp.Event) error {
	m.mu.Lock()
	m.delivered = append(m.delivered, e)
	m.mu.Unlock()
	m.arrived <- e
	return nil
}

func (m *memory) Close() error { return nil }

// dial starts a session on a Conn over m.
func dial(t *testing.T, r *mcp.Runtime, m *memory) (*mcp.Conn, *sdk.ServerSession) {
	t.Helper()
	conn := r.NewConn(m, mcp.ConnOptions{SessionID: "s1", Principal: "alice", Journal: m})
	session, err := r.Server().Connect(t.Context(), conn, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(); _ = session.Close() })
	require.NoError(t, conn.Receive(t.Context(), []byte(
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"raw","version":"1"}}}`)))
	require.Equal(t, "1", m.next(t).Stream)
	require.NoError(t, conn.Receive(t.Context(), []byte(initialized)))
	return conn, session
}

func (m *memory) next(t *testing.T) mcp.Event {
	t.Helper()
	select {
	case e := <-m.arrived:
		return e
	case <-time.After(5 * time.Second):
		t.Fatal("nothing was delivered")
		return mcp.Event{}
	}
}

func TestEveryMessageIsCommittedBeforeItIsDelivered(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	m := newMemory(0)
	conn, _ := dial(t, r, m)
	require.NoError(t, conn.Receive(t.Context(), []byte(
		`{"jsonrpc":"2.0","id":"call","method":"tools/call","params":{"name":"progress","arguments":{},"_meta":{"progressToken":1}}}`)))
	for i := range 4 {
		e := m.next(t)
		require.Equal(t, `"call"`, e.Stream, "progress belongs to the call that makes it: %s", e.Data)
		require.Equal(t, i == 3, e.Final)
		require.Equal(t, fmt.Sprint("event-", i+1), e.ID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Equal(t, m.committed, m.delivered)
}

func TestUncommittedMessageIsNeverDelivered(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	m := newMemory(0)
	conn, session := dial(t, r, m)
	m.mu.Lock()
	m.fail = errors.New("no space left")
	before := len(m.delivered)
	m.mu.Unlock()
	require.NoError(t, conn.Receive(t.Context(), []byte(echoCall("2", "lost"))))
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the session goes on without its journal")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Len(t, m.delivered, before)
	require.ErrorIs(t, conn.Receive(t.Context(), []byte(echoCall("3", "late"))), mcp.ErrConnClosed)
}

func TestIDsOfServerRequestsComeFromTheJournal(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	m := newMemory(41) // as after a restart of the session
	conn, _ := dial(t, r, m)
	ask := `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ask","arguments":{"text":"?"}}}`
	for i := range 2 {
		require.NoError(t, conn.Receive(t.Context(), fmt.Appendf(nil, ask, 10+i)))
		question := m.next(t)
		require.Equal(t, fmt.Sprint(10+i), question.Stream)
		var q struct {
			ID     int64  `json:"id"`
			Method string `json:"method"`
		}
		require.NoError(t, json.Unmarshal(question.Data, &q))
		require.Equal(t, int64(42+i), q.ID)
		require.Equal(t, "elicitation/create", q.Method)
		// An answer to a request of the life before must not be taken for ours.
		require.NoError(t, conn.Receive(t.Context(), []byte(`{"jsonrpc":"2.0","id":1,"result":{"action":"accept","content":{"name":"stale"}}}`)))
		require.NoError(t, conn.Receive(t.Context(), fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"result":{"action":"accept","content":{"name":"Ada"}}}`, q.ID)))
		answer := m.next(t)
		require.Contains(t, string(answer.Data), "accept Ada")
	}
	require.EqualValues(t, 2, r.Stats().StrayAnswers)
}

func TestCancellationOfAServerRequestNamesTheIDTheClientKnows(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	m := newMemory(41)
	conn, _ := dial(t, r, m)
	require.NoError(t, conn.Receive(t.Context(), []byte(
		`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"ask","arguments":{"text":"?"}}}`)))
	require.Contains(t, string(m.next(t).Data), `"id":42`)
	require.NoError(t, conn.Receive(t.Context(), []byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}`)))
	for {
		e := m.next(t)
		if !e.Final {
			require.Contains(t, string(e.Data), "notifications/cancelled")
			require.Contains(t, string(e.Data), `"requestId":42`)
			return
		}
	}
}

func TestHandlersFindTheirCall(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	got := make(chan *mcp.Call, 1)
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "whoami"},
		func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
			call, _ := mcp.CallFrom(ctx)
			got <- call
			return &sdk.CallToolResult{}, nil, nil
		})
	m := newMemory(0)
	conn, _ := dial(t, r, m)
	require.NoError(t, conn.Receive(t.Context(), []byte(`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"whoami"}}`)))
	call := <-got
	require.NotNil(t, call)
	require.Equal(t, "alice", call.Principal)
	require.Equal(t, "s1", call.SessionID)
	require.Equal(t, "tools/call", call.Method)
	require.Equal(t, int64(5), call.ID.Raw())
}
