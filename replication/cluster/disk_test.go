package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/replication"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func TestLeadershipGoesToAVoterWithAFastDiskOnly(t *testing.T) {
	const ms = time.Millisecond
	s := replication.Status{Commit: 5000, Members: []raft.Server{
		{ID: "me"}, {ID: "a"}, {ID: "b"}, {ID: "standby", Suffrage: raft.Nonvoter},
	}}
	well := func(disk time.Duration) sighting {
		return sighting{pong: pong{State: "Follower", Applied: 5000, Disk: int64(disk)}}
	}
	with := func(change func(*sighting)) sighting {
		x := well(ms)
		change(&x)
		return x
	}
	for name, c := range map[string]struct {
		mine time.Duration
		a, b sighting
		want string
	}{
		"the fastest":            {200 * ms, well(9 * ms), well(3 * ms), "b"},
		"fast enough itself":     {49 * ms, well(ms), well(ms), ""},
		"all are slow":           {200 * ms, well(51 * ms), well(190 * ms), ""},
		"not known":              {200 * ms, well(0), well(0), ""},
		"behind":                 {200 * ms, with(func(x *sighting) { x.pong.Applied = 5000 - nearness - 1 }), well(2 * ms), "b"},
		"unreachable":            {200 * ms, with(func(x *sighting) { x.err = errors.New("gone") }), well(2 * ms), "b"},
		"is fetching its state":  {200 * ms, with(func(x *sighting) { x.pong.State = "rebuilding" }), well(60 * ms), ""},
		"a standby never":        {200 * ms, well(60 * ms), well(60 * ms), ""},
		"three times is too few": {200 * ms, well(60 * ms), well(51 * ms), ""},
	} {
		s.Disk = c.mine
		got, _ := fitter("me", s, map[string]sighting{"a": c.a, "b": c.b, "standby": well(ms), "me": well(ms)})
		require.Equal(t, c.want, got, name)
	}
}

func TestASlowDiskIsEnduredForAMomentAndNotTooOften(t *testing.T) {
	var r relief
	at := time.Now()
	require.False(t, r.due("a", at))
	require.False(t, r.due("", at.Add(slowFor)), "a break")
	require.False(t, r.due("a", at.Add(slowFor)))
	require.True(t, r.due("a", at.Add(2*slowFor)))
	r = relief{last: at}
	require.False(t, r.due("a", at.Add(time.Second)))
	require.False(t, r.due("a", at.Add(time.Second+slowFor)), "it has just given leadership away")
	require.True(t, r.due("a", at.Add(reliefPause)))
}
