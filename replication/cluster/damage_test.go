package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDamagedRowsAreReplacedWhenTheOthersCanSpareTheMember and not before: two that went at once would leave nobody to fetch from.
func TestDamagedRowsAreReplacedWhenTheOthersCanSpareTheMember(t *testing.T) {
	sites := threeMembers(t)
	l := leaderOf(t, sites)
	l.put("k", "v")
	equalStates(t, sites)
	hurt, other := sites[0], sites[1]
	if hurt == l {
		hurt = sites[2]
	}
	if other == l {
		other = sites[2]
	}
	if other == hurt {
		other = sites[1]
	}
	require.False(t, hurt.m.replace(t.Context(), hurt.m.Node().Status(), ""), "nothing is damaged")

	other.stop()
	require.False(t, hurt.m.replace(t.Context(), hurt.m.Node().Status(), "000005.sst"), "two of three are needed")
	require.Empty(t, hurt.m.Reason())
	other.run()
	wait(t, "its return", func() bool { return other.get("k") == "v" })

	first := hurt.m.Rebuild()
	wait(t, "its turn", func() bool { return hurt.m.replace(t.Context(), hurt.m.Node().Status(), "000005.sst") })
	<-first
	wait(t, "the rebuild", func() bool { return hurt.m.Reason() == "" && hurt.get("k") == "v" })
	require.Equal(t, 3, hurt.voters(), "it remembers its votes")
	l.put("more", "v")
	equalStates(t, sites)
}
