package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// ticker is a clock that tests move.
type ticker struct{ ns atomic.Int64 }

func newTicker() *ticker {
	c := new(ticker)
	c.ns.Store(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *ticker) now() time.Time        { return time.Unix(0, c.ns.Load()) }
func (c *ticker) move(by time.Duration) { c.ns.Add(int64(by)) }

// ask sends one message from an address and returns the answer.
func ask(r *mcp.Runtime, remote, who, message string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/mcp", strings.NewReader(message))
	req.RemoteAddr = remote
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": "2026-07-28",
	} {
		req.Header.Set(k, v)
	}
	var env struct {
		Method string
		Params struct{ Name string }
	}
	_ = json.Unmarshal([]byte(message), &env)
	req.Header.Set("Mcp-Method", env.Method)
	if env.Params.Name != "" {
		req.Header.Set("Mcp-Name", env.Params.Name)
	}
	if who != "" {
		req.Header.Set("Authorization", "Bearer "+who)
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	return w
}

var (
	discover = stateless("1", "server/discover", "")
	echo     = stateless("1", "tools/call", `"name":"echo","arguments":{"text":"a"}`)
)

func TestAClientThatAsksTooFastIsToldWhenToComeBack(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Messages: 4, ToolCalls: 2, Global: 100}})
	far := "192.0.2.1:1000"
	for range 4 {
		require.Equal(t, http.StatusOK, ask(r, far, "", discover).Code)
	}
	w := ask(r, far, "", discover)
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	var answer rpcAnswer
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	require.Equal(t, mcp.CodeOverloaded, answer.Error.Code)
	require.Equal(t, "1", string(answer.ID))
	require.Contains(t, answer.Error.Message, "4 messages of one client per second")
	require.JSONEq(t, `{"retryAfterMs":250}`, string(answer.Error.Data))

	require.Equal(t, http.StatusOK, ask(r, "192.0.2.2:1", "", discover).Code, "another client is not meant")
	clock.move(250 * time.Millisecond)
	require.Equal(t, http.StatusOK, ask(r, far, "", discover).Code)
	require.Equal(t, http.StatusTooManyRequests, ask(r, far, "", discover).Code)

	clock.move(time.Second)
	require.Equal(t, http.StatusOK, ask(r, far, "", echo).Code)
	require.Equal(t, http.StatusOK, ask(r, far, "", echo).Code)
	w = ask(r, far, "", echo)
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Contains(t, w.Body.String(), "tool calls")
	require.Equal(t, http.StatusOK, ask(r, far, "", discover).Code, "what was refused was not counted")
	require.EqualValues(t, 3, r.Stats().RateLimited)
	require.EqualValues(t, 2, r.Stats().ToolCalls)
}

func TestLimitsFollowThePrincipalNotTheAddress(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Authenticator: people{"ann": nil, "bob": nil}, Rates: mcp.RateLimits{Messages: 2}})
	for i := range 2 {
		require.Equal(t, http.StatusOK, ask(r, fmt.Sprintf("127.0.0.%d:1", i+1), "ann", discover).Code)
	}
	require.Equal(t, http.StatusTooManyRequests, ask(r, "192.0.2.9:1", "ann", discover).Code)
	require.Equal(t, http.StatusOK, ask(r, "192.0.2.9:1", "bob", discover).Code)
}

func TestGuessingTokensIsLimitedByAddress(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Authenticator: people{"ann": nil}, Rates: mcp.RateLimits{Messages: 3}})
	for range 3 {
		require.Equal(t, http.StatusUnauthorized, ask(r, "192.0.2.9:1", "guess", discover).Code)
	}
	require.Equal(t, http.StatusTooManyRequests, ask(r, "192.0.2.9:2", "guess", discover).Code)
	require.Equal(t, http.StatusOK, ask(r, "192.0.2.9:2", "ann", discover).Code, "who has a token is not kept out by who has none")
}

func TestTheOwnerOfTheMachineIsNotLimitedUnlessAsked(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Messages: 1, ToolCalls: 1, Global: 1}})
	for range 50 {
		require.Equal(t, http.StatusOK, ask(r, "127.0.0.1:1", "", echo).Code)
		require.Equal(t, http.StatusOK, ask(r, "[::1]:1", "", echo).Code)
	}
	r, _ = newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Messages: 1, Loopback: true}})
	require.Equal(t, http.StatusOK, ask(r, "127.0.0.1:1", "", discover).Code)
	require.Equal(t, http.StatusTooManyRequests, ask(r, "[::1]:1", "", discover).Code)
}

func TestAllClientsTogetherHaveALimitAndNegativeIsNone(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Messages: -1, ToolCalls: -1, Global: 3}})
	for i := range 3 {
		require.Equal(t, http.StatusOK, ask(r, fmt.Sprintf("192.0.2.%d:1", i), "", echo).Code)
	}
	w := ask(r, "192.0.2.77:1", "", echo)
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Contains(t, w.Body.String(), "all clients")
}

func TestOneNetworkOfIPv6IsOneClient(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Messages: 1}})
	require.Equal(t, http.StatusOK, ask(r, "[2001:db8:1:2::1]:1", "", discover).Code)
	require.Equal(t, http.StatusTooManyRequests, ask(r, "[2001:db8:1:2:ffff::9]:1", "", discover).Code)
	require.Equal(t, http.StatusOK, ask(r, "[2001:db8:1:3::1]:1", "", discover).Code)
}

func TestAFloodOfAddressesCostsBoundedMemory(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Messages: 1, Global: -1}})
	for i := range 3 * mcp.MaxBuckets {
		req := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/mcp", nil)
		req.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)
		r.LimitConnection(req.RemoteAddr)
	}
	require.LessOrEqual(t, r.Buckets(), mcp.MaxBuckets)
}

func TestNewConnectionsOfOneAddressAreLimited(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Connections: 2, Loopback: true}})
	srv := httptest.NewUnstartedServer(r.Handler())
	srv.Config.ConnContext = r.ConnContext
	srv.Start()
	t.Cleanup(func() { r.Close(); srv.Close() })
	send := func() *http.Response {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	require.NotEqual(t, http.StatusTooManyRequests, send().StatusCode)
	require.NotEqual(t, http.StatusTooManyRequests, send().StatusCode)
	resp := send()
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.True(t, resp.Close)
	clock.move(time.Second)
	require.NotEqual(t, http.StatusTooManyRequests, send().StatusCode)
}

func TestRequestsForProgressAreBounded(t *testing.T) {
	r, release := newRuntime(t, mcp.Options{MaxProgress: 1})
	wait := stateless("1", "tools/call", `"name":"wait","arguments":{}`)
	wait = strings.Replace(wait, `"_meta":{`, `"_meta":{"progressToken":"p",`, 1)
	var first sync.WaitGroup
	first.Go(func() { ask(r, "127.0.0.1:1", "", wait) })
	require.Eventually(t, func() bool { return r.ProgressTokens() == 1 }, 10*time.Second, time.Millisecond)
	require.Contains(t, ask(r, "127.0.0.1:1", "", wait).Body.String(), "ask for progress")
	require.Equal(t, http.StatusOK, ask(r, "127.0.0.1:1", "", echo).Code)
	close(release)
	first.Wait()
	require.Zero(t, r.ProgressTokens())
}

// fickle accepts everybody until it is told not to.
type fickle struct{ no atomic.Bool }

func (f *fickle) Authenticate(*http.Request) (*mcp.Identity, error) {
	if f.no.Load() {
		return nil, fmt.Errorf("revoked")
	}
	return &mcp.Identity{Subject: "ann"}, nil
}

func TestAnOpenStreamEndsWhenItsCredentialIsRevoked(t *testing.T) {
	who := new(fickle)
	var mu sync.Mutex
	var due []func()
	r, _ := newRuntime(t, mcp.Options{Authenticator: who, AfterFunc: func(d time.Duration, f func()) func() bool {
		if d != 30*time.Second {
			return time.AfterFunc(d, f).Stop
		}
		mu.Lock()
		defer mu.Unlock()
		due = append(due, f)
		return func() bool { return true }
	}})
	check := func() {
		mu.Lock()
		list := due
		due = nil
		mu.Unlock()
		for _, f := range list {
			f()
		}
	}
	url := serveHTTP(t, r).URL
	listen := stateless("1", "subscriptions/listen", `"notifications":{"toolsListChanged":true}`)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, strings.NewReader(listen))
	require.NoError(t, err)
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen",
	} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	require.True(t, lines.Scan())
	check()
	require.EqualValues(t, 1, r.Stats().Streams)
	who.no.Store(true)
	check()
	for lines.Scan() { // to the end of the stream
	}
	require.Eventually(t, func() bool { return r.Stats().Streams == 0 }, 10*time.Second, time.Millisecond)
}
