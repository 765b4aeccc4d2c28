package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// suspendible is "greet" with a step before the question and one behind it.
func addSuspendible(starts, steps *atomic.Int32, resumable bool) func(r *mcp.Runtime) {
	return func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "greet", Description: "greets"}, mcp.TaskOptions{Resumable: resumable},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				starts.Add(1)
				first, err := mcp.Step(ctx, task, "first", func(context.Context) (int32, error) { return steps.Add(1), nil })
				if err != nil {
					return "", err
				}
				answer, err := task.Elicit(ctx, nameForm())
				if err != nil {
					return "", err
				}
				err = task.Step(ctx, "second", func(context.Context) error { steps.Add(1); return nil })
				return fmt.Sprintf("%d %v", first, answer.Content["name"]), err
			})
	}
}

func suspended(t *testing.T, r *mcp.Runtime, n uint64) {
	t.Helper()
	require.Eventually(t, func() bool {
		s := r.Stats().Tasks
		return s.Suspended >= n && s.Running == 0
	}, 20*time.Second, time.Millisecond)
}

func TestAWaitingTaskIsSuspendedAndGoesOnWithTheAnswer(t *testing.T) {
	var starts, steps atomic.Int32
	s := serveTasks(t, t.TempDir(), mcp.Options{Tasks: mcp.TaskLimits{WaitGrace: time.Millisecond}}, addSuspendible(&starts, &steps, true))
	id := s.make("greet", nil)
	suspended(t, s.rt, 1)
	require.Equal(t, "input_required", s.get(id).str("status"))
	require.Equal(t, 1, s.rt.Stats().Tasks.Waiting)
	key := s.question(id)
	require.Nil(t, s.answerWith(id, key, "Ada").Error)
	require.JSONEq(t, `"1 Ada"`, s.until(id, mcp.TaskCompleted).text())
	require.EqualValues(t, 2, starts.Load(), "the handler was started again")
	require.EqualValues(t, 2, steps.Load(), "each step ran once")
	info, err := s.rt.Task(t.Context(), id)
	require.NoError(t, err)
	require.Zero(t, info.Resumes, "a wait is no interruption")
	require.Len(t, info.Steps, 3)
}

func TestAHandlerThatCannotBeResumedWaitsInMemory(t *testing.T) {
	var starts, steps atomic.Int32
	s := serveTasks(t, t.TempDir(), mcp.Options{Tasks: mcp.TaskLimits{WaitGrace: time.Nanosecond}}, addSuspendible(&starts, &steps, false))
	id := s.make("greet", nil)
	s.waiting(1)
	require.Nil(t, s.answerWith(id, s.question(id), "Ada").Error)
	require.JSONEq(t, `"1 Ada"`, s.until(id, mcp.TaskCompleted).text())
	require.EqualValues(t, 1, starts.Load())
	require.Zero(t, s.rt.Stats().Tasks.Suspended)
}

func TestAnAnswerWithinTheGraceKeepsTheHandler(t *testing.T) {
	var starts, steps atomic.Int32
	s := serveTasks(t, t.TempDir(), mcp.Options{Tasks: mcp.TaskLimits{WaitGrace: time.Hour}}, addSuspendible(&starts, &steps, true))
	id := s.make("greet", nil)
	s.waiting(1)
	require.Nil(t, s.answerWith(id, s.question(id), "Ada").Error)
	s.until(id, mcp.TaskCompleted)
	require.EqualValues(t, 1, starts.Load())
}

// A handler may take the error for something else and go on: nothing of that counts.
func TestWhatAHandlerDoesBehindItsSuspensionDoesNotCount(t *testing.T) {
	for _, how := range []string{"return", "panic", "step", "rpc"} {
		t.Run(how, func(t *testing.T) {
			var undone atomic.Int32
			left := make(chan error, 10)
			s := serveTasks(t, t.TempDir(), mcp.Options{Tasks: mcp.TaskLimits{WaitGrace: time.Millisecond}}, func(r *mcp.Runtime) {
				mcp.AddTaskTool(r, &sdk.Tool{Name: "stubborn", Description: "does not give up"}, mcp.TaskOptions{Resumable: true},
					func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
						answer, err := task.Elicit(ctx, nameForm())
						if err == nil {
							return fmt.Sprint(answer.Content["name"]), nil
						}
						defer func() { left <- err }()
						switch how {
						case "panic":
							panic("what now?")
						case "step":
							return "", task.Step(context.Background(), "undo", func(context.Context) error { undone.Add(1); return nil })
						case "rpc":
							return "", &jsonrpc.Error{Code: -32000, Message: "no answer"}
						}
						return "nobody answered", nil
					})
			})
			id := s.make("stubborn", nil)
			require.ErrorIs(t, <-left, mcp.ErrSuspended)
			suspended(t, s.rt, 1)
			require.Equal(t, "input_required", s.get(id).str("status"))
			require.Nil(t, s.answerWith(id, s.question(id), "Ada").Error)
			require.JSONEq(t, `"Ada"`, s.until(id, mcp.TaskCompleted).text())
			require.Zero(t, undone.Load(), "no step begins behind a suspension")
		})
	}
}

func TestATaskIsNotStartedWhileItsOldHandlerStillReturns(t *testing.T) {
	var running, most atomic.Int32
	slow := make(chan struct{})
	s := serveTasks(t, t.TempDir(), mcp.Options{Tasks: mcp.TaskLimits{WaitGrace: time.Millisecond}}, func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "slow", Description: "takes its time"}, mcp.TaskOptions{Resumable: true},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				answer, err := task.Elicit(ctx, nameForm())
				if err != nil {
					<-slow
					return "", err
				}
				return fmt.Sprint(answer.Content["name"]), nil
			})
	})
	id := s.make("slow", nil)
	require.Eventually(t, func() bool { return s.rt.Stats().Tasks.Suspended == 1 }, 20*time.Second, time.Millisecond)
	require.Nil(t, s.answerWith(id, s.question(id), "Ada").Error)
	close(slow)
	require.JSONEq(t, `"Ada"`, s.until(id, mcp.TaskCompleted).text())
	require.EqualValues(t, 1, most.Load())
}

func TestASuspendedTaskCanBeCancelledAndSurvivesACrash(t *testing.T) {
	var starts, steps atomic.Int32
	m := newMachine(t)
	m.start(addSuspendible(&starts, &steps, true))
	keep, drop := m.srv.make("greet", nil), m.srv.make("greet", nil)
	m.srv.waiting(2)
	m.clock.advance(time.Minute)
	suspended(t, m.rt, 2)
	require.Nil(t, m.srv.rpc(allAbilities, "tasks/cancel", map[string]any{"taskId": drop}).Error)
	m.crash()
	m.start(addSuspendible(&starts, &steps, true))
	defer m.stop()
	m.srv.waiting(1)
	require.EqualValues(t, 2, starts.Load(), "waiting tasks are on disk only")
	require.Equal(t, "cancelled", m.srv.get(drop).str("status"))
	require.Nil(t, m.srv.answerWith(keep, m.srv.question(keep), "Ada").Error)
	m.srv.until(keep, mcp.TaskCompleted)
}

func TestAQuestionThatNobodyAnswersTimesOutAfterASuspension(t *testing.T) {
	m := newMachine(t)
	m.start(func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "greet", Description: "greets"}, mcp.TaskOptions{Resumable: true, InputLimit: time.Hour},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				_, err := task.Elicit(ctx, nameForm())
				if errors.Is(err, mcp.ErrInputTimeout) {
					return "gave up", nil
				}
				return "", err
			})
	})
	defer m.stop()
	id := m.srv.make("greet", nil)
	m.srv.waiting(1)
	m.clock.advance(time.Minute)
	suspended(t, m.rt, 1)
	m.clock.advance(time.Hour)
	require.JSONEq(t, `"gave up"`, m.srv.until(id, mcp.TaskCompleted).text())
}

// lazyStats is printed when it is needed.
type lazyStats struct{ rt *mcp.Runtime }

func (s *lazyStats) String() string { return fmt.Sprintf("%+v", s.rt.Stats().Tasks) }

// ERLMCP_WAITING_TASKS sets the number of tasks (default 500).
func TestWaitingTasksCostNoGoroutines(t *testing.T) {
	n := 500
	if v := os.Getenv("ERLMCP_WAITING_TASKS"); v != "" {
		var err error
		n, err = strconv.Atoi(v)
		require.NoError(t, err)
	}
	store, err := engine.Open("data", engine.Options{FS: vfs.NewMem(), SegmentSize: 4 << 20, MinFreeDisk: 1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	rt, err := mcp.NewRuntime(store, mcp.Options{
		Audit: mcp.AuditOptions{Off: true}, MaxRequests: n,
		Tasks: mcp.TaskLimits{WaitGrace: time.Millisecond, Queue: n, Unfinished: n},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = rt.Close() })
	var starts, steps atomic.Int32
	addSuspendible(&starts, &steps, true)(rt)
	message := stateless("1", "tools/call", `"name":"greet","arguments":{}`)
	message = strings.Replace(message, `clientCapabilities":{}`,
		`clientCapabilities":{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}`, 1)
	runtime.GC()
	before := runtime.NumGoroutine()
	begin := time.Now()
	ids := make(chan string, n)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for len(ids) < n-32 {
				var a answer
				w := ask(rt, "127.0.0.1:1", "", message)
				if json.Unmarshal(w.Body.Bytes(), &a) == nil && a.Error == nil {
					ids <- a.str("taskId")
				}
			}
		})
	}
	all.Wait()
	made := len(ids)
	require.Eventually(t, func() bool { return rt.Stats().Tasks.Suspended >= uint64(made) }, 2*time.Minute, 5*time.Millisecond,
		"%+v", &lazyStats{rt})
	require.Eventually(t, func() bool { return runtime.NumGoroutine() < before+100 }, 2*time.Minute, 5*time.Millisecond,
		"%d tasks wait in %d goroutines; there were %d before", made, runtime.NumGoroutine(), before)
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	t.Logf("%d tasks wait: %d goroutines before, %d now, %d KiB of stacks, %s", made, before, runtime.NumGoroutine(), mem.StackInuse>>10, time.Since(begin).Round(time.Millisecond))
	require.Equal(t, made, rt.Stats().Tasks.Unfinished)
}
