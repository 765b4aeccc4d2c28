package backupfmt

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// sealedKinds says what is kept where.
var sealedKinds = []struct {
	folder string
	kind   object.Kind
}{
	{folderManifest, object.Manifest},
	{folderLists, object.List},
	{folderPacks, object.Pack},
	{folderArchive, object.Archive},
	{folderProofs, object.Proof},
}

// reseal seals everything anew that is of an older generation, until a look at all objects finds nothing.
func (k *rekeyer) reseal(ctx context.Context) error {
	needed, err := k.needed(ctx)
	if err != nil {
		return err
	}
	for {
		before := k.rep.Objects
		if err := k.pass(ctx, needed); err != nil {
			return err
		}
		if k.bad != nil {
			return k.bad
		}
		if k.rep.Objects == before {
			return nil
		}
	}
}

// needed are the objects that the chain names. What is not among them and cannot be opened is garbage.
func (k *rekeyer) needed(ctx context.Context) (map[string]bool, error) {
	c, err := k.r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	need := map[string]bool{nameHead: true, nameShards: true}
	for _, l := range c.Links {
		need[manifestName(l.Seq)] = true
		for _, refs := range [][]Ref{l.Packs, l.Lists} {
			for _, ref := range refs {
				need[ref.Name] = true
			}
		}
	}
	return need, nil
}

type resealable struct {
	store.Info
	kind object.Kind
}

func (k *rekeyer) pass(ctx context.Context, needed map[string]bool) error {
	var todo []resealable
	var total int64
	add := func(i store.Info, kind object.Kind) error {
		todo = append(todo, resealable{i, kind})
		total += i.Size
		return nil
	}
	head, err := k.r.st.Stat(ctx, nameHead)
	if err != nil {
		return err
	}
	_ = add(head, object.Head)
	table, err := k.r.st.Stat(ctx, nameShards)
	if err == nil {
		_ = add(table, object.Table)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	for _, f := range sealedKinds {
		if err := k.r.st.List(ctx, f.folder, func(i store.Info) error { return add(i, f.kind) }); err != nil {
			return err
		}
	}
	k.done = 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2) // two packs in memory
	for _, t := range todo {
		g.Go(func() error {
			err := k.one(ctx, t)
			if err != nil && ctx.Err() == nil && lostObject(err) {
				if err = k.spoiled(t.Name, needed, err); err == nil {
					return nil
				}
			}
			k.told(t, total)
			return err
		})
	}
	return g.Wait()
}

func lostObject(err error) bool {
	return errors.Is(err, object.ErrDamaged) || errors.Is(err, object.ErrForged) || errors.Is(err, object.ErrNotObject) ||
		errors.Is(err, object.ErrNoKey) || errors.Is(err, object.ErrUnhealable) || errors.Is(err, ErrDamaged)
}

// spoiled notes an object that cannot be sealed anew; it only matters if it is needed.
func (k *rekeyer) spoiled(name string, needed map[string]bool, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if (needed[name] || strings.HasPrefix(name, folderArchive)) && k.bad == nil {
		k.bad = &DamageError{Kind: "damaged", Object: name, Reason: "it cannot be sealed anew; repair it, or prune what needs it, and run the rekey again", Cause: err}
	}
	return nil
}

func (k *rekeyer) told(t resealable, total int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done += t.Size
	if k.o.Progress != nil {
		k.o.Progress(t.Name, k.done, total)
	}
}

// one seals an object anew in its place. The replacement is conditional: what changed meanwhile is looked at again.
func (k *rekeyer) one(ctx context.Context, t resealable) error {
	head, err := k.r.st.GetRange(ctx, t.Name, 0, min(t.Size, object.HeaderSize))
	switch {
	case errors.Is(err, store.ErrNotFound): // pruned
		return nil
	case err != nil:
		return err
	}
	if h, err := object.ParseHeader(head); err == nil && h.Epoch >= k.r.first {
		return nil
	}
	epoch, key := k.r.sealing()
	for {
		b, v, err := k.r.st.Get(ctx, t.Name)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		good, err := sound(t.Name, b)
		if err != nil {
			return err
		}
		if h, err := object.ParseHeader(good); err != nil || h.Epoch >= k.r.first {
			return err
		}
		again, err := object.Reseal(good, t.kind, k.r.id, k.r.opening(ctx), epoch, key)
		if err != nil {
			return err
		}
		_, err = k.r.st.Replace(ctx, t.Name, again, v)
		if errors.Is(err, store.ErrChanged) {
			continue
		}
		if err == nil {
			k.mu.Lock()
			k.rep.Objects++
			k.rep.Bytes += int64(len(again))
			k.mu.Unlock()
		}
		return err
	}
}
