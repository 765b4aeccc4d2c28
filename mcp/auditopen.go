package mcp

import (
	"context"
	"encoding/binary"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/engine"
)

// accompanied is a store whose changes can take a record along; an
// [engine.Store] is one.
type accompanied interface {
	WithCompanion(ctx context.Context, write func(tx *engine.Tx) error) (context.Context, *engine.Companion)
}

// An openRecord is the record of a call that is not finished. It gets into the
// store with the first change that the call commits, in the same transaction:
//
//	call ── first commit: change + open record ── end ── row of the batch, open record removed
//
// What a killed process leaves of it says who changed something, and with what.
// All methods work on nil, which is the open record of what is not audited.
type openRecord struct {
	key       [20]byte
	companion *engine.Companion
}

// begin returns a context for a call, in which a change is committed with the
// open record of the call.
func (a *auditor) begin(ctx context.Context, call *sdk.CallToolRequest, start time.Time) (context.Context, *openRecord) {
	if a == nil || a.along == nil {
		return ctx, nil
	}
	o := &openRecord{}
	binary.BigEndian.PutUint64(o.key[:], uint64(start.UnixMicro()))
	binary.BigEndian.PutUint64(o.key[8:], a.opened.Add(1))
	copy(o.key[16:], a.writer[:])
	ctx, o.companion = a.along.WithCompanion(ctx, func(tx *engine.Tx) error {
		now := a.now()
		rec := auditEntryOf(ctx, call, now)
		rec.Outcome = outcomeUnfinished
		return tx.PutUntil(tableAuditOpen, o.key[:], rec.append(nil), now.Add(a.o.Retention))
	})
	return ctx, o
}

// close ends it when the call has ended. It returns the key if the record may be
// in the store.
func (o *openRecord) close() []byte {
	if o == nil || !o.companion.Close() {
		return nil
	}
	return o.key[:]
}
