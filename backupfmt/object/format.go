package object

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/zeebo/blake3"
)

// Layout, integers little-endian:
//
//	header (72):
//	  0   magic "ERLMOBJ1"
//	  8   kind u8
//	  9   flags u8: 1 sealed with AES-256-GCM, 2 resealed: the clear section begins with the identity (32), see Reseal
//	  10  zero u16
//	  12  key epoch u32, 0 if not sealed
//	  16  repository id (16)
//	  32  object id (16), random
//	  48  frames u32, without the directory
//	  52  length of the clear section u32
//	  56  length of the body u32: all frames and the directory
//	  60  length of the directory u32: the last part of the body
//	  64  zero u32
//	  68  CRC32C of bytes 0..68
//	clear section
//	frame: GCM of (codec u8 | raw length u32 | data) and its 16-byte tag, or, not sealed, the same in clear and the first 16 bytes of
//	       BLAKE3 of (additional data | codec | raw length | data)
//	       nonce = frame number u32 | 8 zero bytes; key = HKDF-SHA256(epoch key, salt = repository id | object id, info = "erlmcp backup object v1" | kind)
//	       additional data = header bytes 0..48 | frame number u32 | 0, for the directory 1 | BLAKE3 of the clear section
//	directory: the last frame; its data: frames uvarint, per frame stored length uvarint, then bytes of the kind
//	footer (128), twice: behind the body, and at the end
//	  0   magic "ERLMOBJF"
//	  8   covered length u64: header, clear section and body
//	  16  shard size u32
//	  20  data shards per group u16
//	  22  parity shards per group u16
//	  24  groups u32
//	  28  zero u32
//	  32  BLAKE3 of the covered bytes
//	  64  BLAKE3 of the check section
//	  96  object id
//	  112 zero (12)
//	  124 CRC32C of bytes 0..124
//	check section, between the footers:
//	  CRC32C of every data shard | CRC32C of every parity shard | parity shards
//	  Data shard i covers bytes i*size.. of the covered bytes (the last one padded with zeros) and belongs to group i mod groups, so
//	  that contiguous damage is spread over all groups. Parity shard p of group g is number g*parity+p.
const (
	magicHeader = "ERLMOBJ1"
	magicFooter = "ERLMOBJF"

	// HeaderSize and FooterSize are fixed.
	HeaderSize = 72
	// FooterSize is the size of each of the two footers.
	FooterSize = 128

	flagSealed   = 1
	flagResealed = 2
	tagSize      = 16
	prefixSize   = 5 // codec and raw length inside a frame
	aadFixed     = 48

	identitySize = 32 // at the beginning of the clear section of a resealed object

	codecRaw  = 0
	codecZstd = 1

	// MaxFrame bounds the decoded size of a frame.
	MaxFrame = 65 << 20
	// MaxCovered bounds header, clear section and body.
	MaxCovered = 120 << 20

	bigShard  = 4096
	smallFrom = 64 << 10 // objects below this are cut into 16 shards
)

// Kind of an object.
type Kind byte

// Kinds.
const (
	Pack     Kind = 'P' // chunks of rows
	List     Kind = 'L' // where the chunks of a run are
	Manifest Kind = 'M' // a link of the chain
	Archive  Kind = 'A' // a piece of the log
	Head     Kind = 'H' // the newest link
	Proof    Kind = 'D' // a drill that was passed or failed
	Table    Kind = 'T' // which table of shards is the right one
)

// Sentinel errors; test with errors.Is.
var (
	// ErrDamaged: the stored bytes are not what was stored. Heal may help.
	ErrDamaged = errors.New("object: damaged")
	// ErrForged: the stored bytes are consistent, but were not written by a holder of the key, or as another object.
	ErrForged = errors.New("object: does not authenticate")
	// ErrNotObject: the bytes do not look like an object at all.
	ErrNotObject = errors.New("object: not an object of a backup repository")
	// ErrUnhealable: more is damaged than the parity can restore.
	ErrUnhealable = errors.New("object: damaged beyond repair")
	// ErrTooLarge: a frame or object is over its limit.
	ErrTooLarge = errors.New("object: too large")
	// ErrNoKey: the object is sealed with a key epoch that is not at hand.
	ErrNoKey = errors.New("object: no key for the epoch of the object")
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// ID identifies a repository or an object.
type ID [16]byte

// String is the ID in hex.
func (i ID) String() string { return fmt.Sprintf("%x", i[:]) }

// Digest identifies the stored bytes of an object.
type Digest [32]byte

// Header is the beginning of an object.
type Header struct {
	Kind   Kind
	Sealed bool
	Epoch  uint32
	Repo   ID
	ID     ID
	Frames uint32
	Clear  uint32 // length of the clear section
	Body   uint32 // length of the body
	Dir    uint32 // length of the directory, the last part of the body

	Resealed bool // see Reseal; the identity counts to Clear
}

func (h *Header) put(b []byte) {
	clear(b[:HeaderSize])
	copy(b, magicHeader)
	b[8] = byte(h.Kind)
	if h.Sealed {
		b[9] = flagSealed
	}
	if h.Resealed {
		b[9] |= flagResealed
	}
	le.PutUint32(b[12:], h.Epoch)
	copy(b[16:], h.Repo[:])
	copy(b[32:], h.ID[:])
	le.PutUint32(b[48:], h.Frames)
	le.PutUint32(b[52:], h.Clear)
	le.PutUint32(b[56:], h.Body)
	le.PutUint32(b[60:], h.Dir)
	le.PutUint32(b[68:], crc32.Checksum(b[:68], castagnoli))
}

// ParseHeader decodes the first HeaderSize bytes: ErrNotObject, ErrDamaged.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize || string(b[:8]) != magicHeader {
		return Header{}, ErrNotObject
	}
	if crc32.Checksum(b[:68], castagnoli) != le.Uint32(b[68:]) || b[9]&^(flagSealed|flagResealed) != 0 || b[9] == flagResealed || b[10] != 0 || b[11] != 0 || le.Uint32(b[64:]) != 0 {
		return Header{}, fmt.Errorf("%w: header", ErrDamaged)
	}
	h := Header{
		Kind: Kind(b[8]), Sealed: b[9]&flagSealed != 0, Resealed: b[9]&flagResealed != 0, Epoch: le.Uint32(b[12:]), Repo: ID(b[16:32]), ID: ID(b[32:48]),
		Frames: le.Uint32(b[48:]), Clear: le.Uint32(b[52:]), Body: le.Uint32(b[56:]), Dir: le.Uint32(b[60:]),
	}
	if h.covered() > MaxCovered || h.Frames > h.Body || h.Dir > h.Body || h.Clear < h.Shift() {
		return h, fmt.Errorf("%w: impossible lengths in the header", ErrDamaged)
	}
	return h, nil
}

func (h *Header) covered() int64 { return HeaderSize + int64(h.Clear) + int64(h.Body) }

// Size is the size of the whole object.
func (h *Header) Size() int64 { return layoutOf(h.covered()).total() }

// FirstSize is the size that the object had when it was first written, before it was resealed.
func (h *Header) FirstSize() int64 { return layoutOf(h.covered() - int64(h.Shift())).total() }

// Shift is how much further its frames lie than when it was first written: an offset that was noted then is Shift too small.
func (h *Header) Shift() uint32 {
	if h.Resealed {
		return identitySize
	}
	return 0
}

// ClearOf is the clear section without what a reseal put before it; b is the beginning of the object. False if b ends before.
func (h *Header) ClearOf(b []byte) ([]byte, bool) {
	if int64(len(b)) < HeaderSize+int64(h.Clear) {
		return nil, false
	}
	return b[HeaderSize+h.Shift() : HeaderSize+h.Clear], true
}

// identity is the digest that names the object for ever: that of its first form. covered holds at least header and clear section.
func (h *Header) identity(covered []byte, own Digest) Digest {
	if !h.Resealed {
		return own
	}
	return Digest(covered[HeaderSize : HeaderSize+identitySize])
}

// footer is one of the two ends of an object.
type footer struct {
	layout layout
	digest Digest // of the covered bytes
	checks [32]byte
	id     ID
}

func (f *footer) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, magicFooter...)
	dst = le.AppendUint64(dst, uint64(f.layout.covered))
	dst = le.AppendUint32(dst, uint32(f.layout.shard))
	dst = le.AppendUint16(dst, uint16(f.layout.data))
	dst = le.AppendUint16(dst, uint16(f.layout.parity))
	dst = le.AppendUint32(dst, uint32(f.layout.groups))
	dst = le.AppendUint32(dst, 0)
	dst = append(dst, f.digest[:]...)
	dst = append(dst, f.checks[:]...)
	dst = append(dst, f.id[:]...)
	dst = append(dst, make([]byte, 12)...)
	return le.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// parseFooter decodes a footer whose layout must be the one its covered length leads to.
func parseFooter(b []byte) (f footer, ok bool) {
	if len(b) < FooterSize || string(b[:8]) != magicFooter || crc32.Checksum(b[:124], castagnoli) != le.Uint32(b[124:]) {
		return f, false
	}
	covered := le.Uint64(b[8:])
	if covered < HeaderSize || covered > MaxCovered {
		return f, false
	}
	f.layout = layoutOf(int64(covered))
	copy(f.digest[:], b[32:])
	copy(f.checks[:], b[64:])
	copy(f.id[:], b[96:])
	l := f.layout
	same := int(le.Uint32(b[16:])) == l.shard && int(le.Uint16(b[20:])) == l.data && int(le.Uint16(b[22:])) == l.parity &&
		int(le.Uint32(b[24:])) == l.groups
	return f, same
}

// layout says how the covered bytes are cut into shards; it follows from their length alone.
type layout struct {
	covered int64
	shard   int // bytes
	shards  int // data shards of the object
	data    int // per group, the last one of some groups may be all padding
	parity  int // per group
	groups  int
}

// layoutOf: large objects are cut into 4 KiB shards, a disk's unit of loss, in groups of at most 248 with up to 7 parity shards
// (2.9 % of space): any 7 bad sectors of a group, or 7 contiguous sectors for each group, can be restored. Small objects, which
// matter more than their size (manifests), are cut into 16 shards with 4 of parity.
func layoutOf(covered int64) layout {
	l := layout{covered: covered, shard: bigShard, groups: 1}
	if covered < smallFrom {
		l.shard = int((covered+15)/16+63) &^ 63
		l.shards = int((covered + int64(l.shard) - 1) / int64(l.shard))
		l.data, l.parity = l.shards, 4
		return l
	}
	l.shards = int((covered + bigShard - 1) / bigShard)
	l.groups = (l.shards + 247) / 248
	l.data = (l.shards + l.groups - 1) / l.groups
	l.parity = min(7, max(4, (l.data+31)/32))
	return l
}

func (l layout) tableSize() int { return 4 * (l.shards + l.groups*l.parity) }
func (l layout) checkSize() int64 {
	return int64(l.tableSize()) + int64(l.groups)*int64(l.parity)*int64(l.shard)
}
func (l layout) total() int64 { return l.covered + 2*FooterSize + l.checkSize() }

func sum256(b []byte) [32]byte { return blake3.Sum256(b) }
