package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/erlmcp/erlmcp/internal/manyhash"
)

// Rows on their way into a Builder:
//
//	Add ─ batches of rows ─┬─ hash and seal (one goroutine per batch) ─┬─ tables (one goroutine, in order)
//	                       └──────────── at most buildAhead ───────────┘
//
// The goroutine that calls Add only copies. Memory is buildAhead batches.

const (
	// buildTable is the size of the table files a Builder writes, in bytes of keys and values.
	buildTable = 64 << 20

	buildAhead     = 6
	buildBatch     = 256 << 10 // bytes of keys and values
	buildBatchRows = 512
)

// builtRow is a row of a batch. In the batch's buffer it stands as it is hashed (see rowHasher); once it was, key and value are put
// in their stored form in the same place:
//
//	at                     keyEnd                    body       end
//	len u32 | table 0 key | mod u64 | deadline u64 | len u32 | value
//	     'd'  table 0 key |   ...  mod u64 | deadline uvarint | value
type builtRow struct {
	at, keyEnd, body, end int
	head                  int // where the stored value begins
	mod                   uint64
	deadline              int64
	old                   bool // belongs to the state that the builder was given
	kept                  bool // belongs to the state that comes out
}

// buildRows is a batch.
type buildRows struct {
	buf      []byte
	rows     []builtRow
	sealed   []byte // stored values of an encrypted store
	scratch  []byte
	old, sum lanes // of the rows
	msgs     [][]byte
	out      [][32]byte
	hasher   *manyhash.Hasher
	err      error
	done     chan struct{} // hashed and sealed
	written  chan struct{}
}

func newBuildRows() *buildRows {
	return &buildRows{hasher: manyhash.New(), out: make([][32]byte, buildBatchRows)}
}

func (r *buildRows) reset() {
	if cap(r.buf) > 4*buildBatch {
		r.buf, r.sealed, r.scratch = nil, nil, nil
	}
	*r = buildRows{
		buf: r.buf[:0], rows: r.rows[:0], sealed: r.sealed[:0], scratch: r.scratch, msgs: r.msgs[:0], out: r.out, hasher: r.hasher,
		done: make(chan struct{}), written: make(chan struct{}),
	}
}

func (r *buildRows) full() bool { return len(r.buf) >= buildBatch || len(r.rows) == buildBatchRows }

// add copies a row.
func (r *buildRows) add(rowKey []byte, mod uint64, deadline int64, value []byte, old, kept bool) {
	b := builtRow{at: len(r.buf), mod: mod, deadline: deadline, old: old, kept: kept}
	r.buf = append(be.AppendUint32(r.buf, uint32(len(rowKey)-1)), rowKey[1:]...)
	b.keyEnd = len(r.buf)
	r.buf = be.AppendUint64(r.buf, mod)
	r.buf = be.AppendUint64(r.buf, uint64(deadline))
	r.buf = be.AppendUint32(r.buf, uint32(len(value)))
	b.body = len(r.buf)
	r.buf = append(r.buf, value...)
	b.end = len(r.buf)
	r.rows = append(r.rows, b)
}

// work hashes the rows and brings those that are kept into their stored form.
func (r *buildRows) work(s *Store) {
	defer close(r.done)
	for i := range r.rows {
		r.msgs = append(r.msgs, r.buf[r.rows[i].at:r.rows[i].end])
	}
	r.hasher.Sum(r.msgs, r.out[:len(r.msgs)])
	for i := range r.rows {
		b := &r.rows[i]
		if b.old {
			r.old.add(&r.out[i])
		}
		if !b.kept {
			continue
		}
		r.sum.add(&r.out[i])
		r.buf[b.at+3] = spaceRow
		if s.seal == nil {
			var head [8 + binary.MaxVarintLen64]byte
			n := len(appendRowHeader(head[:0], b.mod, b.deadline)) // at most 17 bytes for 20
			b.head = b.body - n
			copy(r.buf[b.head:], head[:n])
			continue
		}
		if r.scratch, r.err = s.encodeRow(r.scratch[:0], r.key(i), b.mod, b.deadline, r.buf[b.body:b.end]); r.err != nil {
			return
		}
		b.head = len(r.sealed)
		r.sealed = append(r.sealed, r.scratch...)
		b.end = len(r.sealed)
	}
}

// key is the Pebble key of row i, which must be kept.
func (r *buildRows) key(i int) []byte { return r.buf[r.rows[i].at+3 : r.rows[i].keyEnd] }

// value is its stored value.
func (r *buildRows) value(i int) []byte {
	b := &r.rows[i]
	if len(r.sealed) > 0 {
		return r.sealed[b.head:b.end]
	}
	return r.buf[b.head:b.end]
}

// rowPipe takes batches from Add to the tables. It belongs to the goroutine of the Builder's caller, but for tables.
type rowPipe struct {
	cur   *buildRows
	queue chan *buildRows // in order
	free  chan *buildRows
	ended chan struct{} // the goroutine of the tables is done
	fault chan error    // its error, once

	tables tableSet // of that goroutine until ended
}

// tableSet writes rows into table files.
type tableSet struct {
	s        *Store
	old, sum lanes
	table    *sstable.Writer
	file     *tableFile // of table
	syncing  *tableFile // the one before it; nil: none
	size     int
	paths    []string
	due      *pebble.Batch // deadline rows
}

func newRowPipe(s *Store) *rowPipe {
	p := &rowPipe{
		queue: make(chan *buildRows, buildAhead), free: make(chan *buildRows, buildAhead+2), ended: make(chan struct{}), fault: make(chan error, 1),
		tables: tableSet{s: s, due: s.db.NewBatch()},
	}
	for range buildAhead + 2 {
		p.free <- nil // made when needed
	}
	go p.run()
	return p
}

// run is the goroutine of the tables. After an error it only empties the queue.
func (p *rowPipe) run() {
	defer close(p.ended)
	failed := false
	for r := range p.queue {
		<-r.done
		if !failed {
			if err := p.tables.write(r); err != nil {
				failed = true
				p.fault <- err
			}
		}
		close(r.written)
		p.free <- r
	}
}

// add hands a row over. The error may be that of an earlier one.
func (p *rowPipe) add(rowKey []byte, mod uint64, deadline int64, value []byte, old, kept bool) error {
	if p.cur == nil {
		if p.cur = <-p.free; p.cur == nil {
			p.cur = newBuildRows()
		}
		p.cur.reset()
	}
	p.cur.add(rowKey, mod, deadline, value, old, kept)
	if !p.cur.full() {
		return nil
	}
	r := p.cur
	err := p.send()
	if len(r.buf) > 4*buildBatch { // a large value: one at a time, so that memory stays bounded
		<-r.written
	}
	return err
}

func (p *rowPipe) send() error {
	r := p.cur
	p.cur = nil
	if r != nil {
		go r.work(p.tables.s)
		p.queue <- r
	}
	select {
	case err := <-p.fault:
		p.fault <- err // it stays
		return err
	default:
		return nil
	}
}

// end waits until all rows are in tables, which then belong to the caller.
func (p *rowPipe) end() error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	err := p.send()
	close(p.queue)
	<-p.ended
	select {
	case err = <-p.fault:
	default:
	}
	return err
}

func (t *tableSet) write(r *buildRows) error {
	if r.err != nil {
		return r.err
	}
	for i := range t.old {
		t.old[i] += r.old[i]
		t.sum[i] += r.sum[i]
	}
	for i := range r.rows {
		if r.rows[i].kept {
			if err := t.row(r.key(i), r.value(i), r.rows[i].deadline); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tableSet) row(rowKey, value []byte, deadline int64) error {
	if t.table == nil {
		if err := t.open(); err != nil {
			return err
		}
	}
	if err := t.table.Set(rowKey, value); err != nil {
		return fmt.Errorf("engine: build row: %w", err)
	}
	t.size += len(rowKey) + len(value)
	if deadline != 0 {
		if err := t.due.Set(appendDeadlineKey(nil, deadline, rowKey), nil, nil); err != nil {
			return fmt.Errorf("engine: build deadline: %w", err)
		}
		if t.due.Len() > 1<<20 {
			if err := t.commitDue(); err != nil {
				return err
			}
			t.due = t.s.db.NewBatch()
		}
	}
	if t.size >= buildTable {
		return t.next()
	}
	return nil
}

func (t *tableSet) commitDue() error {
	if err := t.due.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("engine: build deadlines: %w", err)
	}
	return t.due.Close()
}

func (t *tableSet) open() error {
	path := t.s.o.FS.PathJoin(t.s.storeDir, fmt.Sprintf("rows-%06d.build", len(t.paths)+1))
	f, err := newTableFile(t.s.o.FS, path, false)
	if err != nil {
		return err
	}
	t.table, t.file, t.size = t.s.newTable(f, builtCompression), f, 0
	t.paths = append(t.paths, path)
	return nil
}

// newTable begins a table in a file.
func (s *Store) newTable(f *tableFile, compression *sstable.CompressionProfile) *sstable.Writer {
	o := s.pebbleOptions()
	o.EnsureDefaults()
	wo := o.MakeWriterOptions(6, s.db.TableFormat())
	wo.Compression = compression
	return sstable.NewWriter(f, wo)
}

// next finishes a table file. It becomes durable while the next one is written.
func (t *tableSet) next() error {
	if t.table == nil {
		return nil
	}
	err := t.table.Close()
	t.table = nil
	if err != nil {
		err = fmt.Errorf("engine: finish %s: %w", t.file.path, err)
	}
	err = errors.Join(err, t.syncing.await())
	t.syncing, t.file = t.file, nil
	return err
}

// close finishes the last table file and returns when all of them are durable.
func (t *tableSet) close() error {
	err := t.next()
	err = errors.Join(err, t.syncing.await())
	t.syncing = nil
	return err
}

// abandon lets go of what is unfinished; the files are removed with the directory.
func (t *tableSet) abandon() {
	_ = t.close()
	if t.due != nil {
		_ = t.due.Close()
		t.due = nil
	}
}

// Add writes one row. Rows must be strictly ascending by (table, key); r is not kept. Every error is final: call Abort.
func (b *Builder) Add(r *Row) error {
	if err := b.usable(stateRows); err != nil {
		return err
	}
	if !validName(r.Table) || r.Sealed {
		return b.fail(fmt.Errorf("%w: row of table %q", ErrInvalid, r.Table))
	}
	if r.ModIndex > b.at.Index {
		return b.fail(fmt.Errorf("%w: row of table %s was written by entry %d, after the state of entry %d", ErrInvalid, r.Table, r.ModIndex, b.at.Index))
	}
	var deadline int64
	if !r.Deadline.IsZero() {
		if deadline = r.Deadline.UnixMilli(); deadline <= 0 {
			return b.fail(fmt.Errorf("%w: deadline %s in table %s", ErrInvalid, r.Deadline, r.Table))
		}
	}
	b.key = appendRowKey(b.key[:0], r.Table, r.Key)
	if b.rows > 0 && bytes.Compare(b.last, b.key) >= 0 {
		return b.fail(fmt.Errorf("%w: row %.64x of table %s is out of order", ErrInvalid, r.Key, r.Table))
	}
	b.state = stateRows
	kept, err := b.fold.meet(b.key, r.ModIndex, b.pipe)
	if err == nil {
		err = b.pipe.add(b.key, r.ModIndex, deadline, r.Value, true, kept)
	}
	if err != nil {
		return b.fail(err)
	}
	b.last = append(b.last[:0], b.key...)
	b.rows++
	return nil
}
