package simdisk

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// rootIno is the inode of "/".
const rootIno ino = 1

// dirty is a write that no sync has covered yet.
type dirty struct {
	seq  int // position in the trace; orders writes across files
	off  int64
	n    int64
	data []byte // nil: zeros
}

// entryOp is a change of one directory that no sync has covered yet.
type entryOp struct {
	seq  int // ops of both directories of a rename share it
	del  string
	set  string
	node ino
	pair ino // the other directory of a rename across directories, or 0
}

// inode is a file or a directory.
type inode struct {
	dir  bool
	path string // newest name, for people
	mod  int64  // nanoseconds of the disk's clock

	// Files.
	cache    content // what readers see
	disk     content // what survives a power loss
	pending  []dirty // unsynced writes, oldest first
	diverged bool    // cache is not disk+pending: a sync failed or a write went astray
	links    int     // names in the cached tree
	open     int     // open handles; only in a live disk

	// Directories.
	entries map[string]ino // what readers see
	durable map[string]ino // what survives a power loss
	changes []entryOp      // unsynced changes, oldest first
}

// state is a disk: all inodes, cached and durable. It has no lock; Disk and
// Cursor serialise access.
type state struct {
	nodes map[ino]*inode
	next  ino
	seq   int // ops applied so far
}

func newState() *state {
	root := &inode{dir: true, path: "/", entries: map[string]ino{}, durable: map[string]ino{}}
	return &state{nodes: map[ino]*inode{rootIno: root}, next: rootIno + 1}
}

// clone returns an independent copy that shares file pages.
func (s *state) clone() *state {
	c := &state{nodes: make(map[ino]*inode, len(s.nodes)), next: s.next, seq: s.seq}
	for id, nd := range s.nodes {
		cp := *nd
		cp.open = 0
		if nd.dir {
			cp.entries, cp.durable = maps.Clone(nd.entries), maps.Clone(nd.durable)
			cp.changes = slices.Clone(nd.changes)
		} else {
			cp.cache, cp.disk = nd.cache.clone(), nd.disk.clone()
			cp.pending = slices.Clone(nd.pending)
		}
		c.nodes[id] = &cp
	}
	return c
}

// apply performs one operation. It is the only place where a state changes
// while a process runs, both live and in replay, so the two cannot differ.
func (s *state) apply(op Op) {
	s.seq++
	switch op.Kind {
	case OpCreate:
		s.nodes[ino(op.Ino)] = &inode{path: op.Path}
		s.next = max(s.next, ino(op.Ino)+1)
		s.change(op, entryOp{set: op.Name, node: ino(op.Ino)}, ino(op.Dir))
	case OpMkdir:
		s.nodes[ino(op.Ino)] = &inode{dir: true, path: op.Path, entries: map[string]ino{}, durable: map[string]ino{}}
		s.next = max(s.next, ino(op.Ino)+1)
		s.change(op, entryOp{set: op.Name, node: ino(op.Ino)}, ino(op.Dir))
	case OpLink:
		s.change(op, entryOp{set: op.New, node: ino(op.Ino)}, ino(op.To))
	case OpRemove:
		s.change(op, entryOp{del: op.Name}, ino(op.Dir))
	case OpRename:
		s.rename(op)
	case OpWrite:
		nd := s.nodes[ino(op.Ino)]
		nd.cache.writeAt(op.Data, op.Len, op.Off)
		nd.pending = append(nd.pending, dirty{seq: s.seq, off: op.Off, n: op.Len, data: op.Data})
		nd.mod = op.Time
	case OpMisdirect:
		nd, hit := s.nodes[ino(op.Ino)], s.nodes[ino(op.To)]
		nd.cache.writeAt(op.Data, op.Len, op.Off)
		hit.disk.writeAt(op.Data, op.Len, op.ToOff)
		nd.diverged, hit.diverged = true, true
		nd.mod = op.Time
	case OpSync:
		s.nodes[ino(op.Ino)].sync()
	case OpSyncFailed:
		s.nodes[ino(op.Ino)].syncFailed(op.Seed)
	case OpDropCache:
		s.nodes[ino(op.Ino)].dropCache(op.Off, op.Len)
	case OpDirSync:
		nd := s.nodes[ino(op.Ino)]
		nd.durable, nd.changes = maps.Clone(nd.entries), nil
	}
}

func (s *state) rename(op Op) {
	from, to := ino(op.Dir), ino(op.To)
	node := s.nodes[from].entries[op.Name]
	s.nodes[node].path = op.New
	if from == to {
		s.change(op, entryOp{del: op.Name, set: baseName(op.New), node: node}, from)
		return
	}
	// The new name first: a crash image built from changes must never see the
	// file without any name (see settle).
	s.change(op, entryOp{set: baseName(op.New), node: node, pair: from}, to)
	s.change(op, entryOp{del: op.Name, pair: to}, from)
}

// change edits the cached entries of a directory and remembers the edit as
// unsynced.
func (s *state) change(op Op, e entryOp, dir ino) {
	nd := s.nodes[dir]
	e.seq = s.seq
	if e.del != "" {
		s.unlink(nd.entries[e.del])
		delete(nd.entries, e.del)
	}
	if e.set != "" {
		e.set = baseName(e.set)
		if old, ok := nd.entries[e.set]; ok {
			s.unlink(old)
		}
		nd.entries[e.set] = e.node
		s.nodes[e.node].links++
	}
	nd.changes = append(nd.changes, e)
	nd.mod = op.Time
}

// unlink takes one name from a node. Nodes stay in the table: the durable tree
// or an open handle may still hold them.
func (s *state) unlink(id ino) {
	if nd := s.nodes[id]; nd != nil {
		nd.links--
	}
}

// sync makes the cached bytes durable.
func (nd *inode) sync() {
	if nd.diverged {
		// Pages that a failed sync marked clean are not written again: only
		// what was written since reaches the disk.
		for _, d := range nd.pending {
			nd.disk.writeAt(d.data, d.n, d.off)
		}
		nd.pending = nil
		return
	}
	nd.disk.setSize(nd.cache.size)
	for _, d := range nd.pending {
		for i := d.off / pageSize; i*pageSize < d.off+d.n; i++ {
			nd.disk.pages[i] = nd.cache.pages[i]
		}
	}
	if len(nd.pending) > 0 {
		nd.cache.owner = nil // its pages are shared now
	}
	nd.pending = nil
}

// syncFailed models an fsync that returned an error: each dirty sector may or
// may not have become durable, and the kernel counts all of them as clean. A
// later sync will not write them again.
func (nd *inode) syncFailed(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0x5f5f))
	for _, d := range nd.pending {
		for at := d.off; at < d.off+d.n; {
			end := min((at/sectorSize+1)*sectorSize, d.off+d.n)
			if rng.IntN(2) == 0 {
				var part []byte
				if d.data != nil {
					part = d.data[at-d.off : end-d.off]
				}
				nd.disk.writeAt(part, end-at, at)
			}
			at = end
		}
	}
	nd.pending = nil
	nd.diverged = true
}

// dropCache forgets the clean pages of a range.
func (nd *inode) dropCache(off, n int64) {
	for at := off / pageSize * pageSize; at < min(off+n, nd.cache.size); at += pageSize {
		busy := slices.ContainsFunc(nd.pending, func(w dirty) bool { return w.off < at+pageSize && at < w.off+w.n })
		if busy {
			continue
		}
		var p [pageSize]byte
		nd.disk.readAt(p[:], at)
		size := min(pageSize, nd.cache.size-at)
		nd.cache.writeAt(p[:size], size, at)
	}
}
