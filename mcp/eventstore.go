package mcp

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/engine"
)

// This file is the half of engineSessions that keeps streams and events.

func streamKey(session, name string) []byte {
	return append(partKey(session), name...)
}

func eventKey(session, name string, pos int64) []byte {
	return binary.BigEndian.AppendUint64(partKey(session, name), uint64(pos))
}

// encodeEvent is the value of an event's row: the position of the event before
// it, then the message.
func encodeEvent(e storedEvent) []byte {
	out := make([]byte, 0, 8+len(e.Data))
	return append(binary.BigEndian.AppendUint64(out, uint64(e.Prev)), e.Data...)
}

func decodeEvent(key, value []byte) (storedEvent, error) {
	if len(key) < 8 || len(value) < 8 {
		return storedEvent{}, fmt.Errorf("mcp: table %s, row %q: too short", tableEvents, key)
	}
	return storedEvent{
		Pos:  int64(binary.BigEndian.Uint64(key[len(key)-8:])),
		Prev: int64(binary.BigEndian.Uint64(value)),
		Data: value[8:],
	}, nil
}

// commit reads nothing but, among several processes, whose the session is: one
// stream has one writer, so there is no conflict to look for and the transaction
// waits for the log only.
func (e *engineSessions) commit(ctx context.Context, session string, c streamChange) error {
	return e.update(ctx, "stream events", func(tx *engine.Tx) error {
		if err := e.atHome(tx, session); err != nil {
			return err
		}
		raw, err := marshal(&c.Record)
		if err != nil {
			return err
		}
		key := streamKey(session, c.Record.Name)
		if c.Record.Done {
			err = tx.PutUntil(tableStreams, key, raw, c.Expiry)
		} else { // as long as a call runs its stream must be found
			err = tx.Put(tableStreams, key, raw)
		}
		if err != nil {
			return err
		}
		for _, ev := range c.Add {
			if err := tx.PutUntil(tableEvents, eventKey(session, c.Record.Name, ev.Pos), encodeEvent(ev), c.Expiry); err != nil {
				return err
			}
		}
		for _, pos := range c.Drop {
			if err := tx.Delete(tableEvents, eventKey(session, c.Record.Name, pos)); err != nil {
				return err
			}
		}
		return nil
	})
}

func decodeStream(name string, raw []byte) (*streamRecord, error) {
	rec := &streamRecord{Name: name}
	if err := json.Unmarshal(raw, rec); err != nil {
		return nil, fmt.Errorf("mcp: table %s, stream %q: %w", tableStreams, name, err)
	}
	return rec, nil
}

func (e *engineSessions) stream(ctx context.Context, session, name string) (rec *streamRecord, err error) {
	err = e.store.View(ctx, func(tx *engine.Tx) error {
		raw, err := tx.Get(tableStreams, streamKey(session, name))
		if errors.Is(err, engine.ErrNotFound) {
			rec = nil
			return nil
		}
		if err != nil {
			return err
		}
		rec, err = decodeStream(name, raw)
		return err
	})
	return rec, err
}

func (e *engineSessions) streams(ctx context.Context, session string) (list []*streamRecord, err error) {
	prefix := partKey(session)
	err = e.store.View(ctx, func(tx *engine.Tx) error {
		var bad error
		span := engine.Prefix(prefix)
		span.Limit = maxStreamRows
		err := tx.Scan(tableStreams, span, func(key, raw []byte) bool {
			rec, err := decodeStream(string(key[len(prefix):]), raw)
			if err != nil {
				bad = err
				return false
			}
			list = append(list, rec)
			return true
		})
		return errors.Join(err, bad)
	})
	return list, err
}

func (e *engineSessions) events(ctx context.Context, session, name string, after int64, limit, maxBytes int) (list []storedEvent, err error) {
	err = e.store.View(ctx, func(tx *engine.Tx) error {
		var bad error
		size := 0
		span := engine.Prefix(partKey(session, name))
		span.Lo, span.Limit = eventKey(session, name, after+1), limit
		err := tx.Scan(tableEvents, span, func(key, value []byte) bool {
			ev, err := decodeEvent(key, value)
			if err != nil {
				bad = err
				return false
			}
			list = append(list, ev)
			size += len(ev.Data)
			return size < maxBytes
		})
		return errors.Join(err, bad)
	})
	return list, err
}
