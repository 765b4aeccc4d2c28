package load

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Config says how hard and how long to press.
type Config struct {
	Workers  int           // writers in flight, >= 1
	Warmup   time.Duration // not counted
	Duration time.Duration // the measured window; it grows until one operation has ended in it
}

// Result is one measured window.
type Result struct {
	Ops     uint64        // operations which ended inside the window
	Elapsed time.Duration // the window as measured, not as asked for
	Hist    *Hist
}

// Rate is operations per second.
func (r Result) Rate() float64 { return float64(r.Ops) / r.Elapsed.Seconds() }

const (
	warming int32 = iota
	measuring
	stopping
)

// Run presses op with c.Workers goroutines. The first error of any worker ends
// the run and is returned; every worker has returned when Run does.
func Run(c Config, op func(worker int) error) (Result, error) {
	var (
		phase atomic.Int32
		wg    sync.WaitGroup
		once  sync.Once
		fail  error
	)
	broken := make(chan struct{})
	var ended sync.Once
	counted := make(chan struct{}) // closed when the first operation was counted
	hists := make([]Hist, c.Workers)
	for w := range c.Workers {
		wg.Go(func() {
			first := func() { ended.Do(func() { close(counted) }) }
			if err := work(&phase, &hists[w], first, func() error { return op(w) }); err != nil {
				once.Do(func() { fail = err; close(broken) })
			}
		})
	}
	hold(c.Warmup, broken)
	start := time.Now()
	phase.Store(measuring)
	hold(c.Duration, broken)
	select { // a stalled disk must not leave a window empty: it grows instead
	case <-counted:
	case <-broken:
	}
	phase.Store(stopping)
	elapsed := time.Since(start)
	wg.Wait()

	total := new(Hist)
	for i := range hists {
		total.Merge(&hists[i])
	}
	return Result{Ops: total.Count(), Elapsed: elapsed, Hist: total}, fail
}

// work calls first when it has counted its first operation.
func work(phase *atomic.Int32, h *Hist, first func(), op func() error) error {
	begin := time.Now()
	for {
		if err := op(); err != nil {
			return err
		}
		end := time.Now()
		switch phase.Load() {
		case measuring:
			h.Record(end.Sub(begin))
			if h.Count() == 1 {
				first()
			}
		case stopping:
			return nil
		}
		begin = end
	}
}

func hold(d time.Duration, broken <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-broken:
	}
}

// Payloads hands out slices of one size from a pool of random bytes: they do
// not compress, they do not repeat page by page, and making one costs nothing
// inside the measured window.
type Payloads struct {
	pool []byte
	size int
	rng  []*rand.Rand
}

// NewPayloads fills a pool of 1 MiB from seed for the given number of workers.
func NewPayloads(size, workers int, seed uint64) *Payloads {
	p := &Payloads{pool: make([]byte, 1<<20+size), size: size}
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	_, _ = src.Read(p.pool) // ChaCha8.Read never fails
	for w := range workers {
		p.rng = append(p.rng, rand.New(rand.NewPCG(seed, uint64(w))))
	}
	return p
}

// Next returns worker w's next payload. It must not be changed.
func (p *Payloads) Next(w int) []byte {
	off := p.rng[w].IntN(1 << 20)
	return p.pool[off : off+p.size]
}
