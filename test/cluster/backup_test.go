package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/process"
)

// repository is what `erlmcp backup list --json` says.
type repository struct {
	Backups []struct {
		Backup uint64
		Type   string
		Index  uint64
		Life   string
	}
	Log []struct {
		Life        string
		First, Last uint64
	}
}

func listed(t *testing.T, repo string) (r repository) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(command(t, "backup", "list", "--json", "--repo", repo, "--no-encryption")), &r))
	return r
}

// backups is the part of `erlmcp status --json` about the schedules.
type backups struct {
	Store struct {
		Applied   uint64 `json:"applied_index"`
		StateHash string `json:"state_hash"`
	}
	Backup struct {
		Archive struct{ Index, Behind uint64 }
		Jobs    []struct {
			Job  string
			Runs uint64
		}
	}
}

func (f *fleet) backups(x *node) (b backups) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, out, err := process.Command(ctx, binary, "status", "--json", "--data", x.dir); err == nil {
		_ = json.Unmarshal([]byte(out), &b)
	}
	return b
}

func TestOnlyTheLeaderBacksUpAndAnotherOneGoesOnWhereItStopped(t *testing.T) {
	repo := filepath.Join(t.TempDir(), "repo")
	command(t, "backup", "init", "--repo", repo, "--no-encryption")
	f := newFleetOn(t, 3, nil, "--set", "backup.repository="+repo, "--set", "backup.encryption=off", "--set", "backup.archive=100ms", "--set", "backup.incremental=744h")
	ctx := context.Background()
	write := func(name string, n int) {
		for i := range n {
			require.NoError(t, f.write(ctx, fmt.Sprintf("%s-%d", name, i), i))
		}
	}
	leader := f.leader()
	write("first", 10)
	archived := func(x *node) func() bool {
		return func() bool {
			b := f.backups(x)
			return b.Backup.Archive.Index > 0 && b.Backup.Archive.Behind == 0
		}
	}
	f.wait("the archive of the first leader", archived(leader))
	for _, x := range f.nodes {
		if x != leader {
			require.NotContains(t, x.server.Stderr(), "backup job done", "%s does not lead", x.name)
		}
	}
	one := listed(t, repo)
	require.Len(t, one.Backups, 1, "three members, one schedule")
	require.Contains(t, leader.server.Stderr(), "backup job done")

	f.kill(leader)
	next := f.leader(leader)
	write("second", 10)
	f.wait("the archive of the next leader", func() bool {
		for _, span := range listed(t, repo).Log {
			if span.Last >= f.backups(next).Store.Applied {
				return true
			}
		}
		return false
	})
	two := listed(t, repo)
	require.Len(t, two.Log, 1, "one piece of log, without a gap: %+v", two.Log)
	for _, b := range two.Backups {
		require.Equal(t, one.Backups[0].Life, b.Life, "all members share a life")
	}
	// By hand, on a member that does not lead. Its log may not reach back to the first backup, which was made before it joined: then it is full.
	other := f.nodes[0]
	for _, x := range f.nodes {
		if x != leader && x != next {
			other = x
		}
	}
	out := command(t, "backup", "create", "--data", other.dir)
	require.Contains(t, out, "state hash")
	require.Greater(t, len(listed(t, repo).Backups), len(two.Backups))
	restored := filepath.Join(t.TempDir(), "restored")
	text := command(t, "backup", "restore", "latest", "--to", restored, "--repo", repo, "--no-encryption")
	require.Contains(t, text, "restored")
	_, verified, err := process.Command(ctx, binary, "verify", "--data", restored)
	require.NoError(t, err)
	require.NotContains(t, strings.ToUpper(verified), "DAMAGED")
	f.start(leader)
	f.check()
}
