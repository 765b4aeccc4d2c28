package mcp

import (
	"context"
	"crypto/sha256"
	"encoding/json"
)

// SetTaskNotification stands in for the tasks in tests of subscriptions.
func (r *Runtime) SetTaskNotification(fn func(ctx context.Context, principal, taskID string) (json.RawMessage, bool)) {
	r.taskNotification = fn
}

// PublishTask is what a committed change of a task calls.
func (r *Runtime) PublishTask(principal, taskID string) { r.publishTask(principal, taskID) }

// MaxBuckets is how many clients the rate limits tell apart.
const MaxBuckets = maxBuckets

// Buckets returns how many clients are told apart now.
func (r *Runtime) Buckets() int {
	r.limiter.mu.Lock()
	defer r.limiter.mu.Unlock()
	return len(r.limiter.clients)
}

// LimitConnection counts a connection of an address.
func (r *Runtime) LimitConnection(remote string) { r.limitConnection(remote) }

// ProgressTokens returns how many running requests ask for progress.
func (r *Runtime) ProgressTokens() int64 { return r.stats.progress.Load() }

// SweepSessions cleans up as the runtime does now and then.
func (r *Runtime) SweepSessions() error { return r.sessions.sweep(context.Background()) }

// LiveSessions returns how many HTTP sessions are in memory.
func (r *Runtime) LiveSessions() int {
	r.sessions.mu.Lock()
	defer r.sessions.mu.Unlock()
	return len(r.sessions.live)
}

// WithIdentity makes contexts of principals.
func WithIdentity(ctx context.Context, id *Identity) context.Context { return withIdentity(ctx, id) }

// FillAudit makes the audit log look as if the most records that may wait did.
func (r *Runtime) FillAudit() {
	r.audit.mu.Lock()
	defer r.audit.mu.Unlock()
	for len(r.audit.pending) < auditBacklog {
		r.audit.size.Add(1)
		r.audit.pending = append(r.audit.pending, auditEntry{AuditRecord: AuditRecord{Tool: "filler"}})
	}
}

// Running returns how many calls of sockets and stdio run.
func (r *Runtime) Running() (n int) {
	r.calls.Range(func(_, call any) bool {
		if call.(*Call).Method == methodToolsCall {
			n++
		}
		return true
	})
	return n
}

// EncodeAudit encodes a record as the audit log holds it.
func EncodeAudit(rec AuditRecord, arguments []byte) []byte {
	e := auditEntry{AuditRecord: rec, digest: sha256.Sum256(arguments)}
	return e.append(nil)
}
