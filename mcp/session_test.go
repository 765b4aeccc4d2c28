package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// faultyStore is an engine whose writes can be made to fail.
type faultyStore struct {
	*engine.Store
	failed  chan struct{}
	refuse  atomic.Bool // writes fail
	written atomic.Int64
}

func newFaultyStore(t testing.TB) *faultyStore {
	t.Helper()
	store, err := engine.Open("data", engine.Options{FS: vfs.NewMem(), SegmentSize: 1 << 20, MinFreeDisk: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return &faultyStore{Store: store, failed: make(chan struct{})}
}

func (s *faultyStore) Failed() <-chan struct{} { return s.failed }
func (s *faultyStore) Err() error              { return errors.New("fsync failed") }

func (s *faultyStore) Update(ctx context.Context, fn func(tx *engine.Tx) error, opts ...engine.TxOption) (engine.Result, error) {
	if s.refuse.Load() {
		return engine.Result{}, errors.New("no space left on device")
	}
	s.written.Add(1)
	return s.Store.Update(ctx, fn, opts...)
}

// life is one run of a server on a store; the next life begins where a kill
// ended this one.
type life struct {
	t       testing.TB
	r       *mcp.Runtime
	srv     *httptest.Server
	url     string
	release chan struct{}
	steps   chan struct{} // each lets the tool "steps" go one further
	asked   chan *sdk.ElicitResult
}

func live(t testing.TB, store mcp.Store, o mcp.Options) *life {
	t.Helper()
	r, err := mcp.NewRuntime(store, o)
	require.NoError(t, err)
	l := &life{t: t, r: r, release: make(chan struct{}), steps: make(chan struct{}, 1000), asked: make(chan *sdk.ElicitResult, 10)}
	addTools(r, l.release)
	// "steps" reports progress at every step and ends after as many as asked for.
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "steps", Description: "works step by step"},
		func(ctx context.Context, req *sdk.CallToolRequest, in struct {
			Steps int  `json:"steps"`
			Leave bool `json:"leave,omitempty"` // close the stream behind the first step
			Long  int  `json:"long,omitempty"`  // bytes more in the answer
		},
		) (*sdk.CallToolResult, textOut, error) {
			for i := range in.Steps {
				select {
				case <-l.steps:
				case <-ctx.Done():
					return nil, textOut{}, ctx.Err()
				}
				err := req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
					ProgressToken: req.Params.GetProgressToken(), Progress: float64(i + 1), Total: float64(in.Steps),
				})
				if err != nil {
					return nil, textOut{}, err
				}
				if in.Leave && i == 0 {
					req.Extra.CloseSSEStream(sdk.CloseSSEStreamArgs{RetryAfter: 7 * time.Millisecond})
				}
			}
			return nil, textOut{Text: "all steps done" + strings.Repeat("x", in.Long)}, nil
		})
	l.srv = httptest.NewServer(r.Handler())
	l.url = l.srv.URL
	t.Cleanup(func() {
		r.Close()
		l.srv.CloseClientConnections()
		l.srv.Close()
	})
	return l
}

// kill drops the server without a word, as kill -9 does: nothing of it is
// written to the store any more that clients could have seen.
func (l *life) kill() { l.srv.CloseClientConnections() }

// event is one server-sent event.
type event struct {
	id, name, retry string
	data            string
}

// sse is an open response of events.
type sse struct {
	t    testing.TB
	resp *http.Response
	in   *bufio.Reader
	stop context.CancelFunc
}

// listen sends a request that is answered with events.
func listen(t testing.TB, method, url string, header map[string]string, body string) *sse {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Accept", "application/json, text/event-stream")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("status %d, %s: %s", resp.StatusCode, resp.Header.Get("Content-Type"), text)
	}
	return &sse{t, resp, bufio.NewReader(resp.Body), cancel}
}

// next returns the next event; ok is false at the end of the response.
func (s *sse) next() (e event, ok bool) {
	s.t.Helper()
	seen := false
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return event{}, false
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case line == "\n" && seen:
			return e, true
		case line == "\n":
		case name == "id":
			e.id = value
		case name == "event":
			e.name = value
		case name == "retry":
			e.retry = value
		case name == "data":
			e.data = value
		}
		seen = seen || (name != "" && line != "\n")
	}
}

// must is next that must not be the end.
func (s *sse) must() event {
	s.t.Helper()
	e, ok := s.next()
	require.True(s.t, ok, "the response ended")
	return e
}

func (s *sse) close() { s.stop(); _ = s.resp.Body.Close() }

// rest reads the events until the end of the response.
func (s *sse) rest() (all []event) {
	for {
		e, ok := s.next()
		if !ok {
			return all
		}
		all = append(all, e)
	}
}

const stepsCall = `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"steps","arguments":{"steps":%d},"_meta":{"progressToken":"p"}}}`

func progress(n int) string { return fmt.Sprintf(`"progress":%d,`, n) }

func notify(t testing.TB, url string, h map[string]string, body string) int {
	t.Helper()
	status, _, _ := post(t, url, h, body)
	return status
}

func TestSessionGoesOnAfterRestart(t *testing.T) {
	store := newFaultyStore(t)
	l := live(t, store, mcp.Options{})
	h := open(t, l.url)
	require.Equal(t, 202, notify(t, l.url, h, initialized))
	status, answer, _ := post(t, l.url, h, `{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"warning"}}`)
	require.Equal(t, 200, status, "%+v", answer)
	l.kill()

	l = live(t, store, mcp.Options{})
	require.Zero(t, l.r.Stats().Sessions)
	require.Equal(t, 1, l.r.Stats().StoredSessions)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			status, answer, _ := post(t, l.url, h, echoCall(fmt.Sprint(10+i), "back"))
			if status != 200 || !strings.Contains(string(answer.Result), "back") {
				t.Errorf("status %d, %+v", status, answer)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, l.r.Stats().Sessions, "however many requests come at once, it is connected once")
	require.EqualValues(t, 1, l.r.Stats().SessionsRevived)
	for s := range l.r.Server().Sessions() {
		if s.ID() == "" {
			continue // of the stateless protocol
		}
		require.Equal(t, h["Mcp-Session-Id"], s.ID())
		require.Equal(t, "raw", s.InitializeParams().ClientInfo.Name)
	}
	status, answer, _ = post(t, l.url, h, initialize)
	require.Equal(t, 200, status)
	require.Contains(t, answer.Error.Message, "duplicate", "it is the same session, so it cannot be initialized again")
}

func TestQuickAnswerCostsNoCommit(t *testing.T) {
	store := newFaultyStore(t)
	l := live(t, store, mcp.Options{StreamAfter: time.Hour, Audit: mcp.AuditOptions{Off: true}})
	h := open(t, l.url)
	before := store.written.Load()
	for i := range 20 {
		status, answer, header := post(t, l.url, h, echoCall(fmt.Sprint(10+i), "x"))
		require.Equal(t, 200, status, "%+v", answer)
		require.Equal(t, "application/json", header.Get("Content-Type"))
	}
	require.LessOrEqual(t, store.written.Load()-before, int64(1), "the use of the session may be noted on a slow machine")
}

func TestCallIsResumedByEventID(t *testing.T) {
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprintf("durable=%v", durable), func(t *testing.T) {
			var store mcp.Store
			if durable {
				store = newFaultyStore(t)
			}
			l := live(t, store, mcp.Options{})
			h := open(t, l.url)
			s := listen(t, http.MethodPost, l.url, h, fmt.Sprintf(stepsCall, 5, 4))
			prime := s.must()
			require.NotEmpty(t, prime.id)
			require.Empty(t, prime.data)
			require.NotEmpty(t, prime.retry)
			l.steps <- struct{}{}
			l.steps <- struct{}{}
			first, second := s.must(), s.must()
			require.Contains(t, first.data, progress(1))
			require.Contains(t, second.data, progress(2))
			s.close()
			l.steps <- struct{}{}

			s = listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", first.id), "")
			require.Equal(t, first.id, s.must().id, "primed with where it stands")
			again := s.must()
			require.Equal(t, second, again, "the same event under the same id")
			require.Contains(t, s.must().data, progress(3))
			l.steps <- struct{}{}
			require.Contains(t, s.must().data, progress(4))
			last := s.must()
			require.Contains(t, last.data, "all steps done")
			require.Empty(t, s.rest())

			// The end can be asked for again, and only what is later comes.
			s = listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", prime.id), "")
			all := s.rest()
			require.Len(t, all, 6)
			require.Equal(t, last, all[5])
			s = listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", last.id), "")
			require.Len(t, s.rest(), 1, "a priming event and the end")
			require.EqualValues(t, 3, l.r.Stats().Resumptions)
		})
	}
}

// An answer that comes at once is stored nowhere; behind another event it must be.
func TestAnAnswerThatTheStoreCannotKeepIsAnError(t *testing.T) {
	l := live(t, newFaultyStore(t), mcp.Options{})
	h := open(t, l.url)
	l.steps <- struct{}{}
	s := listen(t, http.MethodPost, l.url, h,
		`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"steps","arguments":{"steps":1,"long":300000},"_meta":{"progressToken":"p"}}}`)
	all := s.rest()
	require.Contains(t, all[1].data, progress(1))
	require.Contains(t, all[2].data, `"id":5,"error":{"code":-32012,`)
	require.Contains(t, all[2].data, "more than the event stream can keep")
	s = listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", all[1].id), "")
	require.Equal(t, all[2], s.rest()[1], "and that is what is kept")
	status, answer, _ := post(t, l.url, h, echoCall("6", "still there"))
	require.Equal(t, 200, status, "%+v", answer)
}

func TestCallInterruptedByRestartEndsWithAnError(t *testing.T) {
	store := newFaultyStore(t)
	l := live(t, store, mcp.Options{})
	h := open(t, l.url)
	s := listen(t, http.MethodPost, l.url, h, fmt.Sprintf(stepsCall, 5, 4))
	prime := s.must()
	l.steps <- struct{}{}
	first := s.must()
	require.Contains(t, first.data, progress(1))
	l.kill()

	l = live(t, store, mcp.Options{})
	for _, from := range []event{first, prime} {
		s = listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", from.id), "")
		all := s.rest()
		var answer rpcAnswer
		require.NoError(t, json.Unmarshal([]byte(all[len(all)-1].data), &answer))
		require.Equal(t, "5", string(answer.ID))
		require.Equal(t, -32603, answer.Error.Code)
		require.Contains(t, answer.Error.Message, "the server restarted while it ran")
	}
	require.EqualValues(t, 1, l.r.Stats().Interrupted)
}

func TestHandlerMayCloseItsStream(t *testing.T) {
	l := live(t, newFaultyStore(t), mcp.Options{})
	h := open(t, l.url)
	s := listen(t, http.MethodPost, l.url, h,
		`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"steps","arguments":{"steps":2,"leave":true},"_meta":{"progressToken":"p"}}}`)
	l.steps <- struct{}{}
	all := s.rest()
	require.Equal(t, "7", all[len(all)-1].retry)
	last := all[len(all)-2]
	require.Contains(t, last.data, progress(1))
	s = listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", last.id), "")
	l.steps <- struct{}{}
	all = s.rest()
	require.Len(t, all, 3, "priming, progress, answer")
	require.Contains(t, all[1].data, progress(2))
	require.Contains(t, all[2].data, "all steps done")
}

func TestSessionOfAnotherPrincipalIsUnknown(t *testing.T) {
	store := newFaultyStore(t)
	o := mcp.Options{Authenticator: byHeader{}}
	l := live(t, store, o)
	alice := map[string]string{"X-User": "alice"}
	_, _, header := post(t, l.url, alice, initialize)
	id := header.Get("Mcp-Session-Id")
	for range 2 { // the session is in memory, then only in the store
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			var body io.Reader
			if method == http.MethodPost {
				body = strings.NewReader(echoCall("2", "mine now"))
			}
			mallory := map[string]string{"X-User": "mallory", "Mcp-Session-Id": id}
			status, foreign, _ := do(t, method, l.url, mallory, body)
			require.Equal(t, 404, status)
			if method == http.MethodPost {
				body = strings.NewReader(echoCall("2", "mine now"))
			}
			_, unknown, _ := do(t, method, l.url, with(mallory, "Mcp-Session-Id", strings.Repeat("A", 43)), body)
			require.Equal(t, unknown, foreign, "not even that it exists is told")
		}
		l.kill()
		l = live(t, store, o)
	}
	status, _, _ := post(t, l.url, with(alice, "Mcp-Session-Id", id), echoCall("2", "mine"))
	require.Equal(t, 200, status)
}

// byHeader authenticates everybody as who they say they are.
type byHeader struct{}

func (byHeader) Authenticate(req *http.Request) (*mcp.Identity, error) {
	return &mcp.Identity{Subject: req.Header.Get("X-User"), Scopes: []string{"*"}}, nil
}
