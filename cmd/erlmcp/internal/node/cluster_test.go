package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/mcp/failover"
)

// TestALostDirectoryDoesNotBeginAnew: what it would take, no cluster would ever hear of.
func TestALostDirectoryDoesNotBeginAnew(t *testing.T) {
	disk := simdisk.New(simdisk.Options{})
	r := runNode(t, disk, config.Assignment{Key: "cluster.required", Value: "on"})
	err := r.end()
	require.ErrorIs(t, err, ErrNoMember)
	require.ErrorContains(t, err, "erlmcp cluster join")
	_, err = disk.Stat(disk.PathJoin(r.dir, "FORMAT"))
	require.Error(t, err, "nothing was written")
}

func TestServersAndClientsMeanTheSameHeader(t *testing.T) {
	require.Equal(t, "Erlmcp-History", failover.HistoryHeader, "clients in other languages read it by this name")
}
