package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/stretchr/testify/require"
)

// TestEveryNodeDecidesAlike lets concurrent transactions, some of them hostile, make a log, and applies that log to other
// stores: in other groups, with restarts, without the window's help. State, hash and refusals must be equal.
func TestEveryNodeDecidesAlike(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	o := small(vfs.NewMem())
	o.Indexes = testIndexes()
	s := open(t, o)
	var wg sync.WaitGroup
	for w := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(w)+10))
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 60 {
				randomTx(t, s, r, fmt.Sprintf("w%d-%d", w, i))
			}
		}()
	}
	for i := range 60 { // a late proposer on another node: its write sets skip our sequencer
		staleWriteSet(t, s, rng, i)
	}
	wg.Wait()
	require.NotZero(t, s.Stats().Rejected, "the test should meet refusals")
	wantIndex, wantHash := s.StateHash()
	rep, err := s.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, rep.Findings)

	var entries []wal.Entry
	require.NoError(t, s.Log().Iterate(1, func(e wal.Entry) error {
		e.Data = slices.Clone(e.Data)
		entries = append(entries, e)
		return nil
	}))
	for node := range 4 {
		o := small(vfs.NewMem())
		o.Indexes = testIndexes()
		o.RecentRows = []int{0, -1, 16, 32}[node]
		other := open(t, o)
		other.distrust = node%2 == 0
		for rest := entries; len(rest) > 0; {
			n := min(1+rng.IntN(1+20*node), len(rest))
			outs := other.Apply(rest[:n])
			require.Len(t, outs, n)
			rest = rest[n:]
			if at, ok := s.StateHashAt(outs[n-1].Index); ok {
				index, hash := other.StateHash()
				require.Equal(t, outs[n-1].Index, index)
				require.Equal(t, at, hash, "node %d at %d", node, index)
			}
			if rng.IntN(40) == 0 {
				_, err := other.Checkpoint()
				require.NoError(t, err)
			}
		}
		index, hash := other.StateHash()
		require.Equal(t, wantIndex, index)
		require.Equal(t, wantHash, hash)
		require.Equal(t, s.rejected, other.rejected)
		rep, err := other.Verify(bg)
		require.NoError(t, err)
		require.Empty(t, rep.Findings)
	}
}

func randomTx(t *testing.T, s *Store, r *rand.Rand, name string) {
	key := func() []byte { return []byte(fmt.Sprintf("k%02d", r.IntN(30))) }
	opts := []TxOption{WithActor(name)}
	if r.IntN(3) == 0 {
		opts = append(opts, WithIdempotencyKey(fmt.Sprint("idem", r.IntN(40)), []byte{byte(r.IntN(2))}))
	}
	_, err := s.Update(bg, func(tx *Tx) error {
		for range 1 + r.IntN(4) {
			var err error
			switch r.IntN(6) {
			case 0:
				_, err = tx.Get("t", key())
			case 1:
				err = tx.Scan("t", Range{Lo: key(), Limit: r.IntN(4), Reverse: r.IntN(2) == 0}, func(_, _ []byte) bool { return r.IntN(5) > 0 })
			case 2:
				err = tx.ScanIndex("by_word", Range{Lo: []byte{byte('a' + r.IntN(4))}, Limit: r.IntN(3)}, func(_, _, _ []byte) bool { return true })
			case 3:
				err = tx.Delete("t", key())
			case 4:
				err = tx.PutUntil("t", key(), []byte("d"), time.UnixMilli(1+r.Int64N(1<<40)))
			default:
				err = tx.Put("t", key(), []byte(fmt.Sprintf("%c %c %s", 'a'+r.IntN(5), 'a'+r.IntN(5), name)))
			}
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		return nil
	}, opts...)
	if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrIdempotencyMismatch) {
		t.Error(err)
	}
}

// staleWriteSet commits reads of an old version, as a slow follower would.
func staleWriteSet(t *testing.T, s *Store, r *rand.Rand, i int) {
	tx := &Tx{s: s, cfg: &txConfig{}, now: s.now(), writable: true}
	defer tx.close()
	_, _ = tx.Get("t", []byte(fmt.Sprintf("k%02d", r.IntN(30))))
	if r.IntN(2) == 0 {
		require.NoError(t, tx.Scan("t", Range{Limit: 3}, func(_, _ []byte) bool { return true }))
		require.NoError(t, tx.ScanIndex("by_len", Range{Limit: 3}, func(_, _, _ []byte) bool { return true }))
	}
	require.NoError(t, tx.Put("t", []byte(fmt.Sprintf("k%02d", r.IntN(30))), []byte("stale")))
	ws := tx.writeSet()
	if r.IntN(2) == 0 {
		randomTx(t, s, r, fmt.Sprint("between", i))
	}
	done := make(chan error, 1)
	err := s.com.Commit(bg, ws.Encode(nil), Sync, func(_ uint64, _ ApplyOutcome, err error) { done <- err })
	require.NoError(t, err)
	require.NoError(t, <-done)
}

// TestSequentialHistoryEqualsAMap compares scans, gets and indexes with a model after every transaction.
func TestSequentialHistoryEqualsAMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	fs := vfs.NewCrashableMem()
	o := small(fs)
	o.Indexes = testIndexes()
	s := open(t, o)
	model := map[string]string{}
	for i := range 300 {
		_, err := s.Update(bg, func(tx *Tx) error {
			for range 1 + r.IntN(3) {
				k := fmt.Sprintf("k%02d", r.IntN(25))
				if r.IntN(3) == 0 {
					delete(model, k)
					require.NoError(t, tx.Delete("t", []byte(k)))
					continue
				}
				model[k] = fmt.Sprintf("%c %d", 'a'+r.IntN(3), i)
				require.NoError(t, tx.Put("t", []byte(k), []byte(model[k])))
			}
			checkModel(t, tx, r, model)
			return nil
		})
		require.NoError(t, err)
		if r.IntN(30) == 0 {
			_, err := s.Checkpoint()
			require.NoError(t, err)
		}
		if r.IntN(50) == 0 {
			fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
			require.NoError(t, s.Close())
			o.FS = fs
			s = open(t, o)
		}
		require.NoError(t, s.View(bg, func(tx *Tx) error { checkModel(t, tx, r, model); return nil }))
	}
}

func checkModel(t *testing.T, tx *Tx, r *rand.Rand, model map[string]string) {
	t.Helper()
	lo, hi := fmt.Sprintf("k%02d", r.IntN(25)), fmt.Sprintf("k%02d", r.IntN(25))
	rg := Range{Lo: []byte(lo), Hi: []byte(hi), Reverse: r.IntN(2) == 0, Limit: r.IntN(6)}
	var want, got, wantIx, gotIx []string
	for k, v := range model {
		if k >= lo && k < hi {
			want = append(want, k+"="+v)
		}
		if v[:1] >= "b" {
			wantIx = append(wantIx, v[:1]+"/"+k+"="+v)
		}
	}
	sort.Strings(want)
	sort.Strings(wantIx)
	if rg.Reverse {
		slices.Reverse(want)
	}
	if rg.Limit > 0 && len(want) > rg.Limit {
		want = want[:rg.Limit]
	}
	require.NoError(t, tx.Scan("t", rg, func(k, v []byte) bool { got = append(got, string(k)+"="+string(v)); return true }))
	require.Equal(t, want, got)
	require.NoError(t, tx.ScanIndex("by_word", Range{Lo: []byte("b")}, func(ik, k, v []byte) bool {
		gotIx = append(gotIx, fmt.Sprintf("%s/%s=%s", ik, k, v))
		return true
	}))
	require.Equal(t, wantIx, gotIx)
}

func TestTransactionOlderThanTheWindowIsCheckedAgainstTheRows(t *testing.T) {
	s := openMem(t)
	put(t, s, "t", "a", "1")
	overrun := func(tx *Tx) {
		_, err := tx.Get("t", []byte("a"))
		require.NoError(t, err)
		require.NoError(t, tx.Scan("t", Prefix([]byte("a")), func(_, _ []byte) bool { return true }))
		for i := 0; i < windowSize+100; i += 100 {
			_, err := s.Update(bg, func(tx *Tx) error {
				for j := range 100 {
					if err := tx.Put("t", []byte(fmt.Sprintf("x%d", i+j)), nil); err != nil {
						return err
					}
				}
				return nil
			})
			require.NoError(t, err)
		}
	}
	_, err := s.Update(bg, func(tx *Tx) error {
		overrun(tx)
		return tx.Put("t", []byte("b"), nil)
	}, WithMaxTries(1))
	require.NoError(t, err)
	_, err = s.Update(bg, func(tx *Tx) error {
		overrun(tx)
		_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("aa"), nil) })
		require.NoError(t, err)
		return tx.Put("t", []byte("b"), nil)
	}, WithMaxTries(1))
	require.ErrorIs(t, err, ErrConflict)
	_, err = s.Update(bg, func(tx *Tx) error {
		_, err := s.Update(bg, func(tx *Tx) error { return tx.Put("t", []byte("aaa"), nil) })
		require.NoError(t, err)
		_, err = tx.Get("t", []byte("aaa"))
		return err // a version is taken by the first read, not at the start
	})
	require.NoError(t, err)
	require.Zero(t, s.Stats().Rejected)
}

func TestEveryReadOfATransactionSeesTheSameVersion(t *testing.T) {
	s := openIndexed(t)
	ctx, cancel := context.WithCancel(bg)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; ctx.Err() == nil; i++ {
			_, err := s.Update(bg, func(tx *Tx) error {
				v := []byte(fmt.Sprint("n", i))
				return errors.Join(tx.Put("t", []byte("a"), v), tx.Put("u", []byte("b"), v))
			})
			if err != nil {
				t.Error(err)
			}
		}
	}()
	require.NoError(t, s.waitApplied(bg, 1))
	for range 300 {
		require.NoError(t, s.View(bg, func(tx *Tx) error {
			a, err := tx.Get("t", []byte("a"))
			require.NoError(t, err)
			b, err := tx.Get("u", []byte("b"))
			require.NoError(t, err)
			require.Equal(t, a, b)
			require.NoError(t, tx.ScanIndex("by_word", Range{}, func(ik, _, v []byte) bool {
				require.Equal(t, a, ik)
				require.Equal(t, a, v)
				return true
			}))
			return nil
		}))
	}
	cancel()
	wg.Wait()
}
