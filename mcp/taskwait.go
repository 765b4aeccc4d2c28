package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// This file is how a task waits, for a time or for answers:
//
//	handler ── Sleep, Ask ── journal ── parked: no slot ── the time or the answer comes: goes on
//	                                         │
//	                                         └─ grace over ── suspended: in the store only
//	                                                               │
//	           handler from its beginning, journal replayed ── the time or the answer comes
//
// A suspended task is one that a crash left waiting, made on purpose: nothing
// happens to it that does not happen to waiting tasks at every restart.

// ErrSuspended is what Sleep, Elicit and Ask return when the task goes on
// waiting without its handler, which happens to tools that are Resumable: a
// sleep longer than TaskLimits.WaitGrace, and a question that nobody answered
// for so long. The handler's context ends with it. The handler must return; what
// it returns does not count, and it can journal nothing more. When the wait is
// over it is started again from its beginning, and its finished steps return
// what they returned before, exactly as after a restart of the server.
//
// A handler that goes on after the error, for instance to undo something, does
// so while the task is alive: like everything outside steps it would be
// repeated. Check errors.Is(err, ErrSuspended), or simply return the error.
var ErrSuspended = errors.New("mcp: the task waits without its handler, which is started again when the wait is over: return this error")

// maxParked is how many handlers wait in memory for the grace time; of more
// that can be resumed each is suspended at once.
const maxParked = 1000

// grace is how long a handler that asked something waits in memory.
func (tr *taskRunner) grace() time.Duration {
	if tr.parked.Load() > maxParked {
		return 0
	}
	return tr.limits.WaitGrace
}

// suspend gives the lease back until due (Unix ms), or, when position is that
// of questions, until they are answered or their time is over, and ends the
// handler. It returns ErrSuspended; errNotReady when there is nothing to wait
// for any more. The lease is gone before the handler ends: whatever the handler
// does after that, it can write nothing.
func (run *taskRun) suspend(position int, due int64) error {
	var rec *taskRecord
	err := run.persist(func() (err error) {
		rec, err = run.tr.store.suspend(run.f, position, due, run.unstored(), run.elapsed())
		return err
	})
	if err != nil {
		return err
	}
	run.tr.stats.suspended.Add(1)
	run.tr.mu.Lock()
	run.tr.later++ // until the loop counts again
	run.tr.mu.Unlock()
	run.cancel(ErrSuspended)
	if soon := run.tr.rt.opts.Now().Add(taskPoll).UnixMilli(); rec.Due < soon {
		run.tr.poke() // the loop would learn of it too late
	}
	return ErrSuspended
}

// park gives the slot away while wait runs, which must end with ctx.
func (run *taskRun) park(ctx context.Context, wait func() error) error {
	run.stopClock()
	run.slot = false
	run.parked.Store(true)
	run.tr.freeSlot()
	run.tr.parked.Add(1)
	err := wait()
	run.tr.parked.Add(-1)
	if errors.Is(err, ErrSuspended) {
		run.parked.Store(false)
		return err // what is left of the handler only returns
	}
	if slotErr := run.tr.takeSlot(run.ctx); slotErr == nil {
		run.slot = true
	} else {
		err = slotErr
	}
	run.parked.Store(false)
	run.startClock()
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// Sleep waits until d has passed since it was first called: a restart does not
// begin it again. Meanwhile the task occupies no worker, and when it can be
// resumed no memory either: see [ErrSuspended].
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
	if t.run.tool.opts.Resumable && rest > t.run.tr.limits.WaitGrace {
		return t.run.suspend(-1, entry.Until)
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
// still. Errors: ErrCannotAsk, ErrInputTimeout, ErrSuspended, the cause of ctx's end.
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

// await waits, without a slot, until something is new about the questions. A
// handler that can be resumed does so for a short time only.
func (t *Task) await(ctx context.Context, position int, entry stepEntry) (stepEntry, error) {
	run := t.run
	rest := time.UnixMilli(entry.Until).Sub(run.tr.rt.opts.Now())
	expired := rest <= 0
	err := run.park(ctx, func() (err error) {
		if !expired {
			entry, expired, err = t.listen(ctx, position, entry, rest)
		}
		return err
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

// listen waits for answers or the end of the time for them.
func (t *Task) listen(ctx context.Context, position int, entry stepEntry, rest time.Duration) (_ stepEntry, expired bool, err error) {
	run := t.run
	late := make(chan struct{})
	stop := run.tr.rt.opts.AfterFunc(rest, func() { close(late) })
	defer stop()
	var grace chan struct{}
	if run.tool.opts.Resumable {
		grace = make(chan struct{})
		stop := run.tr.rt.opts.AfterFunc(run.tr.grace(), func() { close(grace) })
		defer stop()
	}
	for {
		select {
		case <-run.wake:
		case <-late:
			expired = true
		case <-grace:
			grace = nil
			if err := run.suspend(position, 0); !errors.Is(err, errNotReady) {
				return entry, false, err
			} // else the answer came first
		case <-ctx.Done():
			return entry, false, context.Cause(ctx)
		}
		fresh, err := run.tr.store.step(ctx, run.f.id, position)
		if err != nil {
			return entry, false, err
		}
		if entry = fresh; expired || entry.Error != "" || len(entry.Answers) == len(entry.Asked) {
			return entry, expired, nil
		}
	}
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
