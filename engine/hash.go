package engine

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// lanes is the state hash: four 64-bit sums over the BLAKE3-256 of every row. Sums do not depend on order and rows can
// be taken out again, so it follows every write at the cost of hashing the old and the new row. It finds divergence
// and damage; it is not meant to withstand somebody who chooses rows to collide.
type lanes [4]uint64

func (l *lanes) add(h *[32]byte) {
	for i := range l {
		l[i] += be.Uint64(h[8*i:])
	}
}

func (l *lanes) sub(h *[32]byte) {
	for i := range l {
		l[i] -= be.Uint64(h[8*i:])
	}
}

func (l lanes) append(dst []byte) []byte {
	for _, v := range l {
		dst = be.AppendUint64(dst, v)
	}
	return dst
}

func (l lanes) bytes() (h [32]byte) {
	l.append(h[:0])
	return h
}

// rowHasher hashes rows through a reused buffer. Not for concurrent use.
type rowHasher struct{ buf []byte }

// row hashes  len(rowkey) u32 | table 0x00 key | mod_index u64 | deadline u64 | len(value) u32 | value.
// rowKey is the Pebble key; value is the plain value, so that encrypted and plain stores agree.
func (h *rowHasher) row(rowKey []byte, mod uint64, deadline int64, value []byte) [32]byte {
	b := be.AppendUint32(h.buf[:0], uint32(len(rowKey)-1))
	b = append(b, rowKey[1:]...)
	b = be.AppendUint64(b, mod)
	b = be.AppendUint64(b, uint64(deadline))
	b = be.AppendUint32(b, uint32(len(value)))
	if len(value) <= 64<<10 {
		b = append(b, value...)
		h.buf = b
		return blake3.Sum256(b)
	}
	h.buf = b
	big := blake3.New()
	_, _ = big.Write(b) // hashing never fails
	_, _ = big.Write(value)
	var sum [32]byte
	big.Sum(sum[:0])
	return sum
}

// fingerprint identifies the set of rows a scan saw: their number and two 64-bit sums over BLAKE3 of each
// (index key, key, mod_index). Order does not matter, so forward and reverse scans agree.
type fingerprint struct {
	count  uint64
	lo, hi uint64
}

// add takes one row in; indexKey is nil for table scans. It returns the grown scratch buffer.
func (f *fingerprint) add(scratch, indexKey, key []byte, mod uint64) []byte {
	b := binary.AppendUvarint(scratch[:0], uint64(len(indexKey)))
	b = append(b, indexKey...)
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = be.AppendUint64(b, mod)
	h := blake3.Sum256(b)
	f.count++
	f.lo += be.Uint64(h[:])
	f.hi += be.Uint64(h[8:])
	return b
}
