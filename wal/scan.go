package wal

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// windowSize is how much of a segment is read at once when scanning.
const windowSize = 1 << 20

// A window reads a file through one sliding buffer. A slice it returns is
// valid until the next call.
type window struct {
	file vfs.File
	size int64 // of the file
	buf  []byte
	off  int64 // file offset of buf[0]
}

// at returns n bytes at off; fewer if the file ends before. An error is an
// I/O error of the disk, never a verdict about the bytes.
func (w *window) at(off int64, n int) ([]byte, error) {
	if off < 0 || off >= w.size {
		return nil, nil
	}
	n = int(min(int64(n), w.size-off))
	if off < w.off || off+int64(n) > w.off+int64(len(w.buf)) {
		if err := w.fill(off, n); err != nil {
			return nil, err
		}
	}
	start := off - w.off
	return w.buf[start:min(start+int64(n), int64(len(w.buf)))], nil
}

func (w *window) fill(off int64, n int) error {
	want := int(min(int64(max(n, windowSize)), w.size-off))
	if cap(w.buf) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.off = w.buf[:want], off
	got, err := w.file.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return fmt.Errorf("wal: read %d bytes at offset %d: %w", want, off, err)
	}
	return nil
}

// position is where a scan stands: the place and the expectations of the
// next batch.
type position struct {
	offset    int64
	number    uint64 // of the next batch
	nextIndex uint64 // of the next entry
	term      uint64 // of the last entry
	commit    uint64
	chain     chainValue // after the last batch
	timeMs    int64      // of the last batch
}

// A scanner walks the batches of one segment and verifies everything: CRC of
// header, records and trailer, numbers, indexes, and the chain.
type scanner struct {
	window
	header segmentHeader
	seed   uint32
	aead   cipher.AEAD // nil: plain log, or encrypted records are not opened
	chain  *chainer
	pos    position
	plain  []byte // decrypted body
	// What checkRecords met in the newest batch; reused for the next one.
	offsets  []uint32
	controls []controlEvent
	// unchained: the chain value at pos is unknown (damage was stepped over);
	// the next batch is checked in itself only.
	unchained bool
	failed    uint64 // see survey.failed
}

func newScanner(f vfs.File, size int64, h segmentHeader, aead cipher.AEAD) *scanner {
	return &scanner{
		window: window{file: f, size: size},
		header: h,
		seed:   h.seed(),
		aead:   aead,
		chain:  newChainer(),
		pos: position{
			offset: dataStart, number: h.firstBatch, nextIndex: h.firstIndex, chain: h.prevChain,
		},
	}
}

// A scannedBatch is a verified batch. Its bytes are valid until the next read
// of the scanner.
type scannedBatch struct {
	offset  int64
	header  batchHeader
	trailer batchTrailer
	raw     []byte // header through trailer
	body    []byte // records, decrypted; nil if encrypted and no key is at hand
	// Where the entries begin in a plain segment file, and the control records; both empty if body is nil.
	offsets  []uint32
	controls []controlEvent
}

// badBatch says why the bytes at a position are no valid batch. It is not an
// I/O error and not yet a verdict: recover.go decides.
type badBatch struct{ reason string }

func (b *badBatch) Error() string { return "wal: bad batch: " + b.reason }

func bad(format string, args ...any) error { return &badBatch{fmt.Sprintf(format, args...)} }

// next verifies the batch at the scanner's position and moves past it. The
// error is a *badBatch if the bytes are not that batch, anything else if the
// disk failed.
func (s *scanner) next() (b scannedBatch, err error) {
	b, after, err := s.read(s.pos)
	if err != nil {
		return b, err
	}
	s.pos, s.unchained = after, false
	return b, nil
}

// readUnchained is read without a chain value to start from.
func (s *scanner) readUnchained(p position) (scannedBatch, position, error) {
	s.unchained = true
	b, after, err := s.read(p)
	s.unchained = false
	return b, after, err
}

// read verifies the batch at p and returns the position after it.
func (s *scanner) read(p position) (b scannedBatch, after position, err error) {
	raw, err := s.at(p.offset, batchHeaderSize)
	if err != nil {
		return b, p, err
	}
	b.offset = p.offset
	if s.failed != 0 && p.number >= s.failed {
		return b, p, bad("its write failed and it was never acknowledged")
	}
	if b.header, err = decodeBatchHeader(raw, s.seed); err != nil {
		return b, p, bad("no valid batch header")
	}
	if b.header.number != p.number {
		return b, p, bad("batch number %d where %d belongs", b.header.number, p.number)
	}
	length := int64(batchHeaderSize) + int64(b.header.bodyLen) + trailerSize
	if p.offset+length > min(s.size, s.header.segmentSize) {
		return b, p, bad("batch of %d bytes runs past the segment's end", length)
	}
	if b.raw, err = s.at(p.offset, int(length)); err != nil {
		return b, p, err
	}
	if int64(len(b.raw)) != length {
		return b, p, bad("file ends inside the batch")
	}
	if err := s.checkTrailer(&b, p); err != nil {
		return b, p, err
	}
	after = position{
		offset: align(p.offset+length, int64(s.header.blockSize)),
		number: p.number + 1, nextIndex: p.nextIndex, term: b.trailer.term,
		commit: b.trailer.commitIndex, chain: b.trailer.chain, timeMs: b.trailer.timeMs,
	}
	if err := s.openBody(&b); err != nil {
		return b, p, err
	}
	after.nextIndex = b.trailer.lastIndex + 1
	err = s.checkRecords(&b, p.nextIndex) // before the return: it completes b
	return b, after, err
}

func (s *scanner) checkTrailer(b *scannedBatch, p position) (err error) {
	b.trailer, err = decodeTrailer(b.raw[len(b.raw)-trailerSize:], s.seed)
	t := &b.trailer
	switch {
	case err != nil:
		return bad("no valid trailer")
	case t.number != p.number || t.segmentID != s.header.id || t.offset != uint64(p.offset):
		return bad("trailer of batch %d at offset %d of segment %d is out of place", t.number, t.offset, t.segmentID)
	case t.length != uint32(len(b.raw)) || t.count != b.header.count:
		return bad("trailer and header disagree on length or count")
	case t.lastIndex+1 < t.firstIndex:
		return bad("trailer holds an impossible index range")
	case !s.unchained && s.chain.next(p.chain, b.raw) != t.chain:
		return bad("the chain value does not fit the batch's bytes")
	}
	return nil
}

// openBody sets b.body, decrypting it if needed and possible.
func (s *scanner) openBody(b *scannedBatch) error {
	stored := b.raw[batchHeaderSize : len(b.raw)-trailerSize]
	if b.header.flags&flagEncrypted == 0 {
		b.body = stored
		return nil
	}
	if s.aead == nil {
		return nil
	}
	plain, err := s.aead.Open(s.plain[:0], b.header.nonce[:], stored, b.raw[8:batchHeaderSize])
	if err != nil {
		return bad("the batch does not decrypt")
	}
	s.plain, b.body = plain, plain
	return nil
}

// checkRecords walks the records once: CRCs, count, ascending indexes that
// match the trailer. It notes where the entries are.
func (s *scanner) checkRecords(b *scannedBatch, next uint64) error {
	if b.body == nil {
		return nil // encrypted, no key: the chain vouches for the bytes
	}
	var count uint32
	first, at := next, 0
	offsets, controls := s.offsets[:0], s.controls[:0]
	for ; at < len(b.body); count++ {
		r, n, err := decodeRecord(b.body[at:], s.seed)
		if err != nil {
			return bad("record %d of the batch is invalid", count+1)
		}
		switch {
		case !r.control && r.index != next:
			return bad("record carries index %d where %d belongs", r.index, next)
		case !r.control:
			next++
			offsets = append(offsets, uint32(b.offset)+batchHeaderSize+uint32(at))
		case r.controlOp() == controlNext:
			// The segment was opened for the jump: its header agrees.
			if len(r.data) != 8 || binary.LittleEndian.Uint64(r.data) != next {
				return bad("jump record does not fit the segment's first index")
			}
		}
		if r.control {
			controls = append(controls, controlEvent{r.controlOp(), r.data})
		}
		at += n
	}
	s.offsets, s.controls = offsets, controls
	b.offsets, b.controls = offsets, controls
	if count != b.header.count || first != b.trailer.firstIndex || next != b.trailer.lastIndex+1 {
		return bad("records and trailer disagree on count or indexes")
	}
	return nil
}

// records calls fn for every record of a verified batch.
func (s *scanner) records(b *scannedBatch, fn func(r record, offset int64) error) error {
	for at := 0; at < len(b.body); {
		r, n, err := decodeRecord(b.body[at:], s.seed)
		if err != nil {
			return bad("record is invalid")
		}
		if err := fn(r, b.offset+batchHeaderSize+int64(at)); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// evidence is something valid that proves the log went past a position.
type evidence struct {
	kind   string // "end mark", "trailer", "batch header", "footer"
	offset int64
	number uint64
	weak   bool // the batch's own trailer: it was written, perhaps torn
}

// search looks behind offset from for evidence that batch `number` was
// durable: anything valid that could only be written after its fdatasync.
// The batch's own trailer is only weak evidence: it is written with the batch.
func (s *scanner) search(from int64, number uint64) (*evidence, error) {
	if f, err := s.footer(); err != nil {
		return nil, err
	} else if f != nil && f.lastBatch >= number {
		return &evidence{"footer", s.header.segmentSize - footerSize, f.lastBatch, false}, nil
	}
	var weak *evidence
	end := min(s.size, s.header.segmentSize)
	for off := align(from, 8); off < end; {
		b, err := s.at(off, windowSize)
		if err != nil {
			return nil, err
		}
		if e := s.searchWindow(b, off, number); e != nil {
			if !e.weak {
				return e, nil
			}
			weak = e
		}
		if len(b) <= trailerSize || off+int64(len(b)) >= end {
			break
		}
		off += int64(len(b)-trailerSize) &^ 7
	}
	return weak, nil
}

// probes are what search looks for.
var probes = [][]byte{[]byte(magicEndMark), []byte(magicTrailer), []byte(magicBatch)}

func (s *scanner) searchWindow(b []byte, base int64, number uint64) (best *evidence) {
	for _, magic := range probes {
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], magic)
			if i < 0 {
				break
			}
			at += i
			if e := s.prove(b[at:], base+int64(at), number); e != nil {
				if !e.weak {
					return e
				}
				best = e
			}
		}
	}
	return best
}

// prove says what the bytes p at offset off prove about batch `number`.
func (s *scanner) prove(p []byte, off int64, number uint64) *evidence {
	if off%8 != 0 {
		return nil
	}
	// Where it stands does not matter: a later number under this seed exists
	// only if the batch was durable. Moved sectors prove as much as others.
	if m, err := decodeEndMark(p, s.seed); err == nil && m.number >= number {
		return &evidence{"end mark", off, m.number, false}
	}
	if t, err := decodeTrailer(p, s.seed); err == nil && t.number >= number {
		return &evidence{"trailer", off, t.number, t.number == number}
	}
	if h, err := decodeBatchHeader(p, s.seed); err == nil && h.number > number {
		return &evidence{"batch header", off, h.number, false}
	}
	return nil
}

// footer reads the segment's footer; nil if there is no valid one.
func (s *scanner) footer() (*segmentFooter, error) {
	b, err := s.at(s.header.segmentSize-footerSize, footerSize)
	if err != nil {
		return nil, err
	}
	f, err := decodeFooter(b, s.seed)
	if err != nil || f.id != s.header.id {
		return nil, nil
	}
	return &f, nil
}

// footerBody reads and checks the tables of a footer.
func readFooterBody(file vfs.File, f *segmentFooter, segmentSize int64) ([]batchRef, []uint32, error) {
	span := footerSpan(int(f.batches), int(f.entries)) - footerSize
	if int64(f.bodyOffset) < dataStart || int64(f.bodyOffset)+span > segmentSize-footerSize {
		return nil, nil, errFormat
	}
	b := make([]byte, span)
	if _, err := file.ReadAt(b, int64(f.bodyOffset)); err != nil && !(errors.Is(err, io.EOF) && span == 0) {
		if errors.Is(err, io.EOF) {
			return nil, nil, errFormat
		}
		return nil, nil, fmt.Errorf("wal: read footer: %w", err)
	}
	if crc32.Checksum(b, castagnoli) != f.bodyCRC {
		return nil, nil, errFormat
	}
	return decodeFooterBody(b, f)
}

// tailState says what stands right behind the last valid batch.
type tailState int

const (
	tailClean  tailState = iota // end mark or zeros
	tailTorn                    // anything else, with no evidence of more
	tailLost                    // evidence that batches beyond were durable
	tailSealed                  // footer of exactly this end
)

// classifyTail decides what the end of the batches at s.pos is, given the
// reason why no batch was read there.
func (s *scanner) classifyTail() (tailState, *evidence, error) {
	f, err := s.footer()
	if err != nil {
		return 0, nil, err
	}
	if f != nil && f.lastBatch+1 == s.pos.number && f.chain == s.pos.chain && f.tail == uint64(s.pos.offset) {
		return tailSealed, nil, nil
	}
	e, err := s.search(s.pos.offset, s.pos.number)
	if err != nil {
		return 0, nil, err
	}
	if e != nil && !e.weak {
		return tailLost, e, nil
	}
	if e != nil {
		return tailTorn, nil, nil
	}
	b, err := s.at(s.pos.offset, endMarkSize)
	if err != nil {
		return 0, nil, err
	}
	if m, err := decodeEndMark(b, s.seed); err == nil && m.number+1 == s.pos.number && m.chain == s.pos.chain {
		return tailClean, nil, nil
	}
	if len(bytes.Trim(b, "\x00")) == 0 {
		return tailClean, nil, nil
	}
	return tailTorn, nil, nil
}
