package simdisk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

const cat = vfs.WriteCategoryUnspecified

// write creates name with data, unsynced, and returns the open file.
func write(t *testing.T, d *simdisk.Disk, name string, data []byte) vfs.File {
	t.Helper()
	f, err := d.Create(name, cat)
	require.NoError(t, err)
	_, err = f.Write(data)
	require.NoError(t, err)
	return f
}

// durable creates a file whose bytes and name survive a power loss.
func durable(t *testing.T, d *simdisk.Disk, name string, data []byte) vfs.File {
	t.Helper()
	f := write(t, d, name, data)
	require.NoError(t, f.Sync())
	syncDir(t, d, d.PathDir(name))
	return f
}

func syncDir(t *testing.T, d *simdisk.Disk, name string) {
	t.Helper()
	f, err := d.OpenDir(name)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

func read(t *testing.T, d *simdisk.Disk, name string) []byte {
	t.Helper()
	p, err := d.ReadFile(name)
	require.NoError(t, err)
	return p
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func TestFileReadsBackWhatWasWritten(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	require.NoError(t, d.MkdirAll("/a/b", 0o755))
	f := write(t, d, "/a/b/x", []byte("hello "))
	_, err := f.Write([]byte("world"))
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("W"), 6)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("!"), 9000) // a hole reads as zero
	require.NoError(t, err)

	p := make([]byte, 11)
	_, err = f.ReadAt(p, 0)
	require.NoError(t, err)
	require.Equal(t, "hello World", string(p))
	n, err := f.ReadAt(p, 8995)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 6, n)
	require.Equal(t, "\x00\x00\x00\x00\x00!", string(p[:n]))
	n, err = f.ReadAt(p, 9001)
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)

	info, err := d.Stat("a/b/x")
	require.NoError(t, err)
	require.EqualValues(t, 9001, info.Size())
	require.Equal(t, "x", info.Name())
	require.False(t, info.IsDir())

	r, err := d.Open("/a/b/x")
	require.NoError(t, err)
	_, err = r.Write([]byte("no"))
	require.ErrorIs(t, err, syscall.EBADF)
	all, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Len(t, all, 9001)
	require.NoError(t, r.Close())
	_, err = r.Read(p)
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, r.Close(), os.ErrClosed)
	require.Equal(t, []string{"read /a/b/x", "close /a/b/x"}, d.Misuses())
	require.Equal(t, []string{"/a/b/x"}, d.OpenFiles(), "the handle of Create is still open")
	require.NoError(t, f.Close())
	require.Empty(t, d.OpenFiles())
}

func TestNamesBehaveLikeAFileSystem(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	require.NoError(t, d.MkdirAll("/d/e", 0o755))
	require.NoError(t, d.MkdirAll("/d/e", 0o755))
	_, err := d.Create("/missing/x", cat)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = d.Open("/d/none")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, d.Remove("/d/none"), os.ErrNotExist)
	require.ErrorIs(t, d.Rename("/d/none", "/d/y"), os.ErrNotExist)
	require.ErrorIs(t, d.Remove("/d"), syscall.ENOTEMPTY)
	write(t, d, "/d/f", nil)
	require.ErrorIs(t, d.MkdirAll("/d/f/g", 0o755), syscall.ENOTDIR)
	_, err = d.List("/d/f")
	require.ErrorIs(t, err, syscall.ENOTDIR)
	require.ErrorIs(t, d.Link("/d", "/l"), syscall.EISDIR)
}

func TestLinksRenamesAndOpenHandles(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	f := write(t, d, "/x", []byte("one"))
	require.NoError(t, d.Link("/x", "/y"))
	require.ErrorIs(t, d.Link("/x", "/y"), os.ErrExist)
	require.NoError(t, d.Remove("/x"))
	_, err := f.Write([]byte("two"))
	require.NoError(t, err)
	require.Equal(t, "onetwo", string(read(t, d, "/y")))

	// Create on an existing name gives a new file; the old handle keeps the old one.
	g := write(t, d, "/y", []byte("new"))
	require.Equal(t, "new", string(read(t, d, "/y")))
	p := make([]byte, 6)
	_, err = f.ReadAt(p, 0)
	require.NoError(t, err)
	require.Equal(t, "onetwo", string(p))
	require.NoError(t, g.Close())

	r, err := d.ReuseForWrite("/y", "/z", cat)
	require.NoError(t, err)
	_, err = r.Write([]byte("NE"))
	require.NoError(t, err)
	require.Equal(t, "NEw", string(read(t, d, "/z")))
	names, err := d.List("/")
	require.NoError(t, err)
	require.Equal(t, []string{"z"}, names)

	rw, err := d.OpenReadWrite("/fresh", cat)
	require.NoError(t, err)
	require.NoError(t, rw.Close())
	require.NoError(t, d.RemoveAll("/nothing/here"))
	require.NoError(t, d.RemoveAll("/z"))
	require.Equal(t, []string{"/fresh"}, d.Files())
}

func TestLockIsExclusiveAndDiesWithTheMachine(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	l, err := d.Lock("/LOCK")
	require.NoError(t, err)
	_, err = d.Lock("/LOCK")
	require.ErrorIs(t, err, syscall.EAGAIN)
	after := d.Crash(simdisk.Policy{Process: true}, 1)
	other, err := after.Lock("/LOCK")
	require.NoError(t, err)
	require.NoError(t, other.Close())
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	l, err = d.Lock("/LOCK")
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

func TestFullDiskTakesWholeSectorsAndRecovers(t *testing.T) {
	d := simdisk.New(simdisk.Options{Capacity: 4096})
	f := write(t, d, "/a", fill('a', 1000))
	use, err := d.GetDiskUsage("/")
	require.NoError(t, err)
	require.Equal(t, vfs.DiskUsage{TotalBytes: 4096, UsedBytes: 1000, AvailBytes: 3096}, use)

	n, err := f.Write(fill('b', 5000))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, 3072, n)
	n, err = f.WriteAt([]byte("over"), 0) // no growth needed
	require.NoError(t, err)
	require.Equal(t, 4, n)
	g := write(t, d, "/b", nil)
	_, err = g.Write(fill('c', 600))
	require.ErrorIs(t, err, syscall.ENOSPC)

	// The space of a removed file is free only when the last handle closed.
	require.NoError(t, d.Remove("/a"))
	_, err = g.Write(fill('c', 600))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
	_, err = g.Write(fill('c', 600))
	require.NoError(t, err)
	d.SetCapacity(10)
	_, err = d.Create("/c", cat)
	require.ErrorIs(t, err, syscall.ENOSPC)
	d.SetCapacity(0)
	_, err = g.Write(fill('c', 600))
	require.NoError(t, err)
}

func TestFaultsHitTheNamedOperation(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	require.NoError(t, d.MkdirAll("/log", 0o755))
	f := write(t, d, "/log/1.seg", nil)
	g := write(t, d, "/other", nil)

	r := d.Inject(simdisk.Fault{Kinds: simdisk.OpWrite, Glob: "*.seg", Nth: 2, Times: 2, Err: syscall.EIO, Short: 3})
	for i, want := range []struct {
		n   int
		err error
	}{{5, nil}, {3, syscall.EIO}, {3, syscall.EIO}, {5, nil}} {
		_, err := g.Write([]byte("fine"))
		require.NoError(t, err)
		n, err := f.Write([]byte("12345"))
		require.Equal(t, want.n, n, i)
		require.ErrorIs(t, err, want.err)
	}
	require.Equal(t, "1234512312312345", string(read(t, d, "/log/1.seg")))
	require.Equal(t, 2, r.Fired())

	r = d.Inject(simdisk.Fault{Kinds: simdisk.OpAny, Glob: "/log/", Times: simdisk.Forever, Err: syscall.EIO})
	_, err := d.Create("/log/2.seg", cat)
	require.ErrorIs(t, err, syscall.EIO)
	_, err = d.List("/log")
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, d.Remove("/log/1.seg"), syscall.EIO)
	require.ErrorIs(t, d.Rename("/log/1.seg", "/x"), syscall.EIO)
	_, err = f.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, syscall.EIO)
	_, err = d.Open("/log/1.seg")
	require.ErrorIs(t, err, syscall.EIO)
	r.Remove()
	_, err = f.ReadAt(make([]byte, 1), 0)
	require.NoError(t, err)

	d.Inject(simdisk.Fault{Kinds: simdisk.OpRead, Glob: "/log/1.seg", FlipBit: true})
	p, q := make([]byte, 16), make([]byte, 16)
	_, err = f.ReadAt(p, 0)
	require.NoError(t, err)
	_, err = f.ReadAt(q, 0)
	require.NoError(t, err)
	require.NotEqual(t, p, q)
}

func TestSlowOperationsWaitOnTheInjectedClock(t *testing.T) {
	var slept time.Duration
	d := simdisk.New(simdisk.Options{Sleep: func(x time.Duration) { slept += x }})
	f := write(t, d, "/x", []byte("data"))
	var seen []string
	d.Inject(simdisk.Fault{
		Kinds: simdisk.OpSync, Times: simdisk.Forever, Delay: time.Second,
		Hook: func(op simdisk.Op) { seen = append(seen, op.String()) },
	})
	require.NoError(t, f.Sync())
	require.NoError(t, f.SyncData())
	require.Equal(t, 2*time.Second, slept)
	require.Equal(t, []string{"sync /x", "sync /x"}, seen)
}

type dropper interface{ DropCache(off, n int64) error }

func TestFailedSyncLosesDataForGood(t *testing.T) {
	lost, kept := 0, 0
	for seed := range uint64(20) {
		d := simdisk.New(simdisk.Options{Seed: seed})
		f := durable(t, d, "/x", fill('0', 2048))
		_, err := f.WriteAt(fill('1', 2048), 0)
		require.NoError(t, err)
		d.Inject(simdisk.Fault{Kinds: simdisk.OpSync, Err: syscall.EIO})
		require.ErrorIs(t, f.Sync(), syscall.EIO)
		require.Equal(t, fill('1', 2048), read(t, d, "/x"), "the cache claims the new bytes")
		_, err = f.WriteAt(fill('2', 512), 512)
		require.NoError(t, err)
		require.NoError(t, f.(dropper).DropCache(0, 4096))
		require.Equal(t, byte('1'), read(t, d, "/x")[0], "a page with unsynced writes stays")
		require.NoError(t, f.Sync(), "the next sync succeeds and does not repair")

		after := read(t, d.Crash(simdisk.Policy{Data: simdisk.DataKept, Dirs: simdisk.DirsKept}, seed), "/x")
		require.NoError(t, f.(dropper).DropCache(0, 4096))
		require.Equal(t, after, read(t, d, "/x"), "without the cache the disk speaks")
		for s := 0; s < 4; s++ {
			sector := after[s*512 : s*512+512]
			require.Equal(t, fill(sector[0], 512), sector, "a sector is old or new, never mixed")
			switch {
			case s == 1:
				require.EqualValues(t, '2', sector[0], "written after the failure, synced")
			case sector[0] == '0':
				lost++
			default:
				kept++
			}
		}
	}
	require.Positive(t, lost)
	require.Positive(t, kept)
}

func TestMisdirectedWriteShowsAfterRestartOnly(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	f := durable(t, d, "/x", fill('x', 2048))
	durable(t, d, "/y", fill('y', 2048))
	d.Inject(simdisk.Fault{Kinds: simdisk.OpWrite, Glob: "x", Misdirect: &simdisk.Place{Path: "/y", Off: 512}})
	_, err := f.WriteAt(fill('!', 512), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.Equal(t, byte('!'), read(t, d, "/x")[0])
	require.Equal(t, byte('y'), read(t, d, "/y")[512])

	after := d.Crash(simdisk.Policy{Data: simdisk.DataKept, Dirs: simdisk.DirsKept}, 1)
	require.Equal(t, fill('x', 2048), read(t, after, "/x"))
	require.Equal(t, fill('!', 512), read(t, after, "/y")[512:1024])
}

func TestDamageAtRest(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	durable(t, d, "/x", []byte("abcdefgh"))
	before := d.Fingerprint()
	require.NoError(t, d.FlipBit("/x", 0, 1))
	require.NotEqual(t, before, d.Fingerprint())
	require.Equal(t, "cbcdefgh", string(read(t, d, "/x")))
	require.NoError(t, d.Swap("/x", 0, 6, 2))
	require.Equal(t, "ghcdefcb", string(read(t, d, "/x")))
	require.NoError(t, d.Zero("/x", 2, 2))
	require.NoError(t, d.Overwrite("/x", 4, []byte("XY")))
	require.Equal(t, "gh\x00\x00XYcb", string(read(t, d, "/x")))
	require.NoError(t, d.Truncate("/x", 3))
	require.NoError(t, d.Truncate("/x", 6))
	require.Equal(t, "gh\x00\x00\x00\x00", string(read(t, d, "/x")))
	require.Error(t, d.FlipBit("/x", 6, 0))
	require.NoError(t, d.CopyFile("/x", "/y"))
	require.NoError(t, d.Discard("/x"))
	require.Error(t, d.Discard("/x"))
	after := d.Crash(simdisk.Policy{}, 1)
	require.Equal(t, []string{"/y"}, after.Files(), "damage is durable at once")

	dir := t.TempDir()
	require.NoError(t, after.Export(dir))
	back := simdisk.New(simdisk.Options{})
	require.NoError(t, back.Import(dir, "/in"))
	back = back.Crash(simdisk.Policy{}, 1)
	require.Equal(t, "gh\x00\x00\x00\x00", string(read(t, back, "/in/y")))
}

func TestConcurrentUse(t *testing.T) {
	d := simdisk.New(simdisk.Options{Record: true})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				name := fmt.Sprintf("/%d-%d", g, i%5)
				f, err := d.Create(name, cat)
				if err != nil {
					t.Error(err)
					return
				}
				_, werr := f.Write(fill(byte(i), 5000))
				if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
					t.Error(err)
				}
				d.Crash(simdisk.Policy{Data: simdisk.DataTorn}, uint64(i)).Files()
			}
		})
	}
	wg.Wait()
	tr := d.Trace()
	wg = sync.WaitGroup{}
	for g := range 4 {
		wg.Go(func() {
			c := tr.Cursor()
			for n := range tr.Len() {
				c.Seek(n)
				img := c.Crash(simdisk.Policy{Data: simdisk.DataGarbage, Dirs: simdisk.DirsPrefix}, uint64(g))
				for _, name := range img.Files() {
					if err := img.Overwrite(name, 0, nil); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}
