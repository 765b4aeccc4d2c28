package backupfmt

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Repacking stores the chunks that somebody needs of packs that are mostly unused anew, and lets the prune remove these packs:
//
//	session ─ new packs ─ new lists for the backups concerned ─ the prune's link, which says where they are now ─ old packs and lists are deleted
//
// Nothing is changed in its place, and before the link is there nothing has happened: killed there, it leaves a session, which a later prune
// gives up. Behind the link the old objects are like any others that nothing needs. Backups that were added meanwhile are given lists of their
// own before the link is tried again; what they use of an old pack and nobody else does lets that pack stay.

// DefaultMaxUnused is the share of the stored packs that may be unused before a prune repacks.
const DefaultMaxUnused = 0.15

// repackKind is the kind of a session that repacks: other prunes need not wait for it.
const repackKind = "repack"

// maxMoved bounds the memory for where chunks went, to 32 MiB: 16 GiB of rows at once.
const maxMoved = 1 << 20

// RepackReport says what a prune stored anew, or would.
type RepackReport struct {
	Stored    int64 // bytes of the packs that kept backups name, before
	Unused    int64 // of these, that no kept backup needs, about
	Packs     int   // stored anew
	Read      int64 // their bytes
	Written   int64 // of new packs and lists; for a dry run about
	Freed     int64 // bytes that the packs take less, about
	Backups   int   // that have their chunks elsewhere now
	Left      int   // packs that had to stay: they are damaged, or another backup uses them now
	Postponed bool  // a backup is running, or was interrupted: the next prune looks again
}

// repacker is a repacking, from the beginning to the link.
type repacker struct {
	r        *Repo
	token    string
	progress func(done, total int64)
	packs    []*packUse
	old      map[string]uint32 // name -> position in packs
	moves    []chunkMove       // ascending by old place
	to       []Ref             // the new packs
	runs     map[uint64]*movedRun
	lists    int64 // bytes of new lists
	names    *namer
}

// chunkMove is where a chunk was and where it is.
type chunkMove struct {
	pack, number, offset uint32 // old: number of its frame, offset in that, decoded
	to, at               uint32
	frame                object.Frame
}

func (m *chunkMove) compare(pack, number, offset uint32) int {
	return cmp.Or(cmp.Compare(m.pack, pack), cmp.Compare(m.number, number), cmp.Compare(m.offset, offset))
}

// movedRun is a backup with new lists, and which ones these were made from.
type movedRun struct {
	from, to []Ref
	packs    []Ref
}

// planRepack decides what is worth it.
func (r *Repo) planRepack(ctx context.Context, kept []*Link, o *PruneOptions, rep *RepackReport) ([]*packUse, error) {
	u, err := r.usage(ctx, kept)
	if err != nil {
		return nil, err
	}
	rep.Stored, rep.Unused = u.total, u.sum()
	most := o.MaxUnused
	if most == 0 {
		most = DefaultMaxUnused
	}
	chosen := u.choose(max(most, 0), maxMoved)
	for _, p := range chosen {
		rep.Packs++
		rep.Read += p.ref.Size
		rep.Freed += p.unused
		rep.Written += p.ref.Size - p.unused
	}
	return chosen, nil
}

// busy reports whether somebody stores a backup, or was interrupted: it may share what a repacking takes away.
func (r *Repo) busy(ctx context.Context, open []string) (bool, error) {
	for _, s := range open {
		b, _, err := r.st.Get(ctx, folderSessions+s)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		var m sessionMark
		if json.Unmarshal(b, &m) != nil || m.Kind != repackKind {
			return true, nil
		}
	}
	return false, nil
}

// newRepacker copies the chunks that are needed of some packs into new ones. After an error too it says which session it was, if there is one.
func (r *Repo) newRepacker(ctx context.Context, packs []*packUse, progress func(done, total int64)) (*repacker, error) {
	k := &repacker{r: r, packs: packs, progress: progress, old: map[string]uint32{}, runs: map[uint64]*movedRun{}}
	var err error
	if k.names, err = newNamer(r.chunkKey); err != nil {
		return nil, err
	}
	if k.token, err = r.session(ctx, repackKind); err != nil {
		return nil, err
	}
	w, err := r.newRunWriter(ctx, k.token, nil, frameSize)
	if err != nil {
		return k, err
	}
	w.placed = func(it *item) { // its rows say which move it is
		m := &k.moves[it.rows]
		m.to, m.frame, m.at = uint32(it.pack), it.frame, it.offset
	}
	var done, total int64
	for _, p := range packs {
		total += p.ref.Size
	}
	for n, p := range packs {
		k.old[p.ref.Name] = uint32(n)
		if err := k.copyPack(ctx, w, uint32(n)); err != nil {
			w.abandon()
			return k, err
		}
		if done += p.ref.Size; progress != nil {
			progress(done, total)
		}
	}
	k.to, _, err = w.Finish()
	return k, err
}

// copyPack hands the needed chunks of a pack on. What cannot be read stays where it is, and with it the pack.
func (k *repacker) copyPack(ctx context.Context, w *runWriter, n uint32) error {
	p := k.packs[n]
	c, err := k.r.openRef(ctx, p.ref, object.Pack, p.link.Seq)
	if lostObject(err) {
		return nil
	}
	if err != nil {
		return err
	}
	x := parsePackIndex(c)
	if x == nil || len(x.chunks) != len(p.frames) {
		return nil
	}
	for i := range p.frames {
		f := &p.frames[i]
		if !slices.Contains(f.used, true) {
			continue
		}
		raw, err := c.Frame(i)
		if lostObject(err) || err == nil && (len(x.chunks[i]) != len(f.used) || uint32(len(raw)) != f.size) {
			continue
		}
		if err != nil {
			return err
		}
		for j, used := range f.used {
			chunk := raw[f.offsets[j]:][:f.length(j)]
			if !used || k.names.id(chunk) != x.chunks[i][j].id {
				continue
			}
			it := item{id: x.chunks[i][j].id, length: uint32(len(chunk)), rows: uint32(len(k.moves))}
			k.moves = append(k.moves, chunkMove{pack: n, number: uint32(i), offset: f.offsets[j]})
			if err := w.gather(it, chunk, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle gives the kept backups lists that say where their chunks are now, as far as they have none yet.
func (k *repacker) settle(ctx context.Context, kept []*Link) error {
	for i, l := range kept {
		if !slices.ContainsFunc(l.Packs, func(ref Ref) bool { _, ok := k.old[ref.Name]; return ok }) {
			continue
		}
		run := k.runs[l.Seq]
		if run == nil || !slices.Equal(run.from, l.Lists) {
			var err error
			if run, err = k.rewrite(ctx, l); err != nil {
				return err
			}
			k.runs[l.Seq] = run
		}
		kept[i] = l.movedTo(run.to, run.packs)
	}
	return nil
}

// rewrite stores the lists of a backup anew.
func (k *repacker) rewrite(ctx context.Context, l *Link) (*movedRun, error) {
	w, err := k.r.newRunWriter(ctx, k.token, nil, frameSize)
	if err != nil {
		return nil, err
	}
	items := &itemReader{r: k.r, ctx: ctx, link: l}
	for {
		it, err := items.next()
		if err == nil && it == nil {
			break
		}
		if err == nil {
			err = k.place(w, it, l.Packs[it.pack])
		}
		if err != nil {
			w.abandon()
			return nil, err
		}
	}
	run := &movedRun{from: l.Lists}
	if run.packs, run.to, err = w.Finish(); err != nil {
		return nil, err
	}
	for _, ref := range run.to {
		k.lists += ref.Size
	}
	return run, nil
}

// place notes an item in a list, with its new place if it has one.
func (k *repacker) place(w *runWriter, it *item, ref Ref) error {
	if n, ok := k.old[ref.Name]; ok {
		at, ok := slices.BinarySearchFunc(k.moves, 0, func(m chunkMove, _ int) int { return m.compare(n, it.frame.Number, it.offset) })
		if ok {
			m := &k.moves[at]
			ref, it.frame, it.offset = k.to[m.to], m.frame, m.at
		}
	}
	it.pack = w.reuse(ref)
	return w.note(it)
}

// report says what was done.
func (k *repacker) report(kept []*Link, rep *RepackReport) {
	rep.Written, rep.Backups = k.lists, len(k.runs)
	for _, ref := range k.to {
		rep.Written += ref.Size
	}
	rep.Packs, rep.Read, rep.Freed = 0, 0, 0
	named := map[string]bool{}
	for _, l := range kept {
		for _, ref := range l.Packs {
			named[ref.Name] = true
		}
	}
	for _, p := range k.packs {
		if !named[p.ref.Name] {
			rep.Packs++
			rep.Freed += p.ref.Size
		} else {
			rep.Left++
		}
		rep.Read += p.ref.Size
	}
	for _, ref := range k.to {
		rep.Freed -= ref.Size
	}
}

// stillThere refuses to commit a backup that shares packs which a prune behind it took away: it repacked them, or nothing that it kept needs them.
func (r *Repo) stillThere(ctx context.Context, newer *Link, shared map[string]int) error {
	if newer.Kind != Prune || len(shared) == 0 {
		return nil
	}
	there := map[string]bool{}
	for _, v := range newer.Live {
		l, err := expect(ctx, r.known, v.Seq, v.Digest, newer.Seq)
		if errors.Is(err, ErrDamaged) {
			return fmt.Errorf("%w: prune %d, and another one behind it, came before this backup: %w", ErrFenced, newer.Seq, err)
		}
		if err != nil {
			return err
		}
		for _, ref := range newer.Moved.apply(l).Packs {
			there[ref.Name] = true
		}
	}
	for name := range shared {
		if _, open := newer.Watched[sessionOf(name)]; !open && !there[name] {
			return fmt.Errorf("%w: prune %d took away pack %s, which this backup shares", ErrFenced, newer.Seq, name)
		}
	}
	return nil
}
