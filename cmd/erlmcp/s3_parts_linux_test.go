package main

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/s3server"
)

// partGate lets uploads in parts pass, counts them, and holds them when it is closed.
type partGate struct {
	next   http.Handler
	parts  atomic.Int64
	holdAt atomic.Int64 // the part that is held; 0: none
	held   chan struct{}
	let    chan struct{}
}

func (g *partGate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("partNumber") {
		if n := g.parts.Add(1); n == g.holdAt.Load() {
			close(g.held)
			<-g.let
		}
	}
	g.next.ServeHTTP(w, r)
}

func TestLargePacksGoToABucketInPartsOverABadLineAndAKillLeavesNothing(t *testing.T) {
	addr := s3server.Start(t, "vault")
	lineFaults, line := startFaults(t, addr)
	to, err := url.Parse("http://" + line)
	require.NoError(t, err)
	g := &partGate{held: make(chan struct{}), let: make(chan struct{}), next: &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	front := httptest.NewServer(g)
	t.Cleanup(front.Close)
	base := t.TempDir()
	v := &vault{t: t, base: base}
	data := v.dir("data")
	bulk(t, data, rand.New(rand.NewPCG(4, 4)), 40, 0, 0)
	env := environment(t, "AWS_ACCESS_KEY_ID="+s3server.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3server.SecretKey, "ERLMCP_BACKUP_ENCRYPTION_KEY=a passphrase of mine")
	repo := "s3://vault/site?part_size=5MiB&endpoint=" + front.URL
	ok := func(args ...string) result {
		t.Helper()
		r := runEnv(t, env, append(args, "--repo", repo)...)
		require.Zero(t, r.code, "%v: %s", args, r.stderr)
		return r
	}
	ok("backup", "init", "--kdf", "pbkdf2")
	g.holdAt.Store(3) // the first is the question whether conditions hold
	p := launch(t, env, "backup", "create", "--data", data, "--pack-size", "8MiB", "--repo", repo)
	<-g.held
	p.kill()
	close(g.let)
	require.Contains(t, ok("backup", "list").stdout, "no backups yet")
	require.Contains(t, ok("backup", "verify").stdout, "Sound")
	client, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(s3server.AccessKey, s3server.SecretKey, ""), Region: s3server.Region})
	require.NoError(t, err)
	uploads := func() int {
		left, err := minio.Core{Client: client}.ListMultipartUploads(t.Context(), "vault", "", "", "", "", 100)
		require.NoError(t, err)
		return len(left.Uploads)
	}
	require.NotZero(t, uploads(), "what the killed process had sent is still there")

	lineFaults.every.Store(4)
	before := g.parts.Load()
	ok("backup", "create", "--data", data, "--pack-size", "8MiB")
	require.Greater(t, g.parts.Load(), before+2)
	require.Greater(t, lineFaults.spoiled.Load(), int64(3), "the line was bad indeed")
	require.NotZero(t, uploads())
	require.Contains(t, ok("backup", "prune", "--abort-all").stdout, "unfinished uploads")
	require.Zero(t, uploads())
	require.Contains(t, ok("backup", "verify", "--read-data").stdout, "Sound. 1 backups")
	ok("backup", "restore", "--to", v.dir("restored"))
	for _, wrong := range []string{"1MiB", "33MiB", "x"} {
		r := runEnv(t, env, "backup", "create", "--data", data, "--pack-size", wrong, "--repo", repo)
		require.Equal(t, exitUsage, r.code)
	}
	r := runEnv(t, env, "backup", "list", "--repo", strings.Replace(repo, "5MiB", "4MiB", 1))
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "between 5MiB and 128MiB")
}
