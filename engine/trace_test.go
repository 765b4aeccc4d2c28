package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func TestTracesKnowWhatWasWrittenLastAndNothingElse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	tr := newTraces(4096)
	want := map[string]trace{}
	for i := range uint64(50_000) {
		key := fmt.Appendf(nil, "dtable\x00%05d", rng.IntN(8000))
		row := trace{present: rng.IntN(5) > 0, mod: i + 1, deadline: rng.Int64N(3), hash: [32]byte{byte(i), byte(i >> 8)}}
		tr.put(key, row)
		want[string(key)] = row
		got, ok := tr.get(key)
		require.True(t, ok)
		require.Equal(t, row, got)
	}
	known := 0
	for key, row := range want {
		if got, ok := tr.get([]byte(key)); ok {
			known++
			require.Equal(t, row, got, key)
		} else {
			require.LessOrEqual(t, row.mod, tr.forgotten)
		}
	}
	require.Len(t, tr.slots, 4096, "it does not grow beyond its limit")
	require.Len(t, tr.at, 4096)
	require.Equal(t, 4096, known)
	require.Less(t, tr.forgotten, uint64(50_000-2000), "what was written last is not forgotten")

	for _, key := range [][]byte{make([]byte, traceKeyBytes+1), make([]byte, 1024)} {
		tr.put(key, trace{mod: 1})
		_, ok := tr.get(key)
		require.False(t, ok, "long keys are not remembered")
	}
	none := newTraces(-1)
	none.put([]byte("dt\x00a"), trace{mod: 1})
	_, ok := none.get([]byte("dt\x00a"))
	require.False(t, ok)
}

// Rows that are written again and again stay, while others come and go.
func TestTracesKeepWhatIsWrittenAgain(t *testing.T) {
	tr := newTraces(1000)
	mod := uint64(0)
	put := func(format string, i int) {
		mod++
		tr.put(fmt.Appendf(nil, format, i), trace{mod: mod})
	}
	for i := range 20_000 {
		put("dt\x00hot%d", i%500)
		put("dt\x00new%d", i)
		require.Less(t, tr.forgotten, max(mod, 500)-499)
	}
	for i := range 500 {
		_, ok := tr.get(fmt.Appendf(nil, "dt\x00hot%d", i))
		require.True(t, ok, i)
	}
}

// Rows that are written again are not read, unless they have index entries; then what is stored is compared with what was written.
func TestOverwritingReadsOnlyRowsWithIndexes(t *testing.T) {
	for _, c := range []struct {
		table string
		reads bool
	}{{"plain", false}, {"t", true}} {
		t.Run(c.table, func(t *testing.T) {
			o := small(vfs.NewMem())
			o.Indexes = testIndexes()
			s := open(t, o)
			write := func(value string) error {
				_, err := s.Update(bg, func(tx *Tx) error { return tx.Put(c.table, []byte("key"), []byte(value)) })
				return err
			}
			require.NoError(t, write("a one"))
			_, hash := s.StateHash()
			key := appendRowKey(nil, c.table, []byte("key"))
			require.NoError(t, s.db.Set(key, appendRowHeader(nil, 99, 0), pebble.NoSync), "damage that Pebble does not see")
			err := write("b two")
			if c.reads {
				require.ErrorIs(t, err, ErrFailed)
				require.ErrorIs(t, s.Err(), ErrCorrupt)
				return
			}
			require.NoError(t, err)
			_, now := s.StateHash()
			require.NotEqual(t, hash, now)
			rep, err := s.Verify(bg)
			require.NoError(t, err)
			require.Empty(t, rep.Findings, "the state hash is that of the rows")
		})
	}
}

// A row that is not remembered is looked for in the files alone once everything that was forgotten is flushed, and in memory too before that.
func TestForgottenRowsAreFound(t *testing.T) {
	o := small(vfs.NewMem())
	o.RecentRows = 16
	s := open(t, o)
	for round := range 4 {
		for i := range 100 {
			put(t, s, "t", fmt.Sprint(i), fmt.Sprintf("%d in %d", i, round))
			if i == 50*(round%2) {
				_, err := s.Checkpoint()
				require.NoError(t, err)
			}
		}
	}
	for i := range 100 {
		put(t, s, "new", fmt.Sprint(i), "a row that was never there")
	}
	require.NotZero(t, s.ap.traces.forgotten)
	rep, err := s.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, rep.Findings, "every old version was taken out of the state hash once")

	_, err = s.Checkpoint()
	require.NoError(t, err)
	s.ap.mu.Lock()
	defer s.ap.mu.Unlock()
	it, err := s.rowIter(false)
	require.NoError(t, err)
	require.Same(t, s.ap.files, it)
	s.ap.traces.forgotten = s.ap.index + 1
	it, err = s.rowIter(false)
	require.NoError(t, err)
	require.Same(t, s.ap.iter, it)
	require.NoError(t, s.ap.closeIters())
}
