package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"time"
)

// A Completion hears when an asynchronous append is on disk, or why it will
// never be. Complete is called exactly once, from the committer goroutine, in
// log order. It must not block and must not call the Log.
type Completion interface {
	Complete(first, last uint64, err error)
}

// An openBatch collects records until the committer takes it. Appenders
// encode under Log.mu while the previous batch is in fdatasync.
type openBatch struct {
	buf      []byte // batch header space, then records
	seed     uint32 // of the record CRCs
	count    uint32
	first    uint64   // index of the first entry
	next     uint64   // index after the last entry
	term     uint64   // of the last entry
	offsets  []uint32 // of the entries' records; in the segment once written
	base     uint32   // of the batch in the segment, once written
	controls []controlEvent
	waiters  []waiter
}

type waiter struct {
	c           Completion
	first, last uint64
}

func newOpenBatch() *openBatch {
	return &openBatch{buf: make([]byte, batchHeaderSize, 16<<10)}
}

func (b *openBatch) empty() bool { return b.count == 0 }

// reset empties the batch; an unusually large buffer is given back.
func (b *openBatch) reset(limit int) {
	if cap(b.buf) > 2*limit+batchHeaderSize {
		b.buf = make([]byte, batchHeaderSize, 16<<10)
	}
	b.buf = b.buf[:batchHeaderSize]
	b.count, b.controls, b.offsets = 0, b.controls[:0], b.offsets[:0]
	clear(b.waiters)
	b.waiters = b.waiters[:0]
}

func (b *openBatch) addEntry(e *Entry, index uint64) {
	b.offsets = append(b.offsets, uint32(len(b.buf)))
	b.buf = appendRecord(b.buf, b.seed, uint32(len(e.Data)), index, e.Term<<8|uint64(e.Type), e.Data)
	b.count++
	b.term, b.next = e.Term, index+1
}

func (b *openBatch) addControl(op byte, data []byte) {
	b.buf = appendRecord(b.buf, b.seed, uint32(len(data))|controlBit, 0, uint64(op), data)
	b.count++
	b.controls = append(b.controls, controlEvent{op, data})
}

// reseed recomputes the record CRCs for another segment. It happens at most
// once per segment: when records were encoded before a rotation.
func (b *openBatch) reseed(seed uint32) {
	if b.seed == seed {
		return
	}
	b.seed = seed
	for at := batchHeaderSize; at < len(b.buf); {
		size := int(binary.LittleEndian.Uint32(b.buf[at+4:]) & lengthMask)
		crc := crc32.Update(seed, castagnoli, b.buf[at+4:at+recordHeader+size])
		binary.LittleEndian.PutUint32(b.buf[at:], crc)
		at += recordSpan(size)
	}
}

// syncWaiter turns the asynchronous append into Append. Pooled.
type syncWaiter struct {
	last uint64
	err  error
	done chan struct{}
}

func (w *syncWaiter) Complete(_, last uint64, err error) {
	w.last, w.err = last, err
	w.done <- struct{}{}
}

var waiters = sync.Pool{New: func() any { return &syncWaiter{done: make(chan struct{}, 1)} }}

// Append writes entries as one unit and returns the last one's index when all
// are on disk. Concurrent calls share one fdatasync.
//
// Errors: ErrNoSpace (nothing was written, retry later), ErrFailed (outcome
// unknown, the log is dead), ErrTooLarge, ErrIndexGap, ErrInvalid, ErrClosed.
func (l *Log) Append(entries ...Entry) (last uint64, err error) {
	w := waiters.Get().(*syncWaiter)
	if _, _, err := l.AppendAsync(entries, w); err != nil {
		waiters.Put(w)
		return 0, err
	}
	<-w.done
	last, err = w.last, w.err
	waiters.Put(w)
	return last, err
}

// AppendAsync gives entries their place in the log and returns it; c hears
// when they are on disk. The data is copied before AppendAsync returns. It
// waits only while the open batch is full, which bounds memory. On error
// nothing was placed and c is not called.
func (l *Log) AppendAsync(entries []Entry, c Completion) (first, last uint64, err error) {
	size, err := l.checkEntries(entries)
	if err != nil {
		return 0, 0, err
	}
	if err := l.waitForRoom(size, entries[0].Index); err != nil {
		return 0, 0, err
	}
	b := l.open
	for i := range entries {
		if x := entries[i].Index; x != 0 && x != l.nextIndex+uint64(i) {
			l.mu.Unlock()
			return 0, 0, fmt.Errorf("%w: got %d, want %d", ErrIndexGap, x, l.nextIndex+uint64(i))
		}
	}
	l.begin(b)
	first = l.nextIndex
	for i := range entries {
		b.addEntry(&entries[i], l.nextIndex)
		l.nextIndex++
	}
	last = l.nextIndex - 1
	b.waiters = append(b.waiters, waiter{c, first, last})
	l.release()
	return first, last, nil
}

// begin fixes what the first record of a batch fixes. Called with mu held.
func (l *Log) begin(b *openBatch) {
	if b.empty() {
		b.seed = l.tail.seg.seed // may be stale after a rotation: reseed mends it
		b.first, b.next, b.term = l.nextIndex, l.nextIndex, 0
	}
}

// release wakes the committer and unlocks mu.
func (l *Log) release() {
	l.work.Signal()
	l.mu.Unlock()
}

func (l *Log) checkEntries(entries []Entry) (size int, err error) {
	if len(entries) == 0 {
		return 0, fmt.Errorf("%w: no entries", ErrInvalid)
	}
	data := 0
	for i := range entries {
		e := &entries[i]
		if e.Type == 0 || e.Term > maxTerm {
			return 0, fmt.Errorf("%w: entry type must not be 0 and term must be below 2^56", ErrInvalid)
		}
		data += len(e.Data)
		size += recordSpan(len(e.Data))
	}
	if data > l.o.MaxEntryBytes || int64(size) > l.o.SegmentSize/2 {
		return 0, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, data, l.o.MaxEntryBytes)
	}
	return size, nil
}

// waitForRoom locks mu and returns with it held when size bytes fit the open
// batch and nobody has borrowed the tail. On error mu is not held.
func (l *Log) waitForRoom(size int, index uint64) error {
	l.mu.Lock()
	for {
		if err := l.refusal(); err != nil {
			l.mu.Unlock()
			return err
		}
		fits := l.open.empty() || len(l.open.buf)+size <= l.o.MaxBatchBytes
		switch {
		case l.exclusive || !fits:
			l.room.Wait()
			continue
		case index != 0 && index != l.nextIndex && l.open.empty() && !l.busy && l.isEmpty():
			l.mu.Unlock()
			if err := l.jumpTo(index); err != nil {
				return err
			}
			l.mu.Lock()
			continue
		}
		return nil
	}
}

func (l *Log) isEmpty() bool {
	l.idx.RLock()
	defer l.idx.RUnlock()
	return l.last < l.start.index
}

// refusal says why nothing can be appended. Called with mu held.
func (l *Log) refusal() error {
	if l.closing {
		return ErrClosed
	}
	return l.Err()
}

// appendControl places a control record and waits until it is on disk.
func (l *Log) appendControl(op byte, data []byte) error {
	if err := l.waitForRoom(recordSpan(len(data)), 0); err != nil {
		return err
	}
	w := &syncWaiter{done: make(chan struct{}, 1)}
	l.begin(l.open)
	l.open.addControl(op, data)
	l.open.waiters = append(l.open.waiters, waiter{w, l.nextIndex, l.nextIndex - 1})
	l.release()
	<-w.done
	return w.err
}

// commitLoop is the committer goroutine: the only writer of the tail.
func (l *Log) commitLoop() {
	defer close(l.done)
	for {
		b := l.takeBatch()
		if b == nil {
			return
		}
		err := l.commit(b)
		l.finish(b, err)
	}
}

// takeBatch swaps the open batch out; nil when the log is closing and all is
// written.
func (l *Log) takeBatch() *openBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.open.empty() || l.exclusive {
		if l.closing && !l.exclusive {
			return nil
		}
		l.work.Wait()
	}
	b := l.open
	l.open, l.spare = l.spare, nil
	l.busy = true
	l.room.Broadcast()
	return b
}

// finish tells the waiters and makes the batch's buffers reusable. If the
// batch failed, everything placed behind it fails too: its indexes are void.
func (l *Log) finish(b *openBatch, err error) {
	if err == nil {
		l.publish(b)
	}
	for i := range b.waiters {
		w := &b.waiters[i]
		w.c.Complete(w.first, w.last, err)
	}
	idle := l.dropBehind(err)
	if idle && err == nil {
		err = l.writeEndMark()
		if err == nil && l.tail.number > l.head.number+headMarkEvery {
			err = l.writeHeadMark(false)
		}
		if err != nil {
			_ = l.fail(err)
		}
	}
	l.mu.Lock()
	b.reset(l.o.MaxBatchBytes)
	l.spare, l.busy = b, false
	l.quiet.Broadcast()
	l.room.Broadcast()
	l.mu.Unlock()
}

// dropBehind fails what was placed behind a failed batch and reports whether
// nothing waits to be committed.
func (l *Log) dropBehind(err error) (idle bool) {
	l.mu.Lock()
	if err == nil {
		defer l.mu.Unlock()
		return l.open.empty()
	}
	behind := append([]waiter(nil), l.open.waiters...)
	l.open.reset(l.o.MaxBatchBytes)
	l.nextIndex = l.tail.nextIndex
	l.mu.Unlock()
	for _, w := range behind {
		w.c.Complete(w.first, w.last, err)
	}
	return true
}

// commit makes one batch durable.
func (l *Log) commit(b *openBatch) error {
	if err := l.Err(); err != nil {
		return err
	}
	if !l.fits(b) {
		if err := l.rotate(nil); err != nil {
			return err
		}
	}
	b.reseed(l.tail.seg.seed)
	return l.writeBatch(b)
}

// fits reports whether the batch, an end mark behind it and the footer still
// fit the active segment.
func (l *Log) fits(b *openBatch) bool {
	g := l.tail.seg
	end := align(l.tail.offset+int64(len(b.buf))+gcmTagSize+trailerSize, int64(g.header.blockSize)) + int64(g.header.blockSize)
	return end <= g.header.segmentSize-footerSpan(len(g.batches)+1, int(g.entries)+len(b.offsets))-int64(g.header.blockSize)
}

// writeBatch closes, chains, writes and syncs a batch at the tail, which must
// have room, and moves the tail behind it.
func (l *Log) writeBatch(b *openBatch) error {
	out, after, err := l.seal(b)
	if err != nil {
		return l.fail(err)
	}
	g := l.tail.seg
	if n, err := g.file.WriteAt(out, l.tail.offset); err != nil {
		if isNoSpace(err) && l.unwrite(n) {
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		return l.fail(fmt.Errorf("write %s at %d: %w", g.name, l.tail.offset, err))
	}
	began := time.Now()
	if err := g.file.SyncData(); err != nil {
		return l.fail(fmt.Errorf("fdatasync %s: %w", g.name, err))
	}
	l.stats.synced(time.Since(began), len(out), len(b.offsets))
	ref := batchRef{uint32(l.tail.offset), uint32(after.length), b.first}
	l.tail.position = after.position
	b.base = ref.offset
	for i := range b.offsets {
		b.offsets[i] += ref.offset
	}
	l.idx.Lock()
	if g.aead == nil {
		g.offsets = append(g.offsets, b.offsets...)
	}
	g.batches = append(g.batches, ref)
	g.entries += uint64(len(b.offsets))
	g.tail = l.tail.offset
	l.idx.Unlock()
	l.durableCommit.Store(l.tail.commit)
	return nil
}

// unwrite makes sure that a batch whose write failed after n bytes is not
// valid, so that a refused append stays refused after a crash. It reports
// false if it cannot; then the outcome is unknown and the log must fail.
func (l *Log) unwrite(n int) bool {
	if n == 0 {
		return true
	}
	block := make([]byte, l.tail.seg.header.blockSize)
	_, err := l.tail.seg.file.WriteAt(block, l.tail.offset)
	return err == nil
}

type sealed struct {
	position
	length int
}

// seal turns the open batch into the bytes to be written at the tail:
// header, records (encrypted if need be), trailer, padding and 64 zero bytes,
// so that remains of an older life never stand right behind the tail.
func (l *Log) seal(b *openBatch) (out []byte, after sealed, err error) {
	g := l.tail.seg
	h := batchHeader{number: l.tail.number, bodyLen: uint32(len(b.buf) - batchHeaderSize), count: b.count}
	out = b.buf
	if g.aead != nil {
		h.flags |= flagEncrypted
		h.bodyLen += gcmTagSize
		if _, err := io.ReadFull(l.o.Rand, l.nonce[:]); err != nil {
			return nil, after, fmt.Errorf("random nonce: %w", err)
		}
		h.nonce = l.nonce
		h.encode(b.buf, g.seed)
		out = append(l.scratch[:0], b.buf[:batchHeaderSize]...)
		out = g.aead.Seal(out, l.nonce[:], b.buf[batchHeaderSize:], out[8:batchHeaderSize])
	} else {
		h.encode(b.buf, g.seed)
	}
	t := batchTrailer{
		number: h.number, firstIndex: b.first, lastIndex: b.next - 1, term: b.term,
		commitIndex: max(l.committed.Load(), l.tail.commit),
		offset:      uint64(l.tail.offset), length: uint32(len(out) + trailerSize), count: b.count,
		timeMs: unixMs(l.o.Now()), segmentID: g.id,
	}
	if len(b.offsets) == 0 {
		t.term = l.tail.term
	}
	start := len(out)
	out = append(out, make([]byte, trailerSize)...)
	t.encode(out[start:])
	chain := l.chainer.seal(l.tail.chain, out, g.seed)
	after.length = len(out)
	after.position = position{
		offset: align(l.tail.offset+int64(len(out)), int64(g.header.blockSize)),
		number: t.number + 1, nextIndex: b.next, term: t.term, commit: t.commitIndex, chain: chain, timeMs: t.timeMs,
	}
	pad := int(after.offset-l.tail.offset) + endMarkSize - len(out)
	out = append(out, zeros[:pad]...)
	if g.aead != nil {
		l.scratch = out[:0]
		if cap(l.scratch) > 2*l.o.MaxBatchBytes {
			l.scratch = nil
		}
	} else {
		b.buf = out[:len(b.buf)] // keep the grown buffer
	}
	return out, after, nil
}

var zeros [dataStart + endMarkSize + trailerSize]byte

// publish makes a durable batch visible to readers and applies its controls.
func (l *Log) publish(b *openBatch) {
	l.idx.Lock()
	l.last = b.next - 1
	for _, c := range b.controls {
		l.applyControl(c)
	}
	if l.ring != nil {
		l.ring.addBatch(b)
	}
	l.idx.Unlock()
}

// applyControl updates the running state. Called with idx held; the record
// was made by this process, so it decodes.
func (l *Log) applyControl(c controlEvent) {
	s := survey{start: l.start, metas: l.metas}
	if err := s.applyControl(c); err == nil {
		l.start, l.metas = s.start, s.metas
	}
}

// writeEndMark promises that the last batch is durable. It is not synced: it
// need not survive what the batch survived anyway, but mostly does.
func (l *Log) writeEndMark() error {
	g := l.tail.seg
	if l.mark == nil {
		l.mark = make([]byte, dataStart) // zeros behind the mark, never changed
	}
	m := endMark{number: l.tail.number - 1, lastIndex: l.tail.nextIndex - 1, offset: uint64(l.tail.offset), chain: l.tail.chain}
	m.encode(l.mark, g.seed)
	if _, err := g.file.WriteAt(l.mark[:g.header.blockSize], l.tail.offset); err != nil && !isNoSpace(err) {
		return fmt.Errorf("write end mark in %s: %w", g.name, err)
	}
	return nil
}

// headMarkEvery so many batches the head mark in LOG follows an idle tail.
const headMarkEvery = 16

// writeHeadMark records in LOG that the batch before the tail is durable. It
// is synced when a segment was activated and on Close.
func (l *Log) writeHeadMark(sync bool) error {
	if l.tail.number > l.head.number+1 {
		l.head = headMark{
			sequence: l.head.sequence + 1, segment: l.tail.seg.id, number: l.tail.number - 1, lastIndex: l.tail.nextIndex - 1,
			offset: uint64(l.tail.offset), chain: l.tail.chain,
		}
		l.head.encode(l.headBuf[:], l.id.logID)
		at := int64(1+l.head.sequence%2) * headMarkStride
		if _, err := l.logFile.WriteAt(l.headBuf[:], at); err != nil && !isNoSpace(err) {
			return fmt.Errorf("write head mark: %w", err)
		}
	}
	if !sync {
		return nil
	}
	if err := l.logFile.SyncData(); err != nil {
		return fmt.Errorf("sync head mark: %w", err)
	}
	return nil
}
