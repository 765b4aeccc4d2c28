package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
)

const verifyLong = `verify checks that everything in the data directory is there and unchanged: the chain of the write-ahead log, the files of
the sorted store, the hash over all rows, every ledger document and its SHA-256, the indexes, and the receipt chains.

When a server runs on the directory the checks run inside it, beside its work. Otherwise the log is inspected without
changing anything, and only if it is undamaged the store is opened, as a server would open it, for the other checks.

Every finding says where it is, what is wrong, what that means, and what to do next.

Exit codes: 0 everything is intact; 1 damage was found; 2 the checks could not be run (wrong usage, no store there, in use
by something that does not answer, key missing).`

func (a *app) verifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "verify",
		Short:   "Check that nothing in the data directory is lost or changed",
		Long:    verifyLong,
		Example: "  erlmcp verify --data /var/lib/erlmcp\n  erlmcp verify --json | jq '.checks[] | select(.passed | not)'",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag, dataKeyFileFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		// The signals are the default ones: a check changes nothing, so it may be ended anywhere.
		report, err := a.verify(cmd.Context(), cfg, asJSON)
		if err != nil {
			var bad *config.Error
			if errors.As(err, &bad) {
				return err
			}
			return &exitError{code: exitUsage, err: err}
		}
		if asJSON {
			err = writeJSON(a.out, report)
		} else {
			err = printSummary(a.out, report)
		}
		if err != nil {
			return err
		}
		if !report.Valid {
			return &exitError{code: exitFailure}
		}
		return nil
	}
	return cmd
}

// verify runs the checks in the server when there is one, else here.
func (a *app) verify(ctx context.Context, cfg *config.Config, quiet bool) (integrity.Report, error) {
	progress := func(c integrity.Check) { printCheck(a.out, c) }
	if quiet {
		progress = func(integrity.Check) {}
	}
	report, err := admin.NewClient(cfg.DataDir).Verify(ctx, progress)
	if !errors.Is(err, admin.ErrNoServer) {
		return report, err
	}
	key, err := cfg.DataKey(a.environ, nil)
	if err != nil {
		return integrity.Report{}, err
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return integrity.Stopped(ctx, integrity.StoppedOptions{
		DataDir: cfg.DataDir, Engine: node.EngineOptions(cfg, key, log), Now: time.Now,
	}, progress)
}

// printCheck writes one line per check and a paragraph per finding.
func printCheck(w io.Writer, c integrity.Check) {
	verdict := "ok"
	switch {
	case c.Skipped != "":
		verdict = "NOT RUN"
	case !c.Passed:
		verdict = "DAMAGE"
	}
	fmt.Fprintf(w, "%-24s %-8s %d %s\n", c.Title, verdict, c.Checked, c.Unit)
	if c.Skipped != "" {
		fmt.Fprintf(w, "    %s\n", c.Skipped)
	}
	for _, note := range c.Notes {
		fmt.Fprintf(w, "    note: %s\n", note)
	}
	for _, f := range c.Findings {
		fmt.Fprintf(w, "    %s\n      what:  %s\n", f.Where, f.What)
		if f.Means != "" {
			fmt.Fprintf(w, "      means: %s\n", f.Means)
		}
		if f.Next != "" {
			fmt.Fprintf(w, "      next:  %s\n", f.Next)
		}
	}
}

func printSummary(w io.Writer, r integrity.Report) error {
	verdict := "Intact"
	if !r.Valid {
		verdict = fmt.Sprintf("DAMAGED: %d findings", r.Findings())
	}
	line := fmt.Sprintf("\n%s. %s, %s", verdict, r.DataDir, r.Mode)
	if r.Index > 0 {
		line += fmt.Sprintf(", state at log index %d", r.Index)
	}
	if r.Index > 0 && len(r.StateHash) >= 16 {
		line += fmt.Sprintf(", hash %s...", r.StateHash[:16])
	}
	_, err := fmt.Fprintf(w, "%s (%.1fs)\n", line, r.Seconds)
	return err
}
