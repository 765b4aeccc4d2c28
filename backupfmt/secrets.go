package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// unlock opens a slot and all epochs.
func (r *Repo) unlock(ctx context.Context, secret []byte) error {
	slots, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	r.master, err = keys.Unlock(r.ctx, slots, secret)
	if errors.Is(err, keys.ErrWrongKey) {
		return ErrWrongKey
	}
	if err != nil {
		return err
	}
	return r.loadEpochs(ctx)
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

func (r *Repo) loadEpochs(ctx context.Context) error {
	return eachCopied(ctx, r.st, folderEpochs, func(b []byte) error {
		e, err := keys.ParseEpoch(b)
		if err != nil {
			return err
		}
		key, err := r.master.OpenEpoch(e)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.epochs[e.Epoch] = key
		r.epoch = max(r.epoch, e.Epoch)
		return nil
	})
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
	found := false
	for _, s := range slots {
		found = found || s.ID == id
	}
	if !found || len(slots) < 2 {
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
