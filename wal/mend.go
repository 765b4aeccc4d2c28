package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Mend puts damaged batches of a log back, byte for byte, out of entries that another log of the same history has. Nothing is taken on
// trust: the batch's frame (numbers, length, time) comes from what is left of it, the entries from the other log, and the bytes
// are written only if the chain value that this log recorded comes out. Where the trailer with that value is gone itself, the value
// that follows it in the log decides. Bytes that are not damaged are not touched.
//
// It cannot put back what only this log had and nobody can prove: a missing file, both copies of a segment's header, a batch without header and
// trailer, a damaged control record (a meta value), an encrypted batch without its header.

// ErrMend: a damage cannot be put back. ErrForeign (which it is not): the entries that were offered are not those of this log.
var (
	ErrMend    = errors.New("wal: this damage cannot be put back")
	ErrForeign = errors.New("wal: the entries offered are not those that this log held")
)

// MendOptions say where entries come from.
type MendOptions struct {
	FS  vfs.FS
	Key []byte // of an encrypted log
	// Entries returns entries from..to of a log with the same history, or the first ones of them. It is asked only for entries
	// that stand in damaged batches.
	Entries func(ctx context.Context, from, to uint64) ([]Entry, error)
}

// Mended is a batch that was put back.
type Mended struct {
	Segment    uint64 `json:"segment"`
	Offset     int64  `json:"offset"`
	Batch      uint64 `json:"batch"`
	FirstIndex uint64 `json:"first_index"`
	LastIndex  uint64 `json:"last_index"`
	Changed    int    `json:"changed_bytes"`
}

// maxGuesses bounds the search for the time and the commit index of a lost trailer; maxHashed the bytes that are hashed for it.
const (
	maxGuesses = 4 << 20
	maxHashed  = 4 << 30
)

// Mend mends the log in dir, which no process may have open. What it returns was put back and is durable, also beside an error:
// ErrMend, ErrForeign, or one of Entries or the disk.
func Mend(ctx context.Context, dir string, o MendOptions) (done []Mended, err error) {
	s := &survey{fs: o.FS, dir: dir, key: o.Key}
	defer s.close()
	if err := s.inspect(); err != nil {
		return nil, err
	}
	for _, f := range s.findings {
		if f.Severity == SeverityDamage && f.Kind != KindBadBatch {
			return nil, fmt.Errorf("%w: %s", ErrMend, f.String())
		}
	}
	live := s.live()
	for i, f := range live {
		var next *segmentFile
		if i+1 < len(live) {
			next = live[i+1]
		}
		for f.placed(s) && (next != nil && f.end.number < next.header.firstBatch || next == nil && f.tail == tailLost) {
			m := &mender{ctx: ctx, o: &o, f: f, next: next, sc: newScanner(f.file, f.size, f.header, f.aead), p: f.end}
			what, err := m.mend(o.FS, o.FS.PathJoin(dir, f.name))
			if err != nil {
				return done, fmt.Errorf("segment %d, batch %d at offset %d: %w", f.id, f.end.number, f.end.offset, err)
			}
			done = append(done, what)
			if err := f.rescan(s.failed); err != nil {
				return done, err
			}
			if f.end.number <= what.Batch {
				return done, fmt.Errorf("%w: batch %d is still not valid after it was written: the disk does not keep what it is given", ErrMend, what.Batch)
			}
		}
	}
	return done, nil
}

// mender puts one batch back.
type mender struct {
	ctx     context.Context
	o       *MendOptions
	f, next *segmentFile
	sc      *scanner
	p       position

	raw      []byte // header through trailer
	header   batchHeader
	trailer  batchTrailer
	hasTrail bool
	given    map[uint64]Entry
	term     uint64 // of the newest entry in the body
}

func (m *mender) mend(fs vfs.FS, path string) (what Mended, err error) {
	if err := m.frame(); err != nil {
		return what, err
	}
	old := slices.Clone(m.raw)
	last, err := m.fillBody()
	if err != nil {
		return what, err
	}
	m.header.encode(m.raw, m.sc.seed)
	if m.hasTrail {
		if last != m.trailer.lastIndex || m.sc.chain.next(m.p.chain, m.raw) != m.trailer.chain {
			return what, fmt.Errorf("%w: the chain value is another one", ErrForeign)
		}
	} else if err := m.guessTrailer(last); err != nil {
		return what, err
	}
	changed := 0
	for i := range old {
		if old[i] != m.raw[i] {
			changed++
		}
	}
	file, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return what, err
	}
	_, err = file.WriteAt(m.raw, m.p.offset)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return what, err
	}
	return Mended{m.f.id, m.p.offset, m.p.number, m.p.nextIndex, last, changed}, nil
}

// frame finds out where the batch ends, from its header or its trailer.
func (m *mender) frame() error {
	b, err := m.sc.at(m.p.offset, batchHeaderSize)
	if err != nil {
		return err
	}
	end := min(m.sc.size, m.f.header.segmentSize)
	length := int64(0)
	h, err := decodeBatchHeader(b, m.sc.seed)
	if err == nil && h.number == m.p.number {
		m.header, length = h, batchHeaderSize+int64(h.bodyLen)+trailerSize
	} else if length, err = m.findTrailer(end); err != nil {
		return err
	}
	if m.p.offset+length > end {
		return fmt.Errorf("%w: the batch runs past the segment's end", ErrMend)
	}
	if b, err = m.sc.at(m.p.offset, int(length)); err != nil {
		return err
	}
	m.raw = slices.Clone(b)
	t, err := decodeTrailer(m.raw[length-trailerSize:], m.sc.seed)
	if err == nil && t.number == m.p.number && t.offset == uint64(m.p.offset) && int64(t.length) == length && t.firstIndex >= m.p.nextIndex {
		m.trailer, m.hasTrail = t, true
	}
	if m.header.number == 0 { // lost
		if m.f.header.flags&flagEncrypted != 0 {
			return fmt.Errorf("%w: the header of an encrypted batch, with its nonce, is gone", ErrMend)
		}
		m.header = batchHeader{number: m.p.number, bodyLen: uint32(length - batchHeaderSize - trailerSize), count: m.trailer.count}
	}
	return nil
}

// findTrailer looks for the batch's own trailer.
func (m *mender) findTrailer(end int64) (length int64, err error) {
	for off := m.p.offset + batchHeaderSize; off+trailerSize <= end; off += 8 {
		b, err := m.sc.at(off, trailerSize)
		if err != nil {
			return 0, err
		}
		t, err := decodeTrailer(b, m.sc.seed)
		if err == nil && t.number == m.p.number && t.offset == uint64(m.p.offset) && int64(t.length) == off+trailerSize-m.p.offset {
			return int64(t.length), nil
		}
	}
	return 0, fmt.Errorf("%w: header and trailer of the batch are gone", ErrMend)
}

// fillBody makes the body whole and returns the index of the last entry.
func (m *mender) fillBody() (last uint64, err error) {
	stored := m.raw[batchHeaderSize : len(m.raw)-trailerSize]
	if m.header.flags&flagEncrypted == 0 {
		return m.fillRecords(stored)
	}
	if m.f.aead == nil {
		return 0, fmt.Errorf("%w: the log is encrypted and its key was not given", ErrMend)
	}
	if len(stored) < m.f.aead.Overhead() {
		return 0, fmt.Errorf("%w: the batch is too short", ErrMend)
	}
	plain := make([]byte, len(stored)-m.f.aead.Overhead())
	if last, err = m.fillRecords(plain); err != nil {
		return 0, err
	}
	m.header.encode(m.raw, m.sc.seed)
	m.f.aead.Seal(stored[:0], m.header.nonce[:], plain, m.raw[8:batchHeaderSize])
	return last, nil
}

// fillRecords keeps the records that are valid and writes the entries that are missing in between.
func (m *mender) fillRecords(body []byte) (last uint64, err error) {
	next, count := m.p.nextIndex, uint32(0)
	for at := 0; at < len(body); count++ {
		r, n, err := decodeRecord(body[at:], m.sc.seed)
		if err == nil && (r.control || r.index == next) {
			if !r.control {
				m.term = r.term()
				next++
			}
			at += n
			continue
		}
		e, err := m.entry(next)
		if err != nil {
			return 0, err
		}
		rec := appendRecord(nil, m.sc.seed, uint32(len(e.Data)), e.Index, e.Term<<8|uint64(e.Type), e.Data)
		if len(rec) > len(body)-at {
			return 0, fmt.Errorf("%w: entry %d does not fit where it stood", ErrForeign, next)
		}
		at += copy(body[at:], rec)
		m.term = e.Term
		next++
	}
	if count != m.header.count {
		return 0, fmt.Errorf("%w: %d records fill the batch, it held %d", ErrForeign, count, m.header.count)
	}
	return next - 1, nil
}

func (m *mender) entry(index uint64) (Entry, error) {
	if e, ok := m.given[index]; ok {
		return e, nil
	}
	to := index + uint64(m.header.count)
	if m.hasTrail {
		if to = m.trailer.lastIndex; index > to {
			return Entry{}, fmt.Errorf("%w: a control record is damaged, which no other log has", ErrMend)
		}
	}
	list, err := m.o.Entries(m.ctx, index, to)
	if err != nil {
		return Entry{}, err
	}
	m.given = map[uint64]Entry{}
	for _, e := range list {
		m.given[e.Index] = e
	}
	e, ok := m.given[index]
	if !ok {
		return e, fmt.Errorf("%w: entry %d was not among them", ErrForeign, index)
	}
	return e, nil
}

// guessTrailer finds the trailer that fits what stands behind the batch: only its time and commit index are not known.
func (m *mender) guessTrailer(last uint64) error {
	fits, untilMs, untilCommit, cost, err := m.behind()
	if err != nil {
		return err
	}
	t := batchTrailer{
		number: m.p.number, firstIndex: m.p.nextIndex, lastIndex: last, term: m.p.term, offset: uint64(m.p.offset),
		length: uint32(len(m.raw)), count: m.header.count, segmentID: m.f.id,
	}
	if last >= m.p.nextIndex {
		t.term = m.term
	}
	from := m.p.timeMs
	if from == 0 {
		from = m.f.header.createdMs
	}
	budget := min(maxGuesses, maxHashed/int64(len(m.raw)+cost))
	if (untilMs-from+1)*int64(untilCommit-min(untilCommit, m.p.commit)+1) > budget || untilMs < from {
		return fmt.Errorf("%w: the trailer is gone, and too much time or too many commits lie between its neighbours", ErrMend)
	}
	tail := m.raw[len(m.raw)-trailerSize:]
	for t.commitIndex = m.p.commit; t.commitIndex <= untilCommit; t.commitIndex++ {
		for t.timeMs = from; t.timeMs <= untilMs; t.timeMs++ {
			t.encode(tail)
			if v := m.sc.chain.next(m.p.chain, m.raw); fits(v) {
				sealTrailer(tail, v, m.sc.seed)
				return m.ctx.Err()
			}
		}
		if err := m.ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: no trailer gives the chain value that follows", ErrForeign)
}

// behind is what the log says about the chain value after the batch: the next batch, the footer, or the next segment's header. cost is
// how many bytes fits hashes.
func (m *mender) behind() (fits func(chainValue) bool, untilMs int64, untilCommit uint64, cost int, err error) {
	off := align(m.p.offset+int64(len(m.raw)), int64(m.f.header.blockSize))
	b, err := m.sc.at(off, batchHeaderSize)
	if err != nil {
		return nil, 0, 0, 0, err
	}
	if h, err := decodeBatchHeader(b, m.sc.seed); err == nil && h.number == m.p.number+1 {
		length := batchHeaderSize + int(h.bodyLen) + trailerSize
		if b, err = m.sc.at(off, length); err != nil {
			return nil, 0, 0, 0, err
		}
		if len(b) == length {
			if t, err := decodeTrailer(b[length-trailerSize:], m.sc.seed); err == nil && t.number == h.number {
				raw, c := slices.Clone(b), newChainer()
				return func(v chainValue) bool { return c.next(v, raw) == t.chain }, t.timeMs, t.commitIndex, length, nil
			}
		}
	}
	if foot, err := m.sc.footer(); err != nil {
		return nil, 0, 0, 0, err
	} else if foot != nil && foot.lastBatch == m.p.number {
		return func(v chainValue) bool { return v == foot.chain }, foot.sealedMs, foot.lastIndex, 0, nil
	}
	if m.next != nil && m.next.header.firstBatch == m.p.number+1 {
		h := m.next.header
		return func(v chainValue) bool { return v == h.prevChain }, h.createdMs, h.firstIndex, 0, nil
	}
	return nil, 0, 0, 0, fmt.Errorf("%w: the trailer is gone, and nothing valid follows that tells its chain value", ErrMend)
}
