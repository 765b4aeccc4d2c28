package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// A batch is a group commit on its way to disk. Only the committer and, while
// it writes, the syncer touch it.
type batch struct {
	buf      []byte // batch header space, then records
	seed     uint32 // of the record CRCs
	prev     chainValue
	hashed   int // bytes of buf behind the header that the chain has seen
	count    uint32
	first    uint64 // index of the first entry
	next     uint64 // index after the last entry
	term     uint64 // of the last entry
	offsets  []uint32
	base     uint32 // of the batch in the segment, once written
	controls []controlEvent
	requests []*request

	// Set by seal, used by the write.
	out    []byte
	offset int64
	after  position
	length int
	// Set by the write.
	written  int
	err      error
	syncTime time.Duration
}

func newBatch() *batch { return &batch{buf: make([]byte, batchHeaderSize, 16<<10)} }

func (b *batch) empty() bool { return b.count == 0 }

// reset empties the batch; an unusually large buffer is given back.
func (b *batch) reset(limit int) {
	if cap(b.buf) > 2*limit+batchHeaderSize {
		b.buf = make([]byte, batchHeaderSize, 16<<10)
	}
	b.buf = b.buf[:batchHeaderSize]
	b.count, b.controls, b.offsets, b.hashed, b.err = 0, b.controls[:0], b.offsets[:0], 0, nil
	clear(b.requests)
	b.requests = b.requests[:0]
}

func (b *batch) add(r *request) {
	b.requests = append(b.requests, r)
	if r.control != 0 {
		b.addControl(r.control, r.data)
		return
	}
	for i := range r.entries {
		e := &r.entries[i]
		b.offsets = append(b.offsets, uint32(len(b.buf)))
		b.buf = appendRecord(b.buf, b.seed, uint32(len(e.Data)), r.first+uint64(i), e.Term<<8|uint64(e.Type), e.Data)
		b.term = e.Term
	}
	b.count += uint32(len(r.entries))
	b.next = r.last + 1
}

func (b *batch) addControl(op byte, data []byte) {
	b.buf = appendRecord(b.buf, b.seed, uint32(len(data))|controlBit, 0, uint64(op), data)
	b.count++
	b.controls = append(b.controls, controlEvent{op, data})
}

// reseed recomputes the record CRCs for another segment: needed when records
// were encoded before a rotation.
func (b *batch) reseed(seed uint32) {
	if b.seed == seed {
		return
	}
	b.seed, b.hashed = seed, 0
	for at := batchHeaderSize; at < len(b.buf); {
		size := int(binary.LittleEndian.Uint32(b.buf[at+4:]) & lengthMask)
		crc := crc32.Update(seed, castagnoli, b.buf[at+4:at+recordHeader+size])
		binary.LittleEndian.PutUint32(b.buf[at:], crc)
		at += recordSpan(size)
	}
}

// A committer encodes, chains and publishes batches in its own goroutine; a
// second goroutine, the syncer, does nothing but pwrite and fdatasync. While
// batch N is in fdatasync the committer encodes and hashes batch N+1, and it
// hands N+1 over before it tells the owners of N.
type committer struct {
	l       *Log
	pending []*request // taken, not yet encoded
	cur     *batch     // being filled
	flight  *batch     // being written by the syncer
	free    *batch
	flights chan *batch
	landed  bool // guarded by Log.mu: the syncer is done with flight
	ended   chan struct{}
}

func newCommitter(l *Log) *committer {
	return &committer{l: l, cur: newBatch(), free: newBatch(), flights: make(chan *batch, 1), ended: make(chan struct{})}
}

// inlineRequests: a batch with at most so many requests is written by the
// committer itself. There is nothing to overlap, and it saves two goroutine
// switches on the latency of a single writer.
const inlineRequests = 2

// commitLoop is the committer goroutine: the only writer of the tail.
func (l *Log) commitLoop() {
	defer close(l.done)
	c := newCommitter(l)
	go c.syncLoop()
	for c.await() {
		c.step()
	}
	close(c.flights)
	<-c.ended
}

func (c *committer) syncLoop() {
	defer close(c.ended)
	for b := range c.flights {
		c.l.write(b)
		c.l.mu.Lock()
		c.landed = true
		c.l.work.Signal()
		c.l.mu.Unlock()
	}
}

// await takes what waits, or returns because the batch in flight has landed
// or the current batch can start; false when the log is closing and all is
// written.
func (c *committer) await() bool {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		flying := c.flight != nil
		switch {
		case flying && c.landed, !flying && (!c.cur.empty() || len(c.pending) > 0):
			c.take()
			return true
		case len(l.queue) > 0 && !l.exclusive && len(c.pending) == 0 && (!flying || l.queued >= gatherBytes && !c.full()):
			c.take()
			return true
		case !flying && len(l.queue) == 0 && l.closing && !l.exclusive:
			return false
		}
		l.flying = flying
		l.work.Wait()
	}
}

func (c *committer) full() bool { return len(c.cur.buf) >= c.l.o.MaxBatchBytes }

// take moves the queue to pending. Called with mu held.
func (c *committer) take() {
	l := c.l
	if len(l.queue) == 0 || l.exclusive || len(c.pending) > 0 {
		return
	}
	c.pending, l.queue = l.queue, c.pending[:0]
	l.queued, l.busy = 0, true
	l.room.Broadcast()
}

// encode moves pending requests into the current batch while they fit, and
// lets the chain see whole blocks of it.
func (c *committer) encode() {
	b, l := c.cur, c.l
	n := 0
	for _, r := range c.pending {
		if !b.empty() && len(b.buf)+r.size > l.o.MaxBatchBytes {
			break
		}
		if b.empty() {
			b.seed, b.first, b.next, b.term, b.prev = l.tail.seg.seed, r.first, r.first, 0, l.tail.chain
			if c.flight != nil {
				b.prev = c.flight.after.chain
			}
		}
		b.add(r)
		n++
	}
	c.pending = c.pending[:copy(c.pending, c.pending[n:])]
	if l.tail.seg.aead == nil && !b.empty() {
		l.chainer.feed(b, gatherBytes)
	}
}

// step encodes what was taken, lands the batch in flight if it is down, and
// starts the next one.
//
// A log that has failed writes nothing more, also not what was placed before
// anybody heard of it: the mark in FAILED says that it is void.
func (c *committer) step() {
	if err := c.l.Err(); err != nil && c.flight == nil {
		c.fail(nil, err)
		return
	}
	c.encode()
	var down *batch
	if c.flight != nil {
		if !c.hasLanded() {
			return
		}
		down, c.flight = c.flight, nil
		if err := c.l.land(down); err != nil {
			c.fail(down, err)
			return
		}
	}
	if c.cur.empty() {
		c.finish(down)
		c.rest()
		return
	}
	inline := len(c.cur.requests) <= inlineRequests
	if fits := c.l.fits(c.cur); !fits || inline {
		c.finish(down)
		down = nil
		if !fits {
			if err := c.l.rotate(nil); err != nil {
				c.fail(nil, err)
				return
			}
		}
	}
	c.launch(inline)
	c.finish(down)
}

func (c *committer) hasLanded() bool {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.landed
}

// launch seals the current batch and writes it, or has the syncer write it.
func (c *committer) launch(inline bool) {
	b := c.cur
	c.cur, c.free = c.free, nil
	b.reseed(c.l.tail.seg.seed)
	if err := c.l.seal(b); err != nil {
		c.fail(b, c.l.fail(err))
		return
	}
	if !inline {
		c.l.mu.Lock()
		c.landed = false
		c.l.mu.Unlock()
		c.flight = b
		c.flights <- b
		return
	}
	c.l.write(b)
	if err := c.l.land(b); err != nil {
		c.fail(b, err)
		return
	}
	c.finish(b)
	c.rest()
}

// finish makes a durable batch visible, tells its owners, and takes its
// buffers back.
func (c *committer) finish(b *batch) {
	if b == nil {
		return
	}
	c.l.publish(b)
	for _, r := range b.requests {
		r.finish(nil)
	}
	b.reset(c.l.o.MaxBatchBytes)
	if c.cur == nil {
		c.cur = b
	} else {
		c.free = b
	}
}

// fail refuses a batch that did not get to disk, and with it everything
// placed behind it: those indexes are void.
func (c *committer) fail(b *batch, err error) {
	l := c.l
	var behind []*request
	if b != nil {
		behind = append(behind, b.requests...)
		b.reset(l.o.MaxBatchBytes)
	}
	if c.cur != nil {
		behind = append(behind, c.cur.requests...)
		c.cur.reset(l.o.MaxBatchBytes)
	}
	behind = append(behind, c.pending...)
	c.pending = c.pending[:0]
	if b != nil && c.cur == nil {
		c.cur = b
	} else if b != nil && c.free == nil {
		c.free = b
	}
	l.mu.Lock()
	behind = append(behind, l.queue...)
	l.queue, l.queued = l.queue[:0], 0
	l.nextIndex = l.tail.nextIndex
	l.mu.Unlock()
	for _, r := range behind {
		r.finish(err)
	}
	l.mu.Lock()
	c.settle()
	l.mu.Unlock()
}

// rest writes the marks of an idle log, if it is idle.
func (c *committer) rest() {
	l := c.l
	l.mu.Lock()
	idle := len(l.queue) == 0
	l.mu.Unlock()
	if !idle || len(c.pending) > 0 {
		return
	}
	err := l.writeEndMark()
	if err == nil && l.tail.number > l.head.number+headMarkEvery {
		err = l.writeHeadMark(false)
	}
	if err != nil {
		c.fail(nil, l.fail(err)) // with what was placed meanwhile
		return
	}
	l.mu.Lock()
	c.settle()
	l.mu.Unlock()
}

// settle says that nothing is on its way. Called with mu held.
func (c *committer) settle() {
	c.l.busy = false
	c.l.quiet.Broadcast()
	c.l.room.Broadcast()
}

// fits reports whether the batch, an end mark behind it and the footer still
// fit the active segment.
func (l *Log) fits(b *batch) bool {
	g := l.tail.seg
	end := align(l.tail.offset+int64(len(b.buf))+gcmTagSize+trailerSize, int64(g.header.blockSize)) + int64(g.header.blockSize)
	return end <= g.header.segmentSize-footerSpan(len(g.batches)+1, int(g.entries)+len(b.offsets))-int64(g.header.blockSize)
}

// seal turns the batch into the bytes to be written at the tail: header,
// records (encrypted if need be), trailer, padding and 64 zero bytes, so that
// remains of an older life never stand right behind the tail.
func (l *Log) seal(b *batch) error {
	g := l.tail.seg
	h := batchHeader{number: l.tail.number, bodyLen: uint32(len(b.buf) - batchHeaderSize), count: b.count}
	out := b.buf
	if g.aead != nil {
		h.flags |= flagEncrypted
		h.bodyLen += gcmTagSize
		if _, err := io.ReadFull(l.o.Rand, l.nonce[:]); err != nil {
			return fmt.Errorf("random nonce: %w", err)
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
	out = append(out, zeros[:trailerSize]...)
	t.encode(out[start:])
	chain := l.chainer.seal(b, l.tail.chain, out, g.seed)
	b.offset, b.length = l.tail.offset, len(out)
	b.after = position{
		offset: align(l.tail.offset+int64(len(out)), int64(g.header.blockSize)),
		number: t.number + 1, nextIndex: b.next, term: t.term, commit: t.commitIndex, chain: chain, timeMs: t.timeMs,
	}
	pad := int(b.after.offset-l.tail.offset) + endMarkSize - len(out)
	b.out = append(out, zeros[:pad]...)
	if g.aead == nil {
		b.buf = b.out[:start] // keep the grown buffer
	} else if l.scratch = b.out[:0]; cap(l.scratch) > 2*l.o.MaxBatchBytes {
		l.scratch = nil
	}
	return nil
}

var zeros [dataStart + endMarkSize + trailerSize]byte

// write is the only place where batches meet the disk: one pwrite, one
// fdatasync. It runs in the syncer or the committer, never in both.
func (l *Log) write(b *batch) {
	f := l.tail.seg.file
	if b.written, b.err = f.WriteAt(b.out, b.offset); b.err != nil {
		b.err = fmt.Errorf("write %s at %d: %w", l.tail.seg.name, b.offset, b.err)
		return
	}
	began := time.Now()
	if b.err = f.SyncData(); b.err != nil {
		b.err = fmt.Errorf("fdatasync %s: %w", l.tail.seg.name, b.err)
	}
	b.syncTime = time.Since(began)
}

// land moves the tail behind a batch that was written, or says what its
// failure means.
func (l *Log) land(b *batch) error {
	g := l.tail.seg
	if b.err != nil {
		if b.written < len(b.out) && isNoSpace(b.err) && l.unwrite(b.written) {
			return fmt.Errorf("%w: %w", ErrNoSpace, b.err)
		}
		return l.fail(b.err)
	}
	l.stats.synced(b.syncTime, len(b.out), len(b.offsets))
	b.base = uint32(b.offset)
	for i := range b.offsets {
		b.offsets[i] += b.base
	}
	l.tail.position = b.after
	l.idx.Lock()
	if g.aead == nil {
		g.offsets = append(g.offsets, b.offsets...)
	}
	g.batches = append(g.batches, batchRef{b.base, uint32(b.length), b.first})
	g.entries += uint64(len(b.offsets))
	g.tail = l.tail.offset
	l.idx.Unlock()
	l.durableCommit.Store(l.tail.commit)
	if quarter := g.header.segmentSize / 4; b.offset < quarter && l.tail.offset >= quarter {
		l.keep.prepareSoon()
	}
	return nil
}

// writeBatch makes one batch durable in the calling goroutine, which owns the
// tail.
func (l *Log) writeBatch(b *batch) error {
	if err := l.seal(b); err != nil {
		return l.fail(err)
	}
	l.write(b)
	return l.land(b)
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

// publish makes a durable batch visible to readers and applies its controls.
func (l *Log) publish(b *batch) {
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
