package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/erlmcp/erlmcp/wal"
)

// recover brings the in-memory state to where the rows are, then rows and state to where the log is.
func (s *Store) recover() error {
	row, err := s.loadApplied()
	if err != nil {
		return err
	}
	if err := s.crossCheck(row); err != nil {
		return err
	}
	s.applied.Store(row.index)
	s.lanes = row.lanes
	s.ap.index, s.ap.lanes, s.ap.traces.forgotten = row.index, row.lanes, row.index
	s.hashes.put(row.index, row.lanes)
	s.flush.durable.Store(row.index)
	s.win = newWindow(row.index)
	if err := s.loadMarkers(); err != nil {
		return err
	}
	began := time.Now()
	if err := s.buildIndexes(); err != nil {
		return err
	}
	s.stats.indexDuration = time.Since(began)
	return s.replay(row.index)
}

func (s *Store) loadApplied() (appliedRow, error) {
	raw, c, err := s.db.Get(appliedKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return appliedRow{logID: s.ident.logID, storeID: s.ident.storeID}, nil // never flushed
	}
	if err != nil {
		return appliedRow{}, s.storeErr("read", appliedKey, err)
	}
	defer c.Close()
	row, err := parseAppliedRow(raw)
	if err != nil && !errors.Is(err, ErrVersion) {
		err = s.storeErr("read", appliedKey, err)
	}
	return row, err
}

// crossCheck makes sure that the log continues the rows.
func (s *Store) crossCheck(row appliedRow) error {
	if row.logID != s.ident.logID || row.storeID != s.ident.storeID {
		return s.mismatch(fmt.Sprintf("the rows belong to store %x and log %x", row.storeID, row.logID))
	}
	first, last := s.log.FirstIndex(), s.log.LastIndex()
	switch {
	case last < row.index:
		return &CorruptError{
			What:   fmt.Sprintf("the log ends at %d, but the rows contain entry %d", last, row.index),
			Where:  s.walDir,
			Intact: fmt.Sprintf("the rows as of entry %d", row.index),
			Means:  "the newest part of the log is missing; acknowledged changes after it may be lost",
			Advice: "put the missing log segments back, or restore from a backup or another node",
		}
	case first > row.index+1:
		return &CorruptError{
			What:   fmt.Sprintf("the log begins at %d, but the rows end at entry %d", first, row.index),
			Where:  s.walDir,
			Intact: fmt.Sprintf("the rows as of entry %d, the log from %d to %d", row.index, first, last),
			Means:  fmt.Sprintf("the changes %d to %d are missing", row.index+1, first-1),
			Advice: "put the missing log segments back, or restore from a backup or another node",
		}
	}
	return nil
}

func (s *Store) loadMarkers() error {
	return s.eachMarker(func(index uint64, reason byte) error {
		s.rejected[index] = reason
		return nil
	})
}

// eachMarker calls fn for the marker rows, ascending by index.
func (s *Store) eachMarker(fn func(index uint64, reason byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: markerKey(0), UpperBound: []byte{spaceMeta, metaMarker + 1},
	})
	if err != nil {
		return s.storeErr("scan", markerKey(0), err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return s.storeErr("read", it.Key(), err)
		}
		if len(it.Key()) != 10 || len(v) != 1 {
			return s.storeErr("read", it.Key(), fmt.Errorf("%w: marker row", ErrMalformed))
		}
		if err := fn(be.Uint64(it.Key()[2:]), v[0]); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return s.storeErr("scan", markerKey(0), err)
	}
	return nil
}

// buildIndexes fills the in-memory indexes with one scan per indexed table.
func (s *Store) buildIndexes() error {
	for table, indexes := range s.byTable {
		var key []byte
		err := s.scanRows(s.db, table, span{open: true}, false, func(k, raw []byte) (bool, error) {
			key = appendRowKey(key[:0], table, k)
			r, err := s.decodeRow(key, raw, false)
			if err != nil {
				return false, err
			}
			for _, i := range indexes {
				x := s.indexes[i]
				for _, ik := range x.spec.Keys(k, r.value) {
					x.tree.ReplaceOrInsert(indexItem{string(ik), string(k), r.mod})
				}
			}
			return true, nil
		})
		if err != nil {
			return fmt.Errorf("engine: build the indexes of %s: %w", table, err)
		}
	}
	return nil
}

// replayGroup bounds how many entries are applied before they are published.
const replayGroup = 512

// replay applies the log behind the rows. With a Committer of its own kind only what is known to be committed is
// replayed; that Committer brings the rest.
func (s *Store) replay(applied uint64) error {
	first, last := s.log.FirstIndex(), s.log.LastIndex()
	if first > 0 && last > 0 {
		s.flush.seed(first, max(min(applied, last), first), s.log.Recovery().Bytes)
	}
	upTo := last
	if s.o.Committer != nil {
		upTo = min(upTo, s.log.CommitIndex())
	}
	if upTo <= applied {
		return nil
	}
	began := time.Now()
	next := applied + 1
	err := s.log.Iterate(next, func(e wal.Entry) error {
		if e.Index > upTo {
			return errReplayed
		}
		if e.Index != next {
			return fmt.Errorf("%w: the log skips from %d to %d", ErrMalformed, next, e.Index)
		}
		next++
		if _, err := s.applyEntry(&e); err != nil {
			return err
		}
		if s.ap.entries >= replayGroup || s.ap.batch.Len() > 1<<20 {
			return s.publish()
		}
		return nil
	})
	if err != nil && !errors.Is(err, errReplayed) {
		return s.replayErr(next-1, err)
	}
	if err := s.publish(); err != nil {
		return s.replayErr(next-1, err)
	}
	if next != upTo+1 {
		return s.replayErr(next, fmt.Errorf("%w: the log ends early, expected %d", ErrMalformed, upTo))
	}
	s.stats.replayed = upTo - applied
	s.stats.replayDuration = time.Since(began)
	return nil
}

// errReplayed ends the iteration at the wanted index.
var errReplayed = errors.New("replayed")

func (s *Store) replayErr(index uint64, err error) error {
	if errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) {
		return err
	}
	if !errors.Is(err, ErrMalformed) && !errors.Is(err, wal.ErrCorrupt) {
		return fmt.Errorf("engine: replay log entry %d: %w", index, err)
	}
	return &CorruptError{
		What: fmt.Sprintf("log entry %d", index), Where: s.walDir,
		Intact: fmt.Sprintf("the rows as of entry %d", s.applied.Load()),
		Means:  "later changes cannot be applied",
		Advice: "look at it with `tcpsdump wal`, then restore from a backup or another node",
		Cause:  err,
	}
}
