package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/test/s3server"
)

// faults stands between a client and the S3 server, and spoils every so many requests, each in the next way of its list.
type faults struct {
	every, seen, spoiled atomic.Int64
	proxy                *httputil.ReverseProxy
}

func startFaults(t *testing.T, addr string) (*faults, string) {
	t.Helper()
	to, err := url.Parse("http://" + addr)
	require.NoError(t, err)
	f := &faults{proxy: &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }, // the host is signed
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		FlushInterval: -1,
	}}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return f, strings.TrimPrefix(srv.URL, "http://")
}

func (f *faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, every := f.seen.Add(1), f.every.Load()
	if every == 0 || n%every != 0 {
		f.proxy.ServeHTTP(w, r)
		return
	}
	switch f.spoiled.Add(1) % 5 {
	case 0: // the server is too busy
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>later</Message></Error>`)
	case 1: // an error inside the server
		w.WriteHeader(http.StatusInternalServerError)
	case 2: // the request is done, and its answer is lost
		f.proxy.ServeHTTP(httptest.NewRecorder(), r)
		hangUp(w, "")
	case 3: // the request never arrives
		hangUp(w, "")
	case 4: // half of the answer arrives
		rec := httptest.NewRecorder()
		f.proxy.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		hangUp(w, fmt.Sprintf("HTTP/1.1 %d OK\r\nETag: %s\r\nLast-Modified: %s\r\nContent-Length: %d\r\n\r\n%s", rec.Code, rec.Header().Get("ETag"),
			rec.Header().Get("Last-Modified"), max(len(body), 1), body[:len(body)/2]))
	}
}

// hangUp writes some bytes and cuts the line.
func hangUp(w http.ResponseWriter, text string) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(c, text)
	_ = c.Close()
}

func TestBackupsToABucketSurviveABadLine(t *testing.T) {
	addr := s3server.Start(t, "vault")
	f, proxy := startFaults(t, addr)
	base := t.TempDir()
	data := filepath.Join(base, "data")
	creds := []string{"AWS_ACCESS_KEY_ID=" + s3server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3server.SecretKey, "ERLMCP_BACKUP_ENCRYPTION_KEY=the right passphrase"}
	env := environment(t, creds...)
	repo := "s3://vault/site/a?endpoint=http://" + proxy
	ok := func(args ...string) result {
		t.Helper()
		r := runEnv(t, env, append(args, "--repo", repo)...)
		require.Zero(t, r.code, "%v: %s", args, r.stderr)
		return r
	}
	s := start(t, data)
	some(t, s, "a", 20)
	ok("backup", "init")
	f.every.Store(4)
	ok("backup", "create", "--data", data)
	some(t, s, "b", 20)
	var c backup.Created
	v := &vault{base: base}
	r := ok("backup", "create", "--data", data, "--json")
	decodeResult(t, r, &c)
	require.Equal(t, "incremental", c.Type)
	require.Contains(t, ok("backup", "verify", "--read-data").stdout, "Sound. 2 backups")
	var d restoredDoc
	decodeResult(t, ok("backup", "restore", "--to", v.dir("restored"), "--json"), &d)
	require.Equal(t, c.StateHash, d.StateHash)
	ok("backup", "copy", "--to", v.dir("copy"))
	require.Greater(t, f.spoiled.Load(), int64(10), "the line was bad indeed")

	f.every.Store(1) // nothing gets through any more
	p := launch(t, env, "backup", "create", "--data", data, "--type", "full", "--repo", repo)
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	require.NotZero(t, p.wait(), "a dead line is an error, and Ctrl-C ends the waiting")
	f.every.Store(0)
	ok("backup", "create", "--data", data, "--type", "full")

	for _, tc := range []struct {
		env  []string
		repo string
		want string
	}{
		{[]string{creds[0], "AWS_SECRET_ACCESS_KEY=canary-wrong-secret", creds[2]}, repo, "access denied"},
		{[]string{"AWS_ACCESS_KEY_ID=AKIANOBODY", creds[1], creds[2]}, repo, "access denied"},
		{[]string{creds[0], creds[2]}, repo, "only one is set"},
		{creds, "s3://nobucket/site?endpoint=http://" + addr, "directory or bucket not found"},
		{creds, "s3://vault/elsewhere?endpoint=http://" + addr, "not a backup repository"},
		{[]string{creds[0], creds[1], "ERLMCP_BACKUP_ENCRYPTION_KEY=another passphrase"}, repo, "wrong passphrase or key file"},
	} {
		r := runEnv(t, environment(t, tc.env...), "backup", "list", "--repo", tc.repo)
		require.NotZero(t, r.code)
		require.Contains(t, r.stderr, tc.want)
		require.NotContains(t, r.stderr, "canary-wrong-secret")
		require.LessOrEqual(t, strings.Count(r.stderr, "\n"), 2, "one clear error: %s", r.stderr)
	}
}
