package backupfmt

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/snapshot"
)

// itemReader reads the items of a run, one list object at a time.
type itemReader struct {
	r     *Repo
	ctx   context.Context
	link  *Link
	list  int
	items []item
}

func (ir *itemReader) next() (*item, error) {
	for len(ir.items) == 0 {
		if ir.list >= len(ir.link.Lists) {
			return nil, nil
		}
		ref := ir.link.Lists[ir.list]
		c, err := ir.r.openRef(ir.ctx, ref, object.List, ir.link.Seq)
		if err != nil {
			return nil, err
		}
		raw, err := c.Frame(0)
		if err != nil {
			return nil, fmt.Errorf("backup: %s: %w", ref.Name, err)
		}
		if ir.items, err = parseItems(raw, len(ir.link.Packs)); err != nil {
			return nil, fmt.Errorf("backup: %s: %w", ref.Name, err)
		}
		ir.list++
	}
	it := &ir.items[0]
	ir.items = ir.items[1:]
	return it, nil
}

// openRef opens an object that a manifest names: what is missing or another object than the one named is damage.
func (r *Repo) openRef(ctx context.Context, ref Ref, kind object.Kind, seq uint64) (*object.Content, error) {
	id, ok := lastID(ref.Name)
	if !ok {
		return nil, &DamageError{Kind: "damaged", Object: ref.Name, Seq: seq, Reason: "the manifest names an impossible object"}
	}
	c, err := r.open(ctx, ref.Name, kind, &id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &DamageError{Kind: "missing", Object: ref.Name, Seq: seq, Reason: "the backup needs it", Cause: err}
	}
	if err != nil {
		return nil, err
	}
	if fmt.Sprintf("%x", c.Digest[:]) != ref.Digest {
		return nil, &DamageError{Kind: "replayed", Object: ref.Name, Seq: seq, Reason: "it is not the object that the manifest names"}
	}
	return c, nil
}

// runReader reads the rows of a run in order, verified. Frames are fetched and opened ahead by workers.
type runReader struct {
	r     *Repo
	ctx   context.Context
	link  *Link
	items *itemReader
	held  *item // read ahead by fetch
	queue []*readJob
	ended bool
	ahead int // frames read ahead
	keep  int // decoded frames kept

	mu      sync.Mutex
	openers map[int]*packOpener
	frames  map[frameKey]*cachedFrame
	order   []frameKey // of frames, oldest first

	job  *readJob
	at   int
	cur  snapshot.Cursor
	rows uint32
	open bool
}

// readJob is a frame and the items that follow each other in it.
type readJob struct {
	items []item
	raw   []byte
	err   error
	done  chan struct{}
}

// frameCache is how many decoded frames are kept: a run that shares chunks with older ones goes back and forth between
// their frames and its own. An incremental shares nothing and needs deltaFrames, so that a chain of 24
// of them stays small.
const (
	frameCache  = 12
	deltaFrames = 1
)

type frameKey struct {
	pack int
	f    object.Frame
}

type cachedFrame struct {
	once sync.Once
	raw  []byte
	err  error
}

type packOpener struct {
	once   sync.Once
	opener *object.Opener
	healed []byte // the whole pack, if it was damaged and could be healed
	err    error
}

func (r *Repo) newRunReader(ctx context.Context, l *Link) *runReader {
	return &runReader{
		r: r, ctx: ctx, link: l, items: &itemReader{r: r, ctx: ctx, link: l}, openers: map[int]*packOpener{},
		frames: map[frameKey]*cachedFrame{}, ahead: r.o.Workers, keep: frameCache,
	}
}

// Next returns the next row, valid until the next call; nil at the end.
func (rr *runReader) Next() (*snapshot.Entry, error) {
	for {
		if rr.open {
			e, err := rr.cur.Next()
			if err != nil {
				return nil, rr.damage(rr.job.items[rr.at-1].pack, err)
			}
			if e != nil {
				rr.rows++
				return e, nil
			}
			if rr.rows != rr.job.items[rr.at-1].rows {
				return nil, rr.damage(rr.job.items[rr.at-1].pack, errors.New("a chunk has another number of rows than its list says"))
			}
			rr.open = false
		}
		if rr.job == nil || rr.at == len(rr.job.items) {
			more, err := rr.advance()
			if err != nil || !more {
				return nil, err
			}
		}
		it := rr.job.items[rr.at]
		rr.cur.Reset(rr.job.raw[it.offset : it.offset+it.length])
		rr.at++
		rr.rows, rr.open = 0, true
	}
}

func (rr *runReader) damage(pack int, err error) error {
	return &DamageError{Kind: "damaged", Object: rr.link.Packs[pack].Name, Seq: rr.link.Seq, Reason: "a chunk cannot be read", Cause: err}
}

// advance keeps workers busy and waits for the next frame.
func (rr *runReader) advance() (more bool, err error) {
	for !rr.ended && len(rr.queue) < rr.ahead {
		if err := rr.fetch(); err != nil {
			return false, err
		}
	}
	if len(rr.queue) == 0 {
		return false, nil
	}
	rr.job, rr.at = rr.queue[0], 0
	rr.queue = rr.queue[1:]
	<-rr.job.done
	return rr.job.err == nil, rr.job.err
}

// fetch starts the reading of the next frame.
func (rr *runReader) fetch() error {
	j := &readJob{done: make(chan struct{})}
	for {
		it := rr.held
		rr.held = nil
		if it == nil {
			var err error
			if it, err = rr.items.next(); err != nil {
				return err
			}
			if it == nil {
				rr.ended = true
				break
			}
		}
		if n := len(j.items); n > 0 && (j.items[0].pack != it.pack || j.items[0].frame != it.frame) {
			rr.held = it
			break
		}
		j.items = append(j.items, *it)
	}
	if len(j.items) == 0 {
		return nil
	}
	rr.queue = append(rr.queue, j)
	go func() {
		defer close(j.done)
		j.raw, j.err = rr.cached(frameKey{j.items[0].pack, j.items[0].frame})
		if j.err == nil {
			j.err = rr.verify(j)
		}
	}()
	return nil
}

// verify checks that the chunks of a frame are the ones the list names.
func (rr *runReader) verify(j *readJob) error {
	names, err := newNamer(rr.r.chunkKey)
	if err != nil {
		return err
	}
	for i := range j.items {
		it := &j.items[i]
		if uint64(it.offset)+uint64(it.length) > uint64(len(j.raw)) || names.id(j.raw[it.offset:it.offset+it.length]) != it.id {
			return rr.damage(it.pack, fmt.Errorf("frame %d does not hold the chunk that the list names", it.frame.Number))
		}
	}
	return nil
}

// cached returns a decoded frame, which several jobs may share.
func (rr *runReader) cached(k frameKey) ([]byte, error) {
	rr.mu.Lock()
	c := rr.frames[k]
	if c == nil {
		c = &cachedFrame{}
		rr.frames[k] = c
		rr.order = append(rr.order, k)
		if len(rr.order) > rr.keep {
			delete(rr.frames, rr.order[0])
			rr.order = rr.order[1:]
		}
	}
	rr.mu.Unlock()
	c.once.Do(func() { c.raw, c.err = rr.frame(k.pack, k.f) })
	return c.raw, c.err
}

// frame reads one frame of a pack. If it does not open, the whole pack is read and healed.
func (rr *runReader) frame(pack int, f object.Frame) ([]byte, error) {
	rr.mu.Lock()
	o := rr.openers[pack]
	if o == nil {
		if len(rr.openers) > 64 { // bounded; openers are cheap to make again
			clear(rr.openers)
		}
		o = &packOpener{}
		rr.openers[pack] = o
	}
	rr.mu.Unlock()
	ref := rr.link.Packs[pack]
	o.once.Do(func() { rr.openPack(o, ref) })
	if o.err != nil {
		return nil, o.err
	}
	if o.healed != nil {
		return rr.fromHealed(o, ref, f)
	}
	stored, err := rr.r.st.GetRange(rr.ctx, ref.Name, int64(f.Offset)+int64(o.opener.Header.Shift()), int64(f.Length))
	if err == nil {
		var raw []byte
		if raw, err = o.opener.Frame(f.Number, stored); err == nil {
			return raw, nil
		}
	}
	if rr.ctx.Err() != nil || !errors.Is(err, object.ErrForged) && !errors.Is(err, object.ErrDamaged) && !errors.Is(err, store.ErrShort) {
		return nil, err
	}
	healed := &packOpener{}
	rr.healPack(healed, ref)
	if healed.err != nil {
		return nil, healed.err
	}
	rr.mu.Lock()
	rr.openers[pack] = healed
	healed.once.Do(func() {})
	rr.mu.Unlock()
	return rr.fromHealed(healed, ref, f)
}

func (rr *runReader) fromHealed(o *packOpener, ref Ref, f object.Frame) ([]byte, error) {
	at := uint64(f.Offset) + uint64(o.opener.Header.Shift())
	if at+uint64(f.Length) > uint64(len(o.healed)) {
		return nil, &DamageError{Kind: "damaged", Object: ref.Name, Seq: rr.link.Seq, Reason: "the list points outside the pack"}
	}
	raw, err := o.opener.Frame(f.Number, o.healed[at:at+uint64(f.Length)])
	if err != nil {
		return nil, &DamageError{Kind: "forged", Object: ref.Name, Seq: rr.link.Seq, Reason: "a frame does not authenticate", Cause: err}
	}
	return raw, nil
}

func (rr *runReader) openPack(o *packOpener, ref Ref) {
	id, ok := lastID(ref.Name)
	if !ok {
		o.err = &DamageError{Kind: "damaged", Object: ref.Name, Seq: rr.link.Seq, Reason: "the manifest names an impossible object"}
		return
	}
	head, err := rr.r.st.GetRange(rr.ctx, ref.Name, 0, object.HeaderSize)
	switch {
	case errors.Is(err, store.ErrNotFound):
		o.err = &DamageError{Kind: "missing", Object: ref.Name, Seq: rr.link.Seq, Reason: "the backup needs it", Cause: err}
		return
	case err != nil && !errors.Is(err, store.ErrShort):
		o.err = err
		return
	}
	if err == nil {
		o.opener, err = object.NewOpener(head, object.Pack, rr.r.id, &id, rr.r.opening(rr.ctx))
	}
	if err != nil {
		rr.healPack(o, ref)
	}
}

// healPack reads a whole pack that has damage and restores it from its parity, in memory.
func (rr *runReader) healPack(o *packOpener, ref Ref) {
	c, err := rr.r.openRef(rr.ctx, ref, object.Pack, rr.link.Seq)
	if err != nil {
		o.err = err
		return
	}
	b, _, err := rr.r.st.Get(rr.ctx, ref.Name)
	if err == nil {
		var h object.Health
		if h, err = object.Heal(b); err == nil {
			if o.healed = h.Healed; o.healed == nil {
				o.healed = b
			}
			o.opener, err = object.NewOpener(o.healed, object.Pack, rr.r.id, &c.Header.ID, rr.r.opening(rr.ctx))
		}
	}
	if err != nil {
		o.err = &DamageError{Kind: "damaged", Object: ref.Name, Seq: rr.link.Seq, Reason: "it cannot be read", Cause: err}
	}
}

// merger yields the rows of a full run with the delta runs over it in one pass: of rows with the same key the newest
// run wins, and removed rows are left out.
type merger struct {
	heads []*mergeHead // heap
	last  *mergeHead   // whose row was handed out
}

type mergeHead struct {
	age int // position of the run, 0 = full
	rr  *runReader
	e   *snapshot.Entry
}

// Len, Less, Swap, Push and Pop make it a heap.Interface.
func (m *merger) Len() int { return len(m.heads) }

func (m *merger) Less(i, j int) bool {
	a, b := m.heads[i], m.heads[j]
	if c := snapshot.Compare(a.e.Table, a.e.Key, b.e.Table, b.e.Key); c != 0 {
		return c < 0
	}
	return a.age > b.age
}

func (m *merger) Swap(i, j int) { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }

// Push implements heap.Interface.
func (m *merger) Push(x any) { m.heads = append(m.heads, x.(*mergeHead)) }

// Pop implements heap.Interface.
func (m *merger) Pop() any {
	n := len(m.heads) - 1
	x := m.heads[n]
	m.heads = m.heads[:n]
	return x
}

func (r *Repo) newMerger(ctx context.Context, run []*Link) (*merger, error) {
	m := &merger{}
	for age, l := range run {
		h := &mergeHead{age: age, rr: r.newRunReader(ctx, l)}
		if age > 0 { // runs of changes do not share
			h.rr.ahead, h.rr.keep = min(deltaFrames, r.o.Workers), deltaFrames
		}
		var err error
		if h.e, err = h.rr.Next(); err != nil {
			return nil, err
		}
		if h.e != nil {
			m.heads = append(m.heads, h)
		}
	}
	heap.Init(m)
	return m, nil
}

// step moves the head of the heap to its next row.
func (m *merger) step() error {
	h := m.heads[0]
	var err error
	if h.e, err = h.rr.Next(); err != nil {
		return err
	}
	if h.e == nil {
		heap.Pop(m)
	} else {
		heap.Fix(m, 0)
	}
	return nil
}

// Next returns the next row, valid until the next call; nil at the end.
func (m *merger) Next() (*snapshot.Entry, error) {
	var last *snapshot.Entry
	for {
		if m.last != nil {
			// The older versions of the row that was handed out come right behind it.
			last = &snapshot.Entry{Table: m.last.e.Table, Key: append([]byte(nil), m.last.e.Key...)}
			m.last = nil
			for len(m.heads) > 0 && snapshot.Compare(m.heads[0].e.Table, m.heads[0].e.Key, last.Table, last.Key) == 0 {
				if err := m.step(); err != nil {
					return nil, err
				}
			}
		}
		if len(m.heads) == 0 {
			return nil, nil
		}
		m.last = m.heads[0]
		if !m.last.e.Removed {
			return m.last.e, nil
		}
	}
}
