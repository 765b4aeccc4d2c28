package simdisk

import (
	"io"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// file is an open handle. Like a file descriptor it survives Remove and Rename
// of its name. Its position is guarded by the disk's mutex.
type file struct {
	d      *Disk
	id     ino
	nd     *inode
	path   string
	pos    int64
	write  bool
	closed bool
}

var _ vfs.File = (*file)(nil)

// handle opens an inode. d.mu is held.
func (d *Disk) handle(id ino, name string, write bool) *file {
	nd := d.st.nodes[id]
	nd.open++
	return &file{d: d, id: id, nd: nd, path: clean(name), write: write}
}

// release drops a handle. d.mu is held.
func (d *Disk) release(f *file) {
	f.closed = true
	f.nd.open--
}

// usable says why the handle cannot be used for op. d.mu is held.
func (f *file) usable(op string, write bool) error {
	switch {
	case f.closed:
		return f.misused(op)
	case f.nd.dir:
		return pathError(op, f.path, syscall.EISDIR)
	case write && !f.write:
		return pathError(op, f.path, syscall.EBADF)
	}
	return nil
}

// misused notes the use of a closed handle. d.mu is held.
func (f *file) misused(op string) error {
	f.d.wrong = append(f.d.wrong, op+" "+f.path)
	return pathError(op, f.path, os.ErrClosed)
}

// Close implements io.Closer. It makes nothing durable.
func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return f.misused("close")
	}
	f.d.release(f)
	return nil
}

// Read implements io.Reader.
func (f *file) Read(p []byte) (int, error) {
	n, err := f.readAt(p, -1)
	if err == nil && n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, pathError("read", f.path, os.ErrInvalid)
	}
	n, err := f.readAt(p, off)
	if err == nil && n < len(p) {
		return n, io.EOF
	}
	return n, err
}

// readAt reads from off, or from the handle's position when off is -1.
func (f *file) readAt(p []byte, off int64) (int, error) {
	fl := f.d.match(OpRead, f.path)
	if fl != nil {
		f.d.wait(fl, Op{Kind: OpRead, Path: f.path, Off: off, Len: int64(len(p))})
		if fl.Err != nil {
			return 0, pathError("read", f.path, fl.Err)
		}
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable("read", false); err != nil {
		return 0, err
	}
	seq := off < 0
	if seq {
		off = f.pos
	}
	n := f.nd.cache.readAt(p, off)
	if seq {
		f.pos += int64(n)
	}
	if fl != nil && fl.FlipBit && n > 0 {
		bit := f.d.rng.IntN(n * 8)
		p[bit/8] ^= 1 << (bit % 8)
	}
	return n, nil
}

// Write implements io.Writer at the handle's position.
func (f *file) Write(p []byte) (int, error) { return f.writeAt(p, -1) }

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, pathError("write", f.path, os.ErrInvalid)
	}
	return f.writeAt(p, off)
}

// writeAt writes at off, or at the handle's position when off is -1.
func (f *file) writeAt(p []byte, off int64) (int, error) {
	fl := f.d.match(OpWrite, f.path)
	if fl != nil {
		f.d.wait(fl, Op{Kind: OpWrite, Path: f.path, Off: off, Len: int64(len(p))})
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable("write", true); err != nil {
		return 0, err
	}
	seq := off < 0
	if seq {
		off = f.pos
	}
	n, err := int64(len(p)), error(nil)
	if fl != nil && fl.Err != nil {
		n, err = max(0, min(fl.Short, n-1)), pathError("write", f.path, fl.Err)
	}
	if fit := f.fits(off, n); fit < n {
		n, err = fit, pathError("write", f.path, syscall.ENOSPC)
	}
	if n > 0 {
		f.d.do(f.writeOp(p[:n], off, fl))
	}
	if seq {
		f.pos += n
	}
	return int(n), err
}

// writeOp builds the operation that stores p at off. d.mu is held.
func (f *file) writeOp(p []byte, off int64, fl *Fault) Op {
	op := Op{Kind: OpWrite, Path: f.path, Ino: uint64(f.id), Off: off, Len: int64(len(p))}
	if !allZero(p) {
		op.Data = slices.Clone(p)
	}
	if fl == nil || fl.Misdirect == nil {
		return op
	}
	op.Kind, op.To, op.ToOff = OpMisdirect, op.Ino, fl.Misdirect.Off
	if fl.Misdirect.Path != "" {
		if id, nd := f.d.st.find(fl.Misdirect.Path); nd != nil && !nd.dir {
			op.To = uint64(id)
		}
	}
	return op
}

// fits returns how many of n bytes at off the disk has room for, in whole
// sectors when not all. d.mu is held.
func (f *file) fits(off, n int64) int64 {
	growth := off + n - f.nd.cache.size
	if f.d.opts.Capacity <= 0 || growth <= 0 {
		return n
	}
	room := max(f.d.opts.Capacity-f.d.used(), 0)
	if growth <= room {
		return n
	}
	fit := f.nd.cache.size + room - off
	if fit <= 0 {
		return 0
	}
	return min(n, fit/sectorSize*sectorSize)
}

// Preallocate implements vfs.File: the disk has nothing to prepare.
func (f *file) Preallocate(_, _ int64) error { return nil }

// Prefetch implements vfs.File.
func (f *file) Prefetch(_, _ int64) error { return nil }

// Fd implements vfs.File: there is no descriptor.
func (f *file) Fd() uintptr { return vfs.InvalidFd }

// Stat implements vfs.File.
func (f *file) Stat() (vfs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return nil, f.misused("stat")
	}
	return f.nd.info(f.path), nil
}

// SyncTo implements vfs.File. It promises nothing, which the interface allows
// and which finds callers that count on more.
func (f *file) SyncTo(int64) (bool, error) { return false, nil }

// SyncData implements vfs.File. Size is data here: it is needed to read.
func (f *file) SyncData() error { return f.Sync() }

// Sync makes a file's bytes, or a directory's entries, durable.
func (f *file) Sync() error {
	kind := OpSync
	f.d.mu.Lock()
	if f.nd.dir {
		kind = OpDirSync
	}
	f.d.mu.Unlock()
	fl := f.d.match(kind, f.path)
	if fl != nil {
		f.d.wait(fl, Op{Kind: kind, Path: f.path})
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return f.misused("sync")
	}
	if fl == nil || fl.Err == nil {
		f.d.do(Op{Kind: kind, Path: f.path, Ino: uint64(f.id)})
		return nil
	}
	if kind == OpSync {
		f.d.do(Op{Kind: OpSyncFailed, Path: f.path, Ino: uint64(f.id), Seed: f.d.rng.Uint64()})
	}
	return pathError("sync", f.path, fl.Err)
}

// DropCache makes later reads of [off, off+n) come from the disk, as
// posix_fadvise(DONTNEED) does on Linux: clean pages go, pages with unsynced
// writes stay. It shows what a failed sync, or a write that went astray, left.
func (f *file) DropCache(off, n int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable("dropcache", false); err != nil {
		return err
	}
	f.d.do(Op{Kind: OpDropCache, Path: f.path, Ino: uint64(f.id), Off: off, Len: n})
	return nil
}

// info describes the inode under a name. The disk's mutex is held.
func (nd *inode) info(name string) vfs.FileInfo {
	return fileInfo{name: path.Base(clean(name)), size: nd.cache.size, mod: nd.mod, dir: nd.dir}
}

// fileInfo implements vfs.FileInfo.
type fileInfo struct {
	name string
	size int64
	mod  int64
	dir  bool
}

func (i fileInfo) Name() string           { return i.name }
func (i fileInfo) Size() int64            { return i.size }
func (i fileInfo) ModTime() time.Time     { return time.Unix(0, i.mod) }
func (i fileInfo) IsDir() bool            { return i.dir }
func (i fileInfo) Sys() any               { return nil }
func (i fileInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

func (i fileInfo) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o755
	}
	return 0o644
}
