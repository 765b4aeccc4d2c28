package engine

import (
	"hash/maphash"
	"sync"
)

// foot is one thing a write set changes: a row (space = table, at.k1 empty) or an index entry (space = 0x00 + index).
type foot struct {
	space string
	at    pos
}

// windowSize is how many recent footprints are remembered. A transaction during which more than that are written
// is checked against the store instead, which costs reads but no correctness.
const windowSize = 8192

// window remembers what was written recently and what is placed in the log but not yet applied. The sequencer
// refuses with it, before anything is logged, nearly every transaction that apply would refuse; apply uses it to
// prove that a range is untouched. It never decides a refusal at apply.
//
// All fields are guarded by mu. The sequencer holds mu across the check and Committer.Commit, so that log order is
// check order on a single node.
type window struct {
	mu      sync.Mutex
	pending map[foot]int
	waiters map[foot][]chan struct{} // transactions waiting for their turn at a contended footprint
	seed    maphash.Seed
	recent  map[uint64]uint64 // hash of a footprint -> index of its last write, for those in ring
	ring    []footAt          // ascending by index, from head
	head    int
	floor   uint64 // every write above floor is in ring

	count int   // write sets placed and not yet done
	bytes int64 // their size
	async int
}

type footAt struct {
	foot  foot
	hash  uint64
	index uint64
}

func newWindow(applied uint64) *window {
	return &window{
		pending: map[foot]int{}, waiters: map[foot][]chan struct{}{}, recent: map[uint64]uint64{},
		seed: maphash.MakeSeed(), floor: applied,
	}
}

// conflict says why a transaction cannot be placed now.
type conflict struct {
	foot    foot
	index   uint64 // applied at this index, or about to be
	pending bool   // placed, index not known here
}

// rangeRead is a ScanRead made comparable with footprints.
type rangeRead struct {
	space string
	span
}

// hash stands for a footprint in recent. Two that collide cost a retry or a look at the rows, no correctness.
func (w *window) hash(f foot) uint64 { return maphash.Comparable(w.seed, f) }

// check looks for writes above snapshot in what was read. ok is false if the window does not reach back that far.
func (w *window) check(points []foot, ranges []rangeRead, snapshot uint64) (c *conflict, ok bool) {
	for _, f := range points {
		if i := w.recent[w.hash(f)]; i > snapshot {
			return &conflict{foot: f, index: i}, true
		}
		if w.pending[f] > 0 {
			return &conflict{foot: f, pending: true}, true
		}
	}
	if len(ranges) > 0 {
		if c := w.checkRanges(ranges, snapshot); c != nil {
			return c, true
		}
	}
	return nil, snapshot >= w.floor || len(points)+len(ranges) == 0
}

func (w *window) checkRanges(ranges []rangeRead, snapshot uint64) *conflict {
	if f, i := w.writtenIn(ranges, snapshot); i != 0 {
		return &conflict{foot: f, index: i}
	}
	for f := range w.pending {
		for i := range ranges {
			if f.space == ranges[i].space && ranges[i].holds(f.at) {
				return &conflict{foot: f, pending: true}
			}
		}
	}
	return nil
}

// writtenIn returns the newest write above snapshot in one of the ranges; index 0 if there is none.
func (w *window) writtenIn(ranges []rangeRead, snapshot uint64) (foot, uint64) {
	for n := len(w.ring) - 1; n >= 0; n-- {
		e := &w.ring[(w.head+n)%len(w.ring)]
		if e.index <= snapshot {
			break
		}
		for i := range ranges {
			if e.foot.space == ranges[i].space && ranges[i].holds(e.foot.at) {
				return e.foot, e.index
			}
		}
	}
	return foot{}, 0
}

// untouched reports whether the window proves that nothing above snapshot was applied to what was read.
func (w *window) untouched(points []foot, ranges []rangeRead, snapshot uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if snapshot < w.floor {
		return false
	}
	for _, f := range points {
		if w.recent[w.hash(f)] > snapshot {
			return false
		}
	}
	if len(ranges) == 0 {
		return true
	}
	_, i := w.writtenIn(ranges, snapshot)
	return i == 0
}

// place counts a write set that is about to be committed.
func (w *window) place(feet []foot, size int, async bool) {
	for _, f := range feet {
		w.pending[f]++
	}
	w.count++
	w.bytes += int64(size)
	if async {
		w.async++
	}
}

// unplace takes back place and wakes one transaction per footprint that has become free.
func (w *window) unplace(feet []foot, size int, async bool) {
	for _, f := range feet {
		if w.pending[f] > 1 {
			w.pending[f]--
			continue
		}
		delete(w.pending, f)
		w.wake(f)
	}
	w.count--
	w.bytes -= int64(size)
	if async {
		w.async--
	}
}

// applied records the footprints of an applied write set.
func (w *window) applied(feet []foot, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range feet {
		e := footAt{f, w.hash(f), index}
		if len(w.ring) < windowSize {
			w.ring = append(w.ring, e)
		} else {
			old := w.ring[w.head]
			w.floor = old.index
			if w.recent[old.hash] == old.index {
				delete(w.recent, old.hash)
			}
			w.ring[w.head] = e
			w.head = (w.head + 1) % windowSize
		}
		w.recent[e.hash] = index
	}
}

// wake lets the first transaction waiting for f try again. mu is held.
func (w *window) wake(f foot) {
	q := w.waiters[f]
	if len(q) == 0 {
		return
	}
	close(q[0])
	if len(q) == 1 {
		delete(w.waiters, f)
		return
	}
	w.waiters[f] = q[1:]
}

// join queues for f; nil means f is free already. A transaction that has waited for f before goes first.
func (w *window) join(f foot, first bool) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending[f] == 0 {
		return nil
	}
	ch := make(chan struct{})
	if first {
		w.waiters[f] = append([]chan struct{}{ch}, w.waiters[f]...)
	} else {
		w.waiters[f] = append(w.waiters[f], ch)
	}
	return ch
}

// leave gives up waiting.
func (w *window) leave(f foot, ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.waiters[f]
	for i := range q {
		if q[i] == ch {
			q = append(q[:i:i], q[i+1:]...)
			if w.waiters[f] = q; len(q) == 0 {
				delete(w.waiters, f)
			}
			return
		}
	}
	w.passLocked(f) // it was woken already: hand the turn on
}

// pass hands on a turn that was not used.
func (w *window) pass(f foot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passLocked(f)
}

func (w *window) passLocked(f foot) {
	if w.pending[f] == 0 {
		w.wake(f)
	}
}

// load returns the queue's fill.
func (w *window) load() (count int, bytes int64, async int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count, w.bytes, w.async
}
