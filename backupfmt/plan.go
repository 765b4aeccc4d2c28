package backupfmt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/wal"
)

// Target says which state is wanted; at most one of Seq, Index and Time. The zero value is the newest state: the newest backup and
// everything archived after it.
type Target struct {
	Seq   uint64    // exactly this backup
	Index uint64    // the state after this log entry
	Time  time.Time // the state at this time: before the first change that is newer
	Life  string    // history, hex; default: that of the newest backup
}

// PieceRef is an archive object of a plan.
type PieceRef struct {
	Name        string
	Size        int64
	First, Last uint64
}

// Plan is how a state is put together. It was checked for gaps.
type Plan struct {
	Target Target
	Run    []*Link    // the full backup and the incrementals over it
	Pieces []PieceRef // archived log to replay
	Index  uint64     // log index of the result
	Bytes  int64      // to be read at most
}

// Backup is the newest backup of the plan.
func (p *Plan) Backup() *Link { return p.Run[len(p.Run)-1] }

// Plan finds out how to reach a state, without changing anything: ErrNoBackup, ErrNotReached, ErrGap, ErrDamaged.
func (r *Repo) Plan(ctx context.Context, t Target) (*Plan, error) {
	c, err := r.chain(ctx, r.fresh)
	if err != nil {
		return nil, err
	}
	l, err := baseOf(c, t)
	if err != nil {
		return nil, err
	}
	p := &Plan{Target: t, Index: l.Index}
	if p.Run, err = c.Run(l); err != nil {
		return nil, err
	}
	if err := r.allSigned(p.Run); err != nil {
		return nil, err
	}
	for _, l := range p.Run {
		for _, refs := range [][]Ref{l.Packs, l.Lists} {
			for _, ref := range refs {
				p.Bytes += ref.Size
			}
		}
	}
	if t.Seq != 0 || t.Index == l.Index && t.Index != 0 {
		return p, nil
	}
	return p, r.planLog(ctx, p, l)
}

// baseOf is the newest backup that is not newer than the target.
func baseOf(c *Chain, t Target) (*Link, error) {
	n := 0
	for _, set := range []bool{t.Seq != 0, t.Index != 0, !t.Time.IsZero()} {
		if set {
			n++
		}
	}
	if n > 1 {
		return nil, fmt.Errorf("%w: a target is a backup, an index or a time", ErrInvalid)
	}
	if t.Seq != 0 {
		return c.Backup(t.Seq)
	}
	all := c.Backups(t.Life)
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: the repository holds none", ErrNoBackup)
	}
	life := all[len(all)-1].Life
	var best *Link
	for _, l := range all {
		if l.Life != life || t.Index != 0 && l.Index > t.Index || !t.Time.IsZero() && (l.StateTime.IsZero() || l.StateTime.After(t.Time)) {
			continue
		}
		if best == nil || l.Index >= best.Index {
			best = l
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%w: the oldest one is of index %d, %s", ErrNoBackup, all[0].Index, all[0].StateTime.Format(time.RFC3339))
	}
	return best, nil
}

// planLog adds the archived log behind the run.
func (r *Repo) planLog(ctx context.Context, p *Plan, l *Link) error {
	life, err := parseID(l.Life)
	if err != nil {
		return err
	}
	pieces, err := r.pieces(ctx, life, l.Index+1)
	if err != nil {
		return err
	}
	done := false
	var unsigned *Piece // one that does not count, and would be needed
	for _, ref := range pieces {
		if t := p.Target; t.Index != 0 && p.Index >= t.Index {
			done = true
			break
		}
		if ref.last != 0 && ref.last <= p.Index {
			continue
		}
		meta, err := r.pieceMeta(ctx, ref.Info)
		if err != nil {
			return err
		}
		if meta.Last <= p.Index {
			continue // lies before the backup, or in a merged piece
		}
		if r.trusting() && !meta.sig.proven {
			if unsigned == nil || unsigned.Last <= p.Index {
				unsigned = meta
			}
			continue // the same entries may be in a signed one
		}
		if meta.First > p.Index+1 && unsigned != nil && unsigned.Last > p.Index {
			return unsigned.sig.unsigned(unsigned.name, 0)
		}
		if meta.First > p.Index+1 {
			return &GapError{From: p.Index + 1, To: meta.First - 1, Reachable: p.Index, Wanted: p.Target.Index}
		}
		if done, err = r.planPiece(ctx, p, ref.Info, meta); err != nil || done {
			return err
		}
	}
	if unsigned != nil && unsigned.Last > p.Index && !done {
		return unsigned.sig.unsigned(unsigned.name, 0)
	}
	switch t := p.Target; {
	case done, t.Index == 0 && t.Time.IsZero(), t.Index != 0 && p.Index >= t.Index:
		return nil
	default:
		return fmt.Errorf("%w: everything stored ends at index %d", ErrNotReached, p.Index)
	}
}

// planPiece takes a piece into the plan; done: the target lies in it or before it.
func (r *Repo) planPiece(ctx context.Context, p *Plan, ref store.Info, meta *Piece) (done bool, err error) {
	t := p.Target
	upTo := meta.Last
	switch {
	case t.Index != 0 && t.Index <= meta.Last:
		upTo, done = t.Index, true
	case !t.Time.IsZero() && (meta.LastTime.After(t.Time) || meta.FirstTime.After(t.Time)):
		if upTo, err = r.lastBefore(ctx, ref.Name, p.Index, t.Time); err != nil {
			return false, err
		}
		done = true
	}
	if upTo > p.Index {
		p.Pieces = append(p.Pieces, PieceRef{Name: ref.Name, Size: ref.Size, First: meta.First, Last: meta.Last})
		p.Bytes += ref.Size
		p.Index = upTo
	}
	return done, nil
}

// lastBefore is the last entry of a piece before the first one after index that is newer than t.
func (r *Repo) lastBefore(ctx context.Context, name string, index uint64, t time.Time) (uint64, error) {
	c, meta, err := r.piece(ctx, name)
	if err != nil {
		return 0, err
	}
	err = entries(name, c, meta, func(e wal.Entry) error {
		if e.Index <= index {
			return nil
		}
		if at, ok := EntryTime(e); ok && at.After(t) {
			return errEnough
		}
		index = e.Index
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return index, err
}

// pieces lists the archive objects of a life from the one that may hold an entry on.
func (r *Repo) pieces(ctx context.Context, life object.ID, from uint64) ([]pieceInfo, error) {
	var out []pieceInfo
	before := -1 // the newest piece, of those that do not say where they end, that begins at or before the entry
	err := r.st.List(ctx, folderArchive+life.String()+"/", func(i store.Info) error {
		p, ok := parsePieceName(i)
		switch {
		case !ok || p.last != 0 && p.last < from:
			return nil
		case p.last == 0 && p.first <= from:
			if before >= 0 {
				out = slices.Delete(out, before, before+1)
			}
			before = len(out)
		}
		out = append(out, p)
		return nil
	})
	return out, err
}

// pieceMeta reads what a piece says about itself from its first bytes. It is authenticated when the piece is opened.
func (r *Repo) pieceMeta(ctx context.Context, i store.Info) (*Piece, error) {
	b, err := r.st.GetRange(ctx, i.Name, 0, min(i.Size, 4096))
	if err != nil {
		return nil, err
	}
	if h, err := object.ParseHeader(b); err == nil {
		if clear, ok := h.ClearOf(b); ok {
			if p, err := parsePiece(i.Name, clear); err == nil {
				p.sig, _, err = r.signedClear(i.Name, &h, clear)
				return p, err
			}
		}
	}
	_, p, err := r.piece(ctx, i.Name)
	return p, err
}

// log calls fn for the entries (after, p.Index] of the pieces, having checked that each piece continues the one before it.
func (r *Repo) log(ctx context.Context, p *Plan, after uint64, fn func(wal.Entry) error) error {
	prev, end := "", uint64(0)
	next := after + 1
	for _, ref := range p.Pieces {
		c, meta, err := r.piece(ctx, ref.Name)
		if err != nil {
			return err
		}
		if r.trusting() && !meta.sig.proven {
			return meta.sig.unsigned(ref.Name, 0)
		}
		if meta.First > next || meta.Last != ref.Last {
			return &DamageError{Kind: "replayed", Object: ref.Name, Reason: fmt.Sprintf("it holds entries %d to %d, planned were %d to %d", meta.First, meta.Last, ref.First, ref.Last)}
		}
		if prev != "" && meta.Prev != prev && meta.First == end+1 { // merged pieces may overlap
			return &DamageError{Kind: "replayed", Object: ref.Name, Reason: "it does not continue the piece before it"}
		}
		prev, end = meta.end(c.Digest), meta.Last
		err = entries(ref.Name, c, meta, func(e wal.Entry) error {
			if e.Index < next || e.Index > p.Index {
				return nil
			}
			next++
			return fn(e)
		})
		if err != nil {
			return err
		}
	}
	if next != p.Index+1 {
		return &GapError{From: next, To: p.Index, Reachable: next - 1, Wanted: p.Index}
	}
	return nil
}
