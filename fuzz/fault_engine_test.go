package fuzz

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

// dbFaults are accidents of the disk below a whole store: in the log, in
// Pebble's files, or anywhere.
var dbFaults = []struct {
	name  string
	fault simdisk.Fault
}{
	{"log write error", simdisk.Fault{Kinds: simdisk.OpWrite, Glob: dbDir + "/wal/", Err: syscall.EIO}},
	{"log sync error", simdisk.Fault{Kinds: simdisk.OpSync, Glob: dbDir + "/wal/", Err: syscall.EIO, Times: simdisk.Forever}},
	{"store write error", simdisk.Fault{Kinds: simdisk.OpWrite, Glob: dbDir + "/store/", Err: syscall.EIO}},
	{"store sync error", simdisk.Fault{Kinds: simdisk.OpSync, Glob: dbDir + "/store/", Err: syscall.EIO}},
	{"store name error", simdisk.Fault{Kinds: simdisk.OpCreate | simdisk.OpRename | simdisk.OpDirSync, Glob: dbDir + "/store/", Err: syscall.EIO}},
	{"disk full for a while", simdisk.Fault{Kinds: simdisk.OpWrite | simdisk.OpCreate, Err: syscall.ENOSPC, Times: 4}},
	{"disk full for ever", simdisk.Fault{Kinds: simdisk.OpWrite | simdisk.OpCreate, Err: syscall.ENOSPC, Times: simdisk.Forever}},
	{"everything fails", simdisk.Fault{Kinds: simdisk.OpAny, Err: syscall.EIO, Times: simdisk.Forever}},
	{"read error", simdisk.Fault{Kinds: simdisk.OpRead, Err: syscall.EIO}},
}

// TestEngineSurvivesFaults lets operations below a store fail. Every answer
// must be a typed error, nothing may be acknowledged after a failed write or
// sync of the log, nothing may hang, and whatever was acknowledged is there in
// the next life.
func TestEngineSurvivesFaults(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	counts := &tally{}
	for i, k := range dbFaults {
		t.Run(k.name, func(t *testing.T) {
			step := 1
			for nth := 1; ; nth += step {
				fired, err := runDBFault(k.fault, nth, seed*100+uint64(i), counts)
				require.NoError(t, err, "seed %d, %s at matching operation %d", seed, k.name, nth)
				if !fired {
					require.Greater(t, nth, 1, "the fault never fired")
					return
				}
				counts.add(k.name)
				if !thorough {
					step = 1 + nth/2
				}
			}
		})
	}
	t.Logf("%d faults below the engine from seed %d: %s", counts.total(), seed, counts)
}

// within fails if fn takes too long: a store on a broken disk must not hang.
func within(limit time.Duration, what string, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("%s hangs for %v", what, limit)
	}
}

const patience = 60 * time.Second

// runDBFault runs a workload with one fault and checks what it left.
func runDBFault(f simdisk.Fault, nth int, seed uint64, counts *tally) (fired bool, err error) {
	cfg := dbConfigOf("fault", seed, -1)
	d, err := newDisk(seed)
	if err != nil {
		return false, err
	}
	r := newDBRecorder(d, cfg)
	f.Nth = nth
	rule := d.Inject(f)
	if err := within(patience, "open", func() error { r.open(); return nil }); err != nil {
		return true, err
	}
	if r.err != nil {
		if !dbFaultError(r.err, f.Err) {
			return true, fmt.Errorf("open: %w", r.err)
		}
		r.err = nil
	} else if err := r.faultScript(f.Err); err != nil {
		return true, err
	}
	rule.Remove()
	if r.s != nil {
		err := within(patience, "close", r.s.Close)
		if err != nil && !dbFaultError(err, f.Err) {
			return true, fmt.Errorf("close: %w", err)
		}
	}
	h := r.end()
	if rule.Fired() == 0 {
		return false, nil
	}
	return true, afterDBFault(h, seed+uint64(nth), counts)
}

// dbFaultError reports whether an error is one that a caller can act on.
func dbFaultError(err, cause error) bool {
	for _, want := range []error{engine.ErrFailed, engine.ErrNoSpace, engine.ErrCorrupt, wal.ErrCorrupt, cause} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// faultScript writes and flushes until the workload ends or the store fails.
func (r *dbRecorder) faultScript(cause error) error {
	for i := range 14 {
		t := r.make(8000)
		t.Begun = r.d.Ops()
		r.h.Txs = append(r.h.Txs, t)
		ctx, cancel := context.WithTimeout(context.Background(), patience/2)
		res, err := r.s.Update(ctx, t.run, t.options()...)
		cancel()
		switch {
		case err == nil:
			t.Acked, t.Index = r.d.Ops(), res.Index
			t.Hash, _ = r.s.StateHashAt(res.Index)
		case errors.Is(err, engine.ErrFailed):
			return r.deadStaysDead()
		case errors.Is(err, engine.ErrNoSpace):
			r.h.Txs = slices.DeleteFunc(r.h.Txs, func(x *tx) bool { return x == t })
			if _, err := readRows(r.s); err != nil && !errors.Is(err, engine.ErrFailed) {
				return fmt.Errorf("a full disk stops reads: %w", err)
			}
		case errors.Is(err, cause), errors.Is(err, engine.ErrCorrupt):
			// A read inside the transaction met the fault: nothing was proposed.
			r.h.Txs = slices.DeleteFunc(r.h.Txs, func(x *tx) bool { return x == t })
		default:
			return fmt.Errorf("transaction %d: %w", i+1, err)
		}
		if i%5 != 4 {
			continue
		}
		if err := within(patience, "checkpoint", func() error { _, err := r.s.Checkpoint(); return err }); err != nil && !dbFaultError(err, cause) {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	return nil
}

// deadStaysDead: a store that failed says so and acknowledges nothing more.
func (r *dbRecorder) deadStaysDead() error {
	select {
	case <-r.s.Failed():
	case <-time.After(patience):
		return errors.New("ErrFailed was returned, but Failed() stays open")
	}
	if r.s.Err() == nil {
		return errors.New("the store failed, but Err() is nil")
	}
	t := r.make(10)
	if _, err := r.s.Update(context.Background(), t.run, t.options()...); !errors.Is(err, engine.ErrFailed) {
		return fmt.Errorf("update after a failure: %v", err)
	}
	return nil
}

// afterDBFault looks at the disk after the process has ended.
func afterDBFault(h *dbHistory, seed uint64, counts *tally) error {
	rng := rand.New(rand.NewPCG(seed, 9))
	c := h.trace.Cursor()
	c.Seek(h.trace.Len())
	for range 3 {
		x := dbCrash{History: h, N: h.trace.Len(), Policy: storePolicy(rng), Seed: rng.Uint64()}
		counts.add("power loss after a fault")
		if err := x.check(c); err != nil {
			return &dbFailure{x, err}
		}
	}
	x := dbCrash{History: h, N: h.trace.Len(), Policy: simdisk.Policy{Process: true}, Seed: rng.Uint64()}
	second, err := x.secondLife(c)
	if err != nil {
		return &dbFailure{x, err}
	}
	c2 := second.trace.Cursor()
	for range 2 {
		n := second.From + rng.IntN(second.trace.Len()-second.From+1)
		c2.Seek(n)
		y := dbCrash{History: second, N: n, Policy: storePolicy(rng), Seed: rng.Uint64()}
		counts.add("power loss after a restart after a fault")
		if err := y.check(c2); err != nil {
			return &dbFailure{y, fmt.Errorf("power loss after a restart after a fault: %w", err)}
		}
	}
	return nil
}
