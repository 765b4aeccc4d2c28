package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// unlock opens a slot of the newest generation of keys and all its epochs. The epochs say which generation that is: a slot without an epoch
// was made by a rekey that died before it began.
func (r *Repo) unlock(ctx context.Context, secret []byte) error {
	epochs, err := r.readEpochs(ctx)
	if err != nil {
		return err
	}
	all, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	gen := generationOf(epochs)
	var slots []*keys.Slot
	older := false
	for _, s := range all {
		if s.Generation == gen {
			slots = append(slots, s)
		}
		older = older || s.Generation < gen
	}
	r.master, err = keys.Unlock(r.ctx, slots, secret, func(m *keys.Master) bool { return fits(m, epochs) })
	switch {
	case errors.Is(err, keys.ErrWrongKey) && older:
		return fmt.Errorf("%w: a rekey has begun, the repository opens with the new one", ErrWrongKey)
	case errors.Is(err, keys.ErrWrongKey):
		return ErrWrongKey
	case err != nil:
		return err
	}
	return r.takeEpochs(epochs)
}

// fits reports whether a master key opens the epochs of its generation.
func fits(m *keys.Master, epochs []*keys.Epoch) bool {
	for _, e := range epochs {
		if e.Generation == m.Generation() {
			_, err := m.OpenEpoch(e)
			return err == nil
		}
	}
	return false
}

func generationOf(epochs []*keys.Epoch) (gen uint32) {
	for _, e := range epochs {
		gen = max(gen, e.Generation)
	}
	return gen
}

// Slots returns the key slots.
func (r *Repo) Slots(ctx context.Context) (out []*keys.Slot, err error) {
	err = eachCopied(ctx, r.st, folderKeys, func(b []byte) error {
		s, err := keys.ParseSlot(b)
		if err == nil {
			out = append(out, s)
		}
		return err
	})
	return out, err
}

// readEpochs reads all wrapped epoch keys, also those of older generations that a rekey has not removed yet.
func (r *Repo) readEpochs(ctx context.Context) (out []*keys.Epoch, err error) {
	err = eachCopied(ctx, r.st, folderEpochs, func(b []byte) error {
		e, err := keys.ParseEpoch(b)
		if err == nil {
			out = append(out, e)
		}
		return err
	})
	return out, err
}

// loadEpochs looks for epochs that others began: ErrRekeyed if it was with another master key.
func (r *Repo) loadEpochs(ctx context.Context) error {
	epochs, err := r.readEpochs(ctx)
	if err != nil {
		return err
	}
	return r.takeEpochs(epochs)
}

func (r *Repo) takeEpochs(epochs []*keys.Epoch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range epochs {
		switch gen := r.master.Generation(); {
		case e.Generation > gen:
			return ErrRekeyed
		case e.Generation < gen:
			continue // left by a rekey that is not finished
		}
		key, err := r.master.OpenEpoch(e)
		if err != nil {
			return err
		}
		carried, err := r.master.OpenCarried(e)
		if err != nil {
			return err
		}
		if carried != nil {
			r.take(e, carried)
		}
		r.epochs[e.Epoch] = key
		r.epoch = max(r.epoch, e.Epoch)
	}
	return nil
}

// take takes over what a generation carries. Keys of older epochs that it no longer carries are forgotten.
func (r *Repo) take(e *keys.Epoch, c *keys.Carried) {
	r.first, r.rekeying = e.Epoch, len(c.Epochs) > 0
	r.chunkKey = c.ChunkKey[:]
	maps.DeleteFunc(r.epochs, func(n uint32, _ *[32]byte) bool { return n < e.Epoch })
	maps.Copy(r.epochs, c.Epochs)
}

// eachCopied calls fn with the sound copy of every object of a folder; one damaged copy is no problem.
func eachCopied(ctx context.Context, st store.Store, folder string, fn func([]byte) error) error {
	names := map[string]bool{}
	var order []string
	err := st.List(ctx, folder, func(i store.Info) error {
		n := strings.TrimSuffix(i.Name, secondCopy)
		if !names[n] {
			names[n] = true
			order = append(order, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range order {
		if err := getEither(ctx, st, n, fn); err != nil {
			return fmt.Errorf("backup: read %s: %w", n, err)
		}
	}
	return nil
}

func (r *Repo) nameChunks() error {
	if r.master == nil {
		r.chunkKey = make([]byte, 32)
		blake3.DeriveKey("erlmcp backup plain chunk names v1", r.id[:], r.chunkKey)
		return nil
	}
	if r.chunkKey != nil { // carried over from an older generation
		return nil
	}
	var err error
	r.chunkKey, err = r.master.ChunkKey()
	return err
}

// AddSlot lets another passphrase or key file open the repository.
func (r *Repo) AddSlot(ctx context.Context, secret []byte, kdf keys.KDF, label string) (*keys.Slot, error) {
	if r.master == nil {
		return nil, ErrNotEncrypted
	}
	s, err := r.master.NewSlot(secret, kdf, label, r.o.Now(), r.o.Rand)
	if err != nil {
		return nil, err
	}
	b, err := s.Encode()
	if err != nil {
		return nil, err
	}
	return s, createTwice(ctx, r.st, folderKeys+s.ID, b)
}

// RemoveSlot takes a slot away, but never the last one. Whoever copied the slot and knows its secret can still read
// what is stored until then: Rotate protects what comes after only if the master key did not leak with it.
func (r *Repo) RemoveSlot(ctx context.Context, id string) error {
	slots, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	found, others := false, 0
	for _, s := range slots {
		switch {
		case s.ID == id:
			found = true
		case s.Generation == r.Generation():
			others++
		}
	}
	if !found || others == 0 {
		return fmt.Errorf("%w: slot %q of %d; the last one cannot be removed", ErrInvalid, id, len(slots))
	}
	if err := r.st.Delete(ctx, folderKeys+id); err != nil {
		return err
	}
	return r.st.Delete(ctx, folderKeys+id+secondCopy)
}

// Rotate begins a new key epoch: everything written from now on is sealed with a new key.
func (r *Repo) Rotate(ctx context.Context) error {
	if r.master == nil {
		return ErrNotEncrypted
	}
	for {
		r.mu.Lock()
		next := r.epoch + 1
		r.mu.Unlock()
		e, key, err := r.master.NewEpoch(next, r.o.Now(), r.o.Rand)
		if err != nil {
			return err
		}
		b, err := e.Encode()
		if err != nil {
			return err
		}
		err = createTwice(ctx, r.st, fmt.Sprintf("%s%08d", folderEpochs, next), b)
		if errors.Is(err, store.ErrExists) { // somebody else rotated
			if err := r.loadEpochs(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.epochs[next] = key
		r.epoch = max(r.epoch, next)
		r.mu.Unlock()
		return nil
	}
}

// Epoch is the newest key epoch, 0 if not encrypted.
func (r *Repo) Epoch() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}

// Generation counts the master keys of the repository: 0 until the first rekey.
func (r *Repo) Generation() uint32 {
	if r.master == nil {
		return 0
	}
	return r.master.Generation()
}

// Rekeying reports whether a rekey has begun and not finished: objects under keys of the older generation are still accepted.
func (r *Repo) Rekeying() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rekeying
}

// sealing returns the key for new objects.
func (r *Repo) sealing() (uint32, *[32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch, r.epochs[r.epoch]
}

// opening returns the key source for reading, nil without encryption. An epoch that is not known yet was begun by
// another process after this one opened the repository.
func (r *Repo) opening(ctx context.Context) object.KeySource {
	if r.master == nil {
		return nil
	}
	return func(epoch uint32) (*[32]byte, error) {
		for try := range 2 {
			r.mu.Lock()
			key := r.epochs[epoch]
			r.mu.Unlock()
			if key != nil {
				return key, nil
			}
			if try == 0 {
				if err := r.loadEpochs(ctx); err != nil {
					return nil, err
				}
			}
		}
		return nil, fmt.Errorf("%w: epoch %d", object.ErrNoKey, epoch)
	}
}
