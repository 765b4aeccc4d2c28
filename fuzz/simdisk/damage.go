package simdisk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// The functions of this file change a disk at rest: cache and platter alike,
// outside any trace. They are the hand of fate, not of a process. Open handles
// see the damage.

// ReadFile returns a copy of the cached bytes of a file.
func (d *Disk) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, nd, err := d.st.file("read", name)
	if err != nil {
		return nil, err
	}
	return nd.cache.bytes(), nil
}

// Durable returns a copy of the bytes of a file that a power loss would leave,
// whether or not its name would survive.
func (d *Disk) Durable(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, nd, err := d.st.file("read", name)
	if err != nil {
		return nil, err
	}
	return nd.disk.bytes(), nil
}

// WriteFile replaces the content of a file, or creates the file. Directories
// must exist.
func (d *Disk) WriteFile(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, nd, err := d.st.file("write", name)
	if errors.Is(err, os.ErrNotExist) {
		id, parent, perr := d.st.parent("write", name)
		if perr != nil {
			return perr
		}
		nd = &inode{path: clean(name), links: 1}
		d.st.nodes[d.st.next] = nd
		parent.entries[path.Base(clean(name))] = d.st.next
		d.st.nodes[id].durable[path.Base(clean(name))] = d.st.next
		d.st.next++
	} else if err != nil {
		return err
	}
	nd.cache.setSize(0)
	nd.cache.writeAt(data, int64(len(data)), 0)
	nd.settle()
	return nil
}

// settle makes the cached bytes durable, whatever happened before.
func (nd *inode) settle() {
	nd.disk, nd.pending, nd.diverged = nd.cache.clone(), nil, false
}

// edit changes a file in place.
func (d *Disk) edit(name string, off, n int64, fn func(c *content)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, nd, err := d.st.file("damage", name)
	if err != nil {
		return err
	}
	if off < 0 || n < 0 || off+n > nd.cache.size {
		return fmt.Errorf("simdisk: damage %s [%d,+%d): outside the file of %d bytes", name, off, n, nd.cache.size)
	}
	fn(&nd.cache)
	nd.settle()
	return nil
}

// FlipBit inverts bit (0..7) of the byte at off.
func (d *Disk) FlipBit(name string, off int64, bit uint) error {
	return d.edit(name, off, 1, func(c *content) {
		var p [1]byte
		c.readAt(p[:], off)
		p[0] ^= 1 << (bit & 7)
		c.writeAt(p[:], 1, off)
	})
}

// Overwrite puts bytes at off.
func (d *Disk) Overwrite(name string, off int64, p []byte) error {
	return d.edit(name, off, int64(len(p)), func(c *content) { c.writeAt(p, int64(len(p)), off) })
}

// Zero clears n bytes at off.
func (d *Disk) Zero(name string, off, n int64) error {
	return d.edit(name, off, n, func(c *content) { c.writeAt(nil, n, off) })
}

// Swap exchanges n bytes at a and b, which must not overlap.
func (d *Disk) Swap(name string, a, b, n int64) error {
	return d.edit(name, min(a, b), max(a, b)-min(a, b)+n, func(c *content) {
		p, q := make([]byte, n), make([]byte, n)
		c.readAt(p, a)
		c.readAt(q, b)
		c.writeAt(q, n, a)
		c.writeAt(p, n, b)
	})
}

// Truncate sets the size of a file; growth reads as zero.
func (d *Disk) Truncate(name string, size int64) error {
	return d.edit(name, 0, 0, func(c *content) { c.setSize(size) })
}

// Discard removes a name, durably. Missing names are an error.
func (d *Disk) Discard(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, parent, err := d.st.parent("damage", name)
	if err != nil {
		return err
	}
	base := path.Base(clean(name))
	if _, ok := parent.entries[base]; !ok {
		return pathError("damage", name, os.ErrNotExist)
	}
	d.st.unlink(parent.entries[base])
	delete(d.st.nodes[id].entries, base)
	delete(d.st.nodes[id].durable, base)
	return nil
}

// CopyFile makes newname a file with the bytes of oldname, durably.
func (d *Disk) CopyFile(oldname, newname string) error {
	p, err := d.ReadFile(oldname)
	if err != nil {
		return err
	}
	return d.WriteFile(newname, p)
}

// Clone returns an independent disk with the cached tree, all of it durable.
func (d *Disk) Clone() *Disk { return d.Crash(Policy{Process: true}, d.opts.Seed) }

// Files returns the paths of all files of the cached tree, sorted.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	d.st.walk("/", rootIno, func(name string, nd *inode) {
		if !nd.dir {
			out = append(out, name)
		}
	})
	return out
}

// Fingerprint is a digest of all names and cached bytes, to show that something
// changed nothing.
func (d *Disk) Fingerprint() [32]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := sha256.New()
	d.st.walk("/", rootIno, func(name string, nd *inode) {
		fmt.Fprintf(h, "%q %t %d\n", name, nd.dir, nd.cache.size)
		if !nd.dir {
			h.Write(nd.cache.bytes())
		}
	})
	return [32]byte(h.Sum(nil))
}

// walk visits the cached tree in order of name.
func (s *state) walk(at string, id ino, fn func(string, *inode)) {
	nd := s.nodes[id]
	fn(at, nd)
	for _, name := range sortedNames(nd.entries) {
		s.walk(path.Join(at, name), nd.entries[name], fn)
	}
}

// Export writes the cached tree below dir of the real file system, so that a
// person can look at a crash image with the ordinary tools.
func (d *Disk) Export(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var first error
	d.st.walk("/", rootIno, func(name string, nd *inode) {
		to := filepath.Join(dir, filepath.FromSlash(name))
		var err error
		if nd.dir {
			err = os.MkdirAll(to, 0o755)
		} else {
			err = os.WriteFile(to, nd.cache.bytes(), 0o644)
		}
		if first == nil {
			first = err
		}
	})
	return first
}

// Import copies a real directory tree to name, durably.
func (d *Disk) Import(dir, name string) error {
	return filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(filepath.ToSlash(strings.TrimPrefix(p, dir)), "/")
		to := path.Join(clean(name), rel)
		if e.IsDir() {
			return d.makeDurableDir(to)
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return d.WriteFile(to, data)
	})
}

// makeDurableDir creates a directory whose name needs no sync.
func (d *Disk) makeDurableDir(name string) error {
	if err := d.MkdirAll(name, 0o755); err != nil {
		return err
	}
	for at := clean(name); ; at = path.Dir(at) {
		f, err := d.OpenDir(at)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
		if at == "/" {
			return nil
		}
	}
}
