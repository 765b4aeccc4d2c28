package replication

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// TestAChangeThroughAFollowerDoesNotWaitForTheCommitTimeout: nothing else would tell the follower what is committed.
func TestAChangeThroughAFollowerDoesNotWaitForTheCommitTimeout(t *testing.T) {
	f := newFleet(t, 3, func(o *Options) { o.Timing.Commit = 10 * patience })
	f.forward = true
	f.startAll()
	f.eventually("a change through a follower", func() bool { // the stream to the leader is made on the way
		_, err := put(f.follower().store, "first", "1")
		return err == nil
	})
	for i := range 20 {
		p := f.follower()
		_, err := put(p.store, "k", string(rune('a'+i)))
		require.NoError(t, err)
		require.Equal(t, string(rune('a'+i)), local(p.store, "k"))
	}
}

func TestANoticeRaisesOnlyWhatTheMessageProves(t *testing.T) {
	b := &based{known: notice{term: 7, index: 100}}
	for _, c := range []struct {
		name   string
		a      raft.AppendEntriesRequest
		commit uint64
	}{
		{"entries beyond it", raft.AppendEntriesRequest{Term: 7, PrevLogEntry: 98, PrevLogTerm: 7, Entries: make([]*raft.Log, 5), LeaderCommitIndex: 90}, 100},
		{"entries before it", raft.AppendEntriesRequest{Term: 7, PrevLogEntry: 90, PrevLogTerm: 7, Entries: make([]*raft.Log, 5), LeaderCommitIndex: 90}, 95},
		{"newer commit index", raft.AppendEntriesRequest{Term: 7, PrevLogEntry: 120, PrevLogTerm: 7, LeaderCommitIndex: 110}, 110},
		{"another term", raft.AppendEntriesRequest{Term: 8, PrevLogEntry: 120, PrevLogTerm: 7, LeaderCommitIndex: 90}, 90},
		{"heartbeat", raft.AppendEntriesRequest{Term: 7}, 0},
	} {
		before := c.a.LeaderCommitIndex
		require.Equal(t, c.commit, b.informed(&c.a).LeaderCommitIndex, c.name)
		require.Equal(t, before, c.a.LeaderCommitIndex, "%s: the sender's own message was changed", c.name)
	}
}

// flaky is a transport to a member that is away until up is set.
type flaky struct {
	raft.Transport
	up    atomic.Bool
	sends atomic.Int64
}

func (f *flaky) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, a *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) error {
	if !heartbeat(a) {
		f.sends.Add(1)
	}
	if !f.up.Load() {
		return errors.New("away")
	}
	return nil
}

// alone is a transport of a leader that nobody can depose, to a non-voter that is away.
func alone(t *testing.T) (*fleet, *based, *flaky, *raft.AppendEntriesRequest, chan struct{}) {
	f := newFleet(t, 1, nil).startAll()
	l := f.leader()
	require.NoError(t, l.node.AddNonvoter(t.Context(), "away", "away"))
	to := &flaky{Transport: l.trans}
	stopped := make(chan struct{})
	b := &based{Transport: to, stop: make(chan struct{}), stopped: stopped}
	b.raft.Store(l.node.raft)
	return f, b, to, &raft.AppendEntriesRequest{Term: l.node.raft.CurrentTerm(), PrevLogEntry: 1, PrevLogTerm: 1}, stopped
}

func TestEntriesForAMemberThatIsAwayAreSentAsSoonAsItIsBack(t *testing.T) {
	f, b, to, entries, _ := alone(t)
	beat := &raft.AppendEntriesRequest{Term: entries.Term}
	sent := make(chan error, 1)
	go func() { sent <- b.AppendEntries("away", "away", entries, nil) }()
	f.eventually("the first try", func() bool { return to.sends.Load() == 1 })
	require.Error(t, b.AppendEntries("away", "away", beat, nil))
	select {
	case err := <-sent:
		t.Fatalf("not held: %v", err)
	case <-time.After(3 * awayLook):
	}
	to.up.Store(true)
	f.eventually("the entries arrive behind a heartbeat", func() bool {
		require.NoError(t, b.AppendEntries("away", "away", beat, nil))
		return len(sent) == 1
	})
	require.NoError(t, <-sent)
	require.EqualValues(t, 2, to.sends.Load())
}

func TestNothingIsHeldForNobody(t *testing.T) {
	f, b, _, entries, stopped := alone(t)
	require.Error(t, b.AppendEntries("nobody", "away", entries, nil), "not a member")
	require.Error(t, b.AppendEntries("away", "elsewhere", entries, nil), "the member has another address now")
	stale := *entries
	stale.Term--
	require.Error(t, b.AppendEntries("away", "away", &stale, nil), "of a term that is over")

	sent := make(chan error, 1)
	go func() { sent <- b.AppendEntries("away", "away", entries, nil) }()
	close(stopped)
	f.eventually("the end of the node", func() bool { return len(sent) == 1 })
	require.Error(t, <-sent)
}
