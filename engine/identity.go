package engine

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The file FORMAT, for example:
//
//	erlmcp-store
//	version 1
//	store 6f1c...            32 hex digits, random identity of the store
//	log 90ab...              32 hex digits, identity of the log in wal/
//	encryption aes-256-gcm   or: none
//	keycheck 5d20...         32 hex digits; only with encryption
//	created 2026-11-21T20:24:38Z
//	crc32c 8d3a90c1          of all bytes before this line
const (
	formatFile    = "FORMAT"
	formatTmp     = "FORMAT.tmp"
	creatingFile  = "CREATING"
	lockFile      = "LOCK"
	walFolder     = "wal"
	storeFolder   = "store"
	formatMagic   = "erlmcp-store"
	encryptNone   = "none"
	encryptGCM    = "aes-256-gcm"
	maxFormatSize = 4096
)

// identity is the content of FORMAT.
type identity struct {
	storeID  [16]byte
	logID    [16]byte
	sealed   bool
	keyCheck [16]byte
	created  time.Time
}

func (d identity) encode() []byte {
	var b bytes.Buffer
	enc := encryptNone
	if d.sealed {
		enc = encryptGCM
	}
	fmt.Fprintf(&b, "%s\nversion %d\nstore %x\nlog %x\nencryption %s\n", formatMagic, formatVersion, d.storeID, d.logID, enc)
	if d.sealed {
		fmt.Fprintf(&b, "keycheck %x\n", d.keyCheck)
	}
	fmt.Fprintf(&b, "created %s\n", d.created.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
}

// parseIdentity checks everything but the version's later additions: a newer version is ErrVersion whatever follows.
func parseIdentity(b []byte) (identity, error) {
	var d identity
	head, rest, _ := bytes.Cut(b, []byte("\n"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	vs, ok := strings.CutPrefix(string(line), "version ")
	v, err := strconv.ParseUint(vs, 10, 32)
	if string(head) != formatMagic || !ok || err != nil {
		return d, fmt.Errorf("%w: FORMAT does not begin like one", ErrMalformed)
	}
	if v > formatVersion {
		return d, fmt.Errorf("%w: data format %d, this program knows up to %d", ErrVersion, v, formatVersion)
	}
	at := bytes.LastIndex(b, []byte("\ncrc32c ")) + 1
	sum := fmt.Sprintf("crc32c %08x\n", crc32.Checksum(b[:at], castagnoli))
	if at == 0 || string(b[at:]) != sum {
		return d, fmt.Errorf("%w: checksum of FORMAT", ErrMalformed)
	}
	for l := range strings.Lines(string(b[:at])) {
		key, val, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		var err error
		switch key {
		case formatMagic, "version":
		case "store":
			err = unhex(d.storeID[:], val)
		case "log":
			err = unhex(d.logID[:], val)
		case "keycheck":
			err = unhex(d.keyCheck[:], val)
		case "encryption":
			d.sealed = val == encryptGCM
			if !d.sealed && val != encryptNone {
				err = fmt.Errorf("encryption %q", val)
			}
		case "created":
			d.created, err = time.Parse(time.RFC3339, val)
		default:
			err = fmt.Errorf("unknown line %q", key)
		}
		if err != nil {
			return d, fmt.Errorf("%w: FORMAT: %w", ErrMalformed, err)
		}
	}
	return d, nil
}

func unhex(dst []byte, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(dst) {
		return fmt.Errorf("bad identity %q", s)
	}
	copy(dst, b)
	return nil
}

// checkKey compares the key the caller gave with what the data needs.
func (d identity) checkKey(key []byte) error {
	switch {
	case d.sealed && len(key) == 0:
		return ErrKeyRequired
	case !d.sealed && len(key) != 0:
		return fmt.Errorf("%w: a key was given, but the store is not encrypted", ErrWrongKey)
	case d.sealed:
		c, err := keyCheck(key)
		if err != nil {
			return err
		}
		if c != d.keyCheck {
			return ErrWrongKey
		}
	}
	return nil
}

// readIdentity returns the identity of a directory; an error that wraps os.ErrNotExist if there is none.
func readIdentity(fs vfs.FS, dir string) (identity, error) {
	path := fs.PathJoin(dir, formatFile)
	if err := checkKind(fs, path); err != nil {
		return identity{}, err
	}
	f, err := fs.Open(path)
	if err != nil {
		return identity{}, fmt.Errorf("engine: open %s: %w", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFormatSize))
	if err != nil {
		return identity{}, fmt.Errorf("engine: read %s: %w", path, err)
	}
	d, err := parseIdentity(b)
	if errors.Is(err, ErrMalformed) {
		err = &CorruptError{
			What: "the identity file FORMAT", Where: path, Intact: "log and rows are not affected by this file",
			Means:  "it cannot be told whether log and rows belong together",
			Advice: "restore FORMAT from a backup of this very directory, or restore the whole store from a backup",
			Cause:  err,
		}
	}
	return d, err
}

// checkKind refuses anything but a plain file: opening a pipe waits for ever, and a device has no end. What is not
// there passes.
func checkKind(fs vfs.FS, path string) error {
	info, err := fs.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("engine: look at %s: %w", path, err)
	case info.Mode().IsRegular():
		return nil
	}
	return &CorruptError{
		What: fmt.Sprintf("%s is not a file (%s)", fs.PathBase(path), info.Mode().Type()), Where: path, Intact: "everything else, as far as it was looked at",
		Means:  "something took the place of a file of the store; what the file held is not there",
		Advice: "put the file back if it was moved, otherwise restore from a backup or another node",
	}
}

// Pebble reads these files whole when it opens. It starts a new manifest long before its limit and writes options of a
// few KiB, and its own log is off and stays empty, so a larger file is damage, and reading it could take all time or memory.
const (
	maxManifest = 512 << 20
	maxOptions  = 1 << 20
)

// checkSize refuses a file of Pebble that cannot be one for its size.
func checkSize(fs vfs.FS, path string) error {
	limit := int64(math.MaxInt64)
	switch base := fs.PathBase(path); {
	case strings.HasPrefix(base, "MANIFEST-"):
		limit = maxManifest
	case strings.HasPrefix(base, "OPTIONS-"), strings.HasPrefix(base, "marker."), strings.HasSuffix(base, ".log"):
		limit = maxOptions
	}
	info, err := fs.Stat(path)
	if err != nil || info.Size() <= limit {
		return nil // who opens it hears of the error
	}
	return &CorruptError{
		What: fmt.Sprintf("%s has %d bytes, at most %d are possible", fs.PathBase(path), info.Size(), limit), Where: path,
		Intact: "everything else, as far as it was looked at", Means: "the file was extended or overwritten by something else",
		Advice: "restore from a backup or another node",
	}
}

// checkKinds is checkKind and checkSize for all files of a folder of plain files.
func checkKinds(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("engine: list %s: %w", dir, err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		if err := checkKind(fs, path); err != nil {
			return err
		}
		if err := checkSize(fs, path); err != nil {
			return err
		}
	}
	return nil
}

// writeIdentity makes FORMAT durable in one step.
func writeIdentity(fs vfs.FS, dir string, d identity) error {
	tmp := fs.PathJoin(dir, formatTmp)
	if err := writeFile(fs, tmp, d.encode()); err != nil {
		return err
	}
	if err := fs.Rename(tmp, fs.PathJoin(dir, formatFile)); err != nil {
		return fmt.Errorf("engine: rename %s: %w", tmp, err)
	}
	return syncDir(fs, dir)
}

// writeFile creates a file with durable content; its name needs syncDir.
func writeFile(fs vfs.FS, path string, content []byte) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("engine: create %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("engine: write %s: %w", path, err)
	}
	return nil
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("engine: open directory %s: %w", dir, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("engine: sync directory %s: %w", dir, err)
	}
	return nil
}

func exists(fs vfs.FS, path string) (bool, error) {
	_, err := fs.Stat(path)
	if err == nil {
		return true, nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return false, fmt.Errorf("engine: look at %s: %w", path, err)
}
