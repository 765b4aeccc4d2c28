package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/erlmcp/erlmcp/wal"
)

// Apply applies durable log entries and returns one outcome for each. It is for a Committer of one's own: call it from
// one goroutine at a time, with strictly ascending indexes; entries at or below the applied index are
// skipped. The outcome is a pure function of the log, so every node decides alike. Entry data is not kept.
//
// After an internal error every outcome is ErrFailed and the store has failed.
func (s *Store) Apply(entries []wal.Entry) []ApplyOutcome {
	return s.applyGroup(entries, make([]ApplyOutcome, 0, len(entries)))
}

// applier is the state of the apply loop; mu only makes the one-goroutine rule of Apply safe to break.
type applier struct {
	mu     sync.Mutex
	hasher rowHasher
	ws     WriteSet
	names  map[string]string // interned table names
	points []foot
	ranges []rangeRead
	feet   []foot
	traces traces
	row    []byte // scratch: Pebble key
	val    []byte // scratch: encrypted row value
	aux    []byte // scratch: deadline keys, applied row

	// The open group: decided but not yet visible.
	batch    *pebble.Batch
	iter     *pebble.Iterator // for point reads
	files    *pebble.Iterator // the same without memtables: everything up to filesTo
	filesTo  uint64
	overlay  map[string]overlayRow // rows the group changed
	diffs    []indexDiff
	lanes    lanes
	index    uint64 // newest decided index
	bytes    int64  // of log entries
	hashes   []indexHash
	rejected []rejection
	entries  int
	soonest  int64 // earliest deadline written
}

type overlayRow struct {
	present bool
	raw     []byte // encoded row value, memory of the batch
}

type indexHash struct {
	index uint64
	lanes lanes
}

type rejection struct {
	index  uint64
	reason byte
}

// maxGroupBytes bounds a group's Pebble batch, so that it stays well below a memtable.
const maxGroupBytes = 4 << 20

// applyGroup applies entries as few groups as possible and appends their outcomes to outs.
func (s *Store) applyGroup(entries []wal.Entry, outs []ApplyOutcome) []ApplyOutcome {
	if len(entries) == 0 {
		return outs
	}
	a := &s.ap
	a.mu.Lock()
	defer a.mu.Unlock()
	start := len(outs)
	err := s.failIfBroken()
	for i := range entries {
		if err != nil {
			break
		}
		var out ApplyOutcome
		if out, err = s.applyEntry(&entries[i]); err == nil {
			outs = append(outs, out)
			if a.batch != nil && a.batch.Len() > maxGroupBytes {
				err = s.publish()
			}
		}
	}
	if err == nil {
		err = s.publish()
	}
	if err != nil {
		// Nothing of this call may be acknowledged, not even what was published: callers treat ErrFailed as unknown.
		err = s.fail("apply", errors.Join(err, a.closeIters()))
		outs = outs[:start]
		for i := range entries {
			outs = append(outs, ApplyOutcome{Index: entries[i].Index, Err: err})
		}
		return outs
	}
	s.flush.hold(s)
	return outs
}

func (s *Store) failIfBroken() error {
	if s.broken() {
		return s.failure()
	}
	return nil
}

// abandon lets go of what an unfinished group holds of Pebble, which otherwise does not close.
func (a *applier) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.closeIters() // its error is known already, it ended the group
	if a.batch != nil {
		_ = a.batch.Close()
		a.batch = nil
	}
}

// applyEntry decides one entry and adds its effects to the open group.
func (s *Store) applyEntry(e *wal.Entry) (ApplyOutcome, error) {
	a := &s.ap
	out := ApplyOutcome{Index: e.Index}
	if e.Index <= a.index {
		return out, nil
	}
	s.openGroup()
	if e.Type == EntryWriteSet {
		reason, err := s.applyWriteSet(e, &out)
		if err != nil {
			return out, fmt.Errorf("log entry %d: %w", e.Index, err)
		}
		if reason != 0 {
			if err := a.batch.Set(markerKey(e.Index), []byte{reason}, nil); err != nil {
				return out, fmt.Errorf("log entry %d: %w", e.Index, err)
			}
			a.rejected = append(a.rejected, rejection{e.Index, reason})
			s.stats.rejected.Add(1)
		}
	}
	a.index = e.Index
	a.bytes += int64(len(e.Data))
	a.entries++
	a.hashes = append(a.hashes, indexHash{e.Index, a.lanes})
	return out, nil
}

func (s *Store) openGroup() {
	a := &s.ap
	if a.batch == nil {
		a.batch = s.db.NewBatch()
	}
}

// applyWriteSet returns a reason if the write set is refused. A non-nil error is an internal failure.
func (s *Store) applyWriteSet(e *wal.Entry, out *ApplyOutcome) (reason byte, err error) {
	a := &s.ap
	ws := &a.ws
	if err := ws.decode(e.Data, a.names); err != nil {
		if errors.Is(err, ErrVersion) {
			return 0, err // skipping what a newer program wrote would lose data
		}
		out.Err = err
		return markMalformed, nil
	}
	if ws.IdempotencyKey != "" {
		if reason, err := s.applyRecorded(ws, out); reason != 0 || err != nil {
			return reason, err
		}
	}
	ok, err := s.readsStillHold(ws, e.Index)
	if err != nil {
		return 0, err
	}
	if !ok {
		out.Err = ErrConflict
		return markConflict, nil
	}
	a.feet = a.feet[:0]
	for i := range ws.Ops {
		if err := s.applyOp(&ws.Ops[i], e.Index); err != nil {
			return 0, err
		}
	}
	if ws.IdempotencyKey != "" {
		op := idemOp(ws, e.Index)
		if err := s.applyOp(&op, e.Index); err != nil {
			return 0, err
		}
	}
	s.win.applied(a.feet, e.Index)
	out.Outcome = ws.Outcome
	return 0, nil
}

// idemOp is the change that records the idempotency key of a write set.
func idemOp(ws *WriteSet, index uint64) Op {
	rec := idemRow{index: index, reqHash: ws.RequestHash, outcome: ws.Outcome}
	return Op{Table: idemTable, Key: []byte(ws.IdempotencyKey), Value: rec.append(nil), Deadline: ws.IdempotencyDeadline}
}

// applyRecorded looks for the idempotency key.
func (s *Store) applyRecorded(ws *WriteSet, out *ApplyOutcome) (byte, error) {
	a := &s.ap
	a.row = appendRowKey(a.row[:0], idemTable, []byte(ws.IdempotencyKey))
	var rec idemRow
	found, err := s.withRow(a.row, func(raw []byte) error {
		r, err := s.decodeRow(a.row, raw, false)
		if err == nil {
			rec, err = parseIdemRow(r.value)
		}
		return err
	})
	if err != nil || !found {
		return 0, err
	}
	if string(rec.reqHash) != string(ws.RequestHash) {
		out.Err = ErrIdempotencyMismatch
		return markMismatch, nil
	}
	out.Duplicate, out.First, out.Outcome = true, rec.index, rec.outcome
	return markDuplicate, nil
}

// withRow calls fn with the newest raw value of a row, which is only valid during the call.
func (s *Store) withRow(rowKey []byte, fn func(raw []byte) error) (found bool, err error) {
	t, known := s.ap.traces.get(rowKey)
	if known && !t.present && !s.distrust {
		return false, nil
	}
	return s.lookUp(rowKey, known, fn)
}

// lookUp is withRow for a row whose trace was looked for.
func (s *Store) lookUp(rowKey []byte, known bool, fn func(raw []byte) error) (found bool, err error) {
	if o, ok := s.ap.overlay[string(rowKey)]; ok {
		if !o.present {
			return false, nil
		}
		return true, fn(o.raw)
	}
	it, err := s.rowIter(known)
	if err != nil {
		return false, s.storeErr("read", rowKey, err)
	}
	if !it.SeekPrefixGE(rowKey) {
		if err := it.Error(); err != nil {
			return false, s.storeErr("read", rowKey, err)
		}
		return false, nil
	}
	if !bytes.Equal(it.Key(), rowKey) {
		return false, nil
	}
	raw, err := it.ValueAndErr()
	if err != nil {
		return false, s.storeErr("read", rowKey, err)
	}
	return true, fn(raw)
}

// rowIter returns an iterator for a point read: beside the overlay, rows do not change until the group is published. Unlike
// DB.Get it uses the filters of the last level too, so that looking for the old version of a new row does not read a block.
//
// A row that is not remembered was last written before traces.forgotten. When everything up to there is flushed, the row is in
// the files or nowhere, and memtables, which cost the most, are left out.
func (s *Store) rowIter(known bool) (*pebble.Iterator, error) {
	a := &s.ap
	if !known && !s.distrust {
		if a.files != nil && a.filesTo >= a.traces.forgotten {
			return a.files, nil
		}
		if to := s.flush.durable.Load(); to >= a.traces.forgotten {
			if err := closeIter(&a.files); err != nil {
				return nil, err
			}
			it, err := s.db.NewIter(&pebble.IterOptions{UseL6Filters: true, OnlyReadGuaranteedDurable: true})
			a.files, a.filesTo = it, to
			return it, err
		}
	}
	if a.iter == nil {
		it, err := s.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
		if err != nil {
			return nil, err
		}
		a.iter = it
	}
	return a.iter, nil
}

// closeIters ends the reads of a group.
func (a *applier) closeIters() error { return errors.Join(closeIter(&a.iter), closeIter(&a.files)) }

func closeIter(it **pebble.Iterator) error {
	if *it == nil {
		return nil
	}
	err := (*it).Close()
	*it = nil
	return err
}

// applyOp changes one row in the group: Pebble batch, overlay, trace, state hash, deadline entry, index diffs, footprints.
func (s *Store) applyOp(op *Op, index uint64) error {
	a := &s.ap
	a.row = appendRowKey(a.row[:0], op.Table, op.Key)
	row := string(a.row) // one copy for whoever keeps the key
	a.feet = append(a.feet, foot{op.Table, pos{k2: row[len(row)-len(op.Key):]}})
	existed, err := s.replace(op)
	if err != nil {
		return err
	}
	if op.Delete {
		if existed {
			a.overlay[row] = overlayRow{}
			a.traces.put(a.row, trace{mod: index})
			return a.batch.Delete(a.row, nil)
		}
		return nil
	}
	h := a.hasher.row(a.row, index, op.Deadline, op.Value)
	a.lanes.add(&h)
	a.traces.put(a.row, trace{present: true, mod: index, deadline: op.Deadline, hash: h})
	raw, err := s.putRow(op, index)
	if err != nil {
		return err
	}
	a.overlay[row] = overlayRow{present: true, raw: raw}
	if op.Deadline != 0 {
		a.aux = appendDeadlineKey(a.aux[:0], op.Deadline, a.row)
		if err := a.batch.Set(a.aux, nil, nil); err != nil {
			return err
		}
		a.soonest = min(a.soonest, op.Deadline)
	}
	for _, i := range s.byTable[op.Table] {
		s.indexRow(i, op.Key, op.Value, index, false)
	}
	return nil
}

// putRow writes the row into the batch and returns its value there. The batch may move on to other memory, but does not change
// what it left.
func (s *Store) putRow(op *Op, index uint64) ([]byte, error) {
	a := &s.ap
	size := rowSize(op.Deadline, len(op.Value))
	if s.seal != nil {
		var err error
		if a.val, err = s.encodeRow(a.val[:0], a.row, index, op.Deadline, op.Value); err != nil {
			return nil, err
		}
		size = len(a.val)
	}
	d := a.batch.SetDeferred(len(a.row), size)
	copy(d.Key, a.row)
	raw := d.Value
	if s.seal != nil {
		copy(raw, a.val)
	} else {
		copy(raw[size-len(op.Value):], op.Value)
		appendRowHeader(raw[:0], index, op.Deadline)
	}
	return raw, d.Finish()
}

// replace removes what the row's old version left in state hash, deadlines and indexes. It reads the old version only if it
// is not remembered, or has index entries.
func (s *Store) replace(op *Op) (existed bool, err error) {
	a := &s.ap
	t, known := a.traces.get(a.row)
	if known && len(s.byTable[op.Table]) == 0 && !s.distrust {
		if !t.present {
			return false, nil
		}
		return true, s.takeOut(t.deadline, &t.hash)
	}
	existed, err = s.lookUp(a.row, known, func(raw []byte) error {
		old, err := s.decodeRow(a.row, raw, false)
		if err != nil {
			return err
		}
		h := t.hash
		if !known || s.distrust {
			h = a.hasher.row(a.row, old.mod, old.deadline, old.value)
		}
		if known && (!t.present || t.mod != old.mod || t.deadline != old.deadline || t.hash != h) {
			return s.storeErr("replace", a.row, fmt.Errorf("%w: the row is not what was written", ErrMalformed))
		}
		for _, i := range s.byTable[op.Table] {
			s.indexRow(i, op.Key, old.value, old.mod, true)
		}
		return s.takeOut(old.deadline, &h)
	})
	if err == nil && known && existed != t.present {
		err = s.storeErr("replace", a.row, fmt.Errorf("%w: the row is gone, or was not removed", ErrMalformed))
	}
	return existed, err
}

// takeOut removes an old version of the row at hand from the state hash and the deadlines.
func (s *Store) takeOut(deadline int64, hash *[32]byte) error {
	a := &s.ap
	a.lanes.sub(hash)
	if deadline == 0 {
		return nil
	}
	a.aux = appendDeadlineKey(a.aux[:0], deadline, a.row)
	return a.batch.Delete(a.aux, nil)
}

func (s *Store) indexRow(i int, key, value []byte, mod uint64, remove bool) {
	a := &s.ap
	spec := &s.indexes[i].spec
	for _, ik := range spec.Keys(key, value) {
		it := indexItem{string(ik), string(key), mod}
		a.diffs = append(a.diffs, indexDiff{i, remove, it})
		a.feet = append(a.feet, foot{indexSpace(spec.Name), pos{it.ikey, it.key}})
	}
}

func (s *Store) encodeRow(dst, rowKey []byte, mod uint64, deadline int64, value []byte) ([]byte, error) {
	dst = appendRowHeader(dst, mod, deadline)
	if s.seal == nil {
		return append(dst, value...), nil
	}
	aad := append(append(make([]byte, 0, len(rowKey)+len(dst)), rowKey...), dst...)
	return s.seal.seal(dst, aad, value)
}

// publish makes the open group visible in one step.
func (s *Store) publish() error {
	a := &s.ap
	if err := a.closeIters(); err != nil {
		return s.storeErr("read", nil, err)
	}
	if a.batch == nil {
		return nil
	}
	row := appliedRow{index: a.index, lanes: a.lanes, logID: s.ident.logID, storeID: s.ident.storeID}
	a.aux = row.append(a.aux[:0])
	if err := a.batch.Set(appliedKey, a.aux, nil); err != nil {
		return fmt.Errorf("applied row: %w", err)
	}
	s.mu.Lock()
	err := a.batch.Commit(pebble.NoSync)
	if err == nil {
		for _, d := range a.diffs {
			s.indexes[d.index].apply(d)
		}
		for _, h := range a.hashes {
			s.hashes.put(h.index, h.lanes)
		}
		for _, r := range a.rejected {
			s.rejected[r.index] = r.reason
		}
		s.lanes = a.lanes
		s.applied.Store(a.index)
		if s.moved != nil {
			close(s.moved)
			s.moved = nil
		}
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("commit to the row store: %w", err)
	}
	_ = a.batch.Close() // committed; Close only returns the memory
	a.batch = nil
	s.stats.groups.Add(1)
	s.stats.entries.Add(uint64(a.entries))
	s.flush.note(s, a.index, a.bytes)
	s.sweep.expect(a.soonest)
	a.soonest = math.MaxInt64
	clear(a.overlay)
	clear(a.diffs)
	a.diffs, a.hashes, a.rejected, a.entries, a.bytes = a.diffs[:0], a.hashes[:0], a.rejected[:0], 0, 0
	return nil
}
