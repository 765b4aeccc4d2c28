package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Status is what a node knows about its cluster.
type Status struct {
	ID            string
	State         string // Leader, Follower, Candidate, Shutdown
	Term          uint64
	Leader        string // empty: none known
	LeaderAddress string
	Heard         time.Time // when the leader was last heard from; zero on the leader
	Commit        uint64    // newest index known to be committed
	Applied       uint64    // everything up to it is in the rows
	FirstIndex    uint64    // of the log
	LastIndex     uint64
	Members       []raft.Server
	StateHash     [32]byte // of all rows as of StateIndex; equal on all nodes at equal index
	StateIndex    uint64
	Disk          time.Duration // for one write of the log, of late; 0: there were none
}

// Status returns a snapshot.
func (n *Node) Status() Status {
	addr, id := n.raft.LeaderWithID()
	applied, _ := n.machine.applied()
	s := Status{
		ID: n.o.ID, State: n.raft.State().String(), Term: n.raft.CurrentTerm(), Leader: string(id), LeaderAddress: string(addr),
		Commit: n.raft.CommitIndex(), Applied: applied, FirstIndex: n.log.FirstIndex(), LastIndex: n.log.LastIndex(),
		Members: n.raft.GetConfiguration().Configuration().Servers, Disk: n.DiskPace(),
	}
	if n.raft.State() != raft.Leader {
		s.Heard = n.raft.LastContact()
	}
	s.StateIndex, s.StateHash = n.store.StateHash()
	return s
}

// NoLeader is the error that a change here would end with now, if no leader is found: it says who was last heard from.
func (n *Node) NoLeader() error { return n.notLeader(nil) }

// IsLeader reports whether this node believes it leads. Only a Barrier proves it.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// HandOver gives leadership to the follower that is furthest. It returns when this node leads no more.
func (n *Node) HandOver(ctx context.Context) error { return n.HandOverTo(ctx, "") }

// HandOverTo gives leadership to a certain voter; empty: to the one that is furthest.
func (n *Node) HandOverTo(ctx context.Context, to string) error {
	if !n.IsLeader() {
		return n.notLeader(nil)
	}
	if to != "" {
		for _, s := range n.raft.GetConfiguration().Configuration().Servers {
			if string(s.ID) != to || s.Suffrage != raft.Voter {
				continue
			}
			if err := n.await(ctx, n.raft.LeadershipTransferToServer(s.ID, s.Address)); err != nil {
				return fmt.Errorf("replication: hand over leadership to %s: %w", to, err)
			}
			return nil
		}
		return fmt.Errorf("%w: %s is not a voter of this cluster", ErrInvalid, to)
	}
	voters := 0
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters < 2 {
		return nil // nobody to hand it to
	}
	if err := n.await(ctx, n.raft.LeadershipTransfer()); err != nil {
		return fmt.Errorf("replication: hand over leadership: %w", err)
	}
	return nil
}

// AddVoter adds a member that votes, or makes a non-voter one. It must have an empty store, a fetched one (Fetch), or
// have been a member of this cluster before. Only on the leader.
func (n *Node) AddVoter(ctx context.Context, id, address string) error {
	return n.change(ctx, "add "+id, func() raft.Future { return n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), 0, 0) })
}

// AddNonvoter adds a member that receives everything and does not vote. A voter of that name stays one, with a new address.
// Only on the leader.
func (n *Node) AddNonvoter(ctx context.Context, id, address string) error {
	return n.change(ctx, "add "+id, func() raft.Future { return n.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), 0, 0) })
}

// Demote makes a voter a non-voter. Only on the leader.
func (n *Node) Demote(ctx context.Context, id string) error {
	return n.change(ctx, "demote "+id, func() raft.Future { return n.raft.DemoteVoter(raft.ServerID(id), 0, 0) })
}

func (n *Node) change(ctx context.Context, doing string, begin func() raft.Future) error {
	if !n.IsLeader() {
		return n.notLeader(nil)
	}
	if err := n.await(ctx, begin()); err != nil {
		return fmt.Errorf("replication: %s: %w", doing, n.leaderErr(err))
	}
	return nil
}

// Remove takes a node out of the cluster. Only on the leader; a leader that removes itself steps down.
func (n *Node) Remove(ctx context.Context, id string) error {
	return n.change(ctx, "remove "+id, func() raft.Future { return n.raft.RemoveServer(raft.ServerID(id), 0, 0) })
}

func (n *Node) leaderErr(err error) error {
	if err == raft.ErrNotLeader { //nolint:errorlint // raft returns it as it is
		return n.notLeader(nil)
	}
	return err
}
