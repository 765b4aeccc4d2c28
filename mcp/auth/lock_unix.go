//go:build unix

package auth

import (
	"os"
	"syscall"
)

// lockFile waits for the lock on path and returns how to release it. The file
// stays: removing it would let two processes hold locks on different files.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
