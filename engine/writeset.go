package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/erlmcp/erlmcp/wal"
)

// EntryWriteSet is the log entry type of an encoded write set. Entries of every other type change no row; Apply only
// moves the applied index over them.
const EntryWriteSet wal.EntryType = 0x10

// A write set is one transaction as it stands in the log. All integers are unsigned LEB128 varints unless marked:
//
//	version u8 = 1
//	time (Unix ms) | snapshot index
//	actor str | label str | outcome str                                             str = length, bytes
//	idempotency key str, and if it is not empty: its deadline (Unix ms, not 0) | request hash str
//	count | tables: str                                  every name once, ascending; below referred to by position
//	count | reads: table, key str, mod_index              ascending by (table, key); mod_index 0 = was absent
//	count | scans: kind u8, name, flags u8, lo str, lo key str, hi str, hi key str, rows, fingerprint 16 bytes
//	count | ops:   kind u8, table, key str, [deadline], [value str]   ascending by (table, key), one per key
//	[tag 16 bytes, not all zero]                         only in replicated stores: no other write set has the same
//
// Scan kind 0 is a table (name = position in tables), 1 an index (name = str); flag 1 = no upper bound.
// Op kind 0 deletes, 1 puts, 2 puts with a deadline (Unix ms).
const (
	writeSetVersion = 1
	lastVersion     = 31 // above is no version, the bytes are something else

	opDelete   = 0
	opPut      = 1
	opPutUntil = 2

	scanTable = 0
	scanIndex = 1
	scanOpen  = 1

	maxTablesPerSet = 1 << 16
)

// WriteSet is the content of one committed transaction. Decoded byte slices alias the input.
type WriteSet struct {
	Time                int64  // Unix ms, from the clock of the node that ran the transaction
	Snapshot            uint64 // log index of the version that was read; 0 when nothing was read
	Actor               string
	Label               string
	Outcome             []byte
	IdempotencyKey      string
	RequestHash         []byte
	IdempotencyDeadline int64 // Unix ms: until when the key is remembered
	Reads               []Read
	ScanReads           []ScanRead
	Ops                 []Op
	Tag                 [16]byte // zero: none; see TagWriteSet
}

// TagWriteSet appends a tag to an encoded write set that has none, so that its bytes are found again in the log by the
// node that proposed them. tag must not be zero and never be used twice. It means nothing to Apply.
func TagWriteSet(ws []byte, tag [16]byte) []byte { return append(ws, tag[:]...) }

// Read is a point read: the row had this version, 0 = it was absent.
type Read struct {
	Table    string
	Key      []byte
	ModIndex uint64
}

// ScanRead is a scanned range and a fingerprint of the rows in it. Positions are (index key, key) pairs for an index and
// (nil, key) for a table; the range is [lo, hi).
type ScanRead struct {
	Table          string // scanned table; empty when Index is set
	Index          string
	Lo, LoKey      []byte
	Hi, HiKey      []byte
	Open           bool // no upper bound
	Rows           uint64
	PrintA, PrintB uint64
}

// Op is one row change.
type Op struct {
	Table    string
	Key      []byte
	Value    []byte
	Deadline int64 // Unix ms, 0 = none
	Delete   bool
}

// Encode appends the encoded write set to dst. Reads and Ops must be ascending by (table, key) without repetition.
func (w *WriteSet) Encode(dst []byte) []byte {
	names := w.tableNames()
	dst = append(dst, writeSetVersion)
	dst = binary.AppendUvarint(dst, uint64(w.Time))
	dst = binary.AppendUvarint(dst, w.Snapshot)
	dst = appendStr(dst, w.Actor)
	dst = appendStr(dst, w.Label)
	dst = appendStr(dst, w.Outcome)
	dst = appendStr(dst, w.IdempotencyKey)
	if w.IdempotencyKey != "" {
		dst = binary.AppendUvarint(dst, uint64(w.IdempotencyDeadline))
		dst = appendStr(dst, w.RequestHash)
	}
	dst = binary.AppendUvarint(dst, uint64(len(names)))
	for _, n := range names {
		dst = appendStr(dst, n)
	}
	dst = binary.AppendUvarint(dst, uint64(len(w.Reads)))
	for i := range w.Reads {
		r := &w.Reads[i]
		dst = binary.AppendUvarint(dst, tablePos(names, r.Table))
		dst = appendStr(dst, r.Key)
		dst = binary.AppendUvarint(dst, r.ModIndex)
	}
	dst = binary.AppendUvarint(dst, uint64(len(w.ScanReads)))
	for i := range w.ScanReads {
		dst = w.ScanReads[i].append(dst, names)
	}
	dst = binary.AppendUvarint(dst, uint64(len(w.Ops)))
	for i := range w.Ops {
		dst = w.Ops[i].append(dst, names)
	}
	if w.Tag != [16]byte{} {
		dst = TagWriteSet(dst, w.Tag)
	}
	return dst
}

func (r *ScanRead) append(dst []byte, names []string) []byte {
	if r.Index != "" {
		dst = append(dst, scanIndex)
		dst = appendStr(dst, r.Index)
	} else {
		dst = append(dst, scanTable)
		dst = binary.AppendUvarint(dst, tablePos(names, r.Table))
	}
	var flags byte
	if r.Open {
		flags = scanOpen
	}
	dst = append(dst, flags)
	for _, b := range [...][]byte{r.Lo, r.LoKey, r.Hi, r.HiKey} {
		dst = appendStr(dst, b)
	}
	dst = binary.AppendUvarint(dst, r.Rows)
	dst = be.AppendUint64(dst, r.PrintA)
	return be.AppendUint64(dst, r.PrintB)
}

func (o *Op) append(dst []byte, names []string) []byte {
	kind := byte(opPut)
	switch {
	case o.Delete:
		kind = opDelete
	case o.Deadline != 0:
		kind = opPutUntil
	}
	dst = append(dst, kind)
	dst = binary.AppendUvarint(dst, tablePos(names, o.Table))
	dst = appendStr(dst, o.Key)
	if kind == opPutUntil {
		dst = binary.AppendUvarint(dst, uint64(o.Deadline))
	}
	if kind != opDelete {
		dst = appendStr(dst, o.Value)
	}
	return dst
}

// tableNames returns the distinct table names, ascending. There are few, so insertion is the cheapest way.
func (w *WriteSet) tableNames() []string {
	names := make([]string, 0, 4)
	add := func(n string) {
		i := int(tablePos(names, n))
		if i < len(names) && names[i] == n {
			return
		}
		names = append(names, "")
		copy(names[i+1:], names[i:])
		names[i] = n
	}
	for i := range w.Reads {
		add(w.Reads[i].Table)
	}
	for i := range w.ScanReads {
		if w.ScanReads[i].Index == "" {
			add(w.ScanReads[i].Table)
		}
	}
	for i := range w.Ops {
		add(w.Ops[i].Table)
	}
	return names
}

// tablePos is the position of n in the ascending names, or where it belongs.
func tablePos(names []string, n string) uint64 {
	lo, hi := 0, len(names)
	for lo < hi {
		if mid := (lo + hi) / 2; names[mid] < n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return uint64(lo)
}

func appendStr[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// DecodeWriteSet decodes a write set. It never panics, allocates at most a small multiple of len(b), and refuses
// everything Encode would not have written (ErrMalformed; ErrVersion for a newer version). The result aliases b.
func DecodeWriteSet(b []byte) (*WriteSet, error) {
	var w WriteSet
	if err := w.decode(b, nil); err != nil {
		return nil, err
	}
	return &w, nil
}

// decode fills w, reusing its slices. intern, if not nil, keeps table names so that they are allocated once.
func (w *WriteSet) decode(b []byte, intern map[string]string) error {
	d := decoder{b: b, intern: intern}
	v := d.u8()
	if v > writeSetVersion && v <= lastVersion {
		return fmt.Errorf("%w: write set version %d", ErrVersion, v)
	}
	if v != writeSetVersion {
		return fmt.Errorf("%w: write set version %d", ErrMalformed, v)
	}
	w.Time = d.signed()
	w.Snapshot = d.uvarint()
	w.Actor, w.Label = string(d.str(maxActorBytes)), string(d.str(maxActorBytes))
	w.Outcome = d.str(len(b))
	w.IdempotencyKey = string(d.str(maxIdemKeyBytes))
	w.IdempotencyDeadline, w.RequestHash = 0, nil
	if w.IdempotencyKey != "" {
		if w.IdempotencyDeadline = d.signed(); w.IdempotencyDeadline == 0 {
			d.fail("empty deadline")
		}
		w.RequestHash = d.str(maxReqHashBytes)
	}
	names := d.tables()
	d.reads(w, names)
	d.scans(w, names)
	d.ops(w, names)
	for i := range uint64(len(names)) {
		if !d.used(i) {
			d.fail("a table without a use")
		}
	}
	w.Tag = [16]byte{}
	if d.err == nil && len(d.b) != 0 {
		if len(d.b) == len(w.Tag) {
			copy(w.Tag[:], d.b)
		}
		if w.Tag == [16]byte{} {
			d.fail("bytes after the end")
		}
	}
	return d.err
}

// decoder reads from b; after the first error everything it returns is zero.
type decoder struct {
	b      []byte
	intern map[string]string
	err    error
	few    uint64   // a bit for each of the first 64 tables that something names
	many   []uint64 // and for the others
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: write set: %s, %d bytes before its end", ErrMalformed, what, len(d.b))
	}
	d.b = nil
}

func (d *decoder) u8() byte {
	if len(d.b) == 0 {
		d.fail("cut short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 { // a set has one encoding only: no zeros in front
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) signed() int64 {
	v := d.uvarint()
	if v > maxDeadline {
		d.fail("time out of range")
		return 0
	}
	return int64(v)
}

func (d *decoder) str(limit int) []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) || n > uint64(limit) {
		d.fail("bad length")
		return nil
	}
	s := d.b[:n:n]
	d.b = d.b[n:]
	return s
}

// count reads the number of items that take at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail("bad count")
		return 0
	}
	return int(n)
}

func (d *decoder) tables() []string {
	n := d.count(2)
	if n > maxTablesPerSet {
		d.fail("too many tables")
		return nil
	}
	names := make([]string, 0, n)
	for range n {
		b := d.str(maxNameBytes)
		name, ok := d.intern[string(b)]
		if !ok {
			name = string(b)
			if !validName(name) {
				d.fail("bad table name")
				return nil
			}
			if d.intern != nil && len(d.intern) < maxTablesPerSet {
				d.intern[name] = name
			}
		}
		if len(names) > 0 && names[len(names)-1] >= name {
			d.fail("tables out of order")
			return nil
		}
		names = append(names, name)
	}
	return names
}

func (d *decoder) table(names []string) string {
	i := d.uvarint()
	if i >= uint64(len(names)) {
		d.fail("bad table number")
		return ""
	}
	d.use(i, len(names))
	return names[i]
}

// use notes that something names table i of n.
func (d *decoder) use(i uint64, n int) {
	if i < 64 {
		d.few |= 1 << i
		return
	}
	if d.many == nil {
		d.many = make([]uint64, (n+63)/64)
	}
	d.many[i/64] |= 1 << (i % 64)
}

func (d *decoder) used(i uint64) bool {
	if i < 64 {
		return d.few&(1<<i) != 0
	}
	return d.many != nil && d.many[i/64]&(1<<(i%64)) != 0
}

func (d *decoder) reads(w *WriteSet, names []string) {
	n := d.count(3)
	w.Reads = w.Reads[:0]
	for i := range n {
		r := Read{Table: d.table(names), Key: d.str(len(d.b)), ModIndex: d.uvarint()}
		if i > 0 && !before(w.Reads[i-1].Table, w.Reads[i-1].Key, r.Table, r.Key) {
			d.fail("reads out of order")
		}
		if d.err != nil {
			return
		}
		w.Reads = append(w.Reads, r)
	}
}

func (d *decoder) scans(w *WriteSet, names []string) {
	n := d.count(24)
	w.ScanReads = w.ScanReads[:0]
	for range n {
		var r ScanRead
		switch d.u8() {
		case scanTable:
			r.Table = d.table(names)
		case scanIndex:
			r.Index = string(d.str(maxNameBytes))
			if d.err == nil && !validName(r.Index) {
				d.fail("bad index name")
			}
		default:
			d.fail("bad scan kind")
		}
		flags := d.u8()
		if flags > scanOpen {
			d.fail("bad scan flags")
		}
		r.Open = flags&scanOpen != 0
		for _, p := range [...]*[]byte{&r.Lo, &r.LoKey, &r.Hi, &r.HiKey} {
			*p = d.str(len(d.b))
		}
		r.Rows = d.uvarint()
		if len(d.b) < 16 {
			d.fail("cut short")
			return
		}
		r.PrintA, r.PrintB = be.Uint64(d.b), be.Uint64(d.b[8:])
		d.b = d.b[16:]
		w.ScanReads = append(w.ScanReads, r)
	}
}

func (d *decoder) ops(w *WriteSet, names []string) {
	n := d.count(3)
	w.Ops = w.Ops[:0]
	for i := range n {
		kind := d.u8()
		if kind > opPutUntil {
			d.fail("bad op kind")
		}
		o := Op{Delete: kind == opDelete, Table: d.table(names), Key: d.str(len(d.b))}
		if kind == opPutUntil {
			if o.Deadline = d.signed(); o.Deadline == 0 {
				d.fail("empty deadline")
			}
		}
		if kind != opDelete {
			o.Value = d.str(len(d.b))
		}
		if i > 0 && !before(w.Ops[i-1].Table, w.Ops[i-1].Key, o.Table, o.Key) {
			d.fail("ops out of order")
		}
		if d.err != nil {
			return
		}
		w.Ops = append(w.Ops, o)
	}
}

func before(t1 string, k1 []byte, t2 string, k2 []byte) bool {
	if t1 != t2 {
		return t1 < t2
	}
	return bytes.Compare(k1, k2) < 0
}
