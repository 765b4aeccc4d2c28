package mcp

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// cutOffAfter is how long a member of a cluster may be without proof that a
// majority is there until it ends the event streams of its clients. Requests are
// refused about as soon. A client would wait at an open stream for ever while
// its session goes on elsewhere; one whose stream ends asks the next member.
const cutOffAfter = 3 * time.Second

// A cutOff tells open responses when this member has lost the others.
type cutOff struct {
	mu  sync.Mutex
	now chan struct{} // closed while cut off
	off bool
}

func newCutOff() *cutOff { return &cutOff{now: make(chan struct{})} }

// begun is closed when this member is cut off, and when it already is.
func (c *cutOff) begun() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *cutOff) set(off bool) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off == off {
		return false
	}
	c.off = off
	if off {
		close(c.now)
	} else {
		c.now = make(chan struct{})
	}
	return true
}

// watchMajority runs until ctx ends.
func (r *Runtime) watchMajority(ctx context.Context) {
	tick := time.NewTicker(cutOffAfter / 12)
	defer tick.Stop()
	for {
		_, age := r.opts.Freshness()
		off := age < 0 || age > cutOffAfter
		if r.cut.set(off) && off {
			r.log.Warn("no majority of the cluster is in reach: the event streams of clients end, so that they turn to other members", "age", age)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// errCutOff is the answer of what waits for news on a member that gets none.
func errCutOff() *wireError {
	return refuse(http.StatusServiceUnavailable, CodeOverloaded, "overloaded: this member has lost the majority of its cluster; ask another one")
}
