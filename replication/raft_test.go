package replication

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// patience bounds how long a test waits for something that must happen. The machine may be busy.
const patience = 30 * time.Second

// listFSM is the simplest state machine: the list of all commands.
type listFSM struct {
	mu   sync.Mutex
	list []string
}

func (f *listFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, string(l.Data))
	return len(f.list)
}

func (f *listFSM) commands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list)
}

func (f *listFSM) Snapshot() (raft.FSMSnapshot, error) { return listSnapshot(f.commands()), nil }

func (f *listFSM) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = strings.Fields(string(b))
	return err
}

type listSnapshot []string

func (s listSnapshot) Persist(sink raft.SnapshotSink) error {
	_, err := io.WriteString(sink, strings.Join(s, "\n"))
	return errors.Join(err, sink.Close())
}

func (s listSnapshot) Release() {}

// member is one node of a raft cluster on our LogStore: raft as it is, without the engine.
type member struct {
	id    raft.ServerID
	disk  *vfs.MemFS
	fs    *faultFS
	log   *wal.Log
	store *LogStore
	snaps *raft.InmemSnapshotStore
	fsm   *listFSM
	trans *raft.InmemTransport
	raft  *raft.Raft
}

type cluster struct {
	t       *testing.T
	members []*member
	servers []raft.Server
	conf    func(*raft.Config)
	ring    int64 // bytes of the log kept in memory
}

func newCluster(t *testing.T, n int, conf func(*raft.Config)) *cluster {
	t.Helper()
	return (&cluster{t: t, conf: conf}).begin(n)
}

func (c *cluster) begin(n int) *cluster {
	t := c.t
	for i := range n {
		m := &member{id: raft.ServerID(fmt.Sprintf("n%d", i)), disk: vfs.NewCrashableMem(), snaps: raft.NewInmemSnapshotStore()}
		c.members = append(c.members, m)
		c.servers = append(c.servers, raft.Server{ID: m.id, Address: raft.ServerAddress(m.id)})
	}
	for _, m := range c.members {
		c.start(m)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			if m.raft != nil {
				require.NoError(t, m.raft.Shutdown().Error())
				require.NoError(t, m.log.Close())
			}
		}
	})
	return c
}

func (c *cluster) start(m *member) {
	c.t.Helper()
	m.fs = &faultFS{FS: m.disk}
	var err error
	m.log, err = wal.Open("db/wal", wal.Options{FS: m.fs, SegmentSize: 64 << 10, RingBytes: c.ring})
	require.NoError(c.t, err)
	n := &Node{o: Options{ID: string(m.id)}, failed: make(chan struct{})} // for what it does with raft's goroutines
	m.store = NewLogStore(m.log, LogOptions{Halt: n.leave, RecentBytes: int(min(c.ring, 0))})
	_, m.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(m.id), 100*time.Millisecond)
	c.join(m)
	m.fsm = &listFSM{}
	cfg := raft.DefaultConfig()
	cfg.LocalID = m.id
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 100*time.Millisecond, 100*time.Millisecond, 50*time.Millisecond
	cfg.CommitTimeout = 5 * time.Millisecond
	cfg.Logger = hclog.NewNullLogger()
	if c.conf != nil {
		c.conf(cfg)
	}
	err = raft.BootstrapCluster(cfg, m.store, m.store, m.snaps, m.trans, raft.Configuration{Servers: c.servers})
	if !errors.Is(err, raft.ErrCantBootstrap) { // it has a history
		require.NoError(c.t, err)
	}
	n.running.Store(true)
	m.raft, err = raft.NewRaft(cfg, m.fsm, raftLog{m.store, n}, m.store, m.snaps, m.trans)
	require.NoError(c.t, err)
}

// join connects a member with all others.
func (c *cluster) join(m *member) {
	for _, o := range c.members {
		if o != m && o.trans != nil {
			o.trans.Connect(raft.ServerAddress(m.id), m.trans)
			m.trans.Connect(raft.ServerAddress(o.id), o.trans)
		}
	}
}

// isolate cuts a member off in both directions.
func (c *cluster) isolate(m *member) {
	m.trans.DisconnectAll()
	for _, o := range c.members {
		if o != m {
			o.trans.Disconnect(raft.ServerAddress(m.id))
		}
	}
}

// crash is a power loss: what was not synced is gone.
func (c *cluster) crash(m *member) {
	c.t.Helper()
	left := m.fs.die(vfs.CrashCloneCfg{})
	c.isolate(m)
	require.NoError(c.t, m.raft.Shutdown().Error())
	_ = m.log.Close()
	m.disk, m.raft = left, nil
}

// leader waits for a member that all running members but except take for the leader.
func (c *cluster) leader(except ...*member) *member {
	c.t.Helper()
	var found *member
	c.eventually("a leader", func() bool {
		found = nil
		for _, m := range c.members {
			if m.raft != nil && !slices.Contains(except, m) && m.raft.State() == raft.Leader {
				found = m
			}
		}
		return found != nil
	})
	return found
}

func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s did not happen within %v", what, patience)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// apply has the commands committed, by whatever leader there is. A command may be applied twice if a leader is lost.
func (c *cluster) apply(except *member, commands ...string) {
	c.t.Helper()
	for _, cmd := range commands {
		c.eventually("commit of "+cmd, func() bool {
			return c.leader(except).raft.Apply([]byte(cmd), time.Second).Error() == nil
		})
	}
}

// converge waits until every running member has applied the wanted commands, in the same order.
func (c *cluster) converge(want ...string) {
	c.t.Helper()
	c.eventually("convergence", func() bool {
		lists := map[string]bool{}
		for _, m := range c.members {
			if m.raft == nil {
				continue
			}
			list := m.fsm.commands()
			for _, w := range want {
				if !slices.Contains(list, w) {
					return false
				}
			}
			lists[strings.Join(list, " ")] = true
		}
		return len(lists) == 1
	})
}

func numbered(prefix string, n int) (s []string) {
	for i := range n {
		s = append(s, fmt.Sprintf("%s%d", prefix, i))
	}
	return s
}

func TestClusterElectsAppliesAndRestarts(t *testing.T) {
	c := newCluster(t, 3, nil)
	first := numbered("a", 50)
	c.apply(nil, first...)
	c.converge(first...)
	for _, m := range c.members {
		c.crash(m)
	}
	for _, m := range c.members {
		c.start(m)
	}
	more := numbered("b", 10)
	c.apply(nil, more...)
	c.converge(append(first, more...)...)
}

// TestRestartAppliesWhatIsKnownToBeCommitted: raft 1.8.0 forgets its configuration if RestoreCommittedLogs replays the
// entry that holds it, so that it needs a snapshot behind that entry. Node always gives it one (marks.go).
func TestRestartAppliesWhatIsKnownToBeCommitted(t *testing.T) {
	c := newCluster(t, 3, func(cfg *raft.Config) { cfg.RestoreCommittedLogs = true })
	c.apply(nil, "a")
	c.converge("a")
	for _, m := range c.members {
		require.NoError(t, m.raft.Snapshot().Error())
	}
	c.apply(nil, numbered("b", 20)...)
	c.converge(numbered("b", 20)...)
	l := c.leader()
	for _, m := range c.members {
		c.crash(m)
	}
	c.start(l) // alone: no leader, no quorum
	c.eventually("replay without a quorum", func() bool { return len(l.fsm.commands()) >= 20 })
	require.Len(t, l.raft.GetConfiguration().Configuration().Servers, 3)
}

func TestAcknowledgedCommandsSurviveTheLossOfLeaders(t *testing.T) {
	c := newCluster(t, 3, nil)
	var want []string
	for round := range 4 {
		cmds := numbered(fmt.Sprintf("r%d-", round), 20)
		c.apply(nil, cmds...)
		want = append(want, cmds...)
		l := c.leader()
		c.crash(l)
		after := numbered(fmt.Sprintf("s%d-", round), 5)
		c.apply(nil, after...)
		want = append(want, after...)
		c.start(l)
	}
	c.converge(want...)
}

func TestDeposedLeaderCutsItsUncommittedEntries(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.apply(nil, numbered("a", 10)...)
	c.converge(numbered("a", 10)...)
	old := c.leader()
	before := old.log.LastIndex()
	c.isolate(old)
	var lost []raft.ApplyFuture
	for i := range 30 { // they reach its log, but nobody else's
		lost = append(lost, old.raft.Apply(fmt.Appendf(nil, "lost%d", i), time.Second))
	}
	for _, f := range lost {
		require.Error(t, f.Error())
	}
	stored := old.log.LastIndex()
	require.Greater(t, stored, before, "at least one entry must have been stored to be cut")
	kept := numbered("kept", 5)
	c.apply(old, kept...)
	c.join(old)
	c.converge(append(numbered("a", 10), kept...)...)
	for _, m := range c.members {
		for _, cmd := range m.fsm.commands() {
			require.NotContains(t, cmd, "lost")
		}
	}
	c.crash(old)
	c.start(old)
	c.apply(nil, "end")
	c.converge("end")
}

func TestUserRestoreLeavesNoGapBehind(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.apply(nil, numbered("a", 20)...)
	c.converge(numbered("a", 20)...)
	state := listSnapshot{"restored"}
	body := strings.Join(state, "\n")
	l := c.leader()
	_, last := l.log.FirstIndex(), l.log.LastIndex()
	meta := &raft.SnapshotMeta{Version: 1, Index: last + 1000, Term: 1, Size: int64(len(body))}
	_ = l.raft.Restore(meta, strings.NewReader(body), patience) // may lose its leadership meanwhile
	c.eventually("restore", func() bool { return slices.Equal(l.fsm.commands(), state) })
	c.apply(nil, "after")
	c.converge("restored", "after")
	for _, m := range c.members {
		require.Greater(t, m.log.FirstIndex(), last, "entries from before the restore are gone on %s", m.id)
		require.Equal(t, []string{"restored", "after"}, m.fsm.commands())
	}
	c.crash(l)
	c.start(l)
	c.apply(nil, "end")
	c.converge("restored", "after", "end")
}

func TestFollowerCatchesUpThroughASnapshotAfterCompaction(t *testing.T) {
	c := newCluster(t, 3, func(cfg *raft.Config) { cfg.TrailingLogs = 5 })
	c.apply(nil, numbered("a", 10)...)
	c.converge(numbered("a", 10)...)
	l := c.leader()
	slow := c.members[0]
	if slow == l {
		slow = c.members[1]
	}
	c.crash(slow)
	c.apply(slow, numbered("b", 60)...)
	for _, m := range c.members {
		if m != slow {
			require.NoError(t, m.raft.Snapshot().Error())
			require.Greater(t, m.log.FirstIndex(), uint64(20), "the log was compacted")
		}
	}
	c.start(slow)
	c.converge(append(numbered("a", 10), numbered("b", 60)...)...)
	c.apply(nil, "end")
	c.converge("end")
}

func TestMemberWithAFailedDiskStopsAndTheOthersGoOn(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.apply(nil, numbered("a", 10)...)
	l := c.leader()
	l.fs.sick.Store(true)
	require.Error(t, l.raft.Apply([]byte("unknown"), 0).Error())
	c.apply(l, numbered("b", 10)...)
	<-l.store.Halted()
	require.ErrorIs(t, l.store.Err(), wal.ErrFailed)
	c.crash(l)
	c.start(l)
	c.converge(append(numbered("a", 10), numbered("b", 10)...)...)
}

func TestDamageUnderACommittedEntryStopsTheMemberWithoutAPanic(t *testing.T) {
	c := (&cluster{t: t, ring: -1}).begin(3) // entries are read from disk
	c.apply(nil, numbered("a", 10)...)
	c.converge(numbered("a", 10)...)
	l := c.leader()
	bad := c.members[0]
	if bad == l {
		bad = c.members[1]
	}
	bad.fs.rot.Store(true)
	c.apply(bad, numbered("b", 10)...)
	<-bad.store.Halted()
	require.ErrorIs(t, bad.store.Err(), wal.ErrCorrupt)
	c.crash(bad)
	c.start(bad)
	c.converge(append(numbered("a", 10), numbered("b", 10)...)...)
}

// TestRandomCrashesLoseNothing crashes and isolates random members while commands are applied.
func TestRandomCrashesLoseNothing(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 1))
	c := newCluster(t, 3, nil)
	var want []string
	for round := range 8 {
		m := c.members[rng.IntN(len(c.members))]
		crash := rng.IntN(2) == 0
		if crash {
			c.crash(m)
		} else {
			c.isolate(m)
		}
		cmds := numbered(fmt.Sprintf("%d.", round), 1+rng.IntN(10))
		c.apply(m, cmds...)
		want = append(want, cmds...)
		if crash {
			c.start(m)
		} else {
			c.join(m)
		}
	}
	c.converge(want...)
}
