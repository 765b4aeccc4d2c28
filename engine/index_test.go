package engine

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// testIndexes index table t by the words of the value, and by its length.
func testIndexes() []IndexSpec {
	return []IndexSpec{
		{Name: "by_word", Table: "t", Keys: func(_, v []byte) [][]byte { return bytes.Fields(v) }},
		{Name: "by_len", Table: "t", Keys: func(_, v []byte) [][]byte { return [][]byte{{byte(len(v))}} }},
	}
}

func openIndexed(t *testing.T) *Store {
	o := small(vfs.NewMem())
	o.Indexes = testIndexes()
	return open(t, o)
}

func indexRows(t *testing.T, tx *Tx, index string, r Range) (got []string) {
	t.Helper()
	require.NoError(t, tx.ScanIndex(index, r, func(ik, k, v []byte) bool {
		got = append(got, fmt.Sprintf("%s/%s=%s", ik, k, v))
		return true
	}))
	return got
}

func TestIndexScanIsOrderedAndSeesOwnWrites(t *testing.T) {
	s := openIndexed(t)
	put(t, s, "t", "1", "red green")
	put(t, s, "t", "2", "green")
	put(t, s, "t", "3", "blue")
	_, err := s.Update(bg, func(tx *Tx) error {
		require.Equal(t, []string{"blue/3=blue", "green/1=red green", "green/2=green", "red/1=red green"},
			indexRows(t, tx, "by_word", Range{}))
		require.NoError(t, tx.Put("t", []byte("2"), []byte("red red")))
		require.NoError(t, tx.Delete("t", []byte("3")))
		require.NoError(t, tx.Put("t", []byte("0"), []byte("blue")))
		want := []string{"blue/0=blue", "green/1=red green", "red/1=red green", "red/2=red red"}
		require.Equal(t, want, indexRows(t, tx, "by_word", Range{}))
		require.Equal(t, []string{want[3], want[2]}, indexRows(t, tx, "by_word", Range{Reverse: true, Limit: 2}))
		require.Equal(t, want[1:2], indexRows(t, tx, "by_word", Prefix([]byte("gre"))))
		require.Equal(t, want[:2], indexRows(t, tx, "by_word", Range{Hi: []byte("red")}))
		require.Equal(t, want[2:], indexRows(t, tx, "by_word", Range{Lo: []byte("red")}))
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, s.View(bg, func(tx *Tx) error {
		require.Equal(t, []string{"red/2=red red", "red/1=red green"},
			indexRows(t, tx, "by_word", Range{Lo: []byte("red"), Hi: []byte("ree"), Reverse: true}))
		return nil
	}))
}

func TestIndexScanIsProtectedAgainstPhantoms(t *testing.T) {
	first := func(index string, r Range) func(tx *Tx) error {
		return func(tx *Tx) error {
			return tx.ScanIndex(index, r, func(_, _, _ []byte) bool { return false })
		}
	}
	write := func(k, v string) func(tx *Tx) error {
		return func(tx *Tx) error { return tx.Put("t", []byte(k), []byte(v)) }
	}
	for _, c := range []struct {
		name        string
		read, other func(tx *Tx) error
		conflict    bool
	}{
		{"new entry first", first("by_word", Prefix([]byte("g"))), write("0", "ga"), true},
		{"new entry behind the stop", first("by_word", Prefix([]byte("g"))), write("0", "gz"), false},
		{"same index key, greater key", first("by_word", Prefix([]byte("g"))), write("9", "green"), false},
		{"same index key, smaller key", first("by_word", Prefix([]byte("g"))), write("0", "green"), true},
		{"row leaves the range", first("by_word", Prefix([]byte("g"))), write("1", "red"), true},
		{"seen row changes elsewhere", first("by_word", Prefix([]byte("g"))), write("1", "green yellow"), true},
		{"unseen row changes", first("by_word", Prefix([]byte("g"))), write("3", "black"), false},
		{"empty range filled", first("by_word", Prefix([]byte("x"))), write("3", "xy"), true},
		{"reverse last", first("by_word", Range{Reverse: true}), write("0", "zebra"), true},
		{"reverse before the stop", first("by_word", Range{Reverse: true}), write("0", "aaa"), false},
	} {
		for _, distrust := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", c.name, distrust), func(t *testing.T) {
				s := openIndexed(t)
				s.distrust = distrust
				put(t, s, "t", "1", "green")
				put(t, s, "t", "2", "green")
				put(t, s, "t", "3", "blue")
				_, err := s.Update(bg, func(tx *Tx) error {
					if err := c.read(tx); err != nil {
						return err
					}
					_, err := s.Update(bg, c.other)
					require.NoError(t, err)
					return tx.Put("other", []byte("result"), []byte("x"))
				}, WithMaxTries(1))
				if c.conflict {
					require.ErrorIs(t, err, ErrConflict)
				} else {
					require.NoError(t, err)
				}
			})
		}
	}
}
