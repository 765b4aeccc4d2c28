// Package load is a crowd of clients that work in the ledger of a real server and remember what they were told.
//
//	Prepare -> Run (until the server dies or the context ends) -> restart -> Settle -> Compare -> Run -> ...
//
// Every client owns the work orders and andon events that it creates, so its own record says exactly what the server must hold:
// for an acknowledged change the status, the revision and the number of receipts; for the one change whose answer
// did not arrive, either all of it or nothing. Settle repeats such a change with its idempotency key and thereby
// learns which. Compare reads everything back and looks for what is missing, doubled, different or unexplained.
//
// A Load is driven from one goroutine; Take may be called from another while Run works.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/test/process"
)

// Load is the crowd.
type Load struct {
	clients []*client
	pace    time.Duration // of one client between two calls; 0: none

	mu         sync.Mutex
	interval   Interval
	total      Totals
	violations []string
}

// Interval is what happened since the last Take.
type Interval struct {
	Since     time.Time
	Latencies []time.Duration // of all answered calls, unordered
	Changes   int             // acknowledged
}

// Totals are counted over all runs.
type Totals struct {
	Calls, Changes, Repeats, Reads int
	Settled                        int            // changes whose answer did not arrive and that were settled later
	Refused                        map[string]int // by code; nothing was changed
	Compared                       int            // records compared with the server
}

// New returns n clients that invent their work from seed. rate is calls per second of all together, 0: as fast as
// they are answered.
func New(n int, rate float64, seed uint64) *Load {
	l := &Load{total: Totals{Refused: map[string]int{}}}
	if rate > 0 {
		l.pace = time.Duration(float64(n) / rate * float64(time.Second))
	}
	for i := range n {
		l.clients = append(l.clients, &client{
			number: i, rnd: rand.New(rand.NewPCG(seed, uint64(i))), orders: map[string]*record{}, andons: map[string]*record{},
		})
	}
	return l
}

// Prepare lifts the limits on work in progress, which are not what is tested here.
func (l *Load) Prepare(ctx context.Context, s *process.Server) error {
	c := s.Caller()
	defer c.Close()
	for _, bucket := range buckets {
		args := map[string]any{"bucket": bucket, "limit": 0, "unlimited": true, "idempotency_key": "limit-" + bucket}
		if _, err := c.Call(ctx, "wip_set_limit", args); err != nil {
			return err
		}
	}
	return nil
}

// Run lets all clients work until ctx ends or the server does not answer any more, and returns the errors with which
// clients stopped: none when ctx ended. A call in flight when ctx ends is waited for.
func (l *Load) Run(ctx context.Context, s *process.Server) []error {
	errs := make([]error, len(l.clients))
	l.Take()
	var all sync.WaitGroup
	for i, c := range l.clients {
		all.Go(func() { errs[i] = l.work(ctx, c, s) })
	}
	all.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func (l *Load) work(ctx context.Context, c *client, s *process.Server) error {
	caller := s.Caller()
	defer caller.Close()
	next := time.Now().Add(time.Duration(c.rnd.Int64N(int64(l.pace) + 1)))
	for {
		if wait := time.Until(next); l.pace > 0 && wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		next = maxTime(next.Add(l.pace), time.Now().Add(-l.pace)) // what was missed is not made up for in a burst
		if ctx.Err() != nil {
			return nil
		}
		if err := l.step(c, caller); err != nil {
			return fmt.Errorf("client %d: %w", c.number, err)
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// step makes one call. An error means that the outcome is unknown and the client cannot go on.
func (l *Load) step(c *client, caller *process.Caller) error {
	next := c.invent()
	if next.changes() {
		c.open = next
	}
	begin := time.Now()
	raw, err := caller.Call(context.Background(), next.tool, next.args)
	took := time.Since(begin)
	var no *process.Refused
	if errors.As(err, &no) {
		if !slices.Contains(expectedRefusals, no.Code) {
			l.violate("client %d: %s %v was refused: %v", c.number, next.tool, next.args, no)
		}
		if no.Code == "unknown_outcome" {
			return err
		}
		c.open = nil
	} else if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total.Calls++
	if no != nil {
		l.total.Refused[no.Code]++
		return nil
	}
	l.interval.Latencies = append(l.interval.Latencies, took)
	switch {
	case next.repeats != nil:
		l.total.Repeats++
	case next.changes():
		l.total.Changes++
		l.interval.Changes++
	default:
		l.total.Reads++
	}
	if problem := c.acknowledge(next, raw); problem != "" {
		l.violations = append(l.violations, fmt.Sprintf("client %d: %s", c.number, problem))
	}
	return nil
}

// expectedRefusals say "later" and promise that nothing was changed; Compare holds the server to that.
var expectedRefusals = []string{"overloaded", "no_space", "conflict", "unknown_outcome"}

// Settle repeats every change whose answer did not arrive, twice: both answers must be the same.
func (l *Load) Settle(ctx context.Context, s *process.Server) error {
	caller := s.Caller()
	defer caller.Close()
	for _, c := range l.clients {
		if c.open == nil {
			continue
		}
		first, err := caller.Call(ctx, c.open.tool, c.open.args)
		if err != nil {
			return fmt.Errorf("settle %s %v of client %d: %w", c.open.tool, c.open.args, c.number, err)
		}
		again, err := caller.Call(ctx, c.open.tool, c.open.args)
		if err != nil {
			return fmt.Errorf("repeat %s %v of client %d: %w", c.open.tool, c.open.args, c.number, err)
		}
		if !sameJSON(first, again) {
			l.violate("client %d: the same key gave two answers: %s and %s", c.number, first, again)
		}
		if problem := c.acknowledge(c.open, first); problem != "" {
			l.violate("client %d: %s", c.number, problem)
		}
		l.mu.Lock()
		l.total.Settled++
		l.mu.Unlock()
	}
	return nil
}

func (l *Load) violate(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.violations = append(l.violations, fmt.Sprintf(format, args...))
}

// Violations returns all broken promises so far; none is the only good answer.
func (l *Load) Violations() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.violations)
}

// Take returns what happened since the last Take or the begin of Run.
func (l *Load) Take() Interval {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.interval
	l.interval = Interval{Since: time.Now(), Latencies: make([]time.Duration, 0, len(taken.Latencies))}
	return taken
}

// Totals returns the counts over all runs.
func (l *Load) Totals() Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.total
	t.Refused = map[string]int{}
	for code, n := range l.total.Refused {
		t.Refused[code] = n
	}
	return t
}

// Orders returns how many work orders were acknowledged. Safe beside Run.
func (l *Load) Orders() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, c := range l.clients {
		n += len(c.orders)
	}
	return n
}
