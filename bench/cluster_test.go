package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/bench/clusters"
)

func TestAClusterOfEveryKindTakesWritesAndOutlivesItsLeader(t *testing.T) {
	for _, k := range clusters.Kinds() {
		if k.Slow {
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			p, err := startCluster(k.Name, t.TempDir(), nil)
			require.NoError(t, err)
			defer p.kill()
			leader, err := p.settled()
			require.NoError(t, err)
			o, err := p.press(leader, order{Writers: 4, Size: 1024, Duration: 50 * time.Millisecond, Seed: 1})
			require.NoError(t, err)
			require.Positive(t, o.Rate)
			require.GreaterOrEqual(t, o.Written, 2*1024.0, "two members or more have it on the disk")

			r := failoverRun{common: &common{seed: 1}, writers: 2}
			gap, err := r.killLeader(p, rand.New(rand.NewPCG(1, 1)))
			require.NoError(t, err)
			require.Positive(t, gap)
			_, err = p.settled()
			require.NoError(t, err, "the killed member came back")
		})
	}
}

func TestAFollowerThatMissedRowsHasThemAllLater(t *testing.T) {
	for _, snapshots := range []bool{false, true} {
		r := catchupRun{common: &common{dir: t.TempDir(), seed: 1}, mib: 12, size: 1024}
		_, err := r.once("erlmcp", snapshots, 0)
		require.NoError(t, err)
	}
}
