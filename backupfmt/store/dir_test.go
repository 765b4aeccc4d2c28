package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/backupfmt/store/storetest"
)

func TestDirOnDiskConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		d, err := store.CreateDir(nil, filepath.Join(t.TempDir(), "deep", "repo"))
		require.NoError(t, err)
		return d
	})
}

func TestDirInMemoryConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		d, err := store.CreateDir(vfs.NewMem(), "repo")
		require.NoError(t, err)
		return d
	})
}

func TestDirMustExistToBeOpened(t *testing.T) {
	_, err := store.OpenDir(nil, filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, store.ErrNoStore)
	_, err = store.OpenDir(nil, "dir.go")
	require.ErrorIs(t, err, store.ErrNoStore)
}

// After a power loss at any moment an object is there as a whole or not at all, and there if Create had returned.
func TestPowerLossLeavesWholeObjectsOrNone(t *testing.T) {
	body := func(i int) []byte { return []byte(fmt.Sprintf("content of object %d", i)) }
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		fs := vfs.NewCrashableMem()
		d, err := store.CreateDir(fs, "repo")
		require.NoError(t, err)
		done := 0
		for i := range 1 + rng.IntN(6) {
			require.NoError(t, d.Create(t.Context(), fmt.Sprintf("packs/%d/%d", i%2, i), body(i)))
			done = i + 1
		}
		head, err := d.Replace(t.Context(), "head", []byte("1"), "")
		require.NoError(t, err)
		_, err = d.Replace(t.Context(), "head", []byte("2"), head)
		require.NoError(t, err)
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		c, err := store.OpenDir(after, "repo")
		require.NoError(t, err, "seed %d", seed)
		for i := range done {
			b, _, err := c.Get(t.Context(), fmt.Sprintf("packs/%d/%d", i%2, i))
			require.NoError(t, err, "seed %d", seed)
			require.Equal(t, body(i), b, "seed %d", seed)
		}
		b, _, err := c.Get(t.Context(), "head")
		require.NoError(t, err, "seed %d", seed)
		require.Equal(t, "2", string(b))
		require.NoError(t, c.Create(t.Context(), "packs/next", []byte("x")))
	}
}

func TestSweepRemovesOldTemporaryFilesOnly(t *testing.T) {
	root := t.TempDir()
	d, err := store.OpenDir(nil, root)
	require.NoError(t, err)
	require.NoError(t, d.Create(t.Context(), "a", []byte("x")))
	left := filepath.Join(root, ".tmp", "left")
	require.NoError(t, os.WriteFile(left, []byte("half"), 0o600))
	n, err := d.Sweep(t.Context(), time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.Zero(t, n)
	require.FileExists(t, left)
	n, err = store.Limit(d, 1<<20).Sweep(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoFileExists(t, left)
	_, _, err = d.Get(t.Context(), "a")
	require.NoError(t, err)
}
