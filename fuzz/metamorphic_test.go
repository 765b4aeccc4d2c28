package fuzz

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

// A variant is one way to run the same workload. Nothing a user can see may
// depend on it.
type variant struct {
	opts   engine.Options
	reopen int  // restart after every n-th step, at random; 0: never
	flush  int  // checkpoint likewise
	async  bool // blind transactions do not wait
	clones bool // a restart is a kill -9 instead of a clean stop
}

func (v variant) String() string {
	o := v.opts
	return fmt.Sprintf("segment=%d memtable=%d cache=%d unflushed=%d retain=%d encrypted=%t flush=%d reopen=%d async=%t kill=%t",
		o.SegmentSize, o.MemTableSize, o.CacheSize, o.MaxUnflushed, o.RetainLog, o.Key != nil, v.flush, v.reopen, v.async, v.clones)
}

func randomVariant(rng *rand.Rand) variant {
	pick := func(vs ...int64) int64 { return vs[rng.IntN(len(vs))] }
	v := variant{
		opts: engine.Options{
			SegmentSize:  pick(64<<10, 128<<10, 1<<20, 4<<20),
			MemTableSize: uint64(pick(256<<10, 1<<20, 4<<20)),
			CacheSize:    pick(64<<10, 1<<20),
			MaxUnflushed: pick(1<<20, 8<<20),
			// The whole log is kept, so that histories can be compared.
			RetainLog:     1 << 30,
			FlushInterval: -1, SweepInterval: -1, MinFreeDisk: 1,
		},
		reopen: int(pick(0, 7, 23)), flush: int(pick(0, 5, 17)), async: rng.IntN(2) == 0, clones: rng.IntN(2) == 0,
	}
	if rng.IntN(2) == 0 {
		v.opts.Key = make([]byte, 32)
		v.opts.Key[3] = 1
	}
	return v
}

// world is one store that runs the workload under a variant.
type world struct {
	v     variant
	d     *simdisk.Disk
	s     *engine.Store
	now   atomic.Int64 // Unix nanoseconds; the log asks for the time from its own goroutines
	life  uint64
	lives *rand.Rand
}

// clock tells the world's time to the store, from any goroutine.
func (w *world) clock() time.Time { return time.Unix(0, w.now.Load()) }

func (w *world) open(t *testing.T) {
	w.life++
	o := w.v.opts
	o.FS, o.Now, o.Rand = w.d, w.clock, seededReader(w.life)
	o.Indexes = []engine.IndexSpec{{Name: "by_tail", Table: dbTables[0], Keys: tailKeys}}
	s, err := engine.Open(dbDir, o)
	require.NoError(t, err, "%s", w.v)
	w.s = s
}

// between flushes or restarts the store, as the variant likes.
func (w *world) between(t *testing.T) {
	if w.v.flush > 0 && w.lives.IntN(w.v.flush) == 0 {
		_, err := w.s.Checkpoint()
		require.NoError(t, err, "%s", w.v)
	}
	if w.v.reopen == 0 || w.lives.IntN(w.v.reopen) != 0 {
		return
	}
	if w.v.clones {
		// What was answered with Async may die with the process; a write that
		// waits for the disk brings it to safety first.
		w.settle(t)
		dead := w.s
		w.d = w.d.Clone()
		require.NoError(t, dead.Close())
	} else {
		require.NoError(t, w.s.Close(), "%s", w.v)
	}
	w.open(t)
}

// settle waits until what was answered with Async is applied.
func (w *world) settle(t *testing.T) {
	require.Eventually(t, func() bool { return w.s.AppliedIndex() == w.s.Log().NextIndex()-1 }, time.Minute, time.Millisecond)
}

// history reads every event from the log.
func (w *world) history(t *testing.T, upTo uint64) []engine.Event {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	watch := w.s.Watch(ctx, engine.WatchOptions{From: 1})
	defer watch.Close() //nolint:errcheck // read only
	var out []engine.Event
	for {
		e, err := watch.Next()
		require.NoError(t, err, "%s", w.v)
		out = append(out, e)
		if e.Index >= upTo && e.Table == "seq" {
			return out
		}
	}
}

// TestOptionsDoNotChangeHistory runs one random workload under many options:
// segment and memtable sizes, encryption, flushes, restarts, kill -9, async
// answers. Results, indexes, state hashes, rows and the change feed must be the
// same in all of them.
func TestOptionsDoNotChangeHistory(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	rounds := env(t, "ERLMCP_METAMORPHIC", uint64(raceScale(3)))
	for round := range rounds {
		rng := rand.New(rand.NewPCG(seed+round, 0x3e7a))
		var worlds []*world
		for range 5 {
			d, err := newDisk(seed)
			require.NoError(t, err)
			w := &world{v: randomVariant(rng), d: d, lives: rand.New(rand.NewPCG(rng.Uint64(), 1))}
			w.now.Store(time.Unix(1_700_000_000, 0).UnixNano())
			w.open(t)
			worlds = append(worlds, w)
		}
		compareWorlds(t, rng, worlds, seed+round)
	}
}

// compareWorlds runs the same steps in all worlds and compares what they show.
func compareWorlds(t *testing.T, rng *rand.Rand, worlds []*world, seed uint64) {
	maker := newDBRecorder(nil, dbConfig{Name: "meta", Seed: seed})
	model := rows{}
	first := worlds[0]
	for step := range 120 {
		x := maker.make(6000)
		blind, ttl := rng.IntN(5) == 0, rng.IntN(6) == 0
		if blind {
			x.Idem = ""
		}
		for _, w := range worlds {
			y := *x
			y.Async = blind
			opts := y.options()
			if blind && !w.v.async {
				opts = append(opts, engine.WithDurability(engine.Sync))
			}
			_, err := w.s.Update(context.Background(), func(etx *engine.Tx) error {
				if ttl {
					if err := etx.PutUntil("beta", fmt.Appendf(nil, "ttl-%d", step%5), []byte("soon gone"), w.clock().Add(time.Minute)); err != nil {
						return err
					}
				}
				return y.run(etx)
			}, opts...)
			require.NoError(t, err, "seed %d, step %d, %s", seed, step, w.v)
		}
		x.apply(model)
		if step%10 == 9 {
			for _, w := range worlds {
				w.now.Add(int64(2 * time.Minute))
				w.settle(t) // a row that is not there yet is not swept
				_, err := w.s.SweepExpired(context.Background())
				require.NoError(t, err, "seed %d, step %d, %s", seed, step, w.v)
			}
		}
		for _, w := range worlds {
			w.between(t)
		}
	}
	for _, w := range worlds {
		x := &tx{Ops: []dbOp{{"seq", []byte("end"), []byte("end")}}}
		_, err := w.s.Update(context.Background(), x.run)
		require.NoError(t, err)
	}
	at, hash := first.s.StateHash()
	want := first.history(t, at)
	require.Greater(t, len(want), 120, "a history worth comparing")
	model[rowKey("seq", []byte("end"))] = "end"
	for _, w := range worlds {
		at2, hash2 := w.s.StateHash()
		require.Equal(t, at, at2, "seed %d: index under %s and %s", seed, first.v, w.v)
		require.Equal(t, hash, hash2, "seed %d: state hash under %s and %s", seed, first.v, w.v)
		got, err := readRows(w.s)
		require.NoError(t, err, "seed %d, %s", seed, w.v)
		maps.DeleteFunc(got, func(k, v string) bool { return v == "soon gone" })
		require.Equal(t, model.digest(), got.digest(), "seed %d, %s: %s", seed, w.v, model.diff(got))
		events := w.history(t, at)
		require.Equal(t, len(want), len(events), "seed %d, %s", seed, w.v)
		for i := range want {
			require.True(t, reflect.DeepEqual(want[i], events[i]), "seed %d: event %d is %+v under %s, %+v under %s", seed, i, want[i], first.v, events[i], w.v)
		}
		rep, err := w.s.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, rep.Findings, "seed %d, %s", seed, w.v)
		require.NoError(t, w.s.Close())
	}
}
