package fuzz

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

// dbScripts are the workloads of the engine.
var dbScripts = []struct {
	name   string
	retain int64
	run    func(r *dbRecorder)
}{
	{"transactions", 0, func(r *dbRecorder) {
		for range 30 {
			r.update(600)
		}
	}},
	{"flushes", 0, func(r *dbRecorder) {
		for i := range 24 {
			r.update(8500)
			if i%6 == 5 {
				r.checkpoint()
			}
		}
	}},
	{"truncation", -1, func(r *dbRecorder) {
		for i := range 60 {
			r.update(8500)
			if i%13 == 12 {
				r.checkpoint()
			}
		}
	}},
	{"concurrent", -1, func(r *dbRecorder) {
		for range 10 {
			r.together(1+r.rng.IntN(5), 6000)
			if r.rng.IntN(3) == 0 {
				r.blind(500)
			}
		}
		r.update(10)
	}},
	{"lives", 0, func(r *dbRecorder) {
		for range 5 {
			for range r.rng.IntN(6) {
				r.update(8000)
			}
			if r.rng.IntN(2) == 0 {
				r.checkpoint()
			}
			r.reopen()
		}
	}},
}

func dbConfigOf(name string, seed uint64, retain int64) dbConfig {
	return dbConfig{Name: "db-" + name, Seed: seed, Encrypted: seed%2 == 0, Retain: retain}
}

// TestEngineSurvivesEveryCrash is the crash enumeration of the engine: log and
// Pebble on one disk, every prefix of every script.
func TestEngineSurvivesEveryCrash(t *testing.T) {
	want := crashStates(t) * 2 / 10
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	counts := &tally{}
	least := 0.2 // per prefix
	if raceEnabled {
		least /= raceThinning
	}
	for round := uint64(0); counts.total() < want; round++ {
		for _, s := range dbScripts {
			cfg := dbConfigOf(s.name, seed+round, s.retain)
			h, err := recordDB(cfg, s.run)
			require.NoError(t, err, "script %s, seed %d, without any crash", s.name, cfg.Seed)
			per := float64(want) / float64(len(dbScripts)*h.trace.Len())
			if f := enumerateDB(h, min(max(per, least), 4), cfg.Seed, counts); f != nil {
				t.Fatal(f)
			}
			counts.progress(t, "crash states of the engine", want)
		}
	}
	t.Logf("%d crash states of the engine in %.0f s from seed %d: %s", counts.total(), counts.seconds(), seed, counts)
}

// enumerateDB tries crashes at the operations of a history. perPrefix below 1
// leaves some out, at random.
func enumerateDB(h *dbHistory, perPrefix float64, seed uint64, counts *tally) error {
	var (
		wg    sync.WaitGroup
		found atomic.Pointer[dbFailure]
		next  atomic.Int64
	)
	next.Store(int64(h.From) - 1)
	for range max(2, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			c := h.trace.Cursor()
			for found.Load() == nil {
				n := int(next.Add(1))
				if n > h.trace.Len() {
					return
				}
				rng := rand.New(rand.NewPCG(seed, uint64(n)))
				times := int(perPrefix)
				if rng.Float64() < perPrefix-float64(times) {
					times++
				}
				c.Seek(n)
				for range times {
					if f := enumerateDBAt(h, c, rng, counts); f != nil {
						found.CompareAndSwap(nil, f)
					}
				}
			}
		})
	}
	wg.Wait()
	if f := found.Load(); f != nil {
		return f
	}
	return nil
}

// storePolicy lets Pebble's files rely on what Pebble relies on: that a torn
// sector does not harm synced bytes beside it. The log needs no such promise.
func storePolicy(rng *rand.Rand) simdisk.Policy {
	all := simdisk.Policies()
	p := all[rng.IntN(len(all))]
	p.SafeOverwrite = []string{dbDir + "/store/"}
	return p
}

func enumerateDBAt(h *dbHistory, c *simdisk.Cursor, rng *rand.Rand, counts *tally) *dbFailure {
	x := dbCrash{History: h, N: c.Pos(), Policy: storePolicy(rng), Seed: rng.Uint64()}
	counts.add(x.Policy.String())
	if err := x.check(c); err != nil {
		return &dbFailure{x, err}
	}
	if rng.IntN(12) != 0 {
		return nil
	}
	x = dbCrash{History: h, N: c.Pos(), Policy: storePolicy(rng), Seed: rng.Uint64()}
	second, err := x.secondLife(c)
	if err != nil {
		return &dbFailure{x, err}
	}
	c2 := second.trace.Cursor()
	for range 3 {
		n := second.From + rng.IntN(second.trace.Len()-second.From+1)
		c2.Seek(n)
		y := dbCrash{History: second, N: n, Policy: storePolicy(rng), Seed: rng.Uint64()}
		counts.add("second life")
		if err := y.check(c2); err != nil {
			return &dbFailure{y, fmt.Errorf("second crash after a first one at operation %d (%s): %w", x.N, x.Policy, err)}
		}
	}
	return nil
}

// dbFailure is a crash state of the engine that broke the promise.
type dbFailure struct {
	crash dbCrash
	err   error
}

func (f *dbFailure) Error() string {
	h := f.crash.History
	op := "the end"
	if f.crash.N < h.trace.Len() {
		op = h.trace.Op(f.crash.N).String()
	}
	return fmt.Sprintf("script %s, seed %d: crash before operation %d (%s) with policy %s: %v\nreplay: ERLMCP_CRASH_REPLAY=%s go test ./fuzz -run TestEngineCrashReplay -v",
		h.Config.Name, h.Config.Seed, f.crash.N, op, f.crash.Policy, f.err, f.crash.save())
}

// check builds the crash image and holds the recovered store against the model.
func (c dbCrash) check(at *simdisk.Cursor) (err error) {
	img := at.Crash(c.Policy, c.Seed)
	h := c.History
	s, err := engine.Open(dbDir, h.Config.options(img, c.Seed))
	if err != nil {
		return fmt.Errorf("the store does not open: %w", err)
	}
	defer func() {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
		if err == nil {
			err = handlesInOrder(img)
		}
	}()
	k, m, err := h.allows(s, c.N)
	if err != nil {
		return err
	}
	if err := c.exactlyOnce(s, k, m); err != nil {
		return err
	}
	r := newDBRecorder(img, h.Config)
	r.s, r.h.Base, r.cfg.Name = s, m, "after"
	r.rng = rand.New(rand.NewPCG(c.Seed, 4))
	r.update(3000)
	if r.rng.IntN(3) == 0 {
		r.checkpoint()
	}
	r.update(200)
	if r.err != nil {
		return fmt.Errorf("the recovered store does not take new work: %w", r.err)
	}
	at2, hash := s.StateHash()
	if err := s.Close(); err != nil {
		return fmt.Errorf("the recovered store does not close: %w", err)
	}
	r.h.finish()
	if s, err = engine.Open(dbDir, h.Config.options(img, c.Seed+1)); err != nil {
		return fmt.Errorf("the store does not open a second time: %w", err)
	}
	if at3, hash3 := s.StateHash(); at3 != at2 || hash3 != hash {
		return fmt.Errorf("state hash %x at %d before a clean restart, %x at %d after", hash, at2, hash3, at3)
	}
	return verifyRows(s, r.h.modelAt(len(r.h.Txs)))
}

// verifyRows compares a store with a model and has the store verify itself.
func verifyRows(s *engine.Store, want rows) error {
	got, err := readRows(s)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if got.digest() != want.digest() {
		return fmt.Errorf("the second open shows something else: %s", want.diff(got))
	}
	rep, err := s.Verify(context.Background())
	if err != nil || len(rep.Findings) > 0 {
		return fmt.Errorf("verify after recovery: %v, findings %v", err, rep.Findings)
	}
	return nil
}

// allows checks the claim of the package comment and returns the step at which
// the recovered store stands.
func (h *dbHistory) allows(s *engine.Store, n int) (int, rows, error) {
	m, err := readRows(s)
	if err != nil {
		return 0, nil, fmt.Errorf("the recovered store does not read: %w", err)
	}
	d := m.digest()
	if n < h.Opened {
		if !slices.Contains(h.Before, d) {
			return 0, nil, fmt.Errorf("a crash in recovery lost or invented something: %s", h.Base.diff(m))
		}
		return -1, m, nil
	}
	acked, begun := h.window(n)
	for k := begun; k >= acked; k-- {
		if h.digests[k] == d {
			return k, m, h.sameHash(s, k)
		}
	}
	if k := slices.Index(h.digests, d); k >= 0 {
		return 0, nil, fmt.Errorf("the store holds the state after %d transactions; %d were acknowledged, %d begun", k, acked, begun)
	}
	return 0, nil, fmt.Errorf("the store holds no state that ever was; %d transactions acknowledged, %d begun; after %d: %s",
		acked, begun, acked, h.modelAt(acked).diff(m))
}

// sameHash compares the engine's own digest with the one recorded when the
// transaction was acknowledged.
func (h *dbHistory) sameHash(s *engine.Store, k int) error {
	if k == 0 || h.Txs[k-1].Index == 0 || h.Txs[k-1].Async {
		return nil
	}
	at, hash := s.StateHash()
	if t := h.Txs[k-1]; at != t.Index || hash != t.Hash {
		return fmt.Errorf("state hash %x at index %d; when acknowledged it was %x at %d", hash, at, t.Hash, t.Index)
	}
	return nil
}

// exactlyOnce repeats the newest keyed transaction, as a client does that saw
// no answer. If it survived it must not act again; if not it must act now.
func (c dbCrash) exactlyOnce(s *engine.Store, k int, m rows) error {
	h := c.History
	if k < 0 {
		return nil
	}
	for i := min(k, len(h.Txs)-1); i >= max(0, k-3); i-- {
		t := h.Txs[i]
		if t.Idem == "" {
			continue
		}
		res, err := s.Update(context.Background(), t.run, t.options()...)
		if err != nil {
			return fmt.Errorf("repeat of transaction %d: %w", i+1, err)
		}
		if done := i < k; res.Duplicate != done {
			return fmt.Errorf("repeat of transaction %d: duplicate is %v, the store holds %d transactions", i+1, res.Duplicate, k)
		}
		if string(res.Outcome) != t.Idem {
			return fmt.Errorf("repeat of transaction %d: outcome %q", i+1, res.Outcome)
		}
		if !res.Duplicate {
			t.apply(m)
		}
		return nil
	}
	return nil
}

// secondLife recovers the store after the crash and works on it.
func (c dbCrash) secondLife(at *simdisk.Cursor) (*dbHistory, error) {
	h := c.History
	d := crash{N: c.N, Policy: c.Policy, Seed: c.Seed}.reborn(at)
	cfg := h.Config
	cfg.Name += "-again"
	r := newDBRecorder(d, cfg)
	r.h.From = d.Ops()
	if acked, begun := h.window(c.N); c.N < h.Opened {
		r.h.Before = h.Before
	} else {
		r.h.Before = h.digests[acked : begun+1]
	}
	if r.open(); r.err != nil {
		return nil, fmt.Errorf("the store does not open: %w", r.err)
	}
	r.h.Opened = d.Ops()
	_, m, err := h.allows(r.s, c.N)
	if err == nil {
		r.h.Base = m
		r.rng = rand.New(rand.NewPCG(c.Seed, 5))
		for range 4 {
			r.update(9000)
		}
		r.checkpoint()
		r.update(100)
	}
	out := r.end()
	return out, errors.Join(err, r.err, r.s.Close())
}

// TestEngineCrashReplay repeats a stored failure.
func TestEngineCrashReplay(t *testing.T) {
	name := os.Getenv("ERLMCP_CRASH_REPLAY")
	if name == "" {
		t.Skip("set ERLMCP_CRASH_REPLAY to a file that a failed crash test of the engine has named")
	}
	x, err := loadDBCrash(name)
	require.NoError(t, err)
	c := x.History.trace.Cursor()
	for n := max(0, x.N-40); n < x.N; n++ {
		t.Logf("%5d %s", n, x.History.trace.Op(n))
	}
	c.Seek(x.N)
	dir := t.TempDir()
	if keep := os.Getenv("ERLMCP_CRASH_EXPORT"); keep != "" {
		dir = keep
	}
	require.NoError(t, c.Crash(x.Policy, x.Seed).Export(dir))
	t.Logf("image written to %s", dir)
	require.NoError(t, x.check(c))
}
