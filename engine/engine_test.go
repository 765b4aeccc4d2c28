package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

var bg = context.Background()

// clock is a fake clock.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// small are options for tests: little memory, nothing in the background that depends on time.
func small(fs vfs.FS) Options {
	return Options{
		FS: fs, SegmentSize: 256 << 10, MemTableSize: 256 << 10, CacheSize: 1 << 20,
		FlushInterval: -1, SweepInterval: -1,
	}
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open("data", o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openMem(t testing.TB) *Store { return open(t, small(vfs.NewMem())) }

func put(t testing.TB, s *Store, table, key, value string) Result {
	t.Helper()
	res, err := s.Update(bg, func(tx *Tx) error { return tx.Put(table, []byte(key), []byte(value)) })
	require.NoError(t, err)
	return res
}

func get(t testing.TB, s *Store, table, key string) string {
	t.Helper()
	var v []byte
	err := s.View(bg, func(tx *Tx) (err error) {
		v, err = tx.Get(table, []byte(key))
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return ""
	}
	require.NoError(t, err)
	return string(v)
}

func scanKeys(t testing.TB, s *Store, table string, r Range) (keys []string) {
	t.Helper()
	require.NoError(t, s.View(bg, func(tx *Tx) error {
		return tx.Scan(table, r, func(k, _ []byte) bool {
			keys = append(keys, string(k))
			return true
		})
	}))
	return keys
}

func TestAcknowledgedWritesAreReadAndSurviveRestart(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			s := open(t, small(fs))
			for i := range 100 {
				res := put(t, s, "orders", fmt.Sprintf("k%03d", i), fmt.Sprintf("v%d", i))
				require.Equal(t, uint64(i+1), res.Index)
				require.Equal(t, fmt.Sprintf("v%d", i), get(t, s, "orders", fmt.Sprintf("k%03d", i)))
			}
			_, err := s.Update(bg, func(tx *Tx) error { return tx.Delete("orders", []byte("k050")) })
			require.NoError(t, err)
			index, hash := s.StateHash()
			if clean {
				require.NoError(t, s.Close())
			} else {
				fs = fs.CrashClone(vfs.CrashCloneCfg{})
			}
			s = open(t, small(fs))
			if clean {
				require.Zero(t, s.Stats().ReplayedEntries)
			} else {
				require.Equal(t, uint64(101), s.Stats().ReplayedEntries)
			}
			gotIndex, gotHash := s.StateHash()
			require.Equal(t, index, gotIndex)
			require.Equal(t, hash, gotHash)
			require.Equal(t, "v49", get(t, s, "orders", "k049"))
			require.Empty(t, get(t, s, "orders", "k050"))
			require.Len(t, scanKeys(t, s, "orders", Range{}), 99)
			require.Equal(t, uint64(102), put(t, s, "orders", "after", "x").Index)
		})
	}
}

func TestTransactionSeesItsOwnWritesAndNobodyElseDoesBeforeCommit(t *testing.T) {
	s := openMem(t)
	put(t, s, "t", "b", "old")
	put(t, s, "t", "d", "old")
	_, err := s.Update(bg, func(tx *Tx) error {
		require.NoError(t, tx.Put("t", []byte("a"), []byte("new")))
		require.NoError(t, tx.Put("t", []byte("c"), []byte("new")))
		require.NoError(t, tx.Put("t", []byte("d"), []byte("newer")))
		require.NoError(t, tx.Delete("t", []byte("b")))
		_, err := tx.Get("t", []byte("b"))
		require.ErrorIs(t, err, ErrNotFound)
		collect := func(r Range) (got []string) {
			require.NoError(t, tx.Scan("t", r, func(k, v []byte) bool {
				got = append(got, string(k)+"="+string(v))
				return true
			}))
			return got
		}
		require.Equal(t, []string{"a=new", "c=new", "d=newer"}, collect(Range{}))
		require.Equal(t, []string{"d=newer", "c=new", "a=new"}, collect(Range{Reverse: true}))
		require.Equal(t, []string{"d=newer", "c=new"}, collect(Range{Reverse: true, Limit: 2}))
		require.Equal(t, []string{"c=new"}, collect(Range{Lo: []byte("b"), Hi: []byte("d")}))
		require.Equal(t, []string{"c=new"}, collect(Prefix([]byte("c"))))
		require.Empty(t, collect(Range{Lo: []byte("x"), Hi: []byte("b")}))
		require.Equal(t, "old", get(t, s, "t", "b"))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "c", "d"}, scanKeys(t, s, "t", Range{}))
}

func TestScanDoesNotSeeWritesMadeByItsCallback(t *testing.T) {
	s := openMem(t)
	put(t, s, "t", "a", "1")
	put(t, s, "t", "c", "1")
	_, err := s.Update(bg, func(tx *Tx) error {
		var seen []string
		err := tx.Scan("t", Range{}, func(k, v []byte) bool {
			seen = append(seen, string(k)+string(v))
			require.NoError(t, tx.Put("t", []byte("b"), []byte("2")))
			require.NoError(t, tx.Put("t", []byte("c"), []byte("2")))
			return true
		})
		require.Equal(t, []string{"a1", "c1"}, seen)
		return err
	})
	require.NoError(t, err)
	require.Equal(t, "2", get(t, s, "t", "c"))
}

func TestErrorFromTheFunctionAbandonsTheTransaction(t *testing.T) {
	s := openMem(t)
	boom := errors.New("boom")
	_, err := s.Update(bg, func(tx *Tx) error {
		require.NoError(t, tx.Put("t", []byte("a"), []byte("1")))
		return boom
	})
	require.ErrorIs(t, err, boom)
	require.Panics(t, func() {
		_, _ = s.Update(bg, func(tx *Tx) error {
			_, _ = tx.Get("t", []byte("a"))
			panic("domain bug")
		})
	})
	require.Empty(t, get(t, s, "t", "a"))
	require.Zero(t, s.AppliedIndex())
	require.Zero(t, s.Stats().Versions)
	require.NoError(t, s.Close())
}

func TestBadArgumentsAreRefused(t *testing.T) {
	s := openMem(t)
	long := make([]byte, defaultMaxKey+1)
	var stale *Tx
	_, err := s.Update(bg, func(tx *Tx) error {
		stale = tx
		require.ErrorIs(t, tx.Put("Upper", []byte("k"), nil), ErrInvalid)
		require.ErrorIs(t, tx.Put("", []byte("k"), nil), ErrInvalid)
		require.ErrorIs(t, tx.Put("_idem", []byte("k"), nil), ErrInvalid)
		require.ErrorIs(t, tx.Put("t", nil, nil), ErrInvalid)
		require.ErrorIs(t, tx.Put("t", long, nil), ErrTooLarge)
		require.ErrorIs(t, tx.Put("t", []byte("k"), make([]byte, 1<<20)), ErrTooLarge)
		require.ErrorIs(t, tx.PutUntil("t", []byte("k"), nil, time.Unix(-5, 0)), ErrInvalid)
		require.ErrorIs(t, tx.Scan("t", Range{Limit: -1}, nil), ErrInvalid)
		require.ErrorIs(t, tx.ScanIndex("nope", Range{}, nil), ErrInvalid)
		_, err := tx.Get("t", long)
		require.ErrorIs(t, err, ErrTooLarge)
		return nil
	})
	require.ErrorIs(t, err, ErrTooLarge) // the oversized put is still in the transaction
	_, err = stale.Get("t", []byte("k"))
	require.ErrorIs(t, err, ErrTxDone)
	require.ErrorIs(t, s.View(bg, func(tx *Tx) error { return tx.Put("t", []byte("k"), nil) }), ErrReadOnly)
	for _, o := range []TxOption{WithActor(string(make([]byte, 2000))), WithIdempotencyKey(string(long), nil)} {
		_, err = s.Update(bg, func(*Tx) error { return nil }, o)
		require.ErrorIs(t, err, ErrTooLarge)
	}
	for _, o := range []Options{
		{Key: []byte("short")}, {MaxUnflushed: 5}, {Indexes: []IndexSpec{{Name: "x"}}}, {MemTableSize: 1},
	} {
		_, err := Open("bad", o)
		require.ErrorIs(t, err, ErrInvalid)
	}
}

func TestLostUpdateIsImpossible(t *testing.T) {
	s := openMem(t)
	const workers, rounds = 16, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range rounds {
				_, err := s.Update(bg, func(tx *Tx) error {
					n := byte(0)
					v, err := tx.Get("t", []byte("counter"))
					hi := byte(0)
					if err == nil {
						n, hi = v[0], v[1]
					}
					if n++; n == 0 {
						hi++
					}
					return tx.Put("t", []byte("counter"), []byte{n, hi})
				}, WithMaxTries(10_000))
				if err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	v := get(t, s, "t", "counter")
	require.Equal(t, workers*rounds, int(v[0])+int(v[1])*256)
	require.Zero(t, s.Stats().Rejected, "the sequencer lets nothing stale into the log")
}

// conflictWith runs a transaction and, after its reads, another one; it returns the first one's error.
func conflictWith(t *testing.T, s *Store, read, other func(tx *Tx) error) error {
	t.Helper()
	_, err := s.Update(bg, func(tx *Tx) error {
		if err := read(tx); err != nil {
			return err
		}
		_, err := s.Update(bg, other)
		require.NoError(t, err)
		return tx.Put("t", []byte("result"), []byte("x"))
	}, WithMaxTries(1))
	return err
}

func TestWhatWasReadMustNotChangeBeforeTheCommit(t *testing.T) {
	kv := func(tx *Tx, k string) error { return tx.Put("t", []byte(k), []byte("new")) }
	scan := func(r Range, stop int) func(tx *Tx) error {
		return func(tx *Tx) error {
			n := 0
			return tx.Scan("t", r, func(_, _ []byte) bool { n++; return n != stop })
		}
	}
	read := func(k string) func(tx *Tx) error {
		return func(tx *Tx) error {
			_, err := tx.Get("t", []byte(k))
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		}
	}
	write := func(k string) func(tx *Tx) error { return func(tx *Tx) error { return kv(tx, k) } }
	del := func(k string) func(tx *Tx) error {
		return func(tx *Tx) error { return tx.Delete("t", []byte(k)) }
	}
	for _, c := range []struct {
		name        string
		read, other func(tx *Tx) error
		conflict    bool
	}{
		{"key changed", read("b"), write("b"), true},
		{"key deleted", read("b"), del("b"), true},
		{"absent key created", read("x"), write("x"), true},
		{"other key", read("b"), write("c"), false},
		{"phantom in range", scan(Range{}, 0), write("bb"), true},
		{"row changed in range", scan(Range{}, 0), write("c"), true},
		{"row deleted in range", scan(Range{}, 0), del("c"), true},
		{"outside of the range", scan(Range{Lo: []byte("b"), Hi: []byte("c")}, 0), write("c"), false},
		{"at the lower bound", scan(Range{Lo: []byte("b"), Hi: []byte("c")}, 0), write("b"), true},
		{"behind where the scan stopped", scan(Range{}, 2), write("c"), false},
		{"before where the scan stopped", scan(Range{}, 2), write("ab"), true},
		{"behind the limit", scan(Range{Limit: 2}, 0), write("bb"), false},
		{"before the limit", scan(Range{Limit: 2}, 0), write("aa"), true},
		{"reverse, not reached", scan(Range{Limit: 1, Reverse: true}, 0), write("bb"), false},
		{"reverse, new last", scan(Range{Limit: 1, Reverse: true}, 0), write("zz"), true},
		{"empty range filled", scan(Range{Lo: []byte("m"), Hi: []byte("n")}, 0), write("mm"), true},
	} {
		for _, distrust := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", c.name, distrust), func(t *testing.T) {
				s := openMem(t)
				s.distrust = distrust
				for _, k := range []string{"a", "b", "c"} {
					put(t, s, "t", k, "old")
				}
				err := conflictWith(t, s, c.read, c.other)
				if c.conflict {
					require.ErrorIs(t, err, ErrConflict)
					require.Empty(t, get(t, s, "t", "result"))
				} else {
					require.NoError(t, err)
				}
			})
		}
	}
}

func TestWriteSkewIsImpossible(t *testing.T) {
	s := openMem(t)
	put(t, s, "t", "alice", "on")
	put(t, s, "t", "bob", "on")
	off := func(who, other string) func(tx *Tx) error {
		return func(tx *Tx) error {
			v, err := tx.Get("t", []byte(other))
			if err != nil || string(v) == "off" {
				return err
			}
			return tx.Put("t", []byte(who), []byte("off"))
		}
	}
	tries := 0
	_, err := s.Update(bg, func(tx *Tx) error {
		if err := off("alice", "bob")(tx); err != nil {
			return err
		}
		if tries++; tries == 1 {
			_, err := s.Update(bg, off("bob", "alice"))
			require.NoError(t, err)
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 2, tries)
	require.Equal(t, "on", get(t, s, "t", "alice"))
	require.Equal(t, "off", get(t, s, "t", "bob"))
}

func TestIdempotencyKeyActsOnceAlsoAfterRestart(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, small(fs))
	runs := 0
	do := func(s *Store, hash string) (Result, error) {
		return s.Update(bg, func(tx *Tx) error {
			runs++
			tx.SetOutcome([]byte("order 7"))
			return tx.Put("t", []byte(fmt.Sprintf("run%d", runs)), nil)
		}, WithIdempotencyKey("key-1", []byte(hash)))
	}
	first, err := do(s, "h")
	require.NoError(t, err)
	require.Equal(t, Result{Index: 1, Outcome: []byte("order 7")}, first)
	again := Result{Index: 1, Duplicate: true, Outcome: []byte("order 7")}
	for range 2 {
		res, err := do(s, "h")
		require.NoError(t, err)
		require.Equal(t, again, res)
	}
	_, err = do(s, "other")
	require.ErrorIs(t, err, ErrIdempotencyMismatch)
	s = open(t, small(fs.CrashClone(vfs.CrashCloneCfg{})))
	res, err := do(s, "h")
	require.NoError(t, err)
	require.Equal(t, again, res)
	require.Equal(t, 1, runs)
	require.Equal(t, []string{"run1"}, scanKeys(t, s, "t", Range{}))
}

func TestConcurrentUseOfOneIdempotencyKeyActsOnce(t *testing.T) {
	s := openMem(t)
	var wg sync.WaitGroup
	dup := make(chan bool, 16)
	for i := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			res, err := s.Update(bg, func(tx *Tx) error {
				tx.SetOutcome([]byte("done"))
				return tx.Put("t", []byte(fmt.Sprint(i)), nil)
			}, WithIdempotencyKey("k", nil))
			if err != nil || string(res.Outcome) != "done" {
				t.Errorf("%+v %v", res, err)
			}
			dup <- res.Duplicate
		}()
	}
	wg.Wait()
	close(dup)
	n := 0
	for d := range dup {
		if !d {
			n++
		}
	}
	require.Equal(t, 1, n)
	require.Len(t, scanKeys(t, s, "t", Range{}), 1)
}

// TestCrashAtRandomMomentsKeepsAcknowledgedWrites runs concurrent writers, takes the disk as power loss would leave it,
// and compares the reopened store with what had been acknowledged by then.
func TestCrashAtRandomMomentsKeepsAcknowledgedWrites(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 12 {
		fs := vfs.NewCrashableMem()
		o := small(fs)
		o.Indexes = testIndexes()
		if round%3 == 0 {
			o.Key = make([]byte, 32)
		}
		s := open(t, o)
		const writers = 8
		var mu sync.Mutex
		acked := map[string]int{} // key -> newest acknowledged number
		issued := map[string]int{}
		ctx, cancel := context.WithCancel(bg)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for n := 1; ctx.Err() == nil; n++ {
					key := fmt.Sprintf("w%d-%d", w, n%20)
					mu.Lock()
					issued[key] = n
					mu.Unlock()
					_, err := s.Update(bg, func(tx *Tx) error {
						_, _ = tx.Get("t", []byte(key))
						return tx.Put("t", []byte(key), []byte(fmt.Sprintf("%d:%0100d", n, n)))
					})
					if err != nil {
						return
					}
					mu.Lock()
					acked[key] = n
					mu.Unlock()
				}
			}()
		}
		for i := 0; i < 1+rng.IntN(30); i++ {
			put(t, s, "u", fmt.Sprint(i), "x")
			if rng.IntN(10) == 0 {
				_, err := s.Checkpoint()
				require.NoError(t, err)
			}
		}
		mu.Lock()
		must := map[string]int{}
		for k, n := range acked {
			must[k] = n
		}
		mu.Unlock()
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		mu.Lock()
		may := map[string]int{}
		for k, n := range issued {
			may[k] = n
		}
		mu.Unlock()
		cancel()
		wg.Wait()
		require.NoError(t, s.Close())

		o.FS = crashed
		s = open(t, o)
		rows := map[string]int{}
		require.NoError(t, s.View(bg, func(tx *Tx) error {
			return tx.Scan("t", Range{}, func(k, v []byte) bool {
				var n, m int
				_, err := fmt.Sscanf(string(v), "%d:%d", &n, &m)
				require.NoError(t, err)
				require.Equal(t, n, m)
				rows[string(k)] = n
				return true
			})
		}))
		for k, n := range must {
			require.GreaterOrEqual(t, rows[k], n, "round %d: %s", round, k)
		}
		for k, n := range rows {
			require.LessOrEqual(t, n, may[k], "round %d: %s", round, k)
		}
		rep, err := s.Verify(bg)
		require.NoError(t, err)
		require.Empty(t, rep.Findings)
		require.NoError(t, s.Close())
	}
}
