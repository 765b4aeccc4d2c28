package simdisk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

var (
	lost = simdisk.Policy{}
	kept = simdisk.Policy{Data: simdisk.DataKept, Dirs: simdisk.DirsKept}
	kill = simdisk.Policy{Process: true}
)

func exists(d *simdisk.Disk, name string) bool {
	_, err := d.Stat(name)
	return err == nil
}

func TestSyncSavesBytesAndDirectorySyncSavesNames(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	f := write(t, d, "/x", []byte("old"))
	require.NoError(t, f.Sync())
	require.False(t, exists(d.Crash(lost, 1), "/x"), "fsync of a new file does not save its name")
	require.True(t, exists(d.Crash(kept, 1), "/x"))
	syncDir(t, d, "/")
	_, err := f.Write([]byte(" new"))
	require.NoError(t, err)
	require.Equal(t, "old", string(read(t, d.Crash(lost, 1), "/x")))
	require.Equal(t, "old new", string(read(t, d.Crash(kept, 1), "/x")))
	require.Equal(t, "old new", string(read(t, d.Crash(kill, 1), "/x")))
	p, err := d.Durable("/x")
	require.NoError(t, err)
	require.Equal(t, "old", string(p))
}

func TestUnsyncedDirectoryChangesSurviveAsAPrefix(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	durable(t, d, "/cur", []byte("v1"))
	f := write(t, d, "/tmp", []byte("v2"))
	require.NoError(t, f.Sync())
	require.NoError(t, d.Rename("/tmp", "/cur"))
	require.Equal(t, "v1", string(read(t, d.Crash(lost, 1), "/cur")), "the replaced file comes back")
	require.Equal(t, "v2", string(read(t, d.Crash(kept, 1), "/cur")))

	seen := map[string]bool{}
	for seed := range uint64(50) {
		img := d.Crash(simdisk.Policy{Data: simdisk.DataKept, Dirs: simdisk.DirsPrefix}, seed)
		seen[fmt.Sprint(img.Files(), string(read(t, img, "/cur")))] = true
	}
	require.Equal(t, map[string]bool{"[/cur]v1": true, "[/cur /tmp]v1": true, "[/cur]v2": true}, seen)
}

func TestNewDirectoryIsLostWithItsName(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	require.NoError(t, d.MkdirAll("/a/b", 0o755))
	durable(t, d, "/a/b/x", []byte("x"))
	require.False(t, exists(d.Crash(lost, 1), "/a"))
	syncDir(t, d, "/a")
	syncDir(t, d, "/")
	require.Equal(t, "x", string(read(t, d.Crash(lost, 1), "/a/b/x")))
}

func TestRenameAcrossDirectoriesIsAtomic(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	require.NoError(t, d.MkdirAll("/a", 0o755))
	require.NoError(t, d.MkdirAll("/b", 0o755))
	syncDir(t, d, "/")
	durable(t, d, "/a/x", []byte("x"))
	write(t, d, "/b/noise", nil)
	require.NoError(t, d.Rename("/a/x", "/b/x"))
	write(t, d, "/a/noise", nil)
	for seed := range uint64(200) {
		img := d.Crash(simdisk.Policy{Data: simdisk.DataKept, Dirs: simdisk.DirsPrefix}, seed)
		require.NotEqual(t, exists(img, "/a/x"), exists(img, "/b/x"), "seed %d", seed)
	}
}

// TestTornWritesRespectSectors checks the freedom and the limits of tearing:
// untouched sectors keep their content, touched ones hold one of their versions
// or, under the garbage policy, anything.
func TestTornWritesRespectSectors(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	f := durable(t, d, "/x", fill('0', 8*512))
	for i, at := range []int64{512, 1024, 1024} { // sectors 1,2 then 2,3 then 2,3
		_, err := f.WriteAt(fill(byte('1'+i), 1024), at)
		require.NoError(t, err)
	}
	allowed := map[int]string{1: "01", 2: "0123", 3: "023"}
	for _, data := range []simdisk.Data{simdisk.DataSubset, simdisk.DataTorn, simdisk.DataGarbage, simdisk.DataOrdered} {
		seen, garbage := map[string]bool{}, 0
		for seed := range uint64(300) {
			p := read(t, d.Crash(simdisk.Policy{Data: data}, seed), "/x")
			require.Len(t, p, 8*512)
			for s := range 8 {
				sector := p[s*512 : s*512+512]
				uniform := bytes.Equal(sector, fill(sector[0], 512))
				switch versions := allowed[s]; {
				case versions == "":
					require.Equal(t, fill('0', 512), sector, "sector %d was never written", s)
				case uniform && bytes.IndexByte([]byte(versions), sector[0]) >= 0:
					seen[fmt.Sprint(s, string(sector[0]))] = true
				default:
					garbage++
				}
			}
		}
		if data == simdisk.DataGarbage {
			require.Positive(t, garbage)
		} else {
			require.Zero(t, garbage)
			require.Len(t, seen, 9, "every version of every sector turns up under %v", data)
		}
	}
}

func TestOrderedPolicyKeepsAPrefixOverAllFiles(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	f, g := durable(t, d, "/f", nil), durable(t, d, "/g", nil)
	for range 5 {
		for _, w := range []vfs.File{f, g} {
			_, err := w.Write([]byte("."))
			require.NoError(t, err)
		}
	}
	seen := map[string]bool{}
	for seed := range uint64(200) {
		img := d.Crash(simdisk.Policy{Data: simdisk.DataOrdered}, seed)
		a, b := len(read(t, img, "/f")), len(read(t, img, "/g"))
		require.Contains(t, []int{a, a - 1}, b)
		seen[fmt.Sprint(a, b)] = true
	}
	require.Len(t, seen, 11)
}

func TestGarbageSparesSyncedBytesWhenTheDiskPromisesSo(t *testing.T) {
	d := simdisk.New(simdisk.Options{})
	f := durable(t, d, "/x", fill('a', 100))
	_, err := f.Write(fill('b', 100))
	require.NoError(t, err)
	hurt := 0
	for seed := range uint64(100) {
		p := read(t, d.Crash(simdisk.Policy{Data: simdisk.DataGarbage, SafeOverwrite: []string{"x"}}, seed), "/x")
		require.Equal(t, fill('a', 100), p[:100])
		p = read(t, d.Crash(simdisk.Policy{Data: simdisk.DataGarbage}, seed), "/x")
		if !bytes.Equal(p[:100], fill('a', 100)) {
			hurt++
		}
	}
	require.Positive(t, hurt, "without the promise the neighbours in the sector suffer")
}

func TestCrashInTheMiddleOfAWrite(t *testing.T) {
	d := simdisk.New(simdisk.Options{Record: true})
	f := write(t, d, "/x", []byte("0123456789"))
	require.NoError(t, f.Close())
	tr := d.Trace()
	require.Equal(t, 2, tr.Len())
	seen := map[int]bool{}
	for seed := range uint64(100) {
		p := read(t, tr.CrashAt(1, simdisk.Policy{Process: true, Partial: true}, seed), "/x")
		require.Equal(t, "0123456789"[:len(p)], string(p))
		seen[len(p)] = true
	}
	require.Len(t, seen, 9, "1 to 9 bytes")
}

// TestCrashImagesAreReproducible saves and loads a trace and compares every
// image of every policy at every step, forwards and backwards.
func TestCrashImagesAreReproducible(t *testing.T) {
	first := simdisk.New(simdisk.Options{})
	durable(t, first, "/keep", fill('k', 3000))
	d := first.Crash(kill, 1)
	d.Record()
	rng := rand.New(rand.NewPCG(7, 7))
	f, err := d.OpenReadWrite("/keep", cat)
	require.NoError(t, err)
	for i := range 30 {
		p := fill(byte(i), 1+rng.IntN(2000))
		_, err := f.WriteAt(p, rng.Int64N(20000))
		require.NoError(t, err)
		switch rng.IntN(4) {
		case 0:
			require.NoError(t, f.Sync())
		case 1:
			write(t, d, fmt.Sprintf("/n%d", i), p)
		case 2:
			syncDir(t, d, "/")
		}
	}
	tr := d.Trace()
	var buf bytes.Buffer
	require.NoError(t, tr.Save(&buf))
	loaded, err := simdisk.LoadTrace(&buf)
	require.NoError(t, err)
	a, b := tr.Cursor(), loaded.Cursor()
	for n := tr.Len(); n >= 0; n -= 7 {
		for _, p := range simdisk.Policies() {
			a.Seek(n)
			b.Seek(n)
			x, y := a.Crash(p, 42), b.Crash(p, 42)
			require.Equal(t, x.Files(), y.Files(), "%d %s", n, p)
			for _, name := range x.Files() {
				require.Equal(t, read(t, x, name), read(t, y, name), "%d %s %s", n, p, name)
			}
		}
	}
	_, err = simdisk.LoadTrace(bytes.NewReader([]byte("garbage")))
	require.Error(t, err)
}

func TestCrashImagesDoNotShareWrites(t *testing.T) {
	d := simdisk.New(simdisk.Options{Record: true})
	f := durable(t, d, "/x", fill('a', 5000))
	img := d.Crash(lost, 1)
	again := d.Crash(lost, 1)
	require.NoError(t, img.Overwrite("/x", 10, []byte("IMAGE")))
	_, err := f.WriteAt([]byte("LIVE"), 4096)
	require.NoError(t, err)
	require.Equal(t, fill('a', 5000), read(t, again, "/x"))
	require.Equal(t, fill('a', 5000), read(t, d.Trace().CrashAt(d.Ops()-1, kill, 1), "/x"))
	require.Equal(t, "IMAGE", string(read(t, img, "/x")[10:15]))
}

// TestKilledProcessLeavesItsWritesUnsynced: a restart sees everything, and a
// power loss in the second life can still take what the first never synced.
func TestKilledProcessLeavesItsWritesUnsynced(t *testing.T) {
	d := simdisk.New(simdisk.Options{Record: true})
	f := durable(t, d, "/x", []byte("synced "))
	_, err := f.Write([]byte("cached"))
	require.NoError(t, err)
	c := d.Trace().Cursor()
	c.Seek(d.Ops())
	require.Equal(t, 1, c.Unsynced())
	second := c.Restart(1)
	require.Equal(t, "synced cached", string(read(t, second, "/x")))
	require.Equal(t, d.Ops(), second.Ops())
	require.Equal(t, "synced ", string(read(t, second.Crash(lost, 1), "/x")))
	g, err := second.OpenReadWrite("/x", cat)
	require.NoError(t, err)
	require.NoError(t, g.Sync())
	tr := second.Trace()
	require.Equal(t, "synced ", string(read(t, tr.CrashAt(d.Ops(), lost, 1), "/x")))
	require.Equal(t, "synced cached", string(read(t, tr.CrashAt(tr.Len(), lost, 1), "/x")))
}

// TestPebbleSurvivesOnThisDisk runs a database with its own log on the disk:
// synced batches are there after a crash at every operation. It shows that the
// model is a disk that a sound database can live on.
func TestPebbleSurvivesOnThisDisk(t *testing.T) {
	d := simdisk.New(simdisk.Options{Record: true})
	opts := func(fs vfs.FS) *pebble.Options {
		return &pebble.Options{FS: fs, MemTableSize: 64 << 10, Logger: quiet{}}
	}
	require.NoError(t, d.MkdirAll("/db", 0o755))
	syncDir(t, d, "/")
	db, err := pebble.Open("/db", opts(d))
	require.NoError(t, err)
	var acked []int
	for i := range 60 {
		require.NoError(t, db.Set(fmt.Appendf(nil, "k%03d", i), fill(byte(i), 3000), pebble.Sync))
		acked = append(acked, d.Ops())
	}
	require.NoError(t, db.Close())

	tr := d.Trace()
	c := tr.Cursor()
	policies := simdisk.Policies()
	for n := acked[0]; n < tr.Len(); n += 5 {
		c.Seek(n)
		p := policies[n/5%len(policies)]
		p.SafeOverwrite = []string{"/db/"}
		img := c.Crash(p, uint64(n))
		db, err := pebble.Open("/db", opts(img))
		require.NoError(t, err, "crash at %d (%s) under %s", n, tr.Op(n), p)
		for i, at := range acked {
			if at > n {
				break
			}
			v, closer, err := db.Get(fmt.Appendf(nil, "k%03d", i))
			require.NoError(t, err, "key %d after a crash at %d under %s", i, n, p)
			require.Equal(t, fill(byte(i), 3000), v)
			require.NoError(t, closer.Close())
		}
		require.NoError(t, db.Close())
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}
