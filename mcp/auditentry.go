package mcp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/internal/avx"
)

// An auditEntry is a record on its way: what can be made of it later is, so that
// the call does not wait for it.
type auditEntry struct {
	AuditRecord
	digest [sha256.Size]byte // Arguments
	open   []byte            // key of the record that may have been committed with a change of the call
}

// auditEntryOf is a record of a call without its end.
func auditEntryOf(ctx context.Context, call *sdk.CallToolRequest, now time.Time) auditEntry {
	id := identityIn(ctx)
	avx.ZeroUpper() // the SDK may have decoded the arguments
	rec := auditEntry{digest: sha256.Sum256(call.Params.Arguments), AuditRecord: AuditRecord{
		Time: now.UTC(), Principal: id.Subject, Method: id.Method, Tool: cut(call.Params.Name, 128), TraceID: traceIDOf(ctx, call),
	}}
	if c, ok := CallFrom(ctx); ok {
		rec.Session, rec.RequestID = cut(c.SessionID, 8), cut(idText(c), 128)
	}
	return rec
}

// append encodes the record as encoding/json would.
func (e *auditEntry) append(b []byte) []byte {
	text := func(name, value string) {
		if value != "" {
			b = append(append(b, name...), ':')
			b = append(appendString(b, value), ',')
		}
	}
	b = append(b, `{"time":"`...)
	b = append(e.Time.AppendFormat(b, time.RFC3339Nano), `",`...)
	b = append(b, `"principal":`...)
	b = append(appendString(b, e.Principal), ',')
	text(`"auth"`, e.Method)
	text(`"session"`, e.Session)
	b = append(b, `"tool":`...)
	b = appendString(b, e.Tool)
	b = append(b, `,"arguments":"`...)
	b = hex.AppendEncode(b, e.digest[:])
	b = append(b, `","outcome":`...)
	b = append(appendString(b, e.Outcome), ',')
	if e.Code != 0 {
		b = append(b, `"code":`...)
		b = append(strconv.AppendInt(b, e.Code, 10), ',')
	}
	text(`"request_id"`, e.RequestID)
	text(`"trace_id"`, e.TraceID)
	text(`"task"`, e.Task)
	b = append(b, `"ms":`...)
	return append(strconv.AppendFloat(b, e.Millis, 'f', -1, 64), '}')
}

// auditRow is the value of a row: a batch of records.
type auditRow struct {
	// Total is the size of all batches ever written, this one included: the
	// difference of two rows is what lies between them.
	Total   int64             `json:"total"`
	Records []json.RawMessage `json:"records"`
}
