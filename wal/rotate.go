package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// rotate seals the active segment and activates the next one. With jump, the
// next entry gets that index (TruncateBack, or the first entry of an empty
// log). The caller owns the tail.
//
// The next file is durable under its name before the footer is written, so a
// sealed segment without a successor proves a loss (row 5).
func (l *Log) rotate(jump *uint64) error {
	p, err := l.keep.take()
	if err != nil {
		return err
	}
	g := l.tail.seg
	err = writeFooter(g.file, g, l.tail.position, unixMs(l.o.Now()))
	if err != nil && isNoSpace(err) {
		// A file system that copies on write may refuse even this. The segment
		// is not sealed; the append is refused and a later one tries again.
		l.keep.giveBack(p)
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err == nil {
		err = g.file.SyncData()
	}
	if err != nil {
		_ = p.file.Close()
		return l.fail(fmt.Errorf("seal %s: %w", g.name, err))
	}
	l.idx.Lock()
	g.sealed, g.batches, g.offsets = true, nil, nil
	l.idx.Unlock()
	next := l.tail.nextIndex
	if jump != nil {
		next = *jump
	}
	if err := l.activate(p.file, p.id, next, jump); err != nil {
		if l.tail.seg.id != p.id {
			_ = p.file.Close() // else Close does
		}
		return l.fail(err)
	}
	l.stats.rotations.Add(1)
	return nil
}

func writeFooter(f vfs.File, g *segment, end position, nowMs int64) error {
	body := encodeFooterBody(g.batches, g.offsets)
	footer := segmentFooter{
		id: g.id, firstIndex: g.first, lastIndex: end.nextIndex - 1, lastBatch: end.number - 1, tail: uint64(end.offset),
		batches: uint32(len(g.batches)), entries: uint32(len(g.offsets)),
		bodyOffset: uint64(g.header.segmentSize - footerSize - int64(len(body))),
		bodyCRC:    crc32.Checksum(body, castagnoli), sealedMs: nowMs, chain: end.chain,
	}
	var b [footerSize]byte
	footer.encode(b[:], g.seed)
	if _, err := f.WriteAt(append(body, b[:]...), int64(footer.bodyOffset)); err != nil {
		return fmt.Errorf("write footer of %s: %w", g.name, err)
	}
	return nil
}

// activate writes the header and the first batch (the log's state) of a
// prepared segment and makes it the active one. On return it is durable.
func (l *Log) activate(file vfs.File, id, firstIndex uint64, jump *uint64) error {
	h := segmentHeader{
		flags: l.id.flags, blockSize: uint32(l.o.BlockSize), segmentSize: l.id.segmentSize, id: id,
		firstIndex: firstIndex, firstBatch: l.tail.number, createdMs: unixMs(l.o.Now()),
		logID: l.id.logID, prevChain: l.tail.chain, keyCheck: l.id.keyCheck,
	}
	g := &segment{
		id: id, name: segmentName(id), file: file, header: h, seed: h.seed(), first: firstIndex, tail: dataStart,
	}
	if l.o.Key != nil {
		aead, err := segmentCipher(l.o.Key, &h)
		if err != nil {
			return err
		}
		g.aead = aead
	}
	var page [dataStart]byte
	h.encode(page[:])
	h.encode(page[headerCopy:])
	if _, err := file.WriteAt(page[:], 0); err != nil {
		return fmt.Errorf("write header of %s: %w", g.name, err)
	}
	state := l.stateBatch(g, firstIndex, jump)
	l.idx.Lock()
	l.segments = append(l.segments, g)
	l.idx.Unlock()
	l.tail.seg = g
	l.tail.offset, l.tail.nextIndex = dataStart, firstIndex
	if err := l.writeBatch(state); err != nil {
		return err
	}
	if err := l.writeHeadMark(true); err != nil {
		return err
	}
	l.idx.Lock()
	defer l.idx.Unlock()
	l.last = firstIndex - 1
	for _, c := range state.controls {
		l.applyControl(c)
	}
	return nil
}

// stateBatch is the first batch of every segment: it repeats the log's start
// and all meta values, so that older segments can go.
func (l *Log) stateBatch(g *segment, firstIndex uint64, jump *uint64) *batch {
	b := newBatch()
	b.seed, b.first, b.next = g.seed, firstIndex, firstIndex
	start := l.start
	switch {
	case start.segment == 0 || jump != nil && l.last < start.index && *jump > start.index:
		start = logStart{segment: g.id, index: firstIndex} // a new log, or a jump in an empty one
	case jump != nil:
		start.index = min(start.index, *jump)
	}
	data := start.encode(nil)
	metas := l.metaSnapshot()
	keys := make([]string, 0, len(metas))
	for k := range metas {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		data = appendMeta(data, k, metas[k])
	}
	b.addControl(controlState, data)
	if jump != nil {
		b.addControl(controlNext, binary.LittleEndian.AppendUint64(nil, *jump))
	}
	return b
}

// borrow waits until nothing is queued or being written and keeps appenders
// out; the caller owns the tail until giveBack.
func (l *Log) borrow() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.exclusive || !l.atRest() {
		if err := l.refusal(); err != nil {
			return err
		}
		l.quiet.Wait()
	}
	if err := l.refusal(); err != nil {
		return err
	}
	l.exclusive = true
	return nil
}

func (l *Log) giveBack() {
	l.mu.Lock()
	l.exclusive = false
	l.nextIndex = l.tail.nextIndex
	l.work.Signal()
	l.quiet.Broadcast()
	l.room.Broadcast()
	l.mu.Unlock()
}

// jumpTo makes index the next one of an empty log.
func (l *Log) jumpTo(index uint64) error {
	if err := l.borrow(); err != nil {
		return err
	}
	defer l.giveBack()
	if !l.isEmpty() || l.tail.nextIndex == index {
		return nil // somebody else was faster; the caller checks again
	}
	if err := l.rotate(&index); err != nil {
		return err
	}
	if err := l.writeEndMark(); err != nil {
		return l.fail(err)
	}
	l.retire()
	return nil
}

// TruncateBack drops the entries with an index of at least index. It is a
// record in the chain: the dropped entries stay on disk for forensics until
// their segment is recycled. An index above LastIndex changes nothing, but
// waits until nothing is on its way to disk.
func (l *Log) TruncateBack(index uint64) error {
	if index == 0 {
		return fmt.Errorf("%w: index 0", ErrInvalid)
	}
	if err := l.borrow(); err != nil {
		return err
	}
	defer l.giveBack()
	if index >= l.tail.nextIndex {
		return nil
	}
	if err := l.rotate(&index); err != nil {
		return err
	}
	if err := l.writeEndMark(); err != nil {
		return l.fail(err)
	}
	l.idx.Lock()
	if l.ring != nil {
		l.ring.truncateBack(index)
	}
	l.idx.Unlock()
	return nil
}

// TruncateFront drops the entries below index. Files are recycled in the
// background, whole segments at a time. An index at or below FirstIndex
// changes nothing; one above LastIndex+1 is ErrInvalid.
func (l *Log) TruncateFront(index uint64) error {
	l.idx.RLock()
	start, last := l.start, l.last
	for _, g := range l.segments {
		if g.first <= index {
			start.segment = g.id
		}
	}
	l.idx.RUnlock()
	switch {
	case index <= start.index:
		return nil
	case index > last+1:
		return fmt.Errorf("%w: TruncateFront(%d) is beyond the last index %d", ErrInvalid, index, last)
	}
	start.index = index
	if err := l.appendControl(controlStart, start.encode(nil)); err != nil {
		return err
	}
	l.retire()
	return nil
}

// retire hands segments before the log's start to the maintainer. The record
// that moved the start is durable.
func (l *Log) retire() {
	l.idx.Lock()
	var old []*segment
	for len(l.segments) > 1 && l.segments[0].id < l.start.segment {
		old = append(old, l.segments[0])
		l.segments = l.segments[1:]
	}
	if l.ring != nil {
		l.ring.truncateFront(l.start.index)
	}
	l.idx.Unlock()
	l.keep.retire(old)
}

const (
	maxMetaKey   = 256
	maxMetaValue = 4096
)

// SetMeta stores a small value durably, in the same stream and with the same
// fdatasync as entries (raft keeps its vote and term here). A nil value
// deletes the key. Keys have 1..256 bytes, values at most 4096; all together
// at most an eighth of a segment.
func (l *Log) SetMeta(key string, value []byte) error {
	if len(key) == 0 || len(key) > maxMetaKey || len(value) > maxMetaValue {
		return fmt.Errorf("%w: meta key of %d and value of %d bytes", ErrInvalid, len(key), len(value))
	}
	total := int64(len(key) + len(value))
	for k, v := range l.metaSnapshot() {
		total += int64(len(k) + len(v))
	}
	if total > l.o.SegmentSize/8 {
		return fmt.Errorf("%w: meta values take %d bytes, an eighth of a segment is the limit", ErrTooLarge, total)
	}
	return l.appendControl(controlMeta, appendMeta(nil, key, value))
}
