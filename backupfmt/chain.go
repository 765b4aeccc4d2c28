package backupfmt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Chain is the repository's history as far as it still counts: all links since the newest prune, and the older ones that the prune
// kept. It is verified: every link is authentic, in its place, and named by digest from the one after it.
type Chain struct {
	Links []*Link // ascending by Seq
	Head  uint64  // seq of the newest link, 0 in a new repository

	Signing *Signing // since when it is signed, verified; nil: it is not, or nobody is trusted
}

// Backup returns a backup by number: ErrNoBackup.
func (c *Chain) Backup(seq uint64) (*Link, error) {
	for _, l := range c.Links {
		if l.Seq == seq && l.IsBackup() {
			return l, nil
		}
	}
	return nil, fmt.Errorf("%w: %d", ErrNoBackup, seq)
}

// Backups returns the backups of a life, ascending by Seq; life "" means all.
func (c *Chain) Backups(life string) (out []*Link) {
	for _, l := range c.Links {
		if l.IsBackup() && (life == "" || l.Life == life) {
			out = append(out, l)
		}
	}
	return out
}

// Run returns the links a backup consists of: the full one first.
func (c *Chain) Run(l *Link) ([]*Link, error) {
	run := []*Link{l}
	for l.Kind == Incremental {
		base, err := c.Backup(l.Base)
		if err != nil || base.Index != l.Since || base.Life != l.Life {
			return nil, &DamageError{Kind: "missing", Object: manifestName(l.Base), Seq: run[0].Seq, Reason: fmt.Sprintf("backup %d builds on it", l.Seq)}
		}
		l = base
		run = append(run, l)
	}
	slices.Reverse(run)
	return run, nil
}

// linkReader reads the link of that number; digest is what it must have, "" if that is not known.
type linkReader func(ctx context.Context, seq uint64, digest string) (*Link, error)

// Chain reads and verifies the chain. A *DamageError tells what was removed, replayed, reordered, rolled back or edited. Links that this Repo
// read before are not read again: they are named by digest, so they cannot have changed, but whether they are still in the store
// only Verify finds out.
func (r *Repo) Chain(ctx context.Context) (*Chain, error) { return r.chain(ctx, r.known) }

// known is the linkReader that remembers.
func (r *Repo) known(ctx context.Context, seq uint64, digest string) (*Link, error) {
	r.mu.Lock()
	l := r.links[digest]
	r.mu.Unlock()
	if l != nil && l.Seq == seq {
		return l, nil
	}
	l, err := r.link(ctx, seq)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.links == nil || len(r.links) >= maxKnownLinks {
		r.links = map[string]*Link{}
	}
	r.links[hex.EncodeToString(l.Digest[:])] = l
	return l, nil
}

// maxKnownLinks bounds the memory for links; retention keeps a few hundred.
const maxKnownLinks = 4096

// fresh is the linkReader that asks the store.
func (r *Repo) fresh(ctx context.Context, seq uint64, _ string) (*Link, error) {
	return r.link(ctx, seq)
}

func (r *Repo) chain(ctx context.Context, read linkReader) (*Chain, error) {
	c, err := r.ownChain(ctx, read)
	if err == nil {
		err = r.checkShards(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	r.Expect(c.Mark())
	return c, nil
}

// ownChain is the chain by itself, whatever the table of shards is.
func (r *Repo) ownChain(ctx context.Context, read linkReader) (*Chain, error) {
	head, _, err := r.readHead(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.walk(ctx, read, head)
	if err == nil {
		err = r.checkSigned(c, head)
	}
	if err == nil {
		err = r.checkSeen(c)
	}
	return c, err
}

// walk reads the links from the newest one down.
func (r *Repo) walk(ctx context.Context, read linkReader, head headMark) (*Chain, error) {
	c := &Chain{}
	newest, err := r.newest(ctx, read, head)
	if err != nil || newest == nil {
		return c, err
	}
	c.Head = newest.Seq
	c.Links = []*Link{newest}
	at := newest
	for at.Kind != Prune && at.Seq > 1 {
		if at, err = parent(ctx, read, at); err != nil {
			return nil, err
		}
		c.Links = append(c.Links, at)
	}
	if at.Kind == Prune {
		for _, v := range at.Live {
			l, err := expect(ctx, read, v.Seq, v.Digest, at.Seq)
			if err != nil {
				return nil, err
			}
			c.Links = append(c.Links, at.Moved.apply(l))
		}
	}
	slices.SortFunc(c.Links, func(a, b *Link) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	return c, nil
}

// newest follows the chain from the head on: a writer may have died between a link and the head.
func (r *Repo) newest(ctx context.Context, read linkReader, head headMark) (*Link, error) {
	var last *Link
	lost := head.Seq == 0 // no head: either nothing was ever committed, or it is gone
	if !lost {
		l, err := read(ctx, head.Seq, head.Digest)
		if errors.Is(err, store.ErrNotFound) {
			return nil, &DamageError{Kind: "rolled-back", Object: manifestName(head.Seq), Seq: head.Seq, Reason: "the head names it as the newest link, but it is gone"}
		}
		if err != nil {
			return nil, err
		}
		if hex.EncodeToString(l.Digest[:]) != head.Digest {
			return nil, &DamageError{Kind: "replayed", Object: manifestName(head.Seq), Seq: head.Seq, Reason: "it is not the link that the head names"}
		}
		last = l
	}
	for {
		l, err := read(ctx, head.Seq+1, "")
		if errors.Is(err, store.ErrNotFound) {
			if lost {
				err = r.nothingBeyond(ctx, head.Seq)
			} else {
				err = nil
			}
			return last, err
		}
		if err != nil {
			return nil, err
		}
		if err := follows(l, last); err != nil {
			return nil, err
		}
		last = l
		head.Seq++
	}
}

// nothingBeyond makes sure that a chain without a head does not go on behind a gap: then more than the head is gone.
func (r *Repo) nothingBeyond(ctx context.Context, seq uint64) error {
	return r.st.List(ctx, folderManifest, func(i store.Info) error {
		if n, ok := parseNumber(i.Name); ok && n > seq {
			name := manifestName(seq + 1)
			return &DamageError{Kind: "missing", Object: name, Seq: seq + 1, Reason: fmt.Sprintf("link %d exists, but not the one after link %d", n, seq)}
		}
		return nil
	})
}

func follows(l, prev *Link) error {
	parent := ""
	if prev != nil {
		parent = hex.EncodeToString(prev.Digest[:])
	}
	if l.Parent != parent {
		return &DamageError{Kind: "replayed", Object: manifestName(l.Seq), Seq: l.Seq, Reason: "it does not continue the link before it"}
	}
	return nil
}

func parent(ctx context.Context, read linkReader, l *Link) (*Link, error) {
	return expect(ctx, read, l.Seq-1, l.Parent, l.Seq)
}

// expect reads a link that another one names.
func expect(ctx context.Context, read linkReader, seq uint64, digest string, by uint64) (*Link, error) {
	l, err := read(ctx, seq, digest)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &DamageError{Kind: "missing", Object: manifestName(seq), Seq: seq, Reason: fmt.Sprintf("link %d names it", by)}
	}
	if err != nil {
		return nil, err
	}
	if hex.EncodeToString(l.Digest[:]) != digest {
		return nil, &DamageError{Kind: "replayed", Object: manifestName(seq), Seq: seq, Reason: fmt.Sprintf("it is not the link that link %d names", by)}
	}
	return l, nil
}

// commit adds a link after the newest one. The object of that name can be created once, so of several writers one comes first and
// the others look at what it did: check is called for every link that was added since the chain c was read, and may refuse.
func (r *Repo) commit(ctx context.Context, c *Chain, inv Inventory, det Details, check func(newer *Link) error) (*Link, error) {
	var last *Link
	if n := len(c.Links); n > 0 {
		last = c.Links[n-1]
	}
	for {
		var err error
		inv.Version, inv.Seq, inv.Parent = manifestVersion, 1, ""
		if inv.Moved != nil {
			inv.Version = movedVersion
		}
		if last != nil {
			inv.Seq, inv.Parent = last.Seq+1, hex.EncodeToString(last.Digest[:])
		}
		if inv.Kind == BeginSign {
			inv.Signing.From = inv.Seq
		} else if inv.Signing, err = r.maySign(last); err != nil {
			return nil, err
		}
		inv.Time = r.o.Now().UTC()
		b, digest, err := r.sealManifest(&inv, &det)
		if err != nil {
			return nil, err
		}
		err = r.st.Create(ctx, manifestName(inv.Seq), b)
		if err == nil {
			l := &Link{Inventory: inv, Details: det, Digest: digest, Size: int64(len(b)), sig: r.ownSignature()}
			err := r.confirm(ctx, l)
			if err == nil {
				r.Expect(markOf(l))
			}
			return l, err
		}
		if !errors.Is(err, store.ErrExists) {
			return nil, err
		}
		newer, err := r.link(ctx, inv.Seq)
		if err != nil {
			return nil, err
		}
		if err := follows(newer, last); err != nil {
			return nil, err
		}
		if err := check(newer); err != nil {
			return nil, err
		}
		last = newer
	}
}

// confirm moves the head to a new link. If the head is beyond it already, the link must be part of the chain: prunes remove old links,
// and a writer that slept through two of them finds the name of a removed one free.
func (r *Repo) confirm(ctx context.Context, l *Link) error {
	m, _, err := r.readHead(ctx)
	if err != nil {
		return err
	}
	if m.Seq < l.Seq {
		return r.moveHead(ctx, l)
	}
	c, err := r.Chain(ctx)
	if err != nil {
		return err
	}
	for _, have := range c.Links {
		if have.Seq == l.Seq && have.Digest == l.Digest {
			return nil
		}
	}
	err = fmt.Errorf("%w: the chain went on to link %d meanwhile, %d is taken back", ErrFenced, c.Head, l.Seq)
	return errors.Join(err, r.st.Delete(ctx, manifestName(l.Seq)))
}
