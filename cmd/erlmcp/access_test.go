package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
)

// withToken sends a bearer token along.
type withToken struct {
	token string
	base  http.RoundTripper
}

func (w withToken) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	return w.base.RoundTrip(req)
}

// connectAs lists the tools as the official client does, with a token.
func connectAs(t testing.TB, url, token string, transport http.RoundTripper) error {
	t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, err := client.Connect(ctx, &sdk.StreamableClientTransport{
		Endpoint: url, HTTPClient: &http.Client{Transport: withToken{token, transport}}, MaxRetries: -1,
	}, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	_, err = session.ListTools(ctx, nil)
	return err
}

// createToken runs `erlmcp token create` and returns the token.
func createToken(t testing.TB, file string, args ...string) string {
	t.Helper()
	r := run(t, append([]string{"token", "create", "--token-file", file}, args...)...)
	require.Zero(t, r.code, "%s", r.stderr)
	require.NotContains(t, r.stderr, strings.TrimSpace(r.stdout), "the token is on stdout only")
	return strings.TrimSpace(r.stdout)
}

// writeCertificate makes a certificate for 127.0.0.1 with the given serial number.
func writeCertificate(t testing.TB, dir string, serial int64) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "erlmcp test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	replace := func(path, kind string, data []byte) {
		require.NoError(t, os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	replace(key, "PRIVATE KEY", raw)
	replace(cert, "CERTIFICATE", der)
	pool = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool.AddCert(parsed)
	return cert, key, pool
}

func TestServeWithTokensAdmitsTheirBearersOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	ann := createToken(t, file, "--name", "ann")
	s := start(t, t.TempDir(), "--set", "auth.token_file="+file, "--set", "auth.tool_scopes=*=tcps:write", "--log-level", "debug")
	require.Contains(t, s.stdout.String(), `"Authorization": "Bearer TOKEN"`)

	require.NoError(t, connectAs(t, s.run.MCPURL, ann, http.DefaultTransport))
	require.Error(t, connectAs(t, s.run.MCPURL, "", http.DefaultTransport))
	require.Error(t, connectAs(t, s.run.MCPURL, ann+"x", http.DefaultTransport))
	resp, err := http.Post(s.run.MCPURL, "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.Equal(t, `Bearer realm="erlmcp"`, resp.Header.Get("WWW-Authenticate"))
	for _, path := range []string{"/health", "/ready"} {
		code, _ := get(t, s.url(path), nil)
		require.Equal(t, http.StatusOK, code, "probes have no token")
	}

	// A scope that is missing is named; a token that has it may call.
	call := func(token string) (int, string, http.Header) {
		req, err := http.NewRequest(http.MethodPost, s.run.MCPURL, strings.NewReader(
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"work_order_list","arguments":{},`+
				`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`))
		require.NoError(t, err)
		for k, v := range map[string]string{
			"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
			"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "work_order_list",
		} {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body), resp.Header
	}
	status, body, h := call(ann)
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, body, "work_order_list needs tcps:write")
	require.Equal(t, `Bearer error="insufficient_scope", scope="tcps:write"`, h.Get("WWW-Authenticate"))
	bob := createToken(t, file, "--name", "bob", "--scope", "tcps:write")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { status, _, _ := call(bob); return status != http.StatusUnauthorized }, patience, 20*time.Millisecond)
	status, body, _ = call(bob)
	require.NotContains(t, body, "insufficient scope")
	require.NotEqual(t, http.StatusForbidden, status)

	r := run(t, "token", "revoke", "--token-file", file, "ann")
	require.Zero(t, r.code, r.stderr)
	require.Eventually(t, func() bool { status, _, _ := call(ann); return status == http.StatusUnauthorized }, patience, 20*time.Millisecond)

	require.Zero(t, s.stop())
	for _, secret := range []string{ann, bob} {
		require.NotContains(t, s.stderr.String(), secret)
		require.NotContains(t, s.stdout.String(), secret)
		require.NotContains(t, s.stderr.String(), secret[7:], "not a part of it either")
	}
}

func TestServeOverTLSFollowsItsCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key, pool := writeCertificate(t, dir, 1)
	s := start(t, t.TempDir(), "--set", "server.tls.cert_file="+cert, "--set", "server.tls.key_file="+key)
	require.True(t, strings.HasPrefix(s.run.MCPURL, "https://"), s.run.MCPURL)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	require.NoError(t, connectAs(t, s.run.MCPURL, "", transport))
	transport.CloseIdleConnections()

	old, err := tls.Dial("tcp", s.run.Listen, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil {
		_ = old.Close()
	}
	require.Error(t, err, "TLS 1.1 is history")

	_, _, pool = writeCertificate(t, dir, 2)
	require.Eventually(t, func() bool {
		conn, err := tls.Dial("tcp", s.run.Listen, &tls.Config{RootCAs: pool})
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64() == 2
	}, patience, 20*time.Millisecond)

	// A broken renewal is reported, and the server goes on with what it has.
	require.NoError(t, os.WriteFile(cert, []byte("no certificate"), 0o600))
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return strings.Contains(s.stderr.String(), "cannot be used; the one before stays in use") }, patience, 10*time.Millisecond)
	conn, err := tls.Dial("tcp", s.run.Listen, &tls.Config{RootCAs: pool})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Zero(t, s.stop())
}

func TestServeRefusesWhatWouldNotBeSafe(t *testing.T) {
	dir := t.TempDir()
	cert, key, _ := writeCertificate(t, dir, 1)
	open := filepath.Join(dir, "open")
	require.NoError(t, os.WriteFile(open, nil, 0o666))
	require.NoError(t, os.Chmod(open, 0o666))
	require.NoError(t, os.Chmod(key, 0o604))
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"an open port without authentication", []string{"--listen", "0.0.0.0:0"}, exitUsage, "auth.allow_anonymous=on"},
		{"every interface by default", []string{"--listen", ":0"}, exitUsage, "auth.token_file"},
		{"a token file that is not there", []string{"--set", "auth.token_file=" + dir + "/nowhere"}, exitFailure, "erlmcp token create --token-file"},
		{"a token file that others may write", []string{"--set", "auth.token_file=" + open}, exitFailure, "chmod 600"},
		{"a key that everybody may read", []string{"--set", "server.tls.cert_file=" + cert, "--set", "server.tls.key_file=" + key}, exitFailure, "chmod 600"},
		{"half of TLS", []string{"--set", "server.tls.cert_file=" + cert}, exitUsage, "needs both"},
		{"an issuer over plain HTTP", []string{"--set", "auth.issuer=http://id.example.com", "--set", "auth.resource=https://a.example.com/mcp"}, exitFailure, "https is needed"},
		{"an issuer without a resource", []string{"--set", "auth.issuer=https://id.example.com"}, exitUsage, "auth.resource"},
		{"scopes that nobody checks", []string{"--set", "auth.tool_scopes=*=write"}, exitUsage, "means nothing without authentication"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			r := run(t, append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, c.args...)...)
			require.Equal(t, c.code, r.code, "%s", r.stderr)
			require.Contains(t, r.stderr, c.says)
			require.NoDirExists(t, data, "nothing was tried")
		})
	}
	s := start(t, t.TempDir(), "--listen", "0.0.0.0:0", "--set", "auth.allow_anonymous=on")
	require.Contains(t, s.stderr.String(), "EVERYBODY who reaches this address may do everything")
	require.Zero(t, s.stop())
}

func TestServePublishesWhereTokensComeFrom(t *testing.T) {
	s := start(t, t.TempDir(), "--set", "auth.issuer=https://id.example.com", "--set", "auth.resource=https://mcp.example.com/mcp", "--set", "auth.scopes=tcps:read")
	for _, path := range []string{"/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"} {
		var doc map[string]any
		code, _ := get(t, s.url(path), &doc)
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, "https://mcp.example.com/mcp", doc["resource"])
		require.Equal(t, []any{"https://id.example.com"}, doc["authorization_servers"])
	}
	resp, err := http.Post(s.run.MCPURL, "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, `Bearer resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp"`, resp.Header.Get("WWW-Authenticate"))
	require.Zero(t, s.stop())
}

func TestTokenCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	r := run(t, "token", "list", "--token-file", file)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "token create")
	r = run(t, "token", "list")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "auth.token_file")
	r = run(t, "token", "create", "--token-file", file)
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "--name")
	require.NoFileExists(t, file)
	r = run(t, "token", "create", "--token-file", file, "--name", "a", "--scope", "a b")
	require.Equal(t, exitFailure, r.code)
	require.NoFileExists(t, file)

	secret := createToken(t, file, "--name", "ci", "--subject", "robot", "--scope", "a,b", "--expires-in", "1h")
	r = run(t, "token", "create", "--token-file", file, "--name", "json", "--json")
	require.Zero(t, r.code, r.stderr)
	var made map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &made))
	require.Regexp(t, "^erlmcp_", made["token"])
	r = run(t, "token", "create", "--token-file", file, "--name", "ci")
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "already")

	r = run(t, "token", "list", "--token-file", file)
	require.Zero(t, r.code)
	require.Regexp(t, `(?m)^[0-9a-f]{8}  ci +robot +a b `, r.stdout)
	require.NotContains(t, r.stdout, secret)
	r = run(t, "token", "list", "--token-file", file, "--json")
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &list))
	require.Len(t, list, 2)
	require.NotContains(t, r.stdout, "hash")

	require.Zero(t, run(t, "token", "revoke", "--token-file", file, list[1]["id"].(string)).code)
	r = run(t, "token", "revoke", "--token-file", file, "nobody")
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, `no such token: "nobody"`)
}
