package faults

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/erlmcp/erlmcp/test/load"
)

// TestARealFullFileSystem fills a small tmpfs to the last byte under load, with the free-space check turned off, so
// that every write runs into the real ENOSPC.
func TestARealFullFileSystem(t *testing.T) {
	s := newSite(t, 4, append(smallSegments, "--set", "storage.retain_log=0")...)
	if err := unix.Mount("tmpfs", s.dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("this test mounts a small file system, which is not permitted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(s.dir, unix.MNT_DETACH) })
	s.start()
	s.prepare()
	s.work(150 * time.Millisecond)

	ballast := filepath.Join(s.dir, "ballast")
	fill(t, ballast)
	s.workUntilRefused()
	require.NoError(t, s.crowd.Compare(context.Background(), s.server, load.Everything), "reads go on")
	require.Empty(t, s.crowd.Violations())

	require.NoError(t, os.Remove(ballast))
	before := s.crowd.Totals().Changes
	s.work(500 * time.Millisecond)
	require.Greater(t, s.crowd.Totals().Changes, before, "writes go on when there is space again")
	s.nothingLost()
	s.server.Kill()
	s.start()
	s.nothingLost()
	s.stopAndVerify()
}

// fill writes until the file system takes no byte more.
func fill(t *testing.T, name string) {
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(chunk)
	}
	require.ErrorIs(t, err, unix.ENOSPC)
}
