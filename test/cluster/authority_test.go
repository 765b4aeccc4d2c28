package cluster

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/replication/cluster"
	"github.com/erlmcp/erlmcp/test/process"
)

// issuers are the authorities that the members' certificates are of.
func issuers(st cluster.Status) map[string]bool {
	out := map[string]bool{}
	for _, m := range st.Members {
		out[m.Issuer] = true
	}
	return out
}

// rotated waits until a rotation is over and every member has a certificate of one authority, and returns its id.
func (f *fleet) rotated(old string) string {
	f.t.Helper()
	id := ""
	f.wait("a new authority everywhere", func() bool {
		for _, x := range f.nodes {
			st := f.status(x)
			if st.Rotation != nil || st.Cluster == old || len(issuers(st)) != 1 || !issuers(st)[st.Cluster] || !st.Quorum {
				return false
			}
			id = st.Cluster
		}
		return true
	})
	return id
}

// TestTheAuthorityIsRotatedUnderLoad: nothing fails, whoever is restarted afterwards still belongs, and what was good for the old
// authority is worth nothing.
func TestTheAuthorityIsRotatedUnderLoad(t *testing.T) {
	f := newFleet(t, 3)
	first := f.status(f.nodes[0]).Cluster
	// One that does not vote gets its certificates from those that do.
	standby := &node{name: "n4", dir: t.TempDir(), address: freeAddress(t)}
	command(t, "cluster", "join", "--data", standby.dir, "--name", standby.name, "--advertise", standby.address,
		strings.TrimSpace(command(t, "cluster", "token", "--non-voter", "--data", f.nodes[0].dir)))
	f.start(standby)
	f.nodes = append(f.nodes, standby)
	token := strings.TrimSpace(command(t, "cluster", "token", "--data", f.nodes[0].dir))
	end := f.load("ca", 6)
	command(t, "cluster", "ca", "rotate", "--data", f.nodes[2].dir)
	second := f.rotated(first)
	require.NotEqual(t, first, second)
	end()
	require.NoFileExists(t, filepath.Join(standby.dir, "cluster", "ca.key"))
	out := command(t, "cluster", "status", "--data", f.nodes[1].dir)
	require.Contains(t, out, second[:8]+" until ")
	require.Contains(t, out, "the old one is dropped")

	code, out, err := process.Command(t.Context(), binary, "cluster", "join", "--data", t.TempDir(), "--name", "n4", "--advertise", "127.0.0.1:1", token)
	require.NoError(t, err)
	require.NotZero(t, code)
	require.Contains(t, out, "belongs to cluster "+second)

	for _, x := range f.nodes { // from their files
		f.kill(x)
		f.start(x)
	}
	require.Equal(t, second, f.rotated(first))
	f.check()
}

// TestAMemberMissesTheRotation: the others wait for it and say so; when they are told not to, it finds strangers, is told what to do,
// and comes back with its store.
func TestAMemberMissesTheRotation(t *testing.T) {
	f := newFleet(t, 3)
	away, here := f.nodes[2], f.nodes[0]
	first := f.status(here).Cluster
	f.kill(away)
	f.leader(away)
	command(t, "cluster", "ca", "rotate", "--data", here.dir)
	f.wait("the others wait", func() bool {
		r := f.status(here).Rotation
		return r != nil && len(r.Waiting) == 1 && r.Waiting[0] == away.name
	})
	out := command(t, "cluster", "status", "--data", here.dir)
	require.Contains(t, out, "waiting for "+away.name)
	f.start(away) // it comes back in time
	second := f.rotated(first)

	f.kill(away)
	f.leader(away)
	command(t, "cluster", "ca", "rotate", "--data", here.dir)
	f.wait("the others wait", func() bool {
		r := f.status(here).Rotation
		return r != nil && len(r.Waiting) == 1 && r.Waiting[0] == away.name
	})
	command(t, "cluster", "ca", "finish", "--data", here.dir)
	f.wait("the rotation ends without it", func() bool {
		st := f.status(here)
		return st.Rotation == nil && st.Cluster != second && st.Cluster != ""
	})
	lost, err := process.Launch(process.Options{Binary: binary, Dir: away.dir})
	require.NoError(t, err)
	err = lost.Logged("erlmcp cluster ca accept")
	lost.Kill()
	require.NoError(t, err)

	token := strings.TrimSpace(command(t, "cluster", "token", "--data", here.dir))
	command(t, "cluster", "ca", "accept", "--data", away.dir, token)
	f.start(away)
	f.rotated(second)
	f.check()
}
