package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/stretchr/testify/require"
)

const patience = 15 * time.Second

// site is one machine.
type site struct {
	t      *testing.T
	name   string
	dir    string
	addr   string
	expect int
	retain int64 // of the log; 0: as little as possible
	m      *Member
	cancel context.CancelFunc
	ended  chan struct{}
}

func newSite(t *testing.T, name string) *site {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &site{t: t, name: name, dir: filepath.Join(t.TempDir(), name), addr: l.Addr().String()}
	require.NoError(t, l.Close())
	t.Cleanup(s.stop)
	return s
}

// timing stands a loaded machine with the race detector.
func timing() replication.Timing {
	return replication.Timing{Heartbeat: 400 * time.Millisecond, Election: 400 * time.Millisecond, Lease: 300 * time.Millisecond, Commit: 5 * time.Millisecond}
}

func engineOptions() engine.Options {
	return engine.Options{SegmentSize: 256 << 10, MemTableSize: 256 << 10, SweepInterval: -1, RetainLog: -1}
}

// run opens the member in the background, and again whenever it wants a rebuild, as the server does.
func (s *site) run() {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("ERLMCP_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("on", s.name)
	}
	eo := engineOptions()
	if s.retain > 0 {
		eo.RetainLog = s.retain
	}
	m, err := Open(s.dir, Options{Engine: eo, Timing: timing(), Expect: s.expect, Logger: log, Version: "test"})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s.m, s.cancel, s.ended = m, cancel, make(chan struct{})
	go func() {
		defer close(s.ended)
		for {
			_, err := m.Start(ctx)
			if err != nil {
				if ctx.Err() == nil {
					s.t.Errorf("%s does not start: %v", s.name, err)
				}
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-m.Rebuild():
				if err := m.Stop(); err != nil {
					s.t.Errorf("%s does not stop: %v", s.name, err)
				}
			}
		}
	}()
}

func (s *site) stop() {
	if s.m == nil {
		return
	}
	s.cancel()
	<-s.ended
	require.NoError(s.t, s.m.Close())
	s.m = nil
}

// db waits for the store.
func (s *site) db() *engine.Store {
	s.t.Helper()
	var store *engine.Store
	wait(s.t, "the store of "+s.name, func() bool {
		_, st, err := s.m.opened()
		store = st
		return err == nil
	})
	return store
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen within %v", what, patience)
		}
	}
}

func (s *site) put(key, value string) {
	s.t.Helper()
	var last error
	wait(s.t, "write of "+key+" on "+s.name, func() bool {
		_, store, err := s.m.opened()
		if err != nil {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, last = store.Update(ctx, func(tx *engine.Tx) error { return tx.Put("t", []byte(key), []byte(value)) })
		return last == nil
	})
}

func (s *site) get(key string) string {
	var v []byte
	_, store, err := s.m.opened()
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = store.View(ctx, func(tx *engine.Tx) (err error) {
		v, err = tx.Get("t", []byte(key))
		return err
	})
	return string(v)
}

func (s *site) voters() int {
	node := s.m.Node()
	if node == nil {
		return 0
	}
	n := 0
	for _, p := range node.Status().Members {
		if p.Suffrage == 0 {
			n++
		}
	}
	return n
}

func leaderOf(t *testing.T, sites []*site) *site {
	t.Helper()
	var l *site
	wait(t, "a leader", func() bool {
		for _, s := range sites {
			if s.m != nil && s.m.Node() != nil && s.m.Node().IsLeader() {
				l = s
				return true
			}
		}
		return false
	})
	return l
}

// threeMembers are made with init, a token and two joins.
func threeMembers(t *testing.T) []*site {
	sites := []*site{newSite(t, "n1"), newSite(t, "n2"), newSite(t, "n3")}
	_, err := Init(sites[0].dir, InitOptions{Name: "n1", Advertise: sites[0].addr, Now: time.Now()})
	require.NoError(t, err)
	sites[0].run()
	sites[0].put("first", "alone")
	token, err := sites[0].m.Token(TokenOptions{Uses: 2, Voter: true})
	require.NoError(t, err)
	for _, s := range sites[1:] {
		require.NoError(t, Join(context.Background(), s.dir, JoinOptions{Name: s.name, Advertise: s.addr, Token: token, Now: time.Now()}))
		s.run()
		s.put("by-"+s.name, "v")
	}
	err = Join(context.Background(), newSite(t, "n4").dir, JoinOptions{Name: "n4", Advertise: "127.0.0.1:1", Token: token, Now: time.Now()})
	require.ErrorContains(t, err, "used 2 times already")
	for _, s := range sites {
		wait(t, "three voters on "+s.name, func() bool { return s.voters() == 3 })
	}
	return sites
}

// equalStates waits until all have the same state at the same index.
func equalStates(t *testing.T, sites []*site) {
	t.Helper()
	sites[0].put("_end", fmt.Sprint(time.Now().UnixNano()))
	wait(t, "equal states", func() bool {
		seen := map[string]bool{}
		for _, s := range sites {
			_, store, err := s.m.opened()
			if err != nil {
				return false
			}
			i, h := store.StateHash()
			seen[fmt.Sprint(i, h)] = true
		}
		return len(seen) == 1
	})
}

func TestClusterGrowsServesEverywhereAndSurvivesItsLeader(t *testing.T) {
	sites := threeMembers(t)
	for i, s := range sites {
		s.put(fmt.Sprintf("k%d", i), "v")
		for _, o := range sites {
			require.Equal(t, "v", o.get(fmt.Sprintf("k%d", i)), "written on %s, read on %s", s.name, o.name)
		}
	}
	old := leaderOf(t, sites)
	old.stop()
	var rest []*site
	for _, s := range sites {
		if s != old {
			rest = append(rest, s)
		}
	}
	rest[0].put("after", "the leader")
	require.Equal(t, "the leader", rest[1].get("after"))
	old.run()
	wait(t, "its return", func() bool { return old.get("after") == "the leader" })
	equalStates(t, sites)

	var st Status
	wait(t, "everybody in the status", func() bool {
		var err error
		st, err = rest[0].m.Status(context.Background())
		require.NoError(t, err)
		for _, m := range st.Members {
			if m.State == "unreachable" || m.Version == "" {
				return false
			}
		}
		return st.Quorum && len(st.Members) == 3
	})
	kinds := map[string]int{}
	for _, e := range st.Events {
		kinds[e.Kind]++
	}
	require.Positive(t, kinds["election"])
	require.Equal(t, 2, kinds["join"])
	require.Equal(t, 2, kinds["promote"])

	// an operator's orders, given to a member that does not lead
	l := leaderOf(t, sites)
	var other *site
	for _, s := range sites {
		if s != l {
			other = s
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, other.m.Transfer(ctx, other.name))
	wait(t, "the transfer", func() bool { return other.m.Node().IsLeader() })
	require.ErrorContains(t, other.m.Remove(ctx, "nobody"), "no member called nobody")
	require.NoError(t, l.m.Remove(ctx, l.name))
	wait(t, "two members", func() bool { return other.voters() == 2 })
	require.NoError(t, other.m.RenewCertificate(ctx))
	other.put("with", "a new certificate")
}

func TestMemberThatLostItsDirectoryComesBackAsNonVoterFirst(t *testing.T) {
	sites := threeMembers(t)
	l := leaderOf(t, sites)
	var lost *site
	for _, s := range sites {
		if s != l {
			lost = s
		}
	}
	lost.stop()
	for _, name := range []string{"FORMAT", "wal", "store"} {
		require.NoError(t, os.RemoveAll(filepath.Join(lost.dir, name)))
	}
	l.put("while", "away")
	lost.run()
	wait(t, "its return", func() bool { return lost.get("while") == "away" })
	wait(t, "three voters", func() bool { return l.voters() == 3 })
	equalStates(t, sites)
	es, err := events(context.Background(), l.db(), 100)
	require.NoError(t, err)
	demoted := false
	for _, e := range es {
		demoted = demoted || e.Kind == "demote" && e.New == lost.name
	}
	require.True(t, demoted, "it voted with a memory that it had lost")
}

func TestDamagedLogIsSetAsideAndFetched(t *testing.T) {
	sites := threeMembers(t)
	for i := range 50 {
		sites[0].put(fmt.Sprintf("k%d", i), strings.Repeat("x", 1000))
	}
	var hurt *site
	for l := leaderOf(t, sites); hurt == nil || hurt == l; {
		hurt = sites[2]
		if hurt == l {
			hurt = sites[1]
		}
	}
	hurt.stop()
	logs, err := filepath.Glob(filepath.Join(hurt.dir, "wal", "*.seg"))
	if err != nil || len(logs) == 0 {
		logs, err = filepath.Glob(filepath.Join(hurt.dir, "wal", "*"))
	}
	require.NoError(t, err)
	damaged := 0
	for _, path := range logs {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		if i := strings.Index(string(raw), strings.Repeat("x", 900)); i >= 0 {
			raw[i+5] ^= 0xff
			require.NoError(t, os.WriteFile(path, raw, 0o600))
			damaged++
		}
	}
	require.Positive(t, damaged)
	_, err = wal.Open(filepath.Join(hurt.dir, "wal"), wal.Options{SegmentSize: 256 << 10})
	require.ErrorIs(t, err, wal.ErrCorrupt)
	hurt.run()
	wait(t, "its return", func() bool { return hurt.get("k7") != "" })
	equalStates(t, sites)
	kept, err := filepath.Glob(filepath.Join(hurt.dir, Folder, "damaged-*", "wal"))
	require.NoError(t, err)
	require.Len(t, kept, 1, "the evidence")
}

func TestMemberWhoseStateDiffersStopsAndIsRebuilt(t *testing.T) {
	sites := threeMembers(t)
	l := leaderOf(t, sites)
	var odd *site
	for _, s := range sites {
		if s != l {
			odd = s
		}
	}
	equalStates(t, sites)
	// The next entry of the log is replaced on one member, behind the back of consensus.
	w := engine.WriteSet{Time: 1, Ops: []engine.Op{{Table: "t", Key: []byte("false"), Value: []byte("v")}}}
	store := odd.db()
	first := odd.m.Rebuild()
	store.Apply([]wal.Entry{{Index: store.AppliedIndex() + 1, Term: 1, Type: engine.EntryWriteSet, Data: w.Encode(nil)}})
	l.put("true", "v")
	select {
	case <-first:
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	wait(t, "the rebuild", func() bool { return odd.m.Reason() == "" && odd.get("true") == "v" })
	require.Empty(t, odd.get("false"))
	l.put("more", "v")
	equalStates(t, sites)
}

func TestFoundersBeginTogetherAndNotAlone(t *testing.T) {
	sites := []*site{newSite(t, "a"), newSite(t, "b"), newSite(t, "c")}
	secret := []byte(strings.Repeat("secret", 6))
	var all []string
	for _, s := range sites {
		all = append(all, s.addr)
		s.expect = 3
	}
	for _, s := range sites {
		require.NoError(t, Found(s.dir, FoundOptions{Name: s.name, Advertise: s.addr, Secret: secret, Peers: all, Now: time.Now()}))
	}
	sites[0].run()
	sites[1].run()
	require.Never(t, func() bool { return sites[0].m.Node() != nil }, 500*time.Millisecond, 50*time.Millisecond, "it began without the third")
	sites[2].run()
	sites[1].put("k", "v")
	for _, s := range sites {
		wait(t, "the row on "+s.name, func() bool { return s.get("k") == "v" })
		wait(t, "three voters", func() bool { return s.voters() == 3 })
	}
	equalStates(t, sites)
	require.ErrorContains(t, Found(t.TempDir(), FoundOptions{Name: "x", Advertise: "h:1", Secret: []byte("short")}), "at least 32")
}

func TestLastMemberIsRecoveredAndBecomesASingleNode(t *testing.T) {
	sites := threeMembers(t)
	sites[1].put("k", "v")
	equalStates(t, sites)
	for _, s := range sites {
		s.stop()
	}
	last := sites[2]
	r, err := Recover(context.Background(), last.dir, engineOptions())
	require.NoError(t, err)
	require.Equal(t, "n3", r.Name)
	last.run()
	last.put("after", "the disaster")
	require.Equal(t, "v", last.get("k"))
	require.Equal(t, 1, last.voters())
	last.stop()

	_, err = Leave(last.dir, time.Now())
	require.NoError(t, err)
	s, err := engine.Open(last.dir, engineOptions())
	require.NoError(t, err)
	require.NoError(t, s.View(context.Background(), func(tx *engine.Tx) error {
		v, err := tx.Get("t", []byte("after"))
		require.Equal(t, "the disaster", string(v))
		return err
	}))
	require.NoError(t, s.Close())
}

// TestOldMembersCannotHarmTheRecoveredOne: they are a majority of the old cluster, and the recovered member is one of theirs as far as
// they know: their leader would cut its log.
func TestOldMembersCannotHarmTheRecoveredOne(t *testing.T) {
	sites := threeMembers(t)
	sites[1].put("k", "v")
	equalStates(t, sites)
	for _, s := range sites {
		s.stop()
	}
	old, last := sites[:2], sites[2]
	_, err := Recover(context.Background(), last.dir, engineOptions())
	require.NoError(t, err)
	last.run()
	last.put("after", "the disaster")
	for _, s := range old {
		s.run()
	}
	l := leaderOf(t, old)
	l.put("elsewhere", "v")
	var a pong
	require.ErrorIs(t, l.m.tell(t.Context(), last.addr, "/ping", struct{}{}, &a), trust.ErrStranger)
	require.ErrorIs(t, last.m.tell(t.Context(), l.addr, "/ping", struct{}{}, &a), trust.ErrStranger)
	for i := range 20 { // while they try to reach it
		l.put(fmt.Sprint("theirs", i), "v")
		last.put(fmt.Sprint("own", i), "v")
	}
	require.Equal(t, "the disaster", last.get("after"))
	require.Empty(t, last.get("elsewhere"))
	require.Equal(t, 1, last.voters())

	// They join anew.
	l.stop()
	other := old[0]
	if other == l {
		other = old[1]
	}
	other.stop()
	require.NoError(t, os.RemoveAll(l.dir))
	token, err := last.m.Token(TokenOptions{Uses: 1, Voter: true})
	require.NoError(t, err)
	require.NoError(t, Join(context.Background(), l.dir, JoinOptions{Name: l.name, Advertise: l.addr, Token: token, Now: time.Now()}))
	l.run()
	wait(t, "the state", func() bool { return l.get("own19") == "v" })
}

func TestDirectoriesThatCannotJoinAreRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := engine.Open(dir, engineOptions())
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.ErrorContains(t, Join(context.Background(), dir, JoinOptions{Name: "x", Advertise: "h:1", Token: "t"}), "store of its own")
	for _, bad := range []InitOptions{{Name: "", Advertise: "h:1"}, {Name: "a b", Advertise: "h:1"}, {Name: "a", Advertise: "h"}, {Name: "a", Advertise: "0.0.0.0:1"}, {Name: "a", Advertise: "h:0"}} {
		_, err := Init(filepath.Join(dir, "new"), bad)
		require.Error(t, err, "%+v", bad)
		require.False(t, IsMember(filepath.Join(dir, "new")))
	}
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, ErrMember)
	require.ErrorContains(t, Join(context.Background(), t.TempDir(), JoinOptions{Name: "x", Advertise: "h:1", Token: "nonsense"}), "not a join token")
	require.False(t, errors.Is(err, context.Canceled))
}
