package backupfmt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/snapshot"
)

// runWriter stores a sorted sequence of rows as a run. One goroutine adds rows, cuts chunks, and places finished frames in packs in
// their order; workers compress frames; uploads go on in the background. Memory is a few frames and packs.
type runWriter struct {
	r       *Repo
	ctx     context.Context
	session string
	names   *namer
	base    *baseCursor // chunks of an older run that need not be stored again; may be nil
	found   *unfinished // chunks that an interrupted backup stored; may be nil
	frame   int         // bytes of a frame
	up      *errgroup.Group

	block snapshot.BlockBuilder
	first item // table and key of the current chunk

	cur   *frameJob
	queue []*frameJob

	pack   *object.Writer
	packNo int
	chunks []byte // the pack's own index: per frame the number of its chunks, their ids and lengths
	packs  []*Ref
	old    map[string]int // packs of older runs, by name

	list   []byte
	prev   *item
	lists  []*Ref
	placed func(*item) // gets the items instead of a list; may be nil

	stats runStats
}

type runStats struct {
	Rows, Removed, Raw, Stored, Chunks, NewChunks uint64
	Tables                                        map[string]uint64
}

// frameJob is a frame on its way through a worker, with the items that come with it in the list: its own chunks, and
// between them chunks that are stored elsewhere (known).
type frameJob struct {
	raw    []byte
	items  []item
	known  []bool
	packed object.Packed
	err    error
	done   chan struct{}
}

// own is how many of the chunks are in the frame itself.
func (j *frameJob) own() (n int) {
	for _, known := range j.known {
		if !known {
			n++
		}
	}
	return n
}

func (r *Repo) newRunWriter(ctx context.Context, session string, base *baseCursor, frame int) (*runWriter, error) {
	names, err := newNamer(r.chunkKey)
	if err != nil {
		return nil, err
	}
	up, ctx := errgroup.WithContext(ctx)
	up.SetLimit(2)
	return &runWriter{
		r: r, ctx: ctx, session: session, names: names, base: base, frame: min(frame, r.o.PackSize*8), up: up, cur: &frameJob{}, old: map[string]int{},
		stats: runStats{Tables: map[string]uint64{}},
	}, nil
}

// Add adds a row; rows are strictly ascending.
func (w *runWriter) Add(e *snapshot.Entry) error {
	if err := e.Validate(); err != nil {
		return err
	}
	if w.block.Rows() > 0 && w.block.Len()+len(e.Key)+len(e.Value) > chunkMost {
		if err := w.cut(); err != nil {
			return err
		}
	}
	if w.block.Rows() == 0 {
		w.first = item{table: e.Table, key: bytes.Clone(e.Key)}
	}
	w.block.Add(e)
	w.stats.Rows++
	if e.Removed {
		w.stats.Removed++
	} else {
		w.stats.Tables[e.Table]++
	}
	if w.block.Len() >= chunkLeast && endsChunk(e) {
		return w.cut()
	}
	return nil
}

// cut ends the current chunk.
func (w *runWriter) cut() error {
	if w.block.Rows() == 0 {
		return nil
	}
	raw := w.block.Bytes()
	it := w.first
	it.rows, it.length, it.id = uint32(w.block.Rows()), uint32(len(raw)), w.names.id(raw)
	w.stats.Raw += uint64(len(raw))
	w.stats.Chunks++
	known, err := w.base.find(&it)
	if err != nil {
		return err
	}
	if known {
		it.pack = w.reuse(w.base.packs[it.pack])
	} else if known = w.found.find(&it); known {
		it.pack = w.reuse(w.found.packs[it.pack].ref)
	}
	err = w.gather(it, raw, known)
	w.block.Take(raw) // the buffer is used again
	return err
}

// gather adds a chunk to the current frame; if it is stored elsewhere (known), only its item.
func (w *runWriter) gather(it item, raw []byte, known bool) error {
	if !known {
		if w.cur.raw == nil {
			w.cur.raw = borrow(&w.r.frameBufs, w.frame+chunkMost)
		}
		it.offset = uint32(len(w.cur.raw))
		w.cur.raw = append(w.cur.raw, raw...)
		w.stats.NewChunks++
	}
	w.cur.items, w.cur.known = append(w.cur.items, it), append(w.cur.known, known)
	if len(w.cur.raw) >= w.frame || len(w.cur.items) >= 4096 {
		return w.endFrame()
	}
	return nil
}

// reuse returns the position of an older run's pack in the table of this one.
func (w *runWriter) reuse(ref Ref) int {
	n, ok := w.old[ref.Name]
	if !ok {
		n = len(w.packs)
		w.old[ref.Name] = n
		w.packs = append(w.packs, &ref)
	}
	return n
}

// endFrame hands the current frame to a worker.
func (w *runWriter) endFrame() error {
	j := w.cur
	w.cur = &frameJob{}
	j.done = make(chan struct{})
	w.queue = append(w.queue, j)
	go func() {
		defer close(j.done)
		if len(j.raw) > 0 {
			j.packed, j.err = object.Compress(j.raw)
			giveBack(&w.r.frameBufs, j.raw) // Compress copied
			j.raw = nil
		}
	}()
	for len(w.queue) > w.r.o.Workers {
		if err := w.place(); err != nil {
			return err
		}
	}
	return nil
}

// place puts the oldest frame into the current pack and its items into the list.
func (w *runWriter) place() error {
	j := w.queue[0]
	w.queue = w.queue[1:]
	<-j.done
	if j.err != nil {
		return j.err
	}
	var f object.Frame
	for i := range j.items {
		it := &j.items[i]
		if !j.known[i] {
			if f.Length == 0 {
				var err error
				if f, err = w.addFrame(j.packed); err != nil {
					return err
				}
				w.chunks = binary.AppendUvarint(w.chunks, uint64(j.own()))
			}
			it.pack, it.frame = w.packNo, f
			w.chunks = append(w.chunks, it.id[:]...)
			w.chunks = binary.AppendUvarint(w.chunks, uint64(it.length))
		}
		if err := w.note(it); err != nil {
			return err
		}
	}
	if w.pack != nil && w.pack.Len() >= w.r.o.PackSize {
		return w.endPack()
	}
	return w.ctx.Err()
}

// note takes the item of a chunk that has its place into the list.
func (w *runWriter) note(it *item) error {
	if w.placed != nil {
		w.placed(it)
		return nil
	}
	w.list = it.append(w.list, w.prev)
	w.prev = it
	if len(w.list) >= listSize {
		return w.endList()
	}
	return nil
}

func (w *runWriter) addFrame(p object.Packed) (object.Frame, error) {
	if w.pack == nil {
		var err error
		if w.pack, err = w.r.newObject(object.Pack, nil); err != nil {
			return object.Frame{}, err
		}
		// Room for a last frame, directory, footers and parity, so that the buffer does not grow.
		w.pack.Adopt(borrow(&w.r.packBufs, w.r.o.PackSize+w.r.o.PackSize/16+frameSize))
		w.packNo = len(w.packs)
		w.packs = append(w.packs, &Ref{})
	}
	return w.pack.Add(p)
}

// endPack finishes the pack and stores it in the background.
func (w *runWriter) endPack() error {
	if w.pack == nil {
		return nil
	}
	p, chunks, ref := w.pack, w.chunks, w.packs[w.packNo]
	w.pack, w.chunks = nil, nil
	return w.upload(folderPacks, p, chunks, ref)
}

func (w *runWriter) endList() error {
	if len(w.list) == 0 {
		return nil
	}
	p, err := object.Compress(w.list)
	if err != nil {
		return err
	}
	o, err := w.r.newObject(object.List, nil)
	if err != nil {
		return err
	}
	if _, err := o.Add(p); err != nil {
		return err
	}
	ref := &Ref{}
	w.lists = append(w.lists, ref)
	w.list, w.prev = nil, nil
	return w.upload(folderLists, o, nil, ref)
}

// upload finishes an object and stores it; it waits while two others are on their way.
func (w *runWriter) upload(folder string, o *object.Writer, extra []byte, ref *Ref) error {
	w.up.Go(func() error {
		name := folder + w.session + "/" + o.ID().String()
		b, digest, err := o.Finish(extra)
		if err != nil {
			return err
		}
		*ref = Ref{Name: name, Size: int64(len(b)), Digest: hex.EncodeToString(digest[:])}
		if err := w.r.st.Create(w.ctx, name, b); err != nil {
			return fmt.Errorf("backup: store %s: %w", name, err)
		}
		if folder == folderPacks {
			giveBack(&w.r.packBufs, b) // a store does not keep what it was given
		}
		return nil
	})
	return w.ctx.Err()
}

// Finish stores what is left and waits until everything is durable.
func (w *runWriter) Finish() (packs, lists []Ref, err error) {
	err = w.flush()
	if uerr := w.up.Wait(); uerr != nil {
		err = uerr // the reason; the other is its echo
	}
	if err != nil {
		return nil, nil, err
	}
	for i, p := range w.packs {
		packs = append(packs, *p)
		if _, old := w.old[p.Name]; !old || w.old[p.Name] != i {
			w.stats.Stored += uint64(p.Size)
		}
	}
	for _, l := range w.lists {
		lists = append(lists, *l)
		w.stats.Stored += uint64(l.Size)
	}
	return packs, lists, nil
}

func (w *runWriter) flush() error {
	if err := w.cut(); err != nil {
		return err
	}
	if err := w.endFrame(); err != nil {
		return err
	}
	for len(w.queue) > 0 {
		if err := w.place(); err != nil {
			return err
		}
	}
	if err := w.endPack(); err != nil {
		return err
	}
	return w.endList()
}

// abandon waits for uploads that are on their way; what they stored belongs to the session and is pruned with it.
func (w *runWriter) abandon() { _ = w.up.Wait() }

// baseCursor walks over the chunks of an older run in step with a new one, so that no index of all chunks is needed.
type baseCursor struct {
	packs []Ref
	items *itemReader
	cur   *item
}

// find looks for a chunk with the same first row and content, and gives it its place.
func (b *baseCursor) find(it *item) (bool, error) {
	if b == nil {
		return false, nil
	}
	for b.cur == nil || snapshot.Compare(b.cur.table, b.cur.key, it.table, it.key) < 0 {
		next, err := b.items.next()
		if err != nil {
			return false, err
		}
		if next == nil {
			return false, nil
		}
		b.cur = next
	}
	if b.cur.id != it.id || b.cur.length != it.length || b.cur.table != it.table || !bytes.Equal(b.cur.key, it.key) {
		return false, nil
	}
	it.pack, it.frame, it.offset = b.cur.pack, b.cur.frame, b.cur.offset
	return true, nil
}
