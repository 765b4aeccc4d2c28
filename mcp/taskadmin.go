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

// TaskInfo is what an operator sees of a task.
type TaskInfo struct {
	ID        string     `json:"id"`
	Principal string     `json:"principal"`
	Tool      string     `json:"tool"`
	Status    TaskStatus `json:"status"`
	Message   string     `json:"message,omitempty"`
	Waited    bool       `json:"waited,omitempty"` // made for a call that waits for the result

	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
	Ended   *time.Time `json:"ended,omitempty"`
	Expires *time.Time `json:"expires,omitempty"` // removed after that
	Starts  *time.Time `json:"starts,omitempty"`  // waits for a worker until then or later

	Worker   string  `json:"worker,omitempty"` // runtime that has it
	Attempt  int     `json:"attempt"`          // starts of the handler
	Failures int     `json:"failures,omitempty"`
	Resumes  int     `json:"resumes,omitempty"` // starts after an interruption
	RanSecs  float64 `json:"ran_seconds"`       // running time up to the last durable change

	Asks []string `json:"asks,omitempty"` // keys of unanswered questions

	// Only of a single task.
	Arguments json.RawMessage `json:"arguments,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *jsonrpc.Error  `json:"error,omitempty"`
	Steps     []TaskStepInfo  `json:"steps,omitempty"`
}

// TaskStepInfo is one entry of a task's journal.
type TaskStepInfo struct {
	Kind   string          `json:"kind"` // step, sleep or input
	Name   string          `json:"name"`
	At     time.Time       `json:"at"`
	Until  *time.Time      `json:"until,omitempty"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// TaskFilter selects tasks; empty fields select all.
type TaskFilter struct {
	Status    TaskStatus
	Tool      string
	Principal string
}

func (f TaskFilter) match(rec *taskRecord) bool {
	return (f.Status == "" || f.Status == rec.Status) && (f.Tool == "" || f.Tool == rec.Tool) &&
		(f.Principal == "" || f.Principal == rec.Principal)
}

// errNoTasks: a runtime without a store.
var errNoTasks = errors.New("mcp: this runtime has no store and so no tasks")

// listBatch is how many rows one transaction of ListTasks reads.
const listBatch = 500

// ListTasks returns at most limit tasks (0: all) that fit f, in the order of
// their ids, which is by chance, beginning after the given id.
func (r *Runtime) ListTasks(ctx context.Context, after string, limit int, f TaskFilter) (list []TaskInfo, err error) {
	if r.store == nil {
		return nil, errNoTasks
	}
	for more := true; more; {
		lo := []byte(after)
		if after != "" {
			lo = append(lo, 0)
		}
		var bad error
		rows := 0
		err := r.store.ViewLocal(ctx, func(tx *engine.Tx) error {
			return tx.Scan(tableTasks, engine.Range{Lo: lo, Limit: listBatch}, func(key, value []byte) bool {
				rows++
				after = string(key)
				rec, err := decodeTask(value)
				if err != nil {
					bad = fmt.Errorf("task %s: %w", key, err)
					return false
				}
				if f.match(rec) {
					list = append(list, rec.info())
				}
				return limit == 0 || len(list) < limit
			})
		})
		if err = errors.Join(err, bad); err != nil {
			return nil, err
		}
		more = rows == listBatch && (limit == 0 || len(list) < limit)
	}
	return list, nil
}

// Task returns one task with its journal. ErrNoTask.
func (r *Runtime) Task(ctx context.Context, id string) (TaskInfo, error) {
	if r.store == nil {
		return TaskInfo{}, errNoTasks
	}
	rec, err := r.tasks.store.get(ctx, id)
	if err != nil {
		return TaskInfo{}, err
	}
	info := rec.info()
	info.Arguments, info.Result, info.Error = rec.Args, rec.Result, rec.Error
	steps, _, err := r.tasks.store.steps(ctx, id)
	if err != nil {
		return TaskInfo{}, err
	}
	for _, s := range steps {
		step := TaskStepInfo{Kind: s.Kind, Name: s.Name, At: fromMs(s.At), Until: fromMsOrNil(s.Until), Error: s.Error, Result: s.Result}
		if len(s.Answers) > 0 {
			if step.Result, err = marshal(s.Answers); err != nil {
				return TaskInfo{}, err
			}
		}
		info.Steps = append(info.Steps, step)
	}
	return info, nil
}

// operator is how the log names whoever uses the admin interface.
const operator = "operator"

// CancelTask ends a task, whoever it belongs to. It does nothing to one that
// has ended. ErrNoTask. When ctx ends first its cause is returned, and the task
// may be cancelled nevertheless.
func (r *Runtime) CancelTask(ctx context.Context, id string) (TaskInfo, error) {
	return r.changeTask(ctx, func() (*taskRecord, error) {
		return r.tasks.cancel("", operator, id, "cancelled by an operator")
	})
}

// RetryTask starts a task again that did not end well; steps that had finished
// stay finished, and its limits count anew. ErrNoTask, ErrNotRetryable. When ctx
// ends first its cause is returned, and the task may start nevertheless.
func (r *Runtime) RetryTask(ctx context.Context, id string) (TaskInfo, error) {
	return r.changeTask(ctx, func() (*taskRecord, error) {
		rec, err := r.tasks.store.retry(operator, id)
		if err == nil {
			r.tasks.poke()
			r.tasks.changed(rec)
		}
		return rec, err
	})
}

// changeTask runs a change, at most as long as a commit may take, and waits for
// it as long as ctx lasts. A change that has begun is not given up with its
// caller: what follows from it in memory must happen when it is committed.
func (r *Runtime) changeTask(ctx context.Context, change func() (*taskRecord, error)) (TaskInfo, error) {
	if r.store == nil {
		return TaskInfo{}, errNoTasks
	}
	if ctx.Err() != nil {
		return TaskInfo{}, fmt.Errorf("mcp: the task is unchanged: %w", context.Cause(ctx))
	}
	type outcome struct {
		rec *taskRecord
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		rec, err := change()
		done <- outcome{rec, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return TaskInfo{}, o.err
		}
		return o.rec.info(), nil
	case <-ctx.Done():
		return TaskInfo{}, fmt.Errorf("mcp: the change of the task is under way and may still happen: %w", context.Cause(ctx))
	}
}

func fromMs(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func fromMsOrNil(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := fromMs(ms)
	return &t
}

func (rec *taskRecord) info() TaskInfo {
	info := TaskInfo{
		ID: rec.ID, Principal: rec.Principal, Tool: rec.Tool, Status: rec.Status, Message: rec.Message, Waited: rec.Waited,
		Created: fromMs(rec.Created), Updated: fromMs(rec.Updated), Ended: fromMsOrNil(rec.Ended), Expires: fromMsOrNil(rec.Expires),
		Starts: fromMsOrNil(rec.Due), Worker: rec.Owner, Attempt: rec.Attempt, Failures: rec.Failures, Resumes: rec.Resumes,
		RanSecs: float64(rec.Ran) / 1000,
	}
	for _, p := range rec.Pending {
		info.Asks = append(info.Asks, p.Key)
	}
	return info
}
