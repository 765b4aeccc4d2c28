package engine

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2/sstable"
)

// foldRun is a part of a fold on disk: a table file, sorted by Pebble key. Values: kind u8 | expect uvarint | stored value. Values of an
// encrypted store are sealed in it as everywhere.
type foldRun struct {
	s    *Store
	path string
	r    *sstable.Reader
	look sstable.Iterator // for find; nil until the first
	row  foldRow
}

func newFoldRun(s *Store, number int, rows map[string]*foldRow) (*foldRun, error) {
	r := &foldRun{s: s, path: s.o.FS.PathJoin(s.storeDir, fmt.Sprintf("fold-%03d.build", number+1))}
	f, err := newTableFile(s.o.FS, r.path, true)
	if err != nil {
		return nil, err
	}
	w := s.newTable(f, scratchCompression)
	var val []byte
	for _, k := range slices.Sorted(maps.Keys(rows)) {
		row := rows[k]
		val = append(binary.AppendUvarint(append(val[:0], row.kind), row.expect), row.value...)
		if err = w.Set([]byte(k), val); err != nil {
			break
		}
	}
	if err = errors.Join(err, w.Close(), f.await()); err != nil {
		return nil, fmt.Errorf("engine: write %s: %w", r.path, err)
	}
	return r, r.open()
}

func (r *foldRun) open() error {
	f, err := r.s.o.FS.Open(r.path)
	if err != nil {
		return fmt.Errorf("engine: open %s: %w", r.path, err)
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(fmt.Errorf("engine: open %s: %w", r.path, err), f.Close())
	}
	o := r.s.pebbleOptions()
	o.EnsureDefaults()
	if r.r, err = sstable.NewReader(context.Background(), readable, o.MakeReaderOptions()); err != nil {
		return errors.Join(fmt.Errorf("engine: open %s: %w", r.path, err), readable.Close())
	}
	return nil
}

func (r *foldRun) iter() (sstable.Iterator, error) {
	it, err := r.r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return nil, fmt.Errorf("engine: read %s: %w", r.path, err)
	}
	return it, nil
}

// find returns the row of a key, nil if there is none; valid until the next call.
func (r *foldRun) find(rowKey []byte) (*foldRow, error) {
	if r.look == nil {
		it, err := r.iter()
		if err != nil {
			return nil, err
		}
		r.look = it
	}
	kv := r.look.SeekPrefixGE(rowKey, rowKey, 0)
	if kv == nil {
		return nil, r.wrap(r.look.Error())
	}
	if !bytes.Equal(kv.K.UserKey, rowKey) {
		return nil, nil
	}
	val, _, err := kv.Value(nil)
	if err == nil {
		r.row, err = parseFoldRow(val)
	}
	return &r.row, r.wrap(err)
}

func (r *foldRun) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("engine: read %s: %w", r.path, err)
	}
	return nil
}

func parseFoldRow(b []byte) (foldRow, error) {
	if len(b) > 0 {
		if expect, n := binary.Uvarint(b[1:]); n > 0 && b[0] >= foldPut && b[0] <= foldCheck {
			return foldRow{kind: b[0], expect: expect, value: b[1+n:]}, nil
		}
	}
	return foldRow{}, fmt.Errorf("%w: folded row", ErrMalformed)
}

// close removes the file.
func (r *foldRun) close() error {
	var errs []error
	if r.look != nil {
		errs = append(errs, r.look.Close())
	}
	if r.r != nil {
		errs = append(errs, r.r.Close())
	}
	return errors.Join(append(errs, r.s.o.FS.Remove(r.path))...)
}

// foldMerge yields the keys of a fold in order.
type foldMerge struct {
	mem   map[string]*foldRow
	heads []*foldHead // heap: smallest key first, of the same key the newest
	at    []byte      // what next returned
	val   []byte
}

// foldHead is the next row of a run, or of what is in memory (it nil).
type foldHead struct {
	age  int // position of the run; the memory is the newest
	key  []byte
	row  foldRow
	keys []string
	it   sstable.Iterator
	run  *foldRun
}

// Len, Less, Swap, Push and Pop make it a heap.Interface.
func (m *foldMerge) Len() int { return len(m.heads) }

// Less implements heap.Interface.
func (m *foldMerge) Less(i, j int) bool {
	a, b := m.heads[i], m.heads[j]
	if c := bytes.Compare(a.key, b.key); c != 0 {
		return c < 0
	}
	return a.age > b.age
}

// Swap implements heap.Interface.
func (m *foldMerge) Swap(i, j int) { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }

// Push implements heap.Interface.
func (m *foldMerge) Push(x any) { m.heads = append(m.heads, x.(*foldHead)) }

// Pop implements heap.Interface.
func (m *foldMerge) Pop() any {
	h := m.heads[len(m.heads)-1]
	m.heads = m.heads[:len(m.heads)-1]
	return h
}

func newFoldMerge(mem map[string]*foldRow, runs []*foldRun) (*foldMerge, error) {
	m := &foldMerge{mem: mem}
	heads := []*foldHead{{age: len(runs), keys: slices.Sorted(maps.Keys(mem))}}
	for age, r := range runs {
		it, err := r.iter()
		if err != nil {
			return m, err
		}
		heads = append(heads, &foldHead{age: age, run: r, it: it})
	}
	for _, h := range heads {
		more, err := m.advance(h, true)
		if err != nil {
			return m, errors.Join(err, h.close())
		}
		if more {
			heap.Push(m, h)
		}
	}
	return m, nil
}

// advance moves a head to its next row; at the end it is closed.
func (m *foldMerge) advance(h *foldHead, first bool) (more bool, err error) {
	if h.it == nil {
		if len(h.keys) == 0 {
			return false, nil
		}
		h.key, h.row = append(h.key[:0], h.keys[0]...), *m.mem[h.keys[0]]
		h.keys = h.keys[1:]
		return true, nil
	}
	step := h.it.Next
	if first {
		step = h.it.First
	}
	row := step()
	if row == nil {
		return false, h.run.wrap(h.close())
	}
	val, _, err := row.Value(nil)
	if err == nil {
		h.key = append(h.key[:0], row.K.UserKey...)
		h.row, err = parseFoldRow(val)
	}
	return err == nil, h.run.wrap(err)
}

func (h *foldHead) close() error {
	if h.it == nil {
		return nil
	}
	err := errors.Join(h.it.Error(), h.it.Close())
	h.it = nil
	return err
}

// key is the smallest key that was not returned yet, nil at the end.
func (m *foldMerge) key() []byte {
	if len(m.heads) == 0 {
		return nil
	}
	return m.heads[0].key
}

// next returns the row of that key: the newest version, with what was expected of the base when the log first met it. Both are valid until the next
// call. Only if key is not nil.
func (m *foldMerge) next() (key []byte, row foldRow, err error) {
	row = m.heads[0].row
	m.at = append(m.at[:0], m.heads[0].key...)
	m.val = append(m.val[:0], row.value...)
	row.value = m.val
	for len(m.heads) > 0 && bytes.Equal(m.heads[0].key, m.at) {
		h := m.heads[0]
		row.expect = max(row.expect, h.row.expect)
		more, err := m.advance(h, false)
		if err != nil {
			return nil, row, err
		}
		if more {
			heap.Fix(m, 0)
		} else {
			heap.Pop(m)
		}
	}
	return m.at, row, nil
}

func (m *foldMerge) close() error {
	var errs []error
	for _, h := range m.heads {
		errs = append(errs, h.close())
	}
	m.heads = nil
	return errors.Join(errs...)
}
