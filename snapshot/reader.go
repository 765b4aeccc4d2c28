package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/zeebo/blake3"
)

// ReaderOptions configure a Reader. The zero value works.
type ReaderOptions struct {
	Workers int // blocks verified and decoded ahead; default GOMAXPROCS, at most 4; memory is about 2 blocks for each
}

// Reader reads a snapshot from a stream, verified. Blocks are decoded in the background; the stream is read by the
// caller's goroutine only, and no further than the tail. Not for concurrent use.
type Reader struct {
	r      io.Reader
	n      int
	header Header
	head   [32]byte
	root   *blake3.Hasher
	err    error // sticky; io.EOF after the verified end

	offset   int64
	number   uint64
	queue    []*readJob
	ended    bool // footer was queued
	footer   Footer
	footerAt int64

	cur    Cursor
	open   bool // cur has rows
	last   Entry
	blocks uint64
	rows   uint64
	raw    uint64
	hash   StateHash
	tables map[string]uint64
}

// readJob is an element on its way through a worker.
type readJob struct {
	frame  frame
	fixed  [frameSize]byte
	offset int64
	stored []byte
	raw    []byte
	hash   StateHash
	edges  edges
	err    error
	done   chan struct{}
}

// NewReader reads and verifies the header: ErrNotSnapshot, ErrVersion, ErrCorrupt.
func NewReader(r io.Reader, o ReaderOptions) (*Reader, error) {
	b := make([]byte, headerFixed)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrNotSnapshot
		}
		return nil, fmt.Errorf("snapshot: read header: %w", err)
	}
	n, err := headerLength(b)
	if err != nil {
		return nil, err
	}
	b = append(b, make([]byte, n-headerFixed)...)
	if _, err := io.ReadFull(r, b[headerFixed:]); err != nil {
		return nil, readErr(err, -1, 0)
	}
	sr := &Reader{r: r, n: workers(o.Workers), root: blake3.New(), offset: int64(n), tables: map[string]uint64{}}
	if sr.header, sr.head, err = decodeHeader(b); err != nil {
		return nil, err
	}
	_, _ = sr.root.Write(sr.head[:])
	return sr, nil
}

// readErr tells a stream that ends early from one that cannot be read.
func readErr(err error, element, offset int64) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &CorruptError{Element: element, Offset: offset, Reason: "the stream ends early"}
	}
	return fmt.Errorf("snapshot: read at offset %d: %w", offset, err)
}

// Header is the verified header.
func (r *Reader) Header() Header { return r.header }

// Footer is valid after Next returned io.EOF.
func (r *Reader) Footer() Footer { return r.footer }

// Next returns the next row, valid until the next call. io.EOF means that everything was read and agreed with the
// footer; any other error is final.
func (r *Reader) Next() (*Entry, error) {
	for r.err == nil {
		if r.open {
			e, err := r.cur.Next()
			if err != nil {
				r.err = err // the worker read the same bytes without an error
				break
			}
			if e != nil {
				return e, nil
			}
			r.open = false
		}
		r.err = r.advance()
	}
	return nil, r.err
}

// advance keeps the workers busy and takes the next finished element.
func (r *Reader) advance() error {
	for !r.ended && len(r.queue) < r.n {
		if err := r.fetch(); err != nil {
			return err
		}
	}
	j := r.queue[0]
	r.queue = r.queue[1:]
	<-j.done
	if j.err != nil {
		var c *CorruptError
		if errors.As(j.err, &c) {
			return &CorruptError{Element: int64(j.frame.number), Offset: j.offset, Reason: c.Reason}
		}
		return j.err
	}
	switch j.frame.kind {
	case kindBlock:
		return r.take(j)
	case kindFooter:
		return r.finish(j)
	}
	return nil
}

// fetch reads one element and hands it to a worker.
func (r *Reader) fetch() error {
	j := &readJob{offset: r.offset, done: make(chan struct{})}
	at := int64(r.number)
	if _, err := io.ReadFull(r.r, j.fixed[:]); err != nil {
		return readErr(err, at, r.offset)
	}
	var reason string
	if j.frame, reason = decodeFrame(j.fixed[:]); reason == "" && j.frame.number != r.number {
		reason = fmt.Sprintf("it is element %d", j.frame.number)
	}
	if reason != "" {
		return &CorruptError{Element: at, Offset: r.offset, Reason: reason}
	}
	j.stored = make([]byte, j.frame.stored)
	if _, err := io.ReadFull(r.r, j.stored); err != nil {
		return readErr(err, at, r.offset)
	}
	if j.frame.kind == kindFooter {
		r.ended, r.footerAt = true, r.offset
	} else {
		_, _ = r.root.Write(j.frame.digest[:])
	}
	r.offset += frameSize + int64(len(j.stored))
	r.number++
	r.queue = append(r.queue, j)
	go j.run(&r.head)
	return nil
}

// run verifies and decodes an element.
func (j *readJob) run(head *[32]byte) {
	defer close(j.done)
	if j.raw, j.err = j.frame.open(head, j.fixed[:24], j.stored); j.err != nil {
		return
	}
	switch j.frame.kind {
	case kindBlock:
		j.edges, j.err = walk(j.raw, int(j.frame.items), &j.hash)
	case kindIndex:
		_, j.err = decodePage(j.raw, int(j.frame.items))
	}
}

// open checks the digest of an element and undoes its codec.
func (f *frame) open(head *[32]byte, fixed, stored []byte) ([]byte, error) {
	if elementDigest(head, fixed, stored) != f.digest {
		return nil, &CorruptError{Reason: "digest does not match"}
	}
	if f.codec == codecRaw {
		return stored, nil
	}
	raw, ok := Decompress(nil, stored, int(f.raw))
	if !ok {
		return nil, &CorruptError{Reason: "does not decompress to its announced length"}
	}
	return raw, nil
}

// take makes a verified block the current one.
func (r *Reader) take(j *readJob) error {
	if r.blocks > 0 && Compare(r.last.Table, r.last.Key, j.edges.first.Table, j.edges.first.Key) >= 0 {
		return &CorruptError{Element: int64(j.frame.number), Offset: j.offset, Reason: "rows do not follow those of the block before"}
	}
	r.last = j.edges.last
	r.blocks++
	r.rows += uint64(j.frame.items)
	r.raw += uint64(len(j.raw))
	r.hash.Merge(&j.hash)
	for _, t := range j.edges.tables {
		r.tables[t.table] += t.rows
	}
	r.cur.Reset(j.raw)
	r.open = true
	return nil
}

// finish compares the footer with what was read and reads the tail.
func (r *Reader) finish(j *readJob) error {
	bad := func(reason string) error {
		return &CorruptError{Element: int64(j.frame.number), Offset: j.offset, Reason: reason}
	}
	f, reason := decodeFooter(j.raw)
	if reason != "" {
		return bad(reason)
	}
	var root [32]byte
	r.root.Sum(root[:0])
	switch {
	case f.Root != root:
		return bad("root hash does not match")
	case f.Blocks != r.blocks || f.Rows != r.rows || f.RawBytes != r.raw:
		return bad(fmt.Sprintf("footer counts %d blocks, %d rows, %d bytes; %d, %d, %d were read", f.Blocks, f.Rows, f.RawBytes, r.blocks, r.rows, r.raw))
	case !maps.Equal(f.Tables, r.tables):
		return bad("rows per table do not match")
	case f.StateHash != r.hash.Sum():
		return bad("state hash does not match the rows")
	}
	var tail [tailSize]byte
	if _, err := io.ReadFull(r.r, tail[:]); err != nil {
		return readErr(err, int64(r.number), r.offset)
	}
	if !bytes.Equal(tail[8:], []byte(magicTail)) || le.Uint64(tail[:]) != uint64(r.footerAt) {
		return &CorruptError{Element: int64(r.number), Offset: r.offset, Reason: "tail does not match"}
	}
	r.footer = f
	return io.EOF
}
