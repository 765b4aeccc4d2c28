package backupfmt

import (
	"context"
	"errors"
	"fmt"
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
	src := &StoreSource{im: im, state: State{
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
	im    *engine.Image
	state State
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

// maxChangedBytes bounds the memory for the keys of changed rows.
const maxChangedBytes = 96 << 20

// Changed implements Source: the log says which keys, the image what they are now.
func (s *StoreSource) Changed(ctx context.Context, since uint64, fn func(*snapshot.Entry) error) error {
	seen := map[string]struct{}{}
	size := 0
	var buf []byte
	err := s.im.ChangedKeys(ctx, since, func(table string, key []byte) error {
		buf = append(append(append(buf[:0], table...), 0), key...)
		if _, ok := seen[string(buf)]; ok {
			return nil
		}
		if size += len(buf) + 64; size > maxChangedBytes {
			return ErrTooMany
		}
		seen[string(buf)] = struct{}{}
		return nil
	})
	if errors.Is(err, engine.ErrCompacted) {
		return fmt.Errorf("%w: %w", ErrNoHistory, err)
	}
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	slices.Sort(keys) // a name ends with 0, which is below every character of a longer one: the order of (table, key)
	for _, k := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		table, key, _ := strings.Cut(k, "\x00")
		row, found, err := s.im.Get(table, []byte(key))
		if err != nil {
			return err
		}
		e := snapshot.Entry{Table: table, Key: []byte(key), Removed: true}
		if found {
			entryOf(&e, &row)
		}
		if err := fn(&e); err != nil {
			return err
		}
	}
	return nil
}
