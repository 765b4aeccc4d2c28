package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/engine"
)

// tableJobs keeps a JobState per job, as JSON under its name, and what was seen of repositories (seen.go). See docs/format.md.
const tableJobs = "backup_jobs"

// load reads what earlier runs, or other nodes, recorded. Once; afterwards this process is the one that writes.
func (s *Service) load(ctx context.Context) error {
	s.mu.Lock()
	loaded := s.loaded
	s.mu.Unlock()
	if loaded {
		return nil
	}
	found := map[string]*JobState{}
	err := s.o.Store.View(ctx, func(tx *engine.Tx) error {
		for name := range s.jobs {
			raw, err := tx.Get(tableJobs, []byte(name))
			if errors.Is(err, engine.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			var j JobState
			if err := json.Unmarshal(raw, &j); err != nil || j.Job != name {
				return fmt.Errorf("backup: record of job %s does not decode: %w", name, err)
			}
			found[name] = &j
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, j := range found {
		j.Skipped = s.jobs[name].Skipped
		s.jobs[name] = j
	}
	if d := s.jobs[JobDrill]; d.LastSuccess.After(s.proof) {
		s.proof = d.LastSuccess
	}
	s.loaded = true
	return nil
}

// record keeps the outcome of a run and raises the event that belongs to it.
func (s *Service) record(ctx context.Context, name string, r Run) {
	s.mu.Lock()
	j := s.jobs[name]
	failing := j.InARow
	j.took(r)
	stored, inARow := *j, j.InARow
	s.mu.Unlock()
	stored.Next, stored.Skipped = stored.Next.Truncate(0), 0
	if name != JobArchive {
		s.keepSeen(ctx)
	}
	if err := s.save(ctx, stored); err != nil {
		s.log.Warn("the outcome of a backup job could not be recorded", "job", name, "error", err)
	}
	if name == JobDrill && r.OK {
		s.mu.Lock()
		s.proof = r.Began
		s.mu.Unlock()
	}
	switch {
	case !r.OK:
		s.log.Warn("backup job failed", "job", name, "failures", inARow, "error", r.Result)
		s.event(Event{Kind: EventFailed, Job: name, Message: r.Result, InARow: inARow})
	case failing > 0:
		s.log.Info("backup job succeeded again", "job", name, "result", r.Result)
		s.event(Event{Kind: EventRecovered, Job: name, Message: r.Result})
	default:
		s.log.Info("backup job done", "job", name, "result", r.Result, "seconds", r.Seconds)
	}
}

func (s *Service) event(e Event) {
	e.Time, e.Repository = s.o.Clock.Now().UTC(), s.o.Target.String()
	s.o.Event(e)
}

// save writes a record. The write is a change of the store, but no reason for a backup.
func (s *Service) save(ctx context.Context, j JobState) error {
	raw, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("backup: encode the record of %s: %w", j.Job, err)
	}
	res, err := s.o.Store.Update(ctx, func(tx *engine.Tx) error {
		return tx.Put(tableJobs, []byte(j.Job), raw)
	}, engine.WithActor("backup"), engine.WithLabel("backup.record"))
	if err != nil {
		return err
	}
	s.hush(res.Index)
	return nil
}

// hush notes a change of the store that is no reason for a backup.
func (s *Service) hush(written uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, index := range s.quiet {
		if index+1 == written {
			s.quiet[name] = written
		}
	}
}

// keepSeen remembers how far the repository is.
func (s *Service) keepSeen(ctx context.Context) {
	s.mu.Lock()
	repo := s.repo
	s.mu.Unlock()
	if repo == nil {
		return
	}
	if err := s.remember(ctx, repo, false); err != nil {
		s.log.Warn("how far the repository is could not be recorded", "error", err)
	}
}

// remember is Remember, and no reason for a backup.
func (s *Service) remember(ctx context.Context, repo *backupfmt.Repo, accepted bool) error {
	index, err := remember(ctx, s.o.Store, repo, accepted)
	s.hush(index)
	return err
}

// unchanged reports whether nothing but records was written since a job last saw the store.
func (s *Service) unchanged(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quiet[name] != 0 && s.quiet[name] >= s.o.Store.AppliedIndex()
}

// saw notes the index that a job has taken care of.
func (s *Service) saw(name string, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet[name] = max(s.quiet[name], index)
}
