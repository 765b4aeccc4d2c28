package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
)

// errLeaseLost: the worker that wanted to write does not have the task any
// more: it was cancelled, or taken over by another worker.
var errLeaseLost = errors.New("mcp: the task is no longer with this worker: it was cancelled or taken over")

// taskWriteLimit bounds the wait for one commit. It is much longer than a
// healthy store takes, so that its end means trouble and not load.
const taskWriteLimit = 30 * time.Second

// taskStore is every transaction on tasks. Whoever holds the lease of a task
// writes with its fencing token, which each transaction compares with the row
// "l": no clock, no pause and no partition lets two workers write.
type taskStore struct{ store Store }

// fence is the right to write to a task.
type fence struct {
	id, owner string
	token     uint64
}

// update runs a transaction to its end: a caller that stops waiting would not
// know whether the task has changed hands.
func (s taskStore) update(label, actor string, fn func(tx *engine.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), taskWriteLimit)
	defer cancel()
	_, err := s.store.Update(ctx, fn, engine.WithLabel(label), engine.WithActor(clip(actor, 1024)))
	return err
}

// clip shortens s to at most n bytes, at the border of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

// workerActor is how the log names what workers do.
const workerActor = "mcp:tasks"

// check fails with errLeaseLost unless the lease is f's.
func (f fence) check(tx *engine.Tx) error {
	var lease leaseEntry
	found, err := getJSON(tx, tableQueue, leaseKey(f.id), &lease)
	if err != nil {
		return err
	}
	if !found || lease.Owner != f.owner || lease.Token != f.token {
		return errLeaseLost
	}
	return nil
}

// load is check plus the record.
func (f fence) load(tx *engine.Tx) (*taskRecord, error) {
	rec, err := loadTask(tx, f.id)
	if errors.Is(err, ErrNoTask) || err == nil && (rec.Owner != f.owner || rec.Token != f.token) {
		return nil, errLeaseLost
	}
	return rec, err
}

// errIdemMismatch: the key was used for another request.
var errIdemMismatch = errors.New("mcp: the idempotency key was used for a call with another tool or other arguments")

// create makes rec durable, leased to owner when that is not empty. With an
// idempotency key that is known it returns the task made first instead.
func (s taskStore) create(rec *taskRecord, owner, key string) (got *taskRecord, err error) {
	hash := requestHash(rec.Tool, rec.Args)
	err = s.update("task create", rec.Principal, func(tx *engine.Tx) error {
		got = nil
		made := *rec
		if key != "" {
			made.Idem = idemKey(rec.Principal, key)
			var entry idemEntry
			found, err := getJSON(tx, tableIdem, made.Idem, &entry)
			if err != nil {
				return err
			}
			if found {
				if !bytes.Equal(entry.Hash, hash) {
					return errIdemMismatch
				}
				got, err = loadTask(tx, entry.Task)
				return err
			}
			if err := putJSON(tx, tableIdem, made.Idem, idemEntry{Task: rec.ID, Hash: hash}); err != nil {
				return err
			}
		}
		now := tx.Now().UnixMilli()
		made.Status, made.Created, made.Updated = TaskWorking, now, now
		if owner != "" {
			made.Attempt = 1
			if err := made.lease(tx, owner); err != nil {
				return err
			}
		} else if err := made.enqueue(tx, now); err != nil {
			return err
		}
		got = &made
		return made.save(tx)
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

// get reads a task. Every task that a caller was told about is found.
func (s taskStore) get(ctx context.Context, id string) (rec *taskRecord, err error) {
	err = s.store.View(ctx, func(tx *engine.Tx) error {
		rec, err = loadTask(tx, id)
		return err
	})
	return rec, err
}

// errNotReady: the task is not waiting for a worker now.
var errNotReady = errors.New("mcp: the task does not wait for a worker")

// claim leases a task that waits.
func (s taskStore) claim(id, owner string) (rec *taskRecord, err error) {
	err = s.update("task start", workerActor, func(tx *engine.Tx) error {
		rec, err = claimTask(tx, id, owner)
		return err
	})
	return rec, err
}

func claimTask(tx *engine.Tx, id, owner string) (*taskRecord, error) {
	rec, err := loadTask(tx, id)
	if errors.Is(err, ErrNoTask) {
		return nil, errNotReady
	}
	if err != nil {
		return nil, err
	}
	if rec.Status.Final() || rec.Owner != "" || rec.Due > tx.Now().UnixMilli() {
		return nil, errNotReady
	}
	rec.Attempt++
	if err := rec.lease(tx, owner); err != nil {
		return nil, err
	}
	return rec, rec.save(tx)
}

// journal writes entries, the first at position.
func (s taskStore) journal(f fence, position int, entries ...stepEntry) error {
	return s.update("task step", workerActor, func(tx *engine.Tx) error {
		if err := f.check(tx); err != nil {
			return err
		}
		for i, entry := range entries {
			entry.At = tx.Now().UnixMilli()
			if err := putJSON(tx, tableSteps, stepKey(f.id, position+i), entry); err != nil {
				return err
			}
		}
		return nil
	})
}

// steps reads the journal and the checkpoint of a task.
func (s taskStore) steps(ctx context.Context, id string) (list []stepEntry, state json.RawMessage, err error) {
	err = s.store.ViewLocal(ctx, func(tx *engine.Tx) error {
		list, state = nil, nil
		var bad error
		prefix := stepPrefix(id)
		err := tx.Scan(tableSteps, engine.Prefix(prefix), func(key, value []byte) bool {
			if bytes.Equal(key, stateKey(id)) {
				state = value
				return true
			}
			if want := stepKey(id, len(list)); !bytes.Equal(key, want) {
				bad = fmt.Errorf("mcp: the journal of task %s has %q where %q belongs", id, key, want)
				return false
			}
			var entry stepEntry
			if err := json.Unmarshal(value, &entry); err != nil {
				bad = fmt.Errorf("mcp: step %d of task %s: %w", len(list), id, err)
				return false
			}
			list = append(list, entry)
			return true
		})
		return errors.Join(err, bad)
	})
	return list, state, err
}

// step reads one journal entry.
func (s taskStore) step(ctx context.Context, id string, position int) (entry stepEntry, err error) {
	err = s.store.ViewLocal(ctx, func(tx *engine.Tx) error {
		found, err := getJSON(tx, tableSteps, stepKey(id, position), &entry)
		if err == nil && !found {
			err = errLeaseLost // the task was removed
		}
		return err
	})
	return entry, err
}

// checkpoint stores what Task.Checkpoint was given.
func (s taskStore) checkpoint(f fence, state json.RawMessage) error {
	return s.update("task checkpoint", workerActor, func(tx *engine.Tx) error {
		if err := f.check(tx); err != nil {
			return err
		}
		return tx.Put(tableSteps, stateKey(f.id), state)
	})
}

// progress stores a status message.
func (s taskStore) progress(f fence, message string, ran time.Duration) (rec *taskRecord, err error) {
	err = s.update("task progress", workerActor, func(tx *engine.Tx) error {
		if rec, err = f.load(tx); err != nil {
			return err
		}
		rec.Message, rec.Ran = message, ran.Milliseconds()
		rec.touch(tx)
		return rec.save(tx)
	})
	return rec, err
}

// ask journals questions and shows them to the client. The keys of the
// questions are the names that the handler gave them; on the wire they get a
// number that no question of the task had before.
func (s taskStore) ask(f fence, position int, patience time.Duration, questions []pendingInput, message string, ran time.Duration) (rec *taskRecord, entry stepEntry, err error) {
	err = s.update("task ask", workerActor, func(tx *engine.Tx) error {
		if rec, err = f.load(tx); err != nil {
			return err
		}
		now := tx.Now()
		entry = stepEntry{
			Kind: stepInput, Name: questionNames(questions), Asked: make(map[string]string, len(questions)),
			At: now.UnixMilli(), Until: now.Add(patience).UnixMilli(),
		}
		for _, q := range questions {
			rec.Questions++
			name := q.Key
			q.Key, q.Position = fmt.Sprintf("%s-%d", name, rec.Questions), position
			entry.Asked[q.Key] = name
			rec.Pending = append(rec.Pending, q)
		}
		if err := putJSON(tx, tableSteps, stepKey(f.id, position), entry); err != nil {
			return err
		}
		rec.Status, rec.Ran = TaskInputRequired, ran.Milliseconds()
		if message != "" {
			rec.Message = message
		}
		rec.touch(tx)
		return rec.save(tx)
	})
	return rec, entry, err
}

// suspend gives the lease of a task that waits back: until due, or, when
// position is that of questions, until the first of their deadlines. It is
// errNotReady when the questions have their answers.
func (s taskStore) suspend(f fence, position int, due int64, message string, ran time.Duration) (rec *taskRecord, err error) {
	err = s.update("task suspend", workerActor, func(tx *engine.Tx) error {
		if rec, err = f.load(tx); err != nil {
			return err
		}
		if position >= 0 {
			if !slices.ContainsFunc(rec.Pending, func(p pendingInput) bool { return p.Position == position }) {
				return errNotReady
			}
			if due, err = inputDeadline(tx, rec); err != nil {
				return err
			}
		}
		rec.Ran = ran.Milliseconds()
		if message != "" {
			rec.Message = message
			rec.touch(tx)
		}
		if err := rec.enqueue(tx, due); err != nil {
			return err
		}
		return rec.save(tx)
	})
	return rec, err
}

// questionNames is how the journal tells one set of questions from another.
func questionNames(questions []pendingInput) string {
	names := make([]string, 0, len(questions))
	for _, q := range questions {
		names = append(names, q.Key)
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// giveUp withdraws the questions of one step, which nobody answered in time.
// It does nothing when the last answer came first.
func (s taskStore) giveUp(f fence, position int, why string) (rec *taskRecord, err error) {
	err = s.update("task ask timeout", workerActor, func(tx *engine.Tx) error {
		if rec, err = f.load(tx); err != nil {
			return err
		}
		kept := rec.Pending[:0]
		for _, p := range rec.Pending {
			if p.Position != position {
				kept = append(kept, p)
			}
		}
		if len(kept) == len(rec.Pending) {
			return nil
		}
		rec.Pending = kept
		if len(kept) == 0 {
			rec.Status = TaskWorking
		}
		var entry stepEntry
		if _, err := getJSON(tx, tableSteps, stepKey(f.id, position), &entry); err != nil {
			return err
		}
		entry.Error = why
		if err := putJSON(tx, tableSteps, stepKey(f.id, position), entry); err != nil {
			return err
		}
		rec.touch(tx)
		return rec.save(tx)
	})
	return rec, err
}

// answer stores the answers to pending questions. Others are ignored, as
// SEP-2663 wants. check may refuse an answer.
func (s taskStore) answer(principal, id string, answers map[string]json.RawMessage,
	check func(p *pendingInput, answer json.RawMessage) (json.RawMessage, error),
) (rec *taskRecord, changed bool, err error) {
	err = s.update("task answer", principal, func(tx *engine.Tx) error {
		changed = false
		if rec, err = ownTask(tx, principal, id); err != nil {
			return err
		}
		var kept []pendingInput
		for i := range rec.Pending {
			p := &rec.Pending[i]
			raw, ok := answers[p.Key]
			if !ok {
				kept = append(kept, *p)
				continue
			}
			if raw, err = check(p, raw); err != nil {
				return err
			}
			if err := putAnswer(tx, id, p, raw); err != nil {
				return err
			}
			changed = true
		}
		if !changed {
			return nil
		}
		rec.Pending = kept
		rec.touch(tx)
		if len(kept) == 0 {
			rec.Status = TaskWorking
		}
		switch {
		case rec.Owner == "" && len(kept) > 0: // it goes on waiting for the others
		case rec.Owner == "":
			// Nobody has the handler in memory: any worker takes it up again.
			if err := rec.enqueue(tx, tx.Now().UnixMilli()); err != nil {
				return err
			}
		default:
			if err := rec.notify(tx); err != nil {
				return err
			}
		}
		return rec.save(tx)
	})
	return rec, changed, err
}

func putAnswer(tx *engine.Tx, id string, p *pendingInput, answer json.RawMessage) error {
	var entry stepEntry
	found, err := getJSON(tx, tableSteps, stepKey(id, p.Position), &entry)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("mcp: task %s asks %q but has no step %d", id, p.Key, p.Position)
	}
	if entry.Answers == nil {
		entry.Answers = make(map[string]json.RawMessage)
	}
	entry.Answers[p.Key] = answer
	return putJSON(tx, tableSteps, stepKey(id, p.Position), entry)
}

// notify tells the worker that has the task, on whatever node, that the record
// changed.
func (rec *taskRecord) notify(tx *engine.Tx) error {
	var lease leaseEntry
	if found, err := getJSON(tx, tableQueue, leaseKey(rec.ID), &lease); err != nil || !found {
		return err
	}
	lease.News++
	return putJSON(tx, tableQueue, leaseKey(rec.ID), lease)
}

// ownTask loads a task of principal; with "" of anybody.
func ownTask(tx *engine.Tx, principal, id string) (*taskRecord, error) {
	rec, err := loadTask(tx, id)
	if err == nil && principal != "" && rec.Principal != principal {
		return nil, ErrNoTask
	}
	return rec, err
}

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

// inputDeadline is when the first question of a waiting task is given up.
func inputDeadline(tx *engine.Tx, rec *taskRecord) (int64, error) {
	var first int64
	for _, p := range rec.Pending {
		var entry stepEntry
		if _, err := getJSON(tx, tableSteps, stepKey(rec.ID, p.Position), &entry); err != nil {
			return 0, err
		}
		if first == 0 || entry.Until < first {
			first = entry.Until
		}
	}
	return max(first, tx.Now().UnixMilli()), nil
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

// dropOpenQuestions cuts the journal at the first question that was not
// answered: the handler asks again, under a new key.
func (s taskStore) dropOpenQuestions(tx *engine.Tx, rec *taskRecord) error {
	var from []byte
	var bad error
	rec.Pending = nil
	err := tx.Scan(tableSteps, engine.Prefix(stepPrefix(rec.ID)), func(key, value []byte) bool {
		var entry stepEntry
		if bytes.Equal(key, stateKey(rec.ID)) {
			return true
		}
		if bad = json.Unmarshal(value, &entry); bad != nil {
			return false
		}
		if from == nil && entry.Kind == stepInput && len(entry.Answers) < len(entry.Asked) {
			from = key
		}
		if from != nil {
			bad = tx.Delete(tableSteps, key)
		}
		return bad == nil
	})
	return errors.Join(err, bad)
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
