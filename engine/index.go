package engine

import (
	"github.com/google/btree"
)

// indexItem is one entry of a secondary index. mod is the row's mod_index, so that a scan's fingerprint also covers the
// value that the caller gets to see.
type indexItem struct {
	ikey, key string
	mod       uint64
}

func itemLess(a, b indexItem) bool {
	if a.ikey != b.ikey {
		return a.ikey < b.ikey
	}
	return a.key < b.key
}

const indexDegree = 32

// liveIndex is the newest state of an index, changed only by the apply loop under Store.mu.
type liveIndex struct {
	spec   IndexSpec
	tree   *btree.BTreeG[indexItem]
	frozen *btree.BTreeG[indexItem] // shared by versions, never changed; nil when tree has moved on
}

func newLiveIndex(spec IndexSpec) *liveIndex {
	return &liveIndex{spec: spec, tree: btree.NewG(indexDegree, itemLess)}
}

// freeze returns an immutable copy of the tree; the copying happens node by node when the live tree is written.
func (x *liveIndex) freeze() *btree.BTreeG[indexItem] {
	if x.frozen == nil {
		x.frozen = x.tree.Clone()
	}
	return x.frozen
}

func (x *liveIndex) apply(d indexDiff) {
	x.frozen = nil
	if d.remove {
		x.tree.Delete(d.item)
		return
	}
	x.tree.ReplaceOrInsert(d.item)
}

// indexDiff is one pending change of an index.
type indexDiff struct {
	index  int
	remove bool
	item   indexItem
}

// pos is a place in the order of a table (k1 empty) or index (k1 = index key).
type pos struct{ k1, k2 string }

func (p pos) less(q pos) bool {
	if p.k1 != q.k1 {
		return p.k1 < q.k1
	}
	return p.k2 < q.k2
}

// span is [lo, hi), without end if open.
type span struct {
	lo, hi pos
	open   bool
}

func (s span) holds(p pos) bool { return !p.less(s.lo) && (s.open || p.less(s.hi)) }

func (s span) empty() bool { return !s.open && !s.lo.less(s.hi) }

// scanTree calls fn for the items of the span until it returns false.
func scanTree(t *btree.BTreeG[indexItem], s span, reverse bool, fn func(indexItem) bool) {
	if s.empty() {
		return
	}
	lo, hi := indexItem{ikey: s.lo.k1, key: s.lo.k2}, indexItem{ikey: s.hi.k1, key: s.hi.k2}
	down := func(it indexItem) bool {
		if itemLess(it, lo) {
			return false
		}
		if !s.open && !itemLess(it, hi) {
			return true // the upper bound itself
		}
		return fn(it)
	}
	switch {
	case reverse && s.open:
		t.Descend(down)
	case reverse:
		t.DescendLessOrEqual(hi, down)
	case s.open:
		t.AscendGreaterOrEqual(lo, fn)
	default:
		t.AscendRange(lo, hi, fn)
	}
}
