package engine

import (
	"github.com/google/btree"
)

// readsStillHold decides whether what a write set read is still true just before its index. Its result depends only on
// the rows, never on what this process happens to remember: the window may save the looking, not change the answer.
func (s *Store) readsStillHold(ws *WriteSet, index uint64) (bool, error) {
	a := &s.ap
	if len(ws.Reads)+len(ws.ScanReads) == 0 {
		return true, nil
	}
	a.points, a.ranges = a.points[:0], ws.ranges(a.ranges[:0])
	for i := range ws.Reads {
		a.points = append(a.points, foot{ws.Reads[i].Table, pos{k2: string(ws.Reads[i].Key)}})
	}
	if ws.Snapshot < index && s.win.untouched(a.points, a.ranges, ws.Snapshot) && !s.distrust {
		return true, nil
	}
	return s.readsHold(&groupState{s}, ws)
}

// state is where reads are checked: a version, or the apply loop's newest state.
type state interface {
	modIndex(rowKey []byte) (uint64, error)
	// prepareScan makes scans see everything modIndex sees.
	prepareScan() error
	scanRows(table string, sp span, reverse bool, fn func(key, raw []byte) (bool, error)) error
	tree(index int) *btree.BTreeG[indexItem]
}

// readsHold compares every recorded read with a state.
func (s *Store) readsHold(st state, ws *WriteSet) (bool, error) {
	var key []byte
	for i := range ws.Reads {
		r := &ws.Reads[i]
		key = appendRowKey(key[:0], r.Table, r.Key)
		mod, err := st.modIndex(key)
		if err != nil {
			return false, err
		}
		if mod != r.ModIndex {
			return false, nil
		}
	}
	for i := range ws.ScanReads {
		ok, err := s.scanHolds(st, &ws.ScanReads[i])
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (s *Store) scanHolds(st state, r *ScanRead) (bool, error) {
	if err := st.prepareScan(); err != nil {
		return false, err
	}
	var print fingerprint
	var scratch []byte
	sp := r.span()
	if r.Index != "" {
		i, ok := s.byName[r.Index]
		if !ok {
			// The index is gone from the program, the entry is from before. It was checked when it was placed;
			// refusing it now would take back what was acknowledged.
			return true, nil
		}
		scanTree(st.tree(i), sp, false, func(it indexItem) bool {
			scratch = print.add(scratch, []byte(it.ikey), []byte(it.key), it.mod)
			return print.count <= r.Rows
		})
	} else {
		err := st.scanRows(r.Table, sp, false, func(key, raw []byte) (bool, error) {
			mod, _, _, err := parseRow(raw)
			if err != nil {
				return false, s.storeErr("scan", key, err)
			}
			scratch = print.add(scratch, nil, key, mod)
			return print.count <= r.Rows, nil
		})
		if err != nil {
			return false, err
		}
	}
	return print == fingerprint{r.Rows, r.PrintA, r.PrintB}, nil
}

// groupState is the state with the open group of the apply loop.
type groupState struct{ s *Store }

func (g *groupState) modIndex(rowKey []byte) (mod uint64, err error) {
	_, err = g.s.withRow(rowKey, func(raw []byte) error {
		mod, _, _, err = parseRow(raw)
		if err != nil {
			return g.s.storeErr("read", rowKey, err)
		}
		return nil
	})
	return mod, err
}

// prepareScan publishes what was decided before the entry at hand, so that Pebble and the indexes show it.
func (g *groupState) prepareScan() error {
	if len(g.s.ap.overlay) == 0 {
		return nil
	}
	if err := g.s.publish(); err != nil {
		return err
	}
	g.s.openGroup()
	return nil
}

func (g *groupState) scanRows(table string, sp span, reverse bool, fn func(key, raw []byte) (bool, error)) error {
	return g.s.scanRows(g.s.db, table, sp, reverse, fn)
}

func (g *groupState) tree(index int) *btree.BTreeG[indexItem] { return g.s.indexes[index].tree }
