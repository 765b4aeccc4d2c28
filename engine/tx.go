package engine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// Tx is a running transaction. It sees one version of the store plus its own writes. It belongs to the goroutine that runs
// the function given to Update or View and is dead when that function has returned.
//
// Key and value slices given to a Tx are copied; those it returns belong to the caller.
type Tx struct {
	s        *Store
	cfg      *txConfig
	v        *version // acquired by the first read
	now      time.Time
	writable bool
	system   bool // may write engine tables
	done     bool

	ops     []*txOp // ascending by (table, key)
	seq     int
	size    int // approximate bytes of the write set
	reads   []Read
	scans   []ScanRead
	outcome []byte
	scratch []byte
}

// txOp is the newest write to one row. It is replaced, never changed, by a later write to the same row.
type txOp struct {
	Op
	first int // seq of the first write to this row
}

// Range selects the keys in [Lo, Hi) (for ScanIndex: index keys); nil is open. Limit 0 is no limit.
// Rows come in ascending order, descending if Reverse.
type Range struct {
	Lo, Hi  []byte
	Reverse bool
	Limit   int
}

// Prefix is the range of all keys that begin with p.
func Prefix(p []byte) Range { return Range{Lo: bytes.Clone(p), Hi: successor(p)} }

// Now is the time of this run of the transaction, in whole milliseconds, UTC; it is recorded in the log.
func (tx *Tx) Now() time.Time { return tx.now }

// Actor is the value of WithActor.
func (tx *Tx) Actor() string { return tx.cfg.actor }

// SetOutcome sets what Update returns as Result.Outcome, now and for every repetition of the idempotency key.
func (tx *Tx) SetOutcome(b []byte) {
	tx.size += len(b) - len(tx.outcome)
	tx.outcome = bytes.Clone(b)
}

// Get returns the row's value, or ErrNotFound.
func (tx *Tx) Get(table string, key []byte) ([]byte, error) {
	r, err := tx.get(table, key)
	return r.value, err
}

// GetVersion also returns the log index of the write that made the row; 0 if this transaction wrote it itself.
func (tx *Tx) GetVersion(table string, key []byte) (value []byte, modIndex uint64, err error) {
	r, err := tx.get(table, key)
	return r.value, r.mod, err
}

func (tx *Tx) get(table string, key []byte) (row, error) {
	if err := tx.checkKey(table, key); err != nil {
		return row{}, err
	}
	if op := tx.find(table, key); op != nil {
		if op.Delete {
			return row{}, ErrNotFound
		}
		return row{deadline: op.Deadline, value: bytes.Clone(op.Value)}, nil
	}
	if err := tx.open(); err != nil {
		return row{}, err
	}
	tx.scratch = appendRowKey(tx.scratch[:0], table, key)
	r, err := tx.v.readRow(tx.scratch)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return row{}, err
	}
	if tx.writable {
		tx.reads = append(tx.reads, Read{Table: table, Key: bytes.Clone(key), ModIndex: r.mod})
		tx.size += len(key) + 12
	}
	return r, err
}

// Put writes a row without deadline.
func (tx *Tx) Put(table string, key, value []byte) error {
	return tx.write(Op{Table: table, Key: key, Value: value})
}

// PutUntil writes a row that is removed some time after the deadline (resolution 1 ms, later than 1970). It stays
// visible until its removal is committed.
func (tx *Tx) PutUntil(table string, key, value []byte, deadline time.Time) error {
	ms := deadline.UnixMilli()
	if ms <= 0 {
		return fmt.Errorf("%w: deadline %v", ErrInvalid, deadline)
	}
	return tx.write(Op{Table: table, Key: key, Value: value, Deadline: ms})
}

// Delete removes a row. Removing an absent row is no error.
func (tx *Tx) Delete(table string, key []byte) error {
	return tx.write(Op{Table: table, Key: key, Delete: true})
}

func (tx *Tx) write(op Op) error {
	if err := tx.checkKey(op.Table, op.Key); err != nil {
		return err
	}
	if !tx.writable {
		return ErrReadOnly
	}
	if op.Table[0] == '_' && !tx.system {
		return fmt.Errorf("%w: table %s is reserved for the engine", ErrInvalid, op.Table)
	}
	if len(op.Value) > tx.s.o.MaxValueBytes {
		return fmt.Errorf("%w: value of %d bytes, limit %d", ErrTooLarge, len(op.Value), tx.s.o.MaxValueBytes)
	}
	buf := make([]byte, 0, len(op.Key)+len(op.Value))
	buf = append(append(buf, op.Key...), op.Value...)
	n := len(op.Key)
	op.Key, op.Value = buf[:n:n], buf[n:]
	tx.seq++
	i := tx.search(op.Table, op.Key)
	if i < len(tx.ops) && tx.ops[i].Table == op.Table && bytes.Equal(tx.ops[i].Key, op.Key) {
		tx.size += len(op.Value) - len(tx.ops[i].Value)
		tx.ops[i] = &txOp{op, tx.ops[i].first}
	} else {
		tx.size += len(op.Key) + len(op.Value) + 16
		tx.ops = slices.Insert(tx.ops, i, &txOp{op, tx.seq})
	}
	if tx.size > tx.s.maxEntry {
		return fmt.Errorf("%w: transaction of more than %d bytes", ErrTooLarge, tx.s.maxEntry)
	}
	return nil
}

// search is the position of (table, key) in ops, or where it belongs.
func (tx *Tx) search(table string, key []byte) int {
	return sort.Search(len(tx.ops), func(i int) bool {
		return !before(tx.ops[i].Table, tx.ops[i].Key, table, key)
	})
}

func (tx *Tx) find(table string, key []byte) *txOp {
	if len(tx.ops) == 0 {
		return nil
	}
	i := tx.search(table, key)
	if i < len(tx.ops) && tx.ops[i].Table == table && bytes.Equal(tx.ops[i].Key, key) {
		return tx.ops[i]
	}
	return nil
}

func (tx *Tx) checkTable(table string) error {
	if tx.done {
		return ErrTxDone
	}
	if !validName(table) {
		return fmt.Errorf("%w: table name %q is not [a-z0-9_]{1,64}", ErrInvalid, table)
	}
	return nil
}

func (tx *Tx) checkKey(table string, key []byte) error {
	if err := tx.checkTable(table); err != nil {
		return err
	}
	if len(key) == 0 {
		return fmt.Errorf("%w: empty key", ErrInvalid)
	}
	if len(key) > tx.s.o.MaxKeyBytes {
		return fmt.Errorf("%w: key of %d bytes, limit %d", ErrTooLarge, len(key), tx.s.o.MaxKeyBytes)
	}
	return nil
}

// open acquires the version all reads of this transaction see.
func (tx *Tx) open() error {
	if tx.v != nil {
		return nil
	}
	v, err := tx.s.acquire()
	tx.v = v
	return err
}

func (tx *Tx) close() {
	tx.done = true
	if tx.v != nil {
		tx.v.release()
		tx.v = nil
	}
}

// writeSet builds what goes into the log.
func (tx *Tx) writeSet() *WriteSet {
	slices.SortFunc(tx.reads, func(a, b Read) int {
		if c := strings.Compare(a.Table, b.Table); c != 0 {
			return c
		}
		return bytes.Compare(a.Key, b.Key)
	})
	tx.reads = slices.CompactFunc(tx.reads, func(a, b Read) bool {
		return a.Table == b.Table && bytes.Equal(a.Key, b.Key)
	})
	w := &WriteSet{
		Time: max(tx.now.UnixMilli(), 0), Actor: tx.cfg.actor, Label: tx.cfg.label,
		IdempotencyKey: tx.cfg.idemKey, RequestHash: tx.cfg.requestHash, Outcome: tx.outcome,
		Reads: tx.reads, ScanReads: tx.scans,
		Ops: make([]Op, len(tx.ops)),
	}
	if tx.cfg.idemKey != "" {
		w.IdempotencyDeadline = w.Time + tx.s.o.IdempotencyTTL.Milliseconds()
	} else {
		w.RequestHash = nil
	}
	if tx.v != nil {
		w.Snapshot = tx.v.index
	}
	for i, op := range tx.ops {
		w.Ops[i] = op.Op
	}
	return w
}

// feet lists the footprints of the transaction: its rows and, for indexed tables, the index entries it adds and
// those it removes as far as its version knows them.
func (tx *Tx) feet() ([]foot, error) {
	feet := make([]foot, 0, len(tx.ops)+1)
	for _, op := range tx.ops {
		feet = append(feet, foot{op.Table, pos{k2: string(op.Key)}})
		indexes := tx.s.byTable[op.Table]
		if len(indexes) == 0 {
			continue
		}
		if err := tx.open(); err != nil {
			return nil, err
		}
		tx.scratch = appendRowKey(tx.scratch[:0], op.Table, op.Key)
		old, err := tx.v.readRow(tx.scratch)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		for _, i := range indexes {
			x := tx.s.indexes[i]
			if err == nil {
				feet = appendIndexFeet(feet, x.spec, op.Key, old.value)
			}
			if !op.Delete {
				feet = appendIndexFeet(feet, x.spec, op.Key, op.Value)
			}
		}
	}
	if tx.cfg.idemKey != "" {
		feet = append(feet, foot{idemTable, pos{k2: tx.cfg.idemKey}})
	}
	return feet, nil
}

func appendIndexFeet(feet []foot, spec IndexSpec, key, value []byte) []foot {
	for _, ik := range spec.Keys(key, value) {
		feet = append(feet, foot{indexSpace(spec.Name), pos{string(ik), string(key)}})
	}
	return feet
}

func indexSpace(name string) string { return "\x00" + name }

// points lists the rows a write set read.
func (w *WriteSet) points(dst []foot) []foot {
	for i := range w.Reads {
		dst = append(dst, foot{w.Reads[i].Table, pos{k2: string(w.Reads[i].Key)}})
	}
	if w.IdempotencyKey != "" {
		dst = append(dst, foot{idemTable, pos{k2: w.IdempotencyKey}})
	}
	return dst
}

// ranges lists the ranges a write set read.
func (w *WriteSet) ranges(dst []rangeRead) []rangeRead {
	for i := range w.ScanReads {
		r := &w.ScanReads[i]
		space := r.Table
		if r.Index != "" {
			space = indexSpace(r.Index)
		}
		dst = append(dst, rangeRead{space, r.span()})
	}
	return dst
}

func (r *ScanRead) span() span {
	return span{
		lo: pos{string(r.Lo), string(r.LoKey)}, hi: pos{string(r.Hi), string(r.HiKey)}, open: r.Open,
	}
}
