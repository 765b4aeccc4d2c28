package mcp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/engine"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

const (
	tableHandles   = "mcp_handles"
	handlePrefix   = "h_"
	handleRandom   = 24 // bytes: 192 bits
	maxHandleBytes = 64 << 10
	minHandleTTL   = time.Second
	maxHandleTTL   = 30 * 24 * time.Hour
)

// Errors of handles. Those that a client can cause have a JSON-RPC code, so
// handlers may return them as they are.
var (
	// ErrNoHandle: there is no such handle, it expired or was deleted, or it
	// belongs to another principal. Clients get invalid params (-32602).
	ErrNoHandle error = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "no such handle: it expired, was deleted, or never was yours"}
	// ErrHandleChanged: another call changed the handle since it was read.
	// Read it again and repeat the change.
	ErrHandleChanged = errors.New("mcp: the handle was changed meanwhile")
	// ErrNoStore: the runtime was made without a store.
	ErrNoStore = errors.New("mcp: this needs a runtime with a store")
)

// A Handle is a value that the server keeps for a client between calls, for
// protocols without sessions: a tool mints a handle, tells the client its ID in
// a result, and later calls pass the ID as an argument. It survives restarts and
// is the same on every node.
//
// IDs cannot be guessed (192 random bits), the store holds only their hashes,
// and a handle opens for the principal that it was made for, whoever else
// learns its ID. Values are JSON of at most 64 KiB; a principal has at most
// [Options.MaxHandles]. A Handle belongs to one goroutine.
type Handle struct {
	ID      string
	Expires time.Time

	rt        *Runtime
	principal string
	record    handleRecord
}

// handleRecord is the row of a handle.
type handleRecord struct {
	Version uint64          `json:"version"` // counts the writes
	TTL     int64           `json:"ttl_ms"`
	Expires int64           `json:"expires"` // Unix ms
	Value   json.RawMessage `json:"value"`
}

// NewHandle keeps v for ttl, one second to 30 days, counted from the last
// write. It belongs to the principal of ctx. When the principal has
// [Options.MaxHandles] already, the error is one that clients understand
// (CodeOverloaded), and nothing is kept.
func (r *Runtime) NewHandle(ctx context.Context, ttl time.Duration, v any) (*Handle, error) {
	if r.store == nil {
		return nil, ErrNoStore
	}
	if ttl < minHandleTTL || ttl > maxHandleTTL {
		return nil, fmt.Errorf("mcp: a handle lives from %s to %s, not %s", minHandleTTL, maxHandleTTL, ttl)
	}
	value, err := encodeHandle(v)
	if err != nil {
		return nil, err
	}
	var random [handleRandom]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	h := &Handle{
		ID: handlePrefix + base64.RawURLEncoding.EncodeToString(random[:]),
		rt: r, principal: IdentityFrom(ctx).Subject,
	}
	err = h.write(ctx, "mcp.handle.new", func(tx *engine.Tx) error {
		if err := h.admit(tx); err != nil {
			return err
		}
		h.record = handleRecord{Version: 1, TTL: ttl.Milliseconds(), Value: value}
		return h.put(tx)
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Handle opens the handle that a client named. The error is [ErrNoHandle] unless
// the store failed.
func (r *Runtime) Handle(ctx context.Context, id string) (*Handle, error) {
	if r.store == nil {
		return nil, ErrNoStore
	}
	h := &Handle{ID: id, rt: r, principal: IdentityFrom(ctx).Subject}
	err := r.store.View(ctx, func(tx *engine.Tx) error {
		var err error
		h.record, err = h.read(tx)
		h.Expires = time.UnixMilli(h.record.Expires)
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Get decodes the value, as it was when the handle was opened or last put, into
// v, which must be a pointer.
func (h *Handle) Get(v any) error {
	if err := json.Unmarshal(h.record.Value, v); err != nil {
		return fmt.Errorf("mcp: value of the handle: %w", err)
	}
	return nil
}

// Put replaces the value and begins the handle's time again. When another call
// changed or deleted the handle since this one read it, nothing is written and
// the error is [ErrHandleChanged] or [ErrNoHandle].
func (h *Handle) Put(ctx context.Context, v any) error {
	value, err := encodeHandle(v)
	if err != nil {
		return err
	}
	was := h.record
	err = h.write(ctx, "mcp.handle.put", func(tx *engine.Tx) error {
		now, err := h.read(tx)
		switch {
		case err != nil:
			return err
		case now.Version != was.Version:
			return ErrHandleChanged
		}
		h.record = handleRecord{Version: was.Version + 1, TTL: was.TTL, Value: value}
		return h.put(tx)
	})
	if err != nil {
		h.record = was
	}
	return err
}

// Delete ends the handle. Deleting one that is gone is no error.
func (h *Handle) Delete(ctx context.Context) error {
	return h.write(ctx, "mcp.handle.delete", func(tx *engine.Tx) error {
		if _, err := tx.Get(tableHandles, h.key()); errors.Is(err, engine.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		return tx.Delete(tableHandles, h.key())
	})
}

func encodeHandle(v any) (json.RawMessage, error) {
	value, err := marshal(v)
	if err != nil {
		return nil, fmt.Errorf("mcp: value of a handle: %w", err)
	}
	if len(value) > maxHandleBytes {
		return nil, fmt.Errorf("mcp: the value of a handle has %d bytes, more than %d", len(value), maxHandleBytes)
	}
	return value, nil
}

func (h *Handle) write(ctx context.Context, label string, fn func(tx *engine.Tx) error) error {
	_, err := h.rt.store.Update(ctx, fn, engine.WithLabel(label), engine.WithActor(clip(h.principal, 1024)))
	return err
}

// key of the row: the principal first, so that its handles can be counted.
// Hashes, so that who reads the store cannot use what it finds.
func (h *Handle) key() []byte {
	id := sha256.Sum256([]byte(h.ID))
	return append(h.owner(), id[:]...)
}

func (h *Handle) owner() []byte {
	sum := sha256.Sum256([]byte(h.principal))
	return sum[:16:16]
}

func (h *Handle) read(tx *engine.Tx) (handleRecord, error) {
	var rec handleRecord
	found, err := getJSON(tx, tableHandles, h.key(), &rec)
	if err != nil {
		return rec, err
	}
	if !found || h.rt.opts.Now().UnixMilli() >= rec.Expires {
		return handleRecord{}, ErrNoHandle
	}
	return rec, nil
}

func (h *Handle) put(tx *engine.Tx) error {
	h.Expires = h.rt.opts.Now().Add(time.Duration(h.record.TTL) * time.Millisecond).Truncate(time.Millisecond)
	h.record.Expires = h.Expires.UnixMilli()
	row, err := marshal(h.record)
	if err != nil {
		return err
	}
	return tx.PutUntil(tableHandles, h.key(), row, h.Expires)
}

// admit refuses one handle too many. Handles that expired count until the
// store has removed them.
func (h *Handle) admit(tx *engine.Tx) error {
	held := 0
	err := tx.Scan(tableHandles, engine.Prefix(h.owner()), func(_, _ []byte) bool {
		held++
		return held < h.rt.opts.MaxHandles
	})
	if err != nil {
		return err
	}
	if held >= h.rt.opts.MaxHandles {
		return &jsonrpc.Error{Code: CodeOverloaded, Message: fmt.Sprintf(
			"overloaded: %d handles are kept for you, the maximum; delete some or let them expire", held)}
	}
	return nil
}
