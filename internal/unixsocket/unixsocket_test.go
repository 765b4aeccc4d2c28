package unixsocket

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSocketsWorkAtAnyPathLength(t *testing.T) {
	for _, extra := range []int{0, 90, 150, 600} {
		dir := t.TempDir()
		for len(dir) < extra {
			dir = filepath.Join(dir, strings.Repeat("d", 40))
		}
		require.NoError(t, os.MkdirAll(dir, 0o700))
		path := filepath.Join(dir, "admin.sock")
		l, err := Listen(path)
		require.NoError(t, err, "%d bytes", len(path))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, _ = io.WriteString(conn, "hello")
				_ = conn.Close()
			}
		}()
		conn, err := Dial(context.Background(), path)
		require.NoError(t, err, "%d bytes", len(path))
		got, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.NoError(t, conn.Close())

		_, err = Listen(path)
		require.Error(t, err, "an existing socket is never replaced")
		require.NoError(t, l.Close())
		require.FileExists(t, path, "the file belongs to the caller")
		_, err = Dial(context.Background(), path)
		require.ErrorContains(t, err, path)
	}
}

func TestLongPathInAMissingDirectoryIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 120), "admin.sock")
	_, err := Listen(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Dial(context.Background(), path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestRelativeFallbackSaysWhatToDo(t *testing.T) {
	_, err := relative("/" + strings.Repeat("x", 200))
	require.ErrorContains(t, err, "use a shorter directory name")
	wd, err := os.Getwd()
	require.NoError(t, err)
	short, err := relative(filepath.Join(wd, "admin.sock"))
	require.NoError(t, err)
	require.Equal(t, "admin.sock", short)
}
