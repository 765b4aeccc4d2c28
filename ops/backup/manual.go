package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/engine"
)

// Manual is a run that somebody asked for, on a repository that is not the one of the schedules.
type Manual struct {
	What       string `json:"what"` // "backup" or "drill"
	Repository string `json:"repository"`
	Run
}

// manualRow is the key of the runs by hand in tableJobs: JSON, a list, newest first, at most maxRecent.
var manualRow = []byte("manual")

// Manuals returns what was done by hand, newest first.
func Manuals(ctx context.Context, s *engine.Store) (runs []Manual, err error) {
	err = s.ViewLocal(ctx, func(tx *engine.Tx) (err error) {
		runs, err = manuals(tx)
		return err
	})
	return runs, err
}

func manuals(tx *engine.Tx) (runs []Manual, err error) {
	raw, err := tx.Get(tableJobs, manualRow)
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &runs)
	}
	if err != nil {
		return nil, fmt.Errorf("backup: the record of runs by hand: %w", err)
	}
	return runs, nil
}

// RecordManual keeps a run by hand.
func RecordManual(ctx context.Context, s *engine.Store, m Manual) error {
	_, err := s.Update(ctx, func(tx *engine.Tx) error {
		runs, err := manuals(tx)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(append([]Manual{m}, runs[:min(len(runs), maxRecent-1)]...))
		if err != nil {
			return fmt.Errorf("backup: encode the record of a run by hand: %w", err)
		}
		return tx.Put(tableJobs, manualRow, raw)
	}, engine.WithActor("backup"), engine.WithLabel("backup.manual"))
	return err
}

// Text says in a line what a backup stored.
func (c *Created) Text() string { return c.text() }

// Note records a drill that somebody else carried out on the service's repository, as if it had been a job: its proof counts.
func (s *Service) Note(ctx context.Context, p *backupfmt.DrillProof) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	s.record(ctx, JobDrill, RunOf(p))
	return nil
}

// RunOf is a drill as a run of a job.
func RunOf(p *backupfmt.DrillProof) Run {
	r := Run{Began: p.Began, Seconds: p.RTO.Seconds(), OK: p.OK, Found: !p.OK, Result: ProofText(p)}
	for _, c := range p.Checks {
		r.Seconds += c.Took.Seconds()
	}
	return r
}
