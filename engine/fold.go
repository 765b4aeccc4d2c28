package engine

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/wal"
)

// Folding is replaying log without looking at rows. Replay reads the old version of every row that an entry changes, to
// take it out of the state hash; in a large store that is a block read for each. A fold keeps the last version of every key that the log
// wrote, sorted, and a Builder merges them with the rows while it writes its tables:
//
//	log ─ decide each entry ─ last version per key, spilled to sorted runs ─┐
//	rows of the backup ────────────────────────────────────────────────────┴─ merged ─ tables, state hash
//
// Whether an entry counts may depend on rows that are not at hand. A fold then notes what it expects of the row (absent, or written by that
// entry), and the merge compares: one row that is different makes the whole fold void (ErrFold), and the log has to be replayed. What
// cannot be decided that way (a scan over something that changed since, more than maxFoldRuns) ends the fold at that entry; the
// rest of the log is replayed when the store is opened.
type fold struct {
	s      *Store
	base   uint64 // log index of the rows
	index  uint64 // newest entry that was folded
	closed bool   // nothing more can be folded

	mem     map[string]*foldRow // newer than every run
	size    int
	runs    []*foldRun // oldest first
	limit   int        // bytes of mem
	win     *window
	written map[string]uint64 // table -> its newest change
	marks   []rejection

	ws     WriteSet
	names  map[string]string
	points []foot
	feet   []foot
	row    []byte

	out *foldMerge // once the rows come
}

// ErrFold: the rows are not what folding the log took for granted. Nothing is wrong with either: build again with
// Builder.AppendLog instead of Builder.FoldLog.
var ErrFold = errors.New("engine: the log cannot be folded over these rows")

const (
	// foldMemory bounds the keys and values that a fold holds before it spills them.
	foldMemory  = 40 << 20
	maxFoldRuns = 64
	foldRowCost = 160 // of a row beside key and value
)

// foldRow is what the log says about a key.
type foldRow struct {
	kind   byte
	expect uint64 // of the row in the base: 0 nothing, 1 that it is absent, else 1 + the mod_index it must have
	value  []byte // stored form; only foldPut
}

const (
	foldPut    byte = 1
	foldDelete byte = 2
	foldCheck  byte = 3 // the log only read it
)

func newFold(s *Store, base uint64) *fold {
	return &fold{
		s: s, base: base, index: base, mem: map[string]*foldRow{}, win: newWindow(base), written: map[string]uint64{}, names: map[string]string{},
	}
}

// take folds an entry; false: it and all behind it must be replayed.
func (f *fold) take(e *wal.Entry) (bool, error) {
	if f.closed {
		return false, nil
	}
	if e.Type == EntryWriteSet {
		reason, known, err := f.decide(e)
		if err != nil {
			return false, fmt.Errorf("engine: fold log entry %d: %w", e.Index, err)
		}
		if !known {
			f.closed = true
			return false, nil
		}
		if reason != 0 {
			f.marks = append(f.marks, rejection{e.Index, reason})
		} else if err := f.apply(e.Index); err != nil {
			return false, fmt.Errorf("engine: fold log entry %d: %w", e.Index, err)
		}
	}
	f.index = e.Index
	if f.size > f.limit {
		return true, f.spill()
	}
	return true, nil
}

// decide does what applyWriteSet does before it changes rows. known is false if only rows can tell.
func (f *fold) decide(e *wal.Entry) (reason byte, known bool, err error) {
	ws := &f.ws
	if err := ws.decode(e.Data, f.names); err != nil {
		if errors.Is(err, ErrVersion) {
			return 0, false, nil // replay says so
		}
		return markMalformed, true, nil
	}
	if ws.IdempotencyKey != "" {
		if reason, known, err := f.recorded(); reason != 0 || !known || err != nil {
			return reason, known, err
		}
	}
	if !f.scansHold() {
		return 0, false, nil
	}
	hold, err := f.readsHold(e.Index)
	if err == nil && !hold {
		reason = markConflict
	}
	return reason, true, err
}

// recorded looks for the idempotency key, as Store.applyRecorded.
func (f *fold) recorded() (reason byte, known bool, err error) {
	f.row = appendRowKey(f.row[:0], idemTable, []byte(f.ws.IdempotencyKey))
	r, err := f.find(f.row)
	switch {
	case err != nil:
		return 0, false, err
	case r == nil:
		f.expect(f.row, 1)
		return 0, true, nil
	case r.kind == foldDelete, r.kind == foldCheck && r.expect == 1:
		return 0, true, nil
	case r.kind == foldCheck:
		return 0, false, nil // there is a record, and only the rows hold it
	}
	old, err := f.s.decodeRow(f.row, r.value, false)
	if err != nil {
		return 0, false, err
	}
	rec, err := parseIdemRow(old.value)
	if err != nil {
		return 0, false, err
	}
	if string(rec.reqHash) != string(f.ws.RequestHash) {
		return markMismatch, true, nil
	}
	return markDuplicate, true, nil
}

// scansHold reports whether it is certain that what the write set scanned did not change since.
func (f *fold) scansHold() bool {
	ws := &f.ws
	for i := range ws.ScanReads {
		r := &ws.ScanReads[i]
		n, known := f.s.byName[r.Index]
		if r.Index != "" && !known {
			continue // as in Store.scanHolds
		}
		if f.s.distrust {
			return false
		}
		if r.Index != "" {
			if ws.Snapshot < f.base || f.written[f.s.indexes[n].spec.Table] > ws.Snapshot {
				return false
			}
		} else if f.written[r.Table] > ws.Snapshot || ws.Snapshot < f.base {
			if !f.win.untouched(nil, []rangeRead{{r.Table, r.span()}}, ws.Snapshot) {
				return false
			}
		}
	}
	return true
}

// readsHold compares what the write set read with what the log wrote. Rows that the log did not write are expected to be what was read.
func (f *fold) readsHold(index uint64) (bool, error) {
	ws := &f.ws
	f.points = f.points[:0]
	for i := range ws.Reads {
		f.points = append(f.points, foot{ws.Reads[i].Table, pos{k2: string(ws.Reads[i].Key)}})
	}
	if ws.Snapshot < index && f.win.untouched(f.points, nil, ws.Snapshot) && !f.s.distrust {
		return true, nil
	}
	for _, note := range []bool{false, true} { // expectations only if nothing refuses it anyway
		for i := range ws.Reads {
			r := &ws.Reads[i]
			f.row = appendRowKey(f.row[:0], r.Table, r.Key)
			have, err := f.find(f.row)
			if err != nil {
				return false, err
			}
			if have == nil {
				if note {
					f.expect(f.row, r.ModIndex+1)
				}
				continue
			}
			mod := have.expect - 1
			switch have.kind {
			case foldPut:
				if mod, _, _, err = parseRow(have.value); err != nil {
					return false, err
				}
			case foldDelete:
				mod = 0
			}
			if mod != r.ModIndex {
				return false, nil
			}
		}
	}
	return true, nil
}

// apply takes the changes of the decoded write set in.
func (f *fold) apply(index uint64) error {
	ws := &f.ws
	f.feet = f.feet[:0]
	for i := range ws.Ops {
		if err := f.op(&ws.Ops[i], index); err != nil {
			return err
		}
	}
	if ws.IdempotencyKey != "" {
		op := idemOp(ws, index)
		if err := f.op(&op, index); err != nil {
			return err
		}
	}
	f.win.applied(f.feet, index)
	return nil
}

func (f *fold) op(op *Op, index uint64) error {
	f.feet = append(f.feet, foot{op.Table, pos{k2: string(op.Key)}})
	f.written[op.Table] = index
	f.row = appendRowKey(f.row[:0], op.Table, op.Key)
	r := f.mem[string(f.row)]
	if r == nil {
		r = &foldRow{}
		f.mem[string(f.row)] = r
		f.size += len(f.row) + foldRowCost
	}
	f.size -= len(r.value)
	if op.Delete {
		r.kind, r.value = foldDelete, nil
		return nil
	}
	size := len(op.Value) + 20
	if f.s.seal != nil {
		size += sealOverhead
	}
	var err error
	r.kind = foldPut
	r.value, err = f.s.encodeRow(make([]byte, 0, size), f.row, index, op.Deadline, op.Value)
	f.size += len(r.value)
	return err
}

// expect notes what a row that the log has not written must be.
func (f *fold) expect(rowKey []byte, what uint64) {
	f.mem[string(rowKey)] = &foldRow{kind: foldCheck, expect: what}
	f.size += len(rowKey) + foldRowCost
}

// find returns what the log says about a row so far, nil if nothing. The result is valid until the next call.
func (f *fold) find(rowKey []byte) (*foldRow, error) {
	if r := f.mem[string(rowKey)]; r != nil {
		return r, nil
	}
	for i := len(f.runs) - 1; i >= 0; i-- {
		if r, err := f.runs[i].find(rowKey); r != nil || err != nil {
			return r, err
		}
	}
	return nil, nil
}

// spill makes a run of what is in memory.
func (f *fold) spill() error {
	if len(f.runs) == maxFoldRuns {
		f.closed = true
		return nil
	}
	r, err := newFoldRun(f.s, len(f.runs), f.mem)
	if err != nil {
		return err
	}
	f.runs = append(f.runs, r)
	f.mem, f.size = map[string]*foldRow{}, 0
	return nil
}

// meet is called for every row of the base, ascending: it sends the rows of the log that come before it, and tells whether it stays.
func (f *fold) meet(rowKey []byte, mod uint64, to *rowPipe) (kept bool, err error) {
	if f == nil {
		return true, nil
	}
	if err := f.begin(); err != nil {
		return false, err
	}
	for {
		c := 1
		if key := f.out.key(); key != nil {
			c = bytes.Compare(key, rowKey)
		}
		if c > 0 {
			return true, nil
		}
		key, r, err := f.out.next()
		if err != nil {
			return false, err
		}
		if c == 0 {
			if r.expect != 0 && r.expect != mod+1 {
				return false, fmt.Errorf("%w: row %q", ErrFold, clip(rowKey))
			}
			return r.kind == foldCheck, f.send(rowKey, r, to)
		}
		if err := f.alone(key, r, to); err != nil {
			return false, err
		}
	}
}

// rest sends what comes behind the last row of the base.
func (f *fold) rest(to *rowPipe) error {
	if f == nil {
		return nil
	}
	if err := f.begin(); err != nil {
		return err
	}
	for f.out.key() != nil {
		key, r, err := f.out.next()
		if err == nil {
			err = f.alone(key, r, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) begin() (err error) {
	if f.out == nil {
		f.closed = true
		f.out, err = newFoldMerge(f.mem, f.runs)
	}
	return err
}

// alone: the base has no such row.
func (f *fold) alone(key []byte, r foldRow, to *rowPipe) error {
	if r.expect > 1 {
		return fmt.Errorf("%w: row %q", ErrFold, clip(key))
	}
	return f.send(key, r, to)
}

func (f *fold) send(key []byte, r foldRow, to *rowPipe) error {
	if r.kind != foldPut {
		return nil
	}
	row, err := f.s.decodeRow(key, r.value, false)
	if err != nil {
		return err
	}
	return to.add(key, row.mod, row.deadline, row.value, false, true)
}

// close lets go of the runs.
func (f *fold) close() error {
	if f == nil {
		return nil
	}
	var errs []error
	if f.out != nil {
		errs = append(errs, f.out.close())
		f.out = nil
	}
	for _, r := range f.runs {
		errs = append(errs, r.close())
	}
	f.runs, f.mem = nil, nil
	return errors.Join(errs...)
}
