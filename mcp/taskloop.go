package mcp

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

// This file is the loop of taskRunner: it makes true again what a crash, a
// lost node or a lost wake-up left undone.

// taskPolicy is what the runner must know of a tool to deal with an
// interrupted task.
type taskPolicy struct {
	resumable  bool
	maxResumes int
}

func (tr *taskRunner) policy(tool string) *taskPolicy {
	if t := tr.tool(tool); t != nil {
		return &taskPolicy{resumable: t.opts.Resumable, maxResumes: t.opts.MaxResumes}
	}
	return nil // it stays as it is until the tool is registered
}

// loop runs until the runtime closes.
func (tr *taskRunner) loop(ctx context.Context) {
	defer close(tr.ended)
	defer tr.stop()
	for {
		wait := taskPoll
		if next, err := tr.pass(ctx); err != nil && ctx.Err() == nil {
			tr.rt.log.Warn("tasks: cannot look after the queue; trying again", "error", err)
		} else if next > 0 {
			wait = min(wait, next)
		}
		wake := make(chan struct{})
		stop := tr.rt.opts.AfterFunc(wait, func() { close(wake) })
		select {
		case <-wake:
		case <-tr.kick:
		case <-ctx.Done():
		}
		stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// pass looks at the queue once and returns how long until the next waiting
// task is due; 0: unknown.
func (tr *taskRunner) pass(ctx context.Context) (time.Duration, error) {
	if err := tr.own(); err != nil {
		return 0, err
	}
	tr.mu.Lock()
	room := tr.limits.Queue + tr.limits.Workers // those in tr.queue are seen again
	before := make(map[string]*taskRun, len(tr.active))
	for id, run := range tr.active {
		before[id] = run
	}
	counted := tr.counted
	tr.mu.Unlock()
	view, err := tr.store.survey(ctx, room, func(tool string) bool { return tr.tool(tool) != nil })
	if err != nil {
		return 0, err
	}
	tr.compare(before, view.leases)
	tr.adopt(tr.orphans(view))
	tr.refill(view, counted)
	for {
		n, err := tr.store.expire(ctx)
		tr.stats.expired.Add(uint64(n))
		if err != nil || n < expireBatch {
			if view.next == 0 || err != nil {
				return 0, err
			}
			return max(time.Millisecond, time.UnixMilli(view.next).Sub(tr.rt.opts.Now())), nil
		}
	}
}

// own registers this runtime as an owner of leases and keeps it one.
func (tr *taskRunner) own() error {
	tr.mu.Lock()
	began := tr.rt.opts.Now()
	owner, due := tr.owner, tr.limits.Node != "" && !began.Before(tr.nextBeat)
	tr.mu.Unlock()
	if owner == "" {
		owner = rand.Text()
		if err := tr.store.register(owner, tr.limits.Node); err != nil {
			return err
		}
	} else if due {
		err := tr.store.beat(owner)
		if errors.Is(err, errLeaseLost) {
			tr.deposed()
			return tr.own()
		}
		if err != nil {
			return err
		}
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if due || tr.owner != owner {
		tr.proven = began // before the write: a pause may have come between
	}
	tr.owner = owner
	if due || tr.nextBeat.IsZero() {
		tr.nextBeat = tr.rt.opts.Now().Add(tr.limits.Lease / 3)
	}
	return nil
}

// deposed stops every handler: another runtime has taken over.
func (tr *taskRunner) deposed() {
	tr.mu.Lock()
	tr.owner = ""
	runs := make([]*taskRun, 0, len(tr.active))
	for _, run := range tr.active {
		runs = append(runs, run)
	}
	tr.mu.Unlock()
	tr.rt.log.Warn("tasks: this node was silent for longer than its lease; others have taken over", "tasks", len(runs))
	for _, run := range runs {
		run.cancel(errLeaseLost)
	}
}

// compare stops handlers whose lease is gone and wakes those for which there
// is news. Only handlers that ran before the queue was read are judged.
func (tr *taskRunner) compare(before map[string]*taskRun, leases map[string]leaseEntry) {
	for id, run := range before {
		lease, found := leases[id]
		switch {
		case !found || lease.Owner != run.f.owner || lease.Token != run.f.token:
			run.cancel(errLeaseLost)
		case lease.News != run.news.Swap(lease.News):
			run.poke()
		}
	}
}

// orphan is a lease whose owner will not use it any more.
type orphan struct{ id, owner string }

// ownStrikes is how often a lease of this runtime without a handler must be
// seen before it counts as lost: its handler may have ended meanwhile.
const ownStrikes = 3

// orphans picks the leases to take over.
func (tr *taskRunner) orphans(view queueView) []orphan {
	now := tr.rt.opts.Now()
	var list []orphan
	tr.mu.Lock()
	var silent []string
	for owner, entry := range view.owners {
		last, known := tr.silence[owner]
		switch {
		case owner == tr.owner || entry.Node == "":
		case !known || last.beat != entry.Beat:
			tr.silence[owner] = ownerSilence{beat: entry.Beat, since: now}
		case now.Sub(last.since) >= tr.limits.Lease:
			silent = append(silent, owner)
		}
	}
	for owner := range tr.silence {
		if _, alive := view.owners[owner]; !alive {
			delete(tr.silence, owner)
		}
	}
	strikes := make(map[string]int)
	for id, lease := range view.leases {
		_, alive := view.owners[lease.Owner]
		switch {
		case lease.Owner == tr.owner && tr.queue.starting[id]:
		case lease.Owner == tr.owner && tr.active[id] == nil:
			if strikes[id] = tr.strikes[id] + 1; strikes[id] >= ownStrikes {
				list = append(list, orphan{id, lease.Owner})
			}
		case !alive:
			list = append(list, orphan{id, lease.Owner})
		}
	}
	tr.strikes = strikes
	tr.mu.Unlock()
	for _, owner := range silent {
		tr.rt.log.Warn("tasks: a node is silent; taking over its tasks", "node", view.owners[owner].Node, "lease", tr.limits.Lease)
		if err := tr.store.depose(owner, view.owners[owner].Beat); err != nil {
			tr.rt.log.Warn("tasks: cannot take over", "error", err)
		}
	}
	if len(silent) > 0 {
		tr.poke() // the next pass finds their leases without an owner
	}
	return list
}

// adopters is how many interrupted tasks are dealt with at once: their commits
// share flushes of the disk.
const adopters = 32

// adopt gives interrupted tasks back to the queue, or ends them.
func (tr *taskRunner) adopt(list []orphan) {
	if len(list) == 0 {
		return
	}
	var group sync.WaitGroup
	slots := make(chan struct{}, adopters)
	for _, o := range list {
		slots <- struct{}{}
		group.Add(1)
		go func() {
			defer group.Done()
			defer func() { <-slots }()
			rec, err := tr.store.hand(o.id, o.owner, "the server restarted", tr.policy)
			switch {
			case errors.Is(err, errNotReady):
			case err != nil:
				tr.rt.log.Warn("tasks: an interrupted task cannot be taken over now", "task", o.id, "error", err)
			case rec.Status.Final():
				tr.over(rec)
			}
		}()
	}
	group.Wait()
	tr.poke() // what was given back is due
}

// maxSkipped is how many passes in a row may leave the counts as they are.
const maxSkipped = 10

// recount takes over how many tasks have not ended. A task that is created or
// ends while the store is read would be counted twice or not at all, and this
// process counts its own exactly: what others did can wait for a quiet moment.
// tr.mu is held.
func (tr *taskRunner) recount(view queueView, counted uint64) {
	if tr.skipped++; (tr.counted != counted || tr.making > 0) && tr.skipped <= maxSkipped {
		return
	}
	tr.skipped = 0
	tr.unfinished = view.due + view.later + len(view.leases) + tr.queue.creating
	tr.by = view.by
	for principal, n := range tr.queue.promised {
		tr.by[principal] += n
	}
}

// refill takes over what is due and corrects the counts. counted is what
// tr.counted was before the store was read.
func (tr *taskRunner) refill(view queueView, counted uint64) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, task := range view.ready {
		switch run := tr.active[task.id]; {
		case run != nil:
			run.again = true // it was suspended and has not returned yet
		case tr.tools[task.tool] != nil:
			tr.queue.push(task)
		}
	}
	tr.later = view.later
	tr.recount(view, counted)
	tr.dispatch()
}

// Patience of stop. Handlers that cannot be resumed may use graceTime to end
// by themselves; all have stopTime to return.
const (
	taskGraceTime = 1 * time.Second
	taskStopTime  = 2 * time.Second
)

// stop ends all handlers and returns their leases, so that the next start
// continues at once.
func (tr *taskRunner) stop() {
	tr.mu.Lock()
	tr.stopping = true
	owner := tr.owner
	runs := make([]*taskRun, 0, len(tr.active))
	for _, run := range tr.active {
		runs = append(runs, run)
	}
	tr.mu.Unlock()
	grace, patience := time.After(taskGraceTime), time.After(taskStopTime)
	for _, run := range runs {
		if run.tool.opts.Resumable || run.parked.Load() {
			run.cancel(errTaskStopping)
		}
	}
	for _, run := range runs {
		for done := false; !done; {
			select {
			case <-run.ended:
				done = true
			case <-grace:
				grace = nil
				for _, run := range runs {
					run.cancel(errTaskStopping)
				}
			case <-patience:
				// Their leases stay: nobody may start them while they still run.
				tr.rt.log.Warn("tasks: handlers that ignore their context are left behind; the next start deals with their tasks")
				return
			}
		}
	}
	if owner != "" {
		if err := tr.store.resign(owner); err != nil {
			tr.rt.log.Debug("tasks: resign", "error", err)
		}
	}
}
