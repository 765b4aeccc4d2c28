package mcp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// AuditOptions configures the audit log: one [AuditRecord] for every tools/call
// on every carrier, refused ones included, unless they were refused for their
// form or their rate.
//
// A call does not wait for its record: records are gathered for Lag and
// committed together. A process that is killed loses the records of about the
// last Lag; what a tool changed in the store is in the store's own log with
// its actor, and that is never lost. When records cannot be committed (a full
// disk), they wait in memory, and when there are too many, tool calls are refused
// with CodeOverloaded: no call goes unaudited for long.
type AuditOptions struct {
	Off       bool          // keep no audit log; without a store there is none anyway
	Retention time.Duration // life of a record; default 90 days
	MaxBytes  int64         // of all records, the oldest go first; default 1 GiB
	Lag       time.Duration // longest wait before records are committed; default 100 ms
}

// An AuditRecord tells about one tools/call. Arguments are not in it, only
// their digest: whoever knows them can prove that they were used, and whoever
// reads the log does not learn them (unless they are few enough to be guessed).
type AuditRecord struct {
	Time      time.Time `json:"time"` // of the end of the call
	Principal string    `json:"principal"`
	Method    string    `json:"auth,omitempty"`       // how the principal proved itself
	Session   string    `json:"session,omitempty"`    // the first 8 characters of the session id: it is a secret
	Tool      string    `json:"tool"`                 // as asked for, cut to 128 bytes
	Arguments string    `json:"arguments"`            // SHA-256 of the arguments as received, in hex
	Outcome   string    `json:"outcome"`              // "ok", "tool_error", "error", "denied" or "task"
	Code      int64     `json:"code,omitempty"`       // JSON-RPC error code, for "error" and "denied"
	Millis    float64   `json:"ms"`                   // duration
	RequestID string    `json:"request_id,omitempty"` // JSON-RPC id, cut to 128 bytes
	TraceID   string    `json:"trace_id,omitempty"`   // W3C trace id, 32 hex digits
	Task      string    `json:"task,omitempty"`       // id of the task that the call became
}

const (
	tableAudit = "mcp_audit"

	auditBatch    = 512             // records of one row, about 150 KiB
	auditBacklog  = 64 << 10        // records that may wait for the store
	auditRetry    = time.Second     // after the store refused
	auditPatience = 2 * time.Second // for the last records, when the runtime closes
	auditSpare    = 8 << 10         // records whose memory is kept between two rows
	auditTrim     = 64              // rows that one transaction removes
)

func (o *AuditOptions) setDefaults() error {
	setDefault(&o.Retention, 90*24*time.Hour)
	setDefault(&o.MaxBytes, 1<<30)
	setDefault(&o.Lag, 100*time.Millisecond)
	if o.Retention < 0 || o.MaxBytes < 0 || o.Lag < 0 {
		return errors.New("mcp: Audit has a negative field")
	}
	return nil
}

// auditRow is the value of a row: a batch of records.
type auditRow struct {
	// Total is the size of all batches ever written, this one included: the
	// difference of two rows is what lies between them.
	Total   int64             `json:"total"`
	Records []json.RawMessage `json:"records"`
}

// auditor writes the audit log. One goroutine, run, owns total and writes.
type auditor struct {
	o     AuditOptions
	store Store
	log   *slog.Logger
	now   func() time.Time

	size    atomic.Int64 // records not yet committed: pending and taken
	written atomic.Uint64
	failing atomic.Bool

	mu      sync.Mutex
	pending []auditEntry
	spare   []auditEntry // the next pending, empty: its memory is used again
	first   time.Time    // when the first of pending came
	oldest  time.Time    // when the oldest of all came that are not committed
	stopped bool

	wake chan struct{} // capacity 1: pending is not empty
	full chan struct{} // capacity 1: pending fills a row
	stop chan struct{}
	done chan struct{}

	taken  []auditEntry // pending once, not yet committed; the end of memory
	memory []auditEntry
	width  int     // bytes that a record of the newest row took
	writer [4]byte // ends the keys of this auditor: in a cluster there are others
	total  int64   // Total of the newest row
	oldTot int64   // of the oldest row that is kept; -1: unknown
}

func newAuditor(store Store, o AuditOptions, log *slog.Logger, now func() time.Time) *auditor {
	a := &auditor{
		o: o, store: store, log: log, now: now, oldTot: -1,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	_, _ = rand.Read(a.writer[:]) // never fails (crypto/rand)
	go a.run()
	return a
}

// admit refuses calls while too many records wait for the store.
func (a *auditor) admit() error {
	if a == nil || a.size.Load() < auditBacklog {
		return nil
	}
	return &jsonrpc.Error{Code: CodeOverloaded, Message: fmt.Sprintf(
		"overloaded: %d tool calls wait to be audited and the store takes no more; is the disk full?", auditBacklog)}
}

// An auditEntry is a record on its way: what can be made of it later is, so that
// the call does not wait for it.
type auditEntry struct {
	AuditRecord
	digest [sha256.Size]byte // Arguments
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

// record queues a record. It never blocks.
func (a *auditor) record(rec auditEntry) {
	a.mu.Lock()
	if a.stopped {
		a.mu.Unlock()
		a.log.Warn("a tool call ended after the runtime was closed and is not in the audit log", "tool", rec.Tool, "principal", rec.Principal)
		return
	}
	if len(a.pending) == 0 {
		a.first = a.now()
	}
	a.pending = append(a.pending, rec)
	n := len(a.pending)
	if a.size.Add(1) == 1 {
		a.oldest = a.first
	}
	a.mu.Unlock()
	if n == 1 {
		signal(a.wake)
	}
	if n == auditBatch {
		signal(a.full)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// close writes what is left and ends run.
func (a *auditor) close() {
	if a == nil {
		return
	}
	close(a.stop)
	<-a.done
}

func (a *auditor) run() {
	defer close(a.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-a.wake:
		case <-a.stop:
			a.finish()
			return
		}
		timer.Reset(a.o.Lag)
		select {
		case <-timer.C:
		case <-a.full:
		case <-a.stop:
			a.finish()
			return
		}
		for !a.flush(context.Background()) {
			timer.Reset(auditRetry)
			select {
			case <-timer.C:
			case <-a.stop:
				a.finish()
				return
			}
		}
	}
}

// finish writes the last records; what the store still refuses is lost, and said so.
func (a *auditor) finish() {
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), auditPatience)
	defer cancel()
	if !a.flush(ctx) {
		a.log.Error("audit records were lost when the runtime closed: the store took no more", "records", a.size.Load())
	}
}

// flush writes all pending records, batch by batch. It is false when the store refused.
func (a *auditor) flush(ctx context.Context) bool {
	for {
		if len(a.taken) == 0 && !a.take() {
			return true
		}
		batch := a.taken[:min(len(a.taken), auditBatch)]
		if err := a.write(ctx, batch); err != nil {
			if !a.failing.Swap(true) {
				a.log.Error("tool calls cannot be audited; they wait in memory", "error", err)
			}
			return false
		}
		if a.failing.Swap(false) {
			a.log.Info("tool calls are audited again")
		}
		a.written.Add(uint64(len(batch)))
		a.size.Add(-int64(len(batch)))
		a.taken = a.taken[len(batch):]
	}
}

// take moves what is pending to where only run sees it. It is false when there is nothing.
func (a *auditor) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if clear(a.memory); cap(a.memory) <= auditSpare { // a burst's memory is given back
		a.spare = a.memory[:0]
	}
	a.taken, a.memory = a.pending, a.pending
	a.pending, a.spare = a.spare, nil
	a.oldest = a.first
	return len(a.taken) > 0
}

// write commits one batch as one row.
func (a *auditor) write(ctx context.Context, batch []auditEntry) error {
	if err := a.resume(ctx); err != nil {
		return err
	}
	// The row is an auditRow. Total stands behind the records, as it is known then.
	value := append(make([]byte, 0, len(batch)*a.width+64), `{"records":[`...)
	begin := len(value)
	for i := range batch {
		if i > 0 {
			value = append(value, ',')
		}
		value = batch[i].append(value)
	}
	total := a.total + int64(len(value)-begin)
	value = strconv.AppendInt(append(value, `],"total":`...), total, 10)
	value = append(value, '}')
	a.width = len(value)/len(batch) + 32
	now := a.now()
	_, err := a.store.Update(ctx, func(tx *engine.Tx) error {
		return tx.PutUntil(tableAudit, append(auditKey(now, total), a.writer[:]...), value, now.Add(a.o.Retention))
	}, engine.WithActor("mcp"), engine.WithLabel("audit"))
	if err != nil {
		return err
	}
	a.total = total
	a.trim(ctx)
	return nil
}

// auditKey begins the key of a row: time, then total, which grows with every
// row.
func auditKey(t time.Time, total int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(t.UnixMicro())), uint64(total))
}

// resume continues where the newest row ends, whoever wrote it. Rows of two
// writers at the same moment are counted once: the size is kept about right.
func (a *auditor) resume(ctx context.Context) error {
	return a.store.ViewLocal(ctx, func(tx *engine.Tx) error {
		return tx.Scan(tableAudit, engine.Range{Reverse: true, Limit: 1}, func(key, _ []byte) bool {
			a.total = max(a.total, auditTotal(key))
			return false
		})
	})
}

// auditTotal is the total in a key.
func auditTotal(key []byte) int64 {
	if len(key) < 16 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(key[8:]))
}

// trim removes the oldest rows of an audit log that is too large.
func (a *auditor) trim(ctx context.Context) {
	if a.oldTot >= 0 && a.total-a.oldTot <= a.o.MaxBytes {
		return
	}
	var keys [][]byte
	first := a.total
	err := a.store.ViewLocal(ctx, func(tx *engine.Tx) error {
		return tx.Scan(tableAudit, engine.Range{Limit: auditTrim}, func(key, _ []byte) bool {
			total := auditTotal(key)
			if a.total-total < a.o.MaxBytes {
				first = min(first, total)
				return false
			}
			keys = append(keys, key)
			return true
		})
	})
	if err == nil && len(keys) > 0 {
		_, err = a.store.Update(ctx, func(tx *engine.Tx) error {
			for _, key := range keys {
				if err := tx.Delete(tableAudit, key); err != nil {
					return err
				}
			}
			return nil
		}, engine.WithActor("mcp"), engine.WithLabel("audit trim"))
	}
	if err != nil {
		a.log.Warn("the audit log could not be cut to its size", "error", err)
		return
	}
	if len(keys) < auditTrim { // else there may be more to remove: look again next time
		a.oldTot = first
	}
}

// stats fills in the counters.
func (a *auditor) stats(s *AuditStats) {
	if a == nil {
		return
	}
	s.Written, s.Failing = a.written.Load(), a.failing.Load()
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.Waiting = int(a.size.Load()); s.Waiting > 0 {
		s.Lag = a.now().Sub(a.oldest)
	}
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
	r.audit.record(auditEntry{digest: sha256.Sum256(member(env.params, "arguments")), AuditRecord: AuditRecord{
		Time: r.opts.Now().UTC(), Principal: id.Subject, Method: id.Method, Session: cut(req.Header.Get(headerSession), 8),
		Tool: cut(tool, 128), Outcome: outcomeDenied, Code: int64(bad.Code), RequestID: cut(string(env.id), 128),
	}})
}
