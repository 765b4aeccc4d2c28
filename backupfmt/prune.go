package backupfmt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Policy says which backups are kept. Ages are counted back from the newest backup, not from the clock of whoever prunes: a clock that
// runs ahead removes nothing. What a kept backup builds on is kept too, and so is the newest backup of every history.
type Policy struct {
	Last   int           // the newest so many
	Hourly time.Duration // the newest of every hour, this far back
	Daily  time.Duration // the newest full backup of every day (UTC), this far back; of a day without one the newest
}

// DefaultPolicy keeps hourly backups for 7 days and daily ones for 30.
var DefaultPolicy = Policy{Last: 1, Hourly: 7 * 24 * time.Hour, Daily: 30 * 24 * time.Hour}

// PruneOptions of one prune.
type PruneOptions struct {
	Policy Policy
	// AbortAll gives up every session at once. Otherwise a session is given up when it stored nothing between two prunes.
	AbortAll bool
	DryRun   bool

	// MaxUnused is the share of the stored packs, 0 to 1, that may hold nothing anybody needs before packs are stored anew without that; 0:
	// DefaultMaxUnused; below 0: nothing unused is left, as far as that goes.
	MaxUnused float64
	NoRepack  bool                    // packs stay as they are
	Progress  func(done, total int64) // bytes of packs that are stored anew; may be nil
}

// PruneReport says what a prune kept and removed, or would.
type PruneReport struct {
	Kept, Removed []*Link
	Aborted       []string // sessions given up
	Open          []string // sessions left alone
	Objects       int      // deleted
	Bytes         int64
	Swept         int         // uploads and temporary files that killed processes left
	Merged        MergeReport // small pieces of the archive that became large ones
	Repack        RepackReport
	Seq           uint64 // the prune's own link; 0 if there was nothing to do, or for a dry run
}

// Keep is the pure part of retention: which backups of a chain stay, with everything they build on.
func (p Policy) Keep(c *Chain) (map[uint64]bool, error) {
	all := c.Backups("")
	keep := map[uint64]bool{}
	seen := map[string]bool{}
	// A day is kept by its full backup, which needs no other: its last incremental would keep everything since.
	fulls := map[string]bool{}
	day := func(l *Link) string { return fmt.Sprint("day", l.Life, l.Time.UTC().Truncate(24*time.Hour).Unix()) }
	for _, l := range all {
		fulls[day(l)] = fulls[day(l)] || l.Kind == Full
	}
	var newest time.Time
	for i, l := range slices.Backward(all) {
		if newest.IsZero() {
			newest = l.Time
		}
		age := newest.Sub(l.Time)
		want := len(all)-i <= p.Last
		for _, b := range []struct {
			name string
			far  time.Duration
			unit time.Duration
		}{{"life " + l.Life, 1 << 62, 0}, {"hour", p.Hourly, time.Hour}, {"day", p.Daily, 24 * time.Hour}} {
			if b.name == "day" { // whole days
				age = newest.UTC().Truncate(b.unit).Sub(l.Time.UTC().Truncate(b.unit))
			}
			if age > b.far || b.far == 0 {
				continue
			}
			bucket := b.name
			if b.unit != 0 {
				bucket = fmt.Sprint(b.name, l.Life, l.Time.UTC().Truncate(b.unit).Unix())
			}
			if b.name == "day" && fulls[bucket] && l.Kind != Full {
				continue
			}
			want = want || !seen[bucket]
			seen[bucket] = true
		}
		if !want {
			continue
		}
		run, err := c.Run(l)
		if err != nil {
			return nil, err
		}
		for _, r := range run {
			keep[r.Seq] = true
		}
	}
	return keep, nil
}

var errStale = errors.New("backup: the chain moved on")

// Prune removes what the policy does not keep, and what abandoned backups left, and stores packs anew that are mostly unused. It first commits a
// link that names what still counts, then deletes. Killed at any point it leaves everything that counts, and the next prune goes on; two at once do not
// harm each other. It reads no data but what it repacks.
func (r *Repo) Prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	if o.MaxUnused > 1 {
		return nil, fmt.Errorf("%w: a share of %v may be unused", ErrInvalid, o.MaxUnused)
	}
	p := &pruner{r: r, o: o}
	for {
		rep, err := p.prune(ctx)
		if err == nil && !o.DryRun {
			rep.Swept, err = r.sweep(ctx, o)
		}
		if err == nil && !o.DryRun {
			var m *MergeReport
			m, err = r.MergeArchive(ctx)
			rep.Merged = *m
		}
		if !errors.Is(err, errStale) {
			return rep, err
		}
	}
}

// pruner is a prune that may have to look at the chain several times, but copies packs once.
type pruner struct {
	r      *Repo
	o      PruneOptions
	looked bool // for packs to be stored anew
	plan   RepackReport
	re     *repacker // nil: there are none
}

func (p *pruner) prune(ctx context.Context) (*PruneReport, error) {
	// The order matters: an object that is listed belongs to a session that is listed after it, or that has committed by then; and what
	// was committed after the chain was read makes the commit of this prune fail.
	r := p.r
	c, err := r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.writable(c); err != nil && !p.o.DryRun {
		return nil, err
	}
	s, err := r.survey(ctx)
	if err != nil {
		return nil, err
	}
	keep, err := p.o.Policy.Keep(c)
	if err != nil {
		return nil, err
	}
	rep := &PruneReport{}
	for _, l := range c.Backups("") {
		if keep[l.Seq] {
			rep.Kept = append(rep.Kept, l)
		} else {
			rep.Removed = append(rep.Removed, l)
		}
	}
	if p.re != nil {
		if err := p.stillOurs(c, s); err != nil {
			return nil, err
		}
	}
	watched := s.judge(c, p.o.AbortAll, rep)
	if err := p.repack(ctx, rep); err != nil {
		return nil, p.overtaken(ctx, c, err)
	}
	dead := s.dead(c, rep)
	for _, i := range dead {
		rep.Bytes += i.Size
	}
	rep.Objects = len(dead)
	if p.o.DryRun || len(dead) == 0 && len(watched) == 0 && p.re == nil {
		return rep, nil
	}
	if err := p.commit(ctx, c, rep, watched); err != nil {
		return nil, err
	}
	for _, i := range dead {
		if err := r.st.Delete(ctx, i.Name); err != nil {
			return nil, err
		}
	}
	if p.re != nil {
		return rep, r.st.Delete(ctx, folderSessions+p.re.token)
	}
	return rep, nil
}

// repack copies what is needed of packs that are mostly unused, once, and gives the backups that are kept lists that say so.
func (p *pruner) repack(ctx context.Context, rep *PruneReport) error {
	if !p.looked && !p.o.NoRepack {
		p.looked = true
		packs, err := p.r.planRepack(ctx, rep.Kept, &p.o, &p.plan)
		if err != nil {
			return err
		}
		if len(packs) > 0 {
			if p.plan.Postponed, err = p.r.busy(ctx, rep.Open); err != nil {
				return err
			}
			if !p.plan.Postponed && !p.o.DryRun {
				p.re, err = p.r.newRepacker(ctx, packs, p.o.Progress)
				if err != nil {
					return err
				}
			}
		}
	}
	rep.Repack = p.plan
	if p.re == nil {
		return nil
	}
	if err := p.re.settle(ctx, rep.Kept); err != nil {
		return err
	}
	p.re.report(rep.Kept, &rep.Repack)
	return nil
}

// overtaken: what could not be read was taken away by another prune meanwhile, and it is all done again; else err stands.
func (p *pruner) overtaken(ctx context.Context, c *Chain, err error) error {
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	now, cerr := p.r.Chain(ctx)
	if cerr != nil || now.Head == c.Head {
		return err
	}
	re := p.re
	p.startOver()
	if re == nil {
		return errStale
	}
	if err := p.r.st.Delete(ctx, folderSessions+re.token); err != nil { // what it stored is garbage like any other
		return err
	}
	return errStale
}

// startOver forgets the repacking.
func (p *pruner) startOver() { p.re, p.looked, p.plan = nil, false, RepackReport{} }

// stillOurs takes the session of a repacking out of what is judged. If another prune gave it up meanwhile, its packs may be gone, and the
// repacking begins anew.
func (p *pruner) stillOurs(c *Chain, s *surveyed) error {
	for _, l := range c.Links {
		if l.Kind == Prune && slices.Contains(l.Aborted, p.re.token) {
			p.startOver()
			return errStale
		}
	}
	delete(s.sessions, p.re.token)
	s.own = p.re.token
	return nil
}

// sweepAfter is how old an unfinished upload of one object must be: none takes a day.
const sweepAfter = 24 * time.Hour

// sweep removes parts of objects, which are in no listing.
func (r *Repo) sweep(ctx context.Context, o PruneOptions) (int, error) {
	s, ok := r.st.(store.Sweeper)
	if !ok {
		return 0, nil
	}
	age := sweepAfter
	if o.AbortAll {
		age = -sweepAfter // also what a machine with a fast clock began
	}
	return s.Sweep(ctx, r.o.Now().Add(-age))
}

func (p *pruner) commit(ctx context.Context, c *Chain, rep *PruneReport, watched map[string]int) error {
	inv := Inventory{Kind: Prune, Aborted: rep.Aborted, Watched: watched, Moved: movedOf(rep.Kept)}
	if p.re != nil {
		inv.Session = p.re.token
	}
	for _, l := range rep.Kept {
		inv.Live = append(inv.Live, Live{Seq: l.Seq, Digest: hex.EncodeToString(l.Digest[:])})
	}
	l, err := p.r.commit(ctx, c, inv, Details{}, func(*Link) error { return errStale })
	if errors.Is(err, ErrFenced) {
		return errStale
	}
	if err != nil {
		return err
	}
	rep.Seq = l.Seq
	return nil
}

// surveyed is what a prune found in the store.
type surveyed struct {
	objects  []store.Info // packs, lists, manifests, archive pieces
	sessions map[string]int
	own      string // session of this prune itself
}

func (r *Repo) survey(ctx context.Context) (*surveyed, error) {
	s := &surveyed{sessions: map[string]int{}}
	counts := map[string]int{}
	for _, f := range []string{folderPacks, folderLists, folderManifest, folderArchive} {
		err := r.st.List(ctx, f, func(i store.Info) error {
			s.objects = append(s.objects, i)
			if f == folderPacks || f == folderLists {
				counts[sessionOf(i.Name)]++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	err := r.st.List(ctx, folderSessions, func(i store.Info) error {
		name := strings.TrimPrefix(i.Name, folderSessions)
		s.sessions[name] = counts[name]
		return nil
	})
	return s, err
}

// sessionOf is the session in the name of a pack or list.
func sessionOf(name string) string {
	parts := strings.Split(name, "/")
	return parts[len(parts)-2]
}

// judge decides which sessions are given up: those that stored nothing since the last prune looked.
func (s *surveyed) judge(c *Chain, all bool, rep *PruneReport) map[string]int {
	before := map[string]int{}
	var given []string // up by the last prune, which did not get to remove them, or has not yet: given up they stay
	committed := map[string]bool{}
	for _, l := range c.Links {
		if l.Kind == Prune {
			before, given = l.Watched, l.Aborted
		}
		committed[l.Session] = true
	}
	watched := map[string]int{}
	for name, n := range s.sessions {
		was, known := before[name]
		if all || committed[name] || known && was == n || slices.Contains(given, name) {
			rep.Aborted = append(rep.Aborted, name)
			continue
		}
		watched[name] = n
		rep.Open = append(rep.Open, name)
	}
	slices.Sort(rep.Aborted)
	slices.Sort(rep.Open)
	return watched
}

// dead are the objects that nothing kept needs. Session objects come last: while one is there, the next prune looks at its
// session again.
func (s *surveyed) dead(c *Chain, rep *PruneReport) []store.Info {
	need := map[string]bool{}
	oldest := map[string]uint64{} // life -> index of the oldest kept backup
	for _, l := range rep.Kept {
		need[manifestName(l.Seq)] = true
		for _, refs := range [][]Ref{l.Packs, l.Lists} {
			for _, ref := range refs {
				need[ref.Name] = true
			}
		}
		if o, ok := oldest[l.Life]; !ok || l.Index < o {
			oldest[l.Life] = l.Index
		}
	}
	gone := map[string]bool{}
	for _, l := range rep.Removed {
		_, kept := oldest[l.Life]
		gone[l.Life] = !kept
	}
	var out []store.Info
	for n, i := range s.objects {
		switch {
		case strings.HasPrefix(i.Name, folderManifest):
			if seq, ok := parseNumber(i.Name); !ok || seq > c.Head || need[i.Name] {
				continue
			}
		case strings.HasPrefix(i.Name, folderArchive):
			if !s.deadPiece(n, oldest, gone) {
				continue
			}
		case need[i.Name] || sessionOf(i.Name) == s.own || slices.Contains(rep.Open, sessionOf(i.Name)):
			continue
		}
		out = append(out, i)
	}
	for _, a := range rep.Aborted {
		out = append(out, store.Info{Name: folderSessions + a})
	}
	return out
}

// deadPiece: a piece is needed if it holds an entry behind the oldest kept backup of its life. The archive of a life that has no backup yet is
// left alone.
func (s *surveyed) deadPiece(n int, oldest map[string]uint64, gone map[string]bool) bool {
	p, ok := parsePieceName(s.objects[n])
	if !ok {
		return false
	}
	if gone[p.life] {
		return true
	}
	last := p.last
	for k := n + 1; last == 0 && k < len(s.objects); k++ { // it ends before the next one that begins later
		next, ok := parsePieceName(s.objects[k])
		if !ok || next.life != p.life {
			return false
		}
		if next.first > p.first {
			last = next.first - 1
		}
	}
	index, ok := oldest[p.life]
	return ok && last != 0 && last <= index
}
