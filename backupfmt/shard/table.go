// Package shard spreads the packs of a repository over several places, so that it can be larger than one disk or bucket.
//
// The first place is a repository like any other: configuration, keys, chain, lists, log and proofs are there and nowhere else, and it holds a
// table of the others. Only packs are spread, which are all but a few per cent of the bytes. A pack is kept in one place: in the one of the highest
// rank for its name (rendezvous hashing over the places that are open), so that a new place takes its share of new packs and no old pack has to
// move. Whoever looks for one asks the places in the order of rank. Each place has a mark, so that a disk that is not mounted is not
// taken for an empty one.
package shard

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Sentinel errors; test with errors.Is.
var (
	// ErrUnreachable: a place cannot be reached, or is not what the table says. An *Error names it.
	ErrUnreachable = errors.New("shard: cannot be reached")
	// ErrInvalid: a place that is none, is there already, or still holds packs.
	ErrInvalid = errors.New("shard: invalid")
	// ErrDamaged: the table is not what was written.
	ErrDamaged = errors.New("shard: the table of shards is damaged")
)

// Error names a place that does not answer as it should.
type Error struct {
	ID, Location string
	Cause        error
}

// Error says which place is meant and why.
func (e *Error) Error() string {
	return fmt.Sprintf("shard: %s at %s cannot be reached: %v", e.ID, e.Location, e.Cause)
}

// Unwrap makes errors.Is work for ErrUnreachable and the cause; never for "not found", which would be said of an object.
func (e *Error) Unwrap() []error {
	if errors.Is(e.Cause, store.ErrNotFound) {
		return []error{ErrUnreachable}
	}
	return []error{ErrUnreachable, e.Cause}
}

// First is the id of the place that the repository is opened by.
const First = "first"

const (
	nameTable = "shards"
	nameMark  = "shard"
	markText  = "erlmcp-backup-shard "
	packs     = "packs/"
	most      = 256 // places
)

// Place is one row of the table.
type Place struct {
	ID       string    `json:"id"`
	Location string    `json:"location"` // as store.ParseLocation reads it; empty: the first place
	Added    time.Time `json:"added"`
	Closed   bool      `json:"closed,omitempty"` // takes no new packs
}

// table is the object of that name, in two copies.
type table struct {
	Version  int     `json:"version"`
	Serial   uint64  `json:"serial"` // grows with each change
	Places   []Place `json:"places"`
	Checksum string  `json:"checksum"` // BLAKE3 of the JSON with an empty checksum
}

func (t table) encode() ([]byte, error) {
	t.Checksum = ""
	b, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("shard: encode: %w", err)
	}
	sum := blake3.Sum256(b)
	t.Checksum = hex.EncodeToString(sum[:])
	b, err = json.MarshalIndent(t, "", "  ")
	return append(b, '\n'), err
}

func parseTable(b []byte) (*table, error) {
	var t table
	if len(b) > 1<<20 || json.Unmarshal(b, &t) != nil {
		return nil, ErrDamaged
	}
	if t.Version != 1 {
		return nil, fmt.Errorf("%w: version %d is newer than this program", ErrDamaged, t.Version)
	}
	again, err := t.encode()
	if err != nil || !bytes.Equal(again, b) || len(t.Places) == 0 || len(t.Places) > most || t.Places[0].ID != First {
		return nil, ErrDamaged
	}
	return &t, nil
}

// readTable returns the newer of the two copies that are sound, nil if there is none at all.
func readTable(ctx context.Context, first store.Store) (newest *table, versions [2]store.Version, err error) {
	var bad error
	for i, name := range []string{nameTable, nameTable + ".2"} {
		b, v, err := first.Get(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, versions, err
		}
		versions[i] = v
		t, err := parseTable(b)
		if err != nil {
			bad = err
		} else if newest == nil || t.Serial > newest.Serial {
			newest = t
		}
	}
	if newest == nil {
		return nil, versions, bad
	}
	return newest, versions, nil
}

// Announce is called with what names a table, "" for none, and what names the one that is about to take its place. It lets the repository
// know before it happens; once it has happened it is called again, with the new one twice.
type Announce func(before, after string) error

// Digest names the table of a repository as it is stored; "" if there is none.
func Digest(ctx context.Context, st store.Store) (string, error) {
	t, _, err := readTable(ctx, st)
	if err != nil || t == nil {
		return "", err
	}
	return t.Checksum, nil
}

// change writes a table in the place of the one that was read. Of several at once one wins: store.ErrChanged.
func change(ctx context.Context, first store.Store, announce Announce, edit func(*table) error) (*table, error) {
	t, versions, err := readTable(ctx, first)
	if err != nil {
		return nil, err
	}
	if t == nil {
		t = &table{Version: 1, Places: []Place{{ID: First}}}
	}
	before := t.Checksum
	if err := edit(t); err != nil {
		return nil, err
	}
	t.Serial++
	b, err := t.encode()
	if err != nil {
		return nil, err
	}
	again, err := parseTable(b)
	if err != nil {
		return nil, err
	}
	if err := announce(before, again.Checksum); err != nil {
		return nil, err
	}
	for i, name := range []string{nameTable, nameTable + ".2"} {
		if _, err := first.Replace(ctx, name, b, versions[i]); err != nil {
			return nil, err
		}
	}
	return t, announce(again.Checksum, again.Checksum)
}

// ranked are the places in the order in which a pack is looked for; open ones first, the first of which takes it.
func ranked(places []Place, name string) []Place {
	type scored struct {
		Place
		score uint64
	}
	all := make([]scored, len(places))
	for i, p := range places {
		sum := blake3.Sum256([]byte(p.ID + "\n" + name))
		all[i] = scored{p, binary.LittleEndian.Uint64(sum[:])}
	}
	slices.SortFunc(all, func(a, b scored) int {
		if a.Closed != b.Closed {
			if a.Closed {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.ID, b.ID))
	})
	out := make([]Place, len(all))
	for i, s := range all {
		out[i] = s.Place
	}
	return out
}

// Add makes a place of an empty store: ErrInvalid if it is not empty, or is one already.
func Add(ctx context.Context, first, st store.Store, location string, now time.Time, announce Announce) (Place, error) {
	err := st.List(ctx, "", func(i store.Info) error {
		return fmt.Errorf("%w: %s is not empty, it holds %s", ErrInvalid, location, i.Name)
	})
	if err != nil {
		return Place{}, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:])
	p := Place{ID: hex.EncodeToString(id[:]), Location: location, Added: now.UTC().Truncate(time.Second)}
	if err := st.Create(ctx, nameMark, []byte(markText+p.ID+"\n")); err != nil {
		return Place{}, err
	}
	_, err = change(ctx, first, announce, func(t *table) error {
		if len(t.Places) == most {
			return fmt.Errorf("%w: there are %d places already", ErrInvalid, most)
		}
		for _, have := range t.Places {
			if have.Location == location {
				return fmt.Errorf("%w: %s is shard %s already", ErrInvalid, location, have.ID)
			}
		}
		t.Places = append(t.Places, p)
		return nil
	})
	if err != nil {
		return Place{}, errors.Join(err, st.Delete(ctx, nameMark))
	}
	return p, nil
}
