package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/zeebo/blake3"
)

// Layout of the log on disk. docs/format.md is the law; this file holds the
// same facts as code and nothing else. All integers are little-endian.
//
//	LOG              4096 bytes: identity of the log at 0, head marks at 1024 and 2048
//	<id>.seg         one file per segment, id as 16 hex digits
//
//	segment file, always exactly SegmentSize bytes:
//
//	  0              header (128 B), copy one
//	  2048           header, copy two
//	  4096           batch, batch, ... each on a BlockSize border
//	  tail           end mark (64 B) or 64 zero bytes
//	  ...            zeros, or remains of an older life of the file
//	  end            footer body, then footer (128 B), once the segment is sealed
//
//	batch:
//
//	  header 48 B | records, each 8-byte aligned (or AES-GCM of them) | trailer 128 B | zeros to the border
//
//	record:
//
//	  crc 4 | length 4 (bit 31: control record) | index 8 | term<<8|type 8 | data | zeros to 8
const (
	formatVersion = 1

	headerSize      = 128
	headerCopy      = 2048 // offset of the second header copy
	dataStart       = 4096 // offset of the first batch
	batchHeaderSize = 48
	recordHeader    = 24
	trailerSize     = 128
	endMarkSize     = 64
	footerSize      = 128
	batchRefSize    = 16
	identitySize    = 64
	logFileSize     = 4096
	headMarkSize    = 80
	headMarkStride  = 1024 // copy i stands at (i+1)*headMarkStride
	chainSize       = 32
	nonceSize       = 12
	gcmTagSize      = 16

	magicSegment = "erlmcpWS"
	magicFooter  = "erlmcpWF"
	magicLog     = "erlmcpWL"
	magicBatch   = "BATC"
	magicTrailer = "TRLR"
	magicEndMark = "ENDM"
	magicHead    = "HEAD"

	flagEncrypted = 1

	controlBit = 1 << 31
	lengthMask = controlBit - 1

	// maxTerm: terms share their word with the entry type.
	maxTerm = 1<<56 - 1
	// maxSegmentSize: offsets inside a segment are stored in 32 bits.
	maxSegmentSize = 1 << 31
)

// Control records steer the log itself; they take no index.
const (
	controlState byte = 1 // first record of every segment: log start and all meta values
	controlStart byte = 2 // the log now starts at {segment, index} (TruncateFront)
	controlNext  byte = 3 // the next entry has this index (TruncateBack, or a jump in an empty log)
	controlMeta  byte = 4 // a meta value was set or deleted
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errFormat = errors.New("wal: bad bytes")

// chainValue is the running BLAKE3 digest of all batches up to a point.
type chainValue [chainSize]byte

// genesis is the chain value before the first batch of a log.
func genesis(logID [16]byte) (c chainValue) {
	blake3.DeriveKey("erlmcp wal genesis v1", logID[:], c[:])
	return c
}

// identity is the content of the LOG file.
type identity struct {
	logID       [16]byte
	flags       uint16
	segmentSize int64
	createdMs   int64
	keyCheck    [8]byte
}

func (d *identity) encode() []byte {
	b := make([]byte, logFileSize)
	copy(b, magicLog)
	binary.LittleEndian.PutUint16(b[8:], formatVersion)
	binary.LittleEndian.PutUint16(b[10:], d.flags)
	copy(b[12:28], d.logID[:])
	binary.LittleEndian.PutUint64(b[28:], uint64(d.segmentSize))
	binary.LittleEndian.PutUint64(b[36:], uint64(d.createdMs))
	copy(b[44:52], d.keyCheck[:])
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func decodeIdentity(b []byte) (d identity, version uint16, err error) {
	if len(b) < identitySize || string(b[:8]) != magicLog {
		return d, 0, errFormat
	}
	if crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]) {
		return d, 0, errFormat
	}
	version = binary.LittleEndian.Uint16(b[8:])
	d.flags = binary.LittleEndian.Uint16(b[10:])
	copy(d.logID[:], b[12:28])
	d.segmentSize = int64(binary.LittleEndian.Uint64(b[28:]))
	d.createdMs = int64(binary.LittleEndian.Uint64(b[36:]))
	copy(d.keyCheck[:], b[44:52])
	return d, version, nil
}

// headMark stands in LOG, far from the tail: batch `number` was durable. It is
// a lower bound that stays true for ever, because batch numbers only grow. Two
// copies are written in turn, so that a torn write never loses the older one.
type headMark struct {
	sequence  uint64
	segment   uint64
	number    uint64
	lastIndex uint64
	offset    uint64 // end of the batch in the segment
	chain     chainValue
}

func (m *headMark) encode(b []byte, logID [16]byte) {
	copy(b, magicHead)
	binary.LittleEndian.PutUint64(b[8:], m.sequence)
	binary.LittleEndian.PutUint64(b[16:], m.segment)
	binary.LittleEndian.PutUint64(b[24:], m.number)
	binary.LittleEndian.PutUint64(b[32:], m.lastIndex)
	binary.LittleEndian.PutUint64(b[40:], m.offset)
	copy(b[48:80], m.chain[:])
	binary.LittleEndian.PutUint32(b[4:], crc32.Update(crc32.Checksum(logID[:], castagnoli), castagnoli, b[8:headMarkSize]))
}

func decodeHeadMark(b []byte, logID [16]byte) (m headMark, err error) {
	if len(b) < headMarkSize || string(b[:4]) != magicHead ||
		crc32.Update(crc32.Checksum(logID[:], castagnoli), castagnoli, b[8:headMarkSize]) != binary.LittleEndian.Uint32(b[4:]) {
		return m, errFormat
	}
	m.sequence = binary.LittleEndian.Uint64(b[8:])
	m.segment = binary.LittleEndian.Uint64(b[16:])
	m.number = binary.LittleEndian.Uint64(b[24:])
	m.lastIndex = binary.LittleEndian.Uint64(b[32:])
	m.offset = binary.LittleEndian.Uint64(b[40:])
	copy(m.chain[:], b[48:80])
	return m, nil
}

// segmentHeader opens a segment file. It is stored twice, in sectors of their
// own, and written when the segment becomes active.
type segmentHeader struct {
	flags       uint16
	blockSize   uint32
	segmentSize int64
	id          uint64
	firstIndex  uint64 // index the first entry of this segment has, or would have
	firstBatch  uint64 // number of the first batch
	createdMs   int64
	logID       [16]byte
	prevChain   chainValue
	keyCheck    [8]byte
}

func (h *segmentHeader) encode(b []byte) {
	clear(b[:headerSize])
	copy(b, magicSegment)
	binary.LittleEndian.PutUint16(b[8:], formatVersion)
	binary.LittleEndian.PutUint16(b[10:], h.flags)
	binary.LittleEndian.PutUint32(b[12:], h.blockSize)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.segmentSize))
	binary.LittleEndian.PutUint64(b[24:], h.id)
	binary.LittleEndian.PutUint64(b[32:], h.firstIndex)
	binary.LittleEndian.PutUint64(b[40:], h.firstBatch)
	binary.LittleEndian.PutUint64(b[48:], uint64(h.createdMs))
	copy(b[56:72], h.logID[:])
	copy(b[72:104], h.prevChain[:])
	copy(b[104:112], h.keyCheck[:])
	binary.LittleEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli))
}

func decodeSegmentHeader(b []byte) (h segmentHeader, err error) {
	if len(b) < headerSize || string(b[:8]) != magicSegment {
		return h, errFormat
	}
	if crc32.Checksum(b[:124], castagnoli) != binary.LittleEndian.Uint32(b[124:]) {
		return h, errFormat
	}
	if binary.LittleEndian.Uint16(b[8:]) != formatVersion {
		return h, ErrVersion
	}
	h.flags = binary.LittleEndian.Uint16(b[10:])
	h.blockSize = binary.LittleEndian.Uint32(b[12:])
	h.segmentSize = int64(binary.LittleEndian.Uint64(b[16:]))
	h.id = binary.LittleEndian.Uint64(b[24:])
	h.firstIndex = binary.LittleEndian.Uint64(b[32:])
	h.firstBatch = binary.LittleEndian.Uint64(b[40:])
	h.createdMs = int64(binary.LittleEndian.Uint64(b[48:]))
	copy(h.logID[:], b[56:72])
	copy(h.prevChain[:], b[72:104])
	copy(h.keyCheck[:], b[104:112])
	if !validBlockSize(int(h.blockSize)) || !validSegmentSize(h.segmentSize) {
		return h, errFormat
	}
	return h, nil
}

// seed starts every CRC of the segment. It follows from the log's identity,
// the segment id and the chain, so bytes of another segment, of an older life
// of this file or of another log never validate, and a client that chooses
// payloads cannot forge a trailer: it does not know the chain.
func (h *segmentHeader) seed() uint32 {
	var in [16 + 8 + chainSize]byte
	copy(in[:], h.logID[:])
	binary.LittleEndian.PutUint64(in[16:], h.id)
	copy(in[24:], h.prevChain[:])
	sum := blake3.Sum256(in[:])
	return binary.LittleEndian.Uint32(sum[:])
}

func validBlockSize(n int) bool { return n >= 512 && n <= dataStart && n&(n-1) == 0 }

func validSegmentSize(n int64) bool {
	return n >= minSegmentSize && n <= maxSegmentSize && n%dataStart == 0
}

// batchHeader says how long the records are before they are read.
type batchHeader struct {
	number  uint64
	bodyLen uint32 // as stored, with the GCM tag if encrypted
	count   uint32 // records, control records included
	nonce   [nonceSize]byte
	flags   uint32
}

func (h *batchHeader) encode(b []byte, seed uint32) {
	copy(b, magicBatch)
	binary.LittleEndian.PutUint64(b[8:], h.number)
	binary.LittleEndian.PutUint32(b[16:], h.bodyLen)
	binary.LittleEndian.PutUint32(b[20:], h.count)
	copy(b[24:36], h.nonce[:])
	binary.LittleEndian.PutUint32(b[36:], h.flags)
	clear(b[40:batchHeaderSize])
	binary.LittleEndian.PutUint32(b[4:], crc32.Update(seed, castagnoli, b[8:batchHeaderSize]))
}

func decodeBatchHeader(b []byte, seed uint32) (h batchHeader, err error) {
	if len(b) < batchHeaderSize || string(b[:4]) != magicBatch ||
		crc32.Update(seed, castagnoli, b[8:batchHeaderSize]) != binary.LittleEndian.Uint32(b[4:]) {
		return h, errFormat
	}
	h.number = binary.LittleEndian.Uint64(b[8:])
	h.bodyLen = binary.LittleEndian.Uint32(b[16:])
	h.count = binary.LittleEndian.Uint32(b[20:])
	copy(h.nonce[:], b[24:36])
	h.flags = binary.LittleEndian.Uint32(b[36:])
	return h, nil
}

// batchTrailer closes a batch; a valid one proves that the log reached it.
type batchTrailer struct {
	number      uint64
	firstIndex  uint64 // of the first entry, or the index the next entry would have
	lastIndex   uint64 // firstIndex-1 if the batch holds control records only
	term        uint64 // of the last entry, or of the entry before the batch
	commitIndex uint64
	offset      uint64 // where the batch starts in the segment
	length      uint32 // header through trailer, without padding
	count       uint32
	timeMs      int64
	segmentID   uint64
	chain       chainValue
}

// encode writes all but the chain and the CRC, which sealTrailer adds.
func (t *batchTrailer) encode(b []byte) {
	copy(b, magicTrailer)
	binary.LittleEndian.PutUint64(b[8:], t.number)
	binary.LittleEndian.PutUint64(b[16:], t.firstIndex)
	binary.LittleEndian.PutUint64(b[24:], t.lastIndex)
	binary.LittleEndian.PutUint64(b[32:], t.term)
	binary.LittleEndian.PutUint64(b[40:], t.commitIndex)
	binary.LittleEndian.PutUint64(b[48:], t.offset)
	binary.LittleEndian.PutUint32(b[56:], t.length)
	binary.LittleEndian.PutUint32(b[60:], t.count)
	binary.LittleEndian.PutUint64(b[64:], uint64(t.timeMs))
	binary.LittleEndian.PutUint64(b[72:], t.segmentID)
	clear(b[80:96])
}

// A chainer computes chain values without allocating: BLAKE3(chain value
// before ‖ body ‖ header ‖ trailer bytes 8..96). The body comes first so that
// it can be hashed while it grows. Not for concurrent use.
type chainer struct {
	h   *blake3.Hasher
	in  chainValue
	out [chainSize]byte
}

func newChainer() *chainer { return &chainer{h: blake3.New()} }

// next is the chain value of the whole batch b (header, body, trailer).
func (c *chainer) next(prev chainValue, b []byte) chainValue {
	c.start(prev)
	_, _ = c.h.Write(b[batchHeaderSize : len(b)-trailerSize]) // a hash never fails
	return c.finish(b)
}

func (c *chainer) start(prev chainValue) {
	c.in = prev
	c.h.Reset()
	_, _ = c.h.Write(c.in[:])
}

func (c *chainer) finish(b []byte) chainValue {
	t := len(b) - trailerSize
	_, _ = c.h.Write(b[:batchHeaderSize])
	_, _ = c.h.Write(b[t+8 : t+96])
	c.h.Sum(c.out[:0])
	return c.out
}

// feed hashes what is new in the body of a growing batch, if it is at least
// least bytes. One batch at a time.
func (c *chainer) feed(b *batch, least int) {
	body := b.buf[batchHeaderSize:]
	if len(body)-b.hashed < least {
		return
	}
	if b.hashed == 0 {
		c.start(b.prev)
	}
	_, _ = c.h.Write(body[b.hashed:])
	b.hashed = len(body)
}

// seal computes the chain over the batch whose stored bytes are out, and
// stores it with the trailer's CRC. What feed has hashed is not hashed again,
// unless the body was changed (encrypted, reseeded) or follows another chain
// value.
func (c *chainer) seal(b *batch, prev chainValue, out []byte, seed uint32) (v chainValue) {
	if b.hashed > 0 && b.prev == prev {
		c.feed(b, 0)
		v = c.finish(out)
	} else {
		v = c.next(prev, out)
	}
	sealTrailer(out[len(out)-trailerSize:], v, seed)
	return v
}

// sealTrailer adds the chain value and the CRC to an encoded trailer.
func sealTrailer(t []byte, v chainValue, seed uint32) {
	copy(t[96:], v[:])
	binary.LittleEndian.PutUint32(t[4:], crc32.Update(seed, castagnoli, t[8:]))
}

func decodeTrailer(b []byte, seed uint32) (t batchTrailer, err error) {
	if len(b) < trailerSize || string(b[:4]) != magicTrailer ||
		crc32.Update(seed, castagnoli, b[8:trailerSize]) != binary.LittleEndian.Uint32(b[4:]) {
		return t, errFormat
	}
	t.number = binary.LittleEndian.Uint64(b[8:])
	t.firstIndex = binary.LittleEndian.Uint64(b[16:])
	t.lastIndex = binary.LittleEndian.Uint64(b[24:])
	t.term = binary.LittleEndian.Uint64(b[32:])
	t.commitIndex = binary.LittleEndian.Uint64(b[40:])
	t.offset = binary.LittleEndian.Uint64(b[48:])
	t.length = binary.LittleEndian.Uint32(b[56:])
	t.count = binary.LittleEndian.Uint32(b[60:])
	t.timeMs = int64(binary.LittleEndian.Uint64(b[64:]))
	t.segmentID = binary.LittleEndian.Uint64(b[72:])
	copy(t.chain[:], b[96:])
	return t, nil
}

// endMark is written behind the last batch after its fdatasync, when nothing
// else waits. It is a promise: batch `number` was durable, so if that batch
// is invalid it was damaged, not torn.
type endMark struct {
	number    uint64 // of the last batch
	lastIndex uint64
	offset    uint64 // its own
	chain     chainValue
}

func (m *endMark) encode(b []byte, seed uint32) {
	copy(b, magicEndMark)
	binary.LittleEndian.PutUint64(b[8:], m.number)
	binary.LittleEndian.PutUint64(b[16:], m.lastIndex)
	binary.LittleEndian.PutUint64(b[24:], m.offset)
	copy(b[32:], m.chain[:])
	binary.LittleEndian.PutUint32(b[4:], crc32.Update(seed, castagnoli, b[8:endMarkSize]))
}

func decodeEndMark(b []byte, seed uint32) (m endMark, err error) {
	if len(b) < endMarkSize || string(b[:4]) != magicEndMark ||
		crc32.Update(seed, castagnoli, b[8:endMarkSize]) != binary.LittleEndian.Uint32(b[4:]) {
		return m, errFormat
	}
	m.number = binary.LittleEndian.Uint64(b[8:])
	m.lastIndex = binary.LittleEndian.Uint64(b[16:])
	m.offset = binary.LittleEndian.Uint64(b[24:])
	copy(m.chain[:], b[32:])
	return m, nil
}

// recordSpan is the space a record with n data bytes takes in a batch body.
func recordSpan(n int) int { return (recordHeader + n + 7) &^ 7 }

// appendRecord adds one record to a batch body.
func appendRecord(b []byte, seed uint32, length uint32, index, termType uint64, data []byte) []byte {
	start := len(b)
	b = append(b, zeroRecord[:]...)
	b = append(b, data...)
	h := b[start:]
	binary.LittleEndian.PutUint32(h[4:], length)
	binary.LittleEndian.PutUint64(h[8:], index)
	binary.LittleEndian.PutUint64(h[16:], termType)
	binary.LittleEndian.PutUint32(h, crc32.Update(seed, castagnoli, h[4:]))
	return append(b, zeroRecord[:recordSpan(len(data))-len(h)]...)
}

var zeroRecord [recordHeader]byte

// record is a decoded record; data points into the buffer it was read from.
type record struct {
	control  bool
	index    uint64
	termType uint64
	data     []byte
}

func (r *record) term() uint64    { return r.termType >> 8 }
func (r *record) typ() EntryType  { return EntryType(r.termType) }
func (r *record) controlOp() byte { return byte(r.termType) }

// decodeRecord reads the record at the start of b and says how many bytes it
// takes. The CRC is always checked.
func decodeRecord(b []byte, seed uint32) (r record, n int, err error) {
	if len(b) < recordHeader {
		return r, 0, errFormat
	}
	length := binary.LittleEndian.Uint32(b[4:])
	size := int(length & lengthMask)
	if size > len(b)-recordHeader || recordSpan(size) > len(b) {
		return r, 0, errFormat
	}
	if crc32.Update(seed, castagnoli, b[4:recordHeader+size]) != binary.LittleEndian.Uint32(b) {
		return r, 0, errFormat
	}
	r.control = length&controlBit != 0
	r.index = binary.LittleEndian.Uint64(b[8:])
	r.termType = binary.LittleEndian.Uint64(b[16:])
	r.data = b[recordHeader : recordHeader+size : recordHeader+size]
	return r, recordSpan(size), nil
}

// batchRef locates a batch in its segment.
type batchRef struct {
	offset, length uint32
	firstIndex     uint64
}

// segmentFooter closes a sealed segment. Its body is the batch table and, in
// a plain log, the offset of every entry's record.
type segmentFooter struct {
	id         uint64
	firstIndex uint64
	lastIndex  uint64
	lastBatch  uint64
	tail       uint64 // end of the last batch
	batches    uint32
	entries    uint32
	bodyOffset uint64
	bodyCRC    uint32
	sealedMs   int64
	chain      chainValue
}

func (f *segmentFooter) encode(b []byte, seed uint32) {
	clear(b[:footerSize])
	copy(b, magicFooter)
	binary.LittleEndian.PutUint64(b[8:], f.id)
	binary.LittleEndian.PutUint64(b[16:], f.firstIndex)
	binary.LittleEndian.PutUint64(b[24:], f.lastIndex)
	binary.LittleEndian.PutUint64(b[32:], f.lastBatch)
	binary.LittleEndian.PutUint64(b[40:], f.tail)
	binary.LittleEndian.PutUint32(b[48:], f.batches)
	binary.LittleEndian.PutUint32(b[52:], f.entries)
	binary.LittleEndian.PutUint64(b[56:], f.bodyOffset)
	binary.LittleEndian.PutUint32(b[64:], f.bodyCRC)
	binary.LittleEndian.PutUint64(b[72:], uint64(f.sealedMs))
	copy(b[88:120], f.chain[:])
	binary.LittleEndian.PutUint32(b[124:], crc32.Update(seed, castagnoli, b[:124]))
}

func decodeFooter(b []byte, seed uint32) (f segmentFooter, err error) {
	if len(b) < footerSize || string(b[:8]) != magicFooter ||
		crc32.Update(seed, castagnoli, b[:124]) != binary.LittleEndian.Uint32(b[124:]) {
		return f, errFormat
	}
	f.id = binary.LittleEndian.Uint64(b[8:])
	f.firstIndex = binary.LittleEndian.Uint64(b[16:])
	f.lastIndex = binary.LittleEndian.Uint64(b[24:])
	f.lastBatch = binary.LittleEndian.Uint64(b[32:])
	f.tail = binary.LittleEndian.Uint64(b[40:])
	f.batches = binary.LittleEndian.Uint32(b[48:])
	f.entries = binary.LittleEndian.Uint32(b[52:])
	f.bodyOffset = binary.LittleEndian.Uint64(b[56:])
	f.bodyCRC = binary.LittleEndian.Uint32(b[64:])
	f.sealedMs = int64(binary.LittleEndian.Uint64(b[72:]))
	copy(f.chain[:], b[88:120])
	return f, nil
}

// footerSpan is the space the footer and its body take at the segment's end.
func footerSpan(batches, entries int) int64 {
	return footerSize + int64(batches)*batchRefSize + int64(entries)*4
}

func encodeFooterBody(batches []batchRef, offsets []uint32) []byte {
	b := make([]byte, 0, len(batches)*batchRefSize+len(offsets)*4)
	for _, r := range batches {
		b = binary.LittleEndian.AppendUint32(b, r.offset)
		b = binary.LittleEndian.AppendUint32(b, r.length)
		b = binary.LittleEndian.AppendUint64(b, r.firstIndex)
	}
	for _, o := range offsets {
		b = binary.LittleEndian.AppendUint32(b, o)
	}
	return b
}

func decodeFooterBody(b []byte, f *segmentFooter) (batches []batchRef, offsets []uint32, err error) {
	if int64(len(b)) != int64(f.batches)*batchRefSize+int64(f.entries)*4 {
		return nil, nil, errFormat
	}
	batches = make([]batchRef, f.batches)
	for i := range batches {
		batches[i] = batchRef{
			offset:     binary.LittleEndian.Uint32(b),
			length:     binary.LittleEndian.Uint32(b[4:]),
			firstIndex: binary.LittleEndian.Uint64(b[8:]),
		}
		b = b[batchRefSize:]
	}
	offsets = make([]uint32, f.entries)
	for i := range offsets {
		offsets[i] = binary.LittleEndian.Uint32(b[i*4:])
	}
	return batches, offsets, nil
}

// logStart says where the log begins; it moves with TruncateFront.
type logStart struct {
	segment uint64
	index   uint64
}

func (s logStart) encode(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, s.segment)
	return binary.LittleEndian.AppendUint64(b, s.index)
}

func decodeLogStart(b []byte) (s logStart, err error) {
	if len(b) < 16 {
		return s, errFormat
	}
	return logStart{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}, nil
}

// appendMeta encodes one meta pair: key length u16, value length u32 (all
// ones: deleted), key, value.
func appendMeta(b []byte, key string, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(key)))
	n := uint32(len(value))
	if value == nil {
		n = ^uint32(0)
	}
	b = binary.LittleEndian.AppendUint32(b, n)
	b = append(b, key...)
	return append(b, value...)
}

func decodeMeta(b []byte) (key string, value, rest []byte, err error) {
	if len(b) < 6 {
		return "", nil, nil, errFormat
	}
	k, v := int(binary.LittleEndian.Uint16(b)), binary.LittleEndian.Uint32(b[2:])
	b = b[6:]
	if k > len(b) {
		return "", nil, nil, errFormat
	}
	key, b = string(b[:k]), b[k:]
	if v == ^uint32(0) {
		return key, nil, b, nil
	}
	if uint64(v) > uint64(len(b)) {
		return "", nil, nil, errFormat
	}
	return key, append([]byte{}, b[:v]...), b[v:], nil
}

// align rounds n up to a multiple of the power of two a.
func align(n, a int64) int64 { return (n + a - 1) &^ (a - 1) }

func unixMs(t time.Time) int64 { return t.UnixMilli() }
