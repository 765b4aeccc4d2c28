package replication

import (
	"sync"
	"sync/atomic"
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
//
// Commit index: a follower learns what is committed with the next entries, or after Timing.Commit. When the leader says over
// the forwarding stream that an entry of this member is committed (committed), the next message of that leader says so too, or
// one is made up that carries nothing else: what the leader could have sent in that moment.
//
// Members that come back: see away.go.
type based struct {
	raft.Transport
	rpcs    chan raft.RPC
	notices chan notice // capacity 1
	stop    chan struct{}
	close   sync.Once

	log         bounds
	index, term uint64    // base
	nodded      time.Time // when a snapshot was last said to be here
	known       notice    // newest; owned by run
	away        away

	silent  func() bool               // this node must not look alive (pace.go); nil: it may
	raft    atomic.Pointer[raft.Raft] // nil while raft begins
	stopped <-chan struct{}           // closed when the node ends
}

// bounds are the ends of the log.
type bounds interface {
	FirstIndex() uint64
	LastIndex() uint64
}

// notice: in this term its leader said that everything up to index is committed.
type notice struct {
	term, index uint64
	leader      raft.ServerID
	address     raft.ServerAddress
}

// How often and how long a notice waits for its entry to arrive. After that raft's own way is as fast.
const (
	noticeEvery = time.Millisecond
	noticeTries = 20
)

func newBased(t raft.Transport, log bounds, m mark, stopped <-chan struct{}) *based {
	b := &based{
		Transport: t, rpcs: make(chan raft.RPC), notices: make(chan notice, 1), stop: make(chan struct{}),
		log: log, index: m.index, term: m.term, stopped: stopped,
	}
	go b.run()
	return b
}

// committed is told by the forwarding stream. It never waits; of several notices that nobody has taken the newest counts.
func (b *based) committed(n notice) {
	r := b.raft.Load()
	if r == nil || r.CommitIndex() >= n.index {
		return
	}
	for {
		select {
		case b.notices <- n:
			return
		default:
		}
		select {
		case <-b.notices:
		default:
		}
	}
}

func (b *based) run() {
	var again <-chan time.Time
	tries := 0
	for {
		select {
		case b.known = <-b.notices:
			tries, again = 0, b.deliver()
		case <-again:
			if tries++; tries < noticeTries {
				again = b.deliver()
			} else {
				again = nil
			}
		case rpc := <-b.Transport.Consumer():
			switch a := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				rpc.Command = b.informed(b.rebase(a))
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
	if heartbeat(a) || a.PrevLogEntry >= b.index || a.PrevLogEntry >= b.log.FirstIndex() {
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

// heartbeat tells a request that raft sends beside replication.
func heartbeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0
}

// informed raises a message's commit index to what its sender has said since; never beyond the entries that the message proves
// to be those of the leader.
func (b *based) informed(a *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	commit := min(b.known.index, a.PrevLogEntry+uint64(len(a.Entries)))
	if heartbeat(a) || a.Term != b.known.term || commit <= a.LeaderCommitIndex {
		return a
	}
	c := *a
	c.LeaderCommitIndex = commit
	return &c
}

// deliver gives raft a message with the known commit index and nothing else; if the entry is not here yet, it returns when to
// try again. The message names the entry and its term, so that raft finds out if this log has another one there.
func (b *based) deliver() <-chan time.Time {
	k := b.known
	if r := b.raft.Load(); r == nil || r.CommitIndex() >= k.index {
		return nil
	}
	if b.log.LastIndex() < k.index {
		return time.After(noticeEvery)
	}
	leader := b.EncodePeer(k.leader, k.address)
	a := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(k.leader), Addr: leader},
		Term:      k.term, PrevLogEntry: k.index, PrevLogTerm: k.term, LeaderCommitIndex: k.index,
	}
	select {
	case b.rpcs <- raft.RPC{Command: a, RespChan: make(chan raft.RPCResponse, 1)}: // nobody reads the answer
	case <-b.stop:
	}
	return nil
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
