package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps/classic"
)

// Classic writes a classic archive of the node's ledger, beside its work.
func (n *Node) Classic(ctx context.Context, r admin.ClassicRequest) (classic.Archive, error) {
	p := n.parts.Load()
	if p == nil || n.currentPhase() != admin.PhaseServing {
		return classic.Archive{}, fmt.Errorf("the server is %s", n.currentPhase())
	}
	if !filepath.IsAbs(r.Dir) {
		return classic.Archive{}, errors.New("the directory of a classic archive must be absolute")
	}
	a, err := ClassicArchive(ctx, p.store, r.Dir, r.Secret, n.o.Now())
	if err != nil {
		n.log.Warn("classic archive failed", "dir", r.Dir, "error", err)
		return a, err
	}
	n.log.Info("classic archive written", "file", a.File, "index", a.LogIndex)
	return a, nil
}

// ClassicArchive writes a classic archive of an open store.
func ClassicArchive(ctx context.Context, s *engine.Store, dir string, secret []byte, now time.Time) (classic.Archive, error) {
	im, err := s.OpenImage()
	if err != nil {
		return classic.Archive{}, err
	}
	defer im.Close() //nolint:errcheck // releases an image
	hash, id := im.StateHash(), im.LogID()
	return classic.Create(ctx, imageRows{im}, classic.Metadata{
		Timestamp: now.UTC(), LogID: hex.EncodeToString(id[:]), LogIndex: im.Index(), StateHash: hex.EncodeToString(hash[:]),
	}, dir, secret)
}

// imageRows is the classic.Source of an image.
type imageRows struct{ im *engine.Image }

// Rows implements classic.Source.
func (r imageRows) Rows(ctx context.Context, table string, fn func(key, value []byte) error) error {
	return r.im.TableRows(ctx, table, func(row *engine.Row) error { return fn(row.Key, row.Value) })
}
