package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/wal"
)

// randomLog makes entries behind an index that read, scan, remove, repeat idempotency keys, contradict the rows and do not decode: more often than
// any program would, and whether they count is for the store to decide.
func randomLog(rng *rand.Rand, rows []Row, after uint64, n int) (out []wal.Entry) {
	key := func() []byte { return fmt.Appendf(nil, "k%03d", rng.IntN(220)) }
	table := func() string { return []string{"stock", "task"}[rng.IntN(2)] }
	for i := range n {
		index := after + 1 + uint64(i)
		ws := WriteSet{Time: 5, Snapshot: index - 1 - uint64(rng.IntN(3))}
		if rng.IntN(4) == 0 {
			ws.Snapshot = uint64(rng.IntN(int(index)))
		}
		if rng.IntN(3) == 0 {
			ws.IdempotencyKey, ws.IdempotencyDeadline, ws.RequestHash = fmt.Sprint("key ", rng.IntN(2*n)), 4e12, []byte{byte(rng.IntN(8) / 7)}
		}
		if rng.IntN(40) == 0 && len(rows) > 0 { // one that the base may know
			if r := rows[rng.IntN(len(rows))]; r.Table == idemTable {
				ws.IdempotencyKey, ws.IdempotencyDeadline = string(r.Key), 4e12
			}
		}
		if rng.IntN(3) == 0 {
			r := Read{Table: table(), Key: key()}
			for _, have := range rows { // what the base has is often still true
				if have.Table == r.Table && string(have.Key) == string(r.Key) {
					r.ModIndex = have.ModIndex
				}
			}
			if rng.IntN(30) == 0 {
				r.ModIndex = index - 1
			}
			ws.Reads = []Read{r}
		}
		switch rng.IntN(60) {
		case 0:
			ws.ScanReads = []ScanRead{{Table: table(), Lo: nil, LoKey: key(), Open: true}}
		case 1:
			ws.ScanReads = []ScanRead{{Index: []string{"by_value", "unknown"}[rng.IntN(2)], Open: true}}
		}
		ops := map[string]Op{}
		for range 1 + rng.IntN(4) {
			op := Op{Table: table(), Key: key()}
			switch rng.IntN(5) {
			case 0:
				op.Delete = true
			case 1:
				op.Value, op.Deadline = []byte("soon"), 4e12+rng.Int64N(1e6)
			default:
				op.Value = fmt.Appendf(nil, "value %d", rng.Uint64())
			}
			ops[op.Table+"\x00"+string(op.Key)] = op
		}
		for _, op := range ops {
			ws.Ops = append(ws.Ops, op)
		}
		slices.SortFunc(ws.Ops, func(a, b Op) int {
			if before(a.Table, a.Key, b.Table, b.Key) {
				return -1
			}
			return 1
		})
		e := wal.Entry{Index: index, Term: 1, Type: EntryWriteSet, Data: ws.Encode(nil)}
		switch rng.IntN(50) {
		case 0:
			e.Data = e.Data[:len(e.Data)/2]
		case 1:
			e.Type, e.Data = 0x40, []byte("of somebody else")
		}
		out = append(out, e)
	}
	return out
}

// builtState is all that a built store is.
type builtState struct {
	index    uint64
	hash     [32]byte
	rows     []Row
	rejected map[uint64]byte
	log      [][]byte
}

// builtStateOf opens what was built. distrust: what is replayed looks at the rows even where a window proves the answer, because the log is made
// of transactions that never ran.
func builtStateOf(t *testing.T, o Options, distrust bool) builtState {
	t.Helper()
	o, err := o.withDefaults()
	require.NoError(t, err)
	s := newStore("copy", o)
	s.distrust = distrust
	require.NoError(t, s.open())
	defer s.Close()
	rep, err := s.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, rep.Findings)
	b := builtState{rejected: s.rejected}
	b.index, b.hash = s.StateHash()
	im, err := s.OpenImage()
	require.NoError(t, err)
	defer im.Close()
	b.rows = imageRows(t, im)
	require.NoError(t, s.Log().Iterate(s.Log().FirstIndex(), func(e wal.Entry) error {
		b.log = append(b.log, append([]byte{byte(e.Type)}, e.Data...))
		return nil
	}))
	return b
}

// However the log gets into a store, the result is the same: rows, hash, refusals, deadlines, log.
func TestFoldedLogGivesTheStateOfReplayedLog(t *testing.T) {
	var whole, part, void, spilled int
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 7))
		s := openMem(t)
		lively(t, s, seed, rng.IntN(80))
		im := openImage(t, s)
		rows := imageRows(t, im)
		log := randomLog(rng, rows, im.Index(), rng.IntN(150))
		options := func() Options {
			o := small(vfs.NewMem())
			if seed%2 == 1 {
				o.Key = []byte("0123456789abcdef0123456789abcdef")
			}
			o.Indexes = []IndexSpec{{Name: "by_value", Table: "stock", Keys: func(_, v []byte) [][]byte { return [][]byte{v} }}}
			return o
		}
		replayed := options()
		require.NoError(t, build(t, im, replayed, log))
		want := builtStateOf(t, replayed, true)

		folded := options()
		b, err := NewBuilder("copy", folded, BuilderStart{Index: im.Index(), Term: im.Term()})
		require.NoError(t, err)
		b.s.distrust = true
		b.foldMemory = 2000 + rng.IntN(30_000)
		for rest := log; len(rest) > 0; {
			n := 1 + rng.IntN(len(rest))
			require.NoError(t, b.FoldLog(rest[:n]...), "seed %d", seed)
			rest = rest[n:]
		}
		for i := 0; err == nil && i < len(rows); i++ {
			err = b.Add(&rows[i])
		}
		if err == nil {
			_, err = b.EndRows()
		}
		if err != nil {
			require.ErrorIs(t, err, ErrFold, "seed %d", seed)
			require.NoError(t, b.Abort())
			void++
			continue
		}
		if f := b.fold; f != nil {
			if f.index == im.Index()+uint64(len(log)) {
				whole++
			} else {
				part++
			}
		}
		names, err := folded.FS.List("copy/store")
		require.NoError(t, err)
		require.NotContains(t, names, "fold-001.build", "what was spilled is removed")
		require.NoError(t, b.Finish(im.StateHash()), "seed %d", seed)
		if b.foldMemory < 8000 && len(log) > 100 {
			spilled++
		}
		got := builtStateOf(t, folded, true)
		require.Equal(t, want.rejected, got.rejected, "seed %d", seed)
		require.Equal(t, want.index, got.index, "seed %d", seed)
		require.Equal(t, want.hash, got.hash, "seed %d", seed)
		require.Equal(t, want, got, "seed %d", seed)
	}
	t.Logf("%d folded, %d in part, %d void; %d had runs", whole, part, void, spilled)
	for _, n := range []int{whole, part, void, spilled} {
		require.Positive(t, n, "every way is walked")
	}
}

// A real history, whose transactions were all accepted, is folded to its end.
func TestLogOfARealStoreIsFoldedWhole(t *testing.T) {
	s := openMem(t)
	s.PinLog("test", 1)
	lively(t, s, 5, 60)
	im := openImage(t, s)
	for n := range 60 {
		_, err := s.Update(bg, func(tx *Tx) error {
			if err := tx.Scan("task", Range{}, func(k, v []byte) bool { return true }); err != nil {
				return err
			}
			v, err := tx.Get("stock", []byte("count"))
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			return tx.Put("stock", []byte("count"), append(v, byte(n)))
		}, WithIdempotencyKey(fmt.Sprint("real ", n), nil))
		require.NoError(t, err)
	}
	var log []wal.Entry
	require.NoError(t, s.Log().Iterate(im.Index()+1, func(e wal.Entry) error {
		e.Data = slices.Clone(e.Data)
		log = append(log, e)
		return nil
	}))
	o := small(vfs.NewMem())
	b, err := NewBuilder("copy", o, BuilderStart{Index: im.Index(), Term: im.Term()})
	require.NoError(t, err)
	require.NoError(t, b.FoldLog(log...))
	require.Equal(t, log[len(log)-1].Index, b.fold.index)
	for _, r := range imageRows(t, im) {
		require.NoError(t, b.Add(&r))
	}
	require.ErrorIs(t, b.FoldLog(log...), ErrTxDone, "not after rows")
	require.NoError(t, b.Finish(im.StateHash()))
	got := builtStateOf(t, o, false)
	index, hash := s.StateHash()
	require.Equal(t, index, got.index)
	require.Equal(t, hash, got.hash)
}
