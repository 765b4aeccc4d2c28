package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// subscription is a raw subscriptions/listen stream.
type subscription struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
	status int
}

// subscribe opens a stream with the given notifications member.
func subscribe(t *testing.T, url, meta, notifications string) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	body := request(`"sub-1"`, "subscriptions/listen", meta+`,"notifications":`+notifications)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	for k, v := range statelessHeaders("subscriptions/listen", "", "Content-Type", "application/json", "Accept", "*/*") {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return &subscription{t: t, lines: bufio.NewScanner(resp.Body), cancel: cancel, status: resp.StatusCode}
}

// next returns the next message.
func (s *subscription) next() map[string]any {
	s.t.Helper()
	for s.lines.Scan() {
		text := s.lines.Text()
		if data, ok := strings.CutPrefix(text, "data: "); ok || strings.HasPrefix(text, "{") {
			if !ok {
				data = text
			}
			var msg map[string]any
			require.NoError(s.t, json.Unmarshal([]byte(data), &msg))
			return msg
		}
	}
	s.t.Fatal("the stream ended")
	return nil
}

// expect returns the params of the next message, which must be a notification
// tagged with the subscription.
func (s *subscription) expect(method string) map[string]any {
	s.t.Helper()
	msg := s.next()
	require.Equal(s.t, method, msg["method"], "%v", msg)
	params := msg["params"].(map[string]any)
	require.Equal(s.t, "sub-1", params["_meta"].(map[string]any)["io.modelcontextprotocol/subscriptionId"])
	return params
}

const (
	ack       = "notifications/subscriptions/acknowledged"
	withTasks = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}`
)

func nop(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	return &sdk.CallToolResult{}, nil
}

func TestListenerIsToldWhatItAskedForAndNothingElse(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	s := subscribe(t, url, metaOf(""), `{"toolsListChanged":true,"resourceSubscriptions":["test://one"]}`)
	agreed := s.expect(ack)["notifications"]
	require.Equal(t, map[string]any{"toolsListChanged": true, "resourceSubscriptions": []any{"test://one"}}, agreed)
	require.Equal(t, 1, r.Stats().Streams)
	require.Equal(t, 0, r.Stats().InFlight, "a subscription is a stream, not a request at work")

	r.Server().AddPrompt(&sdk.Prompt{Name: "unasked"}, nil)
	r.ResourceChanged("test://two", "test://one")
	require.Equal(t, "test://one", s.expect("notifications/resources/updated")["uri"])
	r.Server().AddTool(&sdk.Tool{Name: "late", InputSchema: json.RawMessage(`{"type":"object"}`)}, nop)
	s.expect("notifications/tools/list_changed")
	// However the change was made known.
	require.NoError(t, r.Server().ResourceUpdated(t.Context(), &sdk.ResourceUpdatedNotificationParams{URI: "test://one"}))
	require.Equal(t, "test://one", s.expect("notifications/resources/updated")["uri"])

	s.cancel()
	require.Eventually(t, func() bool { return r.Stats().Streams == 0 && r.Stats().Subscriptions == 0 }, 5*time.Second, time.Millisecond)
}

func TestListenersOfOneResourceDoNotDisturbEachOther(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	want := `{"resourceSubscriptions":["test://one"],"promptsListChanged":true}`
	a, b := subscribe(t, url, metaOf(""), want), subscribe(t, url, metaOf(""), want)
	a.expect(ack)
	b.expect(ack)
	require.Equal(t, 1, r.Stats().Subscriptions)
	a.cancel()
	require.Eventually(t, func() bool { return r.Stats().Streams == 1 }, 5*time.Second, time.Millisecond)
	r.ResourceChanged("test://one")
	b.expect("notifications/resources/updated")
	r.Server().RemovePrompts("greet")
	b.expect("notifications/prompts/list_changed")
}

func TestListenerHearsOfItsTasks(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	var version atomic.Int64
	r.SetTaskNotification(func(_ context.Context, principal, id string) (json.RawMessage, bool) {
		if principal != mcp.Anonymous || id != "mine" {
			return nil, false
		}
		return fmt.Appendf(nil, `{"taskId":"mine","version":%d}`, version.Load()), true
	})
	url := serveHTTP(t, r).URL

	s := subscribe(t, url, metaOf(""), `{"taskIds":["mine"]}`)
	require.Equal(t, http.StatusBadRequest, s.status)
	failure := s.next()["error"].(map[string]any)
	require.EqualValues(t, mcp.CodeMissingCapability, failure["code"])
	require.Equal(t, map[string]any{"requiredCapabilities": map[string]any{"extensions": map[string]any{"io.modelcontextprotocol/tasks": map[string]any{}}}}, failure["data"])

	s = subscribe(t, url, withTasks, `{"taskIds":["mine","theirs"]}`)
	require.Equal(t, map[string]any{"taskIds": []any{"mine"}}, s.expect(ack)["notifications"])
	require.EqualValues(t, 0, s.expect("notifications/tasks")["version"], "the state at the beginning")
	version.Store(1)
	r.PublishTask("somebody else", "mine")
	r.PublishTask(mcp.Anonymous, "theirs")
	r.PublishTask(mcp.Anonymous, "mine")
	require.EqualValues(t, 1, s.expect("notifications/tasks")["version"])
}

func TestSubscriptionToNothingEndsAtOnce(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	s := subscribe(t, url, metaOf(""), `{"toolsListChanged":false,"other":true}`)
	require.Empty(t, s.expect(ack)["notifications"])
	result := s.next()["result"].(map[string]any)
	require.Equal(t, "complete", result["resultType"])
	require.Equal(t, "sub-1", result["_meta"].(map[string]any)["io.modelcontextprotocol/subscriptionId"])
}

func TestSubscriptionsAreBounded(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{MaxSubscriptions: 2, MaxStreams: 1})
	url := serveHTTP(t, r).URL
	for want, code := range map[string]int{
		`{"resourceSubscriptions":["a","b","c"]}`:                            mcp.CodeSubscriptionLimit,
		`{"resourceSubscriptions":["` + strings.Repeat("x", 300<<10) + `"]}`: mcp.CodeSubscriptionLimit,
		`{"resourceSubscriptions":"a"}`:                                      -32602,
		`null`:                                                               -32602,
		`{"resourceSubscriptions":["a"],"taskIds":["b","c"]}`:                mcp.CodeSubscriptionLimit,
	} {
		failure := subscribe(t, url, withTasks, want).next()["error"].(map[string]any)
		require.EqualValues(t, code, failure["code"], "%v", failure["message"])
	}
	s := subscribe(t, url, metaOf(""), `{"toolsListChanged":true}`)
	s.expect(ack)
	refused := subscribe(t, url, metaOf(""), `{"toolsListChanged":true}`)
	require.Equal(t, http.StatusServiceUnavailable, refused.status)
}

func TestCloseEndsSubscriptionsWithTheirResult(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	s := subscribe(t, serveHTTP(t, r).URL, metaOf(""), `{"toolsListChanged":true}`)
	s.expect(ack)
	r.Close()
	require.NotNil(t, s.next()["result"])
	for s.lines.Scan() {
		require.Empty(t, s.lines.Text(), "nothing comes behind the result")
	}
}

func TestTasksAreHeardOverStdioToo(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	r.SetTaskNotification(func(_ context.Context, _, id string) (json.RawMessage, bool) {
		return fmt.Appendf(nil, `{"taskId":%q}`, id), true
	})
	wire := startStdio(t, r)
	wire.send(request(`"sub-1"`, "subscriptions/listen", withTasks+`,"notifications":{"taskIds":["x"],"toolsListChanged":true}`))
	require.Contains(t, wire.line(), `"taskIds":["x"]`)
	require.Contains(t, wire.line(), `notifications/tasks`)
	r.Server().AddTool(&sdk.Tool{Name: "late", InputSchema: json.RawMessage(`{"type":"object"}`)}, nop)
	got := wire.line()
	require.Contains(t, got, "notifications/tools/list_changed")
}

// rawStdio is a client that speaks in lines.
type rawStdio struct {
	t     *testing.T
	in    *io.PipeWriter
	lines *bufio.Scanner
}

func startStdio(t *testing.T, r *mcp.Runtime) *rawStdio {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.ServeStdio(ctx, inR, outW)
	}()
	t.Cleanup(func() {
		cancel()
		_ = inW.Close()
		_ = outR.Close()
		<-done
	})
	return &rawStdio{t: t, in: inW, lines: bufio.NewScanner(outR)}
}

func (s *rawStdio) send(msg string) {
	_, err := io.WriteString(s.in, msg+"\n")
	require.NoError(s.t, err)
}

func (s *rawStdio) line() string {
	s.t.Helper()
	require.True(s.t, s.lines.Scan(), "the stream ended")
	return s.lines.Text()
}

// shortLived lets everybody in for a moment.
type shortLived struct{ until time.Time }

func (a shortLived) Authenticate(*http.Request) (*mcp.Identity, error) {
	return &mcp.Identity{Subject: "ada", Expires: a.until}, nil
}

func TestSubscriptionEndsWithItsCredential(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{Authenticator: shortLived{time.Now().Add(300 * time.Millisecond)}})
	s := subscribe(t, serveHTTP(t, r).URL, metaOf(""), `{"toolsListChanged":true}`)
	s.expect(ack)
	require.NotNil(t, s.next()["result"])
}
