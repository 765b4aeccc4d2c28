package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// taskRun is one start of a handler: the lease it writes with, its clock and
// its end. The goroutine of main owns rec and journal; other goroutines only
// cancel it, poke it, or read the atomic fields.
type taskRun struct {
	tr   *taskRunner
	tool *taskTool
	rec  *taskRecord
	f    fence
	task *Task

	ctx    context.Context
	cancel context.CancelCauseFunc
	wake   chan struct{} // capacity 1: the record may have changed
	ended  chan struct{} // closed when the handler has returned and its end is written
	parked atomic.Bool   // waits without a slot
	again  bool          // the task is due again, as soon as this handler has returned; guarded by tr.mu
	news   atomic.Uint64 // leaseEntry.News as last seen
	slot   bool          // holds a slot; owned by main's goroutine

	mu      sync.Mutex // guards the clock and the status message
	ran     time.Duration
	since   time.Time // start of the running stretch; zero while parked
	stop    func() bool
	message string // not yet stored
	stored  time.Time
	flush   func() bool
}

func newTaskRun(tr *taskRunner, rec *taskRecord) *taskRun {
	ctx, cancel := context.WithCancelCause(context.Background())
	who := &Identity{Subject: rec.Principal, Scopes: rec.Scopes}
	ctx = withIdentity(ctx, who)
	run := &taskRun{
		tr: tr, tool: tr.tool(rec.Tool), rec: rec,
		f:    fence{id: rec.ID, owner: rec.Owner, token: rec.Token},
		wake: make(chan struct{}, 1), ended: make(chan struct{}), slot: true,
		cancel: cancel, ran: time.Duration(rec.Ran) * time.Millisecond,
	}
	run.ctx = context.WithValue(ctx, callKey{}, &Call{Method: methodToolsCall, Principal: rec.Principal, Received: tr.rt.opts.Now(), identity: who})
	run.task = &Task{run: run}
	return run
}

// poke makes a parked handler look at its record. It never blocks.
func (run *taskRun) poke() {
	select {
	case run.wake <- struct{}{}:
	default:
	}
}

// main runs the handler once and writes what came of it.
func (run *taskRun) main() {
	defer close(run.ended)
	defer func() {
		run.tr.gone(run)
		if run.slot {
			run.tr.freeSlot()
		}
		run.cancel(nil)
	}()
	run.startClock()
	result, err := run.call()
	run.stopClock()
	run.stopFlush()
	run.conclude(result, err)
}

// panicError is a handler that panicked.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("the handler panicked: %v", e.value) }

// call runs the handler; a panic costs this attempt only.
func (run *taskRun) call() (result json.RawMessage, err error) {
	if run.rec.Attempt > 1 {
		if err := run.loadJournal(); err != nil {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: fmt.Sprintf("the task's journal cannot be read: %v", err)}
		}
	}
	defer func() {
		if p := recover(); p != nil {
			run.tr.rt.stats.panics.Add(1)
			run.tr.rt.log.Error("task handler panicked", "task", run.rec.describe(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			result, err = nil, &panicError{p}
		}
	}()
	result, err = run.tool.run(run.ctx, run.task, run.rec.Args)
	if err == nil {
		err = run.task.leftOver()
	}
	return result, err
}

func (run *taskRun) loadJournal() error {
	return run.persist(func() error {
		list, state, err := run.tr.store.steps(run.ctx, run.rec.ID)
		if err == nil {
			run.task.load(list, state)
		}
		return err
	})
}

// conclude writes the end of an attempt.
func (run *taskRun) conclude(result json.RawMessage, err error) {
	cause := context.Cause(run.ctx)
	switch {
	case errors.Is(cause, ErrSuspended):
		return // it waits in the store; whatever the handler made of that does not count
	case errors.Is(cause, errLeaseLost), errors.Is(err, errLeaseLost):
		return // it belongs to somebody else now, or has ended
	case errors.Is(cause, errTaskStopping) && err != nil:
		run.giveBack()
		return
	case errors.Is(cause, errTaskTimeLimit) && err != nil:
		run.finish(timeLimitOutcome(run.tool.opts.TimeLimit), true)
		return
	}
	if err != nil && run.retries(err) {
		failures := run.rec.Failures + 1
		delay := run.tool.opts.Retry.delay(failures)
		message := clip(fmt.Sprintf("attempt %d of %d failed: %v; the next follows in %s", failures, run.tool.opts.Retry.MaxAttempts, err, delay.Round(time.Millisecond)), maxTaskMessage)
		_ = run.persistEnd(func() error {
			rec, err := run.tr.store.again(run.f, delay, message, run.elapsed())
			if err == nil {
				run.tr.stats.retried.Add(1)
				run.tr.changed(rec)
				run.tr.poke()
			}
			return err
		})
		return
	}
	run.finish(run.outcome(result, err), true)
}

// retries reports whether a failed attempt gets another one.
func (run *taskRun) retries(err error) bool {
	var rpc *jsonrpc.Error
	return run.rec.Failures+1 < run.tool.opts.Retry.MaxAttempts && !errors.As(err, &rpc)
}

// outcome tells a tool error, which the model should see, from a failure of
// the call itself (SEP-2663, "Task Execution Errors").
func (run *taskRun) outcome(result json.RawMessage, err error) taskOutcome {
	var rpc *jsonrpc.Error
	var panicked *panicError
	switch {
	case err == nil:
		return taskOutcome{status: TaskCompleted, message: run.lastMessage(), result: result}
	case errors.As(err, &rpc):
		return taskOutcome{status: TaskFailed, message: clip(rpc.Message, maxTaskMessage), failure: rpc}
	case errors.As(err, &panicked):
		return taskOutcome{status: TaskFailed, message: "the handler panicked", failure: &jsonrpc.Error{
			Code: jsonrpc.CodeInternalError, Message: "internal error: the task's handler failed; the server log has the details",
		}}
	}
	return taskOutcome{status: TaskCompleted, message: clip(err.Error(), maxTaskMessage), result: errorResult(err)}
}

func timeLimitOutcome(limit time.Duration) taskOutcome {
	message := fmt.Sprintf("the task ran for longer than its time limit of %s", limit)
	return taskOutcome{status: TaskFailed, message: message, failure: &jsonrpc.Error{Code: CodeTaskTimeLimit, Message: message}}
}

// finish ends the task. With handOver, which only main's goroutine may want,
// the slot goes to the next task in the queue.
func (run *taskRun) finish(o taskOutcome, handOver bool) {
	if limit := run.tr.rt.opts.MaxMessageBytes; int64(len(o.result)) > limit {
		o = taskOutcome{status: TaskFailed, message: "the result is too large", failure: &jsonrpc.Error{Code: CodeMessageTooLarge, Message: fmt.Sprintf(
			"the task's result has %d bytes, more than the limit of %d for one message; ask for less", len(o.result), limit)}}
	}
	next := ""
	if handOver && run.slot {
		next = run.tr.next(run.f.owner)
	}
	err := run.persistEnd(func() error {
		rec, started, err := run.tr.store.finish(run.f, o, run.elapsed(), next)
		if err != nil {
			return err
		}
		if started != nil {
			run.slot = false
			run.tr.launch(started)
		}
		run.tr.over(rec)
		return nil
	})
	if next != "" && run.slot {
		run.tr.notStarted(next)
	}
	if err != nil && next != "" {
		run.tr.poke() // it is still in the queue on disk
	}
}

// giveBack returns the lease of a task that a stopping server interrupts.
func (run *taskRun) giveBack() {
	_ = run.persistEnd(func() error {
		rec, err := run.tr.store.hand(run.f.id, run.f.owner, "the server stopped", run.tr.policy)
		if errors.Is(err, errNotReady) {
			return nil
		}
		if err == nil && rec.Status.Final() {
			run.tr.over(rec)
		}
		return err
	})
}

// persist repeats a transaction that found no room until the handler's
// context ends.
func (run *taskRun) persist(write func() error) error { return run.retryWrite(run.ctx, write) }

// persistEnd is persist for what ends an attempt, which outlives the context.
// What cannot be written now the lease keeps: the next start finds it.
func (run *taskRun) persistEnd(write func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), taskWriteLimit)
	defer cancel()
	err := run.retryWrite(ctx, write)
	if err != nil && !errors.Is(err, errLeaseLost) {
		run.tr.rt.log.Error("task: what came of it cannot be stored; it is started again or reported as interrupted", "task", run.rec.describe(), "error", err)
	}
	return err
}

func (run *taskRun) retryWrite(ctx context.Context, write func() error) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := write()
		if !refusedByStore(err) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, context.Cause(ctx))
		case <-run.tr.rt.store.Failed():
			timer.Stop()
			return err
		}
	}
}

// startClock counts running time until stopClock, and ends the handler at the
// time limit.
func (run *taskRun) startClock() {
	run.mu.Lock()
	defer run.mu.Unlock()
	run.since = run.tr.rt.opts.Now()
	left := run.tool.opts.TimeLimit - run.ran
	run.stop = run.tr.rt.opts.AfterFunc(max(left, 0), run.timeUp)
}

// stubborn is how long a handler may take to return after its time limit.
const stubborn = 5 * time.Second

// timeUp ends a handler that ran too long. One that ignores its context keeps
// its slot, but its task ends.
func (run *taskRun) timeUp() {
	run.cancel(errTaskTimeLimit)
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.since.IsZero() {
		return
	}
	run.stop = run.tr.rt.opts.AfterFunc(stubborn, func() {
		run.tr.rt.log.Warn("task handler ignores its context after the time limit; its worker stays occupied", "task", run.rec.describe())
		run.finish(timeLimitOutcome(run.tool.opts.TimeLimit), false)
	})
}

func (run *taskRun) stopClock() {
	run.mu.Lock()
	defer run.mu.Unlock()
	if !run.since.IsZero() {
		run.ran += run.tr.rt.opts.Now().Sub(run.since)
		run.since = time.Time{}
		run.stop()
	}
}

// elapsed is the running time so far.
func (run *taskRun) elapsed() time.Duration {
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.since.IsZero() {
		return run.ran
	}
	return run.ran + run.tr.rt.opts.Now().Sub(run.since)
}

// maxTaskMessage bounds a status message, in bytes.
const maxTaskMessage = 1024

// messagePause is the shortest time between two stored status messages.
const messagePause = time.Second

// progress stores a status message now, or with others of the same second.
func (run *taskRun) progress(message string) error {
	run.mu.Lock()
	now := run.tr.rt.opts.Now()
	run.message = clip(message, maxTaskMessage)
	if wait := messagePause - now.Sub(run.stored); !run.stored.IsZero() && wait > 0 {
		if run.flush == nil {
			run.flush = run.tr.rt.opts.AfterFunc(wait, func() { _ = run.storeMessage() })
		}
		run.mu.Unlock()
		return nil
	}
	run.mu.Unlock()
	return run.storeMessage()
}

func (run *taskRun) storeMessage() error {
	run.mu.Lock()
	message := run.message
	run.stored, run.flush = run.tr.rt.opts.Now(), nil
	run.mu.Unlock()
	ran := run.elapsed()
	return run.persist(func() error {
		rec, err := run.tr.store.progress(run.f, message, ran)
		if err == nil {
			run.tr.changed(rec)
		}
		return err
	})
}

func (run *taskRun) stopFlush() {
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.flush != nil {
		run.flush()
		run.flush = nil
	}
}

// unstored is the status message that is not stored yet; "" for none.
func (run *taskRun) unstored() string {
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.flush == nil {
		return ""
	}
	return run.message
}

// lastMessage is the newest status message.
func (run *taskRun) lastMessage() string {
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.message != "" {
		return run.message
	}
	if run.rec.Failures > 0 {
		return "" // it speaks of an attempt that failed
	}
	return run.rec.Message
}
