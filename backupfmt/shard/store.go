package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Opener opens the store of a place.
type Opener func(ctx context.Context, location string) (store.Store, error)

// Store is a repository whose packs are spread. It is as durable as its least durable place. Methods are safe for concurrent use.
type Store struct {
	store.Store // the first place
	places      []Place
	digest      string // of the table
	open        Opener
	lost        bool // places that cannot be reached count as empty, see Partial

	mu   sync.Mutex
	conn map[string]store.Store
}

// Open returns what a repository is kept in: first itself, if its packs are not spread. Places are opened when they are needed.
func Open(ctx context.Context, first store.Store, open Opener) (store.Store, error) {
	t, _, err := readTable(ctx, first)
	if err != nil || t == nil {
		return first, err
	}
	return &Store{Store: first, places: t.Places, digest: t.Checksum, open: open, conn: map[string]store.Store{First: first}}, nil
}

// Places are the rows of the table, the first place first.
func (s *Store) Places() []Place { return slices.Clone(s.places) }

// Opened names the table with which a store was opened, if its packs are spread; else "".
func Opened(st store.Store) string {
	if l, ok := st.(*store.Limited); ok {
		st = l.Store
	}
	if s, ok := st.(*Store); ok {
		return s.digest
	}
	return ""
}

// String names the first place, and how many more there are.
func (s *Store) String() string { return s.Store.String() }

// at opens a place: an *Error if it cannot be reached or has not the mark that it must have.
func (s *Store) at(ctx context.Context, p Place) (store.Store, error) {
	s.mu.Lock()
	st := s.conn[p.ID]
	s.mu.Unlock()
	if st != nil {
		return st, nil
	}
	st, err := s.open(ctx, p.Location)
	if err == nil {
		err = marked(ctx, p, st)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &Error{ID: p.ID, Location: p.Location, Cause: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn[p.ID] = st
	return st, nil
}

// marked reads the mark of a place.
func marked(ctx context.Context, p Place, st store.Store) error {
	if p.ID == First {
		return nil
	}
	mark, _, err := st.Get(ctx, nameMark)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return errors.New("it has no mark: is it mounted?")
	case err == nil && string(mark) != markText+p.ID+"\n":
		return errors.New("it is another shard, or one of another repository")
	}
	return err
}

// ready is at for whoever is going to write: a disk may have been taken away since it was opened, and its folder still be there.
func (s *Store) ready(ctx context.Context, p Place) (store.Store, error) {
	st, err := s.at(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := marked(ctx, p, st); err != nil {
		s.mu.Lock()
		delete(s.conn, p.ID)
		s.mu.Unlock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &Error{ID: p.ID, Location: p.Location, Cause: err}
	}
	return st, nil
}

func spread(name string) bool { return strings.HasPrefix(name, packs) }

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, name string, body []byte) error {
	if !spread(name) {
		return s.Store.Create(ctx, name, body)
	}
	// A place that is away does not stop a backup: the next one takes the pack, and whoever looks for it asks there, too.
	var away error
	for _, p := range ranked(s.places, name) {
		if p.Closed {
			break // and so are all behind it
		}
		st, err := s.ready(ctx, p)
		switch {
		case errors.Is(err, ErrUnreachable):
			away = errors.Join(away, err)
		case err != nil:
			return err
		default:
			return st.Create(ctx, name, body)
		}
	}
	return away
}

// find calls fn with the places of a name until one has it. What a place that cannot be reached may hold is not said to be missing.
func (s *Store) find(ctx context.Context, name string, fn func(p Place, st store.Store) error) error {
	if !spread(name) {
		return fn(s.places[0], s.Store)
	}
	var away error
	for _, p := range ranked(s.places, name) {
		st, err := s.at(ctx, p)
		if errors.Is(err, ErrUnreachable) {
			if !s.lost {
				away = errors.Join(away, err)
			}
			continue
		}
		if err == nil {
			err = fn(p, st)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if away != nil {
		return fmt.Errorf("read %s: %w", name, away)
	}
	return fmt.Errorf("%w: %s in %d shards", store.ErrNotFound, name, len(s.places))
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string) (b []byte, v store.Version, err error) {
	err = s.find(ctx, name, func(p Place, st store.Store) error {
		if b, v, err = st.Get(ctx, name); err == nil && spread(name) {
			v = store.Version(p.ID) + "\n" + v
		}
		return err
	})
	return b, v, err
}

// GetRange implements store.Store.
func (s *Store) GetRange(ctx context.Context, name string, off, n int64) (b []byte, err error) {
	err = s.find(ctx, name, func(_ Place, st store.Store) error { b, err = st.GetRange(ctx, name, off, n); return err })
	return b, err
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, name string) (i store.Info, err error) {
	err = s.find(ctx, name, func(_ Place, st store.Store) error { i, err = st.Stat(ctx, name); return err })
	return i, err
}

// Replace implements store.Store: where the version was read.
func (s *Store) Replace(ctx context.Context, name string, body []byte, old store.Version) (store.Version, error) {
	if !spread(name) {
		return s.Store.Replace(ctx, name, body, old)
	}
	p := ranked(s.places, name)[0]
	if old != "" {
		id, v, ok := strings.Cut(string(old), "\n")
		n := slices.IndexFunc(s.places, func(p Place) bool { return p.ID == id })
		if !ok || n < 0 {
			return "", fmt.Errorf("%w: %s", store.ErrChanged, name)
		}
		p, old = s.places[n], store.Version(v)
	}
	st, err := s.at(ctx, p)
	if err != nil {
		return "", err
	}
	v, err := st.Replace(ctx, name, body, old)
	return store.Version(p.ID) + "\n" + v, err
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if !spread(name) {
		return s.Store.Delete(ctx, name)
	}
	for _, p := range s.places {
		st, err := s.at(ctx, p)
		if err == nil {
			err = st.Delete(ctx, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// List implements store.Store. It fails at once if packs are wanted and a place cannot be reached: an incomplete list would look like a loss.
func (s *Store) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	var far []store.Info // of the other places; about 100 bytes for 16 MiB that are stored there
	if prefix == "" || spread(prefix) {
		for _, p := range s.places[1:] {
			st, err := s.at(ctx, p)
			if s.lost && errors.Is(err, ErrUnreachable) {
				continue
			}
			if err != nil {
				return err
			}
			from := prefix
			if from == "" {
				from = packs
			}
			if err := st.List(ctx, from, func(i store.Info) error { far = append(far, i); return nil }); err != nil {
				return err
			}
		}
		slices.SortFunc(far, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
		far = slices.CompactFunc(far, func(a, b store.Info) bool { return a.Name == b.Name })
	}
	err := s.Store.List(ctx, prefix, func(i store.Info) error {
		for len(far) > 0 && far[0].Name <= i.Name {
			if far[0].Name < i.Name {
				if err := fn(far[0]); err != nil {
					return err
				}
			}
			far = far[1:]
		}
		return fn(i)
	})
	for ; err == nil && len(far) > 0; far = far[1:] {
		err = fn(far[0])
	}
	return err
}

// Sweep implements store.Sweeper.
func (s *Store) Sweep(ctx context.Context, t time.Time) (n int, err error) {
	for _, p := range s.places {
		st, err := s.at(ctx, p)
		if err != nil {
			return n, err
		}
		if sw, ok := st.(store.Sweeper); ok {
			more, err := sw.Sweep(ctx, t)
			if n += more; err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// Partial is the store as if the places that cannot be reached were empty, and which these are: to see what is lost with them. Nothing should be
// written to it.
func (s *Store) Partial(ctx context.Context) (store.Store, []*Error) {
	var away []*Error
	for _, p := range s.places {
		_, err := s.at(ctx, p)
		var e *Error
		if errors.As(err, &e) {
			away = append(away, e)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	view := &Store{Store: s.Store, places: s.places, digest: s.digest, open: s.open, lost: true, conn: map[string]store.Store{}}
	for id, st := range s.conn {
		view.conn[id] = st
	}
	return view, away
}

// Partial is that of a store whose packs may be spread; nil if they are not, or all places can be reached.
func Partial(ctx context.Context, st store.Store) (store.Store, []*Error) {
	if l, ok := st.(*store.Limited); ok {
		st = l.Store
	}
	s, ok := st.(*Store)
	if !ok {
		return nil, nil
	}
	view, away := s.Partial(ctx)
	if len(away) == 0 {
		return nil, nil
	}
	return view, away
}
