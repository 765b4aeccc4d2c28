package unixsocket

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// shorten opens the directory of path and names the socket through the descriptor.
func shorten(path string) (short string, release func(), err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	short = fmt.Sprintf("/proc/self/fd/%d/%s", fd, base)
	if _, err := os.Stat("/proc/self/fd"); err != nil || len(short) > maxPath {
		_ = unix.Close(fd)
		short, err = relative(path)
		return short, func() {}, err
	}
	return short, func() { _ = unix.Close(fd) }, nil
}
