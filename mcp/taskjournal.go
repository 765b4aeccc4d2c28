package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

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

// Sleep waits until d has passed since it was first called: a restart does not
// begin it again. Meanwhile the task occupies no worker.
func (t *Task) Sleep(ctx context.Context, d time.Duration) error {
	entry, replay, err := t.enter(stepSleep, "sleep")
	if err != nil {
		return err
	}
	defer t.busy.Store(false)
	now := t.run.tr.rt.opts.Now()
	if !replay {
		entry = stepEntry{Kind: stepSleep, Name: "sleep", Until: now.Add(d).UnixMilli()}
		if err := t.commit(ctx, entry); err != nil {
			return err
		}
	}
	rest := time.UnixMilli(entry.Until).Sub(now)
	if rest <= 0 {
		return context.Cause(ctx)
	}
	return t.run.park(ctx, func() error {
		done := make(chan struct{})
		stop := t.run.tr.rt.opts.AfterFunc(rest, func() { close(done) })
		defer stop()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// Elicit asks the client's user and waits for the answer, for as long as
// TaskOptions.InputLimit and over restarts; see Ask.
func (t *Task) Elicit(ctx context.Context, p *sdk.ElicitParams) (*sdk.ElicitResult, error) {
	answers, err := t.Ask(ctx, sdk.InputRequestMap{"input": p})
	if err != nil {
		return nil, err
	}
	return answers["input"].(*sdk.ElicitResult), nil
}

// Ask shows the client one or more questions at once: the task becomes
// input_required until each has an answer. The keys of the map are the
// handler's own names for them; on the wire they get a number, as a key is
// never used twice. Answers have the type that belongs to the question
// (*sdk.ElicitResult and so on); a form's content fits its schema.
//
// While it waits the task occupies no worker, and its running time stands
// still. Errors: ErrCannotAsk, ErrInputTimeout, the cause of ctx's end.
func (t *Task) Ask(ctx context.Context, requests sdk.InputRequestMap) (sdk.InputResponseMap, error) {
	questions, err := t.questions(requests)
	if err != nil {
		return nil, err
	}
	entry, replay, err := t.enter(stepInput, questionNames(questions))
	if err != nil {
		return nil, err
	}
	defer t.busy.Store(false)
	position := t.next - 1
	if !replay {
		if err := t.settle(ctx); err != nil {
			return nil, err
		}
		position = t.next
		if entry, err = t.askNow(ctx, position, questions); err != nil {
			return nil, err
		}
	}
	for entry.Error == "" && len(entry.Answers) < len(entry.Asked) {
		if entry, err = t.await(ctx, position, entry); err != nil {
			return nil, err
		}
	}
	if entry.Error != "" {
		return nil, fmt.Errorf("%w: %s", ErrInputTimeout, entry.Error)
	}
	return decodeAnswers(entry)
}

// questions encodes what is to be asked, and refuses what the client cannot answer.
func (t *Task) questions(requests sdk.InputRequestMap) ([]pendingInput, error) {
	if len(requests) == 0 {
		return nil, errors.New("mcp: nothing to ask")
	}
	text, err := json.Marshal(requests)
	if err != nil {
		return nil, fmt.Errorf("mcp: questions of a task: %w", err)
	}
	if len(text) > maxStateBytes {
		return nil, fmt.Errorf("mcp: the questions have %d bytes, the limit is %d", len(text), maxStateBytes)
	}
	var wire map[string]struct {
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal(text, &wire); err != nil {
		return nil, err
	}
	list := make([]pendingInput, 0, len(wire))
	for name, q := range wire {
		if name == "" {
			return nil, errors.New("mcp: a question of a task needs a name")
		}
		if !canAsk(t.run.rec.Asks, q.Method) {
			return nil, fmt.Errorf("%w: it did not declare the capability for %s", ErrCannotAsk, q.Method)
		}
		list = append(list, pendingInput{Key: name, Method: q.Method, Params: q.Params})
	}
	return list, nil
}

// askNow makes the questions durable and shows them.
func (t *Task) askNow(ctx context.Context, position int, questions []pendingInput) (entry stepEntry, err error) {
	run := t.run
	err = run.retryWrite(ctx, func() error {
		var rec *taskRecord
		rec, entry, err = run.tr.store.ask(run.f, position, run.tool.opts.InputLimit, questions, "", run.elapsed())
		if err == nil {
			run.tr.stats.questions.Add(uint64(len(questions)))
			run.tr.changed(rec)
		}
		return err
	})
	if err == nil {
		t.next++
	}
	return entry, err
}

// await waits, without a slot, until something is new about the questions.
func (t *Task) await(ctx context.Context, position int, entry stepEntry) (stepEntry, error) {
	run := t.run
	rest := time.UnixMilli(entry.Until).Sub(run.tr.rt.opts.Now())
	expired := rest <= 0
	err := run.park(ctx, func() error {
		var late chan struct{}
		if !expired {
			late = make(chan struct{})
			stop := run.tr.rt.opts.AfterFunc(rest, func() { close(late) })
			defer stop()
			for {
				select {
				case <-run.wake:
				case <-late:
					expired = true
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				fresh, err := run.tr.store.step(ctx, run.f.id, position)
				if err != nil {
					return err
				}
				if entry = fresh; expired || entry.Error != "" || len(entry.Answers) == len(entry.Asked) {
					return nil
				}
			}
		}
		return nil
	})
	why := "the questions were withdrawn after " + run.tool.opts.InputLimit.String()
	switch {
	case err != nil && run.ctx.Err() == nil && ctx.Err() != nil:
		why = "the handler stopped waiting: " + err.Error() // its own context ended
	case err != nil:
		return entry, err
	case !expired:
		return entry, nil
	}
	return t.giveUp(position, why)
}

// giveUp withdraws questions; an answer that came first counts.
func (t *Task) giveUp(position int, why string) (entry stepEntry, err error) {
	run := t.run
	err = run.persist(func() error {
		rec, err := run.tr.store.giveUp(run.f, position, why)
		if err == nil {
			run.tr.changed(rec)
		}
		return err
	})
	if err != nil {
		return entry, err
	}
	return run.tr.store.step(run.ctx, run.f.id, position)
}

// decodeAnswers gives answers the names of their questions.
func decodeAnswers(entry stepEntry) (sdk.InputResponseMap, error) {
	named := make(map[string]json.RawMessage, len(entry.Answers))
	for key, answer := range entry.Answers {
		named[entry.Asked[key]] = answer
	}
	text, err := json.Marshal(named)
	if err != nil {
		return nil, err
	}
	var out sdk.InputResponseMap
	return out, json.Unmarshal(text, &out)
}
