package mcp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// taskPoll is the longest time after which the queue is looked at again:
// within it a node learns what other nodes did. What this process does itself
// it learns at once.
const taskPoll = time.Second

// Why a handler's context ends before the handler does.
var (
	errTaskStopping  = errors.New("mcp: the server is stopping")
	errTaskTimeLimit = errors.New("mcp: the task used up its time limit")
)

// taskRunner starts handlers: at most limits.Workers of them run, tasks that
// are due wait in the order of the queue, handlers that wait for an answer or
// a time hold no slot. The durable queue decides what is to be done and who
// does it; everything here may be forgotten.
type taskRunner struct {
	rt     *Runtime
	store  taskStore
	limits TaskLimits
	parked atomic.Int64  // handlers that wait in memory
	kick   chan struct{} // capacity 1: look at the queue now
	ended  chan struct{} // closed when the loop has ended
	stats  taskCounters

	mu         sync.Mutex // guards what follows; never held over a transaction
	tools      map[string]*taskTool
	owner      string // "" before the loop has registered, and while deposed
	started    bool
	stopping   bool
	slots      int                     // in use
	queue      taskQueue               // due, not yet claimed
	resuming   []*slotWaiter           // handlers that want a slot again: they go first
	active     map[string]*taskRun     // leased by this runtime
	watchers   map[string][]chan bool  // calls that wait for a task to change
	strikes    map[string]int          // own leases without a handler
	silence    map[string]ownerSilence // other owners
	unfinished int
	by         map[string]int // unfinished, by principal
	making     int            // tasks that are being created
	counted    uint64         // grows with every change of unfinished
	skipped    int            // passes whose count was not taken
	later      int            // waiting for a time or for answers, with no handler in memory
	nextBeat   time.Time
	proven     time.Time // nobody had taken over then; among several nodes
}

// ownerSilence is since when, by this process's clock, an owner stands still.
type ownerSilence struct {
	beat  uint64
	since time.Time
}

type taskCounters struct {
	created, completed, failed, cancelled, expired atomic.Uint64
	retried, resumed, suspended, overloaded        atomic.Uint64
	steps, replayed, questions                     atomic.Uint64
}

func newTaskRunner(r *Runtime) *taskRunner {
	return &taskRunner{
		rt: r, store: taskStore{r.store}, limits: r.opts.Tasks,
		kick: make(chan struct{}, 1), ended: make(chan struct{}),
		tools: make(map[string]*taskTool), queue: newTaskQueue(), by: make(map[string]int), active: make(map[string]*taskRun),
		watchers: make(map[string][]chan bool), strikes: make(map[string]int), silence: make(map[string]ownerSilence),
	}
}

// add makes a tool known and starts the runner with the first one.
func (tr *taskRunner) add(tool *taskTool) {
	tr.mu.Lock()
	tr.tools[tool.name] = tool
	first := !tr.started
	tr.started = true
	tr.mu.Unlock()
	if first {
		tr.rt.Go(tr.loop)
		if tr.limits.Node != "" {
			tr.rt.Go(tr.follow)
		}
	}
	tr.poke()
}

func (tr *taskRunner) tool(name string) *taskTool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.tools[name]
}

// poke makes the loop look at the queue soon. It never blocks.
func (tr *taskRunner) poke() {
	select {
	case tr.kick <- struct{}{}:
	default:
	}
}

// overloaded is the refusal of a task for which there is no room. limit is the
// setting whose value max is used up.
func (tr *taskRunner) overloaded(limit string, max int, format string, args ...any) error {
	tr.stats.overloaded.Add(1)
	bad := refuse(http.StatusServiceUnavailable, CodeOverloaded, "overloaded: "+format, args...).rpc()
	if limit != "" {
		bad.Message += fmt.Sprintf(" (mcp.tasks.%s is %d)", limit, max)
		bad.Data, _ = marshal(map[string]any{"limit": "mcp.tasks." + limit, "max": max}) // a string and a number
	}
	return bad
}

// reserve makes room for one more task before it is created: a slot, so that
// it runs at once, or a place in the queue. It never waits.
func (tr *taskRunner) reserve(id, principal string) (slot bool, owner string, err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	l := tr.limits
	known := principal != Anonymous // all who cannot be told apart share everything
	switch {
	case tr.stopping:
		return false, "", tr.overloaded("", 0, "the server is shutting down; nothing was stored, try again")
	case tr.unfinished >= l.Unfinished:
		return false, "", tr.overloaded("unfinished", l.Unfinished, "%d tasks have not ended; nothing was stored, try again when some have", tr.unfinished)
	case known && tr.by[principal] >= l.UnfinishedPerPrincipal:
		return false, "", tr.overloaded("unfinished_per_principal", l.UnfinishedPerPrincipal,
			"%d of your tasks have not ended; nothing was stored, cancel some or try again when some have ended", tr.by[principal])
	case tr.owner != "" && tr.slots < l.Workers && tr.queue.len()+len(tr.resuming) == 0:
		tr.slots++
		slot = true
		tr.queue.start(id)
	case tr.queue.len() >= l.Queue:
		return false, "", tr.overloaded("queue", l.Queue, "%d tasks wait for a worker; nothing was stored, try again later", tr.queue.len())
	case known && tr.queue.by[principal] >= l.QueuePerPrincipal:
		return false, "", tr.overloaded("queue_per_principal", l.QueuePerPrincipal,
			"%d of your tasks wait for a worker; nothing was stored, try again when some have started", tr.queue.by[principal])
	default:
		tr.queue.promise(principal)
	}
	tr.unfinished++
	tr.by[principal]++
	tr.making++
	tr.counted++
	return slot, tr.owner, nil
}

// create makes a task durable and starts it or lets it wait. With a known
// idempotency key it returns the task made before.
func (tr *taskRunner) create(ctx context.Context, rec *taskRecord, key string) (*taskRecord, error) {
	rec.ID = rand.Text() // 128 random bits at least
	slot, owner, err := tr.reserve(rec.ID, rec.Principal)
	if err != nil {
		return nil, err
	}
	if !slot {
		owner = ""
	}
	got, err := tr.store.create(ctx, rec, owner, key)
	fresh := err == nil && got.ID == rec.ID
	if fresh {
		tr.stats.created.Add(1)
	}
	tr.mu.Lock()
	tr.making--
	tr.counted++
	if !fresh {
		tr.unfinished--
		decrease(tr.by, rec.Principal)
	}
	if !slot {
		tr.queue.redeem(rec.Principal)
		if fresh && tr.active[got.ID] == nil { // the loop may have found and started it meanwhile
			tr.queue.push(got.ready())
		}
		tr.dispatch()
	}
	tr.mu.Unlock()
	switch {
	case slot && fresh:
		tr.launch(got)
	case slot:
		tr.notStarted(rec.ID)
		tr.freeSlot()
		if err != nil {
			tr.poke() // when the outcome is unknown the lease may be ours
		}
	}
	return got, storeError(err)
}

// dispatch starts tasks that wait while slots are free. tr.mu is held.
func (tr *taskRunner) dispatch() {
	for tr.owner != "" && !tr.stopping && tr.slots < tr.limits.Workers && len(tr.queue.list) > 0 && len(tr.resuming) == 0 {
		tr.slots++
		go tr.start(tr.queue.pop().id, tr.owner)
	}
}

// next takes the task out of the queue that a worker with a slot may go on
// with; "" if it must give the slot back.
func (tr *taskRunner) next(owner string) string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.stopping || tr.owner != owner || len(tr.queue.list) == 0 || len(tr.resuming) > 0 {
		return ""
	}
	return tr.queue.pop().id
}

// start claims one task and runs it in the slot that the caller took.
func (tr *taskRunner) start(id, owner string) {
	rec, err := tr.store.claim(id, owner)
	if err == nil {
		tr.launch(rec)
		return
	}
	tr.notStarted(id)
	tr.freeSlot()
	if !errors.Is(err, errNotReady) {
		tr.rt.log.Warn("task not started; it stays in the queue", "task", id, "error", err)
	}
}

// notStarted forgets a task that was taken out of the queue for nothing.
func (tr *taskRunner) notStarted(id string) {
	tr.mu.Lock()
	tr.queue.settled(id)
	tr.mu.Unlock()
}

// launch runs the handler of a task that this runtime has leased, in a slot.
func (tr *taskRunner) launch(rec *taskRecord) {
	if rec.Attempt > 1 && rec.Failures == 0 {
		tr.stats.resumed.Add(1)
	}
	run := newTaskRun(tr, rec)
	tr.mu.Lock()
	tr.active[rec.ID] = run
	tr.queue.settled(rec.ID)
	stopping := tr.stopping
	tr.mu.Unlock()
	if stopping {
		run.cancel(errTaskStopping)
	}
	go run.main()
}

// slotWaiter is a handler that waits for a slot. got is closed under tr.mu.
type slotWaiter struct{ got chan struct{} }

// takeSlot waits for a slot for a handler that goes on.
func (tr *taskRunner) takeSlot(ctx context.Context) error {
	tr.mu.Lock()
	if tr.slots < tr.limits.Workers {
		tr.slots++
		tr.mu.Unlock()
		return nil
	}
	w := &slotWaiter{got: make(chan struct{})}
	tr.resuming = append(tr.resuming, w)
	tr.mu.Unlock()
	select {
	case <-w.got:
		return nil
	case <-ctx.Done():
	}
	tr.mu.Lock()
	for i, other := range tr.resuming {
		if other == w {
			tr.resuming = append(tr.resuming[:i], tr.resuming[i+1:]...)
			tr.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	tr.mu.Unlock()
	tr.freeSlot() // it was granted meanwhile
	return context.Cause(ctx)
}

// freeSlot gives a slot to a handler that goes on, or to the next task.
func (tr *taskRunner) freeSlot() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.resuming) > 0 {
		w := tr.resuming[0]
		tr.resuming = tr.resuming[1:]
		close(w.got)
		return
	}
	tr.slots--
	tr.dispatch()
}

// gone forgets a handler that has returned.
func (tr *taskRunner) gone(run *taskRun) {
	tr.mu.Lock()
	if tr.active[run.f.id] == run {
		delete(tr.active, run.f.id)
	}
	again := run.again
	tr.mu.Unlock()
	if again {
		tr.poke()
	}
}

// changed tells everybody who waits that a committed change of a task can be seen. Among several nodes subscribers hear of it from
// follow, wherever it was made.
func (tr *taskRunner) changed(rec *taskRecord) {
	tr.tellWaiters(rec)
	if tr.limits.Node == "" {
		tr.rt.publishTask(rec.Principal, rec.ID)
	}
}

func (tr *taskRunner) tellWaiters(rec *taskRecord) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, ch := range tr.watchers[rec.ID] {
		select {
		case ch <- true:
		default:
		}
	}
}

// over counts a task that has ended and stops its handler.
func (tr *taskRunner) over(rec *taskRecord) {
	switch rec.Status {
	case TaskCompleted:
		tr.stats.completed.Add(1)
	case TaskFailed:
		tr.stats.failed.Add(1)
	case TaskCancelled:
		tr.stats.cancelled.Add(1)
	}
	tr.mu.Lock()
	tr.unfinished = max(0, tr.unfinished-1)
	tr.counted++
	decrease(tr.by, rec.Principal)
	run := tr.active[rec.ID]
	tr.mu.Unlock()
	if run != nil {
		run.cancel(errLeaseLost)
	}
	tr.changed(rec)
}

// watch returns a channel that gets a value after changes of the task.
func (tr *taskRunner) watch(id string) (ch chan bool, stop func()) {
	ch = make(chan bool, 1)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.watchers[id] = append(tr.watchers[id], ch)
	return ch, func() {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		list := tr.watchers[id]
		for i := range list {
			if list[i] == ch {
				list = append(list[:i], list[i+1:]...)
				break
			}
		}
		if len(list) == 0 {
			delete(tr.watchers, id)
		} else {
			tr.watchers[id] = list
		}
	}
}

// cancel ends a task; principal "" means anybody's.
func (tr *taskRunner) cancel(principal, actor, id, why string) (*taskRecord, error) {
	rec, changed, err := tr.store.cancel(principal, actor, id, why)
	if err == nil && changed {
		tr.over(rec)
	}
	return rec, err
}

// news lets the handler of a task look at its answers, or, when it has none in
// memory, starts it again.
func (tr *taskRunner) news(rec *taskRecord) {
	tr.mu.Lock()
	run := tr.active[rec.ID]
	due := rec.Owner == "" && rec.Status == TaskWorking
	switch {
	case run != nil:
		run.again = run.again || due // it is on its way out
		run.poke()
	case due && tr.tools[rec.Tool] != nil && tr.queue.len() < tr.limits.Queue:
		tr.later = max(0, tr.later-1)
		tr.queue.push(rec.ready())
		tr.dispatch()
	case due:
		tr.poke() // the queue on disk has it
	}
	tr.mu.Unlock()
	tr.changed(rec)
}

// ready is the task as the queue knows it.
func (rec *taskRecord) ready() readyTask {
	return readyTask{due: rec.Due, id: rec.ID, tool: rec.Tool, principal: rec.Principal}
}

// describe is for log lines.
func (rec *taskRecord) describe() string { return fmt.Sprintf("%s (%s)", rec.ID, rec.Tool) }
