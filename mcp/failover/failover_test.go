package failover_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp/failover"
)

const call = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"make","arguments":{}}}`

const done = `{"jsonrpc":"2.0","id":7,"result":{"content":[]}}`

func refusal(code string, retry bool) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true,"structuredContent":{"code":%q,"retry":%v}}}`, code, retry)
}

// members is a cluster of servers that do what they are told, and note who was asked with which key.
type members struct {
	urls []string
	mu   sync.Mutex
	keys []string // "number key"
}

func newMembers(t *testing.T, handlers ...http.HandlerFunc) *members {
	m := &members{}
	for i, h := range handlers {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			m.mu.Lock()
			m.keys = append(m.keys, fmt.Sprint(i, " ", r.Header.Get("Idempotency-Key")))
			m.mu.Unlock()
			h(w, r)
		}))
		t.Cleanup(s.Close)
		m.urls = append(m.urls, s.URL)
	}
	return m
}

func (m *members) asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.keys...)
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// events sends some and then breaks the connection off, or ends it when whole.
func events(whole bool, data ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, d := range data {
			fmt.Fprintf(w, "id: 1\ndata: %s\n\n", d)
		}
		_ = http.NewResponseController(w).Flush()
		if !whole {
			panic(http.ErrAbortHandler)
		}
	}
}

func broken(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func post(t *testing.T, o failover.Options) (int, string, error) {
	t.Helper()
	tr, err := failover.New(o)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://any/", strings.NewReader(call))
	require.NoError(t, err)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

func TestTheSameCallGoesToTheNextMemberUntilOneAnswers(t *testing.T) {
	for name, first := range map[string]http.HandlerFunc{
		"connection breaks":    broken,
		"service unavailable":  answer(503, `{"jsonrpc":"2.0","id":7,"error":{"code":-32010,"message":"starting"}}`),
		"overloaded":           answer(200, `{"jsonrpc":"2.0","id":7,"error":{"code":-32010,"message":"busy"}}`),
		"no majority":          answer(200, refusal("unavailable", true)),
		"unknown outcome":      answer(200, refusal("unknown_outcome", true)),
		"events, then silence": events(false, `{"jsonrpc":"2.0","method":"notifications/progress","params":{}}`),
		"events, then refusal": events(true, refusal("unavailable", true)),
		"half a body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			_, _ = w.Write([]byte(`{"js`))
			panic(http.ErrAbortHandler)
		},
		"no answer for a while": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMembers(t, first, answer(200, done))
			status, body, err := post(t, failover.Options{Endpoints: m.urls, Try: 300 * time.Millisecond})
			require.NoError(t, err)
			require.Equal(t, 200, status)
			require.Contains(t, body, done)
			require.NotContains(t, body, "isError")
			keys := m.asked()
			require.Len(t, keys, 2)
			require.Equal(t, strings.TrimPrefix(keys[0], "0 "), strings.TrimPrefix(keys[1], "1 "), "one change, one key")
			require.NotEqual(t, "0 ", keys[0])
		})
	}
}

func TestARefusalThatHoldsEverywhereIsTheAnswer(t *testing.T) {
	m := newMembers(t, answer(200, refusal("wip_limit_reached", false)), answer(200, done))
	_, body, err := post(t, failover.Options{Endpoints: m.urls})
	require.NoError(t, err)
	require.Contains(t, body, "wip_limit_reached")
	require.Len(t, m.asked(), 1)
}

func TestWhenNobodyCanTheLastWordIsReturned(t *testing.T) {
	m := newMembers(t, answer(200, refusal("unavailable", true)), answer(200, refusal("unavailable", true)))
	_, body, err := post(t, failover.Options{Endpoints: m.urls, Patience: 100 * time.Millisecond})
	require.NoError(t, err)
	require.Contains(t, body, "unavailable")
	require.Greater(t, len(m.asked()), 2)

	m = newMembers(t, broken, broken)
	_, _, err = post(t, failover.Options{Endpoints: m.urls, Patience: 100 * time.Millisecond})
	require.ErrorIs(t, err, failover.ErrNoMember)
}

func TestAToolThatMustRunOnceIsNotRepeated(t *testing.T) {
	once := func(tool string) bool { return tool == "make" }
	m := newMembers(t, broken, answer(200, done))
	_, _, err := post(t, failover.Options{Endpoints: m.urls, Once: once})
	require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
	require.Len(t, m.asked(), 1)

	m = newMembers(t, answer(200, done))
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	_, body, err := post(t, failover.Options{Endpoints: append([]string{dead.URL}, m.urls...), Once: once})
	require.NoError(t, err, "a member that was never reached has not run it")
	require.Contains(t, body, done)
}

func TestTheMemberThatAnsweredIsKept(t *testing.T) {
	m := newMembers(t, broken, answer(200, done))
	tr, err := failover.New(failover.Options{Endpoints: m.urls})
	require.NoError(t, err)
	for range 3 {
		req, err := http.NewRequest(http.MethodPost, "http://any/", strings.NewReader(call))
		require.NoError(t, err)
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
	}
	require.Len(t, m.asked(), 4, "the dead one is asked once")
}

func TestOptionsAreChecked(t *testing.T) {
	for _, bad := range [][]string{nil, {"10.0.0.1:8080"}, {"ftp://x/"}} {
		_, err := failover.New(failover.Options{Endpoints: bad})
		require.ErrorContains(t, err, "failover")
	}
}

// Example connects a client of the official SDK to a cluster. Members may die while it works.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	client := sdk.NewClient(&sdk.Implementation{Name: "planner", Version: "1"}, nil)
	session, err := failover.Connect(ctx, client, failover.Options{
		Endpoints: []string{"http://127.0.0.1:1/mcp", "http://127.0.0.1:2/mcp", "http://127.0.0.1:3/mcp"},
		Patience:  50 * time.Millisecond,
	}, nil)
	if err != nil {
		fmt.Println("nobody is there")
		return
	}
	defer session.Close()
	// CallTool returns when some member has made the change, once.
	_, _ = session.CallTool(ctx, &sdk.CallToolParams{Name: "work_order_next", Arguments: map[string]any{"bucket": "reliability"}})
	// Output: nobody is there
}

// of is a server of a history; "": a single node.
func of(history *atomic.Value, then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if h := history.Load().(string); h != "" {
			w.Header().Set(failover.HistoryHeader, h)
		}
		then(w, r)
	}
}

// TestAServerThatBeganAnewIsNoMember: its directory was lost, and it takes every change: what it says does not count.
func TestAServerThatBeganAnewIsNoMember(t *testing.T) {
	var first, second atomic.Value
	first.Store("a")
	second.Store("a")
	m := newMembers(t, of(&first, answer(200, done)), of(&second, answer(200, done)))
	tr, err := failover.New(failover.Options{Endpoints: m.urls, Patience: 300 * time.Millisecond, Wait: time.Millisecond})
	require.NoError(t, err)
	send := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://any/", strings.NewReader(call))
		require.NoError(t, err)
		resp, err := tr.RoundTrip(req)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	require.NoError(t, send())
	for _, lost := range []string{"", "b"} {
		first.Store(lost)
		before := len(m.asked())
		require.NoError(t, send())
		asked := m.asked()[before:]
		require.True(t, strings.HasPrefix(asked[len(asked)-1], "1 "), "the answer is of a member: %v", asked)
		first.Store("a")
		second.Store("")
		require.NoError(t, send())
		second.Store("a")
	}
	// A single node is never taken for the cluster; what an operator made of its ruins is, after an error that says so.
	first.Store("")
	second.Store("")
	for range 2 {
		require.ErrorIs(t, send(), failover.ErrOtherHistory)
	}
	first.Store("b")
	second.Store("b")
	require.ErrorIs(t, send(), failover.ErrOtherHistory)
	require.NoError(t, send())
}
