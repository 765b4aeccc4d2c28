package backupfmt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// fencer puts a fence where the next piece of an archive belongs, so that whoever ships must be able to read it before he goes on.
type fencer struct {
	r     *Repo
	holds func(*object.Content, *Piece) bool // a fence that is there does what this one would
	ends  map[string]uint64                  // life -> newest entry before its fence
}

// fenceArchives takes the name of the next piece of every life.
func (f *fencer) fenceArchives(ctx context.Context, c *Chain) error {
	begins := map[string]uint64{} // life -> first entry of its archive, if it has none yet
	for _, l := range c.Backups("") {
		if _, ok := begins[l.Life]; !ok {
			begins[l.Life] = l.Index + 1
		}
	}
	err := f.r.st.List(ctx, folderArchive, func(i store.Info) error {
		if _, ok := begins[sessionOf(i.Name)]; !ok {
			begins[sessionOf(i.Name)] = 0
		}
		return nil
	})
	if err != nil {
		return err
	}
	for life, first := range begins {
		if err := f.fenceArchive(ctx, life, first); err != nil {
			return err
		}
	}
	return nil
}

func (f *fencer) fenceArchive(ctx context.Context, life string, first uint64) error {
	id, err := parseID(life)
	if err != nil {
		return nil //nolint:nilerr // not ours
	}
	for {
		a, err := f.r.OpenArchive(ctx, id)
		if err != nil {
			return err
		}
		a.StartAfter(first - 1)
		p := Piece{Version: manifestVersion, Life: life, First: a.next, Last: a.next - 1, Prev: a.prev, Fence: true}
		clear, err := json.Marshal(&p)
		if err != nil {
			return fmt.Errorf("backup: encode archive: %w", err)
		}
		b, _, _, err := f.r.sealSigned(object.Archive, clear)
		if err != nil {
			return err
		}
		name := archiveName(id, p.First)
		f.ends[life] = p.Last
		if err = f.r.st.Create(ctx, name, b); !errors.Is(err, store.ErrExists) {
			return err
		}
		// A fence of an earlier run, or a piece that was shipped meanwhile: then the fence belongs behind it.
		c, have, err := f.r.piece(ctx, name)
		if err != nil {
			return err
		}
		if have.Fence {
			if f.holds(c, have) {
				return nil
			}
			if err := f.replace(ctx, name, b); err != nil {
				return err
			}
		}
	}
}

// replace puts a fence in the place of an older one.
func (f *fencer) replace(ctx context.Context, name string, b []byte) error {
	have, v, err := f.r.st.Get(ctx, name)
	if err != nil {
		return err
	}
	c, err := f.r.openBytes(ctx, name, have, object.Archive, nil)
	if err != nil {
		return err
	}
	if p, err := parsePiece(name, c.Clear); err != nil || !p.Fence {
		return err
	}
	if _, err = f.r.st.Replace(ctx, name, b, v); errors.Is(err, store.ErrChanged) {
		return nil // looked at again
	}
	return err
}
