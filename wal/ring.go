package wal

import (
	"encoding/binary"
	"slices"
)

// A ring holds the newest entries decoded, so that followers and watchers
// read them without a system call. Guarded by Log.idx.
type ring struct {
	arena []byte
	limit int // that the arena grows to
	pos   int // where the next data goes
	slots []slot
	head  int // oldest slot
	n     int
	first uint64 // index of the oldest entry
}

type slot struct {
	off, n   int
	termType uint64
}

// maxRingEntries bounds the slots; raft reads back at most about this many.
const maxRingEntries = 8192

// firstArena is where the arena's doubling starts: a log that is opened and
// hardly written to does not pay for clearing megabytes.
const firstArena = 64 << 10

func newRing(size int64) *ring {
	return &ring{arena: make([]byte, min(size, firstArena)), limit: int(size), slots: make([]slot, maxRingEntries)}
}

// grow makes room for n bytes behind pos, up to the limit. The arena has its
// final size before the ring wraps for the first time.
func (r *ring) grow(n int) {
	size := len(r.arena)
	for size < r.limit && r.pos+n > size {
		size = min(2*size, r.limit)
	}
	if size > len(r.arena) {
		arena := make([]byte, size)
		copy(arena, r.arena)
		r.arena = arena
	}
}

func (r *ring) clear() { r.n, r.pos = 0, 0 }

// addBatch copies the entries of a durable batch.
func (r *ring) addBatch(b *batch) {
	index := b.first
	for _, off := range b.offsets {
		rec := b.buf[off-b.base:]
		size := int(binary.LittleEndian.Uint32(rec[4:]) & lengthMask)
		r.add(index, binary.LittleEndian.Uint64(rec[16:]), rec[recordHeader:recordHeader+size])
		index++
	}
}

func (r *ring) add(index, termType uint64, data []byte) {
	if r.n > 0 && index != r.first+uint64(r.n) || len(data) > r.limit/2 {
		r.clear()
		if len(data) > r.limit/2 {
			return
		}
	}
	r.grow(len(data))
	if r.pos+len(data) > len(r.arena) {
		for r.n > 0 && r.slots[r.head].off >= r.pos {
			r.dropOldest()
		}
		r.pos = 0
	}
	end := r.pos + len(data)
	for r.n > 0 && (r.n == len(r.slots) || r.slots[r.head].off >= r.pos && r.slots[r.head].off < end) {
		r.dropOldest()
	}
	if r.n == 0 {
		r.first = index
	}
	copy(r.arena[r.pos:end], data)
	r.slots[(r.head+r.n)%len(r.slots)] = slot{r.pos, len(data), termType}
	r.n++
	r.pos = end
}

func (r *ring) dropOldest() {
	r.head = (r.head + 1) % len(r.slots)
	r.first++
	r.n--
}

func (r *ring) truncateFront(index uint64) {
	for r.n > 0 && r.first < index {
		r.dropOldest()
	}
}

func (r *ring) truncateBack(index uint64) {
	for r.n > 0 && r.first+uint64(r.n)-1 >= index {
		r.n--
	}
	if r.n == 0 {
		r.clear()
	}
}

// get appends the entry's data to buf.
func (r *ring) get(index uint64, buf []byte) (Entry, bool) {
	if r.n == 0 || index < r.first || index >= r.first+uint64(r.n) {
		return Entry{}, false
	}
	s := r.slots[(r.head+int(index-r.first))%len(r.slots)]
	buf = append(slices.Grow(buf, s.n), r.arena[s.off:s.off+s.n]...)
	return Entry{Index: index, Term: s.termType >> 8, Type: EntryType(s.termType), Data: buf}, true
}
