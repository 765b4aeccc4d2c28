package backupfmt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// An interrupted backup leaves its packs. The next full one need not send them again: it reads what they hold from their directories, two
// small reads for each, and names their chunks in its own lists. It does not touch the old session: whether that one is dead only a prune
// decides, and if one gives it up before the new backup is committed, the new one is fenced too.

// sessionMark is the content of a session object.
type sessionMark struct {
	Began   string `json:"began"`
	Format  int    `json:"format,omitempty"` // of the index of its packs
	Kind    string `json:"kind"`
	Session string `json:"session"`
}

// packIndexFormat: the directory of a pack says per frame how many chunks it has, and the name and length of each.
const packIndexFormat = 2

// maxFoundChunks bounds the memory for what was found, to 32 MiB: about 16 GiB of rows. What is beyond is stored again.
const maxFoundChunks = 1 << 20

// unfinished are the chunks that interrupted backups stored.
type unfinished struct {
	packs  []foundPack
	chunks []foundChunk // ascending by id
	used   map[string]bool
}

type foundPack struct {
	ref     Ref
	session string
	frames  []object.Frame
}

type foundChunk struct {
	id                          chunkID
	pack, frame, offset, length uint32
}

// find looks for a chunk and gives it its place.
func (u *unfinished) find(it *item) bool {
	if u == nil {
		return false
	}
	n, ok := slices.BinarySearchFunc(u.chunks, it.id, func(c foundChunk, id chunkID) int { return bytes.Compare(c.id[:], id[:]) })
	if !ok || u.chunks[n].length != it.length {
		return false
	}
	c := &u.chunks[n]
	p := &u.packs[c.pack]
	u.used[p.session] = true
	it.pack, it.frame, it.offset = int(c.pack), p.frames[c.frame], c.offset
	return true
}

// fence refuses to commit when a prune gave up a session whose packs are used.
func (u *unfinished) fence(newer *Link) error {
	if u == nil || newer.Kind != Prune {
		return nil
	}
	for _, s := range newer.Aborted {
		if u.used[s] {
			return fmt.Errorf("%w: prune %d removed what an interrupted backup had stored, which this one goes on with", ErrFenced, newer.Seq)
		}
	}
	return nil
}

// findUnfinished looks for sessions that have not committed and that no prune has given up. The chain must have been read before.
func (r *Repo) findUnfinished(ctx context.Context, c *Chain, own string) (*unfinished, error) {
	skip := map[string]bool{own: true}
	for _, l := range c.Links {
		skip[l.Session] = true
		for _, a := range l.Aborted {
			skip[a] = true
		}
	}
	var sessions []string
	err := r.st.List(ctx, folderSessions, func(i store.Info) error {
		if s := strings.TrimPrefix(i.Name, folderSessions); !skip[s] {
			sessions = append(sessions, s)
		}
		return nil
	})
	if err != nil || len(sessions) == 0 {
		return nil, err
	}
	u := &unfinished{used: map[string]bool{}}
	for _, s := range sessions {
		if err := r.findSession(ctx, u, s); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(u.chunks, func(a, b foundChunk) int { return bytes.Compare(a.id[:], b.id[:]) })
	return u, nil
}

func (r *Repo) findSession(ctx context.Context, u *unfinished, session string) error {
	var m sessionMark
	b, _, err := r.st.Get(ctx, folderSessions+session)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if json.Unmarshal(b, &m) != nil || m.Format != packIndexFormat || m.Session != session {
		return nil // of an older program
	}
	var packs []store.Info
	if err := r.st.List(ctx, folderPacks+session+"/", func(i store.Info) error { packs = append(packs, i); return nil }); err != nil {
		return err
	}
	for _, i := range packs {
		if len(u.chunks) >= maxFoundChunks {
			return nil
		}
		err := r.findPack(ctx, u, session, i)
		switch {
		case err == nil:
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrShort), lostObject(err):
			continue // of no use: what it held is stored again
		default:
			return err
		}
	}
	return nil
}

// findPack adds the chunks of one pack.
func (r *Repo) findPack(ctx context.Context, u *unfinished, session string, i store.Info) error {
	x, err := r.readPackIndex(ctx, i.Name, i.Size)
	if err != nil || x == nil {
		return err
	}
	for frame, chunks := range x.chunks {
		offset := uint32(0)
		for _, c := range chunks {
			u.chunks = append(u.chunks, foundChunk{id: c.id, pack: uint32(len(u.packs)), frame: uint32(frame), offset: offset, length: c.length})
			offset += c.length
		}
	}
	u.packs = append(u.packs, foundPack{ref: Ref{Name: i.Name, Size: x.size, Digest: fmt.Sprintf("%x", x.digest[:])}, session: session, frames: x.frames})
	return nil
}

// packIndex is what a pack says about itself.
type packIndex struct {
	digest object.Digest
	size   int64 // when it was first written
	frames []object.Frame
	chunks [][]indexedChunk // by frame
}

type indexedChunk struct {
	id     chunkID
	length uint32
}

// readPackIndex reads what a pack of that size holds from its directory, with two small reads; nil if that does not say.
func (r *Repo) readPackIndex(ctx context.Context, name string, size int64) (*packIndex, error) {
	id, ok := lastID(name)
	if !ok {
		return nil, nil
	}
	head, err := r.st.GetRange(ctx, name, 0, object.HeaderSize)
	if err != nil {
		return nil, err
	}
	h, err := object.ParseHeader(head)
	if err != nil || h.Size() != size && h.FirstSize() != size {
		return nil, err
	}
	if h.Resealed { // with its identity
		if head, err = r.st.GetRange(ctx, name, 0, object.HeaderSize+int64(h.Shift())); err != nil {
			return nil, err
		}
	}
	at, n := h.End()
	end, err := r.st.GetRange(ctx, name, at, n)
	if err != nil {
		return nil, err
	}
	c, err := object.OpenDirectory(head, end, object.Pack, r.id, &id, r.opening(ctx))
	if err != nil {
		return nil, err
	}
	x := parsePackIndex(c)
	if x != nil {
		x.size = h.FirstSize()
	}
	return x, nil
}

// parsePackIndex decodes the directory of a pack; nil if it is in a form without numbers, of an older program.
func parsePackIndex(c *object.Content) *packIndex {
	x := &packIndex{digest: c.Digest, frames: slices.Clone(c.Places)}
	for i := range x.frames { // as lists name them
		x.frames[i].Offset -= c.Header.Shift()
	}
	d := decoder{b: c.Extra}
	for range c.Places {
		var chunks []indexedChunk
		for n := d.number(uint64(len(d.b))); n > 0 && !d.bad; n-- {
			var k indexedChunk
			copy(k.id[:], d.take(16))
			k.length = d.u32()
			chunks = append(chunks, k)
		}
		x.chunks = append(x.chunks, chunks)
	}
	if d.bad || len(d.b) > 0 {
		return nil
	}
	return x
}
