package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// RekeyOptions give a repository a new master key.
type RekeyOptions struct {
	Options                                         // opens the repository as it is
	New        []byte                               // passphrase or key file of the new generation; the same again protects only against who has the master key alone
	KDF        keys.KDF                             // of the new slot; zero: keys.Default
	Label      string                               // of the new slot
	OtherSlots bool                                 // other slots may go: their secrets are not known here, so they cannot open the new generation
	Progress   func(name string, done, total int64) // bytes; may be nil; called by one goroutine at a time
}

// RekeyReport says what a rekey did.
type RekeyReport struct {
	Resumed    bool // an interrupted rekey was carried on
	Nothing    bool // an earlier one had finished
	Objects    int  // sealed anew by this run
	Bytes      int64
	Generation uint32
	Epoch      uint32
	Removed    []string // slots and epochs of older generations
}

// ChangeMaster seals everything in a repository anew, under a new master key, and forgets the old one:
//
//	new slot ─ first epoch of the generation, which carries the old epoch keys ─ link "rekey", fences of the archive
//	─ every object resealed in its place ─ the epoch carries the old keys no longer ─ old epochs and slots are removed
//
// The epoch is the moment of truth: before it the repository opens with the old secret, from then on with the new one, and everything
// can be restored at every moment. It may be killed or cancelled anywhere: the same call carries it on. Backups and restores by
// processes that have the new secret may run meanwhile. A process that opened the repository before cannot add anything that counts:
// behind the link and the fences it gets ErrRekeyed.
//
// ErrDamaged: an object that is needed could not be sealed anew; everything else was, and the old epoch keys stay until it is repaired or pruned.
func ChangeMaster(ctx context.Context, st store.Store, o RekeyOptions) (*RekeyReport, error) {
	rep := &RekeyReport{}
	r, err := beginRekey(ctx, st, &o, rep)
	if err != nil || rep.Nothing {
		return rep, err
	}
	k := &rekeyer{r: r, o: o, rep: rep}
	for _, step := range []func(context.Context) error{k.fenceChain, k.fenceArchives, k.reseal, k.finish} {
		if err := step(ctx); err != nil {
			return rep, err
		}
	}
	rep.Generation, rep.Epoch = r.Generation(), r.Epoch()
	return rep, nil
}

// beginRekey opens the repository with the keys of the new generation, and makes that if nobody did.
func beginRekey(ctx context.Context, st store.Store, o *RekeyOptions, rep *RekeyReport) (*Repo, error) {
	if o.KDF == (keys.KDF{}) {
		o.KDF = keys.Default
	}
	if len(o.New) == 0 {
		return nil, fmt.Errorf("%w: no new passphrase or key file", ErrInvalid)
	}
	opened := o.Options
	opened.Secret = o.New
	r, newErr := Open(ctx, st, opened)
	if newErr == nil {
		left, err := r.leftovers(ctx)
		if err != nil {
			return nil, err
		}
		if rep.Resumed = r.Rekeying() || len(left) > 0; rep.Resumed {
			return r, r.signable(ctx)
		}
	}
	old, err := Open(ctx, st, o.Options)
	switch {
	case errors.Is(err, ErrWrongKey) && newErr == nil:
		rep.Nothing, rep.Generation, rep.Epoch = true, r.Generation(), r.Epoch()
		return r, nil
	case err != nil:
		return nil, err
	case !old.Encrypted():
		return nil, ErrNotEncrypted
	}
	if err := old.signable(ctx); err != nil {
		return nil, err
	}
	if err := old.nextGeneration(ctx, o); err != nil {
		return nil, err
	}
	return Open(ctx, st, opened)
}

// signable finds out, before anything is changed, that the link of a rekey could not be added.
func (r *Repo) signable(ctx context.Context) error {
	c, err := r.chain(ctx, r.fresh)
	if err != nil {
		return err
	}
	return r.writable(c)
}

type rekeyer struct {
	r   *Repo
	o   RekeyOptions
	rep *RekeyReport

	mu   sync.Mutex
	done int64
	bad  error // an object that is needed and could not be sealed anew
}

// fenceChain adds a link that only the new generation can read, unless there is one: a link can only follow what its writer has read.
func (k *rekeyer) fenceChain(ctx context.Context) error {
	c, err := k.r.chain(ctx, k.r.fresh)
	if err != nil {
		return err
	}
	for _, l := range c.Links {
		if l.fresh >= k.r.first {
			return k.r.moveHead(ctx, c.Links[len(c.Links)-1])
		}
	}
	_, err = k.r.commit(ctx, c, Inventory{Kind: Rekey}, Details{}, func(*Link) error { return nil })
	return err
}

// fenceArchives takes the name of the next piece of every life: a fence that was sealed first with keys of this generation holds.
func (k *rekeyer) fenceArchives(ctx context.Context) error {
	c, err := k.r.Chain(ctx)
	if err != nil {
		return err
	}
	f := &fencer{r: k.r, ends: map[string]uint64{}, holds: func(c *object.Content, _ *Piece) bool {
		return c.Header.Epoch >= k.r.first && !c.Header.Resealed
	}}
	return f.fenceArchives(ctx, c)
}

// finish forgets the old keys: first the new generation stops carrying them, then they are removed.
func (k *rekeyer) finish(ctx context.Context) error {
	if err := k.dropCarried(ctx); err != nil {
		return err
	}
	if err := k.r.loadEpochs(ctx); err != nil {
		return err
	}
	left, err := k.r.leftovers(ctx)
	if err != nil {
		return err
	}
	junk, err := k.lateSlots(ctx)
	if err != nil {
		return err
	}
	for _, name := range append(left, junk...) {
		if err := k.r.removeTwice(ctx, name); err != nil {
			return err
		}
		k.rep.Removed = append(k.rep.Removed, name)
	}
	return nil
}
