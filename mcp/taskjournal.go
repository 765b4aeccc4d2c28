package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// Bounds of one task's journal: all of it is read when the task resumes.
const (
	maxSteps        = 10000
	maxJournalBytes = 64 << 20
	maxStepName     = 256
)

// Errors of the journal.
var (
	// ErrNondeterministic: a resumed handler called the journal in another
	// order, or with other names, than before. The task fails.
	ErrNondeterministic = errors.New("mcp: the handler took another way than before the restart")
	// ErrInputTimeout: nobody answered within TaskOptions.InputLimit.
	ErrInputTimeout = errors.New("mcp: nobody answered in time")
	// ErrCannotAsk: the client that made the task did not declare that it can
	// be asked such a question.
	ErrCannotAsk = errors.New("mcp: the client cannot be asked")
)

// A StepError is what a step that failed returns when the handler is started
// again, if the handler had gone on to another step after the failure. The
// first time the step returns its own error.
type StepError struct {
	Name    string // of the step
	Message string // of the error
}

func (e *StepError) Error() string { return e.Message }

// load takes over the journal of earlier starts.
func (t *Task) load(list []stepEntry, state json.RawMessage) {
	t.journal, t.next = list, 0
	for i := range list {
		t.bytes += int64(len(list[i].Result))
	}
	if state != nil {
		t.state.Store(&state)
	}
}

// leftOver is an error if the handler returned before it had come to where it
// was before the restart.
func (t *Task) leftOver() error {
	if t.broken != nil {
		return t.broken
	}
	if t.next < len(t.journal) {
		return t.diverged("it returned", fmt.Sprintf("step %d %s %q", t.next, t.journal[t.next].Kind, t.journal[t.next].Name))
	}
	return nil
}

// diverged ends the task: neither the old way nor the new one can be trusted.
func (t *Task) diverged(now, before string) error {
	message := fmt.Sprintf("%v: now %s, but the journal of this task has %s. A resumable handler must do the same steps in the same order; "+
		"put what may differ (time, random numbers, what others changed) into a step", ErrNondeterministic, now, before)
	t.broken = &divergence{jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: message}}
	return t.broken
}

// divergence is ErrNondeterministic as a JSON-RPC error.
type divergence struct{ rpc jsonrpc.Error }

func (e *divergence) Error() string   { return e.rpc.Message }
func (e *divergence) Unwrap() []error { return []error{ErrNondeterministic, &e.rpc} }

// enter begins a call of the journal. With replay the entry is what the same
// call came to before the restart.
func (t *Task) enter(kind, name string) (entry stepEntry, replay bool, err error) {
	if !t.busy.CompareAndSwap(false, true) {
		return entry, false, fmt.Errorf("mcp: %s %q is called while another call of the journal runs: the order of steps must be certain, "+
			"so a task has one at a time; do parallel work within one step", kind, name)
	}
	if err := t.admit(kind, name); err != nil {
		t.busy.Store(false)
		return entry, false, err
	}
	if t.next >= len(t.journal) {
		return entry, false, nil
	}
	entry = t.journal[t.next]
	if entry.Kind != kind || entry.Name != name {
		t.busy.Store(false)
		return entry, false, t.diverged(fmt.Sprintf("%s %q", kind, name), fmt.Sprintf("%s %q at position %d", entry.Kind, entry.Name, t.next))
	}
	t.journal[t.next] = stepEntry{} // a result is needed once
	t.next++
	t.run.tr.stats.replayed.Add(1)
	return entry, true, nil
}

// admit refuses calls that the journal could not keep.
func (t *Task) admit(kind, name string) error {
	switch {
	case t.broken != nil:
		return t.broken
	case t.run.ctx.Err() != nil:
		return context.Cause(t.run.ctx)
	case name == "" || len(name) > maxStepName:
		return fmt.Errorf("mcp: the name of a %s has 1 to %d bytes", kind, maxStepName)
	case t.next >= maxSteps:
		return fmt.Errorf("mcp: a task has at most %d steps; do more in each", maxSteps)
	case t.bytes > maxJournalBytes:
		return fmt.Errorf("mcp: the results of this task's steps have more than %d bytes; store data elsewhere and return references", maxJournalBytes)
	}
	return nil
}

// commit journals entry at the next position, after a failed step that the
// handler lived with.
func (t *Task) commit(ctx context.Context, entry stepEntry) error {
	entries := []stepEntry{entry}
	if t.failed != nil {
		entries = []stepEntry{*t.failed, entry}
	}
	if err := t.run.retryWrite(ctx, func() error { return t.run.tr.store.journal(t.run.f, t.next, entries...) }); err != nil {
		return fmt.Errorf("mcp: %s %q is not journaled: %w", entry.Kind, entry.Name, err)
	}
	t.failed = nil
	t.next += len(entries)
	t.bytes += int64(len(entry.Result))
	return nil
}

// settle journals a failed step that the handler lived with, before a call
// that needs its position fixed.
func (t *Task) settle(ctx context.Context) error {
	if t.failed == nil {
		return nil
	}
	failed := *t.failed
	t.failed = nil
	if err := t.commit(ctx, failed); err != nil {
		t.failed = &failed
		return err
	}
	return nil
}

// Step runs fn once in the life of the task. Its result, as JSON of at most 1
// MiB, is durable before Step returns; after a restart Step returns it without
// running fn. A crash while fn runs, or before its result is durable, repeats
// fn: make its effect repeatable, or give it an idempotency key such as the
// task's id and the step's name.
//
// An error of fn is returned and not journaled: the next attempt runs fn
// again. When the handler goes on to another step instead, the failure is
// journaled as well, and returned as a *StepError after a restart.
//
// Name the step after what it does; names may repeat.
func Step[T any](ctx context.Context, t *Task, name string, fn func(ctx context.Context) (T, error)) (T, error) {
	var out T
	entry, replay, err := t.enter(stepCall, name)
	if err != nil {
		return out, err
	}
	defer t.busy.Store(false)
	if replay {
		if entry.Error != "" {
			return out, &StepError{Name: name, Message: entry.Error}
		}
		if err := json.Unmarshal(entry.Result, &out); err != nil {
			return out, fmt.Errorf("mcp: journaled result of step %q: %w", name, err)
		}
		return out, nil
	}
	if err := t.settle(ctx); err != nil {
		return out, err
	}
	if err := t.run.retryWrite(ctx, func() error { return t.run.tr.certain(ctx, t.run.f) }); err != nil {
		return out, err
	}
	traced, end := t.run.tr.rt.traceStep(ctx, t, name)
	result, err := fn(traced)
	end(err)
	if err != nil {
		t.failed = &stepEntry{Kind: stepCall, Name: name, Error: clip(err.Error(), maxStateBytes)}
		return out, err
	}
	text, err := marshal(result)
	if err != nil {
		return out, fmt.Errorf("mcp: result of step %q: %w", name, err)
	}
	if len(text) > maxStateBytes {
		return out, fmt.Errorf("mcp: result of step %q has %d bytes, the limit is %d: store the data elsewhere and return a reference", name, len(text), maxStateBytes)
	}
	// The effect has happened: its result is journaled even when ctx ends now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), taskWriteLimit)
	defer cancel()
	if err := t.commit(ctx, stepEntry{Kind: stepCall, Name: name, Result: text}); err != nil {
		return out, err
	}
	t.run.tr.stats.steps.Add(1)
	return result, nil
}

// Step is [Step] without a result.
func (t *Task) Step(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	_, err := Step(ctx, t, name, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
}
