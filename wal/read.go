package wal

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// Get returns the entry with the given index; its Data is the caller's.
// Errors: ErrNotFound outside [FirstIndex, LastIndex], ErrCorrupt if the
// bytes on disk are damaged.
func (l *Log) Get(index uint64) (Entry, error) { return l.Read(index, nil) }

// Read is Get with a buffer: Data is appended to buf[:0].
func (l *Log) Read(index uint64, buf []byte) (Entry, error) {
	l.idx.RLock()
	if index < l.start.index || index > l.last {
		first, last := l.start.index, l.last
		l.idx.RUnlock()
		return Entry{}, fmt.Errorf("%w: index %d, the log holds %d..%d", ErrNotFound, index, first, last)
	}
	if l.ring != nil {
		if e, ok := l.ring.get(index, buf[:0]); ok {
			l.idx.RUnlock()
			return e, nil
		}
	}
	g := l.segmentOf(index)
	g.readers.RLock()
	l.idx.RUnlock()
	defer g.readers.RUnlock()
	if g.released {
		return Entry{}, l.gone(index)
	}
	if g.aead != nil {
		return l.readEncrypted(g, index, buf)
	}
	return l.readPlain(g, index, buf)
}

// gone says why a segment's file is not there any more.
func (l *Log) gone(index uint64) error {
	if l.closed.Load() {
		return ErrClosed
	}
	return fmt.Errorf("%w: index %d was truncated meanwhile", ErrNotFound, index)
}

// segmentOf is the newest segment whose first index is not above index: it
// overrides older ones after a TruncateBack. Called with idx held.
func (l *Log) segmentOf(index uint64) *segment {
	for i := len(l.segments) - 1; i > 0; i-- {
		if l.segments[i].first <= index {
			return l.segments[i]
		}
	}
	return l.segments[0]
}

// tables returns the batch and entry tables of a segment, reading the footer
// of a sealed one when they are not at hand. The caller holds g.readers.
func (l *Log) tables(g *segment) ([]batchRef, []uint32, error) {
	l.idx.RLock()
	batches, offsets := g.batches, g.offsets
	l.idx.RUnlock()
	if batches != nil || !g.sealed {
		return batches, offsets, nil
	}
	b := make([]byte, footerSize)
	if _, err := g.file.ReadAt(b, g.header.segmentSize-footerSize); err != nil {
		return nil, nil, fmt.Errorf("wal: read footer of %s: %w", g.name, err)
	}
	f, err := decodeFooter(b, g.seed)
	if err == nil {
		batches, offsets, err = readFooterBody(g.file, &f, g.header.segmentSize)
	}
	if errors.Is(err, errFormat) {
		// The footer is redundant: the batches tell the same. Open rewrites it.
		l.o.Logger.Warn("footer damaged, segment scanned instead", "file", g.name)
		batches, offsets, err = l.scanTables(g)
	}
	if err != nil {
		return nil, nil, err
	}
	l.idx.Lock()
	l.dropTables()
	g.batches, g.offsets = batches, offsets
	l.idx.Unlock()
	return batches, offsets, nil
}

// scanTables finds a sealed segment's tables by verifying all its batches.
func (l *Log) scanTables(g *segment) ([]batchRef, []uint32, error) {
	f := &segmentFile{id: g.id, name: g.name, file: g.file, size: g.header.segmentSize, header: g.header, aead: g.aead}
	if err := f.scan(0); err != nil {
		return nil, nil, err
	}
	if f.entries != g.entries {
		return nil, nil, l.damage(g, f.end.offset, f.end.nextIndex, "a batch is damaged on disk: "+reason(f.stop), nil)
	}
	return f.batches, f.offsets, nil
}

// dropTables forgets the tables of all sealed segments but the newest one of
// them, which bounds memory. Called with idx held.
func (l *Log) dropTables() {
	for i, g := range l.segments {
		if g.sealed && i < len(l.segments)-2 {
			g.batches, g.offsets = nil, nil
		}
	}
}

func (l *Log) damage(g *segment, offset int64, index uint64, what string, err error) error {
	if err != nil && !errors.Is(err, errFormat) {
		var bb *badBatch
		if !errors.As(err, &bb) {
			return err
		}
		what += ": " + bb.reason
	}
	return &CorruptError{Finding{
		Kind: KindBadBatch, Severity: SeverityDamage, Segment: g.id, File: g.name, Offset: offset, FirstIndex: index, LastIndex: index,
		Message: what, Advice: adviceDamage,
	}}
}

func (l *Log) readPlain(g *segment, index uint64, buf []byte) (Entry, error) {
	_, offsets, err := l.tables(g)
	if err != nil {
		return Entry{}, err
	}
	at := index - g.first
	if at >= uint64(len(offsets)) {
		return Entry{}, l.damage(g, dataStart, index, "the offset table lacks the entry", nil)
	}
	off := int64(offsets[at])
	end := align(g.header.segmentSize, 8)
	if at+1 < uint64(len(offsets)) {
		end = int64(offsets[at+1])
	}
	// Most records are small: one read of what is likely, a second for more.
	n := int(min(end-off, 4096))
	b := make([]byte, n)
	if cap(buf) >= n {
		b = buf[:n]
	}
	for {
		got, err := g.file.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return Entry{}, fmt.Errorf("wal: read entry %d from %s: %w", index, g.name, err)
		}
		r, span, err := decodeRecord(b[:got], g.seed)
		if err == nil && r.index == index && !r.control && span <= int(end-off) {
			return Entry{Index: index, Term: r.term(), Type: r.typ(), Data: append(b[:0], r.data...)}, nil
		}
		more := recordSpan(int(le32(b[4:]) & lengthMask))
		if got < recordHeader || more <= len(b) || int64(more) > end-off {
			return Entry{}, l.damage(g, off, index, fmt.Sprintf("entry %d is damaged on disk", index), nil)
		}
		b = make([]byte, more)
	}
}

func (l *Log) readEncrypted(g *segment, index uint64, buf []byte) (e Entry, err error) {
	batches, _, err := l.tables(g)
	if err != nil {
		return e, err
	}
	i := sort.Search(len(batches), func(i int) bool { return batches[i].firstIndex > index }) - 1
	if i < 0 {
		return e, l.damage(g, dataStart, index, "the batch table lacks the entry", nil)
	}
	sc := newScanner(g.file, g.header.segmentSize, g.header, g.aead)
	found := false
	err = l.walkBatch(g, sc, batches[i], func(r record) error {
		if !r.control && r.index == index {
			e = Entry{Index: index, Term: r.term(), Type: r.typ(), Data: append(buf[:0], r.data...)}
			found = true
		}
		return nil
	})
	if err == nil && !found {
		err = l.damage(g, int64(batches[i].offset), index, "the batch lacks the entry", nil)
	}
	return e, err
}

// walkBatch reads one batch of a segment, checks header, trailer and records,
// and calls fn for each record. The chain was checked by Open.
func (l *Log) walkBatch(g *segment, sc *scanner, ref batchRef, fn func(r record) error) error {
	raw, err := sc.at(int64(ref.offset), int(ref.length))
	if err != nil {
		return err
	}
	b := scannedBatch{offset: int64(ref.offset), raw: raw}
	if b.header, err = decodeBatchHeader(raw, g.seed); err == nil {
		b.trailer, err = decodeTrailer(raw[max(0, len(raw)-trailerSize):], g.seed)
	}
	if err == nil && (b.trailer.number != b.header.number || len(raw) < batchHeaderSize+trailerSize) {
		err = errFormat
	}
	if err == nil {
		err = sc.openBody(&b)
	}
	if err != nil {
		return l.damage(g, b.offset, ref.firstIndex, "a batch is damaged on disk", err)
	}
	err = sc.records(&b, func(r record, _ int64) error { return fn(r) })
	var bb *badBatch
	if errors.As(err, &bb) {
		return l.damage(g, b.offset, ref.firstIndex, "a batch is damaged on disk", err)
	}
	return err
}

// Iterate calls fn for every entry from max(from, FirstIndex) to the entry
// that was the last durable one when Iterate began, in ascending order. Data
// is valid during the call only. An error of fn ends the iteration and is
// returned. Every byte is checked; damage is an ErrCorrupt.
func (l *Log) Iterate(from uint64, fn func(Entry) error) error {
	l.idx.RLock()
	from, last := max(from, l.start.index), l.last
	l.idx.RUnlock()
	for from <= last {
		l.idx.RLock()
		g := l.segmentOf(from)
		if from < l.start.index {
			l.idx.RUnlock()
			return fmt.Errorf("%w: index %d was truncated while iterating", ErrNotFound, from)
		}
		end := last
		for i := len(l.segments) - 1; i >= 0 && l.segments[i] != g; i-- {
			end = min(end, l.segments[i].first-1)
		}
		g.readers.RLock()
		l.idx.RUnlock()
		err := l.iterateSegment(g, from, end, fn)
		g.readers.RUnlock()
		if err != nil {
			return err
		}
		from = end + 1
	}
	return nil
}

func (l *Log) iterateSegment(g *segment, from, end uint64, fn func(Entry) error) error {
	if g.released {
		return l.gone(from)
	}
	batches, _, err := l.tables(g)
	if err != nil {
		return err
	}
	sc := newScanner(g.file, g.header.segmentSize, g.header, g.aead)
	i := max(0, sort.Search(len(batches), func(i int) bool { return batches[i].firstIndex > from })-1)
	next := from
	for ; i < len(batches) && next <= end; i++ {
		err := l.walkBatch(g, sc, batches[i], func(r record) error {
			if r.control || r.index < from || r.index > end {
				return nil
			}
			if r.index != next {
				return bad("record carries index %d where %d belongs", r.index, next)
			}
			next++
			return fn(Entry{Index: r.index, Term: r.term(), Type: r.typ(), Data: r.data})
		})
		if err != nil {
			return err
		}
	}
	if next <= end {
		return l.damage(g, dataStart, next, fmt.Sprintf("entries %d..%d are not where the index says", next, end), nil)
	}
	return nil
}
