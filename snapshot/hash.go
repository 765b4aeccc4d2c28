package snapshot

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// StateHash is the order-independent hash of a set of rows, the same as the engine's: four 64-bit sums over the
// BLAKE3-256 of
//
//	length of (table 0x00 key) u32 | table 0x00 key | mod_index u64 | deadline u64 | length of value u32 | value
//
// with big-endian integers. The zero value is the hash of no rows. Not for concurrent use; sums of parts can be merged.
type StateHash struct {
	lanes [4]uint64
	buf   []byte
}

// Add takes a row in.
func (s *StateHash) Add(e *Entry) {
	h := s.row(e)
	for i := range s.lanes {
		s.lanes[i] += binary.BigEndian.Uint64(h[8*i:])
	}
}

// Merge takes the rows of another hash in.
func (s *StateHash) Merge(o *StateHash) {
	for i := range s.lanes {
		s.lanes[i] += o.lanes[i]
	}
}

// Reset forgets all rows.
func (s *StateHash) Reset() { s.lanes = [4]uint64{} }

// Sum returns the hash of the rows so far.
func (s *StateHash) Sum() (h [32]byte) {
	for i, v := range s.lanes {
		binary.BigEndian.PutUint64(h[8*i:], v)
	}
	return h
}

// bigValue is from where on a value is hashed in place instead of being copied behind its row.
const bigValue = 64 << 10

func (s *StateHash) row(e *Entry) (sum [32]byte) {
	be := binary.BigEndian
	b := be.AppendUint32(s.buf[:0], uint32(len(e.Table)+1+len(e.Key)))
	b = append(b, e.Table...)
	b = append(b, 0)
	b = append(b, e.Key...)
	b = be.AppendUint64(b, e.ModIndex)
	b = be.AppendUint64(b, uint64(e.Deadline))
	b = be.AppendUint32(b, uint32(len(e.Value)))
	if len(e.Value) <= bigValue {
		b = append(b, e.Value...)
		s.buf = b
		return blake3.Sum256(b)
	}
	s.buf = b
	h := blake3.New()
	_, _ = h.Write(b) // a hash never fails
	_, _ = h.Write(e.Value)
	h.Sum(sum[:0])
	return sum
}
