package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const backupRestoreLong = `restore makes a data directory out of a repository.

  restore                     the newest stored state: the newest backup and all log behind it
  restore latest              the same
  restore 12                  exactly what backup 12 holds
  restore --at-index 4711     the state after log entry 4711
  restore --at-time T         the state at T: everything up to the first change that is newer. T is 2026-11-21T14:04:59Z, or
                              2026-11-21 14:04:59, which is UTC

--to DIR must be absent or empty. --in-place restores over --data DIR: its server must be stopped, and the old directory is kept
beside it as DIR.before-<random>.

The plan is checked for gaps first, then the store is built in a directory beside the target, opened with the engine, compared with
the state hash that was recorded with the backup, and renamed. If anything is wrong, the target is as it was before. --dry-run
stops after the plan.

A restored store begins a history of its own: what it does next never mixes with the stored log of the old one.

Exit codes: 0 restored; 1 not restored, the target is unchanged; 2 wrong usage or configuration.`

// restoreFlags say which state is wanted and where.
type restoreFlags struct {
	to, at, life    string
	index           uint64
	inPlace, dryRun bool
}

func (a *app) backupRestoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore [ID|latest]",
		Short: "Make a data directory out of a backup, to any index or time",
		Long:  backupRestoreLong,
		Example: `  erlmcp backup restore latest --to /var/lib/erlmcp.new --repo /var/backups/erlmcp
  erlmcp backup restore --at-time '2026-11-21 14:04:59' --to /tmp/before-the-accident
  erlmcp backup restore --in-place --data /var/lib/erlmcp
  erlmcp backup restore --dry-run --at-index 4711 --to /tmp/x`,
		Args: cobra.MaximumNArgs(1),
	}
	r := a.repoFlags(cmd, dataFlag, dataKeyFileFlag)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "`DIR` to make; must be absent or empty")
	flags.BoolVar(&f.inPlace, "in-place", false, "replace the data directory (--data) and keep the old one beside it")
	flags.Uint64Var(&f.index, "at-index", 0, "the state after this log entry, `N`")
	flags.StringVar(&f.at, "at-time", "", "the state at this time, `T`")
	flags.StringVar(&f.life, "life", "", "history to take it from, `HEX` (default: that of the newest backup)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "only say what would be done")
	cmd.ValidArgsFunction = r.completeIDs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := f.target(args)
		if err != nil {
			return err
		}
		return r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, cfg *config.Config, m *meter) error {
			return r.restore(ctx, repo, cfg, m, f, target)
		})(cmd, args)
	}
	return cmd
}

// target reads what is wanted.
func (f *restoreFlags) target(args []string) (t backupfmt.Target, err error) {
	if (f.to == "") == !f.inPlace {
		return t, errUsage("say where to: either --to DIR, or --in-place for the data directory")
	}
	t.Index, t.Life = f.index, f.life
	if len(args) > 0 {
		if t.Seq, err = backupID(args[0]); err != nil {
			return t, err
		}
	}
	if f.at != "" {
		if t.Time, err = parseMoment(f.at); err != nil {
			return t, err
		}
	}
	n := 0
	for _, set := range []bool{t.Seq != 0, t.Index != 0, !t.Time.IsZero()} {
		if set {
			n++
		}
	}
	if n > 1 {
		return t, errUsage("a backup, --at-index and --at-time exclude each other")
	}
	return t, nil
}

// restoredDoc is the document of restore.
type restoredDoc struct {
	Repository string            `json:"repository"`
	Dir        string            `json:"dir"`
	DryRun     bool              `json:"dry_run,omitempty"`
	Aside      string            `json:"aside,omitempty"` // where the replaced directory is
	Backups    []uint64          `json:"backups"`         // that are read, the full one first
	Pieces     int               `json:"log_pieces"`
	Bytes      int64             `json:"bytes"` // read at most
	Index      uint64            `json:"index"`
	StateHash  string            `json:"state_hash,omitempty"`
	Proven     bool              `json:"proven"` // the state hash was recorded at this index and is the same
	Rows       uint64            `json:"rows,omitempty"`
	Entries    uint64            `json:"log_entries,omitempty"`
	Phases     []backupfmt.Phase `json:"phases,omitempty"`
	Seconds    float64           `json:"seconds,omitempty"`
}

func (r *repoFlags) restore(ctx context.Context, repo *backupfmt.Repo, cfg *config.Config, m *meter, f restoreFlags, target backupfmt.Target) error {
	begin := time.Now()
	dir := f.to
	if f.inPlace {
		dir = cfg.DataDir
		if _, err := admin.NewClient(dir).Status(ctx); err == nil {
			return fmt.Errorf("a server runs on %s: stop it first; nothing was changed", dir)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	plan, err := repo.Plan(ctx, target)
	if err != nil {
		return err
	}
	doc := restoredDoc{
		Repository: repo.Store().String(), Dir: dir, DryRun: f.dryRun, Pieces: len(plan.Pieces), Bytes: plan.Bytes, Index: plan.Index,
	}
	for _, l := range plan.Run {
		doc.Backups = append(doc.Backups, l.Seq)
	}
	planned := time.Since(begin)
	if !f.dryRun {
		options, err := r.a.engineOptions(cfg)
		if err != nil {
			return err
		}
		rep, err := repo.Restore(ctx, plan, backupfmt.RestoreOptions{Dir: dir, Replace: f.inPlace, Engine: options, Progress: m.restoring(plan)})
		if err != nil {
			return fmt.Errorf("not restored, %s is as it was: %w", dir, err)
		}
		doc.Aside, doc.StateHash, doc.Proven, doc.Rows, doc.Entries = rep.Aside, fmt.Sprintf("%x", rep.StateHash), rep.Proven, rep.Rows, rep.Entries
		doc.Phases = append([]backupfmt.Phase{{Name: "plan", Duration: planned}}, rep.Phases...)
		doc.Seconds = time.Since(begin).Seconds()
	}
	return r.result(m, doc, func() error { return printRestored(r.a.out, doc, plan) })
}

// restoring reports the progress of a restore.
func (m *meter) restoring(plan *backupfmt.Plan) func(phase string, rows, entries uint64) {
	var rows uint64
	for _, l := range plan.Run {
		rows += l.Rows
	}
	return func(phase string, doneRows, doneEntries uint64) {
		p := backup.Progress{Phase: phase, Done: int64(doneRows), Total: int64(rows), Unit: "rows"}
		if phase == "log" {
			p = backup.Progress{Phase: phase, Done: int64(doneEntries), Total: int64(plan.Index - plan.Backup().Index), Unit: "entries"}
		}
		m.tell(p)
	}
}

// drilling reports the progress of a drill, whose plan is not known here.
func (m *meter) drilling(phase string, rows, entries uint64) {
	if phase == "log" {
		m.tell(backup.Progress{Phase: phase, Done: int64(entries), Unit: "entries"})
		return
	}
	m.tell(backup.Progress{Phase: phase, Done: int64(rows), Unit: "rows"})
}

func printRestored(out io.Writer, d restoredDoc, plan *backupfmt.Plan) error {
	verb := "restored"
	if d.DryRun {
		verb = "would restore"
	}
	last := plan.Backup()
	fmt.Fprintf(out, "%s log index %d to %s: backups %v (the newest of %s UTC)", verb, d.Index, d.Dir, d.Backups, moment(last.StateTime))
	if n := d.Index - last.Index; n > 0 {
		fmt.Fprintf(out, " and %d log entries behind them", n)
	}
	fmt.Fprintf(out, ", at most %s read\n", bytesText(d.Bytes))
	if d.DryRun {
		return nil
	}
	at := time.Duration(0)
	for _, p := range d.Phases {
		at += p.Duration
		fmt.Fprintf(out, "  %8s  %s\n", at.Round(time.Millisecond), phaseText(p.Name))
	}
	proof := "compared with the one recorded at backup time: equal"
	if !d.Proven {
		proof = "no backup recorded one at this index; the backup below it was compared, and the log replayed without a gap"
	}
	fmt.Fprintf(out, "state hash %s (%s)\n", d.StateHash, proof)
	if d.Aside != "" {
		fmt.Fprintf(out, "the old directory is %s; remove it when you no longer need it\n", d.Aside)
	}
	_, err := fmt.Fprintf(out, "next: erlmcp verify --data %s, then erlmcp serve --data %s\n", d.Dir, d.Dir)
	return err
}

// phaseText says what a phase did.
func phaseText(name string) string {
	if text := map[string]string{
		"plan": "chain read, plan checked for gaps", "rows": "rows restored and their hash compared", "log": "log written",
		"install": "store files installed", "open": "opened by the engine, log replayed, state compared", "rename": "in place",
	}[name]; text != "" {
		return text
	}
	return name
}
