package integrity

import (
	"context"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
)

// DrillChecks are what a restore drill runs on the restored store after the engine's own verification: the ledger's integrity checks, and
// queries that a server answers all day.
func DrillChecks() []backupfmt.DrillCheck {
	// The ledger is read once; every check then has its own verdict.
	var report *tcps.VerifyReport
	verify := func(ctx context.Context, s *engine.Store) error {
		if report != nil {
			return nil
		}
		ledger, err := tcps.New(s, tcps.Options{})
		if err != nil {
			return err
		}
		r, err := ledger.VerifyAll(ctx)
		report = &r
		return err
	}
	var out []backupfmt.DrillCheck
	for _, name := range tcps.Checks() {
		out = append(out, backupfmt.DrillCheck{Name: name, Run: func(ctx context.Context, s *engine.Store) error {
			if err := verify(ctx, s); err != nil {
				return err
			}
			if c := report.Checks[name]; !c.Passed {
				return errors.New(c.Details)
			}
			return nil
		}})
	}
	return append(out, backupfmt.DrillCheck{Name: "queries", Run: queries})
}

// queries asks what the dashboard and the tools ask first.
func queries(ctx context.Context, s *engine.Store) error {
	ledger, err := tcps.New(s, tcps.Options{})
	if err != nil {
		return err
	}
	if _, err := ledger.WIPAll(ctx); err != nil {
		return fmt.Errorf("work in progress: %w", err)
	}
	open, err := ledger.CountOpenAndons(ctx)
	if err != nil {
		return fmt.Errorf("open andons: %w", err)
	}
	list, err := ledger.ListAndons(ctx, tcps.ListAndonsInput{Unresolved: true, Limit: 1000})
	if err != nil {
		return fmt.Errorf("list of andons: %w", err)
	}
	if n := len(list.Andons); n != min(open, 1000) {
		return fmt.Errorf("%d andons are open, the list shows %d", open, n)
	}
	return nil
}
