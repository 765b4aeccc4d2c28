package backupfmt

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/snapshot"
)

// A run is a sorted sequence of rows. It is cut into chunks, each a block of package snapshot; chunks are gathered in frames
// of packs, and lists say in which order. An item of a list:
//
//	flags u8: 1 same frame as the item before
//	[pack uvarint, frame number uvarint, frame offset uvarint, frame length uvarint]   if not the same frame
//	offset in the decoded frame uvarint | length uvarint | rows uvarint | chunk id (16) | table string | key string of the first row
//
// pack is a position in the manifest's table of packs. Every list object is decoded by itself.
type item struct {
	id     chunkID
	table  string // of the first row
	key    []byte
	rows   uint32
	pack   int
	frame  object.Frame
	offset uint32 // in the decoded frame
	length uint32
}

// chunkID names a chunk by its content: the first 16 bytes of BLAKE3 keyed with a secret of the repository, so that the
// name tells nothing about the content to whoever does not know the key.
type chunkID [16]byte

const (
	itemSameFrame = 1

	// Chunk borders depend on keys, not on positions: a changed row changes the chunk it is in, and no other. A row
	// ends a chunk, once that has the least size, if the hash of its key is below a threshold that grows with the size of the row, so
	// that chunks have the same average size whatever the size of the rows.
	chunkLeast   = 8 << 10
	chunkAverage = 8 << 10 // beyond the least
	chunkMost    = 64 << 10

	// frameSize is the unit of compression and sealing. Small chunks keep what must be stored again small, large frames keep the
	// ratio of the compression: every one begins with nothing to refer to. A restore holds frames of all incrementals of a chain at the
	// same time, so theirs are smaller.
	frameSize      = 2 << 20
	deltaFrameSize = 1 << 20

	// listSize is how much of a list, decoded, is put in one object.
	listSize = 1 << 20
)

// namer computes chunk ids. Not for concurrent use.
type namer struct{ h *blake3.Hasher }

func newNamer(key []byte) (*namer, error) {
	h, err := blake3.NewKeyed(key)
	if err != nil {
		return nil, fmt.Errorf("backup: chunk names: %w", err)
	}
	return &namer{h}, nil
}

func (n *namer) id(b []byte) (id chunkID) {
	n.h.Reset()
	_, _ = n.h.Write(b) // a hash never fails
	var sum [32]byte
	n.h.Sum(sum[:0])
	copy(id[:], sum[:])
	return id
}

// endsChunk decides whether a row may be the last of its chunk. fnv-1a is enough: borders need to be spread, not secret.
func endsChunk(e *snapshot.Entry) bool {
	h := uint64(14695981039346656037)
	for i := range len(e.Table) {
		h = (h ^ uint64(e.Table[i])) * 1099511628211
	}
	for _, c := range e.Key {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	size := uint64(len(e.Key)+len(e.Value)) + 8
	return h%chunkAverage < size
}

func (i *item) append(dst []byte, prev *item) []byte {
	same := prev != nil && prev.pack == i.pack && prev.frame == i.frame
	if same {
		dst = append(dst, itemSameFrame)
	} else {
		dst = append(dst, 0)
		dst = binary.AppendUvarint(dst, uint64(i.pack))
		dst = binary.AppendUvarint(dst, uint64(i.frame.Number))
		dst = binary.AppendUvarint(dst, uint64(i.frame.Offset))
		dst = binary.AppendUvarint(dst, uint64(i.frame.Length))
	}
	dst = binary.AppendUvarint(dst, uint64(i.offset))
	dst = binary.AppendUvarint(dst, uint64(i.length))
	dst = binary.AppendUvarint(dst, uint64(i.rows))
	dst = append(dst, i.id[:]...)
	dst = appendString(dst, i.table)
	return appendString(dst, i.key)
}

func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// parseItems decodes a whole list object.
func parseItems(b []byte, packs int) ([]item, error) {
	d := decoder{b: b}
	var out []item
	for len(d.b) > 0 && !d.bad {
		var i item
		if d.byte() == itemSameFrame {
			if len(out) == 0 {
				d.fail()
			} else {
				i.pack, i.frame = out[len(out)-1].pack, out[len(out)-1].frame
			}
		} else {
			i.pack = int(d.number(uint64(max(packs-1, 0))))
			i.frame = object.Frame{Number: d.u32(), Offset: d.u32(), Length: d.u32()}
		}
		i.offset, i.length, i.rows = d.u32(), d.u32(), d.u32()
		copy(i.id[:], d.take(16))
		i.table, i.key = string(d.string()), d.string()
		out = append(out, i)
	}
	if d.bad || packs == 0 && len(out) > 0 {
		return nil, fmt.Errorf("%w: list does not decode", ErrDamaged)
	}
	return out, nil
}

// decoder reads from b; after the first problem everything it returns is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) number(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) u32() uint32 { return uint32(d.number(1<<32 - 1)) }

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	s := d.b[:n:n]
	d.b = d.b[n:]
	return s
}

func (d *decoder) string() []byte { return d.take(d.number(uint64(len(d.b)))) }
