package cluster

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// obey gives a member's disk rules, "" none.
func (x *node) obey(t *testing.T, rules string) {
	t.Helper()
	next := x.rules + ".next"
	require.NoError(t, os.WriteFile(next, []byte(rules), 0o600))
	require.NoError(t, os.Rename(next, x.rules))
}

// TestSlowDisks: a follower's costs nothing, a leader's costs it the leadership, and a disk that does not answer at all is as
// good as a machine that died.
func TestSlowDisks(t *testing.T) {
	if os.Getenv("ERLMCP_TEST_CLUSTER") != "long" {
		t.Skip("make failures runs this; replication/pace_test.go has a disk that hangs")
	}
	f := (&fleet{t: t, bin: fixtureServer(t), disks: true, acked: map[string]bool{}}).found(3, nil)
	end := f.load("slow", 6)
	t.Logf("healthy: %d changes in 5 s", f.progress(5*time.Second))

	l, others := f.followers()
	slow := f.nodes[others[0]]
	term := f.status(f.nodes[l]).Term
	slow.obey(t, "sync wal/*.seg delay=300ms\n")
	n := f.progress(5 * time.Second)
	t.Logf("a follower's disk takes 300 ms longer: %d changes in 5 s", n)
	require.Positive(t, n)
	require.Equal(t, term, f.status(f.nodes[l]).Term, "no election because of it")
	slow.obey(t, "")

	x := f.leader()
	x.obey(t, "sync wal/*.seg delay=200ms\n")
	began := time.Now()
	next := f.leader(x)
	t.Logf("the leader's disk takes 200 ms longer: %s leads after %v", next.name, time.Since(began).Round(time.Millisecond))
	t.Logf("  %d changes in the next 5 s", f.progress(5*time.Second))
	require.Contains(t, f.status(next).Events[0].Reason, "handed over by "+x.name+": its disk takes")
	x.obey(t, "")

	x = f.leader()
	x.obey(t, "sync wal/*.seg delay=5s times=1\n")
	require.NoError(t, x.server.Logged("slow by 5s"))
	t.Logf("one write of the leader's disk takes 5 s: %v to the next acknowledged change", f.gap("hung", f.indexOf(x)+1))
	require.NotEqual(t, x, f.leader(x))
	f.wait("the member with the disk is back", func() bool { return f.status(x).Quorum })
	x.obey(t, "")
	end()
	f.check()
}
