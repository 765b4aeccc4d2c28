package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/test/process"
	"github.com/stretchr/testify/require"
)

// rounds is how often the leader is killed.
func rounds(t *testing.T) int {
	s := os.Getenv("ERLMCP_TEST_FAILOVERS")
	if s == "" {
		return 2
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// gap is how long it takes until a change that is begun now, on a member (at), is acknowledged by any.
func (f *fleet) gap(key string, at int) time.Duration {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), process.Patience)
	defer cancel()
	began := time.Now()
	require.NoError(f.t, f.write(ctx, key, at))
	return time.Since(began)
}

func TestLeaderIsKilledAndNothingAcknowledgedIsLost(t *testing.T) {
	f := newFleet(t, 3)
	end := f.load("kill", 6)
	var gaps []time.Duration
	for i := range rounds(t) {
		l := f.leader()
		f.kill(l)
		gaps = append(gaps, f.gap(fmt.Sprintf("gap-%d", i), f.indexOf(l)+1))
		f.start(l)
	}
	end()
	all := fmt.Sprint(gaps)
	slices.Sort(gaps)
	t.Logf("leader kill -9 to the next acknowledged change, %d times: median %v, max %v", len(gaps), gaps[len(gaps)/2], gaps[len(gaps)-1])
	if len(gaps) >= 20 {
		t.Logf("in order: %s\n%s", all, process.Histogram(gaps))
	}
	f.check()
}

func TestRollingRestartUnderLoad(t *testing.T) {
	f := newFleet(t, 3)
	end := f.load("roll", 6)
	for _, x := range f.nodes {
		f.stop(x)
		t.Logf("without %s: %v", x.name, f.gap("while-"+x.name, f.indexOf(x)+1))
		f.start(x)
	}
	end()
	f.check()
}

func TestFrozenLeaderIsReplacedAndComesBackHarmless(t *testing.T) {
	f := newFleet(t, 3)
	end := f.load("freeze", 6)
	l := f.leader()
	require.NoError(t, syscall.Kill(l.server.PID(), syscall.SIGSTOP))
	f.mu.Lock()
	c := l.caller
	l.caller = nil
	f.mu.Unlock()
	frozen := time.Now()
	t.Logf("frozen leader to the next acknowledged change: %v", f.gap("frozen", f.indexOf(l)+1))
	time.Sleep(max(0, 5*time.Second-time.Since(frozen))) // the length of the pause is the point
	require.NoError(t, syscall.Kill(l.server.PID(), syscall.SIGCONT))
	f.mu.Lock()
	l.caller = c
	f.mu.Unlock()
	end()
	f.check()
}
