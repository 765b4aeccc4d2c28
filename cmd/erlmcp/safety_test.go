package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
)

const pingLine = `{"jsonrpc":"2.0","id":1,"method":"ping"}` + "\n"

// exchangeLine sends lines and returns the first answer.
func exchangeLine(t testing.TB, c net.Conn, lines string) string {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(c, lines)
	require.NoError(t, err)
	answer, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	return answer
}

func TestServeOverTCPWithTokensAndTLS(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tokens")
	token := createToken(t, file, "--name", "ann")
	cert, key, pool := writeCertificate(t, dir, 1)
	s := start(t, t.TempDir(), "--tcp", "127.0.0.1:0", "--set", "auth.token_file="+file,
		"--set", "server.tls.cert_file="+cert, "--set", "server.tls.key_file="+key)
	require.Contains(t, s.stdout.String(), s.run.TCP)
	dial := func() net.Conn {
		c, err := tls.Dial("tcp", s.run.TCP, &tls.Config{RootCAs: pool})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	require.Contains(t, exchangeLine(t, dial(), pingLine), `"code":-32011`)
	require.Contains(t, exchangeLine(t, dial(), "Authorization: Bearer "+token+"x\n"+pingLine), `"code":-32011`)
	c := dial()
	require.Contains(t, exchangeLine(t, c, "Authorization: Bearer "+token+"\n"+pingLine), `"result":{}`)

	// A WebSocket asks for the same token.
	url := "wss" + strings.TrimPrefix(s.run.MCPURL, "https") + "/ws"
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	_, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"mcp"}})
	require.Error(t, err)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{
		HTTPClient: client, Subprotocols: []string{"mcp"}, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	require.NoError(t, err)
	defer ws.CloseNow()
	require.NoError(t, ws.Write(t.Context(), websocket.MessageText, []byte(pingLine)))
	_, answer, err := ws.Read(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(answer), `"result":{}`)
	require.Zero(t, s.stop(), "open sockets do not hold up the end")

	r := run(t, "serve", "--data", filepath.Join(dir, "d"), "--tcp", "0.0.0.0:0", "--listen", "off", "--metrics-listen", "off")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "server.tcp_listen: 0.0.0.0:0 is reachable from other machines")
	s = start(t, t.TempDir(), "--tcp", "127.0.0.1:0", "--listen", "off")
	plain, err := net.Dial("tcp", s.run.TCP)
	require.NoError(t, err)
	require.Contains(t, exchangeLine(t, plain, pingLine), `"result":{}`)
	require.NoError(t, plain.Close())
	require.Zero(t, s.stop())
}

// callTool calls a tool with the official client and returns its error, if any.
func callTool(t testing.TB, url, token, tool string, arguments map[string]any) error {
	t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, err := client.Connect(ctx, &sdk.StreamableClientTransport{
		Endpoint: url, HTTPClient: &http.Client{Transport: withToken{token, http.DefaultTransport}}, MaxRetries: -1,
	}, nil)
	require.NoError(t, err)
	defer session.Close()
	_, err = session.CallTool(ctx, &sdk.CallToolParams{Name: tool, Arguments: arguments})
	return err
}

func TestAuditShowsToolCallsOfARunningAndAStoppedServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	ann, bob := createToken(t, file, "--name", "ann", "--scope", "*"), createToken(t, file, "--name", "bob")
	dir := t.TempDir()
	s := start(t, dir, "--set", "auth.token_file="+file, "--set", "auth.tool_scopes=work_*=read")
	require.NoError(t, callTool(t, s.run.MCPURL, ann, "work_order_list", map[string]any{}))
	require.Error(t, callTool(t, s.run.MCPURL, bob, "work_order_list", map[string]any{}))
	records := func(args ...string) (list []map[string]any) {
		r := run(t, append([]string{"audit", "--data", dir, "--json"}, args...)...)
		require.Zero(t, r.code, r.stderr)
		for dec := json.NewDecoder(strings.NewReader(r.stdout)); dec.More(); {
			var rec map[string]any
			require.NoError(t, dec.Decode(&rec))
			list = append(list, rec)
		}
		return list
	}
	require.Eventually(t, func() bool { return len(records()) == 2 }, patience, 50*time.Millisecond)
	check := func() {
		list := records()
		require.Len(t, list, 2)
		require.Equal(t, "denied", list[0]["outcome"])
		require.Equal(t, "bob", list[0]["principal"])
		require.Equal(t, "ok", list[1]["outcome"])
		require.Equal(t, "ann", list[1]["principal"])
		require.Equal(t, "token", list[1]["auth"])
		require.Len(t, records("--principal", "ann", "--since", "1h"), 1)
		require.Empty(t, records("--outcome", "task"))
		table := run(t, "audit", "--data", dir).stdout
		require.Regexp(t, `(?m)^20.* +bob +work_order_list +denied -32013 `, table)
	}
	check()
	require.Zero(t, s.stop())
	check()
	require.Equal(t, exitUsage, run(t, "audit", "--data", dir, "--since", "yesterday").code)
	require.Equal(t, exitFailure, run(t, "audit", "--data", t.TempDir()).code)
}

// collector takes traces as an OpenTelemetry collector does.
type collector struct {
	mu   sync.Mutex
	got  []byte
	path string
}

func (c *collector) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	data, _ := io.ReadAll(req.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got, c.path = append(c.got, data...), req.URL.Path
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func TestTracesReachACollectorAndMetricsCount(t *testing.T) {
	c := new(collector)
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	s := start(t, t.TempDir(), "--set", "tracing.endpoint="+srv.URL)
	require.NoError(t, callTool(t, s.run.MCPURL, "", "work_order_list", map[string]any{}))
	_, body := get(t, "http://"+s.run.Metrics+"/metrics", nil)
	for _, want := range []string{
		`erlmcp_mcp_requests_total{method="tools/call",outcome="ok"} 1`, `erlmcp_mcp_request_seconds_count{method="tools/call"} 1`,
		`erlmcp_mcp_tool_results_total{outcome="ok",tool="work_order_list"} 1`, "erlmcp_mcp_audit_lag_seconds",
		`erlmcp_connections{component="mcp_sockets"} 0`, "erlmcp_mcp_auth_failures_total 0", "erlmcp_mcp_rate_limited_total 0",
	} {
		require.Contains(t, body, want)
	}
	require.Zero(t, s.stop(), "the last spans are sent before the process ends")
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(t, "/v1/traces", c.path)
	require.Contains(t, string(c.got), "tools/call work_order_list")

	// A collector that is not there costs nobody anything.
	s = start(t, t.TempDir(), "--set", "tracing.endpoint=http://127.0.0.1:1")
	require.NoError(t, callTool(t, s.run.MCPURL, "", "work_order_list", map[string]any{}))
	require.Zero(t, s.stop())
}

func TestSecretsStayOutOfLogsAndFiles(t *testing.T) {
	const key = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2"
	file := filepath.Join(t.TempDir(), "tokens")
	token := createToken(t, file, "--name", "ann", "--scope", "*")
	secrets := []string{token, token[7:], key, "argument-secret", "bearer-guess-secret", "query-secret", "collector-secret", "basic-secret", "tcp-secret"}
	env := environment(t, "ERLMCP_DATA_KEY="+key, "ERLMCP_BACKUP_ENCRYPTION_KEY=passphrase-secret",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_HEADERS=authorization=collector-secret")
	dir := t.TempDir()
	s := startEnv(t, env, dir, "--log-level", "debug", "--log-format", "json", "--tcp", "127.0.0.1:0",
		"--set", "auth.token_file="+file, "--set", "auth.tool_scopes=andon_*=never")
	send := func(url, authorization, body string) {
		req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
		require.NoError(t, err)
		for k, v := range map[string]string{
			"Authorization": authorization, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
			"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "work_order_list",
		} {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		for _, secret := range secrets {
			if secret != "argument-secret" { // the client's own words may be in its answer
				require.NotContains(t, string(answer), secret)
				require.NotContains(t, fmt.Sprint(resp.Header), secret)
			}
		}
	}
	call := func(tool string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":{"sku_id":"argument-secret"},` +
			`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	}
	send(s.run.MCPURL, "Bearer "+token, call("work_order_list"))
	send(s.run.MCPURL, "Bearer "+token, call("andon_trigger"))
	send(s.run.MCPURL+"?access_token=query-secret", "Bearer bearer-guess-secret", call("work_order_list"))
	send(s.run.MCPURL, "Basic basic-secret", "{")
	send(s.run.MCPURL, "Bearer a.bearer-guess-secret.c", call("work_order_list"))
	c, err := net.Dial("tcp", s.run.TCP)
	require.NoError(t, err)
	exchangeLine(t, c, "Authorization: Bearer tcp-secret\n"+pingLine)
	require.NoError(t, c.Close())
	// A secret in the wrong place of the token file is not shown either.
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(data, "Bearer query-secret\n"...), 0o600))
	require.Eventually(t, func() bool {
		send(s.run.MCPURL, "Bearer "+token, call("work_order_list"))
		return strings.Contains(s.stderr.String(), "token file cannot be used")
	}, patience, 50*time.Millisecond)
	status := runEnv(t, env, "status", "--data", dir, "--json")
	require.Zero(t, status.code, status.stderr)
	check := runEnv(t, env, "config", "check", "--data", dir, "--json", "--set", "auth.token_file="+file)
	require.Zero(t, check.code, check.stderr)
	_, metrics := get(t, "http://"+s.run.Metrics+"/metrics", nil)
	require.Zero(t, s.stop())

	runFile, _ := os.ReadFile(filepath.Join(dir, "serve.json"))
	for _, secret := range append(secrets, "passphrase-secret") {
		for name, text := range map[string]string{
			"log": s.stderr.String(), "banner": s.stdout.String(), "metrics": metrics, "serve.json": string(runFile),
			"status": status.stdout + status.stderr, "config check": check.stdout + check.stderr,
		} {
			require.NotContains(t, text, secret, name)
		}
		require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err != nil || !info.Mode().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			require.NotContains(t, string(data), secret, path)
			return err
		}))
	}
}
