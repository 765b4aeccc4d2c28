package faultfs

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
)

// disk is a wrapped real directory with a control file that a test writes.
type disk struct {
	t       *testing.T
	fs      vfs.FS
	dir     string
	control string
	out     bytes.Buffer
}

func newDisk(t *testing.T) *disk {
	d := &disk{t: t, dir: t.TempDir(), control: filepath.Join(t.TempDir(), "rules")}
	d.fs = Wrap(vfs.Default, d.control, &d.out)
	require.NoError(t, d.fs.MkdirAll(filepath.Join(d.dir, "wal"), 0o700))
	return d
}

func (d *disk) rules(text string) { require.NoError(d.t, os.WriteFile(d.control, []byte(text), 0o600)) }

func (d *disk) create(name string) vfs.File {
	f, err := d.fs.Create(filepath.Join(d.dir, name), vfs.WriteCategoryUnspecified)
	require.NoError(d.t, err)
	d.t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestWithoutAControlFileTheDiskIsHealthy(t *testing.T) {
	d := newDisk(t)
	f := d.create("wal/1.seg")
	_, err := f.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.Empty(t, d.out.String())
}

func TestTheCountedSyncFailsAndOnlyThatOne(t *testing.T) {
	d := newDisk(t)
	log, other := d.create("wal/1.seg"), d.create("other")
	d.rules("sync wal/*.seg EIO after=2 times=1\n")
	require.NoError(t, log.SyncData())
	require.NoError(t, other.Sync(), "not matched, not counted")
	require.NoError(t, log.Sync())
	require.ErrorIs(t, log.SyncData(), syscall.EIO)
	require.NoError(t, log.SyncData())
	require.Contains(t, d.out.String(), "1.seg: input/output error")
}

func TestAFullDiskRefusesWritesAndNewFilesUntilTheRuleIsGone(t *testing.T) {
	d := newDisk(t)
	f := d.create("a")
	d.rules("write * ENOSPC\ncreate * ENOSPC\n")
	_, err := f.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ENOSPC)
	_, err = d.fs.Create(filepath.Join(d.dir, "b"), vfs.WriteCategoryUnspecified)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorIs(t, d.fs.Rename(filepath.Join(d.dir, "a"), filepath.Join(d.dir, "c")), syscall.ENOSPC)
	require.NoError(t, f.Sync())
	d.rules("")
	_, err = f.Write([]byte("x"))
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(d.dir, "a"))
	require.NoError(t, err)
	require.Equal(t, "x", string(raw), "a refused write writes nothing")
}

func TestARuleMayBeAboutTheEndOfAFile(t *testing.T) {
	d := newDisk(t)
	f, err := d.fs.OpenReadWrite(filepath.Join(d.dir, "a"), vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	defer f.Close()
	d.rules("write a ENOSPC from=100\n")
	_, err = f.WriteAt([]byte("x"), 99)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 100)
	require.ErrorIs(t, err, syscall.ENOSPC)
}

func TestASlowDiskSleepsAndSaysSoOnce(t *testing.T) {
	var slept time.Duration
	var out bytes.Buffer
	control := filepath.Join(t.TempDir(), "rules")
	require.NoError(t, os.WriteFile(control, []byte("# slow\nsync *.seg delay=150ms\n"), 0o600))
	in := &injector{control: control, out: &out, sleep: func(d time.Duration) { slept += d }}
	for range 3 {
		require.NoError(t, in.MaybeError(errorfs.Op{Kind: errorfs.OpFileSyncData, Path: "/data/wal/1.seg"}))
	}
	require.NoError(t, in.MaybeError(errorfs.Op{Kind: errorfs.OpFileRead, Path: "/data/wal/1.seg"}))
	require.Equal(t, 450*time.Millisecond, slept)
	require.Equal(t, "faultfs: sync /data/wal/1.seg: slow by 150ms from now on\n", out.String())
}

func TestRulesThatMakeNoSenseFailEverything(t *testing.T) {
	for _, text := range []string{
		"sync", "fsync * EIO", "sync * EPERM", "sync * delay=-1s", "sync * EIO after=x", "sync * EIO often=1", "sync [ EIO",
	} {
		d := newDisk(t)
		f := d.create("a")
		d.rules(text)
		require.ErrorContains(t, f.Sync(), "faultfs: ", text)
	}
}
