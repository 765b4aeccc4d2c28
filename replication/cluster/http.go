package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/port"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/hashicorp/raft"
)

// protocolVersion is raised when members of two versions of the program cannot be in one cluster.
const protocolVersion = 1

// listener turns the connections of one protocol into a net.Listener for net/http.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	addr   net.Addr
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

type memberKey struct{}

// serve answers the protocols that work without a store too.
func (m *Member) serve() {
	admin := http.NewServeMux()
	handle(admin, "/ping", m.onPing)
	handle(admin, "/hash", m.onHash)
	handle(admin, "/admit", m.onAdmit)
	handle(admin, "/renew", m.onRenew)
	handle(admin, "/order", m.onOrder)
	handle(admin, "/entries", m.onEntries)
	handle(admin, "/authority", m.onAuthority)
	join := http.NewServeMux()
	handle(join, "/join", m.onJoin)
	for protocol, mux := range map[string]http.Handler{port.Admin: admin, port.Join: join} {
		l := &listener{conns: make(chan net.Conn), closed: make(chan struct{}), addr: m.port.Addr()}
		s := &http.Server{
			Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				if pc, ok := c.(port.Conn); ok {
					return context.WithValue(ctx, memberKey{}, pc.Member)
				}
				return ctx
			},
		}
		m.http = append(m.http, s)
		go func() { _ = s.Serve(l) }() // until Close
		m.port.Handle(protocol, func(c port.Conn) {
			select {
			case l.conns <- c:
			case <-l.closed:
				_ = c.Close()
			}
		})
	}
}

// handle registers a function from question to answer. from is the member that asks, empty on Join.
func handle[Q, A any](mux *http.ServeMux, path string, f func(ctx context.Context, from string, q Q) (A, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q); err != nil {
			writeRefusal(w, &refused{text: "the question is not understood: " + err.Error()})
			return
		}
		from, _ := r.Context().Value(memberKey{}).(string)
		a, err := f(r.Context(), from, q)
		if err != nil {
			writeRefusal(w, err)
			return
		}
		_ = json.NewEncoder(w).Encode(a)
	})
}

func writeRefusal(w http.ResponseWriter, err error) {
	code := http.StatusConflict
	var no *refused
	if errors.As(err, &no) && no.retry || errors.Is(err, engine.ErrUnavailable) || errors.Is(err, replication.ErrNotLeader) ||
		errors.Is(err, engine.ErrUnknownOutcome) || errors.Is(err, engine.ErrClosed) {
		code = http.StatusServiceUnavailable
	}
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

// tell asks another member.
func (m *Member) tell(ctx context.Context, address, path string, q, a any) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	return exchange(ctx, m.web, "http://"+address+path, body, a)
}

// opened returns node and store, or an error while there are none.
func (m *Member) opened() (*replication.Node, *engine.Store, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node == nil || m.reason != "" {
		return nil, nil, &refused{text: m.name + " has no usable store at the moment", retry: true}
	}
	return m.node, m.store, nil
}

// pong is how a member is.
type pong struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`
	URL      string `json:"url,omitempty"`
	State    string `json:"state"` // Leader, Follower, Candidate; starting, rebuilding
	Leader   string `json:"leader,omitempty"`
	Term     uint64 `json:"term"`
	Commit   uint64 `json:"commit"`
	Applied  uint64 `json:"applied"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Disk     int64  `json:"disk,omitempty"`    // nanoseconds that its disk takes for one write of the log, of late; 0: there were none
	Damaged  bool   `json:"damaged,omitempty"` // its files of rows are
	Reason   string `json:"reason,omitempty"`  // why it is rebuilding
	Virgin   bool   `json:"virgin,omitempty"`  // it is a founder and has not begun
	Founders []peer `json:"founders,omitempty"`

	Certificate *time.Time `json:"certificate,omitempty"` // when it ends
	Issuer      string     `json:"issuer,omitempty"`      // id of its authority
}

func (m *Member) onPing(context.Context, string, struct{}) (pong, error) { return m.pong(), nil }

func (m *Member) pong() pong {
	m.mu.Lock()
	node, store, reason := m.node, m.store, m.reason
	a := pong{
		Name: m.name, Address: m.advertise, Version: m.o.Version, Protocol: protocolVersion, URL: m.o.URL, State: "starting", Reason: reason,
		Founders: m.me.Founders,
	}
	m.mu.Unlock()
	expires := m.id.Expires()
	a.Certificate, a.Issuer = &expires, m.id.Issuer().ClusterID()
	if node == nil {
		a.Virgin = m.virgin()
		return a
	}
	s := node.Status()
	a.State, a.Leader, a.Term, a.Commit, a.Applied, a.First, a.Last = s.State, s.Leader, s.Term, s.Commit, s.Applied, s.FirstIndex, s.LastIndex
	a.Disk, a.Damaged = int64(s.Disk), store.Damaged() != ""
	if reason != "" {
		a.State = "rebuilding"
	}
	if a.Term <= 1 && a.Last <= 1 {
		for _, p := range s.Members {
			a.Founders = append(a.Founders, peer{string(p.ID), string(p.Address)})
		}
	}
	return a
}

type hashAsk struct {
	Index uint64 `json:"index"`
}

type hashAnswer struct {
	Known bool   `json:"known"`
	Hash  []byte `json:"hash,omitempty"`
}

// onHash tells the state hash at an index, if this member has been there and remembers.
func (m *Member) onHash(ctx context.Context, _ string, q hashAsk) (hashAnswer, error) {
	_, store, err := m.opened()
	if err != nil {
		return hashAnswer{}, err
	}
	for end := time.Now().Add(300 * time.Millisecond); store.AppliedIndex() < q.Index && time.Now().Before(end); {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return hashAnswer{}, ctx.Err()
		}
	}
	h, ok := store.StateHashAt(q.Index)
	return hashAnswer{Known: ok, Hash: h[:]}, nil
}

type admitAsk struct {
	Protocol int    `json:"protocol"`
	Record   Record `json:"record"`
	Lost     bool   `json:"lost"` // it has no store: whatever it voted for is forgotten
}

type admitAnswer struct {
	Peers []string `json:"peers"`
}

// onAdmit lets a member that has a certificate into raft's configuration. Any member may be asked.
func (m *Member) onAdmit(ctx context.Context, from string, q admitAsk) (admitAnswer, error) {
	r := q.Record
	switch {
	case r.Name != from:
		return admitAnswer{}, &refused{text: fmt.Sprintf("the certificate is for %s, the request for %s", from, r.Name)}
	case q.Protocol != protocolVersion:
		return admitAnswer{}, &refused{text: fmt.Sprintf("%s speaks version %d of the cluster's protocol, this member %d: upgrade one member after the other by one minor version at a time",
			from, q.Protocol, protocolVersion)}
	}
	node, store, err := m.opened()
	if err != nil {
		return admitAnswer{}, err
	}
	if !node.IsLeader() {
		return passOn[admitAnswer](ctx, m, "/admit", forwardedAdmit{from, q})
	}
	return m.admit(ctx, node, store, q)
}

// forwardedAdmit is passed on by a member to the leader.
type forwardedAdmit struct {
	From string   `json:"from"`
	Ask  admitAsk `json:"ask"`
}

func (m *Member) admit(ctx context.Context, node *replication.Node, store *engine.Store, q admitAsk) (admitAnswer, error) {
	r := q.Record
	var now *raft.Server
	var peers []string
	for _, s := range node.Status().Members {
		if string(s.ID) == r.Name {
			now = &s
		} else {
			peers = append(peers, string(s.Address))
		}
	}
	switch {
	case now != nil && q.Lost && now.Suffrage == raft.Voter:
		// Its votes and the entries it vouched for are gone. It may not count until it has everything again.
		if err := node.Demote(ctx, r.Name); err != nil {
			return admitAnswer{}, err
		}
		m.note(Event{Kind: "demote", New: r.Name, Reason: "it comes back without its store"})
		fallthrough
	case now == nil, string(now.Address) != r.Address:
		if err := node.AddNonvoter(ctx, r.Name, r.Address); err != nil {
			return admitAnswer{}, err
		}
		if now == nil {
			m.note(Event{Kind: "join", New: r.Name, Reason: "at " + r.Address})
		}
	}
	if err := m.putRecord(ctx, store, r); err != nil {
		return admitAnswer{}, err
	}
	return admitAnswer{Peers: peers}, nil
}

// order is what an operator wants of the leader.
type order struct {
	Kind  string        `json:"kind"` // admit, remove, promote, transfer, authority, authority-finish
	Name  string        `json:"name,omitempty"`
	Admit *admitAsk     `json:"admit,omitempty"`
	Wait  time.Duration `json:"-"`
}

func (m *Member) onOrder(ctx context.Context, _ string, q order) (admitAnswer, error) {
	node, store, err := m.opened()
	if err != nil {
		return admitAnswer{}, err
	}
	if !node.IsLeader() {
		return admitAnswer{}, &refused{text: m.name + " does not lead", retry: true}
	}
	switch q.Kind {
	case "admit":
		if q.Admit == nil {
			return admitAnswer{}, &refused{text: "nobody to admit"}
		}
		return m.admit(ctx, node, store, *q.Admit)
	case "remove":
		return admitAnswer{}, m.remove(ctx, node, store, q.Name, "by an operator")
	case "promote":
		return admitAnswer{}, m.promote(ctx, node, store, q.Name)
	case "transfer":
		m.note(Event{Kind: "handover", Old: m.name, New: q.Name, Reason: "by an operator"})
		return admitAnswer{}, node.HandOverTo(ctx, q.Name)
	case "authority", "authority-finish":
		return admitAnswer{}, m.beginRotation(ctx, store, q.Kind == "authority-finish")
	}
	return admitAnswer{}, &refused{text: "unknown order " + q.Kind}
}

// passOn hands an admission to the leader.
func passOn[A any](ctx context.Context, m *Member, _ string, q forwardedAdmit) (a A, err error) {
	return a, m.command(ctx, order{Kind: "admit", Name: q.From, Admit: &q.Ask}, &a)
}

// command has the leader carry out an order, whoever that is.
func (m *Member) command(ctx context.Context, q order, a any) error {
	var last error = &refused{text: "no leader is known", retry: true}
	for ctx.Err() == nil {
		node, _, err := m.opened()
		if err != nil {
			return err
		}
		s := node.Status()
		switch {
		case s.Leader == m.name:
			got, err := m.onOrder(ctx, m.name, q)
			if err == nil {
				raw, _ := json.Marshal(got)
				return json.Unmarshal(raw, a)
			}
			last = err
		case s.LeaderAddress != "":
			last = m.tell(ctx, s.LeaderAddress, "/order", q, a)
			if last == nil {
				return nil
			}
		}
		var no *refused
		if errors.As(last, &no) && !no.retry || errors.Is(last, replication.ErrInvalid) {
			return last
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("%w (%w)", last, ctx.Err())
}

// onJoin gives a machine with a token a certificate.
func (m *Member) onJoin(ctx context.Context, _ string, q joinAsk) (a joinAnswer, err error) {
	if err := errors.Join(trust.CheckName(q.Name), checkAddress(q.Advertise)); err != nil {
		return a, &refused{text: err.Error()}
	}
	t, err := m.id.Authority().CheckToken(q.Token, m.o.Now())
	if err != nil {
		return a, &refused{text: err.Error(), retry: m.id.Authority().Key == nil}
	}
	node, store, err := m.opened()
	if err != nil {
		return a, err
	}
	if r, _, err := rotationOf(ctx, store); err != nil || r.running() {
		return a, errors.Join(err, &refused{text: "the cluster's authority is being rotated: join when erlmcp cluster status says that it is done"})
	}
	for _, s := range node.Status().Members {
		if string(s.ID) == q.Name && q.Again {
			if s.Suffrage == raft.Voter && !t.Voter {
				return a, &refused{text: fmt.Sprintf("%s votes, and the token is for members that do not: make another one with erlmcp cluster token", q.Name)}
			}
			t.Voter = t.Voter && s.Suffrage == raft.Voter
			continue
		}
		if string(s.ID) == q.Name {
			return a, &refused{text: fmt.Sprintf("there is a member called %s; choose another name, or remove it first: erlmcp cluster remove %s", q.Name, q.Name)}
		}
		a.Peers = append(a.Peers, string(s.Address))
	}
	if q.Again && !isMember(node, q.Name) {
		return a, &refused{text: q.Name + " is not a member any more: join with an empty directory"}
	}
	if a.Cert, err = m.id.Authority().Issue(q.CSR, q.Name, m.o.Now()); err != nil {
		return a, &refused{text: err.Error()}
	}
	if err := m.countUse(ctx, store, t); err != nil {
		return a, err
	}
	a.Authority, a.Voter = m.id.Authority().Cert.Raw, t.Voter
	if t.Voter {
		if a.Key, err = m.id.Authority().KeyDER(); err != nil {
			return a, err
		}
	}
	m.log.Info("certificate issued to a machine with a join token", "name", q.Name, "address", q.Advertise, "voter", t.Voter)
	return a, nil
}

type renewAsk struct {
	CSR []byte `json:"csr"`
}

type renewAnswer struct {
	Cert []byte `json:"cert"`
}

// onRenew issues a new certificate to a member of today.
func (m *Member) onRenew(_ context.Context, from string, q renewAsk) (a renewAnswer, err error) {
	node, _, err := m.opened()
	if err != nil {
		return a, err
	}
	for _, s := range node.Status().Members {
		if string(s.ID) == from {
			a.Cert, err = m.id.Authority().Issue(q.CSR, from, m.o.Now())
			return a, err
		}
	}
	return a, &refused{text: from + " is not a member any more"}
}
