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
}

// Status returns a snapshot.
func (n *Node) Status() Status {
	addr, id := n.raft.LeaderWithID()
	applied, _ := n.machine.applied()
	s := Status{
		ID: n.o.ID, State: n.raft.State().String(), Term: n.raft.CurrentTerm(), Leader: string(id), LeaderAddress: string(addr),
		Commit: n.raft.CommitIndex(), Applied: applied, FirstIndex: n.log.FirstIndex(), LastIndex: n.log.LastIndex(),
		Members: n.raft.GetConfiguration().Configuration().Servers,
	}
	if n.raft.State() != raft.Leader {
		s.Heard = n.raft.LastContact()
	}
	s.StateIndex, s.StateHash = n.store.StateHash()
	return s
}

// IsLeader reports whether this node believes it leads. Only a Barrier proves it.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// HandOver gives leadership to the follower that is furthest. It returns when this node leads no more.
func (n *Node) HandOver(ctx context.Context) error {
	if !n.IsLeader() {
		return n.notLeader(nil)
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

// AddVoter adds a node, which must have an empty store or have been a member of this cluster before, and catches it up
// from the log. Only on the leader. ErrNoTransfer if the log does not reach back to its beginning.
func (n *Node) AddVoter(ctx context.Context, id, address string) error {
	if !n.IsLeader() {
		return n.notLeader(nil)
	}
	if first := n.log.FirstIndex(); first > 1 {
		return fmt.Errorf("%w: it begins at %d", ErrNoTransfer, first)
	}
	err := n.await(ctx, n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), 0, 0))
	if err != nil {
		return fmt.Errorf("replication: add %s: %w", id, n.leaderErr(err))
	}
	return nil
}

// Remove takes a node out of the cluster. Only on the leader; a leader that removes itself steps down.
func (n *Node) Remove(ctx context.Context, id string) error {
	if !n.IsLeader() {
		return n.notLeader(nil)
	}
	if err := n.await(ctx, n.raft.RemoveServer(raft.ServerID(id), 0, 0)); err != nil {
		return fmt.Errorf("replication: remove %s: %w", id, n.leaderErr(err))
	}
	return nil
}

func (n *Node) leaderErr(err error) error {
	if err == raft.ErrNotLeader { //nolint:errorlint // raft returns it as it is
		return n.notLeader(nil)
	}
	return err
}
