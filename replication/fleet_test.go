package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// peer is one member of a replicated store.
type peer struct {
	id    string
	disk  *vfs.MemFS
	fs    *faultFS
	addr  raft.ServerAddress
	trans *raft.InmemTransport // nil: TCP
	node  *Node
	store *engine.Store // nil: down
}

// fleet is a replicated store in one process.
type fleet struct {
	t       *testing.T
	peers   []*peer
	members []raft.Server
	change  func(*Options)
	tcp     bool // real connections on the loopback
	forward bool // changes and reads on any member
	retain  int64

	wires sync.Mutex
	pipes []pipe
	off   map[string]bool // isolated members

	mu sync.Mutex // guards store and node of the peers against clients of the simulation
}

func newFleet(t *testing.T, n int, change func(*Options)) *fleet {
	f := &fleet{t: t, change: change}
	for i := range n {
		p := &peer{id: fmt.Sprintf("n%d", i), disk: vfs.NewCrashableMem()}
		p.addr = raft.ServerAddress(p.id)
		f.peers = append(f.peers, p)
		f.members = append(f.members, raft.Server{ID: raft.ServerID(p.id), Address: p.addr})
	}
	t.Cleanup(func() {
		for _, p := range f.peers {
			if p.store != nil {
				_ = p.store.Close()
			}
		}
	})
	return f
}

func (f *fleet) startAll() *fleet {
	f.t.Helper()
	for _, p := range f.peers {
		f.start(p)
	}
	return f
}

func quick() Timing {
	return Timing{Heartbeat: 100 * time.Millisecond, Election: 100 * time.Millisecond, Lease: 50 * time.Millisecond, Commit: 5 * time.Millisecond}
}

func engineOptions(fs vfs.FS) engine.Options {
	return engine.Options{FS: fs, SegmentSize: 256 << 10, MemTableSize: 256 << 10, SweepInterval: -1}
}

func (f *fleet) open(p *peer) error {
	var transport raft.Transport
	if f.tcp {
		tcp, err := raft.NewTCPTransportWithConfig(string(p.addr), nil, &raft.NetworkTransportConfig{
			MaxPool: 3, Timeout: 500 * time.Millisecond, MaxRPCsInFlight: 16, Logger: hclog.NewNullLogger(),
		})
		require.NoError(f.t, err)
		transport = tcp
	} else {
		_, p.trans = raft.NewInmemTransportWithTimeout(p.addr, 100*time.Millisecond)
		transport = p.trans
	}
	o := Options{ID: p.id, Transport: transport, Members: f.members, Timing: quick(), Logger: slog.New(slog.DiscardHandler)}
	if f.change != nil {
		f.change(&o)
	}
	if f.forward {
		o.Dial = func(_ context.Context, id, _ string) (net.Conn, error) { return f.dial(p.id, id) }
	}
	node, err := New(o)
	require.NoError(f.t, err)
	p.fs = &faultFS{FS: p.disk}
	eo := engineOptions(p.fs)
	eo.Committer = node.Start
	eo.RetainLog = f.retain
	f.join(p)
	store, err := engine.Open("db", eo)
	if err == nil {
		f.mu.Lock()
		p.node, p.store = node, store
		f.mu.Unlock()
	}
	return err
}

func (f *fleet) walOptions(p *peer) wal.Options {
	return wal.Options{FS: p.disk, SegmentSize: engineOptions(nil).SegmentSize}
}

func (f *fleet) start(p *peer) { f.t.Helper(); require.NoError(f.t, f.open(p)) }

// pipe is a forwarding connection between two members.
type pipe struct {
	a, b string
	conn net.Conn
}

func (f *fleet) dial(from, to string) (net.Conn, error) {
	f.wires.Lock()
	defer f.wires.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.peers {
		if p.id == to && p.store != nil && !f.off[from] && !f.off[to] {
			here, there := net.Pipe()
			f.pipes = append(f.pipes, pipe{from, to, here})
			node := p.node
			go func() { _ = node.ServeForward(from, there) }()
			return here, nil
		}
	}
	return nil, errors.New("unreachable")
}

// unplug breaks the forwarding connections of a member, and keeps new ones from being made.
func (f *fleet) unplug(id string, off bool) {
	f.wires.Lock()
	defer f.wires.Unlock()
	if f.off == nil {
		f.off = map[string]bool{}
	}
	f.off[id] = off
	f.pipes = slices.DeleteFunc(f.pipes, func(w pipe) bool {
		if w.a == id || w.b == id {
			_ = w.conn.Close()
			return true
		}
		return false
	})
}

func (f *fleet) join(p *peer) {
	f.unplug(p.id, false)
	if f.tcp {
		return
	}
	for _, o := range f.peers {
		if o != p && o.trans != nil {
			o.trans.Connect(raft.ServerAddress(p.id), p.trans)
			p.trans.Connect(raft.ServerAddress(o.id), o.trans)
		}
	}
}

func (f *fleet) isolate(p *peer) {
	f.unplug(p.id, true)
	if f.tcp {
		return // it dies with its connections
	}
	p.trans.DisconnectAll()
	for _, o := range f.peers {
		if o != p && o.trans != nil {
			o.trans.Disconnect(raft.ServerAddress(p.id))
		}
	}
}

// crash is a power loss of one member.
func (f *fleet) crash(p *peer, cfg vfs.CrashCloneCfg) {
	left := p.fs.die(cfg)
	f.isolate(p)
	_ = f.takeDown(p).Close() // complains about its disk, rightly
	p.disk = left
}

func (f *fleet) stop(p *peer) {
	f.t.Helper()
	require.NoError(f.t, f.takeDown(p).Close())
}

func (f *fleet) takeDown(p *peer) *engine.Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	store := p.store
	p.store = nil
	return store
}

func (f *fleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s did not happen within %v", what, patience)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// leader waits for a leader that answers reads.
func (f *fleet) leader(except ...*peer) *peer {
	f.t.Helper()
	var found *peer
	f.eventually("a leader", func() bool {
		for _, p := range f.peers {
			if p.store == nil || slices.Contains(except, p) || !p.node.IsLeader() {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err := p.store.View(ctx, func(*engine.Tx) error { return nil })
			cancel()
			if err == nil {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

func (f *fleet) follower() *peer {
	l := f.leader()
	for _, p := range f.peers {
		if p != l && p.store != nil {
			return p
		}
	}
	f.t.Fatal("no follower")
	return nil
}

func put(s *engine.Store, key, value string, opts ...engine.TxOption) (engine.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Update(ctx, func(tx *engine.Tx) error { return tx.Put("t", []byte(key), []byte(value)) }, opts...)
}

// put writes through whatever leader there is, until it is acknowledged.
func (f *fleet) put(key, value string, except ...*peer) {
	f.t.Helper()
	f.eventually("write of "+key, func() bool {
		_, err := put(f.leader(except...).store, key, value)
		return err == nil
	})
}

func local(s *engine.Store, key string) string {
	var v []byte
	_ = s.ViewLocal(context.Background(), func(tx *engine.Tx) (err error) {
		v, err = tx.Get("t", []byte(key))
		return err
	})
	return string(v)
}

// converge waits until all running members have the rows and the same state at the same index.
func (f *fleet) converge(want map[string]string) {
	f.t.Helper()
	f.put("_converge", fmt.Sprint(time.Now().UnixNano())) // no member may be behind this
	var last uint64
	f.eventually("equal states", func() bool {
		hashes := map[[32]byte]bool{}
		indexes := map[uint64]bool{}
		for _, p := range f.peers {
			if p.store != nil {
				i, h := p.store.StateHash()
				hashes[h], indexes[i], last = true, true, i
			}
		}
		return len(hashes) == 1 && len(indexes) == 1
	})
	for _, p := range f.peers {
		if p.store == nil {
			continue
		}
		for k, v := range want {
			require.Equal(f.t, v, local(p.store, k), "key %s on %s", k, p.id)
		}
		_, ok := p.store.StateHashAt(last)
		require.True(f.t, ok)
	}
}

func rows(prefix string, n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("%s%03d", prefix, i)] = fmt.Sprintf("value %d of %s", i, prefix)
	}
	return m
}

func (f *fleet) putAll(m map[string]string, except ...*peer) {
	f.t.Helper()
	for k, v := range m {
		f.put(k, v, except...)
	}
}
