package backupfmt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// A generation is everything under one master key: its slots, and its epochs, of which the first carries what it took over.

// leftovers are the objects of key slots and epochs of older generations, and of generations that never began with a slot of ours.
func (r *Repo) leftovers(ctx context.Context) ([]string, error) {
	var out []string
	slots, err := r.Slots(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		if s.Generation < r.Generation() {
			out = append(out, folderKeys+s.ID)
		}
	}
	epochs, err := r.readEpochs(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range epochs {
		if e.Generation < r.Generation() {
			out = append(out, epochName(e.Epoch))
		}
	}
	return out, nil
}

func epochName(n uint32) string { return fmt.Sprintf("%s%08d", folderEpochs, n) }

// nextGeneration makes the slot and the first epoch of a new generation. The epoch's name can be taken once: of several that try one wins.
func (r *Repo) nextGeneration(ctx context.Context, o *RekeyOptions) error {
	slots, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	others := 0
	for _, s := range slots {
		if s.Generation == r.Generation() {
			others++
		}
	}
	if others > 1 && !o.OtherSlots {
		return fmt.Errorf("%w: %d slots open the repository; their passphrases are not known here, so all but the new one would go: say that they may, and add them again afterwards", ErrInvalid, others)
	}
	next, err := r.master.Next(r.o.Rand)
	if err != nil {
		return err
	}
	slot, err := next.NewSlot(o.New, o.KDF, o.Label, r.o.Now(), r.o.Rand)
	if err != nil {
		return err
	}
	b, err := slot.Encode()
	if err != nil {
		return err
	}
	if err := createTwice(ctx, r.st, folderKeys+slot.ID, b); err != nil {
		return err
	}
	for {
		err := r.firstOf(ctx, next)
		if !errors.Is(err, store.ErrExists) {
			return err
		}
		// Somebody rotated, or was faster with a generation of his own: then the slot is of no use.
		if err := r.loadEpochs(ctx); err != nil {
			return errors.Join(err, r.removeTwice(ctx, folderKeys+slot.ID))
		}
	}
}

// firstOf stores the first epoch of a generation.
func (r *Repo) firstOf(ctx context.Context, next *keys.Master) error {
	r.mu.Lock()
	number := r.epoch + 1
	c := keys.Carried{ChunkKey: [32]byte(r.chunkKey), Epochs: map[uint32]*[32]byte{}}
	for n, key := range r.epochs {
		c.Epochs[n] = key
	}
	r.mu.Unlock()
	var key [32]byte
	if _, err := io.ReadFull(r.o.Rand, key[:]); err != nil {
		return fmt.Errorf("backup: random key: %w", err)
	}
	e, err := next.WrapEpoch(number, &key, &c, r.o.Now(), r.o.Rand)
	if err != nil {
		return err
	}
	b, err := e.Encode()
	if err != nil {
		return err
	}
	return createTwice(ctx, r.st, epochName(number), b)
}

func (r *Repo) removeTwice(ctx context.Context, name string) error {
	if err := r.st.Delete(ctx, name); err != nil {
		return err
	}
	return r.st.Delete(ctx, name+secondCopy)
}

// dropCarried writes both copies of the first epoch without the old keys.
func (k *rekeyer) dropCarried(ctx context.Context) error {
	r := k.r
	r.mu.Lock()
	first, key := r.first, r.epochs[r.first]
	c := keys.Carried{ChunkKey: [32]byte(r.chunkKey)}
	r.mu.Unlock()
	e, err := r.master.WrapEpoch(first, key, &c, r.o.Now(), r.o.Rand)
	if err != nil {
		return err
	}
	names := []string{epochName(first), epochName(first) + secondCopy}
	var have [2][]byte
	var versions [2]store.Version
	for i, name := range names {
		if have[i], versions[i], err = r.st.Get(ctx, name); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if was, err := keys.ParseEpoch(have[i]); err == nil {
			if carried, err := r.master.OpenCarried(was); err == nil && carried != nil && len(carried.Epochs) == 0 {
				e = was // written by an earlier run: the other copy becomes the same
			}
		}
	}
	b, err := e.Encode()
	if err != nil {
		return err
	}
	for i, name := range names {
		if bytes.Equal(have[i], b) {
			continue
		}
		if _, err := r.st.Replace(ctx, name, b, versions[i]); err != nil {
			return err
		}
	}
	return nil
}

// lateSlots are slots that open with the new secret and hold another master key: made by runs that died, or came second.
func (k *rekeyer) lateSlots(ctx context.Context) ([]string, error) {
	slots, err := k.r.Slots(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range slots {
		if s.Generation < k.r.Generation() {
			continue
		}
		if m, err := s.Open(k.r.ctx, k.o.New); err == nil && !m.Same(k.r.master) {
			out = append(out, folderKeys+s.ID)
		}
	}
	return out, nil
}
