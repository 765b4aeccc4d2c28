package simdisk

import (
	"encoding/gob"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Trace is a disk's starting state and what happened to it, in order. It is
// immutable, and safe for concurrent use.
type Trace struct {
	base *state // never changed: Cursor copies what it needs
	ops  []Op
}

// Len returns the number of operations.
func (t *Trace) Len() int { return len(t.ops) }

// Op returns operation i.
func (t *Trace) Op(i int) Op { return t.ops[i] }

// Ops returns all operations.
func (t *Trace) Ops() []Op { return slices.Clone(t.ops) }

// Cursor stands between two operations of a trace and knows the state there.
// Cursors of one trace are independent; a single cursor belongs to one goroutine.
type Cursor struct {
	trace *Trace
	st    *state
	n     int
}

// Cursor returns a cursor before the first operation.
func (t *Trace) Cursor() *Cursor {
	return &Cursor{trace: t, st: t.base.freshClone()}
}

// freshClone copies a state that several goroutines may copy at once: the pages
// of the original count as shared already (base states are never written).
func (s *state) freshClone() *state {
	c := &state{nodes: make(map[ino]*inode, len(s.nodes)), next: s.next, seq: s.seq}
	for id, nd := range s.nodes {
		cp := *nd
		cp.open = 0
		cp.entries, cp.durable = maps.Clone(nd.entries), maps.Clone(nd.durable)
		cp.changes, cp.pending = slices.Clone(nd.changes), slices.Clone(nd.pending)
		cp.cache = content{size: nd.cache.size, pages: slices.Clone(nd.cache.pages)}
		cp.disk = content{size: nd.disk.size, pages: slices.Clone(nd.disk.pages)}
		c.nodes[id] = &cp
	}
	return c
}

// Pos returns how many operations have happened.
func (c *Cursor) Pos() int { return c.n }

// Seek moves the cursor to just before operation n. Moving back starts again.
func (c *Cursor) Seek(n int) {
	if n < c.n {
		c.st, c.n = c.trace.base.freshClone(), 0
	}
	for c.n < n {
		c.st.apply(c.trace.ops[c.n])
		c.n++
	}
}

// Unsynced returns how many writes and directory changes a power loss at this
// point could take away. 0 means that all policies give the same image.
func (c *Cursor) Unsynced() int {
	n := 0
	for _, nd := range c.st.nodes {
		n += len(nd.pending) + len(nd.changes)
	}
	return n
}

// savedNode mirrors inode for storage.
type savedNode struct {
	Ino     uint64
	Dir     bool
	Path    string
	Data    []byte
	Entries map[string]uint64
}

// savedTrace mirrors Trace for storage.
type savedTrace struct {
	Nodes []savedNode
	Ops   []Op
}

// Save writes the trace. The starting state must hold nothing unsynced, which
// is so for new disks and crash images.
func (t *Trace) Save(w io.Writer) error {
	var s savedTrace
	s.Ops = t.ops
	for _, id := range slices.Sorted(maps.Keys(t.base.nodes)) {
		nd := t.base.nodes[id]
		if len(nd.pending)+len(nd.changes) > 0 || nd.diverged {
			return fmt.Errorf("simdisk: save trace: %s has unsynced changes at the start", nd.path)
		}
		n := savedNode{Ino: uint64(id), Dir: nd.dir, Path: nd.path, Data: nd.cache.bytes()}
		if nd.dir {
			n.Entries = map[string]uint64{}
			for name, child := range nd.entries {
				n.Entries[name] = uint64(child)
			}
		}
		s.Nodes = append(s.Nodes, n)
	}
	return gob.NewEncoder(w).Encode(s)
}

// LoadTrace reads what Save wrote.
func LoadTrace(r io.Reader) (*Trace, error) {
	var s savedTrace
	if err := gob.NewDecoder(r).Decode(&s); err != nil {
		return nil, fmt.Errorf("simdisk: load trace: %w", err)
	}
	st := newState()
	for _, n := range s.Nodes {
		nd := &inode{dir: n.Dir, path: n.Path}
		if n.Dir {
			nd.entries, nd.durable = map[string]ino{}, map[string]ino{}
			for name, child := range n.Entries {
				nd.entries[name], nd.durable[name] = ino(child), ino(child)
			}
		} else {
			nd.cache.writeAt(n.Data, int64(len(n.Data)), 0)
			nd.disk = nd.cache.clone()
		}
		st.nodes[ino(n.Ino)] = nd
		st.next = max(st.next, ino(n.Ino)+1)
	}
	st.countLinks()
	return &Trace{base: st, ops: s.Ops}, nil
}

// countLinks sets the link count of every file from the cached tree.
func (s *state) countLinks() {
	for _, nd := range s.nodes {
		nd.links = 0
	}
	for _, nd := range s.nodes {
		for _, child := range nd.entries {
			if to := s.nodes[child]; to != nil {
				to.links++
			}
		}
	}
}
