package snapshot

import (
	"encoding/binary"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/internal/manyhash"
)

// StateHash is the order-independent hash of a set of rows, the same as the engine's: four 64-bit sums over the
// BLAKE3-256 of
//
//	length of (table 0x00 key) u32 | table 0x00 key | mod_index u64 | deadline u64 | length of value u32 | value
//
// with big-endian integers. The zero value is the hash of no rows. Not for concurrent use; sums of parts can be merged. Rows are
// hashed many at once: Sum and Merge hash those that still wait.
type StateHash struct {
	lanes [4]uint64
	wait  *hashBatch // nil: none
}

// Add takes a row in.
func (s *StateHash) Add(e *Entry) {
	if len(e.Value) > bigValue {
		h := hashBig(e)
		s.take(&h)
		return
	}
	if s.wait == nil {
		s.wait = newHashBatch()
	}
	if s.wait.add(e) {
		s.flush()
	}
}

func (s *StateHash) take(h *[32]byte) {
	for i := range s.lanes {
		s.lanes[i] += binary.BigEndian.Uint64(h[8*i:])
	}
}

func (s *StateHash) flush() {
	if s.wait != nil {
		s.lanes = s.wait.sum(s.lanes)
		s.wait.free()
		s.wait = nil
	}
}

// Merge takes the rows of another hash in.
func (s *StateHash) Merge(o *StateHash) {
	o.flush()
	for i := range s.lanes {
		s.lanes[i] += o.lanes[i]
	}
}

// Reset forgets all rows.
func (s *StateHash) Reset() {
	s.wait.free()
	*s = StateHash{}
}

// Sum returns the hash of the rows so far.
func (s *StateHash) Sum() (h [32]byte) {
	s.flush()
	for i, v := range s.lanes {
		binary.BigEndian.PutUint64(h[8*i:], v)
	}
	return h
}

const (
	// bigValue is from where on a value is hashed in place instead of being copied behind its row.
	bigValue = 60 << 10

	batchBytes = 192 << 10
	batchRows  = 512
)

// hashBatch is rows that are hashed together.
type hashBatch struct {
	h    *manyhash.Hasher
	buf  []byte
	msgs [][]byte
	out  [][32]byte
}

var hashBatches = sync.Pool{New: func() any {
	return &hashBatch{h: manyhash.New(), buf: make([]byte, 0, batchBytes+bigValue+4096), out: make([][32]byte, batchRows)}
}}

func newHashBatch() *hashBatch {
	b := hashBatches.Get().(*hashBatch)
	b.buf, b.msgs = b.buf[:0], b.msgs[:0]
	return b
}

func (b *hashBatch) free() {
	if b != nil {
		hashBatches.Put(b)
	}
}

// add copies a row; full: there is no room for another one.
func (b *hashBatch) add(e *Entry) (full bool) {
	at := len(b.buf)
	b.buf = append(appendHashed(b.buf, e), e.Value...)
	b.msgs = append(b.msgs, b.buf[at:])
	return len(b.buf) >= batchBytes || len(b.msgs) == batchRows
}

// sum adds the hashes of the rows to lanes.
func (b *hashBatch) sum(lanes [4]uint64) [4]uint64 {
	out := b.out[:len(b.msgs)]
	b.h.Sum(b.msgs, out)
	s := StateHash{lanes: lanes}
	for i := range out {
		s.take(&out[i])
	}
	return s.lanes
}

// appendHashed appends what is hashed of a row, without its value.
func appendHashed(b []byte, e *Entry) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, uint32(len(e.Table)+1+len(e.Key)))
	b = append(b, e.Table...)
	b = append(b, 0)
	b = append(b, e.Key...)
	b = be.AppendUint64(b, e.ModIndex)
	b = be.AppendUint64(b, uint64(e.Deadline))
	return be.AppendUint32(b, uint32(len(e.Value)))
}

func hashBig(e *Entry) (sum [32]byte) {
	h := blake3.New()
	_, _ = h.Write(appendHashed(nil, e)) // a hash never fails
	_, _ = h.Write(e.Value)
	h.Sum(sum[:0])
	return sum
}

// Hashing is a StateHash that is computed beside the goroutine that adds rows. Not for concurrent use. Sum must be called, also if its
// result is not needed: it ends the work in the background.
type Hashing struct {
	big  StateHash
	cur  *hashBatch
	jobs chan *hashBatch
	done chan [4]uint64
}

// NewHashing begins.
func NewHashing() *Hashing {
	h := &Hashing{jobs: make(chan *hashBatch, 2), done: make(chan [4]uint64, 1)}
	go func() {
		var lanes [4]uint64
		for b := range h.jobs {
			lanes = b.sum(lanes)
			b.free()
		}
		h.done <- lanes
	}()
	return h
}

// Add takes a row in.
func (h *Hashing) Add(e *Entry) {
	if len(e.Value) > bigValue {
		h.big.Add(e)
		return
	}
	if h.cur == nil {
		h.cur = newHashBatch()
	}
	if h.cur.add(e) {
		h.jobs <- h.cur
		h.cur = nil
	}
}

// Sum returns the hash of the rows; only once, and Add must not be called any more.
func (h *Hashing) Sum() [32]byte {
	if h.cur != nil {
		h.jobs <- h.cur
	}
	close(h.jobs)
	h.big.Merge(&StateHash{lanes: <-h.done})
	return h.big.Sum()
}
