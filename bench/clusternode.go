package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/erlmcp/erlmcp/bench/clusters"
	"github.com/erlmcp/erlmcp/bench/load"
)

// order is what the parent wants a member to do; several may be under way.
type order struct {
	ID       uint64
	Do       string // key of orders
	Writers  int
	Size     int
	Count    int // rows, for "fill"
	From     int // number of the first
	Warmup   time.Duration
	Duration time.Duration
	Seed     uint64
	Profile  string
}

// answer of a member. The one with ID 0 says that it runs.
type answer struct {
	ID      uint64
	Err     string
	Outcome outcome
	State   clusters.State
}

// orders are what a member can be told to do.
var orders = map[string]func(clusters.Node, order) (outcome, error){
	"state":   func(clusters.Node, order) (outcome, error) { return outcome{}, nil },
	"press":   pressMember,
	"fill":    fillMember,
	"probe":   probeMember,
	"compact": compactMember,
	"profile": profileMember,
}

// memberCell runs one member of a cluster until stdin ends.
func memberCell(c cell) (outcome, error) {
	kind := clusters.MCP
	if c.Engine != kind.Name {
		kinds, err := clusters.Pick([]string{c.Engine})
		if err != nil {
			return outcome{}, err
		}
		kind = kinds[0]
	}
	n, err := kind.Open(c.Member)
	if err != nil {
		return outcome{}, err
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(a answer) {
		a.State = n.State()
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a) // the parent is gone: stdin ends too
	}
	say(answer{})
	in := json.NewDecoder(c.rest)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return outcome{}, n.Close()
		} else if err != nil {
			return outcome{}, err
		}
		go func() {
			a := answer{ID: o.ID}
			do := orders[o.Do]
			if do == nil {
				a.Err = fmt.Sprintf("no order %q", o.Do)
			} else if a.Outcome, err = do(n, o); err != nil {
				a.Err = err.Error()
			}
			say(a)
		}()
	}
}

// pressMember writes random rows of a bounded key space in a closed loop.
func pressMember(n clusters.Node, o order) (outcome, error) {
	if o.Profile != "" {
		stop, err := startProfile(o.Profile)
		if err != nil {
			return outcome{}, err
		}
		defer stop()
	}
	payloads := load.NewPayloads(o.Size, o.Writers, o.Seed)
	keys, rngs := make([][]byte, o.Writers), make([]*rand.Rand, o.Writers)
	for w := range o.Writers {
		keys[w], rngs[w] = make([]byte, 16), rand.New(rand.NewPCG(o.Seed, uint64(w)<<32))
	}
	var calls atomic.Uint64
	r, err := load.Run(load.Config{Workers: o.Writers, Warmup: o.Warmup, Duration: o.Duration}, func(w int) error {
		calls.Add(1)
		rowKey(keys[w], rngs[w].Uint64N(clusters.KeySpace))
		return n.Put(context.Background(), keys[w], payloads.Next(w))
	})
	if err != nil {
		return outcome{}, err
	}
	out := measured(r)
	out.Calls = calls.Load()
	return out, nil
}

// rowKey spreads rows over the key space, as hashed identifiers are.
func rowKey(key []byte, n uint64) {
	binary.BigEndian.PutUint64(key, n*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(key[8:], n)
}

// fillMember writes o.Count different rows.
func fillMember(n clusters.Node, o order) (outcome, error) {
	payloads := load.NewPayloads(o.Size, o.Writers, o.Seed)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, o.Writers)
	for w := range o.Writers {
		wg.Go(func() {
			key := make([]byte, 16)
			for i := next.Add(1) - 1; i < int64(o.Count); i = next.Add(1) - 1 {
				rowKey(key, uint64(o.From)+uint64(i))
				if err := n.Put(context.Background(), key, payloads.Next(w)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return outcome{Entries: o.Count}, <-errs
}

// How a failover is probed: a write begins every probeEvery on every survivor,
// until one is acknowledged. A write that hangs, because it was sent to the
// dead leader, holds nothing up.
const (
	probeEvery = 10 * time.Millisecond
	maxProbes  = 2000
)

func probeMember(n clusters.Node, o order) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), o.Duration)
	defer cancel()
	acked := make(chan struct{}, 1)
	value := make([]byte, o.Size)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var open atomic.Int64
	var last atomic.Pointer[error]
	for i := uint64(0); ; i++ {
		if open.Load() < maxProbes {
			open.Add(1)
			go func() {
				defer open.Add(-1)
				key := make([]byte, 16)
				rowKey(key, i%clusters.KeySpace)
				if err := n.Put(ctx, key, value); err != nil {
					last.Store(&err)
					return
				}
				select {
				case acked <- struct{}{}:
				default:
				}
			}()
		}
		select {
		case <-acked:
			return outcome{}, nil
		case <-tick.C:
		case <-ctx.Done():
			if p := last.Load(); p != nil {
				return outcome{}, fmt.Errorf("no write was acknowledged within %v: %w", o.Duration, *p)
			}
			return outcome{}, ctx.Err()
		}
	}
}

func compactMember(n clusters.Node, _ order) (outcome, error) {
	c, ok := n.(clusters.Compacts)
	if !ok {
		return outcome{}, nil
	}
	return outcome{}, c.Compact()
}

// profileMember writes a CPU profile of a member that is not pressed itself.
func profileMember(_ clusters.Node, o order) (outcome, error) {
	stop, err := startProfile(o.Profile)
	if err != nil {
		return outcome{}, err
	}
	time.Sleep(o.Duration)
	stop()
	return outcome{}, nil
}

func startProfile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}
