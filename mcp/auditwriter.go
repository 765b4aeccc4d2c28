package mcp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
)

// auditor writes the audit log. One goroutine, run, writes:
//
//	record ── pending ── take ── taken ── one row, one commit ── the group's waiters
//
// While a commit is under way the next records gather, so that calls which end
// at the same time share the one after it. Records that nobody waits for stay
// in pending for Lag, unless one that somebody waits for takes them along.
type auditor struct {
	o     AuditOptions
	store Store
	along accompanied // the store; nil if its changes take nothing along
	log   *slog.Logger
	now   func() time.Time

	size    atomic.Int64 // records not yet committed: pending and taken
	written atomic.Uint64
	failing atomic.Bool
	opened  atomic.Uint64 // calls ever begun: part of the keys of open records

	mu      sync.Mutex
	pending []auditEntry
	group   *auditGroup  // of pending; nil: nobody waits for them
	spare   []auditEntry // the next pending, empty: its memory is used again
	first   time.Time    // when the first of pending came
	oldest  time.Time    // when the oldest of all came that are not committed
	stopped bool

	wake chan struct{} // capacity 1: pending is not empty
	soon chan struct{} // capacity 1: pending fills a row, or somebody waits
	stop chan struct{}
	done chan struct{}

	// What follows is run's alone.
	taken  []auditEntry // pending once, not yet committed; the end of memory
	memory []auditEntry
	waits  *auditGroup // of taken; nil: nobody waits, or any more
	draft  *auditDraft // the row of the batch that is being written
	width  int         // bytes that a record of the newest row took
	writer [4]byte     // ends the keys of this auditor: in a cluster there are others
	total  int64       // Total of the newest row
	oldTot int64       // of the oldest row that is kept; -1: unknown
}

func newAuditor(store Store, o AuditOptions, log *slog.Logger, now func() time.Time) *auditor {
	a := &auditor{
		o: o, store: store, log: log, now: now, oldTot: -1,
		wake: make(chan struct{}, 1), soon: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	_, _ = rand.Read(a.writer[:]) // never fails (crypto/rand)
	a.along, _ = store.(accompanied)
	go a.run()
	return a
}

// An auditGroup are records that become durable together, and whoever waits
// for that. A nil group is one that nobody waits for.
type auditGroup struct {
	done chan struct{} // closed when err is known
	err  error         // why the records are not durable yet
}

func newAuditGroup() *auditGroup { return &auditGroup{done: make(chan struct{})} }

// settle tells those who wait.
func (g *auditGroup) settle(err error) {
	if g != nil {
		g.err = err
		close(g.done)
	}
}

// wait returns when the records are on disk, or why they are not: at the
// latest after two commits, each of which has its time limit.
func (g *auditGroup) wait() error {
	if g == nil {
		return nil
	}
	<-g.done
	return g.err
}

// admit refuses calls while too many records wait for the store, and, when their
// answers would wait for their records, while the store takes none.
func (a *auditor) admit() error {
	switch {
	case a == nil:
	case a.o.Durability == AuditBeforeAnswer && a.failing.Load():
		return &jsonrpc.Error{Code: CodeOverloaded, Message: "overloaded: tool calls cannot be audited, as the store takes no records, " +
			"so none is run; is the disk full? Try again later"}
	case a.size.Load() >= auditBacklog:
		return &jsonrpc.Error{Code: CodeOverloaded, Message: fmt.Sprintf(
			"overloaded: %d tool calls wait to be audited and the store takes no more; is the disk full?", auditBacklog)}
	}
	return nil
}

// errAuditClosed: the runtime was closed before the call ended.
var errAuditClosed = errors.New("mcp: the runtime is closed")

// record queues a record. It never blocks. It returns the group whose end says
// that the record is durable: nil if nobody waits for that.
func (a *auditor) record(rec auditEntry) *auditGroup {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		a.log.Warn("a tool call ended after the runtime was closed and is not in the audit log", "tool", rec.Tool, "principal", rec.Principal)
		late := newAuditGroup()
		late.settle(errAuditClosed)
		return late
	}
	if len(a.pending) == 0 {
		a.first = a.now()
		signal(a.wake)
	}
	a.pending = append(a.pending, rec)
	if a.size.Add(1) == 1 {
		a.oldest = a.first
	}
	if len(a.pending) == auditBatch {
		signal(a.soon)
	}
	if a.o.Durability == AuditBatched {
		return nil
	}
	if a.group == nil {
		a.group = newAuditGroup()
		signal(a.soon)
	}
	return a.group
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
		case <-a.soon:
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
	if !a.flush(ctx) { // all who wait are told by then
		a.log.Error("audit records were lost when the runtime closed: the store took no more", "records", a.size.Load())
	}
}

// flush writes all pending records, batch by batch. It is false when the store
// refused: the records are tried again later, and whoever waits is told.
func (a *auditor) flush(ctx context.Context) bool {
	for {
		if len(a.taken) == 0 && !a.take() {
			return true
		}
		batch := a.taken[:min(len(a.taken), auditBatch)]
		if err := a.write(ctx, batch); err != nil {
			if !a.failing.Swap(true) {
				a.log.Error("tool calls cannot be audited; their records wait in memory", "error", err)
			}
			a.disappoint(err)
			return false
		}
		if a.failing.Swap(false) {
			a.log.Info("tool calls are audited again")
		}
		a.written.Add(uint64(len(batch)))
		a.size.Add(-int64(len(batch)))
		if a.taken = a.taken[len(batch):]; len(a.taken) == 0 {
			a.waits.settle(nil)
			a.waits = nil
		}
	}
}

// disappoint tells all who wait that their records cannot be written now.
func (a *auditor) disappoint(err error) {
	a.mu.Lock()
	later := a.group
	a.group = nil
	a.mu.Unlock()
	a.waits.settle(err)
	later.settle(err)
	a.waits = nil
}

// take moves what is pending to where only run sees it. It is false when there is nothing.
func (a *auditor) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if clear(a.memory); cap(a.memory) <= auditSpare { // a burst's memory is given back
		a.spare = a.memory[:0]
	}
	a.taken, a.memory = a.pending, a.pending
	a.waits, a.group = a.group, nil
	a.pending, a.spare = a.spare, nil
	a.oldest = a.first
	for _, answered := range []chan struct{}{a.wake, a.soon} {
		select {
		case <-answered:
		default:
		}
	}
	return len(a.taken) > 0
}

// An auditDraft is a row on its way. It is made once: a commit whose outcome is
// unknown is repeated under the same key, so that no record is there twice.
type auditDraft struct {
	key, value []byte
	until      time.Time
	total      int64
	open       [][]byte // keys of the open records that it replaces
}

// write commits one batch as one row.
func (a *auditor) write(ctx context.Context, batch []auditEntry) error {
	if a.draft == nil {
		if err := a.resume(ctx); err != nil {
			return err
		}
		a.draft = a.drafted(batch)
	}
	ctx, cancel := context.WithTimeout(ctx, auditCommit)
	defer cancel()
	d := a.draft
	if err := a.commit(ctx, d); err != nil {
		return err
	}
	a.total, a.draft = d.total, nil
	a.trim(ctx)
	return nil
}

// commit commits a row, as soon as the store has room in its queue.
func (a *auditor) commit(ctx context.Context, d *auditDraft) error {
	for {
		_, err := a.store.Update(ctx, func(tx *engine.Tx) error {
			for _, key := range d.open {
				if err := tx.Delete(tableAuditOpen, key); err != nil {
					return err
				}
			}
			return tx.PutUntil(tableAudit, d.key, d.value, d.until)
		}, engine.WithActor("mcp"), engine.WithLabel("audit"))
		if !errors.Is(err, engine.ErrOverloaded) {
			return err
		}
		select {
		case <-time.After(auditPause):
		case <-ctx.Done():
			return err
		}
	}
}

// drafted encodes a batch. The row is an auditRow; Total stands behind the
// records, as it is known then.
func (a *auditor) drafted(batch []auditEntry) *auditDraft {
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
	var open [][]byte
	for i := range batch {
		if batch[i].open != nil {
			open = append(open, batch[i].open)
		}
	}
	now := a.now()
	return &auditDraft{
		open: open,
		key:  append(auditKey(now, total), a.writer[:]...), value: packAudit(value), until: now.Add(a.o.Retention), total: total,
	}
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
