package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/backupfmt"
)

// ErrBusy means that so many people want something of the repository that one more is not let in. Nothing was begun.
var ErrBusy = errors.New("backup: too much is asked of the repository already; try again when some of it is done")

// maxWaiting bounds what may be asked for on demand at once, the one at work included.
const maxWaiting = 8

// takeTurn waits for the turn of a job on demand; ErrBusy at once when too many wait. done gives it back.
func (s *Service) takeTurn(ctx context.Context) (done func(), err error) {
	s.mu.Lock()
	full := s.waiting >= maxWaiting
	if !full {
		s.waiting++
	}
	s.mu.Unlock()
	if full {
		return nil, ErrBusy
	}
	leave := func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// onDemand runs work in turn with the scheduled jobs and records it like them, unless ctx ended it.
func (s *Service) onDemand(ctx context.Context, name string, work func(context.Context) (string, error)) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	done, err := s.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer done()
	began := s.o.Clock.Now().UTC()
	result, err := work(ctx)
	if ctx.Err() != nil {
		if err == nil {
			err = ctx.Err()
		}
		return err
	}
	if err != nil {
		s.forget(err)
		result = err.Error()
	}
	s.record(ctx, name, Run{Began: began, Seconds: s.o.Clock.Now().Sub(began).Seconds(), OK: err == nil, Found: errors.Is(err, errFound), Result: result})
	return err
}

// Verify checks the repository on demand. Damage is in the report, and recorded and raised as an event like that of a scheduled verification; the
// error says that the check could not be carried out.
func (s *Service) Verify(ctx context.Context, o backupfmt.VerifyOptions, report Report) (rep *backupfmt.VerifyReport, err error) {
	o.Progress = func(_ string, done, total int64) { report.tell("data", done, total, "bytes") }
	err = s.onDemand(ctx, JobVerify, func(ctx context.Context) (text string, err error) {
		rep, text, err = s.checked(ctx, o)
		return text, err
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return rep, err
}

// DrillOptions of a drill on demand.
type DrillOptions struct {
	Target backupfmt.Target
	// Scratch is the directory to restore to; default: Options.Scratch. What an earlier drill that was killed left there, and in the
	// temporary directories beside it, is removed first: nobody else may use the name.
	Scratch string
}

// Drill restores into scratch on demand, checks the result and stores a proof. A failed drill is a proof, too, and recorded and raised as
// an event like that of a scheduled one; the error says that it could not be carried out.
func (s *Service) Drill(ctx context.Context, o DrillOptions, report Report) (proof *backupfmt.DrillProof, err error) {
	if s.o.Scratch == nil || s.o.Checks == nil {
		return nil, fmt.Errorf("%w: a drill needs a scratch directory and checks", backupfmt.ErrInvalid)
	}
	if o.Scratch == "" {
		o.Scratch = s.o.Scratch()
	} else if err := s.clearScratch(o.Scratch); err != nil {
		return nil, err
	}
	err = s.onDemand(ctx, JobDrill, func(ctx context.Context) (text string, err error) {
		proof, text, err = s.drilled(ctx, backupfmt.DrillOptions{
			Target: o.Target, Scratch: o.Scratch, Progress: func(phase string, rows, entries uint64) {
				if phase == "log" {
					report.tell(phase, int64(entries), 0, "entries")
					return
				}
				report.tell(phase, int64(rows), 0, "rows")
			},
		})
		return text, err
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return proof, err
}

// ScratchFor is the scratch directory of a drill that has a name of its own, such as that of a task: the same each time.
func (s *Service) ScratchFor(name string) string {
	if s.o.Scratch == nil {
		return ""
	}
	return filepath.Join(filepath.Dir(s.o.Scratch()), "erlmcp-drill-"+name)
}

// clearScratch removes a scratch directory and the unfinished restores beside it.
func (s *Service) clearScratch(dir string) error {
	fs := s.o.Engine.FS
	if fs == nil {
		fs = vfs.Default
	}
	names, err := fs.List(filepath.Dir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("backup: look at %s: %w", filepath.Dir(dir), err)
	}
	for _, name := range names {
		name = filepath.Base(name)
		if unfinished, _ := filepath.Match(filepath.Base(dir)+".restore-*", name); !unfinished && name != filepath.Base(dir) {
			continue
		}
		if err := fs.RemoveAll(filepath.Join(filepath.Dir(dir), name)); err != nil {
			return fmt.Errorf("backup: remove what a killed drill left: %w", err)
		}
	}
	return nil
}

// Listing is what a repository holds.
type Listing struct {
	Repository string            `json:"repository"`
	ID         string            `json:"id"`
	Encrypted  bool              `json:"encrypted"`
	Backups    []*backupfmt.Link `json:"-"` // of all lives, oldest first
	Log        []backupfmt.Span  `json:"log"`
}

// List reads the chain and how far the stored log reaches.
func (s *Service) List(ctx context.Context) (Listing, error) {
	repo, _, err := s.open(ctx)
	if err != nil {
		return Listing{}, err
	}
	l := Listing{Repository: s.o.Target.String(), ID: repo.ID().String(), Encrypted: repo.Encrypted()}
	c, err := repo.Chain(ctx)
	if err != nil {
		s.forget(err)
		return Listing{}, err
	}
	l.Backups = c.Backups("")
	l.Log, err = repo.Spans(ctx)
	return l, err
}

// Plan finds out how a state would be restored, checked for gaps; nothing is changed.
func (s *Service) Plan(ctx context.Context, t backupfmt.Target) (*backupfmt.Plan, error) {
	repo, _, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	p, err := repo.Plan(ctx, t)
	if err != nil {
		s.forget(err)
	}
	return p, err
}

// Find returns the newest backup whose label ends in mark; false if there is none.
func (s *Service) Find(ctx context.Context, mark string) (Created, bool, error) {
	repo, _, err := s.open(ctx)
	if err != nil {
		return Created{}, false, err
	}
	c, err := repo.Chain(ctx)
	if err != nil {
		return Created{}, false, err
	}
	for _, l := range slices.Backward(c.Backups("")) {
		if len(l.Label) >= len(mark) && l.Label[len(l.Label)-len(mark):] == mark {
			return CreatedOf(repo, l), true, nil
		}
	}
	return Created{}, false, nil
}

// ProofText says in a line what a drill found.
func ProofText(p *backupfmt.DrillProof) string {
	if p.OK {
		return fmt.Sprintf("backup %d and %d log entries restored, serving after %s", p.Backup, p.Entries, p.RTO.Round(time.Millisecond))
	}
	text := p.Error
	for _, c := range p.Checks {
		if !c.OK && text == "" {
			text = c.Name + ": " + c.Message
		}
	}
	if p.Scratch != "" {
		text += "; what was restored is kept in " + p.Scratch
	}
	return text
}
