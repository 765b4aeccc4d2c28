// Package unixsocket opens and dials Unix domain sockets whose path may be longer than the 100-odd bytes that the kernel's
// address structure holds. Data directories are often deep (temporary directories of tests, container volumes), and a
// command line that works or not by the length of a path is not a contract.
//
// On Linux a long path is reached through /proc/self/fd of its directory. Elsewhere a path relative to the working
// directory is tried; when that is too long as well, the error says what to do.
package unixsocket

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// maxPath is the longest path used directly: the smallest sun_path of the systems Go supports is 104 bytes with its
// terminating NUL.
const maxPath = 100

// Listen creates the socket at path and gives it mode 0600. A file of that name must not exist. Closing the listener does not remove
// the file: the caller does, because only the caller knows that it still owns the name.
func Listen(path string) (net.Listener, error) {
	var l *net.UnixListener
	err := through(path, func(short string) error {
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		_ = os.Remove(path)
		return nil, fmt.Errorf("protect %s: %w", path, err)
	}
	return l, nil
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	err := through(path, func(short string) error {
		var d net.Dialer
		var err error
		conn, err = d.DialContext(ctx, "unix", short)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return conn, nil
}

// through calls fn with a name of path that is short enough; the name is valid only during the call.
func through(path string, fn func(short string) error) error {
	if len(path) <= maxPath {
		return fn(path)
	}
	short, release, err := shorten(path)
	if err != nil {
		return err
	}
	defer release()
	return fn(short)
}

// relative is the fallback where the kernel offers no way to name an open directory.
func relative(path string) (string, error) {
	wd, err := os.Getwd()
	if err == nil {
		var rel string
		if rel, err = filepath.Rel(wd, path); err == nil && len(rel) <= maxPath {
			return rel, nil
		}
	}
	return "", fmt.Errorf("the path is %d bytes long, more than the %d that a Unix socket may have here: use a shorter directory name", len(path), maxPath)
}
