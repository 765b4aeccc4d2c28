package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/port"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/erlmcp/erlmcp/replication/wire"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
)

// Options of a member. The zero value of everything but Engine works.
type Options struct {
	// Listen is the address of the port; default: what is advertised.
	Listen string
	// URL is where this member's clients find it; only told to others.
	URL string
	// Version of the program; only told to others.
	Version string
	// Engine are the options of the store.
	Engine engine.Options
	// Timing; zero: replication.Fast.
	Timing replication.Timing
	// TransferRate bounds what this member sends to one that fetches its state, bytes per second; 0: unlimited.
	TransferRate int64
	// DeadAfter is how long a voter may be silent before the leader removes it, provided that three or more voters stay; 0:
	// for ever.
	DeadAfter time.Duration
	// Expect is how many voters there must have been before this member's cluster takes writes, and with how many a
	// cluster of founders (Found) begins. 0 or 1: it begins at once.
	Expect int
	Logger *slog.Logger
	Now    func() time.Time
}

// Member is a running member. Its methods are safe for concurrent use, but Start, Stop and Close belong to one goroutine.
type Member struct {
	o    Options
	dir  string
	id   *trust.Identity
	port *port.Port
	http []*http.Server
	web  *http.Client
	log  *slog.Logger

	name, advertise string

	mu      sync.Mutex
	me      member
	node    *replication.Node // nil while there is no store
	store   *engine.Store
	rebuild chan struct{} // closed when the store must not be used any more
	reason  string
	seen    map[string]sighting
	formed  bool // Expect was reached once

	rotating sync.Mutex // held while the authorities this member trusts change

	ctx    context.Context // of the background work of one Start
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// Open reads the member's identity and opens its port. The store is opened by Start.
func Open(dir string, o Options) (*Member, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Engine.FS == nil {
		o.Engine.FS = vfs.Default
	}
	if o.Timing == (replication.Timing{}) {
		o.Timing = replication.Fast()
	}
	me, err := loadMember(dir)
	if err != nil {
		return nil, err
	}
	id, err := loadIdentity(dir)
	if err != nil {
		return nil, err
	}
	if id.Name != me.Name {
		return nil, fmt.Errorf("%w: the certificate in %s is for %s, member.json for %s: start every member with its own folder; if this one's "+
			"certificate is lost: `erlmcp cluster token` on another member and `erlmcp cluster ca accept` here", ErrMember, dir, id.Name, me.Name)
	}
	if o.Listen == "" {
		o.Listen = me.Advertise
	}
	p, err := port.Listen(o.Listen, id, o.Logger)
	if err != nil {
		return nil, err
	}
	m := &Member{
		o: o, dir: dir, id: id, port: p, log: o.Logger, name: me.Name, advertise: me.Advertise, me: me, seen: map[string]sighting{}, formed: o.Expect <= 1,
		rebuild: make(chan struct{}),
	}
	m.web = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return port.Dial(ctx, id, port.Admin, "", address)
		},
		MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
	}}
	m.serve()
	return m, nil
}

// Name is what this member is called.
func (m *Member) Name() string { return m.name }

// Rebuild is closed when the store cannot be used any more, for the reason that Reason gives: its state differs from the
// others', or it is too far behind. The owner stops using it, calls Stop and then Start.
func (m *Member) Rebuild() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rebuild
}

// Reason is why Rebuild was closed.
func (m *Member) Reason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reason
}

// Node is the consensus below the store, nil while there is none.
func (m *Member) Node() *replication.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

func (m *Member) rebuildDir() string { return filepath.Join(m.dir, Folder, "rebuild") }

func (m *Member) walOptions() wal.Options {
	e := m.o.Engine
	return wal.Options{FS: e.FS, SegmentSize: e.SegmentSize, Key: e.Key, Now: e.Now, Rand: e.Rand, Logger: e.Logger}
}

func (m *Member) change(f func(*member)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.me
	next.Peers = slices.Clone(next.Peers)
	f(&next)
	if err := next.save(m.dir); err != nil {
		return err
	}
	m.me = next
	return nil
}

// Start opens the store: it finishes what an interrupted run began, joins the cluster if this member is new, fetches the
// state if there is none or it cannot be used. It returns an error when ctx ends.
func (m *Member) Start(ctx context.Context) (*engine.Store, error) {
	if err := replication.FinishInstall(m.o.Engine.FS, m.dir, m.rebuildDir()); err != nil {
		return nil, err
	}
	for setAside := false; ; setAside = true {
		if err := m.prepare(ctx); err != nil {
			return nil, err
		}
		store, err := m.openStore()
		if err == nil {
			return store, m.begin(store)
		}
		if setAside || !errors.Is(err, engine.ErrCorrupt) || !m.hasPeers() {
			return nil, err
		}
		m.log.Error("the store is damaged; it is set aside and fetched from another member", "error", err)
		if err := m.setAside(); err != nil {
			return nil, err
		}
	}
}

func (m *Member) hasPeers() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.me.Peers) > 0
}

// setAside moves a store that cannot be opened out of the way. FORMAT goes first: without it nothing opens.
func (m *Member) setAside() error {
	to := filepath.Join(m.dir, Folder, "damaged-"+m.o.Now().UTC().Format("20060102T150405.000Z"))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"FORMAT", "wal", "store"} {
		if err := os.Rename(filepath.Join(m.dir, name), filepath.Join(to, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prepare brings the directory to where openStore succeeds.
func (m *Member) prepare(ctx context.Context) error {
	m.mu.Lock()
	me := m.me
	m.mu.Unlock()
	_, err := os.Stat(filepath.Join(m.dir, "FORMAT"))
	have := err == nil
	switch {
	case have && me.Rebuild == "":
		return nil
	case !have && me.First:
		return nil
	case !have && len(me.Founders) > 0:
		return nil
	case !have && m.o.Expect > 1 && len(me.Peers) > 0:
		begun, err := m.found(ctx)
		if err != nil || begun {
			return err
		}
	}
	var kept replication.Kept
	lost := !have
	if have {
		if kept, err = replication.KeptOf(filepath.Join(m.dir, "wal"), m.walOptions()); err != nil {
			m.log.Error("the log of the store that is to be replaced cannot be read; this member begins anew as a non-voter", "error", err)
			if err := m.setAside(); err != nil {
				return err
			}
			kept, lost = replication.Kept{}, true
		}
	}
	if lost {
		if err := m.announceUntil(ctx, true); err != nil {
			return err
		}
	}
	return m.fetch(ctx, kept)
}

// fetch replaces the store by the state of another member.
func (m *Member) fetch(ctx context.Context, kept replication.Kept) error {
	for {
		if err := os.RemoveAll(m.rebuildDir()); err != nil {
			return err
		}
		dial := m.transferDialer()
		began := m.o.Now()
		got, err := replication.Fetch(ctx, replication.FetchOptions{Dir: m.rebuildDir(), Engine: m.o.Engine, AtLeast: kept.Last, Dial: dial, Tries: 8})
		if err == nil {
			m.log.Info("state fetched from another member", "index", got.Index, "rows", got.Rows, "bytes", got.Bytes,
				"resumed", got.Resumed, "took", m.o.Now().Sub(began))
			break
		}
		if ctx.Err() != nil || errors.Is(err, engine.ErrNoSpace) {
			return err
		}
		m.log.Warn("the state could not be fetched, trying again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := kept.Keep(filepath.Join(m.rebuildDir(), "wal"), m.walOptions()); err != nil {
		return err
	}
	if err := replication.Install(m.o.Engine.FS, m.dir, m.rebuildDir()); err != nil {
		return err
	}
	return m.change(func(me *member) { me.Rebuild = "" })
}

// transferDialer prefers the member that served last, because it can resume; otherwise it takes the peers in turn.
func (m *Member) transferDialer() func(context.Context) (net.Conn, error) {
	next, failed := 0, false
	return func(ctx context.Context) (net.Conn, error) {
		peers := m.peers()
		if len(peers) == 0 {
			return nil, fmt.Errorf("%w: no other member is known", ErrMember)
		}
		if failed {
			next++
		}
		failed = true
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		c, err := port.Dial(ctx, m.id, port.Transfer, "", peers[next%len(peers)])
		if err == nil {
			failed = false
		}
		return c, err
	}
}

// peers are the addresses of the other members, the leader's first.
func (m *Member) peers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.me.Peers)
}

func (m *Member) openStore() (*engine.Store, error) {
	m.mu.Lock()
	me := m.me
	m.mu.Unlock()
	layer := m.port.Layer(me.Advertise)
	transport := wire.New(wire.Options{Stream: layer, Timeout: max(2*time.Second, 2*m.o.Timing.Election), Logger: m.log})
	o := replication.Options{
		ID: me.Name, Transport: transport, Timing: m.o.Timing, Logger: m.log,
		Dial: func(ctx context.Context, id, address string) (net.Conn, error) {
			return port.Dial(ctx, m.id, port.Forward, id, address)
		},
	}
	if me.First {
		o.Members = []raft.Server{{ID: raft.ServerID(me.Name), Address: raft.ServerAddress(me.Advertise)}}
	}
	for _, f := range me.Founders {
		o.Members = append(o.Members, raft.Server{ID: raft.ServerID(f.Name), Address: raft.ServerAddress(f.Address)})
	}
	node, err := replication.New(o)
	if err == nil {
		eo := m.o.Engine
		eo.Committer = func(s *engine.Store) (engine.Committer, error) {
			c, err := node.Start(s)
			return gate{c, m}, err
		}
		var store *engine.Store
		if store, err = engine.Open(m.dir, eo); err == nil {
			m.mu.Lock()
			m.node, m.store = node, store
			m.rebuild, m.reason = make(chan struct{}), ""
			m.mu.Unlock()
			return store, nil
		}
	}
	return nil, errors.Join(err, transport.Close())
}

// begin starts the background work around an open store.
func (m *Member) begin(store *engine.Store) error {
	if err := m.change(func(me *member) { me.First, me.Founders = false, nil }); err != nil {
		return err
	}
	node := m.Node()
	m.port.Handle(port.Forward, func(c port.Conn) { _ = node.ServeForward(c.Member, c) })
	m.port.Handle(port.Transfer, func(c port.Conn) {
		if err := node.ServeTransfer(c, m.o.TransferRate); err != nil {
			m.log.Warn("sending the state to another member ended early", "to", c.Member, "error", err)
		}
	})
	m.ctx, m.cancel = context.WithCancel(context.Background())
	for _, job := range []func(context.Context){m.lead, m.compare, m.announceOften, m.renew, m.authorities} {
		m.work.Go(func() { job(m.ctx) })
	}
	return nil
}

// StepDown hands leadership over, if this member has it and another one can take it.
func (m *Member) StepDown() {
	node := m.Node()
	if node == nil || !node.IsLeader() || node.Err() != nil {
		return
	}
	voters := 0
	for _, s := range node.Status().Members {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters < 2 {
		return
	}
	m.note(Event{Kind: "handover", Old: m.name, Reason: "the leader stops"})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := node.HandOver(ctx); err != nil {
		m.log.Warn("leadership not handed over", "error", err)
	}
}

// Stop closes the store; the port stays. Leadership is handed over first.
func (m *Member) Stop() error {
	m.mu.Lock()
	node, store := m.node, m.store
	m.mu.Unlock()
	if store == nil {
		return nil
	}
	m.cancel()
	m.StepDown()
	m.port.Handle(port.Forward, nil)
	m.port.Handle(port.Transfer, nil)
	m.work.Wait()
	node.EndTransfers()
	err := store.Close()
	m.mu.Lock()
	m.node, m.store = nil, nil
	m.mu.Unlock()
	return err
}

// Close is Stop, and closes the port.
func (m *Member) Close() error {
	err := m.Stop()
	for _, s := range m.http {
		_ = s.Close()
	}
	return errors.Join(err, m.port.Close())
}

// wantRebuild ends the use of the store.
func (m *Member) wantRebuild(reason string) {
	if err := m.change(func(me *member) { me.Rebuild = reason }); err != nil {
		m.log.Error("the wish for a rebuild could not be stored", "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reason != "" {
		return
	}
	m.reason = reason
	close(m.rebuild)
}

// gate is the committer of a member: it lets nothing through while the cluster is still forming or the store is to be
// rebuilt.
type gate struct {
	engine.Committer
	m *Member
}

func (g gate) closed() error {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.m.reason != "" {
		return fmt.Errorf("%w: this member's state is being rebuilt: %s; nothing was written, try another node", engine.ErrUnavailable, g.m.reason)
	}
	if !g.m.formed {
		return fmt.Errorf("%w: the cluster is forming and waits for %d voters; nothing was written, try again", engine.ErrUnavailable, g.m.o.Expect)
	}
	return nil
}

// Commit implements engine.Committer.
func (g gate) Commit(ctx context.Context, ws []byte, d engine.Durability, done func(uint64, engine.ApplyOutcome, error)) error {
	if ctx.Value(internalKey{}) == nil {
		if err := g.closed(); err != nil {
			return err
		}
	}
	return g.Committer.Commit(ctx, ws, d, done)
}

// Barrier implements engine.Committer.
func (g gate) Barrier(ctx context.Context) error {
	if ctx.Value(internalKey{}) == nil {
		if err := g.closed(); err != nil {
			return err
		}
	}
	return g.Committer.Barrier(ctx)
}

// MaySweep implements engine.Sweeping.
func (g gate) MaySweep() bool { return g.Committer.(engine.Sweeping).MaySweep() }

// internalKey marks the cluster's own writes, which the gate lets through.
type internalKey struct{}

func internal(ctx context.Context) context.Context {
	return context.WithValue(ctx, internalKey{}, true)
}
