package mcp

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// AuditOptions configures the audit log: one [AuditRecord] for every tools/call
// on every carrier, refused ones included, unless they were refused for their
// form or their rate.
//
// A call that changes something in the store has a record from then on: it is
// committed in the same transaction (outcome "unfinished"), and replaced when
// the call has ended. When records cannot be committed (a full disk), they wait
// in memory; when there are too many, calls are refused with CodeOverloaded
// before their tool runs.
type AuditOptions struct {
	Off        bool            // keep no audit log; without a store there is none anyway
	Durability AuditDurability // default AuditBatched
	Retention  time.Duration   // life of a record; default 90 days
	MaxBytes   int64           // of all records, the oldest go first; default 1 GiB
	Lag        time.Duration   // longest wait before records that no answer waits for are committed; default 100 ms
}

// An AuditDurability says which answers wait for the record of their call.
type AuditDurability int

const (
	// AuditBatched: no answer waits. A killed process (kill -9, power) loses how
	// the calls of about the last AuditOptions.Lag ended, and of those among them
	// that changed nothing in the store, that they were made.
	AuditBatched AuditDurability = 1 + iota
	// AuditBeforeAnswer: every answer waits, so that a call takes a commit
	// longer. Calls that end at the same time share it. While the store takes no
	// records, calls are refused with CodeOverloaded before their tool runs;
	// such refusals come at once.
	AuditBeforeAnswer
)

// An AuditRecord tells about one tools/call. Arguments are not in it, only
// their digest: whoever knows them can prove that they were used, and whoever
// reads the log does not learn them (unless they are few enough to be guessed).
type AuditRecord struct {
	Time      time.Time `json:"time"` // of the end of the call; of its change while it is unfinished
	Principal string    `json:"principal"`
	Method    string    `json:"auth,omitempty"`       // how the principal proved itself
	Session   string    `json:"session,omitempty"`    // the first 8 characters of the session id: it is a secret
	Tool      string    `json:"tool"`                 // as asked for, cut to 128 bytes
	Arguments string    `json:"arguments"`            // SHA-256 of the arguments as received, in hex
	Outcome   string    `json:"outcome"`              // "ok", "tool_error", "error", "denied", "task" or "unfinished"
	Code      int64     `json:"code,omitempty"`       // JSON-RPC error code, for "error" and "denied"
	Millis    float64   `json:"ms"`                   // duration
	RequestID string    `json:"request_id,omitempty"` // JSON-RPC id, cut to 128 bytes
	TraceID   string    `json:"trace_id,omitempty"`   // W3C trace id, 32 hex digits
	Task      string    `json:"task,omitempty"`       // id of the task that the call became
}

const (
	tableAudit     = "mcp_audit"
	tableAuditOpen = "mcp_audit_open"

	auditBatch    = 512                   // records of one row, about 150 KiB
	auditBacklog  = 64 << 10              // records that may wait for the store
	auditRetry    = time.Second           // after the store refused
	auditPause    = 10 * time.Millisecond // after its queue was full
	auditPatience = 2 * time.Second       // for the last records, when the runtime closes
	auditSpare    = 8 << 10               // records whose memory is kept between two rows
	auditTrim     = 64                    // rows that one transaction removes
	auditCommit   = 10 * time.Second      // for one commit; longer means trouble, not load
)

func (o *AuditOptions) setDefaults() error {
	setDefault(&o.Retention, 90*24*time.Hour)
	setDefault(&o.MaxBytes, 1<<30)
	setDefault(&o.Lag, 100*time.Millisecond)
	setDefault(&o.Durability, AuditBatched)
	if o.Retention < 0 || o.MaxBytes < 0 || o.Lag < 0 {
		return errors.New("mcp: Audit has a negative field")
	}
	if o.Durability < AuditBatched || o.Durability > AuditBeforeAnswer {
		return fmt.Errorf("mcp: unknown Audit.Durability %d", o.Durability)
	}
	return nil
}

// AuditStats tell how the audit log keeps up.
type AuditStats struct {
	Written uint64        // records committed
	Waiting int           // records not yet committed
	Lag     time.Duration // how long the oldest of them has been waiting
	Failing bool          // the store refuses them
}

// cut shortens what a client chose.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// auditDenied records a call that the front refused for want of a scope.
func (r *Runtime) auditDenied(req *http.Request, env *envelope, tool string, bad *wireError) {
	if r.audit == nil {
		return
	}
	id := identityIn(req.Context())
	rec := auditEntry{digest: sha256.Sum256(member(env.params, "arguments")), AuditRecord: AuditRecord{
		Time: r.opts.Now().UTC(), Principal: id.Subject, Method: id.Method, Session: cut(req.Header.Get(headerSession), 8),
		Tool: cut(tool, 128), Outcome: outcomeDenied, Code: int64(bad.Code), RequestID: cut(string(env.id), 128),
	}}
	// A refusal stands whether its record can be stored or not.
	_ = r.audit.record(rec).wait()
}

// notAudited is the answer to a call that ran and whose record is not stored.
func notAudited(err error) *jsonrpc.Error {
	return &jsonrpc.Error{
		Code: jsonrpc.CodeInternalError,
		Message: fmt.Sprintf("the tool ran, but its answer is withheld, as the record of the call could not be stored in the audit log (%v); "+
			"what it did may be in effect: look before you call it again", err),
		Data: json.RawMessage(`{"reason":"not_audited"}`),
	}
}
