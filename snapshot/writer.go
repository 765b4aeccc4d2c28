package snapshot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	"github.com/zeebo/blake3"
)

// WriterOptions configure a Writer. The zero value works.
type WriterOptions struct {
	BlockSize int // raw bytes per block; default 256 KiB, 4 KiB..4 MiB
	Workers   int // blocks compressed at once; default GOMAXPROCS, at most 4; memory is about 2 blocks for each
}

func (o WriterOptions) withDefaults() (WriterOptions, error) {
	if o.BlockSize == 0 {
		o.BlockSize = 256 << 10
	}
	if o.BlockSize < 4<<10 || o.BlockSize > 4<<20 {
		return o, fmt.Errorf("%w: block size %d is not within 4 KiB..4 MiB", ErrInvalid, o.BlockSize)
	}
	o.Workers = workers(o.Workers)
	return o, nil
}

func workers(n int) int {
	if n <= 0 {
		return min(runtime.GOMAXPROCS(0), 4)
	}
	return n
}

// Writer writes a snapshot to a stream. Rows are compressed in the background; everything is written by the caller's
// goroutine. Not for concurrent use.
type Writer struct {
	w    io.Writer
	o    WriterOptions
	err  error // sticky
	head [32]byte
	root *blake3.Hasher

	block BlockBuilder
	first Entry // first row of the current block
	last  struct {
		table string
		key   []byte
	}
	queue []*blockJob // being compressed, in order
	spare [][]byte

	offset uint64
	number uint64
	page   []byte // items of the current index page
	inPage uint32
	footer Footer
	hash   StateHash
}

// blockJob is a block on its way through a worker; the writer touches it again after done.
type blockJob struct {
	table  string // of the first row
	key    []byte
	raw    []byte
	rows   int
	stored []byte
	codec  byte
	hash   StateHash
	err    error
	done   chan struct{}
}

// NewWriter writes the header.
func NewWriter(w io.Writer, h Header, o WriterOptions) (*Writer, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b, err := h.encode()
	if err != nil {
		return nil, err
	}
	sw := &Writer{w: w, o: o, root: blake3.New()}
	copy(sw.head[:], b[len(b)-digestSize:])
	_, _ = sw.root.Write(sw.head[:])
	sw.footer.Tables = map[string]uint64{}
	if err := sw.write(b); err != nil {
		return nil, err
	}
	return sw, nil
}

// Add writes one row. Rows must be strictly ascending by (table, key): ErrOrder. e is copied. After an error of the
// stream every call returns it; ErrInvalid, ErrTooLarge and ErrOrder leave the writer usable.
func (w *Writer) Add(e *Entry) error {
	if w.err != nil {
		return w.err
	}
	if err := e.Validate(); err != nil {
		return err
	}
	if e.Removed {
		return fmt.Errorf("%w: a snapshot has no removed rows", ErrInvalid)
	}
	if w.footer.Rows > 0 && Compare(w.last.table, w.last.key, e.Table, e.Key) >= 0 {
		return fmt.Errorf("%w: table %s key %.64x does not follow table %s key %.64x", ErrOrder, e.Table, e.Key, w.last.table, w.last.key)
	}
	if w.block.Rows() > 0 && w.block.Len()+len(e.Key)+len(e.Value) > w.o.BlockSize {
		if err := w.cut(); err != nil {
			return err
		}
	}
	if w.block.Rows() == 0 {
		w.first.Table, w.first.Key = e.Table, bytes.Clone(e.Key)
	}
	w.block.Add(e)
	w.countRow(e)
	return nil
}

func (w *Writer) countRow(e *Entry) {
	if w.last.table != e.Table {
		w.footer.order = append(w.footer.order, e.Table)
		w.last.table = e.Table
	}
	w.footer.Tables[e.Table]++
	w.footer.Rows++
	w.last.key = append(w.last.key[:0], e.Key...)
}

// cut sends the current block to a worker and writes what is ready, at the latest when all workers are busy.
func (w *Writer) cut() error {
	var buf []byte
	if n := len(w.spare); n > 0 {
		buf, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	j := &blockJob{table: w.first.Table, key: w.first.Key, done: make(chan struct{})}
	j.raw, j.rows = w.block.Take(buf)
	w.queue = append(w.queue, j)
	go j.run()
	for len(w.queue) > w.o.Workers {
		if err := w.writeHead(); err != nil {
			return err
		}
	}
	return nil
}

// run compresses the block and hashes its rows as a reader will see them, which proves the encoding on the way.
func (j *blockJob) run() {
	defer close(j.done)
	if _, j.err = walk(j.raw, j.rows, &j.hash); j.err != nil {
		return
	}
	out, small := Compress(nil, j.raw)
	j.stored, j.codec = out, codecRaw
	if small {
		j.codec = codecZstd
	}
}

// writeHead waits for the oldest block and writes it.
func (w *Writer) writeHead() error {
	j := w.queue[0]
	<-j.done
	w.queue = w.queue[1:]
	if j.err != nil {
		w.err = fmt.Errorf("snapshot: block does not decode after encoding: %w", j.err)
		return w.err
	}
	at := w.offset
	f := frame{kind: kindBlock, codec: j.codec, raw: uint32(len(j.raw)), items: uint32(j.rows)}
	if err := w.element(f, j.stored); err != nil {
		return err
	}
	w.hash.Merge(&j.hash)
	w.footer.Blocks++
	w.footer.RawBytes += uint64(len(j.raw))
	w.page = binary.AppendUvarint(w.page, at)
	w.page = binary.AppendUvarint(w.page, uint64(j.rows))
	w.page = appendString(w.page, j.table)
	w.page = appendString(w.page, j.key)
	w.inPage++
	if cap(j.raw) <= 2*w.o.BlockSize {
		w.spare = append(w.spare, j.raw)
	}
	if w.inPage == pageBlocks {
		return w.endPage()
	}
	return nil
}

func (w *Writer) endPage() error {
	out, small := Compress(nil, w.page)
	f := frame{kind: kindIndex, raw: uint32(len(w.page)), items: w.inPage}
	if small {
		f.codec = codecZstd
	}
	w.footer.pages = append(w.footer.pages, w.offset)
	err := w.element(f, out)
	w.page, w.inPage = w.page[:0], 0
	return err
}

// element numbers, seals and writes one element.
func (w *Writer) element(f frame, stored []byte) error {
	var b [frameSize]byte
	f.stored, f.number = uint32(len(stored)), w.number
	f.seal(b[:], &w.head, stored)
	w.number++
	_, _ = w.root.Write(f.digest[:])
	if err := w.write(b[:]); err != nil {
		return err
	}
	return w.write(stored)
}

func (w *Writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.offset += uint64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = fmt.Errorf("snapshot: write: %w", err)
	}
	return w.err
}

// Finish writes what is left, the footer and the tail. The stream is not closed.
func (w *Writer) Finish() (Footer, error) {
	if w.err != nil {
		return Footer{}, w.err
	}
	if err := w.drain(); err != nil {
		return Footer{}, err
	}
	w.footer.StateHash = w.hash.Sum()
	w.root.Sum(w.footer.Root[:0])
	at := w.offset
	b := w.footer.encode()
	if err := w.element(frame{kind: kindFooter, raw: uint32(len(b))}, b); err != nil {
		return Footer{}, err
	}
	tail := le.AppendUint64(make([]byte, 0, tailSize), at)
	if err := w.write(append(tail, magicTail...)); err != nil {
		return Footer{}, err
	}
	w.err = ErrFinished
	return w.footer, nil
}

func (w *Writer) drain() error {
	if w.block.Rows() > 0 {
		if err := w.cut(); err != nil {
			return err
		}
	}
	for len(w.queue) > 0 {
		if err := w.writeHead(); err != nil {
			return err
		}
	}
	if w.inPage > 0 {
		return w.endPage()
	}
	return nil
}

// edges of a block, for the order across blocks, and its rows per table.
type edges struct {
	first, last Entry
	tables      []tableRows
}

type tableRows struct {
	table string
	rows  uint64
}

// walk decodes a whole block, checks its row count and adds its rows to hash.
func walk(raw []byte, rows int, hash *StateHash) (e edges, err error) {
	c := NewCursor(raw)
	for n := 0; ; n++ {
		row, err := c.Next()
		if err != nil {
			return e, err
		}
		if row == nil {
			if n != rows {
				return e, &CorruptError{Reason: fmt.Sprintf("%d rows, %d announced", n, rows)}
			}
			e.last.Table, e.last.Key = c.e.Table, c.key
			return e, nil
		}
		if row.Removed {
			return e, &CorruptError{Reason: "removed row in a snapshot"}
		}
		if n == 0 {
			e.first.Table, e.first.Key = row.Table, bytes.Clone(row.Key)
		}
		if len(e.tables) == 0 || e.tables[len(e.tables)-1].table != row.Table {
			e.tables = append(e.tables, tableRows{table: row.Table})
		}
		e.tables[len(e.tables)-1].rows++
		hash.Add(row)
	}
}
