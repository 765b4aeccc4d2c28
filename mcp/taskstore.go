package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

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
	return s.updateFor(context.Background(), label, actor, fn)
}

// updateFor is update with the values of ctx: the change belongs to its call.
func (s taskStore) updateFor(ctx context.Context, label, actor string, fn func(tx *engine.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), taskWriteLimit)
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
func (s taskStore) create(ctx context.Context, rec *taskRecord, owner, key string) (got *taskRecord, err error) {
	hash := requestHash(rec.Tool, rec.Args)
	err = s.updateFor(ctx, "task create", rec.Principal, func(tx *engine.Tx) error {
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

// ownTask loads a task of principal; with "" of anybody.
func ownTask(tx *engine.Tx, principal, id string) (*taskRecord, error) {
	rec, err := loadTask(tx, id)
	if err == nil && principal != "" && rec.Principal != principal {
		return nil, ErrNoTask
	}
	return rec, err
}
