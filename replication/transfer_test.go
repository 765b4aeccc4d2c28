package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/stretchr/testify/require"
)

// breaking is a connection that breaks after some bytes, and may damage one.
type breaking struct {
	net.Conn
	left int64
	flip int64
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		_ = b.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), b.left)])
	if b.flip > 0 && int64(n) > b.flip {
		p[b.flip] ^= 1
	}
	b.left, b.flip = b.left-int64(n), b.flip-int64(n)
	return n, err
}

func (f *fleet) fetchFrom(src *peer, disk *vfs.MemFS, change func(c net.Conn) net.Conn) (Fetched, error) {
	o := engineOptions(disk)
	return Fetch(context.Background(), FetchOptions{
		Dir: "db/cluster/rebuild", Engine: o, Wait: time.Millisecond,
		Dial: func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go func() { _ = src.node.ServeTransfer(there, 0) }()
			return change(here), nil
		},
	})
}

func same(c net.Conn) net.Conn { return c }

func TestNewMemberStartsFromTheStateOfAnother(t *testing.T) {
	for name, broken := range map[string]bool{"one connection": false, "many connections": true} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 3, func(o *Options) { o.MarkEvery, o.MarkInterval = 20, 5*time.Millisecond })
			f.forward = true
			newcomer := f.peers[2]
			f.members = f.members[:2]
			f.start(f.peers[0])
			f.start(f.peers[1])
			want := rows("a", 200)
			f.putAll(want)
			f.members = nil
			change := same
			if broken {
				change = func(c net.Conn) net.Conn { return &breaking{Conn: c, left: 400} }
			}
			if broken { // the leader begins to send before there is a state to append to
				f.eventually("adding it", func() bool { return f.leader().node.AddNonvoter(context.Background(), newcomer.id, newcomer.id) == nil })
				f.putAll(rows("b", 30))
			}
			require.NoError(t, newcomer.disk.MkdirAll("db/cluster", 0o700))
			got, err := f.fetchFrom(f.follower(), newcomer.disk, change)
			require.NoError(t, err)
			require.Equal(t, broken, got.Resumed > 0)
			require.NoError(t, Install(newcomer.disk, "db", "db/cluster/rebuild"))
			_, err = newcomer.disk.Stat("db/cluster/rebuild")
			require.Error(t, err)
			f.start(newcomer)
			require.Equal(t, got.Index, newcomer.store.Log().FirstIndex(), "nothing before the image")
			require.Equal(t, want["a007"], local(newcomer.store, "a007"), "before the first word with the leader")
			f.eventually("adding it", func() bool { return f.leader().node.AddNonvoter(context.Background(), newcomer.id, newcomer.id) == nil })
			f.eventually("its vote", func() bool { return f.leader().node.AddVoter(context.Background(), newcomer.id, newcomer.id) == nil })
			f.converge(want)
			f.crash(f.leader(), vfs.CrashCloneCfg{})
			f.put("after", "the crash")
			f.crash(newcomer, vfs.CrashCloneCfg{})
			f.start(newcomer)
			require.Equal(t, "value 7 of a", local(newcomer.store, "a007"))
		})
	}
}

func TestLogIsNotKeptForEverAndAMemberLeftBehindFetches(t *testing.T) {
	f := newFleet(t, 3, func(o *Options) { o.MarkEvery, o.MarkInterval = 20, 5*time.Millisecond })
	f.forward, f.retain = true, -1
	f.startAll()
	f.put("k", "v")
	f.converge(nil)
	late := f.follower()
	was := late.store.Log().LastIndex()
	term, ok := late.store.Log().Meta("raft/CurrentTerm")
	require.True(t, ok)
	f.stop(late)
	f.isolate(late)
	big := string(make([]byte, 32<<10))
	l := f.leader()
	for i := 0; l.store.Log().FirstIndex() <= was+1; i++ {
		f.put(fmt.Sprintf("big%d", i%50), big, late)
		l = f.leader(late)
		require.Less(t, i, 2000, "the log is never shortened")
	}
	f.put("last", "one", late)
	f.start(late)
	f.put("later", "still", late)
	require.Empty(t, local(late.store, "last"), "the log does not reach back")

	f.stop(late)
	kept, err := KeptOf("db/wal", f.walOptions(late))
	require.NoError(t, err)
	require.GreaterOrEqual(t, string(kept.values["raft/CurrentTerm"]), string(term))
	kept.Last = f.leader(late).store.AppliedIndex() + 3 // the leader has to catch up with what only this log has
	_, err = Fetch(context.Background(), FetchOptions{
		Dir: "db/cluster/rebuild", Engine: engineOptions(late.disk), AtLeast: kept.Last, Wait: time.Millisecond,
		Dial: func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			src := f.leader(late)
			go func() { _ = src.node.ServeTransfer(there, 64<<20) }()
			return here, nil
		},
	})
	require.NoError(t, err)
	tooFar := kept
	tooFar.Last += 1000
	require.ErrorIs(t, tooFar.Keep("db/cluster/rebuild/wal", f.walOptions(late)), ErrTransfer)
	require.NoError(t, kept.Keep("db/cluster/rebuild/wal", f.walOptions(late)))
	require.NoError(t, Install(late.disk, "db", "db/cluster/rebuild"))
	f.start(late)
	now, _ := late.store.Log().Meta("raft/CurrentTerm")
	require.GreaterOrEqual(t, string(now), string(kept.values["raft/CurrentTerm"]), "a term never goes back")
	f.converge(map[string]string{"last": "one", "later": "still"})
}

func TestDamagedTransferInstallsNothing(t *testing.T) {
	f := newFleet(t, 1, nil).startAll()
	f.putAll(rows("a", 50))
	var tries atomic.Int64
	disk := vfs.NewMem()
	require.NoError(t, disk.MkdirAll("db/cluster", 0o700))
	_, err := Fetch(context.Background(), FetchOptions{
		Dir: "db/cluster/rebuild", Engine: engineOptions(disk), Wait: time.Millisecond, Tries: 3,
		Dial: func(context.Context) (net.Conn, error) {
			tries.Add(1)
			here, there := net.Pipe()
			go func() { _ = f.peers[0].node.ServeTransfer(there, 0) }()
			return &breaking{Conn: here, left: 1 << 40, flip: 700}, nil
		},
	})
	require.ErrorIs(t, err, ErrTransfer)
	require.Equal(t, int64(3), tries.Load())
	_, err = disk.Stat("db/cluster/rebuild/FORMAT")
	require.Error(t, err)

	_, err = Fetch(context.Background(), FetchOptions{
		Dir: "db/cluster/rebuild", Engine: engineOptions(disk), Wait: time.Millisecond, Tries: 2,
		Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("no route") },
	})
	require.ErrorContains(t, err, "no route")
	f.peers[0].node.EndTransfers()
}

func TestInstallSurvivesACrashAtEveryStep(t *testing.T) {
	f := newFleet(t, 1, nil).startAll()
	want := rows("a", 20)
	f.putAll(want)
	for step := 0; ; step++ {
		disk := vfs.NewMem()
		old, err := engine.Open("db", engineOptions(disk))
		require.NoError(t, err)
		_, err = put(old, "old", "state")
		require.NoError(t, err)
		require.NoError(t, old.Close())
		require.NoError(t, disk.MkdirAll("db/cluster", 0o700))
		_, err = f.fetchFrom(f.peers[0], disk, same)
		require.NoError(t, err)
		dying := &stepFS{FS: disk, left: step}
		err = Install(dying, "db", "db/cluster/rebuild")
		require.NoError(t, FinishInstall(disk, "db", "db/cluster/rebuild"))
		s, oerr := engine.Open("db", engineOptions(disk))
		require.NoError(t, oerr, "step %d", step)
		if isNew := local(s, "old") == ""; isNew {
			require.Equal(t, want["a003"], local(s, "a003"))
		} else {
			require.Error(t, err, "the old state is there although the installation succeeded")
		}
		require.NoError(t, s.Close())
		if err == nil {
			require.Greater(t, step, 4)
			return
		}
	}
}

// stepFS fails every change after some of them.
type stepFS struct {
	vfs.FS
	left int
}

var errStep = errors.New("power loss")

func (s *stepFS) step() error {
	s.left--
	if s.left < 0 {
		return errStep
	}
	return nil
}

func (s *stepFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.step(); err != nil {
		return nil, err
	}
	return s.FS.Create(name, c)
}

func (s *stepFS) Remove(name string) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.FS.Remove(name)
}

func (s *stepFS) RemoveAll(name string) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.FS.RemoveAll(name)
}

func (s *stepFS) Rename(a, b string) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.FS.Rename(a, b)
}
