package engine

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/btree"
)

// version is the consistent state at one applied index: a Pebble snapshot and frozen indexes. Transactions that
// start at the same index share it; the last one releases it, so an idle store holds none.
type version struct {
	s     *Store
	index uint64
	lanes lanes
	snap  *pebble.Snapshot
	trees []*btree.BTreeG[indexItem]
	refs  int // guarded by s.mu
}

// acquire returns the version of the newest applied index.
func (s *Store) acquire() (*version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken() {
		return nil, s.failure()
	}
	applied := s.applied.Load()
	if s.current == nil || s.current.index != applied {
		v := &version{s: s, index: applied, lanes: s.lanes, snap: s.db.NewSnapshot()}
		v.trees = make([]*btree.BTreeG[indexItem], len(s.indexes))
		for i, x := range s.indexes {
			v.trees[i] = x.freeze()
		}
		s.current = v
	}
	s.current.refs++
	if s.current.refs == 1 {
		s.snapshots.Add(1)
	}
	return s.current, nil
}

func (v *version) release() {
	v.s.mu.Lock()
	v.refs--
	last := v.refs == 0
	if last && v.s.current == v {
		v.s.current = nil
	}
	v.s.mu.Unlock()
	if last {
		v.s.snapshots.Add(-1)
		if err := v.snap.Close(); err != nil {
			v.s.o.Logger.Warn("engine: closing a snapshot", "error", err)
		}
	}
}

// row is a decoded row.
type row struct {
	mod      uint64
	deadline int64
	value    []byte
}

// readRow returns a row with its own copy of the value.
func (v *version) readRow(rowKey []byte) (row, error) {
	raw, closer, err := v.snap.Get(rowKey)
	if err != nil {
		return row{}, v.s.storeErr("read", rowKey, err)
	}
	defer closer.Close()
	return v.s.decodeRow(rowKey, raw, true)
}

// modIndex returns the mod_index of a row, 0 if it is absent.
func (v *version) modIndex(rowKey []byte) (uint64, error) {
	raw, closer, err := v.snap.Get(rowKey)
	return v.s.modOf(rowKey, raw, closer, err)
}

func (v *version) scanRows(table string, s span, reverse bool, fn func(key []byte, raw []byte) (bool, error)) error {
	return v.s.scanRows(v.snap, table, s, reverse, fn)
}

func (v *version) tree(index int) *btree.BTreeG[indexItem] { return v.trees[index] }

func (v *version) prepareScan() error { return nil }

// closer is what Pebble's Get hands out beside the value.
type closer interface{ Close() error }

func (s *Store) modOf(rowKey, raw []byte, c closer, err error) (uint64, error) {
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, s.storeErr("read", rowKey, err)
	}
	defer c.Close()
	mod, _, _, err := parseRow(raw)
	if err != nil {
		return 0, s.storeErr("read", rowKey, err)
	}
	return mod, nil
}

// decodeRow decodes and decrypts a raw row; without own the value may alias raw.
func (s *Store) decodeRow(rowKey, raw []byte, own bool) (row, error) {
	mod, deadline, payload, err := parseRow(raw)
	if err != nil {
		return row{}, s.storeErr("read", rowKey, err)
	}
	if s.seal == nil {
		if own {
			payload = append(make([]byte, 0, len(payload)), payload...)
		}
		return row{mod, deadline, payload}, nil
	}
	aad := make([]byte, 0, len(rowKey)+len(raw)-len(payload))
	aad = append(append(aad, rowKey...), raw[:len(raw)-len(payload)]...)
	value, err := s.seal.open(make([]byte, 0, len(payload)), aad, payload)
	if err != nil {
		return row{}, s.storeErr("decrypt", rowKey, err)
	}
	return row{mod, deadline, value}, nil
}

// rowIterator is what Pebble's DB and Snapshot have in common.
type rowIterator interface {
	NewIter(o *pebble.IterOptions) (*pebble.Iterator, error)
}

// scanRows calls fn with key and raw value of the rows of a table in the span; both are only valid during the call.
func (s *Store) scanRows(src rowIterator, table string, sp span, reverse bool,
	fn func(key, raw []byte) (bool, error),
) error {
	if sp.empty() {
		return nil
	}
	prefix := len(table) + 2
	opts := pebble.IterOptions{LowerBound: appendRowKey(nil, table, []byte(sp.lo.k2))}
	if sp.open {
		opts.UpperBound = append(append([]byte{spaceRow}, table...), 1)
	} else {
		opts.UpperBound = appendRowKey(nil, table, []byte(sp.hi.k2))
	}
	it, err := src.NewIter(&opts)
	if err != nil {
		return s.storeErr("scan", opts.LowerBound, err)
	}
	defer it.Close()
	first, next := it.First, it.Next
	if reverse {
		first, next = it.Last, it.Prev
	}
	for ok := first(); ok; ok = next() {
		raw, err := it.ValueAndErr()
		if err != nil {
			return s.storeErr("scan", it.Key(), err)
		}
		if more, err := fn(it.Key()[prefix:], raw); !more || err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return s.storeErr("scan", opts.LowerBound, err)
	}
	return nil
}

// storeErr gives errors of the Pebble store their meaning.
func (s *Store) storeErr(doing string, key []byte, err error) error {
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return ErrNotFound
	case pebble.IsCorruptionError(err) || errors.Is(err, ErrMalformed):
		return &CorruptError{
			What:   fmt.Sprintf("a block of the row store (while trying to %s key %q)", doing, clip(key)),
			Where:  s.storeDir,
			Intact: "the log in " + s.walDir + " and every row outside the damaged block",
			Means:  "rows in that block cannot be read",
			Advice: "stop the process, run `erlmcp verify` and restore from a backup or another node",
			Cause:  err,
		}
	}
	return fmt.Errorf("engine: %s key %q: %w", doing, clip(key), err)
}
