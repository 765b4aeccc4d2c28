package replication

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/stretchr/testify/require"
)

// The simulation lets clients write and read registers through any member while members lose power, lose their
// connections, fill their disks and hand over, in an order that follows from a seed. (The interleaving does not: raft
// runs on real time.) What the clients saw must be linearizable, and at the end all members must have the same state.
//
// ERLMCP_SIM_SEED=n runs that seed only, ERLMCP_SIM_SEEDS=n runs n of them.

type simInput struct {
	key   string
	write bool
	value int
}

// register is the model: one value per key, 0 at first.
var register = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range ops {
			k := o.Input.(simInput).key
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		in := input.(simInput)
		if in.write {
			return true, in.value
		}
		return output.(int) == state.(int), state
	},
	DescribeOperation: func(input, output any) string {
		in := input.(simInput)
		if in.write {
			return fmt.Sprintf("%s = %d", in.key, in.value)
		}
		return fmt.Sprintf("%s is %v", in.key, output)
	},
}

// history is what the clients saw.
type history struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
	acked int
	open  int // writes of unknown outcome
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(client int, in simInput, call int64, out int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ret := h.now()
	switch {
	case err == nil:
		h.acked++
	case !in.write || nothingWritten(err):
		return
	default:
		h.open++
		ret = math.MaxInt64 // it may happen at any time from now on
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
}

// nothingWritten are the errors that promise it.
func nothingWritten(err error) bool {
	for _, e := range []error{ErrNotLeader, engine.ErrClosed, engine.ErrNoSpace, engine.ErrOverloaded, engine.ErrConflict} {
		if errors.Is(err, e) && !errors.Is(err, engine.ErrUnknownOutcome) {
			return true
		}
	}
	return false
}

// simClient works until stop is closed.
func simClient(f *fleet, h *history, client int, rng *rand.Rand, stop <-chan struct{}) {
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		f.mu.Lock()
		store := f.peers[rng.IntN(len(f.peers))].store
		f.mu.Unlock()
		if store == nil {
			continue
		}
		in := simInput{key: fmt.Sprintf("k%d", rng.IntN(3)), write: rng.IntN(2) == 0, value: client*1_000_000 + n}
		call := h.now()
		out, err := in.run(store)
		h.add(client, in, call, out, err)
		if err != nil {
			time.Sleep(time.Millisecond) // do not spin on members that refuse
		}
	}
}

func (in simInput) run(store *engine.Store) (out int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if in.write {
		_, err = store.Update(ctx, func(tx *engine.Tx) error {
			return tx.Put("t", []byte(in.key), strconv.AppendInt(nil, int64(in.value), 10))
		})
		return in.value, err
	}
	err = store.View(ctx, func(tx *engine.Tx) error {
		v, err := tx.Get("t", []byte(in.key))
		if errors.Is(err, engine.ErrNotFound) {
			return nil
		}
		if err == nil {
			out, err = strconv.Atoi(string(v))
		}
		return err
	})
	return out, err
}

// simFaults makes trouble for a while and then mends everything.
func simFaults(f *fleet, rng *rand.Rand, steps int) {
	cut := map[*peer]bool{}
	for range steps {
		p := f.peers[rng.IntN(len(f.peers))]
		if p.store != nil && p.node.Err() != nil { // stopped by itself, for instance on a full disk after a truncation
			f.crash(p, someUnsynced(rng))
		}
		switch k := rng.IntN(10); {
		case p.store == nil:
			f.start(p)
			delete(cut, p)
		case k < 3:
			f.crash(p, someUnsynced(rng))
		case k < 4: // the whole house
			for _, p := range f.peers {
				if p.store != nil {
					f.crash(p, someUnsynced(rng))
				}
			}
		case cut[p]:
			f.join(p)
			delete(cut, p)
		case k < 7:
			f.isolate(p)
			cut[p] = true
		case k < 8:
			p.fs.full.Store(!p.fs.full.Load())
		default:
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			_ = p.node.HandOver(ctx)
			cancel()
		}
		time.Sleep(time.Duration(20+rng.IntN(200)) * time.Millisecond)
	}
	for _, p := range f.peers {
		if p.store != nil && p.node.Err() != nil {
			f.crash(p, someUnsynced(rng))
		}
		if p.store == nil {
			f.start(p)
		}
		p.fs.full.Store(false)
		f.join(p)
	}
}

func simulate(t *testing.T, seed uint64, forward bool) {
	rng := rand.New(rand.NewPCG(seed, 0))
	f := newFleet(t, 3, func(o *Options) { o.MarkEvery, o.MarkInterval, o.HandOver = 200, 20*time.Millisecond, -1 })
	f.forward = forward
	f.startAll()
	h := &history{began: time.Now()}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for c := range 4 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			simClient(f, h, c, rand.New(rand.NewPCG(seed, uint64(1+c))), stop)
		}()
	}
	simFaults(f, rng, 12)
	time.Sleep(300 * time.Millisecond)
	close(stop)
	clients.Wait()
	l := f.leader()
	for k := range 3 {
		in := simInput{key: fmt.Sprintf("k%d", k)}
		call := h.now()
		out, err := in.run(l.store)
		h.add(9, in, call, out, err)
	}
	f.converge(nil)
	for _, p := range f.peers {
		rep, err := p.store.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, rep.Findings, p.id)
	}
	result, _ := porcupine.CheckOperationsVerbose(register, h.ops, 20*time.Second)
	t.Logf("seed %d: %d acknowledged operations, %d writes of unknown outcome: %s", seed, h.acked, h.open, result)
	require.NotEqual(t, porcupine.Illegal, result, "seed %d: what the clients saw is not linearizable", seed)
	require.Positive(t, h.acked)
}

func TestCheckerNoticesAStaleRead(t *testing.T) {
	w := func(v int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: simInput{"k", true, v}, Call: call, Output: v, Return: ret}
	}
	r := func(v int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: 1, Input: simInput{key: "k"}, Call: call, Output: v, Return: ret}
	}
	require.True(t, porcupine.CheckOperations(register, []porcupine.Operation{w(1, 0, 1), w(2, 2, 9), r(1, 3, 4), r(2, 5, 6)}))
	require.False(t, porcupine.CheckOperations(register, []porcupine.Operation{w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)}))
	require.False(t, porcupine.CheckOperations(register, []porcupine.Operation{w(1, 0, 1), w(2, 2, math.MaxInt64), r(2, 3, 4), r(1, 5, 6)}))
}

func TestSimulatedClusterIsLinearizable(t *testing.T) {
	first, n := uint64(1), uint64(2)
	if s := os.Getenv("ERLMCP_SIM_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		first, n = v, 1
	} else if s := os.Getenv("ERLMCP_SIM_SEEDS"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		n = v
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { simulate(t, seed, false) })
		t.Run(fmt.Sprintf("any-node/seed=%d", seed), func(t *testing.T) { simulate(t, seed, true) })
	}
}
