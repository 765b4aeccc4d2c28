package replication

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// based is a member's transport between raft and the network. It makes up for raft not knowing that state is fetched
// (fetch.go) and not installed by the leader. One goroutine passes requests on.
//
// Entries from before the log: a leader that has not yet noticed how far a member got may send entries from before the
// beginning of its log. The library would answer that it does not know them, and the leader would go further and further
// back. But everything up to base is in the member's rows and was committed, so every leader has it in the same form: it
// counts as received.
//
// Snapshots: a leader whose log does not reach back to where it believes a member to be sends a snapshot. Ours are
// empty (marks.go). The member says that it has it, at most once a second: the leader then goes on behind its mark, and the
// member answers how far it really is. If that is far enough, for it has fetched the state meanwhile, replication goes on
// from there; if not, the leader is back at the beginning, and waits. That the leader counts the member as a copy up to
// its mark does no harm: what is before a mark is committed already.
type based struct {
	raft.Transport
	rpcs  chan raft.RPC
	stop  chan struct{}
	close sync.Once

	first       func() uint64 // index of the first entry of the log
	index, term uint64        // base
	nodded      time.Time     // when a snapshot was last said to be here
}

func newBased(t raft.Transport, first func() uint64, m mark) *based {
	b := &based{Transport: t, rpcs: make(chan raft.RPC), stop: make(chan struct{}), first: first, index: m.index, term: m.term}
	go b.run()
	return b
}

func (b *based) run() {
	for {
		select {
		case rpc := <-b.Transport.Consumer():
			switch a := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				rpc.Command = b.rebase(a)
			case *raft.InstallSnapshotRequest:
				now := time.Now()
				yes := now.Sub(b.nodded) > time.Second
				if yes {
					b.nodded = now
				}
				rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: a.RPCHeader, Term: a.Term, Success: yes}, nil)
				continue
			}
			select {
			case b.rpcs <- rpc:
			case <-b.stop:
				return
			}
		case <-b.stop:
			return
		}
	}
}

// rebase cuts off what lies before the log.
func (b *based) rebase(a *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	heartbeat := a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0
	if heartbeat || a.PrevLogEntry >= b.index || a.PrevLogEntry >= b.first() {
		return a
	}
	c := *a // the transport in memory shares it with the sender
	c.PrevLogEntry, c.PrevLogTerm, c.Entries = b.index, b.term, nil
	for i, e := range a.Entries {
		if e.Index > b.index {
			c.Entries = a.Entries[i:]
			break
		}
	}
	return &c
}

// Consumer implements raft.Transport.
func (b *based) Consumer() <-chan raft.RPC { return b.rpcs }

// RequestPreVote implements raft.WithPreVote.
func (b *based) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return b.Transport.(raft.WithPreVote).RequestPreVote(id, target, args, resp) // Options.check has seen to it
}

// Close implements raft.WithClose.
func (b *based) Close() error {
	b.close.Do(func() { close(b.stop) })
	if c, ok := b.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}
