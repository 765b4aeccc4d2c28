package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const backupVerifyLong = `verify checks a repository. It reads the repository itself, never a cache.

Without flags it reads the chain of backups and compares names and sizes of everything else. --read-data reads every byte; with
--budget 4% it reads that share of them, what was read longest ago first, and remembers that in the repository, so that 25 runs read
everything. Neither needs the passphrase; with it the chain is authenticated too, so that a forgery by somebody who may
write to the store is found as well. With --verify-key-file the signatures of the chain, the log and the proofs are verified, also without the
passphrase: a forgery by somebody who has that, too, is found.

Damage is named with what it costs: backups that cannot be restored, log entries that are lost. Parity can restore
some damage: erlmcp backup repair does.

Exit codes: 0 sound; 1 something is lost, or the check could not be run; 2 wrong usage or configuration; 3 damaged, but all of
it can be restored from parity or copies (erlmcp backup repair).`

// exitHealable is the exit code of `backup verify` for damage that costs nothing.
const exitHealable = 3

func (a *app) backupVerifyCommand() *cobra.Command {
	var o backupfmt.VerifyOptions
	var budget string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check a repository for damage",
		Long:  backupVerifyLong,
		Example: `  erlmcp backup verify --repo /var/backups/erlmcp
  erlmcp backup verify --read-data --budget 4% --repo s3://erlmcp-backups/site-a
  erlmcp backup verify --read-data --json | jq -c 'select(.event == "result").result.damage'`,
		Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.Flags().BoolVar(&o.ReadData, "read-data", false, "read every byte, not only names and sizes")
	cmd.Flags().StringVar(&budget, "budget", "", "with --read-data: read only this share of the bytes, `SHARE` such as 4%")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if budget != "" {
			var err error
			if o.Budget, err = config.ParseShare(budget); err != nil {
				return errUsage("--budget: %w", err)
			}
			if !o.ReadData {
				return errUsage("--budget needs --read-data")
			}
		}
		return r.verify(cmd, o)
	}
	return cmd
}

const backupRepairLong = `repair reads every byte of a repository and writes back what it can restore from parity or second copies. Parity restores any
7 damaged sectors of 4 KiB, or 256 KiB in one piece, of a pack of 16 MiB. It needs no passphrase.

What it cannot restore is named with what it costs. Then: erlmcp backup copy brings objects back from a copy of the repository that still has
them, and a full backup with --fresh makes new backups independent of the damaged ones.

Exit codes: 0 nothing was damaged, or all of it was restored; 1 something is lost; 2 wrong usage or configuration.`

func (a *app) backupRepairCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "repair",
		Short:   "Restore damaged objects of a repository from their parity",
		Long:    backupRepairLong,
		Example: "  erlmcp backup repair --repo /var/backups/erlmcp",
		Args:    cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return r.verify(cmd, backupfmt.VerifyOptions{ReadData: true, Heal: true})
	}
	return cmd
}

// verified is the document of verify and repair.
type verified struct {
	Repository    string             `json:"repository"`
	Sound         bool               `json:"sound"`
	Lost          bool               `json:"lost"`          // some damage cannot be restored
	Authenticated bool               `json:"authenticated"` // the chain was checked with the key
	Objects       int                `json:"objects"`
	Bytes         int64              `json:"bytes"`
	ReadObjects   int                `json:"read_objects"` // to the last byte
	ReadBytes     int64              `json:"read_bytes"`
	Backups       int                `json:"backups"`
	Stray         int                `json:"stray"` // objects of unfinished or removed backups; the next prune takes care of them
	Oldest        string             `json:"oldest_check,omitempty"`
	Damage        []backupfmt.Damage `json:"damage"`
	Gaps          []backupfmt.Gap    `json:"gaps,omitempty"`
	SignedFrom    uint64             `json:"signed_from,omitempty"` // link from which on everything is signed, verified; 0: nobody looked
	Unsigned      []string           `json:"unsigned,omitempty"`    // objects from before that
}

func verifiedOf(where string, rep *backupfmt.VerifyReport) verified {
	v := verified{
		Repository: where, Sound: rep.OK(), Lost: rep.Lost(), Authenticated: !rep.Keyless, Objects: rep.Objects, Bytes: rep.Bytes,
		ReadObjects: rep.Read, ReadBytes: rep.BytesSum, Stray: len(rep.Stray), Damage: rep.Damage, Gaps: rep.Gaps,
	}
	if rep.Chain != nil {
		v.Backups = len(rep.Chain.Backups(""))
	}
	if rep.Signing != nil {
		v.SignedFrom, v.Unsigned = rep.Signing.From, rep.Unsigned
	}
	if !rep.Oldest.IsZero() {
		v.Oldest = moment(rep.Oldest)
	}
	if v.Damage == nil {
		v.Damage = []backupfmt.Damage{}
	}
	return v
}

func (r *repoFlags) verify(cmd *cobra.Command, o backupfmt.VerifyOptions) error {
	cfg, err := r.load(cmd)
	if err != nil {
		return err
	}
	t, _, err := r.target(cfg)
	if err != nil {
		return err
	}
	return onSignal(func(ctx context.Context) error {
		m := r.a.newMeter(r.asJSON)
		defer m.close()
		o.Progress = func(_ string, done, total int64) {
			m.tell(backup.Progress{Phase: "data", Done: done, Total: total, Unit: "bytes"})
		}
		rep, err := check(ctx, t, o)
		if err != nil {
			return backup.Explain(err, t.String())
		}
		doc := verifiedOf(t.String(), rep)
		if err := r.result(m, doc, func() error { return printVerified(r.a.out, doc, o) }); err != nil {
			return err
		}
		switch {
		case doc.Lost:
			return &exitError{code: exitFailure}
		case !doc.Sound && !o.Heal:
			return &exitError{code: exitHealable}
		}
		return nil
	})
}

// check verifies with the key if there is one. A repository too damaged to be opened is verified without.
func check(ctx context.Context, t backup.Target, o backupfmt.VerifyOptions) (*backupfmt.VerifyReport, error) {
	st, err := t.Store(ctx, false)
	if err != nil {
		return nil, err
	}
	if t.Secret == nil && !t.Plain {
		return scrub(ctx, st, t, o)
	}
	repo, err := t.Open(ctx)
	switch {
	case errors.Is(err, backupfmt.ErrDamaged):
		return scrub(ctx, st, t, o)
	case err != nil:
		return nil, err
	}
	return repo.Verify(ctx, o)
}

// scrub verifies without the key, and the signatures if there is somebody to trust.
func scrub(ctx context.Context, st store.Store, t backup.Target, o backupfmt.VerifyOptions) (*backupfmt.VerifyReport, error) {
	repo, err := backupfmt.OpenKeyless(ctx, st, t.Trust)
	if err != nil {
		return nil, err
	}
	repo.Expect(t.AtLeast)
	return repo.Verify(ctx, o)
}

func printVerified(out io.Writer, v verified, o backupfmt.VerifyOptions) error {
	for _, d := range v.Damage {
		state := "LOST"
		switch {
		case d.Written:
			state = "RESTORED"
		case d.Healed:
			state = "can be restored"
		}
		fmt.Fprintf(out, "%-8s %s: %s (%s)\n", d.Kind, d.Object, d.Reason, state)
		if len(d.Backups) > 0 && !d.Healed {
			fmt.Fprintf(out, "         cannot be restored because of it: backups %v\n", d.Backups)
		}
		if d.From != 0 && !d.Healed {
			fmt.Fprintf(out, "         log entries lost: %d to %d\n", d.From, d.To)
		}
	}
	for _, g := range v.Gaps {
		fmt.Fprintf(out, "note: log entries %d to %d of life %.8s were never archived; no moment between them can be restored\n", g.From, g.To, g.Life)
	}
	if len(v.Unsigned) > 0 {
		fmt.Fprintf(out, "note: %d links, pieces of log and proofs are from before link %d, with which signatures began; with --verify-key-file they do not count\n",
			len(v.Unsigned), v.SignedFrom)
	}
	verdict := "Sound"
	switch {
	case v.Lost:
		verdict = fmt.Sprintf("DAMAGED: %d findings", len(v.Damage))
	case !v.Sound && o.Heal:
		verdict = "Restored: nothing is lost"
	case !v.Sound:
		verdict = "Damaged, nothing is lost: `erlmcp backup repair` restores it"
	}
	how := "names and sizes"
	if o.ReadData {
		how = fmt.Sprintf("%s of %s read", bytesText(v.ReadBytes), bytesText(v.Bytes))
	}
	fmt.Fprintf(out, "%s. %d backups, %d objects, %s", verdict, v.Backups, v.Objects, how)
	if !v.Authenticated {
		fmt.Fprint(out, ", not authenticated (no key was given)")
	}
	if v.SignedFrom != 0 {
		fmt.Fprintf(out, ", signed from link %d on", v.SignedFrom)
	}
	if v.Stray > 0 {
		fmt.Fprintf(out, "; %d objects of unfinished backups, the next prune removes them", v.Stray)
	}
	_, err := fmt.Fprintln(out)
	return err
}
