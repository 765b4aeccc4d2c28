package replication

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
	"golang.org/x/time/rate"
)

// State transfer. A member whose log cannot be continued from the leader's, or whose state is not to be trusted, stops
// taking part, asks any other member for an image (package snapshot) and builds a new store of it.
//
//	ask     one line of JSON, transferAsk
//	answer  one line of JSON, transferAnswer; then, without an error, the snapshot stream from the wanted offset on
//
// The asker's own log may have helped to commit entries (it counts as a copy up to its last index, and that cannot be taken
// back). Therefore it has stopped when it asks, and the image must not be older than that last index (AtLeast): then
// everything it ever vouched for is in the image or was never committed, and its log can go, as long as term and vote are
// kept (Keep). A member that has lost its log is made a non-voter first; it begins from nothing.
//
// A broken connection is resumed: the same image gives the same bytes, so the sender writes it again and drops what
// was received. Digests in the stream prove that it fits.
type transferAsk struct {
	Session string `json:"session,omitempty"` // of a transfer that broke off
	Offset  int64  `json:"offset,omitempty"`
	AtLeast uint64 `json:"at_least,omitempty"` // index that must be in the image
}

type transferAnswer struct {
	Session string `json:"session,omitempty"`
	Error   string `json:"error,omitempty"`
	Gone    bool   `json:"gone,omitempty"` // the session is not known any more: begin anew
}

const (
	maxTransfers = 4               // images held open for others at the same time
	transferIdle = 2 * time.Minute // a transfer that nobody continues is given up after this
)

// ErrTransfer: the state of another member could not be fetched. It wraps the reason; nothing was changed.
var ErrTransfer = errors.New("replication: state transfer")

// outgoing is an image for another member.
type outgoing struct {
	image  *engine.Image
	header snapshot.Header
	busy   bool
	used   time.Time
}

// transfers are the images this member holds for others.
type transfers struct {
	mu     sync.Mutex
	of     map[string]*outgoing
	kept   []uint64 // states sent lately: the log behind them is kept
	closed bool
	stop   chan struct{} // closed with closed
	active sync.WaitGroup
}

// ServeTransfer sends the state of this member to another one. rate is in bytes per second, 0: unlimited.
func (n *Node) ServeTransfer(c net.Conn, perSecond int64) error {
	defer c.Close()
	if err := c.SetDeadline(n.o.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(io.LimitReader(c, 4096), 4096).ReadBytes('\n')
	if err != nil {
		return err
	}
	var ask transferAsk
	if err := json.Unmarshal(line, &ask); err != nil || ask.Offset < 0 {
		return fmt.Errorf("%w: request", errFormat)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	id, out, err := n.takeTransfer(ctx, ask)
	cancel()
	answer := transferAnswer{Session: id}
	if err != nil {
		answer.Error, answer.Gone = err.Error(), errors.Is(err, errSessionGone)
	}
	b, _ := json.Marshal(answer) // strings and a bool
	_, werr := c.Write(append(b, '\n'))
	if err != nil || werr != nil {
		if out != nil {
			n.transfers.put(id, n.o.Now(), false)
		}
		return errors.Join(err, werr)
	}
	w := &paced{c: c, skip: ask.Offset, stop: n.transfers.stop}
	if perSecond > 0 {
		w.limit = rate.NewLimiter(rate.Limit(perSecond), 64<<10)
	}
	err = out.send(w)
	if err == nil {
		n.keepLog(out.header.Index)
	}
	n.transfers.put(id, n.o.Now(), err == nil)
	return err
}

// keepLog keeps the log behind a state that was just sent until its receiver has had the time to go on from there.
func (n *Node) keepLog(index uint64) {
	const pin = "replication/transfer"
	t := &n.transfers
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) == 0 {
		n.store.PinLog(pin, index)
	}
	t.kept = append(t.kept, index)
	time.AfterFunc(transferIdle, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.kept = t.kept[1:]
		if len(t.kept) == 0 {
			n.store.UnpinLog(pin)
			return
		}
		n.store.PinLog(pin, slices.Min(t.kept))
	})
}

var errSessionGone = errors.New("the transfer is not known here any more")

// takeTransfer continues a transfer or begins one.
func (n *Node) takeTransfer(ctx context.Context, ask transferAsk) (string, *outgoing, error) {
	t := &n.transfers
	n.pruneTransfers()
	t.mu.Lock()
	if ask.Session != "" {
		defer t.mu.Unlock()
		out := t.of[ask.Session]
		if out == nil || out.busy || t.closed {
			return "", nil, errSessionGone
		}
		out.busy = true
		t.active.Add(1)
		return ask.Session, out, nil
	}
	if t.closed || len(t.of) >= maxTransfers {
		t.mu.Unlock()
		return "", nil, fmt.Errorf("%w: %d transfers are under way, try again", engine.ErrOverloaded, maxTransfers)
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		t.mu.Unlock()
		return "", nil, err
	}
	id := hex.EncodeToString(raw[:])
	if t.of == nil {
		t.of = map[string]*outgoing{}
	}
	out := &outgoing{busy: true}
	t.of[id] = out
	t.active.Add(1)
	t.mu.Unlock()
	if err := n.openTransfer(ctx, out, ask.AtLeast); err != nil {
		t.put(id, n.o.Now(), true)
		return "", nil, err
	}
	return id, out, nil
}

func (n *Node) openTransfer(ctx context.Context, out *outgoing, atLeast uint64) error {
	for n.store.AppliedIndex() < atLeast {
		if !n.IsLeader() {
			return fmt.Errorf("%w: this member's state is of entry %d, older than the wanted %d; ask the leader", ErrTransfer, n.store.AppliedIndex(), atLeast)
		}
		if err := n.fill(ctx); err != nil {
			return err
		}
	}
	im, err := n.store.OpenImage()
	if err != nil {
		return err
	}
	out.image = im
	if im.Term() == 0 {
		return fmt.Errorf("%w: the log no longer holds entry %d, try again", ErrTransfer, im.Index())
	}
	m, err := markAt(n.log, im.Index())
	if err != nil {
		return err
	}
	out.header = snapshot.Header{Index: im.Index(), Term: im.Term(), LogID: im.LogID(), Created: n.o.Now().UTC(), Membership: m.encode()}
	return nil
}

// fill writes a change of nothing, for raft's own entries alone do not move the state.
func (n *Node) fill(ctx context.Context) error {
	done := make(chan error, 1)
	ws := engine.WriteSet{Time: n.o.Now().UnixMilli(), Label: "fill"}
	if !n.props.add(ws.Encode(nil), n.raft.CurrentTerm(), func(_ uint64, _ engine.ApplyOutcome, err error) { done <- err }) {
		return n.ended()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// put gives a transfer back; done: it is over.
func (t *transfers) put(id string, now time.Time, done bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.active.Done()
	out := t.of[id]
	out.busy, out.used = false, now
	if done || t.closed {
		t.drop(id)
	}
}

// drop closes an image. mu is held.
func (t *transfers) drop(id string) {
	if im := t.of[id].image; im != nil {
		_ = im.Close() // never fails
	}
	delete(t.of, id)
}

func (n *Node) pruneTransfers() {
	t, now := &n.transfers, n.o.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, out := range t.of {
		if !out.busy && now.Sub(out.used) > transferIdle {
			t.drop(id)
		}
	}
}

// EndTransfers gives up what is being sent to others. The owner of the store calls it before closing it.
func (n *Node) EndTransfers() {
	t := &n.transfers
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.stop)
	}
	for id, out := range t.of {
		if !out.busy {
			t.drop(id)
		}
	}
	t.mu.Unlock()
	t.active.Wait()
}

func (o *outgoing) send(w io.Writer) error {
	sw, err := snapshot.NewWriter(w, o.header, snapshot.WriterOptions{})
	if err != nil {
		return err
	}
	var e snapshot.Entry
	err = o.image.Rows(context.Background(), func(r *engine.Row) error {
		e = snapshot.Entry{Table: r.Table, Key: r.Key, Value: r.Value, ModIndex: r.ModIndex}
		if !r.Deadline.IsZero() {
			e.Deadline = r.Deadline.UnixMilli()
		}
		return sw.Add(&e)
	})
	if err != nil {
		return err
	}
	footer, err := sw.Finish()
	if err == nil && footer.StateHash != o.image.StateHash() {
		err = fmt.Errorf("%w: the rows have state hash %x, the state is %x: this member's rows are damaged", ErrTransfer, footer.StateHash, o.image.StateHash())
	}
	return err
}

// paced drops the first skip bytes and sends the rest no faster than its limit.
type paced struct {
	c     net.Conn
	skip  int64
	limit *rate.Limiter
	stop  <-chan struct{}
}

func (p *paced) Write(b []byte) (int, error) {
	all := len(b)
	if n := min(p.skip, int64(len(b))); n > 0 {
		p.skip -= n
		b = b[n:]
	}
	for len(b) > 0 {
		select {
		case <-p.stop:
			return 0, engine.ErrClosed
		default:
		}
		piece := b[:min(len(b), 64<<10)]
		if p.limit != nil {
			if err := p.limit.WaitN(context.Background(), len(piece)); err != nil {
				return 0, err
			}
		}
		if err := p.c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return 0, err
		}
		if _, err := p.c.Write(piece); err != nil {
			return 0, err
		}
		b = b[len(piece):]
	}
	return all, nil
}
