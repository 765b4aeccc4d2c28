package mcp

// fill copies the counters and gauges.
func (tr *taskRunner) fill(s *TaskStats) {
	c := &tr.stats
	s.Created, s.Completed, s.Failed, s.Cancelled = c.created.Load(), c.completed.Load(), c.failed.Load(), c.cancelled.Load()
	s.Expired, s.Retried, s.Resumed, s.Overloaded = c.expired.Load(), c.retried.Load(), c.resumed.Load(), c.overloaded.Load()
	s.Suspended = c.suspended.Load()
	s.Steps, s.Replayed, s.Questions = c.steps.Load(), c.replayed.Load(), c.questions.Load()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	s.Queued, s.Running, s.Unfinished = tr.queue.len(), tr.slots, tr.unfinished
	s.Waiting = tr.later
	for _, run := range tr.active {
		if run.parked.Load() {
			s.Waiting++
		}
	}
}

// TaskStats are counters of durable tasks since start, and gauges of the
// moment, as this process sees them.
type TaskStats struct {
	Created    uint64 // tasks made durable here
	Completed  uint64 // ended with a result, tool errors included
	Failed     uint64 // ended with a JSON-RPC error
	Cancelled  uint64
	Expired    uint64 // results removed after their time
	Retried    uint64 // failed attempts that got another one
	Resumed    uint64 // handlers started again after an interruption or a long wait
	Suspended  uint64 // waiting handlers that ended, to be resumed when the wait is over
	Overloaded uint64 // tasks refused for want of room
	Steps      uint64 // finished steps made durable
	Replayed   uint64 // steps answered from the journal
	Questions  uint64 // input requests made durable

	Queued     int // waiting for a worker
	Running    int // handlers running
	Waiting    int // waiting for an answer or a time
	Unfinished int // all that have not ended
}
