package mcp

import (
	"errors"
	"time"
)

// TaskLimits bounds the durable tasks of a runtime. The zero value selects the
// defaults.
type TaskLimits struct {
	Workers    int // handlers that run at once; default 64
	Queue      int // tasks that wait for a worker; one more is refused with CodeOverloaded; default 1000
	Unfinished int // tasks that have not ended, those waiting for people included; default 10000

	// Of Queue and Unfinished, how much one principal may take, so that nobody
	// keeps all others out; default a quarter. Anonymous clients cannot be told
	// apart and share all of it.
	QueuePerPrincipal, UnfinishedPerPrincipal int

	// WaitGrace is how long a handler that can be resumed waits in memory in
	// Elicit and Ask; then, and for longer sleeps at once, the task waits in the
	// store only: see ErrSuspended. Default 5 s.
	WaitGrace time.Duration

	TTL          time.Duration // default of TaskOptions.TTL; 1 h
	PollInterval time.Duration // default of TaskOptions.PollInterval; 1 s
	TimeLimit    time.Duration // default of TaskOptions.TimeLimit; 5 min
	InputLimit   time.Duration // default of TaskOptions.InputLimit; 7 days

	// Node names this process among those that share a replicated store. Each
	// needs a name of its own that stays the same over restarts. Empty on a
	// store that one process owns.
	Node string
	// Lease is how long a node may be silent before others take over its
	// tasks; default 15 s. Too short costs work done twice, never results.
	Lease time.Duration
}

func (l TaskLimits) withDefaults() (TaskLimits, error) {
	if l.Workers < 0 || l.Queue < 0 || l.Unfinished < 0 || l.TTL < 0 || l.PollInterval < 0 || l.TimeLimit < 0 || l.InputLimit < 0 || l.Lease < 0 ||
		l.QueuePerPrincipal < 0 || l.UnfinishedPerPrincipal < 0 || l.WaitGrace < 0 {
		return l, errors.New("mcp: a limit of tasks is negative")
	}
	setDefault(&l.Workers, 64)
	setDefault(&l.Queue, 1000)
	setDefault(&l.Unfinished, 10000)
	setDefault(&l.QueuePerPrincipal, max(1, l.Queue/4))
	setDefault(&l.UnfinishedPerPrincipal, max(1, l.Unfinished/4))
	setDefault(&l.WaitGrace, 5*time.Second)
	setDefault(&l.TTL, time.Hour)
	setDefault(&l.PollInterval, time.Second)
	setDefault(&l.TimeLimit, 5*time.Minute)
	setDefault(&l.InputLimit, 7*24*time.Hour)
	setDefault(&l.Lease, 15*time.Second)
	return l, nil
}
