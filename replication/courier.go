package replication

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// courier is this member's stream to the leader.
type courier struct {
	r       *router
	leader  string
	address raft.ServerAddress
	frames  *frames
	term    uint64 // of the welcome, 0 before; guarded by router.mu

	mu    sync.Mutex
	asks  map[uint64]chan frame
	last  uint64
	ended chan struct{}
	once  sync.Once
}

// open begins to connect to the leader; the courier is of use when the welcome has come.
func (r *router) open(id, address string) *courier {
	if r.n.o.Dial == nil {
		return nil
	}
	c := &courier{r: r, leader: id, address: raft.ServerAddress(address), asks: map[uint64]chan frame{}, ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	r.link = c
	go c.run(address)
	return c
}

// cut ends a courier, nil: whichever there is.
func (r *router) cut(c *courier) {
	r.mu.Lock()
	if c == nil {
		c = r.link
	}
	if r.link == c {
		r.link = nil
	}
	r.mu.Unlock()
	if c != nil {
		c.end()
	}
}

func (c *courier) end() {
	c.once.Do(func() { close(c.ended) })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frames != nil {
		c.frames.close()
	}
}

func (c *courier) run(address string) {
	n := c.r.n
	defer c.r.cut(c)
	ctx, cancel := context.WithTimeout(context.Background(), n.o.Timing.Election*4)
	conn, err := n.o.Dial(ctx, c.leader, address)
	cancel()
	if err != nil {
		n.o.Logger.Debug("replication: connect to the leader", "leader", c.leader, "error", err)
		c.pause()
		return
	}
	f := newFrames(conn)
	c.mu.Lock()
	c.frames = f
	c.mu.Unlock()
	select {
	case <-c.ended:
		f.close()
		return
	default:
	}
	_ = conn.SetReadDeadline(time.Now().Add(4 * n.o.Timing.Election)) // for the welcome; take lifts it
	if f.write(frameHello, forwardVersion, c.r.boot[:], []byte(n.o.ID)) != nil {
		return
	}
	for {
		x, err := f.read()
		if err != nil {
			c.pause()
			return
		}
		if err := c.take(x); err != nil {
			n.o.Logger.Debug("replication: forwarding", "leader", c.leader, "error", err)
			c.pause()
			return
		}
	}
}

// pause keeps a leader that cannot be reached, or does not know yet that it leads, from being asked all the time.
func (c *courier) pause() {
	select {
	case <-time.After(20 * time.Millisecond):
	case <-c.ended:
	case <-c.r.n.stopped:
	}
}

// take is called for every frame of the leader.
func (c *courier) take(x frame) error {
	switch x.kind {
	case frameWelcome:
		if len(x.payload) != 8 || x.id == 0 {
			return fmt.Errorf("%w: welcome", errFormat)
		}
		if err := c.frames.conn.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		c.r.welcomed(c, x.id, binary.BigEndian.Uint64(x.payload))
	case frameRefuse:
		c.r.refused(x.id, refusal(x.payload))
	case frameIndex, frameFail:
		if x.kind == frameIndex && len(x.payload) == 8 {
			c.committed(binary.BigEndian.Uint64(x.payload))
		}
		c.mu.Lock()
		ch := c.asks[x.id]
		delete(c.asks, x.id)
		c.mu.Unlock()
		if ch != nil {
			ch <- x
		}
	case frameReject:
		return fmt.Errorf("%w: %s", ErrNotLeader, x.payload)
	default:
		return fmt.Errorf("%w: frame kind %d", errFormat, x.kind)
	}
	return nil
}

// committed passes on what the leader says is committed.
func (c *courier) committed(index uint64) {
	c.r.mu.Lock()
	term := c.term
	c.r.mu.Unlock()
	c.r.n.wire.committed(notice{term: term, index: index, leader: raft.ServerID(c.leader), address: c.address})
}

// welcomed begins to use the courier: what the leader has not received in this term is sent again.
func (r *router) welcomed(c *courier, term, received uint64) {
	r.mu.Lock()
	c.term = term
	var again []*parcel
	for _, same := range r.sent {
		for _, p := range same {
			if p.term == term && p.serial > received {
				again = append(again, p)
			}
		}
	}
	for _, p := range again {
		r.forget(p)
	}
	r.requeue(again...)
	r.mu.Unlock()
	r.wake()
}

// refused is told that a write set was certainly not written.
func (r *router) refused(serial uint64, err error) {
	r.mu.Lock()
	var found *parcel
	for _, same := range r.sent {
		for _, p := range same {
			if p.serial == serial {
				found = p
			}
		}
	}
	if found == nil {
		r.mu.Unlock()
		return
	}
	r.forget(found)
	again := refusalCode(err) == refusedNotLeader
	if again {
		r.requeue(found) // at the next tick there may be a leader
	}
	r.mu.Unlock()
	if !again {
		found.answer(0, noOutcome, err)
	}
}

// ask asks for a read index.
func (c *courier) ask(ctx context.Context) (uint64, error) {
	ch := make(chan frame, 1)
	c.mu.Lock()
	c.last++
	id := c.last
	c.asks[id] = ch
	f := c.frames
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.asks, id)
		c.mu.Unlock()
	}()
	if f == nil || f.write(frameRead, id) != nil {
		c.r.cut(c)
		return 0, c.r.n.notLeader(nil)
	}
	limit := time.NewTimer(4 * c.r.n.o.Timing.Election) // a leader that is silent for so long leads no more
	defer limit.Stop()
	select {
	case x := <-ch:
		if x.kind == frameFail {
			return 0, refusal(x.payload)
		}
		if len(x.payload) != 8 {
			return 0, fmt.Errorf("%w: read index", errFormat)
		}
		return binary.BigEndian.Uint64(x.payload), nil
	case <-c.ended:
	case <-limit.C:
		c.r.cut(c)
	case <-c.r.n.stopped:
		return 0, c.r.n.ended()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return 0, c.r.n.notLeader(nil)
}
