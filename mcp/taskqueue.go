package mcp

// taskQueue is what a runtime knows of the tasks that are due and wait for a
// worker, in order, and how many of them each principal has. The store has the
// truth; this may be forgotten. taskRunner.mu guards it.
type taskQueue struct {
	list     []readyTask
	known    map[string]bool // the ids in list
	promised map[string]int  // places for tasks that are being created, by principal
	by       map[string]int  // list and promised, by principal
	creating int             // sum of promised
	starting map[string]bool // being leased, not yet running: what the store shows of them is no news
}

func newTaskQueue() taskQueue {
	return taskQueue{known: make(map[string]bool), promised: make(map[string]int), by: make(map[string]int), starting: make(map[string]bool)}
}

// len counts the places that are taken.
func (q *taskQueue) len() int { return len(q.list) + q.creating }

// promise keeps a place for a task that is being created.
func (q *taskQueue) promise(principal string) {
	q.creating++
	q.promised[principal]++
	q.by[principal]++
}

// redeem takes a promise back; the task is pushed if it was made.
func (q *taskQueue) redeem(principal string) {
	q.creating--
	decrease(q.promised, principal)
	decrease(q.by, principal)
}

// push adds a task behind the others, once.
func (q *taskQueue) push(task readyTask) {
	if q.known[task.id] || q.starting[task.id] {
		return
	}
	q.known[task.id] = true
	q.by[task.principal]++
	q.list = append(q.list, task)
}

// pop takes the first task. There must be one. Call settled when it runs, or does not.
func (q *taskQueue) pop() readyTask {
	task := q.list[0]
	q.list[0] = readyTask{}
	q.list = q.list[1:]
	delete(q.known, task.id)
	decrease(q.by, task.principal)
	q.starting[task.id] = true
	return task
}

// start notes that a task is being leased; pop does so too.
func (q *taskQueue) start(id string) { q.starting[id] = true }

func (q *taskQueue) settled(id string) { delete(q.starting, id) }

// decrease keeps no zeros: the map must not remember everybody who ever called.
func decrease(m map[string]int, key string) {
	if m[key]--; m[key] <= 0 {
		delete(m, key)
	}
}
