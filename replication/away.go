package replication

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// away makes up for raft's waiting when a member was away. While a member cannot be reached raft doubles the time until it
// tries to replicate again, up to 10 s, and does not look whether the member is back: it would be served late, long after its
// heartbeats are answered. So a message with entries that cannot be sent is held until a heartbeat has reached the member,
// and is then sent again, once. Raft's failures do not add up meanwhile.
//
// A held message ends with the leadership, with the member's membership, and with the node.
type away struct {
	mu   sync.Mutex
	back map[raft.ServerID]chan struct{} // closed when the member answers a heartbeat
}

// awayLook is how often a held message looks whether it is still wanted.
const awayLook = 50 * time.Millisecond

// AppendEntries implements raft.Transport.
func (b *based) AppendEntries(id raft.ServerID, target raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := errStalled
	if !b.quiet() {
		err = b.Transport.AppendEntries(id, target, a, resp)
	}
	switch {
	case heartbeat(a):
		if err == nil {
			b.away.reached(id)
		}
		return err
	case err == nil || !b.hold(id, target, a.Term):
		return err
	}
	return b.Transport.AppendEntries(id, target, a, resp)
}

func (w *away) reached(id raft.ServerID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.back[id]; c != nil {
		close(c)
		delete(w.back, id)
	}
}

func (w *away) wait(id raft.ServerID) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.back == nil {
		w.back = map[raft.ServerID]chan struct{}{}
	}
	c := w.back[id]
	if c == nil {
		c = make(chan struct{})
		w.back[id] = c
	}
	return c
}

// hold waits for the member; false: the message is not wanted any more.
func (b *based) hold(id raft.ServerID, target raft.ServerAddress, term uint64) bool {
	back := b.away.wait(id)
	t := time.NewTicker(awayLook)
	defer t.Stop()
	for b.wanted(id, target, term) {
		select {
		case <-back:
			return true
		case <-t.C:
		case <-b.stopped:
			return false
		case <-b.stop:
			return false
		}
	}
	return false
}

// wanted reports whether this node still leads in the term, and the member is one, at that address.
func (b *based) wanted(id raft.ServerID, target raft.ServerAddress, term uint64) bool {
	r := b.raft.Load()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return false
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == id {
			return s.Address == target
		}
	}
	return false
}
