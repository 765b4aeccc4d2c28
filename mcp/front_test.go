package mcp_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"raw","version":"1"}}}`

// stateless builds a request of protocol 2026-07-28.
func stateless(id, method, params string) string {
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	if params != "" {
		meta += ","
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s%s}}`, id, method, meta, params)
}

// open starts a session of protocol 2025-11-25 and returns its headers.
func open(t testing.TB, url string) map[string]string {
	t.Helper()
	status, _, h := post(t, url, nil, initialize)
	require.Equal(t, http.StatusOK, status)
	id := h.Get("Mcp-Session-Id")
	require.Len(t, id, 43, "256 bits in base64url")
	return map[string]string{"Mcp-Session-Id": id, "Mcp-Protocol-Version": oldProtocol}
}

func with(h map[string]string, kv ...string) map[string]string {
	out := make(map[string]string)
	for k, v := range h {
		out[k] = v
	}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i]] = kv[i+1]
	}
	return out
}

func TestBadMessagesOverHTTP(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{MaxMessageBytes: 1 << 16})
	url := serveHTTP(t, r).URL
	session := open(t, url)
	ping := `{"jsonrpc":"2.0","id":7,"method":"ping"}`
	deep := `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":` + strings.Repeat("[", 1200) + strings.Repeat("]", 1200) + `}}}`
	for _, c := range []struct {
		name, body string
		header     []string
		status     int
		code       int
		id         string
		says       string
	}{
		{name: "empty body", body: "", status: 400, code: -32600, id: "null", says: "empty"},
		{name: "not JSON", body: "hello", status: 400, code: -32700, id: "null", says: "parse error"},
		{name: "cut short", body: ping[:20], status: 400, code: -32700, id: "null", says: "unexpected end"},
		{name: "two values", body: ping + ping, status: 400, code: -32700, id: "null", says: "end of the message"},
		{name: "invalid UTF-8", body: "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"p\xffng\"}", status: 400, code: -32700, id: "7", says: "UTF-8"},
		{name: "UTF-8 surrogate half", body: "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"\xed\xa0\x80\"}", status: 400, code: -32700, id: "7", says: "UTF-8"},
		{name: "UTF-16", body: "\xff\xfe{\x00}\x00", status: 400, code: -32700, id: "null", says: "UTF-8"},
		{name: "control character in a string", body: "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"p\x01\"}", status: 400, code: -32700, id: "null", says: "control"},
		{name: "too deep", body: deep, status: 400, code: -32700, id: "null", says: "1000 levels"},
		{name: "a number", body: "42", status: 400, code: -32600, id: "null", says: "object"},
		{name: "null", body: "null", status: 400, code: -32600, id: "null", says: "object"},
		{name: "empty object", body: "{}", status: 400, code: -32600, id: "null", says: "jsonrpc"},
		{name: "wrong version", body: `{"jsonrpc":"1.0","id":7,"method":"ping"}`, status: 400, code: -32600, id: "7", says: "2.0"},
		{name: "no version", body: `{"id":7,"method":"ping"}`, status: 400, code: -32600, id: "7", says: "2.0"},
		{name: "null id", body: `{"jsonrpc":"2.0","id":null,"method":"ping"}`, status: 400, code: -32600, id: "null", says: "id"},
		{name: "object id", body: `{"jsonrpc":"2.0","id":{},"method":"ping"}`, status: 400, code: -32600, id: "null", says: "id"},
		{name: "fractional id", body: `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, status: 400, code: -32600, id: "null", says: "whole number"},
		{name: "huge id", body: `{"jsonrpc":"2.0","id":9007199254740993123,"method":"ping"}`, status: 400, code: -32600, id: "null", says: "2^53"},
		{name: "endless id", body: `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 2000) + `","method":"ping"}`, status: 400, code: -32600, id: "null", says: "1024"},
		{name: "numeric method", body: `{"jsonrpc":"2.0","id":7,"method":1}`, status: 400, code: -32600, id: "7", says: "method"},
		{name: "empty method", body: `{"jsonrpc":"2.0","id":7,"method":""}`, status: 400, code: -32600, id: "7", says: "method"},
		{name: "no method", body: `{"jsonrpc":"2.0","id":7}`, status: 400, code: -32600, id: "7", says: "method"},
		{name: "array params", body: `{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}`, status: 400, code: -32602, id: "7", says: "params"},
		{name: "string params", body: `{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}`, status: 400, code: -32602, id: "7", says: "params"},
		{name: "duplicate member", body: `{"jsonrpc":"2.0","id":7,"method":"ping","method":"tools/list"}`, status: 400, code: -32600, id: "null", says: "twice"},
		{name: "duplicate member, escaped", body: `{"jsonrpc":"2.0","id":7,"method":"ping","m\u0065thod":"tools/list"}`, status: 400, code: -32600, id: "null", says: "twice"},
		{name: "request and response", body: `{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}`, status: 400, code: -32600, id: "7", says: "result"},
		{name: "result and error", body: `{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":"x"}}`, status: 400, code: -32600, id: "null", says: "both"},
		{name: "response without id", body: `{"jsonrpc":"2.0","result":{}}`, status: 400, code: -32600, id: "null", says: "id"},
		{name: "error is a string", body: `{"jsonrpc":"2.0","id":7,"error":"x"}`, status: 400, code: -32600, id: "null", says: "error"},
		{name: "empty batch", body: "[]", status: 400, code: -32600, id: "null", says: "empty batch"},
		{name: "batch", body: "[" + ping + "]", status: 400, code: -32600, id: "null", says: "no batches"},
		{name: "batch of nonsense", body: "[1]", status: 400, code: -32600, id: "null", says: "message 0"},
		{name: "batch too long", body: "[" + strings.Repeat("1,", 101) + "1]", status: 400, code: -32600, id: "null", says: "100"},
		{name: "batch with initialize", body: "[" + initialize + "]", header: []string{"Mcp-Protocol-Version", "2025-03-26"}, status: 400, code: -32600, id: "null", says: "initialize"},
		{name: "batch with the same id twice", body: "[" + ping + "," + ping + "]", header: []string{"Mcp-Protocol-Version", "2025-03-26"}, status: 400, code: -32600, id: "null", says: "twice"},
		{name: "initialize twice", body: initialize, status: 200, code: -32603, id: "1", says: "duplicate"},
		{name: "unknown session", body: ping, header: []string{"Mcp-Session-Id", "nobody"}, status: 404, code: mcp.CodeSessionNotFound, id: "null", says: "initialize again"},
		{name: "no session", body: ping, header: []string{"Mcp-Session-Id", "-"}, status: 400, code: mcp.CodeNotInitialized, id: "7", says: "initialize"},
		{name: "unknown method", body: `{"jsonrpc":"2.0","id":7,"method":"no/such"}`, status: 200, code: -32601, id: "7", says: "no/such"},
		{name: "unknown tool", body: `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"nope"}}`, status: 200, code: -32602, id: "7", says: "nope"},
		{name: "wrong type in params", body: `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":7}}`, status: 200, code: -32602, id: "7", says: "invalid params"},
		{name: "no params", body: `{"jsonrpc":"2.0","id":7,"method":"tools/call"}`, status: 200, code: -32600, id: "7", says: "params"},
		{name: "wrong content type", body: ping, header: []string{"Content-Type", "text/plain"}, status: 415, code: -32600, id: "null", says: "application/json"},
		{name: "no content type", body: ping, header: []string{"Content-Type", "-"}, status: 415, code: -32600, id: "null", says: "application/json"},
		{name: "latin1", body: ping, header: []string{"Content-Type", "application/json; charset=latin1"}, status: 415, code: -32600, id: "null", says: "UTF-8"},
		{name: "compressed", body: ping, header: []string{"Content-Encoding", "gzip"}, status: 415, code: -32600, id: "null", says: "gzip"},
		{name: "cannot read JSON", body: ping, header: []string{"Accept", "text/event-stream"}, status: 406, code: -32600, id: "null", says: "Accept"},
		{name: "cannot read events", body: ping, header: []string{"Accept", "application/json, text/event-stream;q=0"}, status: 406, code: -32600, id: "null", says: "Accept"},
		{name: "version of the future", body: ping, header: []string{"Mcp-Protocol-Version", "2199-01-01"}, status: 400, code: mcp.CodeUnsupported, id: "7", says: "2026-07-28"},
		{name: "version of the past", body: ping, header: []string{"Mcp-Protocol-Version", "2020-01-01"}, status: 400, code: mcp.CodeUnsupported, id: "7", says: "2026-07-28"},
		{name: "version that is none", body: ping, header: []string{"Mcp-Protocol-Version", "banana"}, status: 400, code: mcp.CodeUnsupported, id: "7", says: "banana"},
		{name: "resumption of a POST", body: ping, header: []string{"Last-Event-ID", "x_1"}, status: 400, code: -32600, id: "7", says: "Last-Event-ID"},
		{name: "stateless without meta", body: ping, header: []string{"Mcp-Protocol-Version", newProtocol}, status: 400, code: -32602, id: "7", says: "_meta"},
		{name: "stateless without header", body: stateless("7", "tools/list", ""), header: []string{"Mcp-Protocol-Version", "-"}, status: 400, code: -32020, id: "7", says: "header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer, h := post(t, url, with(session, c.header...), c.body)
			require.Equal(t, c.status, status, "%+v", answer)
			require.Equal(t, c.code, answer.Error.Code, answer.Error.Message)
			require.Equal(t, c.id, string(answer.ID))
			require.Contains(t, answer.Error.Message, c.says)
			if c.status != 200 {
				require.Equal(t, "application/json", h.Get("Content-Type"))
			}
		})
	}
	// None of it harmed the session.
	status, answer, _ := post(t, url, session, `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"echo","arguments":{"text":"ok"}}}`)
	require.Equal(t, 200, status)
	require.Contains(t, string(answer.Result), "ok")
	require.Zero(t, r.Stats().Panics)
	require.NotZero(t, r.Stats().Refused[-32700])
}

func TestMessageTooLargeNamesItsCallAndKeepsTheConnection(t *testing.T) {
	const limit = 1 << 12
	r, _ := newRuntime(t, mcp.Options{MaxMessageBytes: limit})
	srv := serveHTTP(t, r)
	message := func(size int) string {
		frame := `{"params":{"name":"echo","arguments":{"id":1,"text":"%s"}},"method":"tools/call","jsonrpc":"2.0","id":"last"}`
		return fmt.Sprintf(frame, strings.Repeat("x", size-len(frame)+2))
	}
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	answers := bufio.NewReader(conn)
	exchange := func(chunked bool, body string) (*http.Response, rpcAnswer) {
		req, err := http.NewRequest(http.MethodPost, srv.URL, io.NopCloser(strings.NewReader(body)))
		require.NoError(t, err)
		if !chunked {
			req.ContentLength = int64(len(body))
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "*/*")
		require.NoError(t, req.Write(conn))
		resp, err := http.ReadResponse(answers, req)
		require.NoError(t, err)
		defer resp.Body.Close()
		var answer rpcAnswer
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
		return resp, answer
	}
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{limit + 1, 10 * limit, 4 << 20} {
			resp, answer := exchange(chunked, message(size))
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			require.Equal(t, mcp.CodeMessageTooLarge, answer.Error.Code)
			require.JSONEq(t, `"last"`, string(answer.ID))
			require.Contains(t, answer.Error.Message, "4096")
		}
		// Exactly the limit passes the size check, on the same connection.
		resp, answer := exchange(chunked, message(limit))
		require.Equal(t, http.StatusBadRequest, resp.StatusCode)
		require.Equal(t, mcp.CodeNotInitialized, answer.Error.Code)
	}
}

func TestSlowBodyIsGivenUp(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{BodyTimeout: 50 * time.Millisecond})
	srv := serveHTTP(t, r)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: */*\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
}

func TestOnlyTrustedHostsAndOriginsAreServed(t *testing.T) {
	const ping = `{"jsonrpc":"2.0","id":7,"method":"ping"}`
	for _, c := range []struct {
		name    string
		o       mcp.Options
		header  []string
		allowed bool
	}{
		{"plain", mcp.Options{}, nil, true},
		{"localhost", mcp.Options{}, []string{"Host", "localhost:1234"}, true},
		{"IPv6 loopback", mcp.Options{}, []string{"Host", "[::1]:1234"}, true},
		{"rebound name", mcp.Options{}, []string{"Host", "evil.example"}, false},
		{"name that begins well", mcp.Options{}, []string{"Host", "localhost.evil.example"}, false},
		{"name that begins with an address", mcp.Options{}, []string{"Host", "127.0.0.1.evil.example"}, false},
		{"allowed name", mcp.Options{AllowedHosts: []string{"mcp.example"}}, []string{"Host", "MCP.example:80"}, true},
		{"other name", mcp.Options{AllowedHosts: []string{"mcp.example"}}, []string{"Host", "evil.example"}, false},
		{"every name", mcp.Options{AllowedHosts: []string{"*"}}, []string{"Host", "evil.example"}, true},
		{"local page", mcp.Options{}, []string{"Origin", "http://localhost:6274"}, true},
		{"foreign page", mcp.Options{}, []string{"Origin", "https://evil.example"}, false},
		{"sandboxed page", mcp.Options{}, []string{"Origin", "null"}, false},
		{"page with a loopback user name", mcp.Options{}, []string{"Origin", "http://localhost@evil.example"}, false},
		{"allowed page", mcp.Options{AllowedOrigins: []string{"https://dash.example"}}, []string{"Origin", "https://dash.example"}, true},
		{"allowed page, other scheme", mcp.Options{AllowedOrigins: []string{"https://dash.example"}}, []string{"Origin", "http://dash.example"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := newRuntime(t, c.o)
			status, answer, h := post(t, serveHTTP(t, r).URL, with(nil, c.header...), ping)
			if !c.allowed {
				require.Equal(t, http.StatusForbidden, status)
				require.Equal(t, -32600, answer.Error.Code)
				require.Contains(t, answer.Error.Message, "forbidden")
				require.Empty(t, h.Get("Access-Control-Allow-Origin"))
				return
			}
			require.Equal(t, http.StatusBadRequest, status)
			require.Equal(t, mcp.CodeNotInitialized, answer.Error.Code)
		})
	}
}

func TestTrustedPageMayReadAnswers(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	status, _, h := do(t, http.MethodOptions, url, map[string]string{"Origin": "http://localhost:6274"}, nil)
	require.Equal(t, http.StatusNoContent, status)
	require.Equal(t, "http://localhost:6274", h.Get("Access-Control-Allow-Origin"))
	require.Contains(t, h.Get("Access-Control-Allow-Headers"), "Mcp-Session-Id")
	_, _, h = do(t, http.MethodOptions, url, map[string]string{"Origin": "http://localhost:6274", "Access-Control-Request-Headers": "x-other, mcp-param-region"}, nil)
	require.Contains(t, h.Get("Access-Control-Allow-Headers"), "Mcp-Param-Region, ")
	require.NotContains(t, h.Get("Access-Control-Allow-Headers"), "X-Other")
	status, _, h = post(t, url, map[string]string{"Origin": "http://localhost:6274"}, initialize)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, h.Get("Access-Control-Expose-Headers"), "Mcp-Session-Id")
}

func TestMethodsOfASession(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	session := open(t, url)
	for _, c := range []struct {
		name, method string
		header       map[string]string
		status, code int
		allow        string
	}{
		{"PUT", http.MethodPut, session, 405, -32600, "GET, POST, DELETE"},
		{"PATCH", http.MethodPatch, nil, 405, -32600, "GET, POST, DELETE"},
		{"GET without session", http.MethodGet, nil, 400, mcp.CodeNotInitialized, ""},
		{"GET of an unknown session", http.MethodGet, map[string]string{"Mcp-Session-Id": "x"}, 404, mcp.CodeSessionNotFound, ""},
		{"GET that takes no events", http.MethodGet, with(session, "Accept", "application/json"), 406, -32600, ""},
		{"GET in the stateless protocol", http.MethodGet, with(session, "Mcp-Protocol-Version", newProtocol), 405, -32600, "POST"},
		{"GET of another version", http.MethodGet, with(session, "Mcp-Protocol-Version", "2020-01-01"), 400, mcp.CodeUnsupported, ""},
		{"GET with an unusable event id", http.MethodGet, with(session, "Last-Event-ID", "rubbish"), 400, -32600, ""},
		{"DELETE without session", http.MethodDelete, nil, 400, mcp.CodeNotInitialized, ""},
		{"DELETE of an unknown session", http.MethodDelete, map[string]string{"Mcp-Session-Id": "x"}, 404, mcp.CodeSessionNotFound, ""},
		{"DELETE in the stateless protocol", http.MethodDelete, with(session, "Mcp-Protocol-Version", newProtocol), 405, -32600, "POST"},
		{"DELETE", http.MethodDelete, session, 204, 0, ""},
		{"DELETE again", http.MethodDelete, session, 404, mcp.CodeSessionNotFound, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer, h := do(t, c.method, url, c.header, nil)
			require.Equal(t, c.status, status)
			require.Equal(t, c.code, answer.Error.Code)
			require.Equal(t, c.allow, h.Get("Allow"))
		})
	}
}

func TestHTTPLimitsAnswerOverloaded(t *testing.T) {
	r, release := newRuntime(t, mcp.Options{MaxRequests: 2, MaxSessions: 1, MaxStreams: 1})
	url := serveHTTP(t, r).URL
	session := open(t, url)

	status, answer, h := post(t, url, nil, initialize)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, mcp.CodeOverloaded, answer.Error.Code)
	require.Contains(t, answer.Error.Message, "1 sessions")
	require.Equal(t, "1", h.Get("Retry-After"))

	stream, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	stream.Header.Set("Accept", "text/event-stream")
	stream.Header.Set("Mcp-Session-Id", session["Mcp-Session-Id"])
	resp, err := http.DefaultClient.Do(stream)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	status, answer, _ = do(t, http.MethodGet, url, session, nil)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, mcp.CodeOverloaded, answer.Error.Code)

	done := make(chan int, 2)
	for i := range 2 {
		go func() {
			status, _, _ := post(t, url, session, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"wait","arguments":{}}}`, 100+i))
			done <- status
		}()
	}
	require.Eventually(t, func() bool { return r.Stats().InFlight == 2 }, 5*time.Second, time.Millisecond)
	status, answer, _ = post(t, url, session, `{"jsonrpc":"2.0","id":7,"method":"ping"}`)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, mcp.CodeOverloaded, answer.Error.Code)
	close(release)
	require.Equal(t, 200, <-done)
	require.Equal(t, 200, <-done)
}

func TestSilentStreamsAreKeptAlive(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{KeepAlive: 20 * time.Millisecond})
	url := serveHTTP(t, r).URL
	session := open(t, url)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Mcp-Session-Id", session["Mcp-Session-Id"])
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for seen := 0; seen < 2; {
		require.True(t, lines.Scan())
		if lines.Text() == ": keep-alive" {
			seen++
		}
	}
}

func TestIdleSessionsEnd(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{SessionTimeout: 30 * time.Millisecond})
	url := serveHTTP(t, r).URL
	session := open(t, url)
	require.Eventually(t, func() bool { return r.Stats().Sessions == 0 }, 5*time.Second, time.Millisecond)
	status, answer, _ := post(t, url, session, `{"jsonrpc":"2.0","id":7,"method":"ping"}`)
	require.Equal(t, 404, status)
	require.Equal(t, mcp.CodeSessionNotFound, answer.Error.Code)
}

func TestOfficialClientUnderstandsThatItsSessionEnded(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	srv := serveHTTP(t, r)
	s := connectHTTP(t, srv.URL, oldProtocol, nil)
	status, _, _ := do(t, http.MethodDelete, srv.URL, map[string]string{"Mcp-Session-Id": s.ID()}, nil)
	require.Equal(t, http.StatusNoContent, status)
	_, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo", Arguments: textIn{"x"}})
	require.ErrorIs(t, err, sdk.ErrSessionMissing)
}

func TestBatchOfAnOldSessionIsServed(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	status, _, h := post(t, url, nil, strings.Replace(initialize, oldProtocol, "2025-03-26", 1))
	require.Equal(t, 200, status)
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(
		`[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":"b","method":"tools/list"}]`))
	require.NoError(t, err)
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"*/*"},
		"Mcp-Session-Id": {h.Get("Mcp-Session-Id")}, "Mcp-Protocol-Version": {"2025-03-26"},
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode, "%s", body)
	var answers []rpcAnswer
	require.NoError(t, json.Unmarshal(body, &answers), "%s", body)
	require.Len(t, answers, 2)
	require.ElementsMatch(t, []string{"1", `"b"`}, []string{string(answers[0].ID), string(answers[1].ID)})
}

// FuzzHandler looks for bodies and headers that break the endpoint: a panic,
// or an answer that is no JSON-RPC.
func FuzzHandler(f *testing.F) {
	f.Add(initialize, "", false)
	f.Add(stateless("1", "tools/call", `"name":"echo","arguments":{"text":"x"}`), newProtocol, false)
	f.Add(stateless("1", "server/discover", ""), newProtocol, false)
	f.Add(stateless(`"s"`, "tools/call", `"name":"panic","arguments":null`), newProtocol, false)
	f.Add(stateless("1", "subscriptions/listen", `"notifications":{}`), newProtocol, false)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":[],"_meta":{"progressToken":{}}}}`, oldProtocol, true)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"x"},"argument":{}}}`, oldProtocol, true)
	f.Add(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}`, oldProtocol, true)
	f.Add(`[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, "2025-03-26", true)
	f.Add(`{"jsonrpc":"2.0","id":1,"result":{}}`, oldProtocol, true)
	r, err := mcp.NewRuntime(nil, mcp.Options{CallTimeout: time.Second})
	require.NoError(f, err)
	f.Cleanup(func() { _ = r.Close() })
	addTools(r, nil)
	h := r.Handler()
	serve := func(body, version, session string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, "http://localhost/mcp", strings.NewReader(body))
		req.RemoteAddr = "127.0.0.1:1" // not limited
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "*/*")
		if version != "" {
			req.Header.Set("Mcp-Protocol-Version", version)
		}
		if session != "" {
			req.Header.Set("Mcp-Session-Id", session)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		return rec
	}
	session := serve(initialize, "", "").Header().Get("Mcp-Session-Id")
	f.Fuzz(func(t *testing.T, body, version string, inSession bool) {
		if strings.Contains(body, "listen") || strings.Contains(body, `"wait"`) || strings.Contains(body, `"ask"`) || strings.Contains(body, `\`) {
			return // may rightly wait for the client
		}
		id := ""
		if inSession {
			id = session
		}
		rec := serve(body, version, id)
		if strings.HasPrefix(rec.Header().Get("Content-Type"), "application/json") && !json.Valid(rec.Body.Bytes()) {
			t.Fatalf("status %d, body %q", rec.Code, rec.Body)
		}
		if rec.Code >= 400 && rec.Body.Len() == 0 {
			t.Fatalf("status %d without a reason", rec.Code)
		}
		if !inSession && rec.Header().Get("Mcp-Session-Id") != "" {
			req := httptest.NewRequest(http.MethodDelete, "http://localhost/mcp", nil)
			req.Header.Set("Mcp-Session-Id", rec.Header().Get("Mcp-Session-Id"))
			h.ServeHTTP(httptest.NewRecorder(), req)
		}
	})
}
