package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
)

// This file is the transactions that end tasks, give them back and remove them.

// taskOutcome is how a task ends.
type taskOutcome struct {
	status  TaskStatus
	message string
	result  json.RawMessage
	failure *jsonrpc.Error
}

// finish ends a task, and leases the task next ("": none) in the same
// transaction: a busy worker needs one commit per task. started is nil when
// next does not wait for a worker any more.
func (s taskStore) finish(f fence, o taskOutcome, ran time.Duration, next string) (rec, started *taskRecord, err error) {
	err = s.update("task "+string(o.status), workerActor, func(tx *engine.Tx) error {
		started = nil
		if rec, err = f.load(tx); err != nil {
			return err
		}
		if next != "" {
			if started, err = claimTask(tx, next, f.owner); err != nil && !errors.Is(err, errNotReady) {
				return err
			}
		}
		rec.Result, rec.Error, rec.Ran = o.result, o.failure, ran.Milliseconds()
		if err := rec.end(tx, o.status, o.message); err != nil {
			return err
		}
		return rec.save(tx)
	})
	return rec, started, err
}

// again gives a failed attempt back to the queue for a later one.
func (s taskStore) again(f fence, delay time.Duration, message string, ran time.Duration) (rec *taskRecord, err error) {
	err = s.update("task retry later", workerActor, func(tx *engine.Tx) error {
		if rec, err = f.load(tx); err != nil {
			return err
		}
		rec.Failures++
		rec.Pending, rec.Status = nil, TaskWorking
		rec.Message, rec.Ran = message, ran.Milliseconds()
		rec.touch(tx)
		if err := rec.enqueue(tx, tx.Now().Add(delay).UnixMilli()); err != nil {
			return err
		}
		return rec.save(tx)
	})
	return rec, err
}

// hand returns a lease of owner, dead or stopping, so that the next worker
// continues at once. A task that must not be started twice ends instead, with
// why as the reason. It is errNotReady when owner does not have the task or
// policy does not know its tool.
func (s taskStore) hand(id, owner, why string, policy func(tool string) *taskPolicy) (rec *taskRecord, err error) {
	err = s.update("task interrupted", workerActor, func(tx *engine.Tx) error {
		rec, err = loadTask(tx, id)
		if errors.Is(err, ErrNoTask) {
			return errNotReady
		}
		if err != nil {
			return err
		}
		p := policy(rec.Tool)
		if rec.Owner != owner || owner == "" || p == nil {
			return errNotReady
		}
		if rec.Status == TaskWorking {
			rec.Resumes++ // a task that waits is hardly the cause of a crash
		}
		if failure := rec.unresumable(p, why); failure != nil {
			rec.Error = failure
			if err := rec.end(tx, TaskFailed, failure.Message); err != nil {
				return err
			}
			return rec.save(tx)
		}
		due := tx.Now().UnixMilli()
		if rec.Status == TaskInputRequired {
			if due, err = inputDeadline(tx, rec); err != nil {
				return err
			}
		}
		if err := rec.enqueue(tx, due); err != nil {
			return err
		}
		return rec.save(tx)
	})
	return rec, err
}

// unresumable is why an interrupted task must not be started again, or nil.
func (rec *taskRecord) unresumable(p *taskPolicy, why string) *jsonrpc.Error {
	switch {
	case !p.resumable:
		return &jsonrpc.Error{Code: CodeTaskInterrupted, Message: why +
			" while the task ran, and its handler cannot be resumed; what it had done until then is not known. Call the tool again if that is safe"}
	case rec.Resumes > p.maxResumes:
		return &jsonrpc.Error{Code: CodeTaskInterrupted, Message: fmt.Sprintf(
			"%s while the task ran, for the %dth time; it is not started again, as it may be the cause", why, rec.Resumes)}
	}
	return nil
}

// cancel ends a task of principal ("": of anybody), wherever it is. The worker
// that has it can write no more. changed is false when it had ended before.
func (s taskStore) cancel(principal, actor, id, why string) (rec *taskRecord, changed bool, err error) {
	err = s.update("task cancel", actor, func(tx *engine.Tx) error {
		changed = false
		if rec, err = ownTask(tx, principal, id); err != nil {
			return err
		}
		if rec.Status.Final() {
			return nil
		}
		changed = true
		if err := rec.end(tx, TaskCancelled, why); err != nil {
			return err
		}
		return rec.save(tx)
	})
	return rec, changed, err
}

// ErrNotRetryable: the task has not ended, or ended well.
var ErrNotRetryable = errors.New("mcp: only a task that failed, was cancelled or completed with a tool error can be retried")

// retry starts an ended task again; its finished steps stay finished.
func (s taskStore) retry(actor, id string) (rec *taskRecord, err error) {
	err = s.update("task retry", actor, func(tx *engine.Tx) error {
		if rec, err = loadTask(tx, id); err != nil {
			return err
		}
		if !rec.Status.Final() || rec.Status == TaskCompleted && !rec.toolError() {
			return ErrNotRetryable
		}
		if err := s.dropOpenQuestions(tx, rec); err != nil {
			return err
		}
		// The row "x" goes first: enqueue looks at the status for what to remove.
		if err := rec.leaveQueue(tx); err != nil {
			return err
		}
		rec.Status, rec.Message = TaskWorking, "started again by an operator"
		rec.Result, rec.Error, rec.Ended, rec.Expires = nil, nil, 0, 0
		rec.Failures, rec.Resumes, rec.Ran = 0, 0, 0
		rec.touch(tx)
		if err := rec.enqueue(tx, tx.Now().UnixMilli()); err != nil {
			return err
		}
		return rec.save(tx)
	})
	return rec, err
}

// toolError reports whether the result says isError.
func (rec *taskRecord) toolError() bool {
	return len(rec.Result) > 0 && rec.Result[0] == '{' && string(member(rec.Result, "isError")) == "true"
}

// expireBatch is how many tasks one transaction removes.
const expireBatch = 64

// expire removes tasks whose time is over, with everything that belongs to
// them, and returns how many. The log keeps that it happened and when.
func (s taskStore) expire(ctx context.Context) (int, error) {
	var due []string
	err := s.store.ViewLocal(ctx, func(tx *engine.Tx) error {
		due = due[:0]
		now := tx.Now().UnixMilli()
		return tx.Scan(tableQueue, engine.Range{Lo: []byte{'x'}, Hi: expiryKey(now+1, ""), Limit: expireBatch}, func(key, _ []byte) bool {
			if _, id, ok := splitTimedKey(key); ok {
				due = append(due, id)
			}
			return true
		})
	})
	if err != nil || len(due) == 0 {
		return 0, err
	}
	return len(due), s.update("task expire", workerActor, func(tx *engine.Tx) error {
		for _, id := range due {
			if err := s.remove(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// remove deletes one ended task.
func (s taskStore) remove(tx *engine.Tx, id string) error {
	rec, err := loadTask(tx, id)
	if errors.Is(err, ErrNoTask) {
		return nil // another node was faster
	}
	if err != nil {
		return err
	}
	if !rec.Status.Final() || rec.Expires > tx.Now().UnixMilli() {
		return nil // it was started again meanwhile
	}
	if err := rec.leaveQueue(tx); err != nil {
		return err
	}
	var bad error
	err = tx.Scan(tableSteps, engine.Prefix(stepPrefix(id)), func(key, _ []byte) bool {
		bad = tx.Delete(tableSteps, key)
		return bad == nil
	})
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	if len(rec.Idem) > 0 {
		if err := tx.Delete(tableIdem, rec.Idem); err != nil {
			return err
		}
	}
	return tx.Delete(tableTasks, []byte(id))
}
