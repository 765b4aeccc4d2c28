package snapshot

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/zeebo/blake3"
)

// Layout of the stream. docs/format.md is the law; this file holds the same facts as code. Integers are
// little-endian unless they are uvarint.
//
//	header:
//	  0   magic "ERLMSNAP"
//	  8   version u16 = 1
//	  10  flags u16 = 0
//	  12  length of the payload u32
//	  16  payload: index u64 | term u64 | chain (32) | log id (16) | created Unix ms i64 | membership length u32 | membership
//	  ..  digest (32) = BLAKE3 of everything before
//
//	element, numbered from 0:
//	  0   kind u8: 'B' block, 'I' index page, 'F' footer
//	  1   codec u8: 0 as is, 1 zstd
//	  2   zero u16
//	  4   stored length u32
//	  8   number u64
//	  16  raw length u32 (after decoding)
//	  20  items u32: rows of a block, blocks of an index page, 0 for the footer
//	  24  digest (32) = BLAKE3(header digest | bytes 0..24 | stored bytes)
//	  56  stored bytes
//
//	footer, raw:
//	  blocks u64 | rows u64 | raw bytes of all blocks u64 | state hash (32) | root (32)
//	  tables uvarint, each: name | rows uvarint
//	  index pages uvarint, each: offset uvarint
//	  root = BLAKE3(header digest | digests of all elements before the footer)
//
//	index page, raw, per block:  offset uvarint | rows uvarint | table of the first row | key of the first row
//
//	tail:  offset of the footer element u64 | magic "ERLMSEND"
//
// Strings are uvarint length | bytes. The inside of a block is drawn in block.go.
const (
	magicHeader = "ERLMSNAP"
	magicTail   = "ERLMSEND"
	version     = 1

	headerFixed  = 16
	payloadFixed = 8 + 8 + 32 + 16 + 8 + 4
	digestSize   = 32
	frameSize    = 56
	tailSize     = 16

	kindBlock  = 'B'
	kindIndex  = 'I'
	kindFooter = 'F'

	codecRaw  = 0
	codecZstd = 1

	footerFixed = 8 + 8 + 8 + 32 + 32

	// MaxMembership bounds the membership bytes of a header.
	MaxMembership = 1 << 20
	// MaxKey bounds the key of a row; the engine's own limit is lower.
	MaxKey = 1 << 20
	// MaxValue bounds the value of a row; the engine's own limit is lower.
	MaxValue = 64 << 20

	maxName  = 64
	maxBlock = MaxValue + MaxKey + 1<<10 // a block always has room for one row of the largest size
	maxIndex = pageBlocks * (MaxKey + maxName + 32)

	// pageBlocks is how many blocks one index page lists: it bounds the writer's memory.
	pageBlocks = 1024
)

var le = binary.LittleEndian

// Header says of which state a snapshot is the image.
type Header struct {
	Index      uint64    // log index of the newest entry that is in the image
	Term       uint64    // term of that entry
	Chain      [32]byte  // chain value of the log at or before Index, zero if unknown
	LogID      [16]byte  // identity of the log the image came from
	Created    time.Time // when it was taken, millisecond precision
	Membership []byte    // cluster membership, opaque; at most MaxMembership bytes
}

// encode returns the header with its digest.
func (h *Header) encode() ([]byte, error) {
	if len(h.Membership) > MaxMembership {
		return nil, fmt.Errorf("%w: membership of %d bytes, limit %d", ErrTooLarge, len(h.Membership), MaxMembership)
	}
	b := make([]byte, 0, headerFixed+payloadFixed+len(h.Membership)+digestSize)
	b = append(b, magicHeader...)
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, uint32(payloadFixed+len(h.Membership)))
	b = le.AppendUint64(b, h.Index)
	b = le.AppendUint64(b, h.Term)
	b = append(b, h.Chain[:]...)
	b = append(b, h.LogID[:]...)
	var ms int64
	if !h.Created.IsZero() {
		ms = h.Created.UnixMilli()
	}
	b = le.AppendUint64(b, uint64(ms))
	b = le.AppendUint32(b, uint32(len(h.Membership)))
	b = append(b, h.Membership...)
	sum := blake3.Sum256(b)
	return append(b, sum[:]...), nil
}

// headerLength returns the length of the whole header from its first 16 bytes.
func headerLength(b []byte) (int, error) {
	if len(b) < headerFixed || string(b[:8]) != magicHeader {
		return 0, ErrNotSnapshot
	}
	v, flags, n := le.Uint16(b[8:]), le.Uint16(b[10:]), le.Uint32(b[12:])
	if v > version {
		return 0, fmt.Errorf("%w: version %d", ErrVersion, v)
	}
	if v != version || flags != 0 || n < payloadFixed || n > payloadFixed+MaxMembership {
		return 0, &CorruptError{Element: -1, Reason: "impossible version, flags or length"}
	}
	return headerFixed + int(n) + digestSize, nil
}

// decodeHeader decodes a header of exactly headerLength bytes and returns its digest.
func decodeHeader(b []byte) (h Header, digest [32]byte, err error) {
	n, err := headerLength(b)
	if err != nil {
		return h, digest, err
	}
	if len(b) != n {
		return h, digest, &CorruptError{Element: -1, Reason: "cut short"}
	}
	digest = blake3.Sum256(b[:n-digestSize])
	if digest != [32]byte(b[n-digestSize:]) {
		return h, digest, &CorruptError{Element: -1, Reason: "digest does not match"}
	}
	p := b[headerFixed : n-digestSize]
	h.Index, h.Term = le.Uint64(p), le.Uint64(p[8:])
	copy(h.Chain[:], p[16:48])
	copy(h.LogID[:], p[48:64])
	if ms := int64(le.Uint64(p[64:])); ms != 0 {
		h.Created = time.UnixMilli(ms).UTC()
	}
	m := p[payloadFixed:]
	if uint64(le.Uint32(p[72:])) != uint64(len(m)) {
		return h, digest, &CorruptError{Element: -1, Reason: "membership length does not match"}
	}
	h.Membership = append([]byte(nil), m...)
	return h, digest, nil
}

// frame is the fixed part of an element.
type frame struct {
	kind   byte
	codec  byte
	stored uint32
	number uint64
	raw    uint32
	items  uint32
	digest [32]byte
}

// put encodes everything but the digest.
func (f *frame) put(b []byte) {
	b[0], b[1], b[2], b[3] = f.kind, f.codec, 0, 0
	le.PutUint32(b[4:], f.stored)
	le.PutUint64(b[8:], f.number)
	le.PutUint32(b[16:], f.raw)
	le.PutUint32(b[20:], f.items)
}

// seal computes the digest and stores it in the frame and in b.
func (f *frame) seal(b []byte, header *[32]byte, stored []byte) {
	f.put(b)
	f.digest = elementDigest(header, b[:24], stored)
	copy(b[24:], f.digest[:])
}

func elementDigest(header *[32]byte, fixed, stored []byte) (d [32]byte) {
	h := blake3.New()
	_, _ = h.Write(header[:]) // a hash never fails
	_, _ = h.Write(fixed)
	_, _ = h.Write(stored)
	h.Sum(d[:0])
	return d
}

// decodeFrame checks everything that can be checked before the stored bytes are read. reason is "" if it is well formed.
func decodeFrame(b []byte) (f frame, reason string) {
	f.kind, f.codec = b[0], b[1]
	f.stored, f.number = le.Uint32(b[4:]), le.Uint64(b[8:])
	f.raw, f.items = le.Uint32(b[16:]), le.Uint32(b[20:])
	copy(f.digest[:], b[24:])
	limit := uint32(maxBlock)
	switch f.kind {
	case kindBlock, kindFooter:
	case kindIndex:
		limit = maxIndex
	default:
		return f, fmt.Sprintf("unknown kind 0x%02x", f.kind)
	}
	switch {
	case b[2] != 0 || b[3] != 0:
		return f, "reserved bytes are not zero"
	case f.codec > codecZstd:
		return f, fmt.Sprintf("unknown codec %d", f.codec)
	case f.raw > limit || f.stored > limit:
		return f, fmt.Sprintf("impossible length %d/%d", f.stored, f.raw)
	case f.codec == codecRaw && f.raw != f.stored:
		return f, "lengths of an uncompressed element differ"
	case f.codec == codecZstd && f.stored >= f.raw:
		return f, "compressed element is not smaller"
	case f.kind == kindFooter && f.items != 0, f.kind != kindFooter && f.items == 0:
		return f, "impossible item count"
	}
	return f, ""
}

// Footer closes a snapshot.
type Footer struct {
	Blocks    uint64
	Rows      uint64
	RawBytes  uint64            // of all blocks before compression
	StateHash [32]byte          // equal to the engine's state hash of the same rows
	Root      [32]byte          // identifies the snapshot: covers header and every block
	Tables    map[string]uint64 // rows per table

	order []string // table names, ascending
	pages []uint64 // offsets of the index pages
}

func (f *Footer) encode() []byte {
	b := make([]byte, 0, footerFixed+len(f.pages)*4+len(f.order)*16)
	b = le.AppendUint64(b, f.Blocks)
	b = le.AppendUint64(b, f.Rows)
	b = le.AppendUint64(b, f.RawBytes)
	b = append(b, f.StateHash[:]...)
	b = append(b, f.Root[:]...)
	b = binary.AppendUvarint(b, uint64(len(f.order)))
	for _, t := range f.order {
		b = appendString(b, t)
		b = binary.AppendUvarint(b, f.Tables[t])
	}
	b = binary.AppendUvarint(b, uint64(len(f.pages)))
	for _, p := range f.pages {
		b = binary.AppendUvarint(b, p)
	}
	return b
}

func decodeFooter(b []byte) (f Footer, reason string) {
	if len(b) < footerFixed {
		return f, "footer is too short"
	}
	f.Blocks, f.Rows, f.RawBytes = le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	copy(f.StateHash[:], b[24:])
	copy(f.Root[:], b[56:])
	d := decoder{b: b[footerFixed:]}
	f.Tables = map[string]uint64{}
	for range d.count(2) {
		name := string(d.bytes(maxName))
		if n := len(f.order); n > 0 && f.order[n-1] >= name {
			d.fail("tables out of order")
		}
		f.order = append(f.order, name)
		f.Tables[name] = d.uvarint()
	}
	for range d.count(1) {
		f.pages = append(f.pages, d.uvarint())
	}
	if d.reason == "" && len(d.b) != 0 {
		d.fail("bytes after the end of the footer")
	}
	return f, d.reason
}

func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// decoder reads from b; after the first problem everything it returns is zero.
type decoder struct {
	b      []byte
	reason string
}

func (d *decoder) fail(reason string) {
	if d.reason == "" {
		d.reason = reason
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 { // a padded number would be a second way to write the same thing
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes reads a string of at most limit bytes; the result aliases b.
func (d *decoder) bytes(limit int) []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) || n > uint64(limit) {
		d.fail("bad length")
		return nil
	}
	s := d.b[:n:n]
	d.b = d.b[n:]
	return s
}

// count reads the number of items that take at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail("bad count")
		return 0
	}
	return int(n)
}
