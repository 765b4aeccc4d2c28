package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// fakeClock is time that passes only when a test says so.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*fakeTimer]bool
}

type fakeTimer struct {
	at time.Time
	f  func()
}

func newClock() *fakeClock {
	return &fakeClock{now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), timers: make(map[*fakeTimer]bool)}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := &fakeTimer{at: c.now.Add(d), f: f}
	if d <= 0 {
		go f()
		return func() bool { return false }
	}
	c.timers[timer] = true
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		was := c.timers[timer]
		delete(c.timers, timer)
		return was
	}
}

// advance lets d pass and fires what is due.
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for timer := range c.timers {
		if !timer.at.After(c.now) {
			delete(c.timers, timer)
			go timer.f()
		}
	}
}

// a machine is a disk in memory, and the process on it that can crash.
type machine struct {
	t     *testing.T
	disk  *vfs.MemFS
	clock *fakeClock
	store *engine.Store
	rt    *mcp.Runtime
	srv   *taskServer

	options mcp.Options // of the next process; the clock is the machine's
}

func newMachine(t *testing.T) *machine {
	return &machine{t: t, disk: vfs.NewCrashableMem(), clock: newClock()}
}

// start boots a process on the disk as it is.
func (m *machine) start(add func(r *mcp.Runtime)) {
	m.t.Helper()
	store, err := engine.Open("data", engine.Options{FS: m.disk, Now: m.clock.Now, SweepInterval: -1, SegmentSize: 1 << 20, MemTableSize: 256 << 10})
	require.NoError(m.t, err)
	m.store = store
	o := m.options
	o.Now, o.AfterFunc = m.clock.Now, m.clock.AfterFunc
	m.rt, err = mcp.NewRuntime(store, o)
	require.NoError(m.t, err)
	add(m.rt)
	m.srv = serveOn(m.t, m.rt)
}

// crash loses the process and everything that was not synced.
func (m *machine) crash() {
	m.disk = m.disk.CrashClone(vfs.CrashCloneCfg{})
	// The old process's goroutines go on with a disk that nobody reads again.
	m.stop()
}

// stop ends the process in an orderly way.
func (m *machine) stop() {
	require.NoError(m.t, m.rt.Close())
	m.srv.http.Close()
	require.NoError(m.t, m.store.Close())
}

// effects counts what steps did to the world, across processes.
type effects struct {
	mu   sync.Mutex
	done map[string]int
}

func (e *effects) do(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done == nil {
		e.done = make(map[string]int)
	}
	e.done[name]++
}

func (e *effects) count(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.done[name]
}

func TestFinishedStepsAreNotRepeatedAfterACrash(t *testing.T) {
	m := newMachine(t)
	var world effects
	var attempts []int
	reached, block := make(chan struct{}, 1), make(chan struct{})
	add := func(stopAt int) func(*mcp.Runtime) {
		return func(r *mcp.Runtime) {
			mcp.AddTaskTool(r, &sdk.Tool{Name: "steps", Description: "has five steps"}, mcp.TaskOptions{Resumable: true},
				func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
					attempts = append(attempts, task.Attempt())
					sum := 0
					for i := range 5 {
						if i == stopAt {
							reached <- struct{}{}
							<-block
							return "", errors.New("this process is dead")
						}
						n, err := mcp.Step(ctx, task, fmt.Sprint("step ", i), func(context.Context) (int, error) {
							world.do(fmt.Sprint(i))
							return 10 * i, nil
						})
						if err != nil {
							return "", err
						}
						sum += n
					}
					return strconv.Itoa(sum), nil
				})
		}
	}
	m.start(add(3))
	id := m.srv.make("steps", nil)
	<-reached
	disk := m.disk.CrashClone(vfs.CrashCloneCfg{})
	close(block)
	m.stop()
	m.disk = disk

	m.start(add(-1))
	defer m.stop()
	require.JSONEq(t, `"100"`, m.srv.until(id, mcp.TaskCompleted).text())
	for i := range 5 {
		require.Equal(t, 1, world.count(fmt.Sprint(i)), "step %d", i)
	}
	require.Equal(t, []int{1, 2}, attempts)
	stats := m.rt.Stats().Tasks
	require.EqualValues(t, 3, stats.Replayed)
	require.EqualValues(t, 2, stats.Steps)
	require.EqualValues(t, 1, stats.Resumed)
}

func TestInterruptedTaskThatCannotResumeFailsHonestly(t *testing.T) {
	m := newMachine(t)
	var runs atomic.Int32
	reached, block := make(chan struct{}, 1), make(chan struct{})
	add := func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "once", Description: "must not run twice"}, mcp.TaskOptions{},
			func(ctx context.Context, _ *mcp.Task, _ struct{}) (string, error) {
				runs.Add(1)
				reached <- struct{}{}
				<-block
				return "", errors.New("this process is dead")
			})
	}
	m.start(add)
	id := m.srv.make("once", nil)
	<-reached
	disk := m.disk.CrashClone(vfs.CrashCloneCfg{})
	close(block)
	m.stop()
	m.disk = disk
	m.start(add)
	defer m.stop()
	failed := m.srv.until(id, mcp.TaskFailed)
	failure := failed.Result["error"].(map[string]any)
	require.EqualValues(t, mcp.CodeTaskInterrupted, failure["code"])
	require.Contains(t, failure["message"], "the server restarted")
	require.EqualValues(t, 1, runs.Load())
}

func TestQuestionSurvivesCrashesAndItsAnswerToo(t *testing.T) {
	m := newMachine(t)
	m.start(addGreet)
	id := m.srv.make("greet", map[string]any{"name": ""})
	key := m.srv.question(id)
	for range 2 { // nothing runs meanwhile: the task waits on disk only
		m.crash()
		m.start(addGreet)
		require.Equal(t, key, m.srv.question(id))
		require.Zero(t, m.rt.Stats().Tasks.Running)
	}
	ack := m.srv.answerWith(id, key, "Ada")
	require.Nil(t, ack.Error)
	m.crash() // right after the acknowledgement
	m.start(addGreet)
	defer m.stop()
	require.Equal(t, "Hello, accept Ada!", m.srv.until(id, mcp.TaskCompleted).text())
}

func TestCancelledTaskStaysCancelledAfterACrash(t *testing.T) {
	m := newMachine(t)
	add := func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "wait", Description: "waits"}, mcp.TaskOptions{Resumable: true},
			func(ctx context.Context, _ *mcp.Task, _ struct{}) (string, error) {
				<-ctx.Done()
				return "", context.Cause(ctx)
			})
	}
	m.start(add)
	id := m.srv.make("wait", nil)
	require.Nil(t, m.srv.rpc(allAbilities, "tasks/cancel", map[string]any{"taskId": id}).Error)
	m.crash()
	m.start(add)
	defer m.stop()
	require.Equal(t, "cancelled", m.srv.get(id).str("status"))
}

func TestGracefulStopReturnsLeasesAndTheNextStartGoesOn(t *testing.T) {
	m := newMachine(t)
	var starts atomic.Int32
	add := func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "long", Description: "is interrupted once"}, mcp.TaskOptions{Resumable: true},
			func(ctx context.Context, _ *mcp.Task, _ struct{}) (string, error) {
				if starts.Add(1) == 1 {
					<-ctx.Done()
					return "", ctx.Err()
				}
				return "went on", nil
			})
	}
	m.start(add)
	id := m.srv.make("long", nil)
	require.Eventually(t, func() bool { return starts.Load() == 1 }, 10*time.Second, time.Millisecond)
	m.stop()
	m.start(add)
	defer m.stop()
	require.JSONEq(t, `"went on"`, m.srv.until(id, mcp.TaskCompleted).text())
}

func TestSleepCountsFromItsFirstCall(t *testing.T) {
	m := newMachine(t)
	var starts atomic.Int32
	add := func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "nap", Description: "sleeps an hour"}, mcp.TaskOptions{Resumable: true, TimeLimit: time.Minute},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				starts.Add(1)
				if err := task.Sleep(ctx, time.Hour); err != nil {
					return "", err
				}
				return task.Created().Add(time.Hour).Format(time.TimeOnly), nil
			})
	}
	m.start(add)
	id := m.srv.make("nap", nil)
	m.srv.waiting(1)
	m.clock.advance(50 * time.Minute)
	require.Equal(t, "working", m.srv.get(id).str("status"))
	m.crash()
	m.start(add)
	defer m.stop()
	m.srv.waiting(1)
	require.EqualValues(t, 1, starts.Load(), "a task that sleeps for long has no handler")
	require.Zero(t, m.rt.Stats().Tasks.Running, "a sleeping task occupies no worker")
	m.clock.advance(10 * time.Minute)
	require.JSONEq(t, `"13:00:00"`, m.srv.until(id, mcp.TaskCompleted).text(), "sleep is not running time")
	require.EqualValues(t, 2, starts.Load())
}

func TestFailedAttemptsAreRetriedWithBackoffAndKeepTheirSteps(t *testing.T) {
	m := newMachine(t)
	var world effects
	add := func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "flaky", Description: "works the third time"},
			mcp.TaskOptions{Resumable: true, Retry: mcp.Retry{MaxAttempts: 3, Backoff: time.Minute}},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				if err := task.Step(ctx, "first", func(context.Context) error { world.do("first"); return nil }); err != nil {
					return "", err
				}
				return mcp.Step(ctx, task, "second", func(context.Context) (string, error) {
					if world.do("second"); world.count("second") < 3 {
						return "", errors.New("not yet")
					}
					return "at last", nil
				})
			})
	}
	m.start(add)
	id := m.srv.make("flaky", nil)
	for n := 1; n < 3; n++ {
		require.Eventually(t, func() bool { return m.rt.Stats().Tasks.Retried == 1 }, 10*time.Second, time.Millisecond)
		require.Contains(t, m.srv.get(id).str("statusMessage"), "not yet")
		m.crash() // the pause survives it
		m.start(add)
		require.Equal(t, n, world.count("second"))
		m.clock.advance(5 * time.Minute)
	}
	defer m.stop()
	require.JSONEq(t, `"at last"`, m.srv.until(id, mcp.TaskCompleted).text())
	require.Equal(t, 1, world.count("first"))
}

func TestHandlerThatTakesAnotherWayIsCaught(t *testing.T) {
	m := newMachine(t)
	add := func(name string, fail bool) func(*mcp.Runtime) {
		return func(r *mcp.Runtime) {
			mcp.AddTaskTool(r, &sdk.Tool{Name: "fickle", Description: "changes its mind"}, mcp.TaskOptions{Resumable: true},
				func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
					if err := task.Step(ctx, name, func(context.Context) error { return nil }); err != nil {
						return "", err
					}
					if fail {
						<-ctx.Done()
						return "", ctx.Err()
					}
					return "done", nil
				})
		}
	}
	m.start(add("charge", true))
	id := m.srv.make("fickle", nil)
	require.Eventually(t, func() bool { return m.rt.Stats().Tasks.Steps == 1 }, 10*time.Second, time.Millisecond)
	m.stop()
	m.start(add("refund", false))
	defer m.stop()
	failure := m.srv.until(id, mcp.TaskFailed).Result["error"].(map[string]any)
	require.Contains(t, failure["message"], `step "refund"`)
	require.Contains(t, failure["message"], `step "charge" at position 0`)
}

func TestTimeLimitCountsRunningTimeOnly(t *testing.T) {
	m := newMachine(t)
	m.start(func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "slow", Description: "never ends"}, mcp.TaskOptions{TimeLimit: time.Minute},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				if _, err := task.Elicit(ctx, nameForm()); err != nil {
					return "", err
				}
				<-ctx.Done()
				return "", ctx.Err()
			})
	})
	defer m.stop()
	id := m.srv.make("slow", nil)
	key := m.srv.question(id)
	m.srv.waiting(1)
	m.clock.advance(time.Hour)
	require.Equal(t, "input_required", m.srv.get(id).str("status"))
	require.Nil(t, m.srv.answerWith(id, key, "x").Error)
	require.Eventually(t, func() bool { return m.rt.Stats().Tasks.Running == 1 }, 10*time.Second, time.Millisecond)
	m.clock.advance(59 * time.Second)
	require.Equal(t, "working", m.srv.get(id).str("status"))
	m.clock.advance(time.Second)
	failure := m.srv.until(id, mcp.TaskFailed).Result["error"].(map[string]any)
	require.EqualValues(t, mcp.CodeTaskTimeLimit, failure["code"])
}

func TestQuestionsThatNobodyAnswersAreWithdrawn(t *testing.T) {
	m := newMachine(t)
	add := func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "ask", Description: "asks"}, mcp.TaskOptions{Resumable: true, InputLimit: time.Hour},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				if _, err := task.Elicit(ctx, nameForm()); !errors.Is(err, mcp.ErrInputTimeout) {
					return "", fmt.Errorf("not ErrInputTimeout: %w", err)
				}
				return "went on without", nil
			})
	}
	for _, crash := range []bool{false, true} {
		m.disk = vfs.NewCrashableMem()
		m.start(add)
		id := m.srv.make("ask", nil)
		m.srv.question(id)
		m.srv.waiting(1)
		if crash {
			m.crash()
			m.start(add)
		}
		m.clock.advance(time.Hour)
		done := m.srv.until(id, mcp.TaskCompleted)
		require.JSONEq(t, `"went on without"`, done.text())
		require.NotContains(t, done.Result, "inputRequests")
		m.stop()
	}
}

func TestResultsAreKeptForTheirTimeAndRemovedInTheLog(t *testing.T) {
	m := newMachine(t)
	m.start(func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "quick", Description: "is quick"}, mcp.TaskOptions{TTL: time.Hour},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				return "x", task.Step(ctx, "one", func(context.Context) error { return nil })
			})
	})
	defer m.stop()
	id := m.srv.make("quick", nil)
	m.srv.until(id, mcp.TaskCompleted)
	m.clock.advance(59 * time.Minute)
	require.Nil(t, m.srv.get(id).Error)
	from := m.store.AppliedIndex()
	m.clock.advance(time.Minute)
	require.Eventually(t, func() bool { return m.rt.Stats().Tasks.Expired == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, -32602, m.srv.get(id).Error.Code)
	w := m.store.Watch(t.Context(), engine.WatchOptions{Table: "mcp_tasks", From: from + 1})
	defer w.Close()
	ev, err := w.Next()
	require.NoError(t, err)
	require.True(t, ev.Deleted)
	require.Equal(t, "task expire", ev.Label)
	require.Equal(t, id, string(ev.Key))
	for _, table := range []string{"mcp_task_steps", "mcp_tasks"} {
		require.NoError(t, m.store.ViewLocal(t.Context(), func(tx *engine.Tx) error {
			return tx.Scan(table, engine.Range{}, func(key, _ []byte) bool {
				t.Errorf("%s still has %s", table, key)
				return true
			})
		}))
	}
}

func TestOperatorListsShowsCancelsAndRetriesTasks(t *testing.T) {
	m := newMachine(t)
	var world effects
	m.start(func(r *mcp.Runtime) {
		addGreet(r)
		mcp.AddTaskTool(r, &sdk.Tool{Name: "flaky", Description: "fails the first time"}, mcp.TaskOptions{Resumable: true},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				if err := task.Step(ctx, "one", func(context.Context) error { world.do("one"); return nil }); err != nil {
					return "", err
				}
				if world.do("two"); world.count("two") == 1 {
					return "", errors.New("no")
				}
				if _, err := task.Elicit(ctx, nameForm()); err != nil {
					return "", err
				}
				return "yes", nil
			})
	})
	defer m.stop()
	ctx := t.Context()
	flaky := m.srv.make("flaky", nil)
	m.srv.until(flaky, mcp.TaskCompleted)
	greet := m.srv.make("greet", map[string]any{"name": ""})
	m.srv.question(greet)

	all, err := m.rt.ListTasks(ctx, "", 0, mcp.TaskFilter{})
	require.NoError(t, err)
	require.Len(t, all, 2)
	first, err := m.rt.ListTasks(ctx, "", 1, mcp.TaskFilter{})
	require.NoError(t, err)
	rest, err := m.rt.ListTasks(ctx, first[0].ID, 1, mcp.TaskFilter{})
	require.NoError(t, err)
	require.Equal(t, all, append(first, rest...))
	asking, err := m.rt.ListTasks(ctx, "", 0, mcp.TaskFilter{Status: mcp.TaskInputRequired, Tool: "greet", Principal: mcp.Anonymous})
	require.NoError(t, err)
	require.Len(t, asking, 1)
	require.Equal(t, []string{"input-1"}, asking[0].Asks)
	none, err := m.rt.ListTasks(ctx, "", 0, mcp.TaskFilter{Principal: "somebody else"})
	require.NoError(t, err)
	require.Empty(t, none)

	info, err := m.rt.Task(ctx, flaky)
	require.NoError(t, err)
	require.Equal(t, "one", info.Steps[0].Name)
	_, err = m.rt.RetryTask(ctx, greet)
	require.ErrorIs(t, err, mcp.ErrNotRetryable)
	_, err = m.rt.RetryTask(ctx, flaky)
	require.NoError(t, err)
	key := m.srv.question(flaky)
	require.Equal(t, 1, world.count("one"), "a finished step stays finished")

	// Cancelled while it asks, and started again: it asks under a new key.
	_, err = m.rt.CancelTask(ctx, flaky)
	require.NoError(t, err)
	require.Equal(t, "cancelled by an operator", m.srv.get(flaky).str("statusMessage"))
	_, err = m.rt.RetryTask(ctx, flaky)
	require.NoError(t, err)
	again := m.srv.question(flaky)
	require.NotEqual(t, key, again)
	require.Nil(t, m.srv.answerWith(flaky, again, "x").Error)
	require.JSONEq(t, `"yes"`, m.srv.until(flaky, mcp.TaskCompleted).text())

	_, err = m.rt.Task(ctx, "nothing")
	require.ErrorIs(t, err, mcp.ErrNoTask)
	_, err = m.rt.CancelTask(ctx, "nothing")
	require.ErrorIs(t, err, mcp.ErrNoTask)
}
