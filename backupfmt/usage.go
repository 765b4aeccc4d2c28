package backupfmt

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// What a pack is still good for. Packs are kept whole while a kept backup names one chunk of them, so a repository fills with chunks that nobody needs.
// Which these are only the lists of all kept backups together can tell. A pack whose own backup is kept is used to the last chunk, so
// nothing is read where nothing was ever removed.

// maxUsageChunks bounds the memory for the chunks of packs that are looked at, to some 40 MiB: 100 GiB of rows. Packs beyond are left to the next prune.
const maxUsageChunks = 8 << 20

// usage is what kept backups use of the packs that may hold something unused.
type usage struct {
	total int64 // stored bytes of all packs that kept backups name
	packs map[string]*packUse
}

// packUse is what is used of one pack.
type packUse struct {
	ref    Ref
	link   *Link // one that names it
	frames []frameUse
	unused int64 // stored bytes that nobody needs, about
	chunks int   // that somebody needs
	odd    bool  // a list names a chunk that the pack does not say to hold: it is left alone
}

type frameUse struct {
	stored  uint32
	offsets []uint32 // of its chunks in the decoded frame, ascending
	size    uint32   // of the decoded frame
	used    []bool
}

// usage finds out what the kept backups use.
func (r *Repo) usage(ctx context.Context, kept []*Link) (*usage, error) {
	u := &usage{packs: map[string]*packUse{}}
	own := map[string]bool{}
	for _, l := range kept {
		own[l.Session] = true
	}
	seen := map[string]bool{}
	chunks := 0
	for _, l := range kept {
		for _, ref := range l.Packs {
			if seen[ref.Name] {
				continue
			}
			seen[ref.Name] = true
			u.total += ref.Size
			if own[sessionOf(ref.Name)] || chunks > maxUsageChunks {
				continue
			}
			p, err := r.packUse(ctx, ref, l)
			if err != nil {
				return nil, err
			}
			if p != nil {
				u.packs[ref.Name] = p
				for _, f := range p.frames {
					chunks += len(f.used)
				}
			}
		}
	}
	for _, l := range kept {
		if err := r.markUsed(ctx, u, l); err != nil {
			return nil, err
		}
	}
	for _, p := range u.packs {
		p.count()
	}
	return u, nil
}

// packUse reads the index of a pack; nil if that cannot be read: then the pack stays as it is.
func (r *Repo) packUse(ctx context.Context, ref Ref, l *Link) (*packUse, error) {
	x, err := r.readPackIndex(ctx, ref.Name, ref.Size)
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrShort), lostObject(err):
		return nil, nil
	default:
		return nil, err
	}
	if x == nil || hex.EncodeToString(x.digest[:]) != ref.Digest {
		return nil, nil
	}
	p := &packUse{ref: ref, link: l}
	for i, f := range x.frames {
		u := frameUse{stored: f.Length, used: make([]bool, len(x.chunks[i])), offsets: make([]uint32, 0, len(x.chunks[i]))}
		for _, c := range x.chunks[i] {
			u.offsets = append(u.offsets, u.size)
			u.size += c.length
		}
		p.frames = append(p.frames, u)
	}
	return p, nil
}

// markUsed marks what one backup uses.
func (r *Repo) markUsed(ctx context.Context, u *usage, l *Link) error {
	of := make([]*packUse, len(l.Packs))
	any := false
	for i, ref := range l.Packs {
		of[i] = u.packs[ref.Name]
		any = any || of[i] != nil
	}
	if !any {
		return nil
	}
	items := &itemReader{r: r, ctx: ctx, link: l}
	for {
		it, err := items.next()
		if err != nil || it == nil {
			return err
		}
		p := of[it.pack]
		if p == nil {
			continue
		}
		if n := int(it.frame.Number); n < len(p.frames) {
			f := &p.frames[n]
			if at, ok := slices.BinarySearch(f.offsets, it.offset); ok {
				f.used[at] = true
				continue
			}
		}
		p.odd = true
	}
}

// count sums up a pack.
func (p *packUse) count() {
	var stored, unused int64
	for i := range p.frames {
		f := &p.frames[i]
		stored += int64(f.stored)
		used := int64(0)
		for n := range f.used {
			if f.used[n] {
				p.chunks++
				used += int64(f.length(n))
			}
		}
		if f.size > 0 {
			unused += int64(f.stored) * (int64(f.size) - used) / int64(f.size)
		}
	}
	if stored > 0 && !p.odd { // with its share of parity and frame
		p.unused = int64(float64(p.ref.Size) * float64(unused) / float64(stored))
	}
}

// length is that of a chunk.
func (f *frameUse) length(n int) uint32 {
	if n+1 < len(f.offsets) {
		return f.offsets[n+1] - f.offsets[n]
	}
	return f.size - f.offsets[n]
}

// sum is how many stored bytes nobody needs.
func (u *usage) sum() (n int64) {
	for _, p := range u.packs {
		n += p.unused
	}
	return n
}

// choose picks the packs to be stored anew: none while at most that share of the stored packs is unused, else the emptiest, until half of it
// is left, so that not every prune has something to do. At most so many chunks are moved at once.
func (u *usage) choose(most float64, chunks int) (out []*packUse) {
	unused, total := u.sum(), u.total
	if float64(unused) <= most*float64(total) {
		return nil
	}
	for _, p := range u.packs {
		if p.unused > 0 {
			out = append(out, p)
		}
	}
	share := func(p *packUse) float64 { return float64(p.unused) / float64(p.ref.Size) }
	slices.SortFunc(out, func(a, b *packUse) int {
		return cmp.Or(cmp.Compare(share(b), share(a)), cmp.Compare(a.ref.Name, b.ref.Name))
	})
	for n, p := range out {
		if chunks -= p.chunks; float64(unused) <= most/2*float64(total) || chunks < 0 && n > 0 {
			return out[:n]
		}
		unused -= p.unused
		total -= p.unused
	}
	return out
}
