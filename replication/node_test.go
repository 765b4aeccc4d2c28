package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func TestUpdateOnTheLeaderIsVisibleEverywhere(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	want := rows("a", 30)
	f.putAll(want)
	f.converge(want)
	for _, p := range f.peers {
		rep, err := p.store.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, rep.Findings, p.id)
	}
	index, _ := f.leader().store.StateHash()
	for i := uint64(1); i <= index; i++ {
		hashes := map[[32]byte]bool{}
		for _, p := range f.peers {
			h, ok := p.store.StateHashAt(i)
			require.True(t, ok, "%s has no state hash at %d", p.id, i)
			hashes[h] = true
		}
		require.Len(t, hashes, 1, "state at index %d", i)
	}
}

func TestClusterOverTCP(t *testing.T) {
	f := newFleet(t, 3, nil)
	f.tcp = true
	for i, p := range f.peers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		p.addr = raft.ServerAddress(l.Addr().String())
		f.members[i].Address = p.addr
		require.NoError(t, l.Close())
	}
	f.startAll()
	want := rows("a", 20)
	f.putAll(want)
	f.converge(want)
	var writers sync.WaitGroup
	l := f.leader()
	for w := range 16 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for i := range 20 {
				_, _ = put(l.store, fmt.Sprintf("w%d-%d", w, i), "v")
			}
		}()
	}
	writers.Wait()
	l.fs.sick.Store(true)
	_, err := put(l.store, "unknown", "outcome")
	require.Error(t, err)
	f.put("k", "v", l)
	f.crash(l, vfs.CrashCloneCfg{})
	f.start(l)
	f.converge(want)
	f.crash(f.leader(), vfs.CrashCloneCfg{})
	f.put("k2", "v2")
	f.converge(map[string]string{"k": "v", "k2": "v2"})
}

func TestFollowerNamesTheLeader(t *testing.T) {
	calm := Timing{Heartbeat: 500 * time.Millisecond, Election: 500 * time.Millisecond, Lease: 500 * time.Millisecond, Commit: 5 * time.Millisecond}
	f := newFleet(t, 3, func(o *Options) { o.Timing = calm }).startAll()
	f.put("k", "v")
	f.converge(map[string]string{"k": "v"})
	var p *peer
	var nl *NotLeaderError
	f.eventually("a follower's answer with the right name", func() bool {
		p = f.follower()
		_, err := put(p.store, "x", "y")
		require.ErrorIs(t, err, ErrNotLeader)
		require.ErrorAs(t, err, &nl)
		return nl.Leader == f.leader().id
	})
	require.Equal(t, nl.Leader, nl.Address)
	require.False(t, nl.Heard.IsZero())
	require.Contains(t, nl.Error(), nl.Leader+" at "+nl.Address)
	require.Equal(t, "v", local(p.store, "k"), "a stale read on request is served")
	for _, refused := range []error{
		p.store.View(context.Background(), func(*engine.Tx) error { return nil }),
		p.node.AddVoter(context.Background(), "n9", "n9"),
		p.node.Remove(context.Background(), "n0"),
		p.node.HandOver(context.Background()),
	} {
		require.ErrorIs(t, refused, ErrNotLeader)
	}
	s := p.node.Status()
	require.Equal(t, p.id, s.ID)
	require.Len(t, s.Members, 3)
}

func TestNewLeaderHasEveryAcknowledgedWrite(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	want := map[string]string{}
	for round := range 3 {
		more := rows(fmt.Sprintf("r%d-", round), 10)
		f.putAll(more)
		for k, v := range more {
			want[k] = v
		}
		old := f.leader()
		f.crash(old, vfs.CrashCloneCfg{})
		l := f.leader()
		for k, v := range want {
			require.NoError(t, l.store.View(context.Background(), func(tx *engine.Tx) error {
				got, err := tx.Get("t", []byte(k))
				require.Equal(t, v, string(got))
				return err
			}))
		}
		f.start(old)
	}
	f.converge(want)
}

func TestMinorityServesNeitherWritesNorReads(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	f.put("k", "old")
	old := f.leader()
	f.isolate(old)
	f.put("k", "new", old)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := old.store.View(ctx, func(tx *engine.Tx) error { t.Error("a stale read was served as current"); return nil })
	require.ErrorIs(t, err, ErrNotLeader)
	_, err = put(old.store, "k", "lost")
	require.True(t, errors.Is(err, ErrNotLeader) || errors.Is(err, engine.ErrUnknownOutcome), "%v", err)
	f.join(old)
	f.converge(map[string]string{"k": "new"})
}

func TestRetryWithTheSameKeyHappensOnceAcrossLeaders(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	add := func(s *engine.Store) (engine.Result, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return s.Update(ctx, func(tx *engine.Tx) error {
			old, err := tx.Get("t", []byte("list"))
			if err != nil && !errors.Is(err, engine.ErrNotFound) {
				return err
			}
			tx.SetOutcome([]byte("added"))
			return tx.Put("t", []byte("list"), append(old, 'x'))
		}, engine.WithIdempotencyKey("once", []byte("h")))
	}
	var first engine.Result
	f.eventually("the first try", func() (ok bool) {
		var err error
		first, err = add(f.leader().store)
		return err == nil
	})
	f.crash(f.leader(), vfs.CrashCloneCfg{})
	again, err := add(f.leader().store)
	require.NoError(t, err)
	require.True(t, again.Duplicate)
	require.Equal(t, first.Index, again.Index)
	require.Equal(t, "added", string(again.Outcome))
	f.converge(map[string]string{"list": "x"})
}

func TestRestartBeginsBehindTheMark(t *testing.T) {
	f := newFleet(t, 3, func(o *Options) { o.MarkEvery, o.MarkInterval = 20, 5*time.Millisecond }).startAll()
	want := rows("a", 60)
	f.putAll(want)
	f.converge(want)
	marked := func(p *peer) uint64 {
		raw, ok := p.store.Log().Meta(markKey)
		if !ok {
			return 0
		}
		m, err := decodeMark(raw)
		require.NoError(t, err)
		require.Len(t, m.configuration.Servers, 3)
		return m.index
	}
	for _, p := range f.peers {
		f.eventually("a mark on "+p.id, func() bool { return marked(p) > 20 })
		require.LessOrEqual(t, marked(p), p.store.DurableIndex())
	}
	for _, p := range f.peers {
		f.crash(p, vfs.CrashCloneCfg{})
	}
	f.startAll()
	more := rows("b", 30)
	f.putAll(more)
	f.converge(want)
	f.converge(more)
}

func TestMemberRestartedAloneShowsWhatWasCommitted(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	want := rows("a", 20)
	f.putAll(want)
	f.converge(want)
	f.put("last", "its commit index may not be on disk")
	for _, p := range f.peers {
		f.crash(p, vfs.CrashCloneCfg{})
	}
	p := f.peers[1]
	f.start(p)
	for k, v := range want {
		require.Equal(t, v, local(p.store, k), "read without a quorum")
	}
	require.ErrorIs(t, p.store.View(context.Background(), func(*engine.Tx) error { return nil }), ErrNotLeader)
	require.Equal(t, 3, len(p.node.Status().Members), "it remembers the others")
}

func TestWatchersOnAMemberSeeWhatTheLeaderCommits(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	f.put("k0", "v0")
	p := f.follower()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := p.store.Watch(ctx, engine.WatchOptions{Table: "t", Prefix: []byte("k"), From: 1})
	defer w.Close()
	for i := 1; i < 5; i++ {
		f.put(fmt.Sprintf("k%d", i), fmt.Sprintf("v%d", i))
	}
	seen := map[string]string{}
	var last uint64
	for len(seen) < 5 {
		e, err := w.Next()
		require.NoError(t, err)
		require.Greater(t, e.Index, last)
		last, seen[string(e.Key)] = e.Index, string(e.Value)
	}
	require.Equal(t, map[string]string{"k0": "v0", "k1": "v1", "k2": "v2", "k3": "v3", "k4": "v4"}, seen)
}

func TestAsyncWritesAreCommittedToo(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	f.put("k", "v")
	f.eventually("an async write on a follower", func() bool { // one may be lost with its leader
		_, _ = put(f.leader().store, "async", "v", engine.WithDurability(engine.Async))
		return local(f.follower().store, "async") == "v"
	})
}

func TestOnlyTheLeaderSweeps(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	f.eventually("exactly one sweeper", func() bool {
		l, n := f.leader(), 0
		for _, p := range f.peers {
			if (committer{p.node}).MaySweep() {
				n++
			}
		}
		return n == 1 && (committer{l.node}).MaySweep()
	})
}

func TestSingleNodeBecomesACluster(t *testing.T) {
	f := newFleet(t, 3, nil)
	first := f.peers[0]
	alone, err := engine.Open("db", engineOptions(first.disk))
	require.NoError(t, err)
	want := rows("single", 20)
	for k, v := range want {
		_, err := put(alone, k, v)
		require.NoError(t, err)
	}
	require.NoError(t, alone.Close())

	all := f.members
	require.ErrorIs(t, f.open(first), ErrInvalid, "a store with history cannot start a cluster with others")
	f.members = nil
	require.ErrorIs(t, f.open(first), ErrInvalid, "a store with history cannot wait to be added")
	f.members = all[:1]
	f.start(first)
	f.put("k", "v")
	f.members = nil
	for _, p := range f.peers[1:] {
		f.start(p)
		f.eventually("adding "+p.id, func() bool { return f.leader().node.AddVoter(context.Background(), p.id, p.id) == nil })
	}
	f.converge(want)
	f.crash(first, vfs.CrashCloneCfg{})
	f.put("after", "the first node", first)
	f.start(first)
	f.converge(map[string]string{"k": "v", "after": "the first node"})
}

func TestClosingTheLeaderHandsOver(t *testing.T) {
	var warned atomic.Bool
	f := newFleet(t, 3, func(o *Options) {
		o.Timing = Timing{Heartbeat: time.Second, Election: time.Second, Lease: time.Second, Commit: 5 * time.Millisecond}
		o.Logger = slog.New(warnings{&warned})
	}).startAll()
	f.put("k", "v")
	l := f.leader()
	warned.Store(false)
	f.stop(l)
	require.False(t, warned.Load(), "the hand-over failed")
	f.put("k2", "v2")
	f.start(l)
	f.converge(map[string]string{"k": "v", "k2": "v2"})
}

// warnings notes that leadership was not handed over.
type warnings struct{ seen *atomic.Bool }

func (warnings) Enabled(context.Context, slog.Level) bool { return true }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler     { return w }
func (w warnings) WithGroup(string) slog.Handler          { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "replication: leadership not handed over" {
		w.seen.Store(true)
	}
	return nil
}

func TestRemovedNodeIsLeftBehind(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	f.put("k", "v")
	p := f.follower()
	f.eventually("removal", func() bool { return f.leader().node.Remove(context.Background(), p.id) == nil })
	f.eventually("its end", func() bool { return len(f.leader().node.Status().Members) == 2 })
	f.isolate(p)
	f.put("k2", "v2")
	require.Empty(t, local(p.store, "k2"))
}

func TestNodeWithAFailedDiskStopsAndTheOthersGoOn(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	f.put("k", "v")
	l := f.leader()
	l.fs.sick.Store(true)
	_, err := put(l.store, "unknown", "outcome")
	require.Error(t, err)
	<-l.node.Failed()
	<-l.store.Failed()
	require.ErrorIs(t, l.node.Err(), wal.ErrFailed)
	_, err = put(l.store, "x", "y")
	require.ErrorIs(t, err, engine.ErrFailed)
	f.put("k2", "v2", l)
	f.crash(l, vfs.CrashCloneCfg{})
	f.start(l)
	f.converge(map[string]string{"k": "v", "k2": "v2"})
}

func TestFullDiskOnTheLeaderStopsNoMember(t *testing.T) {
	f := newFleet(t, 3, nil).startAll()
	f.put("k", "v")
	l := f.leader()
	l.fs.full.Store(true)
	_, err := put(l.store, "refused", "x")
	require.Error(t, err)
	require.NoError(t, l.node.Err())
	f.put("k2", "v2", l)
	l.fs.full.Store(false)
	f.converge(map[string]string{"k": "v", "k2": "v2"})
	require.NoError(t, l.node.Err())
}

func TestOptionsThatCannotWork(t *testing.T) {
	_, tr := raft.NewInmemTransport("a")
	for _, o := range []Options{
		{}, {ID: "a"}, {Transport: tr}, {ID: "a", Transport: tr, Timing: Timing{Heartbeat: time.Second}},
	} {
		_, err := New(o)
		require.ErrorIs(t, err, ErrInvalid)
	}
	f := newFleet(t, 1, nil)
	for _, bad := range [][]raft.Server{
		{{ID: "other", Address: "other"}},
		{{ID: "n0"}},
		{{ID: "n0", Address: "x"}, {ID: "n0", Address: "y"}},
		{{ID: "n0", Address: "n0", Suffrage: raft.Nonvoter}},
	} {
		f.members = bad
		require.ErrorIs(t, f.open(f.peers[0]), ErrInvalid, "%v", bad)
	}
}

func TestMarksOfAnyBytesDecodeOrAreRefused(t *testing.T) {
	good := mark{7, 3, 2, raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "b"}}}}.encode()
	m, err := decodeMark(good)
	require.NoError(t, err)
	require.Equal(t, uint64(7), m.index)
	for i := range good {
		_, err := decodeMark(good[:i])
		require.ErrorIs(t, err, errFormat)
	}
	for i := range good {
		b := slices.Clone(good)
		b[i] ^= 0xff
		_, _ = decodeMark(b) // must not panic
	}
}

func TestOnlyTheCallerIsAskedFor(t *testing.T) {
	require.True(t, calledBy("replication.TestOnlyTheCallerIsAskedFor"))
	require.False(t, calledBy("raft.(*Raft).processLogs"))
}
