package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// network is three namespaces on one bridge: 10.99.N.1 .. 10.99.N.3.
type network struct {
	t      *testing.T
	prefix string
	bridge string
	subnet string
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newNetwork skips the test where network namespaces cannot be made.
func newNetwork(t *testing.T, nodes int) *network {
	id := os.Getpid() % 10000
	n := &network{t: t, prefix: fmt.Sprintf("ec%d", id), bridge: fmt.Sprintf("ecb%d", id), subnet: fmt.Sprintf("10.%d.%d", 64+id%128, id%250)}
	t.Cleanup(func() {
		for i := range nodes {
			_ = ip("netns", "del", n.space(i))
		}
		_ = ip("link", "del", n.bridge)
	})
	steps := [][]string{{"link", "add", n.bridge, "type", "bridge"}, {"addr", "add", n.subnet + ".254/24", "dev", n.bridge}, {"link", "set", n.bridge, "up"}}
	for i := range nodes {
		s, v := n.space(i), n.wire(i)
		steps = append(steps, []string{"netns", "add", s}, []string{"link", "add", v, "type", "veth", "peer", "name", "eth0", "netns", s},
			[]string{"link", "set", v, "master", n.bridge}, []string{"link", "set", v, "up"},
			[]string{"-n", s, "addr", "add", n.address(i) + "/24", "dev", "eth0"}, []string{"-n", s, "link", "set", "eth0", "up"},
			[]string{"-n", s, "link", "set", "lo", "up"})
	}
	for _, step := range steps {
		if err := ip(step...); err != nil {
			t.Skipf("SKIPPED: network namespaces are not permitted or iproute2 is missing here (run as root with iproute2): %v", err)
		}
	}
	return n
}

func (n *network) space(i int) string   { return fmt.Sprintf("%s-%d", n.prefix, i) }
func (n *network) wire(i int) string    { return fmt.Sprintf("%sv%d", n.prefix, i) }
func (n *network) address(i int) string { return fmt.Sprintf("%s.%d", n.subnet, i+1) }

// cut takes a member off the network, mend puts it back.
func (n *network) cut(i int)  { require.NoError(n.t, ip("link", "set", n.wire(i), "down")) }
func (n *network) mend(i int) { require.NoError(n.t, ip("link", "set", n.wire(i), "up")) }

func TestIsolatedLeaderIsReplacedAndRefusesMeanwhile(t *testing.T) {
	net := newNetwork(t, 3)
	f := newFleetOn(t, 3, net)
	end := f.load("cut", 6)
	l := f.leader()
	at := 0
	for i, x := range f.nodes {
		if x == l {
			at = i
		}
	}
	net.cut(at)
	f.mu.Lock()
	f.nodes[at].caller = nil // its clients cannot reach it either
	f.mu.Unlock()
	t.Logf("isolated leader to the next acknowledged change: %v", f.gap("isolated"))
	f.wait("the isolated member knows that it has no majority", func() bool {
		st := f.status(l)
		return st.State != "" && !st.Quorum && strings.Contains(st.QuorumError, "no leader is known")
	})
	for range 3 { // a flapping link
		net.mend(at)
		time.Sleep(150 * time.Millisecond)
		net.cut(at)
		time.Sleep(150 * time.Millisecond)
	}
	net.mend(at)
	f.mu.Lock()
	l.caller = l.server.Caller()
	f.mu.Unlock()
	end()
	f.check()
}
