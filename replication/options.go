package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/erlmcp/erlmcp/replication/wire"
	"github.com/hashicorp/raft"
)

// Timing says how fast a lost leader is noticed and replaced.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for 1..2 times this asks for an election
	Election  time.Duration // a candidate that gets no answer for this tries again; at least Heartbeat
	Lease     time.Duration // a leader that hears from no majority for this steps down; at most Heartbeat
	Commit    time.Duration // an idle leader tells followers the commit index at least this often
	Stall     time.Duration // a leader whose disk keeps one write for this long falls silent (pace.go); 0: four times Heartbeat, at most 10 s
}

// Fast is the default: a leader that dies is replaced in about 0.6 s. It stands pauses of the process or of the disk
// of up to about 100 ms.
func Fast() Timing {
	return Timing{Heartbeat: 250 * time.Millisecond, Election: 250 * time.Millisecond, Lease: 125 * time.Millisecond, Commit: 10 * time.Millisecond}
}

// Compat replaces a lost leader within about 15 s, like the failover settings 5 s x 3 that it stands for.
func Compat() Timing {
	return Timing{Heartbeat: 5 * time.Second, Election: 5 * time.Second, Lease: 2500 * time.Millisecond, Commit: 50 * time.Millisecond}
}

// Options configure a Node.
type Options struct {
	// ID names this node for ever, in the cluster and in its log. Required.
	ID string
	// Transport carries raft's messages. Required; closed by the node. It must implement raft.WithPreVote, as all of raft's own
	// do, so that a node that was cut off does not disturb the others when it returns.
	Transport raft.Transport
	// Members makes a new cluster of these nodes, if the store has never been in one. Give all nodes of a new cluster
	// the same list, and empty stores. A store with history can only begin a cluster alone, with itself as only member;
	// the others join it with AddVoter. Empty: wait to be added.
	Members []raft.Server
	// Restart replaces the members of a store that was in a cluster: disaster recovery. Everything in its log counts as
	// committed from then on. Whoever was a member before and is not in it must never meet this store again.
	Restart *raft.Configuration
	// Timing; zero: Fast.
	Timing Timing
	// MarkEvery is after how many entries the rows are flushed and a restart begins behind them; default 65536.
	MarkEvery uint64
	// MarkInterval is how often that is looked at; default 30 s.
	MarkInterval time.Duration
	// HandOver bounds how long Close tries to give leadership to another node; default 2 s, negative: not at all.
	HandOver time.Duration
	// Dial connects to the forwarding service (Node.ServeForward) of another member, at its raft address. With it, changes
	// and linearizable reads work on every member; without it, only on the leader.
	Dial func(ctx context.Context, id, address string) (net.Conn, error)
	// Boot tells this run of the process from others; default random.
	Boot [16]byte
	// Patience is how long a change or read waits for a leader, with Dial, before it is refused; a change whose outcome is
	// in doubt waits twice as long. Default 8 elections, at least 2 s and at most 20 s.
	Patience time.Duration
	// Now is the clock of Patience; default time.Now.
	Now func() time.Time
	// Logger hears what raft has to say; default: discard.
	Logger *slog.Logger
}

// ErrInvalid: an option cannot work.
var ErrInvalid = errors.New("replication: invalid option")

func (o Options) withDefaults() (Options, error) {
	if o.ID == "" || o.Transport == nil {
		return o, fmt.Errorf("%w: ID and Transport are required", ErrInvalid)
	}
	if _, ok := o.Transport.(raft.WithPreVote); !ok {
		return o, fmt.Errorf("%w: the Transport has no pre-votes", ErrInvalid)
	}
	if o.Timing == (Timing{}) {
		o.Timing = Fast()
	}
	if o.Timing.Stall == 0 {
		o.Timing.Stall = min(4*o.Timing.Heartbeat, 10*time.Second)
	}
	if o.MarkEvery == 0 {
		o.MarkEvery = 65536
	}
	if o.MarkInterval == 0 {
		o.MarkInterval = 30 * time.Second
	}
	if o.HandOver == 0 {
		o.HandOver = 2 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = min(max(8*o.Timing.Election, 2*time.Second), 20*time.Second)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Boot == [16]byte{} {
		if _, err := rand.Read(o.Boot[:]); err != nil {
			return o, fmt.Errorf("replication: random boot id: %w", err)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := raft.ValidateConfig(o.raftConfig()); err != nil {
		return o, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return o, nil
}

// raftConfig translates the options. The numbers that are not options have these reasons:
func (o *Options) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(o.ID)
	c.HeartbeatTimeout, c.ElectionTimeout = o.Timing.Heartbeat, o.Timing.Election
	c.LeaderLeaseTimeout, c.CommitTimeout = o.Timing.Lease, o.Timing.Commit
	c.MaxAppendEntries = wire.MaxEntries // raft's limit too: the longest group commit
	c.BatchApplyCh = true                // proposals wait in raft's queue while it writes, so that groups form
	c.TrailingLogs = math.MaxUint64      // raft never compacts: the engine owns the front of the log
	c.NoSnapshotRestoreOnStart = true    // the rows are where the mark says
	c.RestoreCommittedLogs = true        // makes raft stage the commit index; the engine has replayed what it says
	c.ShutdownOnRemove = false           // a removed node goes on as a follower, so that it can be looked at
	c.SnapshotThreshold = o.MarkEvery
	c.SnapshotInterval = o.MarkInterval
	c.NoLegacyTelemetry = true
	c.Logger = newLogger(o.Logger)
	return c
}
