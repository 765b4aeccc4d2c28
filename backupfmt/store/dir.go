package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/blake3"
)

// Files of a Dir that are no objects; their names begin with a dot, which object names cannot.
const (
	dirTemp = ".tmp"  // files being written
	dirLock = ".lock" // held during a Replace
)

// Dir is a store in a local directory. An object is written to a temporary file, synced, and linked to its name, which
// fails if the name is taken; then the folder is synced. Several processes may use one directory.
type Dir struct {
	fs   vfs.FS
	root string
	rand io.Reader
}

// OpenDir returns the store in an existing directory: ErrNoStore. fs nil: vfs.Default.
func OpenDir(fs vfs.FS, root string) (*Dir, error) {
	if fs == nil {
		fs = vfs.Default
	}
	st, err := fs.Stat(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoStore, root)
	}
	if err != nil {
		return nil, dirErr("open", root, err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("%w: %s is not a directory", ErrNoStore, root)
	}
	return &Dir{fs: fs, root: root, rand: rand.Reader}, nil
}

// CreateDir makes the directory if needed and opens it.
func CreateDir(fs vfs.FS, root string) (*Dir, error) {
	if fs == nil {
		fs = vfs.Default
	}
	if err := fs.MkdirAll(root, 0o700); err != nil {
		return nil, dirErr("create", root, err)
	}
	d := &Dir{fs: fs, root: root, rand: rand.Reader}
	return d, d.syncDir(fs.PathDir(root))
}

// String is the path of the directory.
func (d *Dir) String() string { return d.root }

func (d *Dir) path(name string) string {
	return d.fs.PathJoin(append([]string{d.root}, strings.Split(name, "/")...)...)
}

func dirErr(doing, what string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %s %s: %w", ErrNoSpace, doing, what, err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %s %s: %w", ErrDenied, doing, what, err)
	}
	return fmt.Errorf("store: %s %s: %w", doing, what, err)
}

// Create implements Store.
func (d *Dir) Create(ctx context.Context, name string, body []byte) error {
	if err := checkBody(name, body); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := d.writeTemp(body)
	if err != nil {
		return err
	}
	defer func() { _ = d.fs.Remove(tmp) }() // a second name of the object, or garbage
	if err := d.makeFolder(name); err != nil {
		return err
	}
	err = d.fs.Link(tmp, d.path(name))
	if errors.Is(err, os.ErrExist) {
		return d.compare(name, body)
	}
	if err != nil {
		return dirErr("create", name, err)
	}
	return d.syncDir(d.fs.PathDir(d.path(name)))
}

// compare decides what Create of an existing name is. Its directory entry may not be durable yet.
func (d *Dir) compare(name string, body []byte) error {
	have, _, err := d.Get(context.Background(), name)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, body) {
		return fmt.Errorf("%w: %s", ErrExists, name)
	}
	return d.syncDir(d.fs.PathDir(d.path(name)))
}

// writeTemp writes a synced temporary file.
func (d *Dir) writeTemp(body []byte) (string, error) {
	folder := d.fs.PathJoin(d.root, dirTemp)
	if err := d.fs.MkdirAll(folder, 0o700); err != nil {
		return "", dirErr("create", folder, err)
	}
	var id [12]byte
	if _, err := io.ReadFull(d.rand, id[:]); err != nil {
		return "", fmt.Errorf("store: random name: %w", err)
	}
	tmp := d.fs.PathJoin(folder, hex.EncodeToString(id[:]))
	f, err := d.fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", dirErr("create", tmp, err)
	}
	if err = writeAll(f, body); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = d.fs.Remove(tmp)
		return "", dirErr("write", tmp, err)
	}
	return tmp, nil
}

// writeAll writes through a buffer of its own: a vfs.File may change what is handed to Write, and body belongs to the caller.
func writeAll(f vfs.File, body []byte) error {
	buf := make([]byte, min(len(body), 256<<10))
	for len(body) > 0 {
		n := copy(buf, body)
		if _, err := f.Write(buf[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// makeFolder creates the folders of an object and makes their names durable.
func (d *Dir) makeFolder(name string) error {
	folder := path.Dir(name)
	if folder == "." {
		return nil
	}
	full := d.path(folder)
	if _, err := d.fs.Stat(full); err == nil {
		return nil
	}
	if err := d.fs.MkdirAll(full, 0o700); err != nil {
		return dirErr("create", full, err)
	}
	for f := full; ; {
		f = d.fs.PathDir(f)
		if err := d.syncDir(f); err != nil {
			return err
		}
		if f == d.root || len(f) <= len(d.root) {
			return nil
		}
	}
}

func (d *Dir) syncDir(folder string) error {
	f, err := d.fs.OpenDir(folder)
	if err != nil {
		return dirErr("open", folder, err)
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return dirErr("sync", folder, err)
	}
	return nil
}

// Replace implements Store. A lock file keeps other processes out between looking and renaming; the kernel drops the
// lock of a dead process, so it never needs to be removed by hand.
func (d *Dir) Replace(ctx context.Context, name string, body []byte, old Version) (Version, error) {
	if err := checkBody(name, body); err != nil {
		return "", err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	_, have, err := d.Get(ctx, name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", err
	}
	now := versionOf(body)
	if have != old {
		if have == now {
			return now, nil // the answer to an earlier try was lost
		}
		return "", fmt.Errorf("%w: %s", ErrChanged, name)
	}
	tmp, err := d.writeTemp(body)
	if err != nil {
		return "", err
	}
	if err := d.makeFolder(name); err != nil {
		return "", err
	}
	if err := d.fs.Rename(tmp, d.path(name)); err != nil {
		_ = d.fs.Remove(tmp)
		return "", dirErr("replace", name, err)
	}
	return now, d.syncDir(d.fs.PathDir(d.path(name)))
}

func (d *Dir) lock(ctx context.Context) (unlock func(), err error) {
	name := d.fs.PathJoin(d.root, dirLock)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		l, err := d.fs.Lock(name)
		if err == nil {
			return func() { _ = l.Close() }, nil
		}
		if errors.Is(err, os.ErrPermission) && !errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EROFS) || errors.Is(err, os.ErrNotExist) {
			return nil, dirErr("lock", name, err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("store: lock %s: %w", name, errors.Join(ctx.Err(), err))
		case <-t.C:
		}
	}
}

func versionOf(body []byte) Version {
	sum := blake3.Sum256(body)
	return Version(hex.EncodeToString(sum[:16]))
}

// open opens an object for reading.
func (d *Dir) open(name string) (vfs.File, int64, error) {
	if err := CheckName(name); err != nil {
		return nil, 0, err
	}
	f, err := d.fs.Open(d.path(name))
	if err == nil {
		var st vfs.FileInfo
		if st, err = f.Stat(); err == nil && !st.IsDir() {
			return f, st.Size(), nil
		}
		_ = f.Close()
	}
	if err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, 0, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return nil, 0, dirErr("open", name, err)
}

// Get implements Store.
func (d *Dir) Get(ctx context.Context, name string) ([]byte, Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	f, size, err := d.open(name)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if size > MaxObject {
		return nil, "", fmt.Errorf("%w: object %s of %d bytes, limit %d", ErrInvalid, name, size, MaxObject)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, "", dirErr("read", name, err)
	}
	return b, versionOf(b), nil
}

// GetRange implements Store.
func (d *Dir) GetRange(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := checkRange(off, n); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, size, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if off > size || n > size-off {
		return nil, fmt.Errorf("%w: %s has %d bytes, wanted %d at %d", ErrShort, name, size, n, off)
	}
	b := make([]byte, n)
	if m, err := f.ReadAt(b, off); m < len(b) {
		return nil, dirErr("read", name, err)
	}
	return b, nil
}

// Stat implements Store.
func (d *Dir) Stat(ctx context.Context, name string) (Info, error) {
	if err := CheckName(name); err != nil {
		return Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	st, err := d.fs.Stat(d.path(name))
	switch {
	case err == nil && !st.IsDir():
		return Info{Name: name, Size: st.Size()}, nil
	case err == nil, errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return Info{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return Info{}, dirErr("stat", name, err)
}

// List implements Store.
func (d *Dir) List(ctx context.Context, prefix string, fn func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	return d.list(ctx, strings.TrimSuffix(prefix, "/"), fn)
}

// list walks a folder. Folders sort as if their names ended with a slash, so that the order is that of the names.
func (d *Dir) list(ctx context.Context, folder string, fn func(Info) error) error {
	full := d.root
	if folder != "" {
		full = d.path(folder)
	}
	names, err := d.fs.List(full)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return dirErr("list", full, err)
	}
	var entries []Info
	for _, n := range names {
		name := path.Join(folder, n)
		if n[0] == '.' || CheckName(name) != nil {
			continue
		}
		st, err := d.fs.Stat(d.path(name))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return dirErr("stat", name, err)
		}
		if st.IsDir() {
			name += "/"
		}
		entries = append(entries, Info{name, st.Size()})
	}
	slices.SortFunc(entries, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if sub, ok := strings.CutSuffix(e.Name, "/"); ok {
			err = d.list(ctx, sub, fn)
		} else {
			err = fn(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Delete implements Store.
func (d *Dir) Delete(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.fs.Remove(d.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return dirErr("delete", name, err)
	}
	return nil
}

// Sweep implements Sweeper: temporary files that were last written before t are removed.
func (d *Dir) Sweep(_ context.Context, t time.Time) (n int, err error) {
	folder := d.fs.PathJoin(d.root, dirTemp)
	names, err := d.fs.List(folder)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, dirErr("list", folder, err)
	}
	for _, name := range names {
		p := d.fs.PathJoin(folder, name)
		st, err := d.fs.Stat(p)
		if err != nil || !st.ModTime().Before(t) {
			continue
		}
		if err := d.fs.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return n, dirErr("delete", p, err)
		}
		n++
	}
	return n, nil
}
