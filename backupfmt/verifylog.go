package backupfmt

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// archive checks that the pieces of every life lie end to end and name each other.
func (v *verifier) archive(ctx context.Context) error {
	var prev *checkedPiece
	for _, name := range v.order {
		if !strings.HasPrefix(name, folderArchive) {
			continue
		}
		cp := &checkedPiece{}
		v.pieces[name] = cp
		before := len(v.rep.Damage)
		if v.o.ReadData {
			if err := v.whole(ctx, name, nil, nil); err != nil {
				return err
			}
		}
		lost := slices.ContainsFunc(v.rep.Damage[before:], func(d Damage) bool { return !d.Healed })
		var err error
		if !lost {
			if cp.p, err = v.piece(ctx, name); err != nil {
				if err := v.fail(name, nil, err); err != nil {
					return err
				}
			}
			v.pieceSigned(name, cp.p)
		}
		prev = v.join(name, prev, cp, before)
	}
	v.marks()
	return nil
}

// marks compares the archive with what backups recorded of its end.
func (v *verifier) marks() {
	for _, l := range v.rep.Chain.Backups("") {
		m := l.Archive
		if m == nil {
			continue
		}
		life, err := parseID(l.Life)
		if err != nil {
			continue
		}
		name := archiveName(life, m.First)
		p := v.pieces[name]
		switch {
		case p == nil && v.mergedOver(l, m):
		case p == nil && !v.pruned(l, m):
			v.damage(Damage{Kind: "missing", Object: name, Reason: fmt.Sprintf("backup %d recorded it", l.Seq), From: m.First, To: m.Last})
		case p == nil || v.checked[name]:
		case v.o.ReadData && hex.EncodeToString(p.digest[:]) != m.Digest, p.p != nil && p.p.Last != m.Last:
			v.damage(Damage{Kind: "replayed", Object: name, Reason: fmt.Sprintf("it is not the piece that backup %d recorded", l.Seq), From: m.First, To: m.Last})
		}
	}
}

// mergedOver: the piece was merged, with others, into one that covers it.
func (v *verifier) mergedOver(l *Link, m *ArchiveMark) bool {
	for _, cp := range v.pieces {
		if cp.p != nil && cp.p.Ends != "" && cp.p.Life == l.Life && cp.p.First <= m.First && cp.p.Last >= m.Last {
			return true
		}
	}
	return false
}

// pruned: a prune may remove pieces up to the oldest backup of their life.
func (v *verifier) pruned(l *Link, m *ArchiveMark) bool {
	oldest := l.Index
	for _, b := range v.rep.Chain.Backups(l.Life) {
		oldest = min(oldest, b.Index)
	}
	return m.Last <= oldest
}

// piece reads what a piece says, authenticated if there is a key and all is to be read.
func (v *verifier) piece(ctx context.Context, name string) (*Piece, error) {
	if v.o.ReadData {
		_, p, err := v.r.piece(ctx, name)
		return p, err
	}
	return v.r.pieceMeta(ctx, store.Info{Name: name, Size: v.have[name]})
}

// join compares a piece with the one before it and returns what the next one is compared with.
func (v *verifier) join(name string, prev, cur *checkedPiece, before int) *checkedPiece {
	if cur.p == nil {
		// It cannot be read: its name says where it began, the next piece will say where it ended.
		if p, ok := parsePieceName(store.Info{Name: name}); ok && len(v.rep.Damage) > before {
			v.rep.Damage[before].From, v.rep.Damage[before].To = p.first, p.last
		}
		return nil
	}
	if cur.p.Fence { // holds nothing
		return prev
	}
	if prev == nil || prev.p == nil || prev.p.Life != cur.p.Life {
		v.beginning(name, cur.p)
		return cur
	}
	switch {
	case cur.p.First <= prev.p.Last && prev.p.Ends != "" && cur.p.Last <= prev.p.Last:
		return prev // merged already, and not deleted yet
	case cur.p.First <= prev.p.Last && (prev.p.Ends != "" || cur.p.Ends != ""):
		return cur // several merges at once, or one that did not come to its deletions
	case cur.p.First > prev.p.Last+1 && cur.p.Restart:
		v.rep.Gaps = append(v.rep.Gaps, Gap{Life: cur.p.Life, From: prev.p.Last + 1, To: cur.p.First - 1})
	case cur.p.First != prev.p.Last+1:
		v.damage(Damage{
			Kind: "gap", Object: name, From: prev.p.Last + 1, To: cur.p.First - 1,
			Reason: fmt.Sprintf("the archive lacks entries %d to %d", prev.p.Last+1, cur.p.First-1),
		})
	case v.o.ReadData && cur.p.Prev != prev.p.end(prev.digest):
		v.damage(Damage{
			Kind: "replayed", Object: name, From: cur.p.First, To: cur.p.Last, Reason: "it does not continue the piece before it",
		})
	}
	return cur
}

// beginning checks the first readable piece of a life: if it had one before it, that may only be missing as far as no backup needs it.
func (v *verifier) beginning(name string, p *Piece) {
	backups := v.rep.Chain.Backups(p.Life)
	if p.Prev == "" || p.Restart || len(backups) == 0 {
		return
	}
	oldest := backups[0].Index
	for _, l := range backups {
		oldest = min(oldest, l.Index)
	}
	if p.First > oldest+1 {
		v.damage(Damage{
			Kind: "gap", Object: name, From: oldest + 1, To: p.First - 1,
			Reason: fmt.Sprintf("the archive lacks entries %d to %d", oldest+1, p.First-1),
		})
	}
}
