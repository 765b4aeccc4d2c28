package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/erlmcp/erlmcp/wal"
)

// Image is the consistent state of a store at one log index, for backups and for the installation of followers. It
// does not hold up writers: it holds a Pebble snapshot, and pins the log from its index on, until Close. Methods are safe
// for concurrent use. Close every image before the store: Store.Close waits for it.
type Image struct {
	s    *Store
	v    *version
	row  appliedRow
	term uint64
	pin  string
}

// OpenImage takes an image at the newest applied index.
func (s *Store) OpenImage() (*Image, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	im, err := s.openImage()
	if err != nil {
		s.end()
		return nil, err
	}
	return im, nil
}

func (s *Store) openImage() (*Image, error) {
	v, err := s.acquire()
	if err != nil {
		return nil, err
	}
	im := &Image{s: s, v: v}
	im.pin = fmt.Sprintf("image %p", im)
	s.PinLog(im.pin, v.index)
	if im.row, err = s.imageRow(v); err != nil {
		im.release()
		return nil, err
	}
	e, err := s.log.Get(v.index)
	switch {
	case err == nil:
		im.term = e.Term
	case !errors.Is(err, wal.ErrNotFound):
		im.release()
		return nil, fmt.Errorf("engine: image: log entry %d: %w", v.index, s.logErr(err))
	}
	return im, nil
}

// imageRow reads the applied row of a version: it cannot be newer or older than the rows.
func (s *Store) imageRow(v *version) (appliedRow, error) {
	raw, c, err := v.snap.Get(appliedKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return appliedRow{logID: s.ident.logID, storeID: s.ident.storeID}, nil
	}
	if err != nil {
		return appliedRow{}, s.storeErr("read", appliedKey, err)
	}
	defer c.Close()
	row, err := parseAppliedRow(raw)
	if err != nil {
		return row, s.storeErr("read", appliedKey, err)
	}
	if row.index != v.index {
		return row, s.storeErr("read", appliedKey, fmt.Errorf("%w: applied row of entry %d in the state of entry %d", ErrMalformed, row.index, v.index))
	}
	return row, nil
}

// Index is the log index of the newest entry contained, Term its term (0 if the log no longer has it).
func (im *Image) Index() uint64 { return im.v.index }

// Term is the term of the entry at Index, 0 if unknown.
func (im *Image) Term() uint64 { return im.term }

// StateHash is the state hash at Index.
func (im *Image) StateHash() [32]byte { return im.row.lanes.bytes() }

// LogID identifies the log, StoreID the store.
func (im *Image) LogID() [16]byte { return im.s.ident.logID }

// StoreID identifies the store the image is of.
func (im *Image) StoreID() [16]byte { return im.s.ident.storeID }

// Close releases the image. Only the first call does anything.
func (im *Image) Close() error {
	im.s.mu.Lock()
	open := im.pin != ""
	pin := im.pin
	im.pin = ""
	im.s.mu.Unlock()
	if !open {
		return nil
	}
	im.s.UnpinLog(pin)
	im.v.release()
	im.s.end()
	return nil
}

func (im *Image) release() {
	im.s.UnpinLog(im.pin)
	im.v.release()
}

// Rows calls fn for every row of every table, the engine's own included, ascending by (table, key). The row and its
// slices are valid during the call only. An error of fn or of ctx ends the reading and is returned.
func (im *Image) Rows(ctx context.Context, fn func(*Row) error) error {
	return im.rows(ctx, &pebble.IterOptions{LowerBound: []byte{spaceRow}, UpperBound: []byte{spaceRow + 1}}, fn)
}

// TableRows is Rows for one table.
func (im *Image) TableRows(ctx context.Context, table string, fn func(*Row) error) error {
	if !validName(table) {
		return fmt.Errorf("%w: table name %q is not [a-z0-9_]{1,64}", ErrInvalid, table)
	}
	return im.rows(ctx, &pebble.IterOptions{LowerBound: appendRowKey(nil, table, nil), UpperBound: append(append([]byte{spaceRow}, table...), 1)}, fn)
}

func (im *Image) rows(ctx context.Context, o *pebble.IterOptions, fn func(*Row) error) error {
	s := im.s
	it, err := im.v.snap.NewIter(o)
	if err != nil {
		return s.storeErr("scan", nil, err)
	}
	defer it.Close()
	var out Row
	names := map[string]string{}
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		raw, err := it.ValueAndErr()
		if err != nil {
			return s.storeErr("read", it.Key(), err)
		}
		if err := im.decode(&out, names, it.Key(), raw); err != nil {
			return err
		}
		if err := fn(&out); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return s.storeErr("scan", nil, err)
	}
	return nil
}

// decode fills out; it aliases rowKey and raw where it can.
func (im *Image) decode(out *Row, names map[string]string, rowKey, raw []byte) error {
	table, key, err := splitRowKey(rowKey)
	if err != nil {
		return im.s.storeErr("read", rowKey, err)
	}
	r, err := im.s.decodeRow(rowKey, raw, false)
	if err != nil {
		return err
	}
	name, ok := names[string(table)]
	if !ok {
		name = string(table)
		names[name] = name
	}
	*out = Row{Table: name, Key: key, Value: r.value, ModIndex: r.mod}
	if r.deadline != 0 {
		out.Deadline = time.UnixMilli(r.deadline).UTC()
	}
	return nil
}

// Get returns one row with copies of its slices; found is false if it does not exist at Index.
func (im *Image) Get(table string, key []byte) (row Row, found bool, err error) {
	if !validName(table) {
		return row, false, fmt.Errorf("%w: table name %q is not [a-z0-9_]{1,64}", ErrInvalid, table)
	}
	k := appendRowKey(nil, table, key)
	raw, c, err := im.v.snap.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return row, false, nil
	}
	if err != nil {
		return row, false, im.s.storeErr("read", k, err)
	}
	defer c.Close()
	if err := im.decode(&row, map[string]string{}, k, append([]byte(nil), raw...)); err != nil {
		return row, false, err
	}
	return row, true, nil
}

var errImageEnd = errors.New("engine: beyond the image")

// Change is what one log entry did to one row.
type Change struct {
	Table    string
	Key      []byte
	Removed  bool
	Value    []byte
	Deadline int64  // Unix ms, 0 = none
	Index    uint64 // the log entry; ModIndex of the row that it wrote
}

// Changes calls fn for every row that the log entries in (since, Index] wrote or removed, the records of idempotency keys included, in log
// order; entries that were refused changed nothing. So the last change of a row says what it is at Index. The change and its
// slices are valid during the call only. ErrCompacted if the log does not reach back to since+1; PinLog(name, since) prevents that.
func (im *Image) Changes(ctx context.Context, since uint64, fn func(*Change) error) error {
	s := im.s
	if since >= im.v.index {
		return nil
	}
	next := since + 1
	var ws WriteSet
	names := map[string]string{}
	err := s.log.Iterate(next, func(e wal.Entry) error {
		if e.Index > im.v.index {
			return errImageEnd
		}
		if e.Index != next {
			return errGap
		}
		next++
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Type != EntryWriteSet || s.wasRejected(e.Index) {
			return nil
		}
		if err := ws.decode(e.Data, names); err != nil {
			return fmt.Errorf("engine: image: log entry %d: %w", e.Index, err)
		}
		return changes(&ws, e.Index, fn)
	})
	// What is truncated meanwhile takes its refusals along.
	short := next <= im.v.index || s.log.FirstIndex() > since+1
	switch {
	case errors.Is(err, errGap), errors.Is(err, wal.ErrNotFound), (err == nil || errors.Is(err, errImageEnd)) && short:
		return fmt.Errorf("%w: wanted %d, the log begins at %d", ErrCompacted, next, s.log.FirstIndex())
	case err == nil || errors.Is(err, errImageEnd):
		return nil
	}
	return err
}

var errGap = errors.New("engine: log entry is missing")

func changes(ws *WriteSet, index uint64, fn func(*Change) error) error {
	for i := range ws.Ops {
		if err := fn(changeOf(&ws.Ops[i], index)); err != nil {
			return err
		}
	}
	if ws.IdempotencyKey != "" {
		op := idemOp(ws, index)
		return fn(changeOf(&op, index))
	}
	return nil
}

func changeOf(op *Op, index uint64) *Change {
	return &Change{Table: op.Table, Key: op.Key, Removed: op.Delete, Value: op.Value, Deadline: op.Deadline, Index: index}
}
