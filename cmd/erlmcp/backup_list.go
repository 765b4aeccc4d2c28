package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const backupListLong = `list shows the backups of a repository, oldest first, and how far the stored log reaches: between the first backup and the
end of the log every moment can be restored.

ID is the number to restore. BASE is the backup an incremental builds on. A LIFE is one history: a restored store begins a new
one, and its backups do not mix with those of the old one.

Exit codes: 0 shown; 1 the repository cannot be opened or its chain is damaged; 2 wrong usage or configuration.`

// listing is the document of `backup list --json`.
type listing struct {
	Repository string           `json:"repository"`
	ID         string           `json:"id"`
	Head       backupfmt.Mark   `json:"head"` // newest link, for --min-head
	Encrypted  bool             `json:"encrypted"`
	Backups    []shownBackup    `json:"backups"`
	Log        []backupfmt.Span `json:"log"`
	SignedFrom uint64           `json:"signed_from,omitempty"` // link from which on everything is signed, verified; 0: nobody looked
}

// shownBackup is one backup as lists and show print it.
type shownBackup struct {
	backup.Created
	Label     string            `json:"label,omitempty"`
	Life      string            `json:"life"`
	Tables    map[string]uint64 `json:"tables,omitempty"`
	Chunks    uint64            `json:"chunks,omitempty"`
	NewChunks uint64            `json:"new_chunks,omitempty"`
	Packs     int               `json:"packs,omitempty"`
	Builds    []uint64          `json:"builds_on,omitempty"` // the full backup first
	Size      int64             `json:"restore_bytes,omitempty"`
	Signed    bool              `json:"signed,omitempty"`    // by a trusted key
	SignedBy  string            `json:"signed_by,omitempty"` // says so; verified if Signed
}

func (a *app) backupListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the backups of a repository",
		Long:  backupListLong,
		Example: `  erlmcp backup list --repo /var/backups/erlmcp
  erlmcp backup list --json | jq '.backups[-1].backup'`,
		Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.RunE = r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, _ *config.Config, _ *meter) error {
		c, err := repo.Chain(ctx)
		if err != nil {
			return err
		}
		doc := listing{Repository: repo.Store().String(), ID: repo.ID().String(), Head: c.Mark(), Encrypted: repo.Encrypted(), Backups: []shownBackup{}}
		for _, l := range c.Backups("") {
			b := shownBackup{Created: backup.CreatedOf(repo, l), Label: l.Label, Life: l.Life}
			b.signatureOf(l)
			doc.Backups = append(doc.Backups, b)
		}
		if c.Signing != nil {
			doc.SignedFrom = c.Signing.From
		}
		if doc.Log, err = repo.Spans(ctx); err != nil {
			return err
		}
		if r.asJSON {
			return writeJSON(a.out, doc)
		}
		return printListing(a.out, doc)
	})
	return cmd
}

func (b *shownBackup) signatureOf(l *backupfmt.Link) {
	b.Signed = l.Signed()
	if key, ok := l.Signer(); ok {
		b.SignedBy = key.String()
	}
}

func printListing(out io.Writer, doc listing) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTYPE\tMADE (UTC)\tINDEX\tSTATE OF (UTC)\tROWS\tSTORED\tBASE\tLIFE\tLABEL")
	for _, b := range doc.Backups {
		base := "-"
		if b.Base != 0 {
			base = fmt.Sprint(b.Base)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\t%d\t%s\t%s\t%.8s\t%s\n", b.Backup, b.Type, moment(b.Time), b.Index, moment(b.StateTime), b.Rows,
			bytesText(int64(b.NewBytes)), base, b.Life, b.Label)
	}
	if len(doc.Backups) == 0 {
		fmt.Fprintln(w, "no backups yet")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range doc.Log {
		fmt.Fprintf(out, "log of life %.8s: entries %d to %d, %s to %s, %s\n", s.Life, s.First, s.Last, moment(s.FirstTime), moment(s.LastTime), bytesText(s.Bytes))
	}
	state := "encrypted"
	if !doc.Encrypted {
		state = "NOT encrypted"
	}
	if doc.SignedFrom != 0 {
		state += fmt.Sprintf(", signed from link %d on", doc.SignedFrom)
		for _, b := range doc.Backups {
			if !b.Signed {
				fmt.Fprintf(out, "note: backup %d is not signed by a trusted key; with --verify-key-file it is not restored\n", b.Backup)
			}
		}
	}
	_, err := fmt.Fprintf(out, "repository %s, %s, head %s, %s\n", doc.ID, state, doc.Head, doc.Repository)
	return err
}

// moment is a time for a person, in UTC.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateTime)
}

const backupShowLong = `show prints everything that is known about a backup: what it holds, what it builds on, its state hash, and how many rows each
table has. latest is the newest backup.

Exit codes: 0 shown; 1 there is no such backup, or the repository cannot be read; 2 wrong usage or configuration.`

func (a *app) backupShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show ID|latest",
		Short:   "Show what a backup holds",
		Long:    backupShowLong,
		Example: "  erlmcp backup show 12 --repo /var/backups/erlmcp\n  erlmcp backup show latest --json | jq .state_hash",
		Args:    cobra.ExactArgs(1),
	}
	r := a.repoFlags(cmd)
	cmd.ValidArgsFunction = r.completeIDs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seq, err := backupID(args[0])
		if err != nil {
			return err
		}
		return r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, _ *config.Config, _ *meter) error {
			doc, err := describe(ctx, repo, seq)
			if err != nil {
				return err
			}
			if r.asJSON {
				return writeJSON(a.out, doc)
			}
			return printBackup(a.out, doc)
		})(cmd, args)
	}
	return cmd
}

// describe collects what is known about a backup, 0: the newest.
func describe(ctx context.Context, repo *backupfmt.Repo, seq uint64) (shownBackup, error) {
	c, err := repo.Chain(ctx)
	if err != nil {
		return shownBackup{}, err
	}
	if seq == 0 {
		all := c.Backups("")
		if len(all) == 0 {
			return shownBackup{}, fmt.Errorf("%w: the repository holds none", backupfmt.ErrNoBackup)
		}
		seq = all[len(all)-1].Seq
	}
	l, err := c.Backup(seq)
	if err != nil {
		return shownBackup{}, err
	}
	run, err := c.Run(l)
	if err != nil {
		return shownBackup{}, err
	}
	doc := shownBackup{
		Created: backup.CreatedOf(repo, l), Label: l.Label, Life: l.Life, Tables: l.Tables, Chunks: l.Chunks, NewChunks: l.NewChunks, Packs: len(l.Packs),
	}
	doc.signatureOf(l)
	for _, part := range run {
		if part != l {
			doc.Builds = append(doc.Builds, part.Seq)
		}
		for _, refs := range [][]backupfmt.Ref{part.Packs, part.Lists} {
			for _, ref := range refs {
				doc.Size += ref.Size
			}
		}
	}
	return doc, nil
}

func printBackup(out io.Writer, b shownBackup) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("backup", "%d, %s", b.Backup, b.Type)
	if b.Label != "" {
		row("label", "%s", b.Label)
	}
	row("made", "%s UTC", moment(b.Time))
	row("state", "log index %d, of %s UTC", b.Index, moment(b.StateTime))
	row("state hash", "%s", b.StateHash)
	row("life", "%s", b.Life)
	switch {
	case b.Signed:
		row("signed by", "%s, verified", b.SignedBy)
	case b.SignedBy != "":
		row("signed by", "%s, NOT verified (--verify-key-file)", b.SignedBy)
	}
	if len(b.Builds) > 0 {
		row("builds on", "%v", b.Builds)
	}
	row("rows", "%d written, %d removed, %s", b.Rows, b.Removed, bytesText(int64(b.RawBytes)))
	row("stored", "%s in %d new chunks of %d", bytesText(int64(b.NewBytes)), b.NewChunks, b.Chunks)
	row("a restore reads", "at most %s", bytesText(b.Size))
	for _, name := range sortedKeys(b.Tables) {
		row("table", "%s: %d rows", name, b.Tables[name])
	}
	return w.Flush()
}
