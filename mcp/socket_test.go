package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// serveTCP serves r on a port of its own.
func serveTCP(t testing.TB, r *mcp.Runtime) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.ServeTCP(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return l.Addr().String()
}

// soon is a context for what must not take long: a test that would hang fails.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// line is a client of lines.
type line struct {
	net.Conn
	in *bufio.Reader
	t  testing.TB
}

func dialLine(t testing.TB, address string) *line {
	t.Helper()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return &line{c, bufio.NewReader(c), t}
}

func (l *line) send(text string) {
	l.t.Helper()
	_, err := io.WriteString(l, text+"\n")
	require.NoError(l.t, err)
}

func (l *line) receive() (a rpcAnswer) {
	l.t.Helper()
	text, err := l.in.ReadBytes('\n')
	require.NoError(l.t, err)
	require.NoError(l.t, json.Unmarshal(text, &a), "%s", text)
	return a
}

func (l *line) ended() {
	l.t.Helper()
	_, err := l.in.ReadByte()
	require.Error(l.t, err)
	var late net.Error
	if ok := errorsAs(err, &late); ok {
		require.False(l.t, late.Timeout(), "the connection is still open")
	}
}

func errorsAs(err error, target *net.Error) bool {
	e, ok := err.(net.Error)
	*target = e
	return ok
}

// tcpTransport is a connection as the official client wants it.
func tcpTransport(t testing.TB, address string) sdk.Transport {
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	return &sdk.IOTransport{Reader: c, Writer: c}
}

// wsTransport carries the official client over a WebSocket.
type wsTransport struct {
	url    string
	header http.Header
}

func (w wsTransport) Connect(ctx context.Context) (sdk.Connection, error) {
	c, _, err := websocket.Dial(ctx, w.url, &websocket.DialOptions{Subprotocols: []string{"mcp"}, HTTPHeader: w.header})
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	near, far := net.Pipe()
	go func() {
		for lines := bufio.NewReader(far); ; {
			text, err := lines.ReadBytes('\n')
			if err != nil {
				_ = c.Close(websocket.StatusNormalClosure, "")
				return
			}
			if c.Write(context.Background(), websocket.MessageText, text) != nil {
				return
			}
		}
	}()
	go func() {
		defer far.Close()
		for {
			_, data, err := c.Read(context.Background())
			if err != nil {
				return
			}
			if _, err := far.Write(append(data, '\n')); err != nil {
				return
			}
		}
	}()
	return (&sdk.IOTransport{Reader: near, Writer: near}).Connect(ctx)
}

func serveWebSocket(t testing.TB, r *mcp.Runtime) string {
	t.Helper()
	srv := httptest.NewServer(r.WebSocket())
	t.Cleanup(func() { r.Close(); srv.Close() })
	return "ws" + strings.TrimPrefix(srv.URL, "http")
}

func TestOfficialClientIsServedOnSockets(t *testing.T) {
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			r, _ := newRuntime(t, mcp.Options{})
			for name, transport := range map[string]sdk.Transport{
				"tcp": tcpTransport(t, serveTCP(t, r)), "websocket": wsTransport{url: serveWebSocket(t, r)},
			} {
				var steps []float64
				var mu sync.Mutex
				session := connect(t, transport, version, &sdk.ClientOptions{
					ProgressNotificationHandler: func(_ context.Context, req *sdk.ProgressNotificationClientRequest) {
						mu.Lock()
						defer mu.Unlock()
						steps = append(steps, req.Params.Progress)
					},
				})
				res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo", Arguments: textIn{Text: name}})
				require.NoError(t, err, name)
				require.Equal(t, map[string]any{"text": name}, res.StructuredContent)
				params := &sdk.CallToolParams{Name: "progress"}
				params.SetProgressToken("p")
				_, err = session.CallTool(t.Context(), params)
				require.NoError(t, err, name)
				require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(steps) == 3 }, 10*time.Second, time.Millisecond, name)
				_ = session.Close() // closes what is read and what is written, which are one
			}
			require.Eventually(t, func() bool { return r.Stats().Sockets == 0 }, 10*time.Second, time.Millisecond)
			require.NotZero(t, r.Stats().TCP)
			require.NotZero(t, r.Stats().WebSocket)
		})
	}
}

func TestTCPAsksWhoIsThereBeforeAnythingElse(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{Authenticator: people{"ann": {}}, ToolScopes: map[string][]string{"fail": {"x"}}})
	whoTool(r, "who")
	address := serveTCP(t, r)

	c := dialLine(t, address)
	c.send("Authorization: Bearer ann")
	c.send(initialize)
	require.Zero(t, c.receive().Error.Code)
	c.send(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"who","arguments":{}}}`)
	require.Contains(t, string(c.receive().Result), `"text":"ann"`)
	c.send(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"fail","arguments":{"text":"x"}}}`)
	require.Equal(t, mcp.CodeInsufficientScope, c.receive().Error.Code, "scopes count on every carrier")

	for name, first := range map[string]string{"nobody": initialize, "somebody else": "authorization: Bearer eve\n" + initialize} {
		c := dialLine(t, address)
		c.send(first)
		require.Equal(t, mcp.CodeUnauthenticated, c.receive().Error.Code, name)
		c.ended()
	}
}

func TestAnHTTPRequestOnTheTCPPortGetsNowhere(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	c := dialLine(t, serveTCP(t, r))
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\r\n" + echo)
	c.ended()
	require.Zero(t, r.Stats().ToolCalls)
	require.Zero(t, r.Stats().TCP)

	// Without authentication a client may still say who it is.
	c = dialLine(t, serveTCP(t, r))
	c.send("Authorization: Bearer whoever")
	c.send(initialize)
	require.Zero(t, c.receive().Error.Code)
}

func TestBadLinesOnTCPAreAnsweredAndTheConnectionGoesOn(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{MaxMessageBytes: 1 << 12})
	c := dialLine(t, serveTCP(t, r))
	c.send(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	require.Zero(t, c.receive().Error.Code)
	c.send(`{"jsonrpc":"2.0","id":9,"method":"ping","params":{"x":"` + strings.Repeat("y", 1<<13) + `"}}`)
	bad := c.receive()
	require.Equal(t, mcp.CodeMessageTooLarge, bad.Error.Code)
	require.Equal(t, "9", string(bad.ID))
	c.send(`{"jsonrpc":`)
	require.Equal(t, -32700, c.receive().Error.Code)
	c.send(`{"jsonrpc":"2.0","id":2,"method":"ping"}`)
	require.Zero(t, c.receive().Error.Code)
}

func TestSocketsAreBounded(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{MaxSockets: 2})
	address, url := serveTCP(t, r), serveWebSocket(t, r)
	for range 2 {
		c := dialLine(t, address)
		c.send(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		c.receive()
	}
	c := dialLine(t, address)
	require.Equal(t, mcp.CodeOverloaded, c.receive().Error.Code)
	c.ended()
	_, resp, err := websocket.Dial(soon(t), url, &websocket.DialOptions{Subprotocols: []string{"mcp"}})
	require.Error(t, err)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Equal(t, 2, r.Stats().Sockets)
}

func TestNewTCPConnectionsAndTheirMessagesAreLimited(t *testing.T) {
	clock := newTicker()
	r, _ := newRuntime(t, mcp.Options{Now: clock.now, Rates: mcp.RateLimits{Messages: 3, Connections: 1, Loopback: true}})
	address := serveTCP(t, r)
	c := dialLine(t, address)
	for range 3 {
		c.send(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		require.Zero(t, c.receive().Error.Code)
	}
	c.send(`{"jsonrpc":"2.0","id":"x","method":"ping"}`)
	bad := c.receive()
	require.Equal(t, mcp.CodeOverloaded, bad.Error.Code)
	require.Equal(t, `"x"`, string(bad.ID))
	again := dialLine(t, address)
	require.Contains(t, again.receive().Error.Message, "new connections")
	again.ended()
	clock.move(time.Second)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	require.Zero(t, c.receive().Error.Code)
}

// alarm collects what AfterFunc is given for one duration or longer.
type alarm struct {
	mu  sync.Mutex
	due []func()
}

func (a *alarm) after(least time.Duration) func(time.Duration, func()) func() bool {
	return func(d time.Duration, f func()) func() bool {
		if d < least {
			return time.AfterFunc(d, f).Stop
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.due = append(a.due, f)
		return func() bool { return true }
	}
}

func (a *alarm) ring() {
	a.mu.Lock()
	list := a.due
	a.due = nil
	a.mu.Unlock()
	for _, f := range list {
		f()
	}
}

func TestASilentSocketIsClosedAndABusyOneIsNot(t *testing.T) {
	clock, bell := newTicker(), new(alarm)
	r, release := newRuntime(t, mcp.Options{Now: clock.now, AfterFunc: bell.after(45 * time.Second), SocketIdle: 5 * time.Minute})
	silent, busy := dialLine(t, serveTCP(t, r)), dialLine(t, serveTCP(t, r))
	for _, c := range []*line{silent, busy} {
		c.send(initialize)
		c.receive()
	}
	busy.send(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"wait","arguments":{}}}`)
	require.Eventually(t, func() bool { return r.Stats().TCP == 3 && r.Running() == 1 }, 10*time.Second, time.Millisecond)
	clock.move(4 * time.Minute)
	silent.send(`{"jsonrpc":"2.0","id":3,"method":"ping"}`)
	silent.receive()
	clock.move(4 * time.Minute)
	bell.ring() // four quiet minutes are not enough
	require.Equal(t, 2, r.Stats().Sockets)
	clock.move(2 * time.Minute)
	bell.ring()
	require.Contains(t, silent.receive().Error.Message, "no message for 5m")
	silent.ended()
	close(release)
	require.Contains(t, string(busy.receive().Result), "released")
}

func TestAPeerThatDoesNotReadIsDisconnectedAndHarmsNobody(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{MaxPending: 100000})
	address := serveTCP(t, r)
	slow := dialLine(t, address)
	slow.send(initialize)
	slow.receive()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := range 40 {
			if _, err := fmt.Fprintf(slow, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"big","arguments":{"bytes":1000000}}}`+"\n", i+10); err != nil {
				return
			}
		}
	}()
	other := dialLine(t, address)
	other.send(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	require.Zero(t, other.receive().Error.Code)
	require.Eventually(t, func() bool { return r.Stats().SlowPeers == 1 }, time.Minute, 5*time.Millisecond)
	require.NoError(t, slow.Close())
	<-stopped
	require.NoError(t, other.SetDeadline(time.Now().Add(30*time.Second))) // the peer may have taken longer
	other.send(`{"jsonrpc":"2.0","id":2,"method":"ping"}`)
	require.Zero(t, other.receive().Error.Code)
}

func TestWebSocketChecksWhatHTTPChecks(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{Authenticator: people{"ann": {}}})
	url := serveWebSocket(t, r)
	for _, c := range []struct {
		name   string
		o      websocket.DialOptions
		status int
	}{
		{"no credential", websocket.DialOptions{Subprotocols: []string{"mcp"}}, 401},
		{"another page", websocket.DialOptions{Subprotocols: []string{"mcp"}, HTTPHeader: http.Header{"Origin": {"https://evil.example.com"}, "Authorization": {"Bearer ann"}}}, 403},
		{"rebound name", websocket.DialOptions{Subprotocols: []string{"mcp"}, Host: "evil.example.com", HTTPHeader: http.Header{"Authorization": {"Bearer ann"}}}, 403},
		{"no subprotocol", websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer ann"}}}, 400},
	} {
		_, resp, err := websocket.Dial(soon(t), url, &c.o)
		require.Error(t, err, c.name)
		require.Equal(t, c.status, resp.StatusCode, c.name)
	}
	c, _, err := websocket.Dial(soon(t), url, &websocket.DialOptions{Subprotocols: []string{"mcp"}, HTTPHeader: http.Header{"Authorization": {"Bearer ann"}}})
	require.NoError(t, err)
	require.Equal(t, "mcp", c.Subprotocol())
	require.NoError(t, c.Write(soon(t), websocket.MessageBinary, []byte("{}")))
	_, _, err = c.Read(soon(t))
	require.Equal(t, websocket.StatusUnsupportedData, websocket.CloseStatus(err))
}

func TestMessagesOverTheLimitOnAWebSocketAreAnswered(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{MaxMessageBytes: 1 << 12})
	c, _, err := websocket.Dial(soon(t), serveWebSocket(t, r), &websocket.DialOptions{Subprotocols: []string{"mcp"}})
	require.NoError(t, err)
	defer c.CloseNow()
	exchange := func(text string) (a rpcAnswer) {
		require.NoError(t, c.Write(soon(t), websocket.MessageText, []byte(text)))
		_, data, err := c.Read(soon(t))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &a))
		return a
	}
	bad := exchange(`{"jsonrpc":"2.0","id":9,"method":"ping","params":{"x":"` + strings.Repeat("y", 1<<17) + `"}}`)
	require.Equal(t, mcp.CodeMessageTooLarge, bad.Error.Code)
	require.Equal(t, "9", string(bad.ID))
	require.Equal(t, -32700, exchange("{").Error.Code)
	require.Zero(t, exchange(`{"jsonrpc":"2.0","id":1,"method":"ping"}`).Error.Code)
	go r.Close()
	_, _, err = c.Read(soon(t))
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err))
}

func TestASocketEndsWithItsCredential(t *testing.T) {
	who, bell := new(fickle), new(alarm)
	r, _ := newRuntime(t, mcp.Options{Authenticator: who, AfterFunc: bell.after(30 * time.Second)})
	tcp := dialLine(t, serveTCP(t, r))
	tcp.send("Authorization: Bearer x")
	tcp.send(initialize)
	require.Zero(t, tcp.receive().Error.Code)
	ws, _, err := websocket.Dial(soon(t), serveWebSocket(t, r), &websocket.DialOptions{Subprotocols: []string{"mcp"}})
	require.NoError(t, err)
	who.no.Store(true)
	bell.ring()
	tcp.ended()
	_, _, err = ws.Read(soon(t))
	require.Error(t, err)
	require.NotErrorIs(t, err, context.DeadlineExceeded, "the connection is still open")
}
