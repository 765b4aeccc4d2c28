package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/wal"
)

// lively fills a store with puts, deletes, deadlines and idempotency keys.
func lively(t *testing.T, s *Store, seed uint64, n int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		_, err := s.Update(bg, func(tx *Tx) error {
			for range 1 + rng.IntN(4) {
				table, key := []string{"stock", "task"}[rng.IntN(2)], fmt.Appendf(nil, "k%03d", rng.IntN(200))
				var err error
				switch rng.IntN(4) {
				case 0:
					err = tx.Delete(table, key)
				case 1:
					err = tx.PutUntil(table, key, []byte("soon"), time.UnixMilli(4e12+rng.Int64N(1e6)))
				default:
					err = tx.Put(table, key, fmt.Appendf(nil, "value %d", rng.Uint64()))
				}
				if err != nil {
					return err
				}
			}
			return nil
		}, WithIdempotencyKey(fmt.Sprintf("%d-%d", seed, i%97*i), nil))
		require.NoError(t, err, "seed %d", seed)
	}
}

func openImage(t *testing.T, s *Store) *Image {
	t.Helper()
	im, err := s.OpenImage()
	require.NoError(t, err)
	t.Cleanup(func() { _ = im.Close() })
	return im
}

func imageRows(t *testing.T, im *Image) (out []Row) {
	t.Helper()
	require.NoError(t, im.Rows(bg, func(r *Row) error {
		c := *r
		c.Key, c.Value = append([]byte{}, r.Key...), append([]byte{}, r.Value...)
		out = append(out, c)
		return nil
	}))
	return out
}

// build makes a store in "copy" from an image and log entries.
func build(t *testing.T, im *Image, o Options, entries []wal.Entry) error {
	t.Helper()
	b, err := NewBuilder("copy", o, BuilderStart{Index: im.Index(), Term: im.Term()})
	require.NoError(t, err)
	for _, r := range imageRows(t, im) {
		require.NoError(t, b.Add(&r))
	}
	require.NoError(t, b.AppendLog(entries...))
	return b.Finish(im.StateHash())
}

func TestImageStaysWhatItWasWhileTheStoreMovesOn(t *testing.T) {
	s := openMem(t)
	lively(t, s, 1, 50)
	im := openImage(t, s)
	index, hash := s.StateHash()
	require.Equal(t, index, im.Index())
	require.Equal(t, hash, im.StateHash())
	before := imageRows(t, im)
	lively(t, s, 2, 50)
	require.Equal(t, before, imageRows(t, im))
	require.Equal(t, index, im.Index())
	for _, want := range before[:10] {
		got, found, err := im.Get(want.Table, want.Key)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, want, got)
	}
	_, found, err := im.Get("stock", []byte("never"))
	require.NoError(t, err)
	require.False(t, found)
	require.NoError(t, im.Close())
	require.NoError(t, im.Close())
}

func TestImageOfAnEmptyStore(t *testing.T) {
	s := openMem(t)
	im := openImage(t, s)
	require.Zero(t, im.Index())
	require.Empty(t, imageRows(t, im))
	require.NoError(t, build(t, im, small(vfs.NewMem()), nil))
}

func TestChangesCoverEveryDifferenceBetweenTwoImages(t *testing.T) {
	s := openMem(t)
	s.PinLog("test", 1)
	lively(t, s, 3, 40)
	old := openImage(t, s)
	lively(t, s, 4, 40)
	now := openImage(t, s)

	state := map[string]Row{}
	for _, r := range imageRows(t, old) {
		state[r.Table+"\x00"+string(r.Key)] = r
	}
	last := map[string]Row{}
	require.NoError(t, now.Changes(bg, old.Index(), func(c *Change) error {
		k := c.Table + "\x00" + string(c.Key)
		r, found, err := now.Get(c.Table, c.Key)
		require.NoError(t, err)
		delete(state, k)
		delete(last, k)
		if found {
			state[k] = r
		}
		if !c.Removed {
			last[k] = Row{Table: c.Table, Key: bytes.Clone(c.Key), Value: append([]byte{}, c.Value...), ModIndex: c.Index}
			if c.Deadline != 0 {
				l := last[k]
				l.Deadline = time.UnixMilli(c.Deadline).UTC()
				last[k] = l
			}
		}
		return nil
	}))
	for k, r := range last {
		require.Equal(t, state[k], r, "the last change is the row")
	}
	want := map[string]Row{}
	for _, r := range imageRows(t, now) {
		want[r.Table+"\x00"+string(r.Key)] = r
	}
	require.Equal(t, want, state)
	require.NoError(t, now.Changes(bg, now.Index(), func(*Change) error { t.Fatal("nothing changed"); return nil }))
	ctx, cancel := context.WithCancel(bg)
	cancel()
	require.ErrorIs(t, now.Changes(ctx, 0, func(*Change) error { return nil }), context.Canceled)
	require.ErrorIs(t, now.Rows(ctx, func(*Row) error { return nil }), context.Canceled)
}

func TestChangesSayWhenTheLogIsTooShort(t *testing.T) {
	o := small(vfs.NewMem())
	o.RetainLog = -1
	s := open(t, o)
	for range 4 { // several segments
		_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("k"), make([]byte, 100<<10)) })
		require.NoError(t, err)
		_, err = s.Checkpoint()
		require.NoError(t, err)
	}
	require.Greater(t, s.Log().FirstIndex(), uint64(1))
	err := openImage(t, s).Changes(bg, 0, func(*Change) error { return nil })
	require.ErrorIs(t, err, ErrCompacted)
}

func TestBuiltStoreIsTheStoreItWasBuiltFrom(t *testing.T) {
	for _, key := range [][]byte{nil, []byte("0123456789abcdef0123456789abcdef")} {
		s := openMem(t)
		lively(t, s, 5, 60)
		im := openImage(t, s)
		lively(t, s, 6, 30)
		var tail []wal.Entry
		require.NoError(t, s.Log().Iterate(im.Index()+1, func(e wal.Entry) error {
			e.Data = append([]byte{}, e.Data...)
			tail = append(tail, e)
			return nil
		}))

		o := small(vfs.NewMem())
		o.Key = key
		o.Indexes = []IndexSpec{{Name: "by_value", Table: "stock", Keys: func(_, v []byte) [][]byte { return [][]byte{v} }}}
		require.NoError(t, build(t, im, o, tail))
		c, err := Open("copy", o)
		require.NoError(t, err)
		index, hash := s.StateHash()
		cIndex, cHash := c.StateHash()
		require.Equal(t, index, cIndex)
		require.Equal(t, hash, cHash)
		require.Equal(t, imageRows(t, openImage(t, s)), imageRows(t, openImage(t, c)))
		rep, err := c.Verify(bg)
		require.NoError(t, err)
		require.Empty(t, rep.Findings)
		require.NotEqual(t, s.Log().ID(), c.Log().ID(), "a new history")
		// It lives: writes go on after the last entry, an old idempotency key is still known.
		require.Equal(t, index+1, put(t, c, "stock", "new", "x").Index)
		res, err := c.Update(bg, func(tx *Tx) error { return tx.Put("stock", []byte("again"), nil) }, WithIdempotencyKey("6-0", nil))
		require.NoError(t, err)
		require.True(t, res.Duplicate)
	}
}

func TestBuilderRefusesRowsThatAreNotTheState(t *testing.T) {
	s := openMem(t)
	lively(t, s, 7, 20)
	im := openImage(t, s)
	rows := imageRows(t, im)
	fs := vfs.NewMem()
	b, err := NewBuilder("copy", small(fs), BuilderStart{Index: im.Index(), Term: im.Term()})
	require.NoError(t, err)
	for _, r := range rows[1:] {
		require.NoError(t, b.Add(&r))
	}
	require.ErrorIs(t, b.Finish(im.StateHash()), ErrCorrupt)
	names, err := fs.List("copy")
	require.NoError(t, err)
	require.NotContains(t, names, "FORMAT")
	require.NotContains(t, names, "store")
	require.NoError(t, build(t, im, small(fs), nil), "the directory can be used again")
}

func TestBuilderRefusesBadInput(t *testing.T) {
	row := func(table, key string, mod uint64) *Row { return &Row{Table: table, Key: []byte(key), ModIndex: mod} }
	for name, bad := range map[string][]*Row{
		"order":    {row("b", "k", 1), row("b", "k", 1)},
		"tables":   {row("b", "k", 1), row("a", "z", 1)},
		"name":     {row("B", "k", 1)},
		"future":   {row("b", "k", 11)},
		"sealed":   {{Table: "b", Sealed: true}},
		"deadline": {{Table: "b", Deadline: time.UnixMilli(-5)}},
	} {
		b, err := NewBuilder("copy", small(vfs.NewMem()), BuilderStart{Index: 10, Term: 1})
		require.NoError(t, err)
		for i, r := range bad {
			err = b.Add(r)
			require.True(t, err == nil || i == len(bad)-1, name)
		}
		require.ErrorIs(t, err, ErrInvalid, name)
		require.Error(t, b.Finish([32]byte{}), name)
	}
	b, err := NewBuilder("copy", small(vfs.NewMem()), BuilderStart{Index: 10, Term: 1})
	require.NoError(t, err)
	require.ErrorIs(t, b.AppendLog(wal.Entry{Index: 12, Type: EntryWriteSet}), ErrInvalid)
	require.NoError(t, b.Abort())
	require.Error(t, b.Add(row("b", "k", 1)))

	fs := vfs.NewMem()
	s, err := Open("data", small(fs))
	require.NoError(t, err)
	_, err = NewBuilder("data", small(fs), BuilderStart{})
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, s.Close())
	_, err = NewBuilder("data", small(fs), BuilderStart{})
	require.ErrorIs(t, err, ErrInvalid)
	require.NoError(t, fs.MkdirAll("other/precious", 0o700))
	_, err = NewBuilder("other", small(fs), BuilderStart{})
	require.ErrorIs(t, err, ErrNotStore)
}

// A build that loses power at any moment is either nothing or the whole store.
func TestPowerLossWhileBuilding(t *testing.T) {
	s := openMem(t)
	lively(t, s, 8, 25)
	im := openImage(t, s)
	rows := imageRows(t, im)
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 2))
		fs := vfs.NewCrashableMem()
		b, err := NewBuilder("copy", small(fs), BuilderStart{Index: im.Index(), Term: im.Term()})
		require.NoError(t, err)
		stop := rng.IntN(len(rows) + 2)
		for i, r := range rows {
			if i == stop {
				break
			}
			require.NoError(t, b.Add(&r))
		}
		if stop > len(rows) {
			require.NoError(t, b.Finish(im.StateHash()))
		}
		image := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		require.NoError(t, b.Abort())
		c, err := Open("copy", small(image))
		if stop <= len(rows) {
			require.True(t, err == nil || errors.Is(err, ErrCorrupt), "seed %d: %v", seed, err)
			if err == nil {
				require.Zero(t, c.AppliedIndex(), "seed %d: only the very beginning may be forgotten", seed)
				require.NoError(t, c.Close())
				continue
			}
			again, err := NewBuilder("copy", small(image), BuilderStart{Index: im.Index(), Term: im.Term()})
			require.NoError(t, err, "seed %d", seed)
			require.NoError(t, again.Abort())
			continue
		}
		require.NoError(t, err, "seed %d", seed)
		_, hash := c.StateHash()
		require.Equal(t, im.StateHash(), hash, "seed %d", seed)
		require.NoError(t, c.Close())
	}
}
