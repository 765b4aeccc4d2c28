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

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

// scripts are the workloads. Each stands for a way in which a log is used;
// segments of 64 KiB make every one of them rotate and recycle.
var scripts = []struct {
	name string
	run  func(r *recorder)
}{
	{"singles", func(r *recorder) {
		for range 40 {
			r.append(1, 1+r.rng.IntN(1500))
		}
	}},
	{"groups", func(r *recorder) {
		for range 25 {
			for range 1 + r.rng.IntN(6) {
				r.appendAsync(1+r.rng.IntN(4), 700)
			}
			if r.rng.IntN(3) == 0 {
				r.settle()
			}
		}
	}},
	{"rotation", func(r *recorder) {
		for range 30 {
			r.appendAsync(1, 14000)
			if r.rng.IntN(2) == 0 {
				r.settle()
			}
		}
	}},
	{"recycling", func(r *recorder) {
		for range 24 {
			r.append(1+r.rng.IntN(2), 12000)
			if r.rng.IntN(3) == 0 && r.next > r.first+1 {
				r.front(r.first + uint64(r.rng.Int64N(int64(r.next-r.first))))
			}
		}
		r.front(r.next)
		r.append(2, 500)
	}},
	{"takeback", func(r *recorder) {
		for range 14 {
			r.append(1+r.rng.IntN(4), 9000)
			if r.rng.IntN(2) == 0 {
				back := min(r.next-r.first, 1+uint64(r.rng.IntN(9)))
				r.back(r.next - back)
			}
		}
		r.back(r.first)
		r.append(3, 300)
	}},
	{"votes", func(r *recorder) {
		for i := range 30 {
			r.meta("term", fmt.Appendf(nil, "%d", i))
			if i%3 == 0 {
				r.meta(fmt.Sprintf("vote-%d", i%2), fmt.Appendf(nil, "node-%d", r.rng.IntN(5)))
			}
			if i%7 == 0 {
				r.meta("vote-0", nil)
			}
			r.append(1, 6000)
		}
	}},
	{"restarts", func(r *recorder) {
		for range 8 {
			for range r.rng.IntN(5) {
				r.append(1+r.rng.IntN(3), 9000)
			}
			r.meta("boot", fmt.Appendf(nil, "%d", r.next))
			r.reopen()
		}
	}},
	{"everything", func(r *recorder) { r.anything(60) }},
}

// anything does n random steps.
func (r *recorder) anything(n int) {
	for range n {
		switch r.rng.IntN(12) {
		case 0:
			if r.next > r.first {
				r.front(r.first + uint64(r.rng.Int64N(int64(r.next-r.first+1))))
			}
		case 1:
			if r.next > r.first {
				r.back(r.first + uint64(r.rng.Int64N(int64(r.next-r.first))))
			}
		case 2, 3:
			r.meta(fmt.Sprintf("k%d", r.rng.IntN(3)), seedBytes(r.rng, r.rng.IntN(200)))
		case 4:
			r.reopen()
		case 5:
			r.append(1, 20000)
		default:
			r.appendAsync(1+r.rng.IntN(3), 4000)
		}
	}
}

func seedBytes(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// config varies what a script runs on by its seed.
func config(name string, seed uint64) logConfig {
	return logConfig{
		Name: name, Seed: seed, SegmentSize: 64 << 10,
		BlockSize: []int{512, 512, 1024, 4096}[seed%4], Encrypted: seed%3 == 2,
	}
}

// TestLogSurvivesEveryCrash is the crash enumeration of the log: every prefix
// of every script, under several policies each, and crashes again in the
// recovery and in the life after it.
func TestLogSurvivesEveryCrash(t *testing.T) {
	want := crashStates(t) * 8 / 10
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	counts := &tally{}
	for round := uint64(0); counts.total() < want; round++ {
		for _, s := range scripts {
			cfg := config(s.name, seed+round)
			h, err := record(cfg, s.run)
			require.NoError(t, err, "script %s, seed %d, without any crash", s.name, cfg.Seed)
			perPrefix := min(max((want-counts.total())/(len(scripts)*h.trace.Len()), 2), 8)
			if f := enumerate(h, perPrefix, cfg.Seed, counts); f != nil {
				t.Fatal(f)
			}
			counts.progress(t, "crash states of the log", want)
		}
	}
	t.Logf("%d crash states of the log in %.0f s from seed %d: %s", counts.total(), counts.seconds(), seed, counts)
}

// enumerate tries crashes at every operation of a history.
func enumerate(h *history, perPrefix int, seed uint64, counts *tally) error {
	var (
		wg    sync.WaitGroup
		found atomic.Pointer[failure]
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
				if thinned(n, seed) {
					continue
				}
				c.Seek(n)
				if err := enumerateAt(h, c, perPrefix, seed, counts); err != nil {
					found.CompareAndSwap(nil, err)
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

// enumerateAt tries crashes at the cursor's place.
func enumerateAt(h *history, c *simdisk.Cursor, perPrefix int, seed uint64, counts *tally) *failure {
	n := c.Pos()
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	policies := simdisk.Policies()
	chosen := []simdisk.Policy{{Process: true}, {}}
	for len(chosen) < perPrefix {
		chosen = append(chosen, policies[rng.IntN(len(policies))])
	}
	if c.Unsynced() == 0 {
		chosen = chosen[:1] // all images are the same
		if n < h.trace.Len() && h.trace.Op(n).Kind == simdisk.OpWrite {
			// except in the middle of the next write
			chosen = append(chosen, simdisk.Policy{Data: simdisk.DataGarbage, Partial: true})
		}
	}
	for _, p := range chosen {
		x := crash{History: h, N: n, Policy: p, Seed: rng.Uint64()}
		counts.add(p.String())
		if err := x.check(c); err != nil {
			return &failure{x, err}
		}
	}
	if rng.IntN(8) == 0 {
		return again(h, c, rng, counts)
	}
	return nil
}

// again lets the machine crash a second time, in the recovery or in the life
// after it.
func again(h *history, c *simdisk.Cursor, rng *rand.Rand, counts *tally) *failure {
	x := crash{History: h, N: c.Pos(), Seed: rng.Uint64(), Policy: simdisk.Policies()[rng.IntN(len(simdisk.Policies()))]}
	second, err := x.secondLife(c)
	if err != nil {
		return &failure{x, err}
	}
	c2 := second.trace.Cursor()
	for range 6 {
		n := second.From + rng.IntN(second.trace.Len()-second.From+1)
		c2.Seek(n)
		y := crash{History: second, N: n, Seed: rng.Uint64(), Policy: simdisk.Policies()[rng.IntN(len(simdisk.Policies()))]}
		counts.add("second life")
		if err := y.check(c2); err != nil {
			return &failure{y, fmt.Errorf("second crash after a first one at operation %d (%s): %w", x.N, x.Policy, err)}
		}
	}
	return nil
}

// failure is a crash state that broke the promise.
type failure struct {
	crash crash
	err   error
}

func (f *failure) Error() string {
	h := f.crash.History
	op := "the end"
	if f.crash.N < h.trace.Len() {
		op = h.trace.Op(f.crash.N).String()
	}
	return fmt.Sprintf("script %s, seed %d: crash before operation %d (%s) with policy %s: %v\nreplay: ERLMCP_CRASH_REPLAY=%s go test ./fuzz -run TestCrashReplay -v",
		h.Config.Name, h.Config.Seed, f.crash.N, op, f.crash.Policy, f.err, f.crash.save())
}

// check builds the crash image and holds the recovered log against the model.
func (c crash) check(at *simdisk.Cursor) error {
	h := c.History
	img := at.Crash(c.Policy, c.Seed)
	l, err := wal.Open(logDir, h.Config.options(img, c.Seed))
	if err != nil {
		return fmt.Errorf("the log does not open: %w", err)
	}
	m, err := readLog(l, h.metaKeys)
	if err != nil {
		l.Close() //nolint:errcheck // the read error counts
		return fmt.Errorf("the recovered log does not read: %w", err)
	}
	err = h.allows(m, c.N)
	if lo, hi := h.commitRange(c.N); err == nil && c.N >= h.Opened && (l.CommitIndex() < lo || l.CommitIndex() > hi) {
		err = fmt.Errorf("commit index %d, want one in [%d,%d]", l.CommitIndex(), lo, hi)
	}
	if err != nil {
		l.Close() //nolint:errcheck // the wrong state counts
		return err
	}
	if !thorough && c.Seed%2 == 0 {
		// Half of the states are enough for what comes after, when time counts.
		return errors.Join(l.Close(), handlesInOrder(img))
	}
	if err := c.goOn(img, l, m); err != nil {
		return err
	}
	return handlesInOrder(img)
}

// handlesInOrder reports handles that were left open or used after Close.
func handlesInOrder(d *simdisk.Disk) error {
	if m := d.Misuses(); len(m) > 0 {
		return fmt.Errorf("closed files were used: %v", m)
	}
	if o := d.OpenFiles(); len(o) > 0 {
		return fmt.Errorf("files were left open: %v", o)
	}
	return nil
}

// allows checks the claim of the package comment.
func (h *history) allows(m *logModel, n int) error {
	d := m.digest()
	if n < h.Opened {
		for _, ok := range h.Before {
			if d == ok {
				return nil
			}
		}
		return fmt.Errorf("a crash in recovery lost or invented something: got %s, want %s", m, h.start())
	}
	acked, begun := h.window(n)
	if _, ok := h.find(d, acked, begun); ok {
		return nil
	}
	want := h.modelAt(acked)
	if k, ok := h.find(d, 0, len(h.Steps)); ok {
		return fmt.Errorf("the log holds the state after %d steps; %d were acknowledged (last: %s), %d begun", k, acked, h.Steps[max(acked, 1)-1], begun)
	}
	return fmt.Errorf("the log holds no state that ever was; %d steps acknowledged, %d begun; at least: %s", acked, begun, want.diff(m))
}

// goOn checks that the recovered log takes new work, closes, and opens clean.
func (c crash) goOn(img *simdisk.Disk, l *wal.Log, m *logModel) error {
	h := c.History
	r := newRecorder(img, h.Config)
	r.rng = rand.New(rand.NewPCG(c.Seed, 2))
	r.l, r.payload = l, c.Seed>>16
	r.first, r.next, r.term = m.First, l.NextIndex(), 1<<20
	r.h.Base = m
	r.append(2, 3000)
	r.meta("after", []byte("crash"))
	r.append(1, 100)
	if r.err != nil {
		l.Close() //nolint:errcheck // the first error counts
		return fmt.Errorf("the recovered log does not take new entries: %w", r.err)
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("the recovered log does not close: %w", err)
	}
	r.h.finish()
	if err := inspectClean(img, h.Config); err != nil {
		return err
	}
	l, err := wal.Open(logDir, h.Config.options(img, c.Seed+1))
	if err != nil {
		return fmt.Errorf("the log does not open a second time: %w", err)
	}
	defer l.Close() //nolint:errcheck // nothing was written
	if rec := l.Recovery(); rec.TornTail != nil || len(rec.Repairs) > 0 {
		return fmt.Errorf("after a clean close the log found torn %v, repairs %v", rec.TornTail, rec.Repairs)
	}
	got, err := readLog(l, append(slices.Clone(h.metaKeys), "after"))
	if err != nil {
		return fmt.Errorf("the log does not read the second time: %w", err)
	}
	if want := r.h.modelAt(len(r.h.Steps)); want.digest() != got.digest() {
		return fmt.Errorf("the second open shows something else: %s", want.diff(got))
	}
	rep, err := l.Verify(context.Background())
	if err != nil || !rep.Clean {
		return fmt.Errorf("verify after recovery: %v, findings %v", err, rep.Findings)
	}
	return nil
}

// inspectClean checks that the offline reader agrees that all is well.
func inspectClean(img *simdisk.Disk, cfg logConfig) error {
	rep, err := wal.Inspect(img, logDir, wal.InspectOptions{Key: cfg.options(img, 0).Key}, wal.Visitor{})
	if err != nil {
		return fmt.Errorf("inspect: %w", err)
	}
	if !rep.Clean || rep.TornTail {
		return fmt.Errorf("inspect finds fault with a recovered log: %v", rep.Findings)
	}
	return nil
}

// reborn is the disk that the next process finds.
func (c crash) reborn(at *simdisk.Cursor) *simdisk.Disk {
	if c.Policy.Process {
		return at.Restart(c.Seed)
	}
	d := at.Crash(c.Policy, c.Seed)
	d.Record()
	return d
}

// secondLife recovers the log after the crash, works on it and leaves it
// without closing. A killed process leaves its unsynced writes to the second.
func (c crash) secondLife(at *simdisk.Cursor) (*history, error) {
	h := c.History
	d := c.reborn(at)
	cfg := h.Config
	cfg.Name += "-again"
	r := newRecorder(d, cfg)
	r.h.From = d.Ops()
	acked, begun := h.window(c.N)
	if c.N < h.Opened {
		r.h.Before = h.Before
	} else {
		r.h.Before = h.digests[acked : begun+1]
	}
	r.open()
	if r.err != nil {
		return nil, fmt.Errorf("the log does not open: %w", r.err)
	}
	r.h.Opened = d.Ops()
	m, err := readLog(r.l, h.metaKeys)
	if err != nil {
		return nil, err
	}
	if err := h.allows(m, c.N); err != nil {
		return nil, err
	}
	r.h.Base, r.first, r.next, r.h.Commit = m, m.First, r.l.NextIndex(), r.l.CommitIndex()
	if m.First == m.Next {
		r.first = r.next
	}
	r.payload, r.term, r.rng = c.Seed>>16, 1<<21, rand.New(rand.NewPCG(c.Seed, 3))
	r.anything(6)
	r.settle()
	out := r.end()
	if r.l != nil {
		r.l.Close() //nolint:errcheck // the trace is taken; only goroutines matter now
	}
	return out, r.err
}

// TestCrashReplay repeats a stored failure.
func TestCrashReplay(t *testing.T) {
	name := os.Getenv("ERLMCP_CRASH_REPLAY")
	if name == "" {
		t.Skip("set ERLMCP_CRASH_REPLAY to a file that a failed crash test has named")
	}
	x, err := loadCrash(name)
	require.NoError(t, err)
	c := x.History.trace.Cursor()
	for n := max(0, x.N-30); n < x.N; n++ {
		t.Logf("%5d %s", n, x.History.trace.Op(n))
	}
	c.Seek(x.N)
	dir := t.TempDir() + "/image"
	if keep := os.Getenv("ERLMCP_CRASH_EXPORT"); keep != "" {
		dir = keep
	}
	require.NoError(t, c.Crash(x.Policy, x.Seed).Export(dir))
	t.Logf("image written to %s", dir)
	require.NoError(t, x.check(c))
}
