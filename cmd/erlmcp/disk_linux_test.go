package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tmpfs mounts a small file system and returns its directory.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("this test mounts a file system, which is not permitted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestReadOnlyFileSystemIsAClearError(t *testing.T) {
	dir := tmpfs(t, "256m")
	s := start(t, dir, "--set", "storage.segment_size=1MiB", "--set", "storage.max_value_bytes=256KiB", "--set", "storage.min_free_disk=0")
	require.Zero(t, s.stop())
	require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	r := run(t, "serve", "--data", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "read-only file system")
	require.NotContains(t, r.stderr, "panic")
	require.NotContains(t, r.stderr, "goroutine")

	status := run(t, "status", "--data", dir)
	require.Zero(t, status.code, "looking needs no write access: %s", status.stderr)
}

func TestFullDiskRefusesWritesLosesNothingAndRecovers(t *testing.T) {
	dir := tmpfs(t, "96m")
	s := start(t, dir, "--set", "storage.segment_size=1MiB", "--set", "storage.max_value_bytes=256KiB",
		"--set", "storage.min_free_disk=16MiB", "--set", "storage.retain_log=0")
	session := s.connect()
	first := createOrder(t, session, "before")

	ballast := filepath.Join(dir, "..", filepath.Base(dir), "ballast")
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	free := int64(st.Bavail) * st.Bsize
	require.NoError(t, os.WriteFile(ballast, make([]byte, free-(8<<20)), 0o600))

	var refused *sdk.CallToolResult
	require.Eventually(t, func() bool {
		res, err := session.CallTool(context.Background(), &sdk.CallToolParams{Name: "work_order_create", Arguments: map[string]any{
			"signal": map[string]any{"type": "internal_request", "source": "full " + time.Now().String(), "description": "x"}, "bucket": "features",
		}})
		require.NoError(t, err)
		refused = res
		return res.IsError
	}, patience, 50*time.Millisecond, "the engine looks at the free space from time to time")
	require.Contains(t, toJSON(t, refused), "no_space")
	code, body := get(t, s.url("/ready"), nil)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "the disk is full")
	call(t, session, "work_order_get", map[string]any{"id": first}, nil) // reads go on

	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool {
		code, _ := get(t, s.url("/ready"), nil)
		return code == http.StatusOK
	}, patience, 50*time.Millisecond)
	second := createOrder(t, session, "after")
	require.NoError(t, session.Close())
	require.Zero(t, s.stop())

	again := start(t, dir, "--set", "storage.segment_size=1MiB", "--set", "storage.max_value_bytes=256KiB", "--set", "storage.min_free_disk=0")
	session = again.connect()
	call(t, session, "work_order_get", map[string]any{"id": first}, nil)
	call(t, session, "work_order_get", map[string]any{"id": second}, nil)
}
