package replication

import (
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultFS is a disk whose log part (paths with "wal" in them) counts reads and fails on demand.
type faultFS struct {
	vfs.FS
	reads atomic.Int64
	full  atomic.Bool // writes: no space
	sick  atomic.Bool // syncs fail
	rot   atomic.Bool // reads return other bytes than were written

	hung atomic.Pointer[chan struct{}] // syncs wait until it is closed; nil: they do not

	gate sync.RWMutex // held for reading during a sync, so that no sync ends after die
	dead bool
}

// die ends the life of the disk and returns what a power loss at this moment leaves: no sync succeeds after it, so
// nothing that is acknowledged later can be missing.
func (c *faultFS) die(cfg vfs.CrashCloneCfg) *vfs.MemFS {
	c.gate.Lock()
	defer c.gate.Unlock()
	c.dead = true
	return c.FS.(*vfs.MemFS).CrashClone(cfg)
}

// someUnsynced keeps a random part of what was not synced.
func someUnsynced(rng *rand.Rand) vfs.CrashCloneCfg {
	return vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}
}

// hang lets every sync wait until release is called.
func (c *faultFS) hang() (release func()) {
	gate := make(chan struct{})
	c.hung.Store(&gate)
	return func() {
		c.hung.Store(nil)
		close(gate)
	}
}

func (c *faultFS) synced(sync func() error) error {
	if gate := c.hung.Load(); gate != nil {
		<-*gate
	}
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.dead || c.sick.Load() {
		return syscall.EIO
	}
	return sync()
}

func (c *faultFS) Create(name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	if c.full.Load() && strings.Contains(name, "wal") {
		return nil, syscall.ENOSPC
	}
	f, err := c.FS.Create(name, cat)
	return c.file(name, f), err
}

func (c *faultFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, opts...)
	return c.file(name, f), err
}

func (c *faultFS) OpenReadWrite(name string, cat vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.OpenReadWrite(name, cat, opts...)
	return c.file(name, f), err
}

func (c *faultFS) OpenDir(name string) (vfs.File, error) {
	f, err := c.FS.OpenDir(name)
	return c.file(name, f), err
}

func (c *faultFS) file(name string, f vfs.File) vfs.File {
	if f == nil || !strings.Contains(name, "wal") {
		return f
	}
	return &faultFile{f, c}
}

type faultFile struct {
	vfs.File
	fs *faultFS
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.reads.Add(1)
	n, err := f.File.ReadAt(p, off)
	if f.fs.rot.Load() {
		for i := range p[:n] {
			p[i] ^= 0x10
		}
	}
	return n, err
}

func (f *faultFile) Read(p []byte) (int, error) {
	f.fs.reads.Add(1)
	return f.File.Read(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.full.Load() {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Write(p []byte) (int, error) {
	if f.fs.full.Load() {
		return 0, syscall.ENOSPC
	}
	return f.File.Write(p)
}

func (f *faultFile) SyncData() error { return f.fs.synced(f.File.SyncData) }

func (f *faultFile) Sync() error { return f.fs.synced(f.File.Sync) }
