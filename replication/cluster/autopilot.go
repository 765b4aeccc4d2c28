package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/hashicorp/raft"
)

// sighting is when a member was last heard of, and what it said.
type sighting struct {
	at      time.Time
	pong    pong
	err     error
	caught  time.Time // since when it has been caught up without a break; zero: it is not
	leading time.Time // since when this member has led: silence before does not count
}

const (
	round    = 500 * time.Millisecond
	settled  = time.Second // a non-voter that kept up for this long may vote
	nearness = 1024        // entries behind that count as caught up
)

// lead follows who leads, and does the leader's duties while this member does.
func (m *Member) lead(ctx context.Context) {
	node := m.Node()
	old, leading := "", time.Time{}
	lastHeard := m.o.Now()
	var next time.Time
	var slow relief
	for {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return
		}
		s := node.Status()
		if !node.IsLeader() {
			leading = time.Time{}
			if s.Leader != "" && s.Leader != m.name {
				old, lastHeard = s.Leader, s.Heard
			}
			m.learn(s)
			continue
		}
		if leading.IsZero() {
			leading = m.o.Now()
			m.elected(ctx, s, old, lastHeard)
		}
		if m.o.Now().Before(next) {
			continue
		}
		next = m.o.Now().Add(round)
		m.learn(s)
		m.look(ctx, s, leading)
		m.act(ctx, node, s, leading)
		m.relieve(ctx, node, s, &slow)
	}
}

// learn remembers where the others are, the leader first, for the next start.
func (m *Member) learn(s replication.Status) {
	var peers []string
	voters, here := 0, false
	for _, p := range s.Members {
		here = here || string(p.ID) == m.name
		if p.Suffrage == raft.Voter {
			voters++
		}
		if string(p.ID) != m.name {
			peers = append(peers, string(p.Address))
		}
	}
	slices.SortFunc(peers, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == s.LeaderAddress, b != s.LeaderAddress && a < b:
			return -1
		}
		return 1
	})
	m.mu.Lock()
	m.formed = m.formed || voters >= m.o.Expect
	changed := here && len(s.Members) > 0 && !slices.Equal(peers, m.me.Peers)
	m.mu.Unlock()
	if !changed {
		return
	}
	if err := m.change(func(me *member) { me.Peers = peers }); err != nil {
		m.log.Warn("the addresses of the other members could not be stored", "error", err)
	}
}

// elected writes the failover log when this member has begun to lead.
func (m *Member) elected(ctx context.Context, s replication.Status, old string, heard time.Time) {
	m.mu.Lock()
	store := m.store
	m.mu.Unlock()
	e := Event{Kind: "election", Old: old, New: m.name, Reason: "the first leader since this member started"}
	if old != "" {
		e.Reason = "nothing was heard from " + old
	}
	if last, err := events(ctx, store, 1); err == nil && len(last) == 1 && last[0].Kind == "handover" && m.o.Now().Sub(last[0].Time) < 30*time.Second {
		e.Reason = "handed over by " + last[0].Old + ": " + last[0].Reason
	}
	bctx, cancel := context.WithTimeout(internal(ctx), 10*time.Second)
	err := store.View(bctx, func(*engine.Tx) error { return nil })
	cancel()
	if err != nil {
		return // it leads no more
	}
	hctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	if err := m.nameHistory(hctx, store); err != nil {
		m.log.Warn("the history has no name yet; the next leader gives it one", "error", err)
	}
	cancel()
	if old != "" && !heard.IsZero() {
		e.Duration = m.o.Now().Sub(heard).Seconds()
	}
	m.note(e)
}

// look asks every member how it is.
func (m *Member) look(ctx context.Context, s replication.Status, leading time.Time) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	type answer struct {
		name string
		pong pong
		err  error
	}
	answers := make(chan answer, len(s.Members))
	asked := 0
	for _, p := range s.Members {
		if string(p.ID) == m.name {
			continue
		}
		asked++
		go func() {
			a := answer{name: string(p.ID)}
			a.err = m.tell(ctx, string(p.Address), "/ping", struct{}{}, &a.pong)
			answers <- a
		}()
	}
	for range asked {
		a := <-answers
		now := m.o.Now()
		m.mu.Lock()
		was := m.seen[a.name]
		was.err, was.leading = a.err, leading
		if a.err == nil {
			was.at, was.pong = now, a.pong
		}
		if a.err != nil || a.pong.Applied+nearness < s.Commit {
			was.caught = time.Time{}
		} else if was.caught.IsZero() {
			was.caught = now
		}
		m.seen[a.name] = was
		m.mu.Unlock()
	}
}

// act promotes who has caught up and removes who is dead.
func (m *Member) act(ctx context.Context, node *replication.Node, s replication.Status, leading time.Time) {
	m.mu.Lock()
	store, seen := m.store, map[string]sighting{}
	for k, v := range m.seen {
		seen[k] = v
	}
	m.mu.Unlock()
	all, err := records(ctx, store)
	if err != nil {
		return
	}
	now := m.o.Now()
	voters, alive := 0, 1
	for _, p := range s.Members {
		if p.Suffrage == raft.Voter {
			voters++
			if string(p.ID) != m.name && now.Sub(seen[string(p.ID)].at) < m.o.DeadAfter {
				alive++
			}
		}
	}
	for _, p := range s.Members {
		name := string(p.ID)
		see := seen[name]
		switch {
		case name == m.name:
		case p.Suffrage != raft.Voter && all[name].Voter && !see.caught.IsZero() && now.Sub(see.caught) >= settled:
			if err := m.promote(ctx, node, store, name); err != nil {
				m.log.Warn("a member that has caught up could not be promoted", "member", name, "error", err)
			}
			return // one change at a time
		case p.Suffrage == raft.Voter && dead(see, now, leading, m.o.DeadAfter) && voters-1 >= 3 && alive > (voters-1)/2:
			if err := m.remove(ctx, node, store, name, fmt.Sprintf("silent for more than %v", m.o.DeadAfter)); err != nil {
				m.log.Warn("a dead member could not be removed", "member", name, "error", err)
			}
			return
		}
	}
}

// dead reports whether a member has been silent for too long, as far as the present leader can know.
func dead(s sighting, now, leading time.Time, after time.Duration) bool {
	heard := s.at
	if heard.Before(leading) {
		heard = leading
	}
	return after > 0 && s.err != nil && now.Sub(heard) > after
}

func (m *Member) promote(ctx context.Context, node *replication.Node, store *engine.Store, name string) error {
	for _, p := range node.Status().Members {
		if string(p.ID) != name {
			continue
		}
		if p.Suffrage == raft.Voter {
			return nil
		}
		if all, err := records(ctx, store); err == nil && !all[name].Voter {
			r := all[name]
			r.Name, r.Address, r.Voter = name, string(p.Address), true
			if err := m.putRecord(ctx, store, r); err != nil {
				return err
			}
		}
		if err := node.AddVoter(ctx, name, string(p.Address)); err != nil {
			return err
		}
		m.note(Event{Kind: "promote", New: name})
		return nil
	}
	return &refused{text: "there is no member called " + name}
}

func (m *Member) remove(ctx context.Context, node *replication.Node, store *engine.Store, name, why string) error {
	found := false
	for _, p := range node.Status().Members {
		found = found || string(p.ID) == name
	}
	if !found {
		return &refused{text: "there is no member called " + name}
	}
	m.note(Event{Kind: "remove", Old: name, Reason: why})
	_, err := store.Update(internal(ctx), func(tx *engine.Tx) error { return tx.Delete(tableMembers, []byte(name)) },
		engine.WithActor("cluster:"+m.name), engine.WithLabel("cluster remove"))
	if err != nil {
		return err
	}
	return node.Remove(ctx, name)
}

// self is what this member announces.
func (m *Member) self() Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Record{Name: m.name, Address: m.advertise, URL: m.o.URL, Version: m.o.Version, Voter: m.me.Voter}
}

// announceUntil asks the cluster to let this member in until it does.
func (m *Member) announceUntil(ctx context.Context, lost bool) error {
	said := ""
	for {
		err := m.announceOnce(ctx, lost)
		if err == nil {
			return nil
		}
		var no *refused
		if errors.As(err, &no) && !no.retry {
			return fmt.Errorf("%w: the cluster does not let this member in: %w", ErrMember, err)
		}
		if err.Error() != said {
			said = err.Error()
			m.log.Warn("waiting for the cluster to let this member in", "error", err)
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Member) announceOnce(ctx context.Context, lost bool) error {
	peers := m.peers()
	if len(peers) == 0 {
		return &refused{text: "no other member is known and this one has no store: restore it from a backup, or join the cluster anew with an empty directory"}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var failed []error
	for _, p := range peers {
		var a admitAnswer
		err := m.tell(ctx, p, "/admit", admitAsk{Protocol: protocolVersion, Record: m.self(), Lost: lost}, &a)
		if err == nil {
			return m.change(func(me *member) {
				if len(a.Peers) > 0 {
					me.Peers = a.Peers
				}
			})
		}
		var no *refused
		if errors.As(err, &no) && !no.retry {
			return err
		}
		failed = append(failed, fmt.Errorf("%s: %w", p, err))
	}
	return errors.Join(failed...)
}

// announceOften tells the cluster about this member's address, URL and version after every start.
func (m *Member) announceOften(ctx context.Context) {
	said := ""
	for {
		var err error
		if node, store, oerr := m.opened(); oerr == nil && node.IsLeader() {
			err = m.putRecord(ctx, store, m.self())
		} else if len(m.peers()) > 0 {
			if node != nil && !isMember(node, m.name) {
				err = errors.New("not a member") // removed, or not yet let in: never by itself
			} else {
				err = m.announceOnce(ctx, false)
			}
		} else {
			err = errors.New("alone and not leading")
		}
		if err == nil {
			return
		}
		if errors.Is(err, trust.ErrStranger) && err.Error() != said {
			said = err.Error()
			m.log.Error("the other members are strangers to this one", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}

func isMember(n *replication.Node, name string) bool {
	for _, p := range n.Status().Members {
		if string(p.ID) == name {
			return true
		}
	}
	return false
}

// renew replaces this member's certificate in time.
func (m *Member) renew(ctx context.Context) {
	for {
		if m.o.Now().After(m.id.RenewAfter()) {
			if err := m.RenewCertificate(ctx); err != nil {
				m.log.Error("this member's certificate could not be renewed", "expires", m.id.Expires(), "error", err)
			}
		}
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return
		}
	}
}

// RenewCertificate replaces this member's key and certificate now; connections made from now on use them.
func (m *Member) RenewCertificate(ctx context.Context) error {
	key, csr, err := trust.Request(m.name)
	if err != nil {
		return err
	}
	var a renewAnswer
	if m.id.Authority().Key != nil {
		a.Cert, err = m.id.Authority().Issue(csr, m.name, m.o.Now())
	} else {
		err = &refused{text: "no other member is known"}
		for _, p := range m.peers() {
			if err = m.tell(ctx, p, "/renew", renewAsk{CSR: csr}, &a); err == nil {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	if err := m.id.Renew(a.Cert, key); err != nil {
		return err
	}
	m.log.Info("certificate renewed", "expires", m.id.Expires())
	return m.id.Save(filepath.Join(m.dir, Folder))
}
