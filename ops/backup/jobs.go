package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt"
)

// errFound marks a job that did its work and found something bad.
var errFound = errors.New("found")

// Create makes a backup on demand, in turn with the scheduled jobs, and records it like them. ErrBusy when too much is asked for already.
func (s *Service) Create(ctx context.Context, o CreateOptions, report Report) (Created, error) {
	if err := s.load(ctx); err != nil {
		return Created{}, err
	}
	done, err := s.takeTurn(ctx)
	if err != nil {
		return Created{}, err
	}
	defer done()
	began := s.o.Clock.Now().UTC()
	c, err := s.create(ctx, o, report)
	if ctx.Err() == nil && !c.Unchanged {
		name := JobIncremental
		if c.Type == backupfmt.Full || o.Type == backupfmt.Full {
			name = JobFull
		}
		r := Run{Began: began, Seconds: s.o.Clock.Now().Sub(began).Seconds(), OK: err == nil, Result: c.text()}
		if err != nil {
			r.Result = err.Error()
		}
		s.record(ctx, name, r)
	}
	return c, err
}

// create backs up with the service's own repository and archive.
func (s *Service) create(ctx context.Context, o CreateOptions, report Report) (Created, error) {
	repo, archive, err := s.open(ctx)
	if err != nil {
		return Created{}, err
	}
	if o.MaxChain == 0 {
		o.MaxChain = s.o.MaxChain
	}
	if s.o.Archive <= 0 {
		archive = nil
	}
	o.archive = archive
	life, err := s.o.Life(ctx)
	if err != nil {
		return Created{}, err
	}
	c, err := Create(ctx, s.o.Store, repo, life, o, report)
	if err != nil {
		s.forget(err)
		return c, err
	}
	if c.Warning != "" {
		s.event(Event{Kind: EventLogGap, Job: JobArchive, Message: c.Warning})
	}
	s.saw(JobIncremental, c.Index)
	if err := s.remember(ctx, repo, o.AcceptRollback); err != nil { // before anybody hears of it
		return c, err
	}
	s.mu.Lock()
	s.last = c
	s.mu.Unlock()
	s.holdFrom()
	return c, nil
}

func (c *Created) text() string {
	if c.Unchanged {
		return fmt.Sprintf("nothing changed since backup %d", c.Backup)
	}
	return fmt.Sprintf("backup %d, %s, index %d, %d rows, %d bytes stored", c.Backup, c.Type, c.Index, c.Rows, c.NewBytes)
}

// full makes a full backup and does what follows one.
func (s *Service) full(ctx context.Context) (string, error) {
	c, err := s.create(ctx, CreateOptions{Type: backupfmt.Full, Label: "scheduled"}, nil)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.jobs[JobIncremental].Last.Began = s.o.Clock.Now().UTC() // what was due is done
	s.mu.Unlock()
	if s.o.Verify {
		s.runNow(ctx, JobVerify, s.verify)
	}
	s.runNow(ctx, JobPrune, s.prune)
	if len(s.o.Copies) > 0 {
		s.runNow(ctx, JobCopy, s.copies)
	}
	return c.text(), nil
}

func (s *Service) incremental(ctx context.Context) (string, error) {
	if s.unchanged(JobIncremental) {
		return "", errNothing
	}
	c, err := s.create(ctx, CreateOptions{Type: backupfmt.Auto, Label: "scheduled"}, nil)
	if err == nil && c.Unchanged {
		return "", errNothing
	}
	return c.text(), err
}

// verify checks the chain and that everything is there.
func (s *Service) verify(ctx context.Context) (string, error) {
	return s.check(ctx, backupfmt.VerifyOptions{})
}

// scrub reads a share of the repository, what was read longest ago first, and restores what parity can.
func (s *Service) scrub(ctx context.Context) (string, error) {
	return s.check(ctx, backupfmt.VerifyOptions{ReadData: true, Budget: s.o.ScrubBudget, Heal: true})
}

func (s *Service) check(ctx context.Context, o backupfmt.VerifyOptions) (string, error) {
	_, text, err := s.checked(ctx, o)
	return text, err
}

// checked verifies and says in a line what was found; damage that costs something is an errFound beside the report.
func (s *Service) checked(ctx context.Context, o backupfmt.VerifyOptions) (*backupfmt.VerifyReport, string, error) {
	repo, _, err := s.open(ctx)
	if err != nil {
		return nil, "", err
	}
	rep, err := repo.Verify(ctx, o)
	if err != nil {
		return nil, "", err
	}
	text := fmt.Sprintf("%d objects, %d bytes, %d of them read", rep.Objects, rep.Bytes, rep.BytesSum)
	if rep.OK() {
		return rep, "sound: " + text, nil
	}
	d := rep.Damage[0]
	text = fmt.Sprintf("%d findings, the first: %s %s: %s; `erlmcp backup verify --read-data` names them all", len(rep.Damage), d.Kind, d.Object, d.Reason)
	s.event(Event{Kind: EventDamage, Job: JobVerify, Message: text})
	if !rep.Lost() && o.Heal {
		return rep, "restored from parity: " + text, nil
	}
	return rep, "", fmt.Errorf("%w damage: %s", errFound, text)
}

func (s *Service) prune(ctx context.Context) (string, error) {
	repo, _, err := s.open(ctx)
	if err != nil {
		return "", err
	}
	p := s.o.Policy
	p.Last = max(p.Last, 1)
	rep, err := repo.Prune(ctx, backupfmt.PruneOptions{Policy: p, MaxUnused: s.o.MaxUnused})
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%d backups kept, %d removed, %d objects and %d bytes deleted", len(rep.Kept), len(rep.Removed), rep.Objects, rep.Bytes)
	if rep.Repack.Packs > 0 && !rep.Repack.Postponed {
		text += fmt.Sprintf(", %d packs stored anew", rep.Repack.Packs)
	}
	return text, nil
}

// mergeFrom is how many pieces make a merging of the archive worth its listing. After an hour of writes there are up to 3600; a prune, once a day, merges too.
const mergeFrom = 120

// merge makes few large pieces of the many small ones that were archived since the last time.
func (s *Service) merge(ctx context.Context) (string, error) {
	s.mu.Lock()
	n := s.shipped
	s.mu.Unlock()
	if n < mergeFrom {
		return "", errNothing
	}
	repo, _, err := s.open(ctx)
	if err != nil {
		return "", err
	}
	rep, err := repo.MergeArchive(ctx)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.shipped -= n
	s.mu.Unlock()
	return fmt.Sprintf("%d pieces of the archive became %d", rep.Pieces, rep.Into), nil
}

// copies brings every copy up to date. One that cannot be reached does not keep the others from theirs.
func (s *Service) copies(ctx context.Context) (string, error) {
	if s.unchanged(JobCopy) {
		return "", errNothing
	}
	index := s.o.Store.AppliedIndex()
	if s.o.Target.Signer != nil || len(s.o.Target.Trust) > 0 { // nothing that was forged is spread
		repo, _, err := s.open(ctx)
		if err != nil {
			return "", err
		}
		if _, err := repo.Chain(ctx); err != nil {
			return "", err
		}
	}
	src, err := s.o.Target.Store(ctx, false)
	if err != nil {
		return "", err
	}
	var errs []error
	var sent int64
	for _, t := range s.o.Copies {
		dst, err := t.Store(ctx, true)
		if err == nil {
			var rep *backupfmt.CopyReport
			if rep, err = backupfmt.Copy(ctx, src, dst, nil); rep != nil {
				sent += rep.Bytes
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("copy to %s: %w", t, err))
		}
	}
	if len(errs) == 0 {
		s.saw(JobCopy, index)
	}
	return fmt.Sprintf("%d copies, %d bytes sent", len(s.o.Copies), sent), errors.Join(errs...)
}

// drill restores the newest state into scratch and checks it.
func (s *Service) drill(ctx context.Context) (string, error) {
	_, text, err := s.drilled(ctx, backupfmt.DrillOptions{Scratch: s.o.Scratch()})
	return text, err
}

// drilled carries a drill out and says in a line what it found; a failed one is an errFound beside the proof.
func (s *Service) drilled(ctx context.Context, o backupfmt.DrillOptions) (*backupfmt.DrillProof, string, error) {
	repo, _, err := s.open(ctx)
	if err != nil {
		return nil, "", err
	}
	o.Engine, o.Checks = s.o.Engine, s.o.Checks()
	p, err := repo.Drill(ctx, o)
	if err != nil {
		return nil, "", err
	}
	text := ProofText(p)
	if p.OK {
		return p, text, nil
	}
	s.event(Event{Kind: EventDrill, Job: JobDrill, Message: text})
	return p, "", fmt.Errorf("%w that the backups do not restore: %s", errFound, text)
}
