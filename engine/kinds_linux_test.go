package engine

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// A directory, pipe, device or dangling link under the name of a file is named at once: no open hangs on a pipe or
// reads a device to its end, and nothing is changed.
func TestWhatIsNotAFileIsNamed(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	kinds := map[string]func(path string) error{
		"directory":     func(p string) error { return os.Mkdir(p, 0o755) },
		"pipe":          func(p string) error { return syscall.Mkfifo(p, 0o644) },
		"device":        func(p string) error { return os.Symlink("/dev/zero", p) },
		"dangling link": func(p string) error { return os.Symlink(nowhere, p) },
	}
	base := filepath.Join(t.TempDir(), "base")
	o := Options{SegmentSize: 64 << 10, MemTableSize: 1 << 20}
	s, err := Open(base, o)
	require.NoError(t, err)
	put(t, s, "t", "a", "1")
	_, err = s.Checkpoint()
	require.NoError(t, err)
	require.NoError(t, s.Close())
	for _, pattern := range []string{"FORMAT", "LOCK", "wal/LOG", "wal/FAILED", "wal/*1.seg", "wal/prepare.tmp", "store/MANIFEST-*", "store/*.sst", "store/OPTIONS-*", "store/marker.manifest.*"} {
		for kind, put := range kinds {
			t.Run(pattern+" is a "+kind, func(t *testing.T) {
				if kind == "dangling link" && pattern != "FORMAT" && pattern != "LOCK" && pattern != "wal/*1.seg" && pattern != "store/*.sst" {
					t.Skip("as if it were absent, which another test covers")
				}
				dir := filepath.Join(t.TempDir(), "data")
				require.NoError(t, os.CopyFS(dir, os.DirFS(base)))
				path := filepath.Join(dir, pattern)
				if found, _ := filepath.Glob(path); len(found) > 0 {
					path = found[0]
					require.NoError(t, os.Remove(path))
				}
				require.NoError(t, put(path))
				err := soon(t, func() (io.Closer, error) { return Open(dir, o) })
				require.Error(t, err)
				require.NoFileExists(t, nowhere, "what a link leads to is not created")
				if kind != "dangling link" {
					require.ErrorContains(t, err, filepath.Base(path)+" is not a file")
				}
				if pattern != "LOCK" {
					require.True(t, errors.Is(err, ErrCorrupt), err)
				}
				err = soon(t, func() (io.Closer, error) { return OpenReadOnly(vfs.Default, dir, ReadOptions{}) })
				if filepath.Dir(pattern) == "store" || pattern == "FORMAT" {
					require.Error(t, err)
				}
			})
		}
	}
}

// Pebble reads some files whole: what is too large to be one is named instead of read.
func TestAFileThatCannotBeOneForItsSizeIsNamed(t *testing.T) {
	o := Options{SegmentSize: 64 << 10, MemTableSize: 1 << 20}
	for _, pattern := range []string{"MANIFEST-*", "OPTIONS-*", "marker.manifest.*", "*.log"} {
		dir := filepath.Join(t.TempDir(), "data")
		s, err := Open(dir, o)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		found, err := filepath.Glob(filepath.Join(dir, "store", pattern))
		require.NoError(t, err)
		require.NoError(t, os.Truncate(found[len(found)-1], 1<<40)) // a hole
		for _, open := range []func() (io.Closer, error){
			func() (io.Closer, error) { return Open(dir, o) },
			func() (io.Closer, error) { return OpenReadOnly(vfs.Default, dir, ReadOptions{}) },
		} {
			err = soon(t, open)
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, "are possible")
		}
	}
}

// soon fails the test if open does not return; what it opened is closed.
func soon(t *testing.T, open func() (io.Closer, error)) error {
	t.Helper()
	type result struct {
		c   io.Closer
		err error
	}
	done := make(chan result, 1)
	go func() { c, err := open(); done <- result{c, err} }()
	select {
	case r := <-done:
		if r.err == nil {
			require.NoError(t, r.c.Close())
		}
		return r.err
	case <-time.After(60 * time.Second):
		t.Fatal("it hangs")
		return nil
	}
}
