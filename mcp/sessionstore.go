package mcp

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/engine"
)

// This file is what the sessions keep in the engine. The rows, keys and values
// are described byte by byte in docs/format.md, "The MCP runtime's tables".

const (
	tableSessions = "mcp_sessions"     // session id -> sessionRecord
	tableSeen     = "mcp_session_seen" // session id -> time of the last use
	tableSubs     = "mcp_session_subs" // session id / hash of the URI -> URI
	tableStreams  = "mcp_streams"      // session id / stream name -> streamRecord
	tableEvents   = "mcp_events"       // session id / stream name / position -> event
	sessionActor  = "mcp:sessions"     // who the log says made the change
	seenGrace     = time.Hour          // how much longer than its session the row of the last use lives
	removeBatch   = 512                // rows removed by one transaction
	maxStreamRows = 10000              // open streams of one session that are read at once
)

// ErrNoSession means that no such session exists: it was never opened, ended or
// expired.
var ErrNoSession = errors.New("no such session")

// A sessionRecord is what outlives the process of one session.
type sessionRecord struct {
	ID          string          `json:"-"` // the key
	Principal   string          `json:"principal"`
	Protocol    string          `json:"protocol"` // negotiated version
	Params      json.RawMessage `json:"params"`   // of initialize, as the client sent them
	Initialized bool            `json:"initialized,omitempty"`
	LogLevel    string          `json:"log_level,omitempty"`
	NextRequest int64           `json:"next_request"` // no server-to-client request had this id or a higher one
	Created     time.Time       `json:"created"`

	Seen time.Time `json:"-"` // last use as far as it was written down; not before Created
	Subs []string  `json:"-"` // subscribed resources, in no order
}

// A streamRecord says where a stream stands. Positions start at 1 and grow;
// some are taken by priming events, which have no row.
type streamRecord struct {
	Name      string            `json:"-"`                   // last part of the key
	Calls     []json.RawMessage `json:"calls,omitempty"`     // ids of the requests that are not answered yet
	Boot      string            `json:"boot,omitempty"`      // run of the process that works on them
	Next      int64             `json:"next"`                // position of the next event
	Last      int64             `json:"last,omitempty"`      // position of the newest event with a row; 0: none
	Delivered int64             `json:"delivered,omitempty"` // standalone stream: handed to a client up to here
	Done      bool              `json:"done,omitempty"`      // the last answer is among the events
	Created   time.Time         `json:"created"`
}

// A storedEvent is one message of a stream.
type storedEvent struct {
	Pos  int64
	Prev int64 // position of the event before; a gap says that something was removed
	Data []byte
}

// A streamChange is one commit to a stream.
type streamChange struct {
	Record streamRecord
	Add    []storedEvent
	Drop   []int64 // positions of the oldest events, too many to keep
	Expiry time.Time
}

// sessionStore keeps sessions and the events of their streams. What a method
// has returned nil for survives the process, when the store is durable at all.
// Implementations are safe for concurrent use; changes of one stream come from
// one caller at a time.
type sessionStore interface {
	create(ctx context.Context, rec *sessionRecord) error
	// load returns ErrNoSession for an unknown id, whatever time it is.
	load(ctx context.Context, id string) (*sessionRecord, error)
	// change rewrites a session's record.
	change(ctx context.Context, id string, fn func(*sessionRecord)) error
	// touch notes the last use soon; it is not durable when it returns.
	touch(ctx context.Context, id string, seen, expires time.Time) error
	subscribe(ctx context.Context, id, uri string) error
	unsubscribe(ctx context.Context, id, uri string) error
	// claim makes this process the home of a session, home is errMoved when
	// another one is, and ErrNoSession when the session ended: see sessionhome.go.
	claim(ctx context.Context, id string) error
	home(ctx context.Context, id string) error
	// remove ends a session and forgets all of it.
	remove(ctx context.Context, id string) error
	// list returns up to limit sessions with ids above after, in order of id,
	// without their subscriptions.
	list(ctx context.Context, after string, limit int) ([]*sessionRecord, error)

	commit(ctx context.Context, session string, c streamChange) error
	stream(ctx context.Context, session, name string) (*streamRecord, error) // nil: unknown
	streams(ctx context.Context, session string) ([]*streamRecord, error)
	// events returns events of a stream behind a position, in order, up to
	// limit of them and about maxBytes.
	events(ctx context.Context, session, name string, after int64, limit, maxBytes int) ([]storedEvent, error)
}

// engineSessions is the sessionStore on engine transactions.
type engineSessions struct {
	store  Store
	boot   string // this run of the process
	shared bool   // other processes have the same store
}

func (e *engineSessions) update(ctx context.Context, label string, fn func(tx *engine.Tx) error, opts ...engine.TxOption) error {
	// A commit is not abandoned half way: its outcome must be known. What the runtime keeps for itself is no change of the call.
	opts = append(opts, engine.WithActor(sessionActor), engine.WithLabel(label))
	_, err := e.store.Update(engine.WithoutCompanion(context.WithoutCancel(ctx)), fn, opts...)
	return err
}

func putJSON(tx *engine.Tx, table string, key []byte, v any) error {
	raw, err := marshal(v)
	if err != nil {
		return err
	}
	return tx.Put(table, key, raw)
}

func (e *engineSessions) create(ctx context.Context, rec *sessionRecord) error {
	return e.update(ctx, "session create", func(tx *engine.Tx) error {
		if e.shared {
			if err := tx.Put(tableHome, []byte(rec.ID), []byte(e.boot)); err != nil {
				return err
			}
		}
		return putJSON(tx, tableSessions, []byte(rec.ID), rec)
	})
}

func decodeSession(key, raw []byte) (*sessionRecord, error) {
	rec := &sessionRecord{ID: string(key)}
	if err := json.Unmarshal(raw, rec); err != nil {
		return nil, fmt.Errorf("mcp: table %s, row %q: %w", tableSessions, key, err)
	}
	rec.Seen = rec.Created
	return rec, nil
}

func readSeen(tx *engine.Tx, rec *sessionRecord) error {
	raw, err := tx.Get(tableSeen, []byte(rec.ID))
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(raw) != 8 {
		return fmt.Errorf("mcp: table %s, row %q: %d bytes, want 8", tableSeen, rec.ID, len(raw))
	}
	if seen := time.UnixMilli(int64(binary.BigEndian.Uint64(raw))).UTC(); seen.After(rec.Seen) {
		rec.Seen = seen
	}
	return nil
}

func readSession(tx *engine.Tx, id string) (*sessionRecord, error) {
	raw, err := tx.Get(tableSessions, []byte(id))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, ErrNoSession
	}
	if err != nil {
		return nil, err
	}
	return decodeSession([]byte(id), raw)
}

func (e *engineSessions) load(ctx context.Context, id string) (rec *sessionRecord, err error) {
	err = e.store.View(ctx, func(tx *engine.Tx) error {
		if rec, err = readSession(tx, id); err != nil {
			return err
		}
		if err := readSeen(tx, rec); err != nil {
			return err
		}
		return tx.Scan(tableSubs, engine.Prefix(partKey(id)), func(_, uri []byte) bool {
			rec.Subs = append(rec.Subs, string(uri))
			return true
		})
	})
	return rec, err
}

func (e *engineSessions) change(ctx context.Context, id string, fn func(*sessionRecord)) error {
	return e.update(ctx, "session change", func(tx *engine.Tx) error {
		rec, err := readSession(tx, id)
		if err != nil {
			return err
		}
		fn(rec)
		return putJSON(tx, tableSessions, []byte(id), rec)
	})
}

func (e *engineSessions) touch(ctx context.Context, id string, seen, expires time.Time) error {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], uint64(seen.UnixMilli()))
	return e.update(ctx, "session touch", func(tx *engine.Tx) error {
		return tx.PutUntil(tableSeen, []byte(id), raw[:], expires.Add(seenGrace))
	}, engine.WithDurability(engine.Async))
}

// partKey begins the keys of everything that belongs to a session.
func partKey(session string, parts ...string) []byte {
	key := append([]byte(session), '/')
	for _, p := range parts {
		key = append(append(key, p...), '/')
	}
	return key
}

func subKey(id, uri string) []byte {
	sum := sha256.Sum256([]byte(uri)) // keys are bounded, URIs are not
	return append(partKey(id), sum[:16]...)
}

func (e *engineSessions) subscribe(ctx context.Context, id, uri string) error {
	return e.update(ctx, "session subscribe", func(tx *engine.Tx) error {
		return tx.Put(tableSubs, subKey(id, uri), []byte(uri))
	})
}

func (e *engineSessions) unsubscribe(ctx context.Context, id, uri string) error {
	return e.update(ctx, "session unsubscribe", func(tx *engine.Tx) error {
		return tx.Delete(tableSubs, subKey(id, uri))
	})
}

// row names one row.
type row struct {
	table string
	key   []byte
}

// remove deletes the session first: from then on nothing finds the rest.
func (e *engineSessions) remove(ctx context.Context, id string) error {
	var rows []row
	err := e.store.View(ctx, func(tx *engine.Tx) error {
		for _, table := range []string{tableSubs, tableStreams, tableEvents} {
			err := tx.Scan(table, engine.Prefix(partKey(id)), func(key, _ []byte) bool {
				rows = append(rows, row{table, key})
				return true
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	first := []row{{tableSessions, []byte(id)}, {tableSeen, []byte(id)}}
	if e.shared {
		first = append(first, row{tableHome, []byte(id)})
	}
	rows = append(first, rows...)
	for len(rows) > 0 {
		n := min(len(rows), removeBatch)
		err := e.update(ctx, "session remove", func(tx *engine.Tx) error {
			for _, r := range rows[:n] {
				if err := tx.Delete(r.table, r.key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (e *engineSessions) list(ctx context.Context, after string, limit int) (list []*sessionRecord, err error) {
	err = e.store.View(ctx, func(tx *engine.Tx) error {
		var bad error
		span := engine.Range{Lo: append([]byte(after), 0), Limit: limit}
		err := tx.Scan(tableSessions, span, func(key, raw []byte) bool {
			rec, err := decodeSession(key, raw)
			if err != nil {
				bad = err
				return false
			}
			list = append(list, rec)
			return true
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
		for _, rec := range list {
			if err := readSeen(tx, rec); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}
