package wal

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// dropCache forgets the cached, clean pages of a file, so that the next read
// comes from the disk. A file system under test may do it by a method.
func dropCache(f vfs.File, size int64) error {
	if c, ok := f.(interface{ DropCache(off, n int64) error }); ok {
		return c.DropCache(0, size)
	}
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return nil
	}
	if err := unix.Fadvise(int(fd), 0, size, unix.FADV_DONTNEED); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
