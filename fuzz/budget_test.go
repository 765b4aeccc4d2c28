package fuzz

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// thorough: somebody asked for a number of crash states, so time is no matter.
var thorough = os.Getenv("ERLMCP_CRASH_STATES") != ""

// raceScale divides default budgets under the race detector, which makes
// everything six to fifteen times slower. What it is to find, unguarded memory,
// shows in a sample; `make test` runs the enumeration in full without it.
func raceScale(n int) int {
	if raceEnabled {
		return max(1, n/raceThinning)
	}
	return n
}

const raceThinning = 10

// thinned leaves out most places of a workload under the race detector, never
// the same ones for every seed.
func thinned(n int, seed uint64) bool {
	return raceEnabled && !thorough && (uint64(n)+seed)%raceThinning != 0
}

// crashStates is how many crash states the enumerations try together.
func crashStates(t testing.TB) int {
	return int(env(t, "ERLMCP_CRASH_STATES", uint64(raceScale(10_000))))
}

// env reads a whole number from the environment.
func env(t testing.TB, name string, def uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is not a whole number", name, s)
	}
	return n
}

// tally counts what a test has tried, for the report that it prints.
type tally struct {
	mu    sync.Mutex
	n     map[string]int
	since time.Time // of the first count
	told  time.Time // when progress was printed last
}

func (c *tally) add(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
		c.since = time.Now()
		c.told = c.since
	}
	c.n[key]++
}

// progress prints where a long campaign stands, every half minute.
func (c *tally) progress(t testing.TB, what string, want int) {
	t.Helper()
	c.mu.Lock()
	due := c.n != nil && time.Since(c.told) > 30*time.Second
	if due {
		c.told = time.Now()
	}
	c.mu.Unlock()
	if due {
		t.Logf("progress: %d of %d %s after %.0f s", c.total(), want, what, c.seconds())
	}
}

// seconds since the first count.
func (c *tally) seconds() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.since).Seconds()
}

func (c *tally) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.n {
		n += k
	}
	return n
}

func (c *tally) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprint(c.n) // maps print sorted
}
