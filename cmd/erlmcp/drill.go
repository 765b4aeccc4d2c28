package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
)

const drillLong = `drill finds out whether the backups can really be restored, by doing it: it restores the newest stored state (or the one that is
named) into a scratch directory, opens it with the engine, compares the state hash with the recorded one, runs the integrity
checks of erlmcp verify and the queries a server answers all day, and measures how long that took.

What it found is stored in the repository as a proof, sealed with the repository's key and, if the repository is signed, signed, also when it failed. The scratch directory is removed
when all went well, and kept and named when not. The data directory (--data) is not touched; a server that runs on it is told,
and shows the drill in its status.

Exit codes: 0 the backups restore; 1 they do not, or the drill could not be carried out; 2 wrong usage or configuration.`

func (a *app) drillCommand() *cobra.Command {
	var scratch string
	var last, now bool
	cmd := &cobra.Command{
		Use:   "drill [ID|latest]",
		Short: "Prove that the backups restore, by restoring one",
		Long:  drillLong,
		Example: `  erlmcp drill --repo /var/backups/erlmcp
  erlmcp drill --last --json | jq '.ok, .rto_ns'`,
		Args: cobra.MaximumNArgs(1),
	}
	r := a.repoFlags(cmd, dataFlag, dataKeyFileFlag).signing(cmd)
	f := cmd.Flags()
	f.StringVar(&scratch, "scratch", "", "`DIR` to make the scratch directory in (default: backup.scratch_dir, else the temporary directory)")
	f.BoolVar(&last, "last", false, "only show what the newest drill found")
	f.BoolVar(&now, "now", false, "run it now, which is what it does anyway")
	cmd.ValidArgsFunction = r.completeIDs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var target backupfmt.Target
		if len(args) > 0 {
			var err error
			if target.Seq, err = backupID(args[0]); err != nil {
				return err
			}
		}
		return r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, cfg *config.Config, m *meter) error {
			if last {
				return r.lastProof(ctx, repo, m)
			}
			options, err := a.engineOptions(cfg)
			if err != nil {
				return err
			}
			proof, err := repo.Drill(ctx, backupfmt.DrillOptions{
				Target: target, Scratch: node.ScratchDir(cfg, scratch, time.Now()), Engine: options, Checks: integrity.DrillChecks(), Progress: m.drilling,
			})
			if err != nil {
				return err
			}
			a.tellOfDrill(ctx, cfg, repo, proof)
			return r.proof(m, proof)
		})(cmd, args)
	}
	return cmd
}

// tellOfDrill lets a running server know, so that its status shows the drill and the age of its proof. Without a server nobody has to know.
func (a *app) tellOfDrill(ctx context.Context, cfg *config.Config, repo *backupfmt.Repo, p *backupfmt.DrillProof) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := admin.NewClient(cfg.DataDir).Drilled(ctx, admin.Drilled{Repository: repo.Store().String(), Proof: p})
	if err != nil && !errors.Is(err, admin.ErrNoServer) {
		fmt.Fprintf(a.err, "warning: the server of %s was not told of the drill: %v\n", cfg.DataDir, err)
	}
}

func (r *repoFlags) lastProof(ctx context.Context, repo *backupfmt.Repo, m *meter) error {
	proofs, err := repo.Proofs(ctx)
	if err != nil {
		return err
	}
	if len(proofs) == 0 {
		return fmt.Errorf("no drill was ever run on this repository; run `erlmcp drill --repo %s`", repo.Store())
	}
	r.plainJSON = true
	return r.proof(m, proofs[len(proofs)-1])
}

// proof prints what a drill found.
func (r *repoFlags) proof(m *meter, p *backupfmt.DrillProof) error {
	m.close()
	out := r.a.out
	var err error
	switch {
	case r.asJSON && r.plainJSON:
		err = writeJSON(out, p)
	case r.asJSON:
		err = writeLine(out, event{Event: "result", Result: p})
	default:
		verdict := "The backups restore"
		if !p.OK {
			verdict = "THE DRILL FAILED"
		}
		fmt.Fprintf(out, "%s: backup %d and %d log entries behind it, index %d, %d rows, serving after %s (drill of %s UTC)\n", verdict, p.Backup,
			p.Entries, p.Index, p.Rows, p.RTO.Round(time.Millisecond), moment(p.Began))
		for _, phase := range p.Phases {
			fmt.Fprintf(out, "  %-9s %s\n", phase.Name, phase.Duration.Round(time.Millisecond))
		}
		for _, c := range p.Checks {
			state := "ok"
			if !c.OK {
				state = "FAILED: " + c.Message
			}
			fmt.Fprintf(out, "  %-15s %s\n", c.Name, state)
		}
		if p.Error != "" {
			fmt.Fprintf(out, "error: %s\n", p.Error)
		}
		if p.Scratch != "" {
			fmt.Fprintf(out, "what was restored is kept in %s\n", p.Scratch)
		}
		_, err = fmt.Fprintf(out, "state hash %s\n", p.StateHash)
	}
	if err == nil && !p.OK {
		err = &exitError{code: exitFailure}
	}
	return err
}
