package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
	"github.com/erlmcp/erlmcp/wal"
)

// State says which state a source shows.
type State struct {
	Life       object.ID // the history it belongs to: all nodes of a cluster share it, a restored store begins a new one
	LogID      [16]byte
	Index      uint64
	Term       uint64
	Hash       [32]byte  // state hash
	Time       time.Time // of the newest change, zero if unknown
	Membership []byte
}

// Source is a consistent state to back up. Its methods are called by one goroutine.
type Source interface {
	State() State
	// Rows calls fn for every row, strictly ascending by (table, key). The entry is valid during the call.
	Rows(ctx context.Context, fn func(*snapshot.Entry) error) error
	// Changed calls fn, strictly ascending, for every row that may have been written after log index since, as it is now; rows that are
	// gone are Removed. ErrNoHistory: the log does not reach back; ErrTooMany: there are too many of them.
	Changed(ctx context.Context, since uint64, fn func(*snapshot.Entry) error) error
}

// EngineSource shows an open store as it is at the moment of the call. Close it after the backup. A zero life stands for the
// store's own log.
func EngineSource(s *engine.Store, life object.ID) (*StoreSource, error) {
	im, err := s.OpenImage()
	if err != nil {
		return nil, err
	}
	src := &StoreSource{im: im, values: maxChangedValues, state: State{
		Life: life, LogID: im.LogID(), Index: im.Index(), Term: im.Term(), Hash: im.StateHash(),
	}}
	if life == (object.ID{}) {
		src.state.Life = object.ID(im.LogID())
	}
	src.state.Time = timeAt(s.Log(), im.Index())
	return src, nil
}

// timeAt is the time of the newest write set at or before an index, as far as a few entries tell.
func timeAt(log *wal.Log, index uint64) time.Time {
	for i := index; i > 0 && i+64 > index; i-- {
		e, err := log.Get(i)
		if err != nil {
			break
		}
		if t, ok := EntryTime(e); ok {
			return t
		}
	}
	return time.Time{}
}

// EntryTime is when the change of a log entry was made, by the clock of the node that made it; false if it holds none.
func EntryTime(e wal.Entry) (time.Time, bool) {
	if e.Type != engine.EntryWriteSet {
		return time.Time{}, false
	}
	ws, err := engine.DecodeWriteSet(e.Data)
	if err != nil {
		return time.Time{}, false
	}
	return time.UnixMilli(ws.Time).UTC(), true
}

// StoreSource is the Source of an open store.
type StoreSource struct {
	im     *engine.Image
	values int // bytes of changed rows that are held; tests make it small
	state  State
}

// State implements Source.
func (s *StoreSource) State() State { return s.state }

// SetMembership adds what is to be known about the cluster.
func (s *StoreSource) SetMembership(b []byte) { s.state.Membership = b }

// Close releases the state.
func (s *StoreSource) Close() error { return s.im.Close() }

func entryOf(e *snapshot.Entry, r *engine.Row) {
	*e = snapshot.Entry{Table: r.Table, Key: r.Key, Value: r.Value, ModIndex: r.ModIndex}
	if !r.Deadline.IsZero() {
		e.Deadline = r.Deadline.UnixMilli()
	}
}

// Rows implements Source.
func (s *StoreSource) Rows(ctx context.Context, fn func(*snapshot.Entry) error) error {
	var e snapshot.Entry
	return s.im.Rows(ctx, func(r *engine.Row) error {
		entryOf(&e, r)
		return fn(&e)
	})
}

const (
	// maxChangedBytes bounds the memory for the keys of changed rows.
	maxChangedBytes = 64 << 20
	// maxChangedValues bounds the memory for their values; what is beyond is read from the store, row by row.
	maxChangedValues = 32 << 20
)

// lastChange is what the log says about a row at the end.
type lastChange struct {
	index    uint64
	deadline int64
	value    []byte
	removed  bool
	ask      bool // only the store has the value
}

// changed gathers the last change of every row.
type changed struct {
	rows         map[string]*lastChange // by table 0 key
	keys, values int
	most         int // bytes of values
	buf          []byte
}

func (c *changed) take(e *engine.Change) error {
	c.buf = append(append(append(c.buf[:0], e.Table...), 0), e.Key...)
	l := c.rows[string(c.buf)]
	if l == nil {
		if c.keys += len(c.buf) + 128; c.keys > maxChangedBytes {
			return ErrTooMany
		}
		l = &lastChange{}
		c.rows[string(c.buf)] = l
	}
	c.values -= len(l.value)
	*l = lastChange{index: e.Index, deadline: e.Deadline, removed: e.Removed, value: l.value[:0]}
	if e.Removed {
		l.value = nil
		return nil
	}
	if l.ask = c.values+len(e.Value) > c.most; l.ask {
		l.value = nil
		return nil
	}
	l.value = append(l.value, e.Value...)
	c.values += len(l.value)
	return nil
}

// Changed implements Source: the log says which rows, and what they are now. The store is asked only for values for which there was no room.
func (s *StoreSource) Changed(ctx context.Context, since uint64, fn func(*snapshot.Entry) error) error {
	c := changed{rows: map[string]*lastChange{}, most: s.values}
	err := s.im.Changes(ctx, since, c.take)
	if errors.Is(err, engine.ErrCompacted) {
		return fmt.Errorf("%w: %w", ErrNoHistory, err)
	}
	if err != nil {
		return err
	}
	// A name ends with 0, which is below every character of a longer one: the order of (table, key).
	for _, k := range slices.Sorted(maps.Keys(c.rows)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		table, key, _ := strings.Cut(k, "\x00")
		l := c.rows[k]
		e := snapshot.Entry{Table: table, Key: []byte(key), Value: l.value, ModIndex: l.index, Deadline: l.deadline}
		switch {
		case l.removed:
			e = snapshot.Entry{Table: table, Key: []byte(key), Removed: true}
		case l.ask:
			row, found, err := s.im.Get(table, []byte(key))
			if err != nil {
				return err
			}
			if !found || row.ModIndex != l.index {
				return fmt.Errorf("%w: row %q of table %s is not what log entry %d wrote", ErrDamaged, key, table, l.index)
			}
			entryOf(&e, &row)
		}
		if err := fn(&e); err != nil {
			return err
		}
	}
	return nil
}
