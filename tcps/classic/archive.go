package classic

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Dir is a Sink that writes below a directory, which must be absent or empty.
type Dir struct{ Root string }

// NewDir makes the directory.
func NewDir(root string) (*Dir, error) {
	if names, err := os.ReadDir(root); err == nil && len(names) > 0 {
		return nil, fmt.Errorf("classic: %s is not empty; nothing was written", root)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	return &Dir{root}, nil
}

// Dir implements Sink.
func (d *Dir) Dir(name string) error {
	return os.MkdirAll(filepath.Join(d.Root, filepath.FromSlash(name)), 0o700)
}

// File implements Sink.
func (d *Dir) File(name string, size int64, content io.Reader) error {
	to := filepath.Join(d.Root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, content)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, expected %d", name, n, size)
	}
	return errors.Join(err, f.Close())
}

// tarSink is a Sink that writes a tar stream with the same bytes for the same state.
type tarSink struct {
	w  *tar.Writer
	at time.Time
}

func (s tarSink) Dir(name string) error {
	return s.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "priv/tcps/" + name + "/", Mode: 0o700, ModTime: s.at})
}

func (s tarSink) File(name string, size int64, content io.Reader) error {
	err := s.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "priv/tcps/" + name, Mode: 0o600, Size: size, ModTime: s.at})
	if err != nil {
		return err
	}
	_, err = io.Copy(s.w, content)
	return err
}

// Archive says what was written.
type Archive struct {
	Metadata
	File      string `json:"file"`
	SideFile  string `json:"side_file"` // what `sha256sum -c` reads
	SHA256    string `json:"sha256"`    // of the file
	Size      int64  `json:"size"`
	Encrypted bool   `json:"encrypted"`
}

// Create writes DIR/full-<timestamp>.tar.gz, with a secret .tar.gz.enc, and its .sha256 side file. Both appear whole or not at all.
func Create(ctx context.Context, src Source, meta Metadata, dir string, secret []byte) (a Archive, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return a, err
	}
	name := "full-" + meta.Timestamp.UTC().Format("20060102T150405.000Z") + ".tar.gz"
	if secret != nil {
		name += ".enc"
	}
	meta.Compressed = "gzip"
	a = Archive{File: filepath.Join(dir, name), Encrypted: secret != nil}
	a.SideFile = a.File + ".sha256"
	if _, err := os.Lstat(a.File); err == nil {
		return a, fmt.Errorf("classic: %s exists; nothing was written", a.File)
	}
	tmp, err := os.CreateTemp(dir, ".full-")
	if err != nil {
		return a, err
	}
	defer func() {
		_ = tmp.Close()
		_ = os.Remove(tmp.Name()) // gone already after success
	}()
	sum := sha256.New()
	if a.Metadata, err = pack(ctx, src, meta, io.MultiWriter(tmp, sum), secret); err != nil {
		return a, err
	}
	if err := tmp.Sync(); err != nil {
		return a, err
	}
	st, err := tmp.Stat()
	if err != nil {
		return a, err
	}
	a.Size, a.SHA256 = st.Size(), hex.EncodeToString(sum.Sum(nil))
	// The digest first: an archive that is there has one.
	if err := os.WriteFile(a.SideFile, []byte(a.SHA256+"  "+name+"\n"), 0o600); err != nil {
		return a, err
	}
	return a, os.Rename(tmp.Name(), a.File)
}

func pack(ctx context.Context, src Source, meta Metadata, out io.Writer, secret []byte) (Metadata, error) {
	buffered := bufio.NewWriterSize(out, 256<<10)
	var w io.Writer = buffered
	var seal *sealer
	if secret != nil {
		var err error
		if seal, err = newSealer(buffered, secret); err != nil {
			return meta, err
		}
		w = seal
	}
	zip := gzip.NewWriter(w)
	zip.ModTime = meta.Timestamp
	t := tar.NewWriter(zip)
	meta, err := Write(ctx, src, meta, tarSink{t, meta.Timestamp})
	if err == nil {
		err = t.Close()
	}
	if err == nil {
		err = zip.Close()
	}
	if err == nil && seal != nil {
		err = seal.Close()
	}
	if err == nil {
		err = buffered.Flush()
	}
	return meta, err
}

// Content is what Read found in an archive.
type Content struct {
	Archive
	SideFileOK bool           `json:"side_file_ok"` // there is one, and it matches
	Folders    map[string]int `json:"folders"`      // files per folder
	Files      int            `json:"files"`
}

// maxSmall bounds the files of an archive that are read into memory, other than the manifest.
const maxSmall = 1 << 20

// Read reads an archive to its end and checks everything that can be checked: the side file, authentication, compression, and the SHA-256 of every
// file in the manifest. each, if not nil, gets every file; what it was given counts only when Read returns nil.
func Read(ctx context.Context, file string, secret []byte, each func(name string, size int64, content io.Reader) error) (Content, error) {
	c := Content{Archive: Archive{File: file, SideFile: file + ".sha256"}, Folders: map[string]int{}}
	f, err := os.Open(file)
	if err != nil {
		return c, err
	}
	defer f.Close()
	sum := sha256.New()
	r := bufio.NewReaderSize(io.TeeReader(f, sum), 256<<10)
	head, err := r.Peek(len(sealMagic))
	if err != nil {
		return c, fmt.Errorf("%w: %s is too short", ErrDamaged, file)
	}
	var in io.Reader = r
	if c.Encrypted = bytes.Equal(head, []byte(sealMagic)); c.Encrypted {
		if secret == nil {
			return c, ErrSealed
		}
		if in, err = newOpener(r, secret); err != nil {
			return c, err
		}
	}
	if err := c.files(ctx, in, each); err != nil {
		return c, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return c, err
	}
	st, err := f.Stat()
	if err != nil {
		return c, err
	}
	c.Size, c.SHA256 = st.Size(), hex.EncodeToString(sum.Sum(nil))
	return c, c.side()
}

// side compares with the side file.
func (c *Content) side() error {
	b, err := os.ReadFile(c.SideFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if digest, _, _ := strings.Cut(string(b), " "); digest != c.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s, %s says %s", ErrDamaged, c.SHA256, c.SideFile, digest)
	}
	c.SideFileOK = true
	return nil
}

// files reads the tar stream and compares it with its manifest.
func (c *Content) files(ctx context.Context, in io.Reader, each func(string, int64, io.Reader) error) error {
	damaged := func(err error) error {
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrSecret) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	zip, err := gzip.NewReader(in)
	if err != nil {
		return damaged(err)
	}
	t := tar.NewReader(zip)
	sums := map[string]string{}
	var manifest []byte
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
		name, ok := strings.CutPrefix(h.Name, "priv/tcps/")
		if !ok || !filepath.IsLocal(name) {
			return fmt.Errorf("%w: a file is named %q", ErrDamaged, h.Name)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%w: %s is no plain file", ErrDamaged, name)
		}
		digest := sha256.New()
		content := io.TeeReader(t, digest)
		var small bytes.Buffer
		if name == "manifest.json" || name == "metadata.json" {
			if _, err := io.Copy(&small, content); err != nil {
				return damaged(err)
			}
			content = bytes.NewReader(small.Bytes())
		}
		if each != nil {
			err = each(name, h.Size, content)
		}
		if _, cerr := io.Copy(io.Discard, content); err == nil && cerr != nil {
			err = damaged(cerr)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		sums[name] = hex.EncodeToString(digest.Sum(nil))
		folder, _, inFolder := strings.Cut(name, "/")
		if inFolder {
			c.Folders[folder]++
		}
		c.Files++
		switch name {
		case "manifest.json":
			manifest = small.Bytes()
		case "metadata.json":
			if small.Len() > maxSmall || json.Unmarshal(small.Bytes(), &c.Metadata) != nil {
				return fmt.Errorf("%w: metadata.json does not decode", ErrDamaged)
			}
		}
	}
	if _, err := io.Copy(io.Discard, zip); err != nil { // the checksum of gzip, and the last piece
		return damaged(err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return damaged(err)
	}
	return compare(manifest, sums)
}

// compare checks that the manifest names exactly what is there.
func compare(manifest []byte, sums map[string]string) error {
	var m struct {
		Files []Entry `json:"files"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return fmt.Errorf("%w: it has no manifest", ErrDamaged)
	}
	for _, e := range m.Files {
		if sums[e.Path] != e.SHA256 {
			return fmt.Errorf("%w: %s is not what the manifest says", ErrDamaged, e.Path)
		}
		delete(sums, e.Path)
	}
	delete(sums, "manifest.json")
	for name := range sums {
		return fmt.Errorf("%w: %s is not in the manifest", ErrDamaged, name)
	}
	return nil
}
