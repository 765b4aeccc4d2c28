package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/internal/version"
	"github.com/erlmcp/erlmcp/replication"
	"github.com/erlmcp/erlmcp/replication/cluster"
)

// ErrNotMember: the server is a single node.
var ErrNotMember = errors.New("this server is not a member of a cluster; stop it and make a cluster of its directory with `erlmcp cluster init`, or serve a directory made by `erlmcp cluster join`")

// ErrNoMember: cluster.required is on, and the directory belongs to no member. Nothing was written.
var ErrNoMember = errors.New("the data directory does not belong to a member of a cluster")

// Timing translates the profile.
func Timing(c *config.Config) replication.Timing {
	if c.Cluster.Profile == "compat" {
		return replication.Compat()
	}
	return replication.Fast()
}

// openMember opens the port between members, if the directory belongs to one or the configuration makes it one.
func (n *Node) openMember() error {
	c := n.cfg.Cluster
	if !cluster.IsMember(n.dir) {
		switch {
		case len(n.o.Secret) > 0:
		case c.Required:
			return fmt.Errorf("%w: %s; %s forbids to begin a new store in it. Is its disk mounted? If it is lost: `erlmcp cluster remove NAME` and "+
				"`erlmcp cluster token` on another member, `erlmcp cluster join` here, then serve. A single node is served with cluster.required=off",
				ErrNoMember, n.dir, n.cfg.Origin("cluster.required"))
		default:
			return cluster.CheckAlone(n.dir, nil)
		}
		name := c.Name
		if name == "" {
			var err error
			if name, err = os.Hostname(); err != nil {
				return fmt.Errorf("cluster.name is not set, and the host has no name: %w", err)
			}
		}
		o := cluster.FoundOptions{Name: name, Advertise: c.Advertise, Secret: n.o.Secret, Peers: c.Peers, Now: n.o.Now()}
		if err := cluster.Found(n.dir, o); err != nil {
			return err
		}
	}
	url := c.URL
	if url == "" && n.http.mainAddress != "" {
		url = n.endpoints().MCP
	}
	options := EngineOptions(n.cfg, n.o.Key, n.log)
	options.FS = n.o.FS
	m, err := cluster.Open(n.dir, cluster.Options{
		Listen: c.Listen, URL: url, Version: version.String(), Engine: options, Timing: Timing(n.cfg),
		TransferRate: c.TransferRate, DeadAfter: c.DeadAfter, Expect: int(c.Expect), Logger: n.log.With("component", "cluster"), Now: n.o.Now,
	})
	n.member = m
	return err
}

// leads reports whether the schedules are this node's to carry out: of a cluster they are the leader's.
func (n *Node) leads() bool {
	if n.member == nil {
		return true
	}
	node := n.member.Node()
	return node != nil && node.IsLeader()
}

// lifeOf is the history that backups of the store belong to: that of the cluster, or of the single node's log.
func (n *Node) lifeOf(ctx context.Context, s *engine.Store) (object.ID, error) {
	if n.member == nil {
		return object.ID(s.Log().ID()), nil
	}
	id, err := n.member.History(ctx)
	return object.ID(id), err
}

// historyName is the history of the cluster as clients are told, so that they notice a server that is no member of theirs any more;
// "" on a single node, and before there is one. A change of it needs a restart, so it is looked for once.
func (n *Node) historyName(ctx context.Context) string {
	if n.member == nil {
		return ""
	}
	if known := n.history.Load(); known != nil {
		return *known
	}
	id, err := n.member.HistoryHere(ctx)
	if err != nil {
		return ""
	}
	name := hex.EncodeToString(id[:])
	n.history.Store(&name)
	return name
}

// noteDamage lets the next start fetch the store from another member when damaged rows made it fail.
func (n *Node) noteDamage(s *engine.Store) {
	if what := s.Damaged(); n.member != nil && what != "" {
		n.member.RebuildNow(cluster.DamagedRows(what))
	}
}

func (n *Node) closeMember() error {
	if n.member == nil {
		return nil
	}
	return n.member.Close()
}

// openAlone opens a single node's store.
func (n *Node) openAlone(o engine.Options) (*engine.Store, error) {
	s, err := engine.Open(n.dir, o)
	if err != nil {
		return nil, err
	}
	if err := cluster.CheckAlone(n.dir, s.Log()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openStore opens a single node's store, or the member's, and then waits until it has everything that was ever
// acknowledged.
func (n *Node) openStore(ctx context.Context, o engine.Options) (*engine.Store, error) {
	if n.member == nil {
		return n.openAlone(o)
	}
	s, err := n.member.Start(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.openSocket(); err != nil { // now, so that `erlmcp cluster status` tells what it waits for
		return nil, errors.Join(err, n.member.Stop())
	}
	for said := ""; ; {
		err := s.View(ctx, func(*engine.Tx) error { return nil })
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, errors.Join(ctx.Err(), n.member.Stop())
		case errors.Is(err, engine.ErrFailed), errors.Is(err, engine.ErrClosed):
			return nil, errors.Join(err, n.member.Stop())
		case err.Error() != said:
			said = err.Error()
			n.log.Warn("waiting for a majority of the cluster", "error", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-n.member.Rebuild():
			if err := n.member.Stop(); err != nil {
				return nil, err
			}
			if s, err = n.member.Start(ctx); err != nil {
				return nil, err
			}
		case <-ctx.Done():
		}
	}
}

func (n *Node) closeStore(s *engine.Store) error {
	if n.member == nil {
		return s.Close()
	}
	return n.member.Stop()
}

// freshness tells clients that want a stale read what it is worth. The index is read after the age: a state that has grown since is
// no older.
func (n *Node) freshness(s *engine.Store) func() (uint64, time.Duration) {
	return func() (uint64, time.Duration) {
		age := time.Duration(0)
		if n.member != nil {
			age = n.member.Age()
		}
		return s.AppliedIndex(), age
	}
}

// rebuild tells when the member's store must not be used any more.
func (n *Node) rebuild() <-chan struct{} {
	if n.member == nil {
		return nil
	}
	return n.member.Rebuild()
}

// reopen takes everything down to the listeners and builds it up again on a store that the member fetches from another one.
// A nil result without error means that ctx ended.
func (n *Node) reopen(ctx context.Context) (*parts, error) {
	n.log.Error("the store is given up and fetched from another member", "reason", n.member.Reason())
	n.phase.Store(admin.PhaseRecovering)
	old := n.parts.Swap(nil)
	old.runtime.Close()
	old.tracing.stop(n.log)
	n.stopJobs()
	if err := n.closeStore(old.store); err != nil {
		n.log.Warn("closing the store that is given up", "error", err)
	}
	p, err := n.open(ctx)
	if err != nil || p == nil {
		return nil, err
	}
	n.parts.Store(p)
	if err := n.resumeTCP(); err != nil {
		return nil, err
	}
	n.phase.Store(admin.PhaseServing)
	n.startJobs(p)
	n.log.Info("serving again", "applied", p.store.AppliedIndex())
	return p, nil
}

// Cluster carries out an order of the command line.
func (n *Node) Cluster(ctx context.Context, r admin.ClusterRequest) (any, error) {
	m := n.member
	if m == nil {
		return nil, ErrNotMember
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	switch r.Op {
	case "status":
		return m.Status(ctx)
	case "transfer":
		return struct{}{}, m.Transfer(ctx, r.Name)
	case "remove":
		return struct{}{}, m.Remove(ctx, r.Name)
	case "promote":
		return struct{}{}, m.Promote(ctx, r.Name)
	case "rotate":
		return struct{}{}, m.RenewCertificate(ctx)
	case "authority", "authority-finish":
		return struct{}{}, m.RotateAuthority(ctx, r.Op == "authority-finish")
	case "repair":
		m.RebuildNow("an operator asked for it")
		return struct{}{}, nil
	case "token":
		return m.Token(cluster.TokenOptions{TTL: r.TTL, Uses: r.Uses, Voter: r.Voter})
	}
	return nil, fmt.Errorf("unknown order %q", r.Op)
}
