// Package gcfloor keeps the garbage collector from running all the time in a
// process whose live heap is small.
//
// Go starts a collection when the heap has doubled. A server with 5 MB of live
// objects that allocates 50 KB per request therefore collects every hundred
// requests, and each collection costs the same whether it finds much or not. A
// floor lets the heap grow to a fixed size first; above it nothing changes:
//
//	live heap   next collection at
//	   5 MB      32 MB (the floor)
//	  20 MB      40 MB (twice, as ever)
//
// A process that went idle gives the memory back.
package gcfloor

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// normal is the collector's own setting.
	normal = 100
	// idleAfter is how long next to nothing is collected before the process counts as idle.
	idleAfter = 30 * time.Second
)

// Start keeps collections from beginning below floor bytes of heap. It does
// nothing when the environment sets GOGC, or a memory limit (GOMEMLIMIT) that
// is less than four times the floor: whoever did that has decided.
// stop restores the collector's setting. At most one may be started at a time.
func Start(floor int64) (stop func()) {
	if os.Getenv("GOGC") != "" || debug.SetMemoryLimit(-1) < 4*floor {
		return func() {}
	}
	p := &pacer{floor: floor, percent: normal, done: make(chan struct{})}
	p.pace(live())
	p.watch()
	go p.trim(time.NewTicker(idleAfter))
	return p.stop
}

type pacer struct {
	floor int64

	mu      sync.Mutex
	percent int
	stopped bool
	cycles  uint64 // collections seen
	done    chan struct{}
}

// watch calls pace after every collection: the finalizer of an object that
// nothing refers to runs then.
func (p *pacer) watch() {
	type sentinel struct{ _ [16]byte }
	runtime.SetFinalizer(new(sentinel), func(*sentinel) {
		if p.pace(live()) {
			p.watch()
		}
	})
}

// pace chooses the growth that leads from a live heap to the floor. It is false
// when the pacer was stopped.
func (p *pacer) pace(live int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	p.cycles++
	percent := percentFor(live, p.floor)
	// Changing it stops the world for a moment, so small steps are left out.
	if diff := percent - p.percent; diff*8 > p.percent || -diff*8 > p.percent {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	return true
}

// percentFor is the growth in percent that takes a live heap to the floor.
func percentFor(live, floor int64) int {
	live = max(live, 1<<20)
	return int(max((floor-live)*100/live, normal))
}

// trim gives memory back to the system once the process is idle.
func (p *pacer) trim(tick *time.Ticker) {
	defer tick.Stop()
	var q quiet
	for {
		select {
		case <-tick.C:
		case <-p.done:
			return
		}
		p.mu.Lock()
		cycles := p.cycles
		p.mu.Unlock()
		if q.begins(cycles) {
			debug.FreeOSMemory()
		}
	}
}

// quiet tells from the number of collections when a process becomes idle: one
// or two in a whole interval are no work.
type quiet struct {
	seen uint64
	now  bool
}

func (q *quiet) begins(cycles uint64) bool {
	was := q.now
	q.now = cycles <= q.seen+2
	q.seen = cycles
	return q.now && !was
}

func (p *pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		close(p.done)
		debug.SetGCPercent(normal)
	}
}

// live is what the last collection left, in bytes.
func live() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(sample[0].Value.Uint64())
}
