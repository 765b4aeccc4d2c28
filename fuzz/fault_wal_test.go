package fuzz

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

// faultKinds are the accidents of a running disk. Each hits the n-th matching
// operation of a workload, for every n.
var faultKinds = []struct {
	name  string
	fault simdisk.Fault
}{
	{"write error", simdisk.Fault{Kinds: simdisk.OpWrite, Err: syscall.EIO}},
	{"write error after some bytes", simdisk.Fault{Kinds: simdisk.OpWrite, Err: syscall.EIO, Short: 700}},
	{"write error for ever", simdisk.Fault{Kinds: simdisk.OpWrite, Err: syscall.EIO, Times: simdisk.Forever}},
	{"disk full", simdisk.Fault{Kinds: simdisk.OpWrite | simdisk.OpCreate, Err: syscall.ENOSPC}},
	{"disk full after some bytes", simdisk.Fault{Kinds: simdisk.OpWrite, Err: syscall.ENOSPC, Short: 512}},
	{"disk full for a while", simdisk.Fault{Kinds: simdisk.OpWrite | simdisk.OpCreate, Err: syscall.ENOSPC, Times: 5}},
	{"sync error", simdisk.Fault{Kinds: simdisk.OpSync, Err: syscall.EIO}},
	{"sync error for ever", simdisk.Fault{Kinds: simdisk.OpSync, Err: syscall.EIO, Times: simdisk.Forever}},
	{"directory sync error", simdisk.Fault{Kinds: simdisk.OpDirSync, Err: syscall.EIO}},
	{"name error", simdisk.Fault{Kinds: simdisk.OpCreate | simdisk.OpRename | simdisk.OpRemove | simdisk.OpLink, Err: syscall.EIO}},
	{"name error for ever", simdisk.Fault{Kinds: simdisk.OpCreate | simdisk.OpRename | simdisk.OpRemove, Err: syscall.EIO, Times: simdisk.Forever}},
	{"read error", simdisk.Fault{Kinds: simdisk.OpRead | simdisk.OpOpen | simdisk.OpList, Err: syscall.EIO}},
}

// faultScript rotates, truncates and votes in few operations.
func faultScript(r *recorder) {
	for i := range 9 {
		r.append(1+r.rng.IntN(2), 15000)
		r.meta("vote", fmt.Appendf(nil, "%d", i))
		if i == 4 && r.next > r.first+2 {
			r.back(r.next - 1)
		}
		if i == 6 {
			r.front(r.next - 1)
		}
	}
}

// TestLogSurvivesEveryFault lets every single operation of a workload fail in
// every way. The log must refuse with a typed error, acknowledge nothing after
// a failed write or sync, and hold all that it acknowledged when the process
// starts again on the same machine, and when the power fails then.
func TestLogSurvivesEveryFault(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	counts := &tally{}
	for _, k := range faultKinds {
		t.Run(k.name, func(t *testing.T) {
			for nth := 1; ; nth++ {
				fired, err := runFault(k.fault, nth, seed, counts)
				require.NoError(t, err, "seed %d, %s at matching operation %d", seed, k.name, nth)
				if !fired {
					require.Greater(t, nth, 1, "the fault never fired")
					return
				}
				counts.add(k.name)
				if raceEnabled && !thorough {
					nth += 3
				}
			}
		})
	}
	t.Logf("%d faults from seed %d: %s", counts.total(), seed, counts)
}

// runFault runs the workload with one fault and checks what it left.
func runFault(f simdisk.Fault, nth int, seed uint64, counts *tally) (fired bool, err error) {
	cfg := config("fault", seed)
	cfg.Seed = seed
	d, err := newDisk(seed)
	if err != nil {
		return false, err
	}
	r := newRecorder(d, cfg)
	r.tolerant = f.Err
	f.Nth = nth
	rule := d.Inject(f)
	l, err := wal.Open(logDir, cfg.options(d, seed))
	if err == nil {
		r.l = l
		faultScript(r)
		r.settle()
		if err := deadStaysDead(r); err != nil {
			return true, err
		}
		if err := l.Close(); err != nil && !faultError(err, f.Err) {
			return true, fmt.Errorf("close: %w", err)
		}
	} else if !faultError(err, f.Err) {
		return true, fmt.Errorf("open hides the cause: %w", err)
	}
	rule.Remove()
	if err := handlesInOrder(d); err != nil {
		return true, err
	}
	if r.err != nil {
		return true, r.err
	}
	h := r.end()
	if rule.Fired() == 0 {
		return false, nil
	}
	return true, afterFault(h, seed+uint64(nth), counts)
}

// faultError reports whether an error says what happened. Damage found behind
// an unreadable sector is called corruption and must quote the disk.
func faultError(err, cause error) bool {
	return errors.Is(err, cause) || errors.Is(err, wal.ErrFailed) || errors.Is(err, wal.ErrNoSpace) ||
		errors.Is(err, wal.ErrCorrupt) && strings.Contains(err.Error(), cause.Error())
}

// deadStaysDead: a log that failed acknowledges nothing more.
func deadStaysDead(r *recorder) error {
	if !r.dead {
		return nil
	}
	select {
	case <-r.l.Failed(): // closed by the goroutine that met the error, perhaps a moment later
	case <-time.After(20 * time.Second):
		return errors.New("ErrFailed was returned, but Failed() stays open")
	}
	if !errors.Is(r.l.Err(), wal.ErrFailed) {
		return fmt.Errorf("Err() is %v after a failure", r.l.Err())
	}
	if _, err := r.l.Append(wal.Entry{Type: 1, Data: []byte("late")}); !errors.Is(err, wal.ErrFailed) {
		return fmt.Errorf("append after a failure: %v", err)
	}
	if err := r.l.SetMeta("late", []byte("late")); !errors.Is(err, wal.ErrFailed) {
		return fmt.Errorf("set meta after a failure: %v", err)
	}
	return nil
}

// afterFault looks at the disk after the process has ended: power losses of
// every kind, and a new process on the living machine that trusts the page
// cache, works on, and then loses power.
func afterFault(h *history, seed uint64, counts *tally) error {
	rng := rand.New(rand.NewPCG(seed, 9))
	c := h.trace.Cursor()
	c.Seek(h.trace.Len())
	policies := simdisk.Policies()
	if !thorough {
		rng.Shuffle(len(policies), func(i, j int) { policies[i], policies[j] = policies[j], policies[i] })
		policies = append(policies[:3], simdisk.Policy{Process: true}, simdisk.Policy{})
	}
	for _, p := range policies {
		x := crash{History: h, N: h.trace.Len(), Policy: p, Seed: rng.Uint64()}
		counts.add("power loss after a fault")
		if err := x.check(c); err != nil {
			return &failure{x, err}
		}
	}
	x := crash{History: h, N: h.trace.Len(), Policy: simdisk.Policy{Process: true}, Seed: rng.Uint64()}
	second, err := x.secondLife(c)
	if err != nil {
		return &failure{x, err}
	}
	c2 := second.trace.Cursor()
	for range 3 {
		n := second.From + rng.IntN(second.trace.Len()-second.From+1)
		c2.Seek(n)
		y := crash{History: second, N: n, Policy: simdisk.Policies()[rng.IntN(len(simdisk.Policies()))], Seed: rng.Uint64()}
		counts.add("power loss after a restart after a fault")
		if err := y.check(c2); err != nil {
			return &failure{y, fmt.Errorf("power loss after a restart after a fault: %w", err)}
		}
	}
	return nil
}
