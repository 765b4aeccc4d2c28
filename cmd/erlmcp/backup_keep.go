package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const backupPruneLong = `prune removes the backups that the retention does not keep, the log that no kept backup needs, and what interrupted backups left. It also
merges the small pieces in which log is shipped into large ones.

Kept are the newest backup of every hour (--keep-hourly back from the newest backup, default 168h), the newest full backup of
every day (--keep-daily, default 720h; of a day without one the newest), the newest --keep-last, the newest of every life, and everything these build on. Ages are counted from the
newest backup, so a wrong clock removes nothing.

It first commits what still counts and deletes afterwards: it may be interrupted or killed anywhere, and the next one goes on. Backups may
run meanwhile; a backup that stored nothing between two prunes is given up (--abort-all gives up all of them at once).

Chunks are kept in packs. When more than --max-unused of the packs' bytes is of chunks that no kept backup needs (default: backup.max_unused, 15%), the
emptiest packs are stored anew without them, until half of that is left; the backups keep their numbers. --no-repack lets all packs be. While a backup runs, or one
was interrupted and is not given up yet, nothing is stored anew; a backup that begins meanwhile and shares such a pack fails with a clear error and
is not lost: the next one goes on with what it had stored. --dry-run says what would be read, written and freed.

Uploads in parts that a killed process began in a bucket, and temporary files in a directory, are removed when they are a day old, with --abort-all
at once.

Exit codes: 0 pruned; 1 not pruned; 2 wrong usage or configuration.`

func (a *app) backupPruneCommand() *cobra.Command {
	var o backupfmt.PruneOptions
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove backups that the retention does not keep",
		Long:    backupPruneLong,
		Example: "  erlmcp backup prune --dry-run --repo /var/backups/erlmcp\n  erlmcp backup prune --keep-hourly 48h --keep-daily 336h",
		Args:    cobra.NoArgs,
	}
	r := a.repoFlags(cmd).signing(cmd)
	var hourly, daily time.Duration
	var unused string
	var share float64
	f := cmd.Flags()
	f.IntVar(&o.Policy.Last, "keep-last", 1, "keep the newest `N` backups")
	f.DurationVar(&hourly, "keep-hourly", 0, "keep the newest of every hour this far back (default: backup.keep_hourly)")
	f.DurationVar(&daily, "keep-daily", 0, "keep the newest of every day this far back (default: backup.keep_daily)")
	f.BoolVar(&o.AbortAll, "abort-all", false, "give up every unfinished backup at once")
	f.BoolVar(&o.DryRun, "dry-run", false, "only say what would be removed, and stored anew")
	f.StringVar(&unused, "max-unused", "", "`SHARE` of the packs that may be unused, 0.1% to 100%, before they are stored anew (default: backup.max_unused)")
	f.BoolVar(&o.NoRepack, "no-repack", false, "store no packs anew")
	run := r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, cfg *config.Config, m *meter) error {
		o.Policy.Hourly, o.Policy.Daily = cfg.Backup.KeepHourly, cfg.Backup.KeepDaily
		if f.Changed("keep-hourly") {
			o.Policy.Hourly = hourly
		}
		if f.Changed("keep-daily") {
			o.Policy.Daily = daily
		}
		o.MaxUnused = cfg.Backup.MaxUnused
		if share != 0 {
			o.MaxUnused = share
		}
		o.Progress = func(done, total int64) {
			m.tell(backup.Progress{Phase: "repack", Done: done, Total: total, Unit: "bytes"})
		}
		rep, err := repo.Prune(ctx, o)
		if err != nil {
			return err
		}
		doc := prunedOf(rep, o.DryRun)
		return r.result(m, doc, func() error { return printPruned(a, doc) })
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.Policy.Last < 1 || hourly < 0 || daily < 0 {
			return errUsage("--keep-last must be at least 1, --keep-hourly and --keep-daily not negative")
		}
		if unused != "" {
			var err error
			if share, err = config.ParseShare(unused); err != nil {
				return errUsage("--max-unused: %w", err)
			}
		}
		return run(cmd, args)
	}
	return cmd
}

// pruned is the document of prune.
type pruned struct {
	DryRun  bool      `json:"dry_run,omitempty"`
	Kept    []uint64  `json:"kept"`
	Removed []uint64  `json:"removed"`
	Aborted []string  `json:"aborted,omitempty"` // unfinished backups that were given up
	Open    []string  `json:"open,omitempty"`    // unfinished backups that were left alone
	Objects int       `json:"objects"`
	Bytes   int64     `json:"bytes"`
	Swept   int       `json:"swept,omitempty"`         // unfinished uploads and temporary files of processes that were killed
	Merged  int       `json:"merged_pieces,omitempty"` // small pieces of the archived log that became
	Into    int       `json:"merged_into,omitempty"`   // so many large ones
	Repack  *repacked `json:"repack,omitempty"`
}

// repacked is what was stored anew, or would be. All but packs and backups are bytes.
type repacked struct {
	Stored    int64 `json:"stored"` // packs that kept backups need, before
	Unused    int64 `json:"unused"` // of these, that nobody needs, about
	Packs     int   `json:"packs"`  // stored anew
	Read      int64 `json:"read"`
	Written   int64 `json:"written"`
	Freed     int64 `json:"freed"`
	Backups   int   `json:"backups,omitempty"` // that have their chunks elsewhere now
	Left      int   `json:"left,omitempty"`    // packs that had to stay
	Postponed bool  `json:"postponed,omitempty"`
}

func prunedOf(rep *backupfmt.PruneReport, dry bool) pruned {
	seqs := func(links []*backupfmt.Link) []uint64 {
		out := []uint64{}
		for _, l := range links {
			if l.IsBackup() {
				out = append(out, l.Seq)
			}
		}
		return out
	}
	doc := pruned{
		DryRun: dry, Kept: seqs(rep.Kept), Removed: seqs(rep.Removed), Aborted: rep.Aborted, Open: rep.Open, Objects: rep.Objects, Bytes: rep.Bytes,
		Swept: rep.Swept, Merged: rep.Merged.Pieces, Into: rep.Merged.Into,
	}
	if rep.Repack.Stored > 0 {
		r := repacked(rep.Repack)
		doc.Repack = &r
	}
	return doc
}

func printPruned(a *app, p pruned) error {
	verb := "removed"
	if p.DryRun {
		verb = "would remove"
	}
	_, err := fmt.Fprintf(a.out, "%s %d backups %v, %d objects, %s\nkept %d backups %v\n", verb, len(p.Removed), p.Removed, p.Objects, bytesText(p.Bytes), len(p.Kept), p.Kept)
	if p.Merged > 0 {
		_, err = fmt.Fprintf(a.out, "merged %d small pieces of the log into %d\n", p.Merged, p.Into)
	}
	if r := p.Repack; r != nil {
		_, err = fmt.Fprintf(a.out, "packs hold %s, of which %s is not needed\n", bytesText(r.Stored), bytesText(r.Unused))
		switch {
		case r.Packs == 0:
		case r.Postponed:
			_, err = fmt.Fprintf(a.out, "%d packs are to be stored anew, which waits until no backup is unfinished\n", r.Packs)
		case p.DryRun:
			_, err = fmt.Fprintf(a.out, "would store %d packs anew: read %s, write %s, free %s\n", r.Packs, bytesText(r.Read), bytesText(r.Written), bytesText(r.Freed))
		default:
			_, err = fmt.Fprintf(a.out, "stored %d packs anew: read %s, wrote %s, freed %s\n", r.Packs, bytesText(r.Read), bytesText(r.Written), bytesText(r.Freed))
		}
	}
	if p.Swept > 0 {
		_, err = fmt.Fprintf(a.out, "removed %d unfinished uploads and temporary files\n", p.Swept)
	}
	if len(p.Open) > 0 {
		_, err = fmt.Fprintf(a.out, "left %d unfinished backups alone; if none is running, the next prune removes them, or --abort-all now\n", len(p.Open))
	}
	return err
}

const backupConsolidateLong = `consolidate merges a full backup and the incrementals over it into a new full backup, inside the repository: no server and no data
directory is needed. The result is checked against the state hash that was recorded. Rows that did not change since the newest full backup are
shared with it, not stored again.

Without ID the newest backup is consolidated. The old backups stay until a prune.

Exit codes: 0 done, or the backup was full already; 1 not done; 2 wrong usage or configuration.`

func (a *app) backupConsolidateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "consolidate [ID|latest]",
		Short:   "Merge a full backup and its incrementals into a new full one",
		Long:    backupConsolidateLong,
		Example: "  erlmcp backup consolidate --repo /var/backups/erlmcp",
		Args:    cobra.MaximumNArgs(1),
	}
	r := a.repoFlags(cmd).signing(cmd).packing(cmd)
	cmd.ValidArgsFunction = r.completeIDs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var seq uint64
		if len(args) > 0 {
			var err error
			if seq, err = backupID(args[0]); err != nil {
				return err
			}
		}
		return r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, _ *config.Config, m *meter) error {
			begin := time.Now()
			l, err := repo.Consolidate(ctx, seq, func(_, raw uint64) {
				m.tell(backup.Progress{Phase: "rows", Done: int64(raw), Total: 0, Unit: "bytes"})
			})
			if err != nil {
				return err
			}
			doc := backup.CreatedOf(repo, l)
			doc.Seconds = time.Since(begin).Seconds()
			return r.result(m, doc, func() error {
				if doc.Unchanged {
					_, err := fmt.Fprintf(a.out, "backup %d is a full one already: nothing was stored\n", doc.Backup)
					return err
				}
				return printCreated(a.out, doc)
			})
		})(cmd, args)
	}
	return cmd
}

const backupCopyLong = `copy brings a repository to another place, byte by byte. It needs no passphrase. Directories and buckets hold the same tree, so a copy
is a repository in its own right, and a copy of a copy is the original.

What is there already is not sent again: run it after every backup, or run it again when it was interrupted. Every object is checked before
it is sent, and healed from its parity if it can be; damage does not spread. Copy one way only. With --verify-key-file a source whose chain is
not signed is refused.

With --delete the target becomes a mirror: what a prune removed from the source is removed from it. A target that is not an older state of the
source is refused, and nothing in it is changed: it may hold the only copy of something.

Exit codes: 0 copied; 1 not all of it was copied; 2 wrong usage or configuration.`

func (a *app) backupCopyCommand() *cobra.Command {
	var to string
	var o backupfmt.CopyOptions
	cmd := &cobra.Command{
		Use:     "copy --to URL",
		Short:   "Copy a repository to another directory or bucket",
		Long:    backupCopyLong,
		Example: "  erlmcp backup copy --repo /var/backups/erlmcp --to s3://erlmcp-backups/site-a\n  erlmcp backup copy --to /mnt/second/erlmcp --delete",
		Args:    cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "place of the copy: a directory or s3://BUCKET/PREFIX, `URL`")
	cmd.Flags().BoolVar(&o.Delete, "delete", false, "remove from the target what the source no longer has")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := r.load(cmd)
		if err != nil {
			return err
		}
		t, _, err := r.target(cfg)
		if err != nil {
			return err
		}
		if to == "" {
			return errUsage("say where to: --to URL")
		}
		dest, err := r.locate(cfg, to)
		if err != nil {
			return err
		}
		return onSignal(func(ctx context.Context) error {
			m := a.newMeter(r.asJSON)
			defer m.close()
			rep, err := copyRepo(ctx, t, dest, o, m)
			if err != nil {
				return backup.Explain(err, t.String())
			}
			doc := map[string]any{
				"from": t.String(), "to": dest.String(), "copied": rep.Copied, "present": rep.Present, "bytes": rep.Bytes, "deleted": rep.Deleted, "freed": rep.Freed,
			}
			return r.result(m, doc, func() error {
				_, err := fmt.Fprintf(a.out, "copied %d objects, %s; %d were there already\n", rep.Copied, bytesText(rep.Bytes), rep.Present)
				if o.Delete {
					_, err = fmt.Fprintf(a.out, "removed %d objects, %s\n", rep.Deleted, bytesText(rep.Freed))
				}
				return err
			})
		})
	}
	return cmd
}

func copyRepo(ctx context.Context, from, to backup.Target, o backupfmt.CopyOptions, m *meter) (*backupfmt.CopyReport, error) {
	src, err := from.Store(ctx, false)
	if err != nil {
		return nil, err
	}
	if len(from.Trust) > 0 { // nothing that was forged is spread
		signed, err := backupfmt.OpenKeyless(ctx, src, from.Trust)
		if err != nil {
			return nil, err
		}
		if _, err := signed.Chain(ctx); err != nil {
			return nil, err
		}
	}
	dst, err := to.Store(ctx, true)
	if err != nil {
		return nil, err
	}
	o.Progress = func(_ string, done, total int64) {
		m.tell(backup.Progress{Phase: "copy", Done: done, Total: total, Unit: "bytes"})
	}
	return backupfmt.Mirror(ctx, src, dst, o)
}
