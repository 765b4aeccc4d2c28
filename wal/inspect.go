package wal

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// InspectOptions choose what Inspect reports.
type InspectOptions struct {
	// Key opens the records of an encrypted log. Without it batches are
	// verified by the chain and records are not shown.
	Key []byte
	// From and To limit Visitor.Batch and Visitor.Record to batches that touch
	// [From, To]; zero means open. Everything is verified all the same.
	From, To uint64
}

// A Visitor hears what Inspect reads, in log order. Nil functions are
// skipped; an error ends the inspection and is returned.
type Visitor struct {
	Segment func(SegmentInfo) error
	Batch   func(BatchInfo) error
	Record  func(RecordInfo) error
}

// SegmentInfo describes a segment file.
type SegmentInfo struct {
	ID         uint64   `json:"id"`
	File       string   `json:"file"`
	FirstIndex uint64   `json:"first_index"`
	FirstBatch uint64   `json:"first_batch"`
	CreatedMs  int64    `json:"created_ms"`
	LastIndex  uint64   `json:"last_index"`
	Batches    int      `json:"batches"`
	Entries    uint64   `json:"entries"`
	Tail       int64    `json:"tail"` // end of the last valid batch
	Size       int64    `json:"size"`
	Sealed     bool     `json:"sealed"`
	Encrypted  bool     `json:"encrypted"`
	PrevChain  [32]byte `json:"-"`
	Chain      [32]byte `json:"-"` // after the last valid batch
}

// BatchInfo describes a valid batch.
type BatchInfo struct {
	Segment     uint64   `json:"segment"`
	Offset      int64    `json:"offset"`
	Length      int      `json:"length"`
	Number      uint64   `json:"number"`
	FirstIndex  uint64   `json:"first_index"`
	LastIndex   uint64   `json:"last_index"`
	Term        uint64   `json:"term"`
	CommitIndex uint64   `json:"commit_index"`
	Records     int      `json:"records"`
	TimeMs      int64    `json:"time_ms"`
	Chain       [32]byte `json:"-"`
	// Unlinked: the batch follows damage; it is valid in itself, but the chain
	// does not connect it to what was before.
	Unlinked bool `json:"unlinked,omitempty"`
}

// RecordInfo describes one record of a valid batch. Entry.Data is valid
// during the call only.
type RecordInfo struct {
	Segment uint64
	Offset  int64
	Batch   uint64
	TimeMs  int64  // of the batch
	Control string // "" for an entry, else "state", "start", "next", "meta"
	Entry   Entry
}

var controlNames = map[byte]string{
	controlState: "state", controlStart: "start", controlNext: "next", controlMeta: "meta",
}

// Inspect reads a log's files without a lock and without changing them, goes
// on past damage, and reports everything found. It works beside a running
// process: what is being written meanwhile counts as a torn tail at most.
//
// The error is about reading (no such directory, wrong key, the disk refuses)
// or comes from the visitor; damage is in the report.
func Inspect(fs vfs.FS, dir string, o InspectOptions, v Visitor) (Report, error) {
	if _, err := fs.Stat(dir); err != nil {
		return Report{}, fmt.Errorf("wal: %w", err)
	}
	r, _, err := inspectSettled(fs, dir, o)
	if err != nil || v.Segment == nil && v.Batch == nil && v.Record == nil {
		return r, err
	}
	return r, visitAll(fs, dir, o, v)
}

// inspectSettled inspects until what it saw was one state of the log: beside
// a running process segments come and go between listing and reading. moved
// reports that the log never held still; the report then covers a part of it
// and findings that the movement explains are left out.
func inspectSettled(fs vfs.FS, dir string, o InspectOptions) (r Report, moved bool, err error) {
	for range 5 {
		var s *survey
		if s, err = inspectOnce(fs, dir, o); err != nil {
			return r, false, err
		}
		moved = s.dropMoved()
		r = s.report()
		s.close()
		if !moved {
			break
		}
	}
	return r, moved, err
}

// dropMoved removes findings about files that are no longer what they were
// when the directory was listed: a sealed segment's bytes never change under
// its name, so damage that is real is still under that name.
func (s *survey) dropMoved() (moved bool) {
	kept := s.findings[:0]
	for _, f := range s.findings {
		if f.Severity == SeverityDamage && s.explained(f) {
			moved = true
			continue
		}
		kept = append(kept, f)
	}
	s.findings = kept
	return moved
}

func (s *survey) explained(f Finding) bool {
	path := s.fs.PathJoin(s.dir, f.File)
	if f.Kind == KindMissingSegment && s.fileOf(f.Segment) == nil {
		if _, err := s.fs.Stat(path); err == nil {
			return true // it has come meanwhile
		}
		n := len(s.used)
		if n == 0 || s.used[n-1].id+1 != f.Segment {
			return false
		}
		f.Segment-- // it may have come and gone; then its predecessor went first
		path = s.fs.PathJoin(s.dir, segmentName(f.Segment))
	}
	b, err := readFile(s.fs, path, dataStart)
	if err != nil {
		return oserror.IsNotExist(err) // recycled meanwhile
	}
	was := s.fileOf(f.Segment)
	for _, off := range []int{0, headerCopy} {
		if len(b) < off+headerSize {
			continue
		}
		if h, err := decodeSegmentHeader(b[off:]); err == nil {
			if was != nil && was.stray != nil {
				return h != *was.stray
			}
			return was == nil || !was.hasHeader() || h != was.header // activated meanwhile
		}
	}
	return false
}

func (s *survey) fileOf(id uint64) *segmentFile {
	for _, f := range s.files {
		if f.id == id {
			return f
		}
	}
	return nil
}

func inspectOnce(fs vfs.FS, dir string, o InspectOptions) (*survey, error) {
	s := &survey{fs: fs, dir: dir, key: o.Key}
	if err := s.inspect(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// listLive is list for a log that may be running: a segment that vanishes
// between listing and opening was recycled, and the next look finds its heirs.
func (s *survey) listLive() (err error) {
	for range 1000 {
		if err = s.list(); !oserror.IsNotExist(err) {
			return err
		}
		s.close()
		*s = survey{fs: s.fs, dir: s.dir, key: s.key}
	}
	return notThere("", err)
}

func (s *survey) inspect() error {
	if err := s.listLive(); err != nil {
		return err
	}
	if !s.exists {
		return fmt.Errorf("%w: %s", ErrNotLog, s.dir)
	}
	for _, name := range s.unknown {
		s.add(Finding{Kind: KindUnknownFile, Severity: SeverityInfo, File: name, Message: "not a file of the log"})
	}
	if err := s.openKeys(); errors.Is(err, ErrKeyRequired) {
		s.add(Finding{
			Kind: KindEncryptedNoKey, Severity: SeverityInfo,
			Message: "the log is encrypted: the chain is verified, records cannot be shown without the key",
		})
	} else if err != nil {
		return err
	}
	if err := s.scanAll(1); err != nil {
		return err
	}
	if n := len(s.used); n > 0 && s.used[n-1].tail == tailLost {
		// Perhaps a running process wrote on meanwhile: a durable batch is
		// complete, so a fresh read of the place settles it.
		if err := s.used[n-1].rescan(s.failed); err != nil {
			return err
		}
	}
	if !s.halfCreated() {
		s.judge()
	}
	return nil
}

func (f *segmentFile) rescan(failed uint64) error {
	f.batches, f.offsets, f.controls, f.records, f.entries = nil, nil, nil, 0, 0
	f.proof, f.footer, f.footerOK, f.stop = nil, nil, false, nil
	return f.scan(failed)
}

func (s *survey) report() Report {
	r := Report{
		LogID: s.identity.logID, Encrypted: s.identity.flags&flagEncrypted != 0,
		Findings: s.findings, Clean: s.firstDamage() == nil, FirstIndex: s.start.index,
	}
	for _, f := range s.live() {
		r.Segments++
		r.Batches += uint64(len(f.batches))
		r.Records += f.records
		r.Bytes += max(0, f.end.offset-dataStart)
		if f.end.nextIndex > 0 {
			r.LastIndex, r.Chain = f.end.nextIndex-1, f.end.chain
		}
	}
	if r.LastIndex < r.FirstIndex {
		r.FirstIndex, r.LastIndex = 0, 0
	}
	for _, f := range s.findings {
		r.TornTail = r.TornTail || f.Kind == KindTornTail
	}
	return r
}

// visitAll shows the valid parts of every segment, stepping over damage.
func visitAll(fs vfs.FS, dir string, o InspectOptions, v Visitor) error {
	s := &survey{fs: fs, dir: dir, key: o.Key}
	defer s.close()
	if err := s.listLive(); err != nil {
		return err
	}
	if err := s.openKeys(); err != nil && !errors.Is(err, ErrKeyRequired) {
		return err
	}
	for _, f := range s.files {
		if !f.placed(s) {
			continue
		}
		if err := f.scan(s.failed); err != nil {
			return err
		}
		if v.Segment != nil {
			if err := v.Segment(f.info()); err != nil {
				return err
			}
		}
		if v.Batch != nil || v.Record != nil {
			if err := f.visit(o, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *segmentFile) info() SegmentInfo {
	return SegmentInfo{
		ID: f.id, File: f.name, FirstIndex: f.header.firstIndex, FirstBatch: f.header.firstBatch, CreatedMs: f.header.createdMs,
		LastIndex: f.end.nextIndex - 1, Batches: len(f.batches), Entries: f.entries, Tail: f.end.offset, Size: f.size,
		Sealed: f.footer != nil, Encrypted: f.header.flags&flagEncrypted != 0,
		PrevChain: f.header.prevChain, Chain: f.end.chain,
	}
}

// visit walks the batches again, including those behind damage.
func (f *segmentFile) visit(o InspectOptions, v Visitor) error {
	sc := newScanner(f.file, f.size, f.header, f.aead)
	unlinked := false
	for {
		b, err := sc.next()
		var stop *badBatch
		if errors.As(err, &stop) {
			ok, err := sc.resync()
			if err != nil || !ok {
				return err
			}
			unlinked = true
			continue
		}
		if err != nil {
			return err
		}
		if err := visitBatch(sc, &b, f.id, unlinked, o, v); err != nil {
			return err
		}
		unlinked = false
	}
}

func visitBatch(sc *scanner, b *scannedBatch, segment uint64, unlinked bool, o InspectOptions, v Visitor) error {
	t := &b.trailer
	if o.To != 0 && t.firstIndex > o.To || o.From != 0 && t.lastIndex < o.From {
		return nil
	}
	if v.Batch != nil {
		err := v.Batch(BatchInfo{
			Segment: segment, Offset: b.offset, Length: len(b.raw), Number: t.number,
			FirstIndex: t.firstIndex, LastIndex: t.lastIndex, Term: t.term, CommitIndex: t.commitIndex,
			Records: int(t.count), TimeMs: t.timeMs, Chain: t.chain, Unlinked: unlinked,
		})
		if err != nil {
			return err
		}
	}
	if v.Record == nil {
		return nil
	}
	return sc.records(b, func(r record, offset int64) error {
		info := RecordInfo{Segment: segment, Offset: offset, Batch: t.number, TimeMs: t.timeMs, Entry: Entry{Data: r.data}}
		if r.control {
			if info.Control = controlNames[r.controlOp()]; info.Control == "" {
				info.Control = fmt.Sprintf("control %d", r.controlOp())
			}
		} else {
			if o.From != 0 && r.index < o.From || o.To != 0 && r.index > o.To {
				return nil
			}
			info.Entry.Index, info.Entry.Term, info.Entry.Type = r.index, r.term(), r.typ()
		}
		return v.Record(info)
	})
}

// resync finds the next batch behind the scanner's position that is valid in
// itself and places the scanner there, taking the chain on trust.
func (s *scanner) resync() (bool, error) {
	block := int64(s.header.blockSize)
	end := min(s.size, s.header.segmentSize)
	for off := align(s.pos.offset+1, block); off+batchHeaderSize+trailerSize <= end; off += block {
		raw, err := s.at(off, batchHeaderSize)
		if err != nil {
			return false, err
		}
		h, err := decodeBatchHeader(raw, s.seed)
		if err != nil || h.number < s.pos.number {
			continue
		}
		length := int64(batchHeaderSize) + int64(h.bodyLen) + trailerSize
		if off+length > end {
			continue
		}
		if raw, err = s.at(off, int(length)); err != nil {
			return false, err
		}
		t, err := decodeTrailer(raw[max(0, len(raw)-trailerSize):], s.seed)
		if err != nil || t.number != h.number {
			continue
		}
		// The chain before this batch is unknown; what makes its own value
		// come out is not needed: trust the trailer and go on behind it.
		p := position{offset: off, number: h.number, nextIndex: t.firstIndex}
		if _, _, err := s.readUnchained(p); err != nil {
			continue
		}
		s.pos, s.unchained = p, true
		return true, nil
	}
	return false, nil
}

// Verify re-reads and verifies everything the open log has on disk. It runs
// beside appends.
func (l *Log) Verify(ctx context.Context) (Report, error) {
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	last := l.LastIndex()
	r, moved, err := inspectSettled(l.fs, l.dir, InspectOptions{Key: l.o.Key})
	if err == nil && r.Clean && !moved && r.LastIndex < last {
		r.Clean = false
		r.Findings = append(r.Findings, Finding{
			Kind: KindBadBatch, Severity: SeverityDamage, FirstIndex: r.LastIndex + 1, LastIndex: last,
			Message: fmt.Sprintf("the files end at index %d, but index %d was acknowledged", r.LastIndex, last), Advice: adviceDamage,
		})
	}
	return r, err
}
