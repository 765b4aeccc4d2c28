package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/engine"
)

// This file is the transactions on the questions of tasks, and on tasks that wait.

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
