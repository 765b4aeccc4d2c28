package simdisk

import (
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options configures a Disk. The zero value is an unlimited disk with seed 0
// that records no trace.
type Options struct {
	Seed     uint64              // decides everything random: failed syncs, partial effects
	Capacity int64               // bytes of file data; 0: unlimited
	Record   bool                // keep a Trace from the beginning
	Now      func() time.Time    // modification times; default: a clock that ticks 1 ms per operation
	Sleep    func(time.Duration) // how slow operations wait; default time.Sleep
}

// Disk is a simulated disk and the page cache above it. It implements vfs.FS.
// All methods are safe for concurrent use; operations take effect one after
// another, in the order of the trace.
type Disk struct {
	opts Options

	mu    sync.Mutex // guards everything below
	st    *state
	rng   *rand.Rand
	base  *state // where the trace starts; nil when not recording
	ops   []Op
	locks map[string]bool
	rules []*Rule
	wrong []string // handles used after they were closed
}

var _ vfs.FS = (*Disk)(nil)

// New returns an empty disk.
func New(o Options) *Disk {
	return newDisk(newState(), o)
}

func newDisk(st *state, o Options) *Disk {
	if o.Sleep == nil {
		o.Sleep = time.Sleep
	}
	d := &Disk{opts: o, st: st, rng: rand.New(rand.NewPCG(o.Seed, 0xd15c)), locks: map[string]bool{}}
	if o.Record {
		d.base = st.clone()
	}
	return d
}

// Record starts a new trace at the present state. Any older trace is dropped.
func (d *Disk) Record() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.base, d.ops = d.st.clone(), nil
}

// Ops returns the number of operations in the trace so far. Everything that a
// caller learned before the call (an acknowledgement, say) was caused by these.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ops)
}

// Trace returns what was recorded so far. The trace does not grow afterwards.
func (d *Disk) Trace() *Trace {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.base == nil {
		return nil
	}
	return &Trace{base: d.base.clone(), ops: slices.Clone(d.ops)}
}

// SetCapacity changes the size of the disk; 0 means unlimited. A disk that is
// over capacity refuses growth and keeps what it has.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Capacity = bytes
}

// Misuses lists handles that were closed twice or used after they were closed:
// on a real system such a descriptor may belong to somebody else by then.
func (d *Disk) Misuses() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.wrong)
}

// OpenFiles returns the names of files and directories with open handles, one
// for each handle, sorted. Locks do not count.
func (d *Disk) OpenFiles() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, nd := range d.st.nodes {
		for range nd.open {
			out = append(out, nd.path)
		}
	}
	slices.Sort(out)
	return out
}

// now is the disk's clock in nanoseconds. d.mu is held.
func (d *Disk) now() int64 {
	if d.opts.Now != nil {
		return d.opts.Now().UnixNano()
	}
	return int64(time.Duration(d.st.seq) * time.Millisecond)
}

// do stamps, applies and records an operation. d.mu is held.
func (d *Disk) do(op Op) {
	op.Time = d.now()
	d.st.apply(op)
	if d.base != nil {
		d.ops = append(d.ops, op)
	}
}

// clean makes a name absolute and canonical.
func clean(name string) string { return path.Clean("/" + name) }

func baseName(name string) string { return path.Base(name) }

func pathError(op, name string, err error) error {
	return &os.PathError{Op: op, Path: name, Err: err}
}

// find walks to name in the cached tree.
func (s *state) find(name string) (ino, *inode) {
	id := rootIno
	for _, part := range strings.Split(strings.Trim(clean(name), "/"), "/") {
		if part == "" {
			continue
		}
		nd := s.nodes[id]
		if !nd.dir {
			return 0, nil
		}
		next, ok := nd.entries[part]
		if !ok {
			return 0, nil
		}
		id = next
	}
	return id, s.nodes[id]
}

// parent finds the directory that holds name.
func (s *state) parent(op, name string) (ino, *inode, error) {
	if clean(name) == "/" {
		return 0, nil, pathError(op, name, os.ErrInvalid)
	}
	id, nd := s.find(path.Dir(clean(name)))
	if nd == nil {
		return 0, nil, pathError(op, name, os.ErrNotExist)
	}
	if !nd.dir {
		return 0, nil, pathError(op, name, syscall.ENOTDIR)
	}
	return id, nd, nil
}

// file finds a regular file.
func (s *state) file(op, name string) (ino, *inode, error) {
	id, nd := s.find(name)
	if nd == nil {
		return 0, nil, pathError(op, name, os.ErrNotExist)
	}
	if nd.dir {
		return 0, nil, pathError(op, name, syscall.EISDIR)
	}
	return id, nd, nil
}

// Create implements vfs.FS. An existing file of that name keeps its inode (open
// handles and other links still see it) and loses the name.
func (d *Disk) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.fault(OpCreate, name); err != nil {
		return nil, pathError("create", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.create(name)
}

func (d *Disk) create(name string) (*file, error) {
	dir, parent, err := d.st.parent("create", name)
	if err != nil {
		return nil, err
	}
	if old, ok := parent.entries[path.Base(clean(name))]; ok && d.st.nodes[old].dir {
		return nil, pathError("create", name, syscall.EISDIR)
	}
	if d.full(0) {
		return nil, pathError("create", name, syscall.ENOSPC)
	}
	id := d.st.next
	d.do(Op{Kind: OpCreate, Path: clean(name), Ino: uint64(id), Dir: uint64(dir), Name: path.Base(clean(name))})
	return d.handle(id, name, true), nil
}

// full reports whether the disk cannot take growth more bytes. d.mu is held.
func (d *Disk) full(growth int64) bool {
	return d.opts.Capacity > 0 && d.used()+growth >= d.opts.Capacity
}

// used is the bytes in files that have a name or an open handle. d.mu is held.
func (d *Disk) used() int64 {
	var n int64
	for _, nd := range d.st.nodes {
		if !nd.dir && (nd.links > 0 || nd.open > 0) {
			n += nd.cache.size
		}
	}
	return n
}

// Link implements vfs.FS.
func (d *Disk) Link(oldname, newname string) error {
	if err := d.fault(OpLink, newname); err != nil {
		return &os.LinkError{Op: "link", Old: oldname, New: newname, Err: err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id, _, err := d.st.file("link", oldname)
	if err != nil {
		return err
	}
	to, parent, err := d.st.parent("link", newname)
	if err != nil {
		return err
	}
	if _, ok := parent.entries[path.Base(clean(newname))]; ok {
		return &os.LinkError{Op: "link", Old: oldname, New: newname, Err: os.ErrExist}
	}
	d.do(Op{Kind: OpLink, Path: clean(oldname), Ino: uint64(id), To: uint64(to), New: clean(newname)})
	return nil
}

// Open implements vfs.FS.
func (d *Disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := d.fault(OpOpen, name); err != nil {
		return nil, pathError("open", name, err)
	}
	f, err := d.open(name, false)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(f)
	}
	return f, nil
}

func (d *Disk) open(name string, write bool) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, nd := d.st.find(name)
	if nd == nil {
		return nil, pathError("open", name, os.ErrNotExist)
	}
	if nd.dir && write {
		return nil, pathError("open", name, syscall.EISDIR)
	}
	return d.handle(id, name, write), nil
}

// OpenReadWrite implements vfs.FS.
func (d *Disk) OpenReadWrite(name string, cat vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	d.mu.Lock()
	_, nd := d.st.find(name)
	d.mu.Unlock()
	if nd == nil {
		return d.Create(name, cat)
	}
	if err := d.fault(OpOpen, name); err != nil {
		return nil, pathError("open", name, err)
	}
	f, err := d.open(name, true)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(f)
	}
	return f, nil
}

// OpenDir implements vfs.FS.
func (d *Disk) OpenDir(name string) (vfs.File, error) {
	if err := d.fault(OpOpen, name); err != nil {
		return nil, pathError("open", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id, nd := d.st.find(name)
	if nd == nil {
		return nil, pathError("open", name, os.ErrNotExist)
	}
	if !nd.dir {
		return nil, pathError("open", name, syscall.ENOTDIR)
	}
	return d.handle(id, name, false), nil
}

// Remove implements vfs.FS. Open handles keep a removed file readable.
func (d *Disk) Remove(name string) error {
	if err := d.fault(OpRemove, name); err != nil {
		return pathError("remove", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.remove(name)
}

func (d *Disk) remove(name string) error {
	dir, parent, err := d.st.parent("remove", name)
	if err != nil {
		return err
	}
	id, ok := parent.entries[path.Base(clean(name))]
	if !ok {
		return pathError("remove", name, os.ErrNotExist)
	}
	if nd := d.st.nodes[id]; nd.dir && len(nd.entries) > 0 {
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	d.do(Op{Kind: OpRemove, Path: clean(name), Dir: uint64(dir), Name: path.Base(clean(name))})
	return nil
}

// RemoveAll implements vfs.FS. Children go one by one, in order of name, as a
// real file system would do it.
func (d *Disk) RemoveAll(name string) error {
	if err := d.fault(OpRemove, name); err != nil {
		return pathError("remove", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.removeAll(name)
}

func (d *Disk) removeAll(name string) error {
	_, nd := d.st.find(name)
	if nd == nil {
		return nil
	}
	if nd.dir {
		for _, child := range sortedNames(nd.entries) {
			if err := d.removeAll(path.Join(clean(name), child)); err != nil {
				return err
			}
		}
	}
	return d.remove(name)
}

func sortedNames(entries map[string]ino) []string {
	names := make([]string, 0, len(entries))
	for n := range entries {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Rename implements vfs.FS.
func (d *Disk) Rename(oldname, newname string) error {
	if err := d.fault(OpRename, oldname); err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rename(oldname, newname)
}

func (d *Disk) rename(oldname, newname string) error {
	dir, parent, err := d.st.parent("rename", oldname)
	if err != nil {
		return err
	}
	id, ok := parent.entries[path.Base(clean(oldname))]
	if !ok {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: os.ErrNotExist}
	}
	to, target, err := d.st.parent("rename", newname)
	if err != nil {
		return err
	}
	if old, ok := target.entries[path.Base(clean(newname))]; ok {
		if old == id {
			return nil // two names of one file: POSIX says nothing happens
		}
		if nd := d.st.nodes[old]; nd.dir != d.st.nodes[id].dir || len(nd.entries) > 0 {
			return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: os.ErrExist}
		}
	}
	d.do(Op{
		Kind: OpRename, Path: clean(oldname), Ino: uint64(id),
		Dir: uint64(dir), Name: path.Base(clean(oldname)), To: uint64(to), New: clean(newname),
	})
	return nil
}

// ReuseForWrite implements vfs.FS: rename, then open without truncation.
func (d *Disk) ReuseForWrite(oldname, newname string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return d.open(newname, true)
}

// MkdirAll implements vfs.FS.
func (d *Disk) MkdirAll(dir string, _ os.FileMode) error {
	if err := d.fault(OpMkdir, dir); err != nil {
		return pathError("mkdir", dir, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at := "/"
	for _, part := range strings.Split(strings.Trim(clean(dir), "/"), "/") {
		if part == "" {
			continue
		}
		id, nd := d.st.find(at)
		if !nd.dir {
			return pathError("mkdir", dir, syscall.ENOTDIR)
		}
		at = path.Join(at, part)
		if child, ok := nd.entries[part]; ok {
			if !d.st.nodes[child].dir {
				return pathError("mkdir", dir, syscall.ENOTDIR)
			}
			continue
		}
		d.do(Op{Kind: OpMkdir, Path: at, Ino: uint64(d.st.next), Dir: uint64(id), Name: part})
	}
	return nil
}

// Lock implements vfs.FS. Locks live in the memory of the machine: a crash
// image holds none.
func (d *Disk) Lock(name string) (io.Closer, error) {
	if err := d.fault(OpCreate, name); err != nil {
		return nil, pathError("lock", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := clean(name)
	if d.locks[key] {
		return nil, pathError("lock", name, syscall.EAGAIN)
	}
	if _, nd := d.st.find(key); nd == nil {
		f, err := d.create(key)
		if err != nil {
			return nil, err
		}
		d.release(f)
	} else if nd.dir {
		return nil, pathError("lock", name, syscall.EISDIR)
	}
	d.locks[key] = true
	return &fileLock{d: d, key: key}, nil
}

// fileLock releases a lock once.
type fileLock struct {
	d    *Disk
	key  string
	once sync.Once
}

func (l *fileLock) Close() error {
	l.once.Do(func() {
		l.d.mu.Lock()
		defer l.d.mu.Unlock()
		delete(l.d.locks, l.key)
	})
	return nil
}

// List implements vfs.FS. Names come sorted, so that nothing depends on chance.
func (d *Disk) List(dir string) ([]string, error) {
	if err := d.fault(OpList, dir); err != nil {
		return nil, pathError("list", dir, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, nd := d.st.find(dir)
	if nd == nil {
		return nil, pathError("open", dir, os.ErrNotExist)
	}
	if !nd.dir {
		return nil, pathError("readdirent", dir, syscall.ENOTDIR)
	}
	return sortedNames(nd.entries), nil
}

// Stat implements vfs.FS.
func (d *Disk) Stat(name string) (vfs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, nd := d.st.find(name)
	if nd == nil {
		return nil, pathError("stat", name, os.ErrNotExist)
	}
	return nd.info(name), nil
}

// PathBase implements vfs.FS.
func (*Disk) PathBase(name string) string { return path.Base(name) }

// PathJoin implements vfs.FS.
func (*Disk) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements vfs.FS.
func (*Disk) PathDir(name string) string { return path.Dir(name) }

// unlimited is what GetDiskUsage reports for a disk without a capacity, bytes.
const unlimited = 1 << 40

// GetDiskUsage implements vfs.FS.
func (d *Disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	total := uint64(unlimited)
	if d.opts.Capacity > 0 {
		total = uint64(d.opts.Capacity)
	}
	used := uint64(d.used())
	return vfs.DiskUsage{TotalBytes: total, UsedBytes: used, AvailBytes: total - min(used, total)}, nil
}

// Unwrap implements vfs.FS: there is no file system below.
func (*Disk) Unwrap() vfs.FS { return nil }
