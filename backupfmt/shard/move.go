package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Held is what a place holds.
type Held struct {
	Place
	Packs   int
	Bytes   int64
	Problem string // it cannot be reached
}

// Survey counts what every place holds.
func (s *Store) Survey(ctx context.Context) ([]Held, error) {
	var out []Held
	for _, p := range s.places {
		h := Held{Place: p}
		st, err := s.at(ctx, p)
		if err == nil {
			err = st.List(ctx, packs, func(i store.Info) error { h.Packs++; h.Bytes += i.Size; return nil })
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			h.Problem = err.Error()
		}
		out = append(out, h)
	}
	return out, nil
}

// Rebalance moves packs to where they would be stored now: after a place was added, or closed. A pack is deleted only after it is stored elsewhere; killed
// anywhere, nothing is missing, and the same call goes on.
func (s *Store) Rebalance(ctx context.Context, progress func(name string, done, total int64)) (moved int, bytes int64, err error) {
	type task struct {
		store.Info
		from, to Place
	}
	var todo []task
	var total int64
	for _, p := range s.places {
		st, err := s.at(ctx, p)
		if err != nil {
			return 0, 0, err
		}
		err = st.List(ctx, packs, func(i store.Info) error {
			if to := ranked(s.places, i.Name)[0]; to.ID != p.ID {
				todo = append(todo, task{i, p, to})
				total += i.Size
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
	}
	for _, t := range todo {
		if err := s.move(ctx, t.Name, t.from, t.to); err != nil {
			return moved, bytes, err
		}
		moved++
		bytes += t.Size
		if progress != nil {
			progress(t.Name, bytes, total)
		}
	}
	return moved, bytes, nil
}

func (s *Store) move(ctx context.Context, name string, from, to Place) error {
	src, err := s.at(ctx, from)
	if err != nil {
		return err
	}
	dst, err := s.at(ctx, to)
	if err != nil {
		return err
	}
	b, _, err := src.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) { // pruned meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	if err = dst.Create(ctx, name, b); errors.Is(err, store.ErrExists) {
		err = settle(ctx, dst, name, b)
	}
	if err != nil {
		return err
	}
	now, err := src.GetRange(ctx, name, 0, min(int64(len(b)), object.HeaderSize))
	if err == nil && !bytes.HasPrefix(b, now) { // a rekey sealed it anew meanwhile
		return s.move(ctx, name, from, to)
	}
	return src.Delete(ctx, name)
}

// settle decides between two forms of a pack: the one there stays if it is sound and not sealed with older keys than b.
func settle(ctx context.Context, dst store.Store, name string, b []byte) error {
	have, v, err := dst.Get(ctx, name)
	if err != nil {
		return err
	}
	there, err := object.Check(have)
	if err == nil {
		h, herr := object.ParseHeader(b)
		if herr != nil || there.Header.Epoch >= h.Epoch {
			return nil
		}
	}
	_, err = dst.Replace(ctx, name, b, v)
	return err
}

// row finds a place.
func (t *table) row(id string) (int, error) {
	n := slices.IndexFunc(t.Places, func(p Place) bool { return p.ID == id })
	if n < 0 {
		return 0, fmt.Errorf("%w: there is no shard %q", ErrInvalid, id)
	}
	return n, nil
}

// Close lets a place take no new packs, or take them again; Rebalance then empties it.
func Close(ctx context.Context, first store.Store, id string, closed bool, announce Announce) error {
	_, err := change(ctx, first, announce, func(t *table) error {
		n, err := t.row(id)
		if err != nil {
			return err
		}
		t.Places[n].Closed = closed
		if !slices.ContainsFunc(t.Places, func(p Place) bool { return !p.Closed }) {
			return fmt.Errorf("%w: no shard would be left that takes packs", ErrInvalid)
		}
		return nil
	})
	return err
}

// Remove takes a place out of the table: ErrInvalid if it is not closed, or holds packs, unless it is lost.
func (s *Store) Remove(ctx context.Context, id string, lost bool, announce Announce) error {
	held, err := s.Survey(ctx)
	if err != nil {
		return err
	}
	_, err = change(ctx, s.Store, announce, func(t *table) error {
		n, err := t.row(id)
		if err != nil {
			return err
		}
		if id == First {
			return fmt.Errorf("%w: the first place is the repository itself", ErrInvalid)
		}
		for _, h := range held {
			switch {
			case h.ID != id || lost:
			case h.Problem != "":
				return fmt.Errorf("%w: shard %s cannot be looked at (%s); if it is lost, say so", ErrInvalid, id, h.Problem)
			case !t.Places[n].Closed || h.Packs > 0:
				return fmt.Errorf("%w: shard %s is not closed, or holds %d packs: close it and rebalance first", ErrInvalid, id, h.Packs)
			}
		}
		t.Places = slices.Delete(t.Places, n, n+1)
		if !slices.ContainsFunc(t.Places, func(p Place) bool { return !p.Closed }) {
			return fmt.Errorf("%w: no shard would be left that takes packs", ErrInvalid)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range s.places {
		if st, err := s.at(ctx, p); p.ID == id && err == nil {
			return st.Delete(ctx, nameMark)
		}
	}
	return nil
}
