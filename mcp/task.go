package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// JSON-RPC error codes of tasks that failed.
const (
	CodeTaskInterrupted = -32083 // the server went away while the task ran, and its handler cannot be resumed
	CodeTaskTimeLimit   = -32085 // the handler ran for longer than TaskOptions.TimeLimit
)

// A TaskMode says for whom a tool becomes a task.
type TaskMode int

const (
	// TaskOptional: clients with the tasks extension get a task; for others
	// the call waits for the end of the task and returns its result. The
	// questions of the task reach them as input requests of the call.
	TaskOptional TaskMode = iota
	// TaskRequired: clients without the tasks extension are refused (-32021).
	TaskRequired
)

// TaskOptions describe how a task tool runs. The zero value is usable.
type TaskOptions struct {
	Mode TaskMode

	// TTL is how long result and journal are kept after the end; default
	// TaskLimits.TTL. Before its end a task is kept for any time.
	TTL time.Duration
	// PollInterval is what clients are told; default TaskLimits.PollInterval.
	PollInterval time.Duration
	// TimeLimit is the longest running time of all attempts together; waiting
	// in Sleep, Elicit and Ask is not counted. Running time since the last
	// durable change is forgotten by a crash. Default TaskLimits.TimeLimit.
	TimeLimit time.Duration
	// InputLimit is the longest wait for answers; default TaskLimits.InputLimit.
	InputLimit time.Duration

	// Retry says what happens after an attempt returned an error or panicked.
	Retry Retry

	// Resumable promises that the handler may be started again after a crash:
	// what it does outside steps is harmless when repeated. Without it a task
	// that was running when the server went away fails with
	// CodeTaskInterrupted. Either way a task that had not been started yet
	// starts, and a finished step is never run again.
	Resumable bool
	// MaxResumes bounds the starts after interruptions, so that a task that
	// kills its process does not do so for ever; default 100.
	MaxResumes int

	// Before, if set, runs within the call, before there is a task. A result
	// answers the call without a task: an answer that is known at once, or
	// input requests that the client must fulfil before it calls again (see
	// Task.Responses). nil goes on to the task. An error refuses the call.
	// req.Params.Arguments are checked and have their defaults.
	Before func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error)
}

// Retry bounds the attempts of a handler that fails. Finished steps are not
// repeated. A *jsonrpc.Error and a used-up time limit are never retried.
type Retry struct {
	MaxAttempts int           // default 1: no retry
	Backoff     time.Duration // before the second attempt, doubled for each further one, with +-20 % jitter; default 1 s
	MaxBackoff  time.Duration // default 1 min
}

// delay is the pause after the given number of failures.
func (r Retry) delay(failures int) time.Duration {
	d := r.Backoff
	for range failures - 1 {
		if d = 2 * d; d >= r.MaxBackoff {
			d = r.MaxBackoff
			break
		}
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

func (o TaskOptions) withDefaults(l TaskLimits) (TaskOptions, error) {
	if o.TTL < 0 || o.PollInterval < 0 || o.TimeLimit < 0 || o.InputLimit < 0 || o.MaxResumes < 0 ||
		o.Retry.MaxAttempts < 0 || o.Retry.Backoff < 0 || o.Retry.MaxBackoff < 0 {
		return o, errors.New("an option is negative")
	}
	if o.Mode != TaskOptional && o.Mode != TaskRequired {
		return o, fmt.Errorf("unknown mode %d", o.Mode)
	}
	setDefault(&o.TTL, l.TTL)
	setDefault(&o.PollInterval, l.PollInterval)
	setDefault(&o.TimeLimit, l.TimeLimit)
	setDefault(&o.InputLimit, l.InputLimit)
	setDefault(&o.MaxResumes, 100)
	setDefault(&o.Retry.MaxAttempts, 1)
	setDefault(&o.Retry.Backoff, time.Second)
	setDefault(&o.Retry.MaxBackoff, time.Minute)
	return o, nil
}

// AddTaskTool registers a tool whose calls are durable tasks (SEP-2663): the
// task is on disk before the client learns its id, and goes on after a crash.
//
// In and Out are as in [sdk.AddTool]: they give the input and output schemas
// unless tool has its own, arguments are checked before the handler sees them,
// Out becomes structured content and, as JSON, text. An Out of
// *sdk.CallToolResult is the result as it is. An error of the handler ends the
// task as completed with isError; a *jsonrpc.Error, as failed.
//
// The handler runs outside any request: ctx ends when the task is cancelled,
// its time is up or the server stops, and carries the principal
// ([IdentityFrom]) and a [Call]. A handler that should survive a crash puts
// its effects into steps ([Step]) and sets TaskOptions.Resumable: it is then
// started again from its beginning, and the steps that had finished return
// what they returned before.
//
// AddTaskTool panics if the tool is invalid or the runtime has no store.
// Register tools before serving: tasks of a tool that is not registered wait.
func AddTaskTool[In, Out any](r *Runtime, tool *sdk.Tool, opts TaskOptions, handler func(ctx context.Context, t *Task, in In) (Out, error)) {
	fail := func(err error) { panic(fmt.Sprintf("mcp: AddTaskTool %q: %v", tool.Name, err)) }
	if r.store == nil {
		fail(errors.New("durable tasks need a store; give NewRuntime one"))
	}
	opts, err := opts.withDefaults(r.opts.Tasks)
	if err != nil {
		fail(err)
	}
	tt := *tool
	schemas, err := newToolSchemas[In, Out](&tt)
	if err != nil {
		fail(err)
	}
	t := &taskTool{
		name: tt.Name, opts: opts, rt: r, prepare: schemas.prepare,
		run: func(ctx context.Context, task *Task, args json.RawMessage) (json.RawMessage, error) {
			var in In
			if err := json.Unmarshal(args, &in); err != nil {
				return nil, fmt.Errorf("arguments: %w", err)
			}
			out, err := handler(ctx, task, in)
			if err != nil {
				return nil, err
			}
			return schemas.encode(out)
		},
	}
	r.tasks.add(t) // first: whoever sees the tool must see that it is one of tasks
	r.server.AddTool(&tt, t.call)
}

// taskTool is a registered task tool.
type taskTool struct {
	name    string
	opts    TaskOptions
	rt      *Runtime
	prepare func(args json.RawMessage) (json.RawMessage, error)
	run     func(ctx context.Context, t *Task, args json.RawMessage) (json.RawMessage, error)
}

// A Task is what a handler knows about the task that it works on.
//
// Step, Sleep, Elicit and Ask are the journal: each has a place in the order
// in which the handler calls them, and after a restart the handler must call
// them in the same order, with the same names. They belong to one goroutine
// at a time; do parallel work within one step. Progress and Checkpoint may be
// called from any goroutine.
type Task struct {
	run  *taskRun
	busy atomic.Bool // one journal call at a time

	journal []stepEntry // of earlier starts, as long as they are not used up
	next    int         // position of the next call
	bytes   int64       // size of the journal
	failed  *stepEntry  // a step that returned an error, until the handler goes on
	state   atomic.Pointer[json.RawMessage]
	broken  error // the handler took another way than before; it cannot go on
}

// ID is the id that the client polls with.
func (t *Task) ID() string { return t.run.rec.ID }

// Tool is the name of the tool.
func (t *Task) Tool() string { return t.run.rec.Tool }

// Principal is who called the tool; see [Identity].
func (t *Task) Principal() string { return t.run.rec.Principal }

// Created is when the task was made.
func (t *Task) Created() time.Time { return time.UnixMilli(t.run.rec.Created).UTC() }

// Attempt counts the starts of the handler, resumptions included, from 1.
func (t *Task) Attempt() int { return t.run.rec.Attempt }

// Responses are the answers that came with the call that made the task, to
// input requests that TaskOptions.Before had returned for an earlier call.
func (t *Task) Responses() sdk.InputResponseMap {
	var m sdk.InputResponseMap
	if len(t.run.rec.Responses) > 0 {
		_ = json.Unmarshal(t.run.rec.Responses, &m) // it was encoded from this type
	}
	return m
}

// Progress tells the client where the task stands. The message (at most 1 KiB,
// the rest is cut) is durable within a second; of several in one second the
// last one counts.
func (t *Task) Progress(format string, args ...any) error {
	return t.run.progress(fmt.Sprintf(format, args...))
}

// maxStateBytes bounds the JSON of Checkpoint and of one step's result.
const maxStateBytes = 1 << 20

// Checkpoint makes v durable, as JSON of at most 1 MiB, in place of what was
// stored before. Restore finds it after a restart. Use it for progress within
// one long step, such as how far a scan has come.
func (t *Task) Checkpoint(ctx context.Context, v any) error {
	state, err := marshal(v)
	if err != nil {
		return fmt.Errorf("mcp: checkpoint: %w", err)
	}
	if len(state) > maxStateBytes {
		return fmt.Errorf("mcp: checkpoint of %d bytes, the limit is %d: store the data elsewhere and keep a reference", len(state), maxStateBytes)
	}
	err = t.run.retryWrite(ctx, func() error { return t.run.tr.store.checkpoint(t.run.f, state) })
	if err == nil {
		raw := json.RawMessage(state)
		t.state.Store(&raw)
	}
	return err
}

// Restore decodes the newest checkpoint into v. It is false, and v unchanged,
// if there is none.
func (t *Task) Restore(v any) (bool, error) {
	state := t.state.Load()
	if state == nil {
		return false, nil
	}
	return true, json.Unmarshal(*state, v)
}
