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
	id, ok := lastID(i.Name)
	if !ok {
		return nil
	}
	head, err := r.st.GetRange(ctx, i.Name, 0, object.HeaderSize)
	if err != nil {
		return err
	}
	h, err := object.ParseHeader(head)
	if err != nil || h.Size() != i.Size {
		return err
	}
	at, n := h.End()
	end, err := r.st.GetRange(ctx, i.Name, at, n)
	if err != nil {
		return err
	}
	c, err := object.OpenDirectory(head, end, object.Pack, r.id, &id, r.opening(ctx))
	if err != nil {
		return err
	}
	p := foundPack{ref: Ref{Name: i.Name, Size: i.Size, Digest: fmt.Sprintf("%x", c.Digest[:])}, session: session, frames: c.Places}
	before := len(u.chunks)
	d := decoder{b: c.Extra}
	for frame := range c.Places {
		offset := uint32(0)
		for n := d.number(uint64(len(d.b))); n > 0 && !d.bad; n-- {
			chunk := foundChunk{pack: uint32(len(u.packs)), frame: uint32(frame), offset: offset}
			copy(chunk.id[:], d.take(16))
			chunk.length = d.u32()
			offset += chunk.length
			u.chunks = append(u.chunks, chunk)
		}
	}
	if d.bad || len(d.b) > 0 {
		u.chunks = u.chunks[:before]
		return nil
	}
	u.packs = append(u.packs, p)
	return nil
}
