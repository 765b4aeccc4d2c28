// Package s3server runs a real S3 server (github.com/versity/versitygw) for tests.
package s3server

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// AccessKey and SecretKey are the credentials of every server's only user.
const (
	AccessKey = "AKIATESTTESTTEST"
	SecretKey = "test-secret-test-secret"
)

// Region is what the server calls the place where it is.
const Region = "us-east-1"

// Start runs a server on an empty directory with the given buckets until the test ends, and returns its address. The program is
// $ERLMCP_TEST_VERSITYGW, or versitygw in the path or in ~/go/bin. Without it the test is skipped, and fails where $CI is set.
func Start(t testing.TB, buckets ...string) string {
	t.Helper()
	bin := program(t)
	root := t.TempDir()
	for _, name := range buckets {
		require.NoError(t, os.Mkdir(filepath.Join(root, name), 0o700)) // a folder is a bucket
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	cmd := exec.Command(bin, "--access", AccessKey, "--secret", SecretKey, "--region", Region, "--port", addr, "--quiet",
		"posix", "--sidecar", t.TempDir(), root)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		return err == nil && c.Close() == nil
	}, time.Minute, 10*time.Millisecond, "the S3 server does not listen")
	return addr
}

func program(t testing.TB) string {
	bin := os.Getenv("ERLMCP_TEST_VERSITYGW")
	if bin == "" {
		var err error
		if bin, err = exec.LookPath("versitygw"); err != nil {
			home, _ := os.UserHomeDir()
			bin = filepath.Join(home, "go", "bin", "versitygw")
		}
	}
	if _, err := os.Stat(bin); err != nil {
		require.Empty(t, os.Getenv("CI"), "the S3 server for the tests is missing; make test installs it")
		t.Skip("no S3 server to test with; go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	}
	return bin
}
