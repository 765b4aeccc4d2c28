package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Reader looks at the rows of a data directory without changing or locking anything. It works beside the process
// that has the store open, and on a directory nobody uses. It sees the rows as they were last flushed, which Applied
// tells; newer changes are in the log (wal.Inspect, DecodeWriteSet).
type Reader struct {
	s   *Store // never opened; holds options, sealer and paths
	row appliedRow
}

// ReadOptions for OpenReadOnly.
type ReadOptions struct {
	Key    []byte       // needed to read the values of an encrypted store; without it only keys can be listed
	Logger *slog.Logger // default: discard
}

// Row is one row as Reader sees it.
type Row struct {
	Table    string
	Key      []byte
	Value    []byte // nil if Sealed
	ModIndex uint64
	Deadline time.Time // zero: none
	Sealed   bool      // the value is encrypted and no key was given
}

// openTries is how often opening is tried while a running process replaces files.
const openTries = 20

// OpenReadOnly opens the rows in dir for reading. Errors are those of Open, except that a directory in use is fine.
func OpenReadOnly(fs vfs.FS, dir string, o ReadOptions) (*Reader, error) {
	opts, err := Options{FS: readOnlyFS{fs}, Key: o.Key, Logger: o.Logger}.withDefaults()
	if err != nil {
		return nil, err
	}
	s := newStore(dir, opts)
	if s.ident, err = readIdentity(opts.FS, dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			if names, lerr := fs.List(dir); lerr == nil && holdsParts(names) {
				return nil, s.noFormat(names, "")
			}
			return nil, fmt.Errorf("%w: %w", ErrNotStore, err)
		}
		return nil, err
	}
	if len(o.Key) != 0 || !s.ident.sealed {
		if err := s.ident.checkKey(o.Key); err != nil {
			return nil, err
		}
	}
	if s.ident.sealed && len(o.Key) != 0 {
		if s.seal, err = newSealer(o.Key, opts.Rand); err != nil {
			return nil, err
		}
	}
	r := &Reader{s: s}
	for try := 1; ; try++ {
		err := r.open()
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, os.ErrNotExist) || try == openTries {
			return nil, r.notOpened(err)
		}
		// A file vanished between reading the manifest and opening it: the running process has newer ones.
	}
}

// open opens Pebble and every table file, so that files removed later stay readable.
func (r *Reader) open() error {
	if err := checkKinds(r.s.o.FS, r.s.storeDir); err != nil {
		return err
	}
	o := r.s.pebbleOptions()
	o.ReadOnly = true
	o.ErrorIfNotExists = true
	o.MaxOpenFiles = 1 << 16
	db, err := pebble.Open(r.s.storeDir, o)
	if err != nil {
		return err
	}
	_, err = db.SSTables(pebble.WithProperties())
	if err == nil {
		r.s.db = db
		r.row, err = r.s.loadApplied()
	}
	if err != nil {
		r.s.db = nil
		return errors.Join(err, db.Close())
	}
	return nil
}

func (r *Reader) notOpened(err error) error {
	if environmental(err) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion) {
		return fmt.Errorf("engine: open the row store read-only: %w", err)
	}
	return &CorruptError{
		What: "the row store", Where: r.s.storeDir, Intact: "the log in " + r.s.walDir + " (check it with `tcpsdump chain`)",
		Means:  "the rows cannot be read; changes that are still in the log can be",
		Advice: "read the log with `tcpsdump wal`, restore from a backup or another node", Cause: err,
	}
}

// Applied returns the log index the rows are at and their state hash as recorded.
func (r *Reader) Applied() (index uint64, hash [32]byte) { return r.row.index, r.row.lanes.bytes() }

// StoreInfo is what the directory says about itself.
type StoreInfo struct {
	StoreID, LogID [16]byte
	Version        int // of the data format
	Encrypted      bool
	Created        time.Time
}

// Info returns the content of FORMAT.
func (r *Reader) Info() StoreInfo {
	d := r.s.ident
	return StoreInfo{d.storeID, d.logID, formatVersion, d.sealed, d.created}
}

// Rows calls fn for every row, ascending by (table, key), or those of one table. The slices belong to fn. A row that
// cannot be decoded ends the reading with an error.
func (r *Reader) Rows(table string, fn func(Row) error) error {
	o := pebble.IterOptions{LowerBound: []byte{spaceRow}, UpperBound: []byte{spaceRow + 1}}
	if table != "" {
		o.LowerBound = appendRowKey(nil, table, nil)
		o.UpperBound = append(append([]byte{spaceRow}, table...), 1)
	}
	it, err := r.s.db.NewIter(&o)
	if err != nil {
		return r.s.storeErr("scan", o.LowerBound, err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		raw, err := it.ValueAndErr()
		if err != nil {
			return r.s.storeErr("read", it.Key(), err)
		}
		row, err := r.decode(it.Key(), raw)
		if err != nil {
			return err
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return r.s.storeErr("scan", o.LowerBound, err)
	}
	return nil
}

func (r *Reader) decode(k, raw []byte) (Row, error) {
	table, key, err := splitRowKey(k)
	if err != nil {
		return Row{}, r.s.storeErr("read", k, err)
	}
	row := Row{Table: string(table), Key: append([]byte(nil), key...)}
	var deadline int64
	if r.s.ident.sealed && r.s.seal == nil {
		row.Sealed = true
		row.ModIndex, deadline, _, err = parseRow(raw)
	} else {
		d, derr := r.s.decodeRow(k, raw, true)
		row.Value, row.ModIndex, deadline, err = d.value, d.mod, d.deadline, derr
	}
	if err != nil {
		return Row{}, err
	}
	if deadline != 0 {
		row.Deadline = time.UnixMilli(deadline).UTC()
	}
	return row, nil
}

// Rejected calls fn for every refused entry of the log that the rows know of, ascending; reason is "conflict",
// "duplicate", "idempotency-mismatch" or "malformed".
func (r *Reader) Rejected(fn func(index uint64, reason string) error) error {
	return r.s.eachMarker(func(index uint64, reason byte) error { return fn(index, markReason(reason)) })
}

// Verify recomputes the state hash and checks every block of every table. Indexes and log are not part of it. The values
// of an encrypted store need the key: without it ErrKeyRequired.
func (r *Reader) Verify(ctx context.Context) (VerifyReport, error) {
	began := time.Now()
	rep := VerifyReport{Index: r.row.index, Tables: map[string]uint64{}, Findings: []Finding{}}
	if r.s.ident.sealed && r.s.seal == nil {
		return rep, ErrKeyRequired
	}
	c := &rowCheck{s: r.s, src: dbSource{r.s.db}, rep: &rep}
	if _, err := c.run(ctx, r.row.lanes); err != nil {
		return rep, err
	}
	if err := verifyTables(ctx, r.s.o.FS, r.s.storeDir, r.s.db, r.s.pebbleOptions(), &rep); err != nil {
		return rep, err
	}
	rep.Duration = time.Since(began)
	return rep, nil
}

// Close releases the files.
func (r *Reader) Close() error {
	if err := r.s.db.Close(); err != nil {
		return fmt.Errorf("engine: close the row store: %w", err)
	}
	return nil
}

// readOnlyFS refuses everything that would change a file and takes no locks.
type readOnlyFS struct{ vfs.FS }

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

func (f readOnlyFS) Unwrap() vfs.FS { return f.FS }

func (f readOnlyFS) Lock(string) (io.Closer, error) { return nopCloser{}, nil }

func (f readOnlyFS) Create(string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, ErrReadOnly }
func (f readOnlyFS) Link(string, string) error                              { return ErrReadOnly }
func (f readOnlyFS) Remove(string) error                                    { return ErrReadOnly }
func (f readOnlyFS) RemoveAll(string) error                                 { return ErrReadOnly }
func (f readOnlyFS) Rename(string, string) error                            { return ErrReadOnly }
func (f readOnlyFS) MkdirAll(string, os.FileMode) error                     { return ErrReadOnly }

func (f readOnlyFS) OpenReadWrite(string, vfs.DiskWriteCategory, ...vfs.OpenOption) (vfs.File, error) {
	return nil, ErrReadOnly
}

func (f readOnlyFS) ReuseForWrite(string, string, vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, ErrReadOnly
}
