package cluster

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/test/process"
	"github.com/stretchr/testify/require"
)

// TestOneWayLeader: a leader that hears nobody, or is heard by nobody, again and again. The gap is what a client sees that
// asks a member on the other side at the moment of the cut.
func TestOneWayLeader(t *testing.T) {
	times := 0
	if os.Getenv("ERLMCP_TEST_CLUSTER") == "long" {
		times = 20
	}
	if s := os.Getenv("ERLMCP_TEST_ONEWAY"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		times = n
	}
	if times == 0 {
		t.Skip("make failures runs this; TestBadNetwork does it once")
	}
	net := newFabric(t, 3)
	f := newFleetOn(t, 3, net)
	end := f.load("oneway", 4)
	for _, harm := range []struct {
		name string
		cut  func(leader, other int)
	}{
		{"hears nobody", func(l, o int) { net.set(o, l, way{loss: 1}) }},
		{"is heard by nobody", func(l, o int) { net.set(l, o, way{loss: 1}) }},
	} {
		var gaps []time.Duration
		for i := range times {
			l, others := f.followers()
			for _, o := range others {
				harm.cut(l, o)
			}
			at := time.Now()
			gap := f.gap(fmt.Sprintf("%s %d", harm.name, i), others[i%2])
			gaps = append(gaps, gap)
			net.mendAll()
			if gap > time.Second {
				t.Logf("GAP %v: leader %s, asked %s, cut at %v", gap, f.nodes[l].name, f.nodes[others[i%2]].name, at.UTC())
				for _, x := range f.nodes {
					t.Logf("%s: %s", x.name, x.server.Stderr())
				}
			}
			f.wait("a whole cluster", func() bool {
				return !slices.ContainsFunc(f.nodes, func(x *node) bool { return !f.status(x).Quorum })
			})
		}
		all := fmt.Sprint(gaps)
		slices.Sort(gaps)
		t.Logf("the leader %s, %d times: median %v, max %v\nin order: %s\n%s", harm.name, len(gaps), gaps[len(gaps)/2], gaps[len(gaps)-1], all, process.Histogram(gaps))
	}
	end()
	f.check()
}
