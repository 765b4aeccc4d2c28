package cluster

import (
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClientsTalkToASplittingCluster: whichever member the client talks to loses the others, in one direction or both, or is frozen,
// while the client still reaches it. It comes back when the next harm is done.
func TestClientsTalkToASplittingCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("splits networks for some seconds")
	}
	net := newFabric(t, 3)
	k := talkers(t, net)
	frozen := map[int]*node{}
	mend := func() {
		net.mendAll()
		for at, x := range frozen {
			require.NoError(t, syscall.Kill(x.server.PID(), syscall.SIGCONT))
			delete(frozen, at)
		}
	}
	t.Cleanup(mend)
	ways := []struct {
		name string
		harm func(at int)
	}{
		{"is cut off the others", net.cut},
		{"is not heard by the others", func(at int) {
			for j := range k.f.nodes {
				net.set(at, j, way{loss: 1})
			}
		}},
		{"does not hear the others", func(at int) {
			for j := range k.f.nodes {
				net.set(j, at, way{loss: 1})
			}
		}},
		{"freezes", func(at int) {
			x := k.f.nodes[at]
			require.NoError(t, syscall.Kill(x.server.PID(), syscall.SIGSTOP))
			frozen[at] = x
			// A client cannot tell a frozen member from a silent one: its open streams wait, its requests do not.
			time.AfterFunc(3*time.Second, func() { _ = syscall.Kill(x.server.PID(), syscall.SIGCONT) })
		}},
	}
	for name, talker := range k.clients(t) {
		t.Run(name, func(t *testing.T) {
			if talker.client == nil {
				t.Skip("no Node here: what runs in Node was NOT tested")
			}
			defer mend()
			every, most := 17, len(ways)
			if os.Getenv("ERLMCP_CONVERSATIONS") == "all" {
				every, most = 5, 5*len(ways)
			} else if name != "typescript" {
				t.Skip("make cluster-conversations runs this")
			}
			i, next := 0, 5
			k.f.leader()
			var done []string
			_, harms := k.talk(t, talker.client, talker.wanted, 0, most, func(n, passed int) bool {
				if n < next {
					return false
				}
				next = n + every
				mend()
				time.Sleep(400 * time.Millisecond) // they find each other
				w := ways[i%len(ways)]
				i++
				done = append(done, k.f.nodes[passed].name+" "+w.name)
				w.harm(passed)
				return true
			})
			t.Log(done)
			require.GreaterOrEqual(t, harms, min(3, most), "%v", slices.Compact(done))
		})
	}
}
