package backupfmt

import (
	"fmt"
	"slices"
)

// A manifest is never changed. When a prune stores chunks of kept backups anew, to be rid of packs that are mostly unused, its own link says where
// these backups have their chunks now; what the manifests of the backups say about that no longer counts. Every later prune says it again.

// Moved is the part of a prune's link that says so.
type Moved struct {
	Packs []Ref      `json:"packs"` // all that Runs name
	Runs  []MovedRun `json:"runs"`
}

// MovedRun is where one backup has its chunks.
type MovedRun struct {
	Seq   uint64 `json:"seq"`
	Lists []Ref  `json:"lists"`
	Packs []int  `json:"packs"` // the table of packs of its lists: positions in Moved.Packs
}

// movedOf gathers the kept links that are not where their manifests say; nil if there are none.
func movedOf(kept []*Link) *Moved {
	m := &Moved{}
	at := map[string]int{}
	for _, l := range kept {
		if !l.moved {
			continue
		}
		run := MovedRun{Seq: l.Seq, Lists: l.Lists, Packs: []int{}}
		for _, ref := range l.Packs {
			n, ok := at[ref.Name]
			if !ok {
				n = len(m.Packs)
				at[ref.Name] = n
				m.Packs = append(m.Packs, ref)
			}
			run.Packs = append(run.Packs, n)
		}
		m.Runs = append(m.Runs, run)
	}
	if len(m.Runs) == 0 {
		return nil
	}
	return m
}

// apply returns the link as it is behind the prune.
func (m *Moved) apply(l *Link) *Link {
	if m == nil {
		return l
	}
	n := slices.IndexFunc(m.Runs, func(r MovedRun) bool { return r.Seq == l.Seq })
	if n < 0 {
		return l
	}
	var packs []Ref
	for _, p := range m.Runs[n].Packs {
		packs = append(packs, m.Packs[p])
	}
	return l.movedTo(m.Runs[n].Lists, packs)
}

// movedTo is the link with its chunks elsewhere. Links are shared: l stays as it is.
func (l *Link) movedTo(lists, packs []Ref) *Link {
	at := *l
	at.moved, at.Lists, at.Packs = true, lists, packs
	return &at
}

// check refuses what cannot be.
func (m *Moved) check(inv *Inventory) error {
	if m == nil {
		return nil
	}
	if inv.Kind != Prune {
		return fmt.Errorf("%w: a link of kind %s says where others are", ErrDamaged, inv.Kind)
	}
	for _, r := range m.Runs {
		if r.Seq == 0 || r.Seq >= inv.Seq || !slices.ContainsFunc(inv.Live, func(v Live) bool { return v.Seq == r.Seq }) {
			return fmt.Errorf("%w: it moves link %d, which it does not keep", ErrDamaged, r.Seq)
		}
		for _, p := range r.Packs {
			if p < 0 || p >= len(m.Packs) {
				return fmt.Errorf("%w: link %d has a pack that is not in the table", ErrDamaged, r.Seq)
			}
		}
	}
	return nil
}
