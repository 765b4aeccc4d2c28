package engine

import (
	"fmt"
	"slices"
)

// Scan calls fn for every row of the range, in key order, until fn returns false. It sees the transaction's own
// writes made before the call; fn may use the transaction, and what it writes is not seen by the running scan. fn may keep
// key and value. The range that was really consumed is protected: a row that appears, changes or vanishes in it
// before the commit is a conflict.
func (tx *Tx) Scan(table string, r Range, fn func(key, value []byte) bool) error {
	if err := tx.checkScan(table, r); err != nil {
		return err
	}
	sc := &scanner{tx: tx, table: table, r: r, sp: rangeSpan(r, false), seq: tx.seq}
	sc.emit = func(p pos, value []byte) bool { return fn([]byte(p.k2), value) }
	for _, op := range tx.ops {
		if op.Table == table && !op.Delete && sc.sp.holds(pos{k2: string(op.Key)}) {
			sc.own = append(sc.own, ownRow{pos{k2: string(op.Key)}, op})
		}
	}
	v := tx.v
	err := v.scanRows(table, sc.sp, r.Reverse, func(key, raw []byte) (bool, error) {
		mod, _, _, err := parseRow(raw)
		if err != nil {
			return false, tx.s.storeErr("scan", key, err)
		}
		return sc.step(pos{k2: string(key)}, mod, func() ([]byte, error) {
			tx.scratch = appendRowKey(tx.scratch[:0], table, key)
			row, err := tx.s.decodeRow(tx.scratch, raw, true)
			return row.value, err
		})
	})
	return sc.finish(ScanRead{Table: table}, err)
}

// ScanIndex calls fn for every entry of the index in the range of index keys, ordered by (index key, key), until fn
// returns false. What Scan says about own writes, fn and protection holds here too.
func (tx *Tx) ScanIndex(index string, r Range, fn func(indexKey, key, value []byte) bool) error {
	i, ok := tx.s.byName[index]
	if !ok {
		return fmt.Errorf("%w: there is no index %q", ErrInvalid, index)
	}
	spec := tx.s.indexes[i].spec
	if err := tx.checkScan(spec.Table, r); err != nil {
		return err
	}
	sc := &scanner{tx: tx, table: spec.Table, r: r, sp: rangeSpan(r, true), seq: tx.seq}
	sc.emit = func(p pos, value []byte) bool { return fn([]byte(p.k1), []byte(p.k2), value) }
	sc.ownIndexed(spec)
	v := tx.v
	var failed error
	scanTree(v.tree(i), sc.sp, r.Reverse, func(it indexItem) bool {
		more, err := sc.step(pos{it.ikey, it.key}, it.mod, func() ([]byte, error) {
			tx.scratch = appendRowKey(tx.scratch[:0], spec.Table, []byte(it.key))
			row, err := v.readRow(tx.scratch)
			if err != nil {
				return nil, fmt.Errorf("engine: index %s points at a row that cannot be read: %w", index, err)
			}
			return row.value, nil
		})
		failed = err
		return more && err == nil
	})
	return sc.finish(ScanRead{Index: index}, failed)
}

func (tx *Tx) checkScan(table string, r Range) error {
	if err := tx.checkTable(table); err != nil {
		return err
	}
	if r.Limit < 0 {
		return fmt.Errorf("%w: scan limit %d", ErrInvalid, r.Limit)
	}
	return tx.open()
}

// rangeSpan turns a range of keys, or of index keys, into positions.
func rangeSpan(r Range, index bool) span {
	s := span{open: r.Hi == nil}
	if index {
		s.lo.k1, s.hi.k1 = string(r.Lo), string(r.Hi)
	} else {
		s.lo.k2, s.hi.k2 = string(r.Lo), string(r.Hi)
	}
	return s
}

// scanner merges the rows of a version with the transaction's own writes and keeps the fingerprint of what was seen.
type scanner struct {
	tx    *Tx
	table string
	r     Range
	sp    span
	seq   int // own writes after this one are not seen
	own   []ownRow
	emit  func(p pos, value []byte) bool

	sorted  bool
	n       int
	print   fingerprint
	last    pos
	stopped bool
}

type ownRow struct {
	at pos
	op *txOp
}

// ownIndexed collects the index entries of the transaction's own rows.
func (sc *scanner) ownIndexed(spec IndexSpec) {
	for _, op := range sc.tx.ops {
		if op.Table != spec.Table || op.Delete {
			continue
		}
		for _, ik := range spec.Keys(op.Key, op.Value) {
			if p := (pos{string(ik), string(op.Key)}); sc.sp.holds(p) {
				sc.own = append(sc.own, ownRow{p, op})
			}
		}
	}
}

// order sorts the own rows into scan order, each once.
func (sc *scanner) order() {
	if sc.sorted {
		return
	}
	sc.sorted = true
	slices.SortFunc(sc.own, func(a, b ownRow) int {
		switch {
		case a.at == b.at:
			return 0
		case sc.ahead(a.at, b.at):
			return -1
		}
		return 1
	})
	sc.own = slices.CompactFunc(sc.own, func(a, b ownRow) bool { return a.at == b.at })
}

// ahead reports whether p comes before q in this scan.
func (sc *scanner) ahead(p, q pos) bool {
	if sc.r.Reverse {
		return q.less(p)
	}
	return p.less(q)
}

// step takes the next stored row; own rows that come before it go first.
func (sc *scanner) step(p pos, mod uint64, load func() ([]byte, error)) (bool, error) {
	if !sc.ownUntil(&p) {
		return false, nil
	}
	if sc.tx.writable {
		var ikey []byte
		if p.k1 != "" {
			ikey = []byte(p.k1)
		}
		sc.tx.scratch = sc.print.add(sc.tx.scratch, ikey, []byte(p.k2), mod)
	}
	if op := sc.tx.find(sc.table, []byte(p.k2)); op != nil && op.first <= sc.seq {
		return true, nil // overwritten or deleted by this transaction
	}
	value, err := load()
	if err != nil {
		return false, err
	}
	return sc.deliver(p, value), nil
}

// ownUntil delivers the own rows before p, all of them if p is nil.
func (sc *scanner) ownUntil(p *pos) bool {
	sc.order()
	for len(sc.own) > 0 && (p == nil || sc.ahead(sc.own[0].at, *p)) {
		o := sc.own[0]
		sc.own = sc.own[1:]
		if !sc.deliver(o.at, slices.Clone(o.op.Value)) {
			return false
		}
	}
	return true
}

func (sc *scanner) deliver(p pos, value []byte) bool {
	sc.n++
	sc.last = p
	if !sc.emit(p, value) || sc.n == sc.r.Limit {
		sc.stopped = true
	}
	return !sc.stopped
}

// finish delivers the remaining own rows and records the consumed range.
func (sc *scanner) finish(r ScanRead, err error) error {
	if err != nil {
		return err
	}
	if !sc.stopped {
		sc.ownUntil(nil)
	}
	if !sc.tx.writable || sc.sp.empty() {
		return nil
	}
	sp := sc.sp
	switch {
	case sc.stopped && sc.r.Reverse:
		sp.lo = sc.last
	case sc.stopped:
		sp.hi, sp.open = pos{sc.last.k1, sc.last.k2 + "\x00"}, false
	}
	r.Lo, r.LoKey = []byte(sp.lo.k1), []byte(sp.lo.k2)
	r.Hi, r.HiKey = []byte(sp.hi.k1), []byte(sp.hi.k2)
	r.Open, r.Rows, r.PrintA, r.PrintB = sp.open, sc.print.count, sc.print.lo, sc.print.hi
	sc.tx.scans = append(sc.tx.scans, r)
	sc.tx.size += 64 + len(r.Lo) + len(r.LoKey) + len(r.Hi) + len(r.HiKey)
	return nil
}
