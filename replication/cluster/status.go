package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/trust"
	"github.com/hashicorp/raft"
)

// Status is what a member knows about its cluster.
type Status struct {
	Cluster     string       `json:"cluster"`
	Name        string       `json:"name"`
	State       string       `json:"state"`
	Term        uint64       `json:"term"`
	Leader      string       `json:"leader,omitempty"`
	LeaderURL   string       `json:"leader_url,omitempty"`
	Heard       *time.Time   `json:"heard,omitempty"` // from the leader; absent on the leader
	Age         float64      `json:"age_seconds"`     // how old a stale read here is at most; -1: unknown
	Quorum      bool         `json:"quorum"`          // a linearizable read just succeeded here
	QuorumError string       `json:"quorum_error,omitempty"`
	Commit      uint64       `json:"commit"`
	Applied     uint64       `json:"applied"`
	StateHash   string       `json:"state_hash"`
	StateIndex  uint64       `json:"state_index"`
	Certificate time.Time    `json:"certificate_expires"`
	Authority   time.Time    `json:"authority_expires"`
	Rotation    *Rotation    `json:"authority_rotation,omitempty"` // under way
	Warnings    []string     `json:"warnings,omitempty"`           // of certificates that end soon
	Members     []MemberInfo `json:"members"`
	Events      []Event      `json:"events"` // newest first
	Rebuild     string       `json:"rebuild,omitempty"`
}

// MemberInfo is one line of the table of members.
type MemberInfo struct {
	Record
	Votes   bool    `json:"votes"` // now
	State   string  `json:"state"` // Leader, Follower, ...; unreachable
	Applied uint64  `json:"applied"`
	Last    uint64  `json:"last"`
	Disk    float64 `json:"disk_seconds,omitempty"` // that its disk takes for one write of the log, of late
	Error   string  `json:"error,omitempty"`

	Certificate *time.Time `json:"certificate_expires,omitempty"` // absent: it did not say
	Issuer      string     `json:"certificate_authority,omitempty"`
}

// Rotation is a rotation of the authority that is under way.
type Rotation struct {
	Phase   string    `json:"phase"` // introduce: all are to trust the new one; issue: all are to have certificates of it
	Old     string    `json:"old"`
	New     string    `json:"new"`
	Began   time.Time `json:"began"`
	Waiting []string  `json:"waiting"` // members that have not followed
}

// When certificates are warned of. A member renews its own four months before its end: one that is nearer has not managed to.
const (
	certificateSoon = 30 * 24 * time.Hour
	authoritySoon   = 180 * 24 * time.Hour
)

// Certificates are when this member's certificate and the authority's end, and what is wrong about that.
func (m *Member) Certificates() (own, authority time.Time, warnings []string) {
	own, authority = m.id.Expires(), m.id.Authority().Cert.NotAfter
	now := m.o.Now()
	if w := ends("the certificate of "+m.name, own, now, certificateSoon, "erlmcp cluster rotate on it renews it; when it has ended: erlmcp cluster ca accept"); w != "" {
		warnings = append(warnings, w)
	}
	if w := ends("the cluster's authority", authority, now, authoritySoon, "erlmcp cluster ca rotate replaces it"); w != "" {
		warnings = append(warnings, w)
	}
	return own, authority, warnings
}

// ends warns of a certificate that ends soon; "": it does not.
func ends(what string, at, now time.Time, soon time.Duration, how string) string {
	days := int(at.Sub(now) / (24 * time.Hour))
	switch {
	case !now.Before(at):
		return fmt.Sprintf("%s ended on %s: %s", what, at.UTC().Format(time.DateOnly), how)
	case at.Sub(now) < soon:
		return fmt.Sprintf("%s ends in %d days, on %s: %s", what, days, at.UTC().Format(time.DateOnly), how)
	}
	return ""
}

// Age is how old a stale read on this member is at most: everything that was committed anywhere so long ago is in its state. A
// majority has proven it; -1 before the first proof since the start.
func (m *Member) Age() time.Duration {
	node := m.Node()
	if node == nil {
		return -1
	}
	at := node.AsOf()
	if at.IsZero() {
		return -1
	}
	return time.Since(at) // both of the monotonic clock
}

// HasLeader reports whether this member knows a leader.
func (m *Member) HasLeader() bool {
	node := m.Node()
	return node != nil && node.Status().Leader != ""
}

// Status asks this member, and every other one how it is. It takes up to two seconds when some do not answer.
func (m *Member) Status(ctx context.Context) (Status, error) {
	m.mu.Lock()
	node, store, me, reason := m.node, m.store, m.me, m.reason
	m.mu.Unlock()
	out := Status{Cluster: m.id.Authority().ClusterID(), Name: me.Name, State: "starting", Certificate: m.id.Expires(), Rebuild: reason, Age: -1}
	_, out.Authority, out.Warnings = m.Certificates()
	if node == nil {
		return out, nil
	}
	s := node.Status()
	out.State, out.Term, out.Leader, out.Commit, out.Applied = s.State, s.Term, s.Leader, s.Commit, s.Applied
	out.StateHash, out.StateIndex = hex.EncodeToString(s.StateHash[:]), s.StateIndex
	if !s.Heard.IsZero() {
		out.Heard = &s.Heard
	}
	if age := m.Age(); age >= 0 {
		out.Age = age.Seconds()
	}
	all, err := records(ctx, store)
	if err != nil {
		return out, err
	}
	if out.Events, err = events(ctx, store, 20); err != nil {
		return out, err
	}
	r, said, err := rotationOf(ctx, store)
	if err != nil {
		return out, err
	}
	if r.running() {
		out.Rotation = &Rotation{Phase: r.Phase, Old: r.Old, New: r.ID, Began: r.Began, Waiting: m.waiting(node, r, said, false)}
	}
	qctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	quorum := make(chan error, 1)
	go func() { quorum <- store.View(qctx, func(*engine.Tx) error { return nil }) }()
	m.look(qctx, s, time.Time{})
	if err := <-quorum; err != nil {
		if errors.Is(err, context.DeadlineExceeded) && s.Leader == "" {
			err = node.NoLeader()
		}
		out.QuorumError = err.Error()
	} else {
		out.Quorum = true
	}
	m.describe(&out, me, s, all)
	return out, nil
}

// describe adds what is known of every member.
func (m *Member) describe(out *Status, me member, s replication.Status, all map[string]Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range s.Members {
		info := MemberInfo{Record: all[string(p.ID)], Votes: p.Suffrage == raft.Voter, State: "unreachable"}
		info.Name, info.Address = string(p.ID), string(p.Address)
		see := m.seen[info.Name]
		switch {
		case info.Name == me.Name:
			info.State, info.Applied, info.Last = s.State, s.Applied, s.LastIndex
			info.Disk = s.Disk.Seconds()
			info.Certificate, info.Issuer = &out.Certificate, m.id.Issuer().ClusterID()
		case see.err != nil:
			info.Error = see.err.Error()
		default:
			info.State, info.Applied, info.Last = see.pong.State, see.pong.Applied, see.pong.Last
			info.Disk = time.Duration(see.pong.Disk).Seconds()
			info.Certificate, info.Issuer = see.pong.Certificate, see.pong.Issuer
			if info.Certificate == nil {
				break // of an older version
			}
			if w := ends("the certificate of "+info.Name, *info.Certificate, m.o.Now(), certificateSoon, "erlmcp cluster rotate on it renews it"); w != "" {
				out.Warnings = append(out.Warnings, w)
			}
		}
		if info.Name == s.Leader {
			out.LeaderURL = info.URL
		}
		out.Members = append(out.Members, info)
	}
	slices.SortFunc(out.Members, func(a, b MemberInfo) int { return strings.Compare(a.Name, b.Name) })
}

// Remove takes a member out, Promote makes a non-voter a voter, Transfer gives leadership to a voter (empty: to the one that
// is furthest). Any member may be asked; it finds the leader.
func (m *Member) Remove(ctx context.Context, name string) error {
	return m.order(ctx, "remove", name)
}

// Promote makes a non-voter a voter.
func (m *Member) Promote(ctx context.Context, name string) error {
	return m.order(ctx, "promote", name)
}

// Transfer gives leadership away.
func (m *Member) Transfer(ctx context.Context, name string) error {
	return m.order(ctx, "transfer", name)
}

func (m *Member) order(ctx context.Context, kind, name string) error {
	var a admitAnswer
	return m.command(ctx, order{Kind: kind, Name: name}, &a)
}

// TokenOptions describe a join token.
type TokenOptions struct {
	TTL   time.Duration // default 1 h, at most 30 days
	Uses  int           // 0: any number
	Voter bool
}

// Token makes a join token that names all members of now.
func (m *Member) Token(o TokenOptions) (string, error) {
	if o.TTL == 0 {
		o.TTL = time.Hour
	}
	if o.TTL < time.Second || o.TTL > 30*24*time.Hour || o.Uses < 0 {
		return "", fmt.Errorf("%w: a token lives from 1 s to 720 h and is used 0 (any number) or more times", ErrMember)
	}
	addresses := append([]string{m.self().Address}, m.peers()...)
	return m.id.Authority().NewToken(trust.Token{Addresses: addresses, Expires: m.o.Now().Add(o.TTL), Voter: o.Voter, Uses: o.Uses})
}
