package backupfmt

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/wal"
)

// Log is shipped every second, which makes tens of thousands of small objects a day. Merging makes few large ones of them:
//
//	read the pieces, in order and checked ─ store one piece with all their entries, under a name of its own ─ delete the pieces
//
// No name ever means other entries than before, so whoever deletes, a prune or another merge, deletes exactly what it looked at. In
// between entries are there twice; readers take the merged piece and leave out what it covers, and the next merge deletes that. The newest piece
// of a life is left alone: it says where the archive goes on.

const (
	mergeLeast = 8       // pieces: fewer are not worth it
	mergeSmall = 1 << 20 // stored bytes: a piece of this size is large enough
)

// MergeReport says what merging did.
type MergeReport struct {
	Pieces int // merged away
	Into   int // pieces that hold their entries now
}

// pieceInfo is a piece as its name describes it.
type pieceInfo struct {
	store.Info
	life        string
	first, last uint64 // last 0: only the piece says
}

// parsePieceName reads archive/<life>/<first> and archive/<life>/<first>.<last>.
func parsePieceName(i store.Info) (p pieceInfo, ok bool) {
	life, number, ok := strings.Cut(strings.TrimPrefix(i.Name, folderArchive), "/")
	if !ok {
		return p, false
	}
	p = pieceInfo{Info: i, life: life}
	first, last, merged := strings.Cut(number, ".")
	if p.first, ok = parseNumber(first); !ok || !merged {
		return p, ok
	}
	p.last, ok = parseNumber(last)
	return p, ok && p.last >= p.first
}

func mergedName(life object.ID, first, last uint64) string {
	return fmt.Sprintf("%s.%016x", archiveName(life, first), last)
}

// end is the digest that the next piece names as the one before it.
func (p *Piece) end(digest object.Digest) string {
	if p.Ends != "" {
		return p.Ends
	}
	return hex.EncodeToString(digest[:])
}

// MergeArchive merges small pieces of the archives of all lives. It may be killed anywhere, and several may run at once.
func (r *Repo) MergeArchive(ctx context.Context) (*MergeReport, error) {
	lives := map[string][]pieceInfo{}
	var order []string
	err := r.st.List(ctx, folderArchive, func(i store.Info) error {
		if p, ok := parsePieceName(i); ok {
			if lives[p.life] == nil {
				order = append(order, p.life)
			}
			lives[p.life] = append(lives[p.life], p)
		}
		return nil
	})
	rep := &MergeReport{}
	if err != nil {
		return rep, err
	}
	for _, life := range order {
		id, err := parseID(life)
		if err != nil {
			continue
		}
		m := &archiveMerger{r: r, life: id, rep: rep}
		if err := m.run(ctx, lives[life]); err != nil {
			return rep, err
		}
	}
	return rep, nil
}

type archiveMerger struct {
	r    *Repo
	life object.ID
	rep  *MergeReport

	col    collector
	signed bool     // the pieces are signed, so what becomes of them will be
	pieces []string // whose entries are in col
	ends   string   // what the next piece names as the one before it
}

func (m *archiveMerger) run(ctx context.Context, all []pieceInfo) error {
	pieces, err := m.uncovered(ctx, all)
	if err != nil {
		return err
	}
	for len(pieces) > 1 {
		n := 0
		for n < len(pieces)-1 && pieces[n].Size < mergeSmall { // never the newest
			n++
		}
		if n >= mergeLeast {
			if err := m.merge(ctx, pieces[:n]); err != nil {
				return err
			}
		}
		pieces = pieces[min(n+1, len(pieces)):]
	}
	return nil
}

// uncovered leaves out the pieces that a merged one covers, and deletes them: a merge was killed before it could.
func (m *archiveMerger) uncovered(ctx context.Context, all []pieceInfo) ([]pieceInfo, error) {
	covered := make([]bool, len(all))
	for n, big := range all {
		if big.last == 0 {
			continue
		}
		var inside []int
		for k, p := range all {
			if last := lastOf(all, k); k != n && !covered[n] && p.first >= big.first && last != 0 && last <= big.last && last-p.first < big.last-big.first {
				inside = append(inside, k)
			}
		}
		if len(inside) == 0 {
			continue
		}
		_, p, err := m.r.piece(ctx, big.Name)
		if err == nil && m.r.trusting() && !p.sig.proven {
			continue // nor for one that does not count
		}
		if err != nil {
			if lostObject(err) || errors.Is(err, store.ErrNotFound) {
				continue // nothing is deleted for the sake of a piece that cannot be read
			}
			return nil, err
		}
		for _, k := range inside {
			if covered[k] {
				continue
			}
			covered[k] = true
			if err := m.r.st.Delete(ctx, all[k].Name); err != nil {
				return nil, err
			}
		}
	}
	var out []pieceInfo
	for n, p := range all {
		if !covered[n] {
			out = append(out, p)
		}
	}
	return out, nil
}

// lastOf is the last entry of a piece as names tell: the piece ends before the next one that begins later. 0: they do not tell.
func lastOf(all []pieceInfo, n int) uint64 {
	if all[n].last != 0 {
		return all[n].last
	}
	for _, p := range all[n+1:] {
		if p.life != all[n].life {
			break
		}
		if p.first > all[n].first {
			return p.first - 1
		}
	}
	return 0
}

// merge merges pieces that follow each other, in as many as are needed.
func (m *archiveMerger) merge(ctx context.Context, pieces []pieceInfo) error {
	m.reset()
	for _, i := range pieces {
		c, p, err := m.r.piece(ctx, i.Name)
		if err != nil && (lostObject(err) || errors.Is(err, store.ErrNotFound)) {
			// Damaged, or gone meanwhile: what comes before and behind it is merged apart.
			if err := m.store(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if !m.may(p) {
			if err := m.store(ctx); err != nil {
				return err
			}
			continue
		}
		if len(m.pieces) > 0 && (p.sig.proven != m.signed || p.First != m.col.p.Last+1 || p.Prev != m.ends || p.Restart) || m.col.size >= archiveMost/2 {
			if err := m.store(ctx); err != nil {
				return err
			}
		}
		if p.Fence {
			continue
		}
		if err := m.take(i.Name, c, p); err != nil {
			return err
		}
	}
	return m.store(ctx)
}

// may: a signed piece is merged by a signer only, who must trust its key; with others of that kind only, so that nothing is signed that was not.
func (m *archiveMerger) may(p *Piece) bool {
	return !p.sig.there || m.r.o.Signer != nil && p.sig.proven
}

func (m *archiveMerger) reset() { m.col, m.pieces, m.ends = collector{}, nil, "" }

func (m *archiveMerger) take(name string, c *object.Content, p *Piece) error {
	if len(m.pieces) == 0 {
		m.col.p = Piece{Version: manifestVersion, Life: p.Life, Prev: p.Prev, Restart: p.Restart}
		m.signed = p.sig.proven
	}
	err := entries(name, c, p, func(e wal.Entry) error {
		m.col.add(e)
		return nil
	})
	m.pieces = append(m.pieces, name)
	m.ends = p.end(c.Digest)
	return err
}

// store stores what was gathered as one piece and deletes the ones it was gathered from.
func (m *archiveMerger) store(ctx context.Context) error {
	defer m.reset()
	if len(m.pieces) < 2 {
		return nil
	}
	m.col.p.Ends, m.col.p.Merged = m.ends, len(m.pieces)
	if len(m.col.cur) > 0 {
		m.col.frames = append(m.col.frames, m.col.cur)
	}
	clear, err := json.Marshal(&m.col.p)
	if err != nil {
		return fmt.Errorf("backup: encode archive: %w", err)
	}
	var b []byte
	if m.signed {
		b, _, _, err = m.r.sealSigned(object.Archive, clear, m.col.frames...)
	} else {
		b, _, err = m.r.sealOne(object.Archive, clear, m.col.frames...)
	}
	if err != nil {
		return err
	}
	name := mergedName(m.life, m.col.p.First, m.col.p.Last)
	err = m.r.st.Create(ctx, name, b)
	if errors.Is(err, store.ErrExists) { // another merge of the same pieces was faster
		var p *Piece
		if _, p, err = m.r.piece(ctx, name); err == nil && m.signed && !p.sig.proven {
			err = p.sig.unsigned(name, 0)
		}
	}
	if err != nil {
		return err
	}
	for _, n := range m.pieces {
		if n == name {
			continue
		}
		if err := m.r.st.Delete(ctx, n); err != nil {
			return err
		}
	}
	m.rep.Pieces += len(m.pieces)
	m.rep.Into++
	return nil
}
