package simdisk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Data says what a power loss leaves of unsynced writes.
type Data uint8

// What may happen to unsynced file data.
const (
	DataLost    Data = iota // none of it reached the disk
	DataKept                // all of it did
	DataOrdered             // a prefix, in the order of issue over all files
	DataSubset              // any subset of the writes
	DataTorn                // any subset of the sectors of the writes
	DataGarbage             // like DataTorn, and sectors being written may hold anything
)

// Dirs says what a power loss leaves of unsynced directory changes.
type Dirs uint8

// What may happen to unsynced directory changes.
const (
	DirsLost   Dirs = iota // none survived
	DirsKept               // all survived
	DirsPrefix             // a prefix per directory survived
)

// Policy is the freedom that a crash has. The zero value loses everything that
// was not synced.
type Policy struct {
	Data Data
	Dirs Dirs
	// Process is a kill -9 instead of a power loss: the page cache survives
	// whole. Data and Dirs are ignored.
	Process bool
	// Partial applies a random prefix of the bytes of the next operation first,
	// if that is a write: a process killed, or a power loss, in the middle of it.
	Partial bool
	// SafeOverwrite names files (rules as in Fault.Glob) for which the disk
	// promises that a torn sector never harms bytes outside the write.
	SafeOverwrite []string
}

var (
	dataNames = []string{"lost", "kept", "ordered", "subset", "torn", "garbage"}
	dirsNames = []string{"lost", "kept", "prefix"}
)

// String names the policy.
func (p Policy) String() string {
	s := fmt.Sprintf("data=%s,dirs=%s", dataNames[p.Data], dirsNames[p.Dirs])
	if p.Process {
		s = "process"
	}
	if p.Partial {
		s += ",partial"
	}
	return s
}

// Policies returns every combination once, the gentlest first.
func Policies() []Policy {
	all := []Policy{{Process: true}, {Process: true, Partial: true}}
	for data := DataLost; data <= DataGarbage; data++ {
		for dirs := DirsLost; dirs <= DirsPrefix; dirs++ {
			all = append(all, Policy{Data: data, Dirs: dirs, Partial: data >= DataOrdered})
		}
	}
	return all
}

// CrashAt returns the disk as it may be found after a power loss just before
// operation n of the trace (with Policy.Partial: in the middle of it).
func (t *Trace) CrashAt(n int, p Policy, seed uint64) *Disk {
	c := t.Cursor()
	c.Seek(n)
	return c.Crash(p, seed)
}

// Crash returns the disk as it may be found now, without recording. The running
// process is not disturbed.
func (d *Disk) Crash(p Policy, seed uint64) *Disk {
	d.mu.Lock()
	st := d.st.clone()
	d.mu.Unlock()
	c := Cursor{trace: &Trace{}, st: st}
	return c.Crash(p, seed)
}

// Restart returns the disk as a new process finds it after the old one was
// killed here while the machine lives on: what was unsynced still is, and a
// power loss may still take it. The new disk records, and its trace starts with
// the operations of the first life.
func (c *Cursor) Restart(seed uint64) *Disk {
	d := newDisk(c.st.clone(), Options{Seed: seed})
	d.base, d.ops = c.trace.base.freshClone(), slices.Clone(c.trace.ops[:c.n])
	return d
}

// Crash builds a crash image at the cursor. The same position, policy and seed
// give the same image. The image is a working disk with nothing unsynced.
func (c *Cursor) Crash(p Policy, seed uint64) *Disk {
	rng := rand.New(rand.NewPCG(seed, 0xc4a5))
	st := c.st
	if p.Partial && c.n < len(c.trace.ops) {
		if op := c.trace.ops[c.n]; op.Kind == OpWrite && op.Len > 1 {
			st = st.clone()
			op.Len = 1 + rng.Int64N(op.Len-1)
			if op.Data != nil {
				op.Data = op.Data[:op.Len]
			}
			st.apply(op)
		}
	}
	img := &imager{st: st, p: p, rng: rng, out: newState()}
	img.out.next = st.next
	if p.Data == DataOrdered {
		img.cut = img.chooseCut()
	}
	img.settle()
	img.dir(rootIno)
	img.out.countLinks()
	return newDisk(img.out, Options{Seed: seed})
}

// imager builds one crash image.
type imager struct {
	st   *state
	p    Policy
	rng  *rand.Rand
	out  *state
	cut  int           // DataOrdered: writes up to this sequence number survive
	keep map[ino][]int // indexes into changes that survived, per directory (always a prefix)
}

// chooseCut picks a point in the global order of unsynced writes.
func (m *imager) chooseCut() int {
	var seqs []int
	for _, nd := range m.st.nodes {
		for _, w := range nd.pending {
			seqs = append(seqs, w.seq)
		}
	}
	slices.Sort(seqs)
	if i := m.rng.IntN(len(seqs) + 1); i > 0 {
		return seqs[i-1]
	}
	return 0
}

// settle decides how many unsynced changes of each directory survive. A rename
// across directories survives in both or in neither.
func (m *imager) settle() {
	m.keep = map[ino][]int{}
	n := map[ino]int{}
	for _, id := range slices.Sorted(maps.Keys(m.st.nodes)) {
		nd := m.st.nodes[id]
		switch {
		case !nd.dir || m.p.Process:
		case m.p.Dirs == DirsKept:
			n[id] = len(nd.changes)
		case m.p.Dirs == DirsPrefix:
			n[id] = m.rng.IntN(len(nd.changes) + 1)
		}
	}
	for again := true; again; {
		again = false
		for id, k := range n {
			for i, ch := range m.st.nodes[id].changes[:k] {
				if ch.pair != 0 && !m.survives(ch, n) {
					n[id], again = i, true
					break
				}
			}
		}
	}
	for id, k := range n {
		for i := range k {
			m.keep[id] = append(m.keep[id], i)
		}
	}
}

// survives reports whether the other half of a rename survives. A half that was
// synced already is durable.
func (m *imager) survives(ch entryOp, n map[ino]int) bool {
	for i, other := range m.st.nodes[ch.pair].changes {
		if other.seq == ch.seq {
			return i < n[ch.pair]
		}
	}
	return true
}

// dir copies a directory and everything below it into the image.
func (m *imager) dir(id ino) {
	nd := m.st.nodes[id]
	entries := nd.entries
	if !m.p.Process {
		entries = maps.Clone(nd.durable)
		for _, i := range m.keep[id] {
			ch := nd.changes[i]
			if ch.del != "" {
				delete(entries, ch.del)
			}
			if ch.set != "" {
				entries[ch.set] = ch.node
			}
		}
	}
	m.out.nodes[id] = &inode{dir: true, path: nd.path, mod: nd.mod, entries: maps.Clone(entries), durable: maps.Clone(entries)}
	for _, name := range sortedNames(entries) {
		child := entries[name]
		if m.out.nodes[child] != nil {
			continue // a second name of a file that was copied already
		}
		if m.st.nodes[child].dir {
			m.dir(child)
		} else {
			m.out.nodes[child] = m.file(m.st.nodes[child])
		}
	}
}

// file returns the image of one file.
func (m *imager) file(nd *inode) *inode {
	c := m.content(nd)
	return &inode{path: nd.path, mod: nd.mod, cache: c, disk: c.clone()}
}

func (m *imager) content(nd *inode) content {
	if m.p.Process || (m.p.Data == DataKept && !nd.diverged) {
		return nd.cache.clone()
	}
	c := nd.disk.clone()
	if len(nd.pending) == 0 {
		return c
	}
	switch m.p.Data {
	case DataLost:
	case DataKept:
		for _, w := range nd.pending {
			c.writeAt(w.data, w.n, w.off)
		}
	case DataOrdered:
		for _, w := range nd.pending {
			if w.seq <= m.cut {
				c.writeAt(w.data, w.n, w.off)
			}
		}
	default:
		m.tear(&c, nd)
	}
	return c
}

// tear applies any subset of the unsynced writes (or of their sectors) such
// that each sector holds one of its versions in time, then lets garbage fall on
// sectors that were being written.
func (m *imager) tear(c *content, nd *inode) {
	version := map[int64]int{} // sector -> writes [0,version) that touched it are in
	for i, w := range nd.pending {
		whole := m.rng.IntN(2) == 0
		for s := w.off / sectorSize; s*sectorSize < w.off+w.n; s++ {
			keep := whole
			if m.p.Data != DataSubset {
				keep = m.rng.IntN(2) == 0
			}
			if keep {
				version[s] = i + 1
			}
		}
	}
	if m.rng.IntN(2) == 0 {
		// The new size reached the disk, whatever the data did.
		c.setSize(max(c.size, nd.cache.size))
	}
	for i, w := range nd.pending {
		for s := w.off / sectorSize; s*sectorSize < w.off+w.n; s++ {
			if version[s] <= i {
				continue
			}
			lo, hi := max(w.off, s*sectorSize), min(w.off+w.n, (s+1)*sectorSize)
			var part []byte
			if w.data != nil {
				part = w.data[lo-w.off : hi-w.off]
			}
			c.writeAt(part, hi-lo, lo)
		}
	}
	if m.p.Data == DataGarbage {
		m.litter(c, nd)
	}
}

// litter overwrites some of the sectors that were in flight.
func (m *imager) litter(c *content, nd *inode) {
	safe := slices.ContainsFunc(m.p.SafeOverwrite, func(g string) bool { return globMatch(g, nd.path) })
	// One sector in flight, a few, or all: each is a different kind of accident.
	odds := []int{2, 8, 64}[m.rng.IntN(3)]
	for _, w := range nd.pending {
		for s := w.off / sectorSize; s*sectorSize < w.off+w.n; s++ {
			if m.rng.IntN(odds) != 0 {
				continue
			}
			lo, hi := s*sectorSize, (s+1)*sectorSize
			if safe {
				lo, hi = max(lo, w.off), min(hi, w.off+w.n)
			}
			hi = min(hi, c.size) // garbage never makes a file longer
			if lo < hi {
				c.writeAt(m.junk(hi-lo), hi-lo, lo)
			}
		}
	}
}

// junk returns n bytes of garbage: noise, zeros, ones, or a stale sector from
// elsewhere on the disk, which is the kind most likely to look valid.
func (m *imager) junk(n int64) []byte {
	p := make([]byte, n)
	switch m.rng.IntN(4) {
	case 0:
	case 1:
		for i := range p {
			p[i] = 0xff
		}
	case 2:
		m.stale(p)
	default:
		for i := range p {
			p[i] = byte(m.rng.Uint32())
		}
	}
	return p
}

// stale copies a random durable sector of a random file; every other time the
// first one, which is the most likely to be taken for what it is not.
func (m *imager) stale(p []byte) {
	ids := slices.Sorted(maps.Keys(m.st.nodes))
	for range 4 {
		nd := m.st.nodes[ids[m.rng.IntN(len(ids))]]
		if sectors := nd.disk.size / sectorSize; !nd.dir && sectors > 0 {
			from := m.rng.Int64N(sectors)
			if m.rng.IntN(2) == 0 {
				from = 0
			}
			nd.disk.readAt(p, from*sectorSize)
			return
		}
	}
}
