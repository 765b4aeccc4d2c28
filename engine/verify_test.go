package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func readAll(t *testing.T, fs vfs.FS, path string) string {
	t.Helper()
	st, err := fs.Stat(path)
	require.NoError(t, err)
	if st.IsDir() {
		return ""
	}
	f, err := fs.Open(path)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	return string(b)
}

func kinds(rep VerifyReport) (ks []string) {
	seen := map[string]bool{}
	for _, f := range rep.Findings {
		if !seen[f.Kind] {
			seen[f.Kind] = true
			ks = append(ks, f.Kind)
		}
	}
	return ks
}

func noErr(err error) {
	if err != nil {
		panic(err)
	}
}

// TestVerifyFindsEveryKindOfDamage damages a store behind the engine's back, one thing at a time.
func TestVerifyFindsEveryKindOfDamage(t *testing.T) {
	set := func(s *Store, k, v []byte) { noErr(s.db.Set(k, v, pebble.NoSync)) }
	for _, c := range []struct {
		name   string
		damage func(s *Store)
		kind   string
	}{
		{"nothing", func(*Store) {}, ""},
		{"row changed", func(s *Store) { set(s, appendRowKey(nil, "u", []byte("k1")), appendRowHeader(nil, 1, 0)) }, "state-hash"},
		{"row lost", func(s *Store) { noErr(s.db.Delete(appendRowKey(nil, "u", []byte("k1")), pebble.NoSync)) }, "state-hash"},
		{"row too short", func(s *Store) { set(s, appendRowKey(nil, "u", []byte("k1")), []byte("x")) }, "row"},
		{"row from the future", func(s *Store) { set(s, appendRowKey(nil, "u", []byte("k1")), appendRowHeader(nil, 999, 0)) }, "row"},
		{"key without table", func(s *Store) { set(s, []byte("dBAD"), appendRowHeader(nil, 1, 0)) }, "row"},
		{"index entry lost", func(s *Store) { s.indexes[0].apply(indexDiff{remove: true, item: indexItem{ikey: "w1", key: "k1"}}) }, "index"},
		{"index entry too many", func(s *Store) { s.indexes[0].apply(indexDiff{item: indexItem{ikey: "zz", key: "k1"}}) }, "index"},
		{"index entry stale", func(s *Store) { s.indexes[0].apply(indexDiff{item: indexItem{"w1", "k1", 77}}) }, "index"},
		{"deadline lost", func(s *Store) { noErr(s.db.DeleteRange([]byte{'t'}, []byte{'u'}, pebble.NoSync)) }, "deadline"},
		{"deadline without row", func(s *Store) { set(s, appendDeadlineKey(nil, 5, appendRowKey(nil, "u", []byte("x"))), nil) }, "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openIndexed(t)
			for i := range 20 {
				put(t, s, "t", fmt.Sprintf("k%d", i), fmt.Sprintf("w%d x", i))
				put(t, s, "u", fmt.Sprintf("k%d", i), "v")
			}
			putUntil(t, s, "dead", time.Now().Add(time.Hour))
			c.damage(s)
			rep, err := s.Verify(bg)
			require.NoError(t, err)
			if c.kind == "" {
				require.True(t, rep.OK())
				require.Equal(t, map[string]uint64{"t": 21, "u": 20}, rep.Tables)
				require.Equal(t, uint64(41), rep.Index)
				_, hash := s.StateHash()
				require.Equal(t, hash, rep.StateHash)
				require.Equal(t, uint64(41), rep.LogLast)
				return
			}
			require.Contains(t, kinds(rep), c.kind)
			require.False(t, rep.OK())
		})
	}
}

func TestVerifyReadsTablesAndLogFromDisk(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, small(fs))
	for i := range 500 {
		put(t, s, "t", fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 50))
	}
	_, err := s.Checkpoint()
	require.NoError(t, err)
	require.Len(t, scanKeys(t, s, "t", Range{}), 500) // now in the cache
	rep, err := s.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, rep.Findings)
	require.Positive(t, rep.SSTables)
	require.Positive(t, rep.SSTBytes)
	flip := func(dir, suffix string, at int64) {
		names, err := fs.List(dir)
		require.NoError(t, err)
		for _, n := range names {
			if strings.HasSuffix(n, suffix) {
				f, err := fs.OpenReadWrite(fs.PathJoin(dir, n), vfs.WriteCategoryUnspecified)
				require.NoError(t, err)
				var b [1]byte
				_, err = f.ReadAt(b[:], at)
				require.NoError(t, err)
				_, err = f.WriteAt([]byte{b[0] ^ 1}, at)
				require.NoError(t, err)
				require.NoError(t, f.Close())
				return
			}
		}
		t.Fatal("no file to damage")
	}
	flip("data/store", ".sst", 100)
	rep, err = s.Verify(bg)
	require.NoError(t, err)
	require.Contains(t, kinds(rep), "sstable")
	flip("data/store", ".sst", 100)
	flip("data/wal", "01.seg", 5672)
	rep, err = s.Verify(bg)
	require.NoError(t, err)
	require.Equal(t, []string{"log"}, kinds(rep))
	ctx, cancel := context.WithCancel(bg)
	cancel()
	_, err = s.Verify(ctx)
	require.ErrorIs(t, err, context.Canceled)
	flip("data/wal", "01.seg", 5672)
	flip("data/store", ".sst", 100)
	require.NoError(t, s.Close())

	s = open(t, small(fs)) // a fresh cache: reads meet the damage and say so, the process lives
	err = s.View(bg, func(tx *Tx) error {
		return tx.Scan("t", Range{}, func(_, _ []byte) bool { return true })
	})
	require.ErrorIs(t, err, ErrCorrupt)
	var letter *CorruptError
	require.ErrorAs(t, err, &letter)
	require.Contains(t, letter.Error(), "what to do")
	require.NoError(t, s.Err())
}

func TestDamagedRowStoreIsRefusedWithALetter(t *testing.T) {
	for _, c := range []struct {
		name, suffix string
		damage       func(fs vfs.FS, path string) error
	}{
		{"table missing", ".sst", func(fs vfs.FS, p string) error { return fs.Remove(p) }},
		{"table emptied", ".sst", func(fs vfs.FS, p string) error { return writeFile(fs, p, nil) }},
		{"manifest missing", "MANIFEST", func(fs vfs.FS, p string) error { return fs.Remove(p) }},
		{"manifest cut", "MANIFEST", func(fs vfs.FS, p string) error { return writeFile(fs, p, []byte("x")) }},
		{"version marker missing", "marker.format", func(fs vfs.FS, p string) error { return fs.Remove(p) }},
		{"manifest marker missing", "marker.manifest", func(fs vfs.FS, p string) error { return fs.Remove(p) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := open(t, small(fs))
			put(t, s, "t", "k", "v")
			require.NoError(t, s.Close())
			names, err := fs.List("data/store")
			require.NoError(t, err)
			n := 0
			for _, name := range names {
				if strings.Contains(name, c.suffix) {
					require.NoError(t, c.damage(fs, "data/store/"+name))
					n++
				}
			}
			require.Positive(t, n)
			var letter *CorruptError
			_, err = Open("data", small(fs))
			require.ErrorAs(t, err, &letter)
			require.NotEmpty(t, letter.Advice)
			_, err = OpenReadOnly(fs, "data", ReadOptions{})
			require.ErrorAs(t, err, &letter)
		})
	}
}

func TestReadOnlyReaderWorksBesideALiveStore(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, small(fs))
	put(t, s, "t", "flushed", "1")
	putUntil(t, s, "dead", time.UnixMilli(1e12))
	_, err := s.Checkpoint()
	require.NoError(t, err)
	index, hash := s.StateHash()
	put(t, s, "t", "later", "2")
	r, err := OpenReadOnly(fs, "data", ReadOptions{})
	require.NoError(t, err)
	gotIndex, gotHash := r.Applied()
	require.Equal(t, index, gotIndex)
	require.Equal(t, hash, gotHash)
	var rows []Row
	require.NoError(t, r.Rows("", func(row Row) error { rows = append(rows, row); return nil }))
	require.Equal(t, []Row{
		{Table: "t", Key: []byte("dead"), Value: []byte("v"), ModIndex: 2, Deadline: time.UnixMilli(1e12).UTC()},
		{Table: "t", Key: []byte("flushed"), Value: []byte("1"), ModIndex: 1},
	}, rows)
	require.NoError(t, r.Rows("none", func(Row) error { return errors.New("a row") }))
	require.NoError(t, r.Rejected(func(uint64, string) error { return errors.New("a marker") }))
	rep, err := r.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, rep.Findings)
	require.Equal(t, hash, rep.StateHash)
	require.Equal(t, s.Log().ID(), r.Info().LogID)
	require.NoError(t, r.Close())
	put(t, s, "t", "alive", "3")

	require.NoError(t, s.Close())
	before := fs.String()
	r, err = OpenReadOnly(fs, "data", ReadOptions{})
	require.NoError(t, err)
	n := 0
	require.NoError(t, r.Rows("t", func(Row) error { n++; return nil }))
	require.Equal(t, 4, n)
	require.NoError(t, r.Close())
	require.Equal(t, before, fs.String(), "nothing is changed")

	_, err = OpenReadOnly(vfs.NewMem(), "data", ReadOptions{})
	require.ErrorIs(t, err, ErrNotStore)
}

func TestReadOnlyReaderSurvivesCompactionsOfTheLiveStore(t *testing.T) {
	fs := vfs.NewMem()
	s := open(t, small(fs))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			put(t, s, "t", fmt.Sprint(i%50), strings.Repeat("x", 1000))
			if i%20 == 0 {
				if _, err := s.Checkpoint(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 20 {
		r, err := OpenReadOnly(fs, "data", ReadOptions{})
		require.NoError(t, err)
		rep, err := r.Verify(bg)
		require.NoError(t, err)
		for _, f := range rep.Findings {
			require.Equal(t, "sstable", f.Kind) // a file that the live store has removed meanwhile
			require.Contains(t, f.Message, "exist")
		}
		require.NoError(t, r.Close())
	}
	close(stop)
	<-done
}
