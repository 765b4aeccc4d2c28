package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/tcps/classic"
)

func backupCommand(out io.Writer) *cobra.Command {
	var f stateFlags
	var readData, asJSON bool
	var extract string
	c := &cobra.Command{
		Use:   "backup REPO|FILE",
		Short: "Show a backup repository or a classic archive, and check it",
		Long: `Show what a backup repository holds, and what is damaged in it. Without its key the chain of backups, indexes, times and sizes are shown, and
damage is found; with the key (ERLMCP_BACKUP_ENCRYPTION_KEY or --repo-key-file) the chain is authenticated, and row counts, state
hashes and labels are shown, too. With --verify-key-file the signatures are verified, with the key or without. --read-data reads every byte. Nothing is written, not even the ledger of verifications.

FILE is a classic archive, full-<time>.tar.gz or .tar.gz.enc: every file in it is compared with its manifest, and the archive with its .sha256 side
file. --extract DIR unpacks it.`,
		Example: `  tcpsdump backup /var/backups/erlmcp
  tcpsdump backup s3://erlmcp-backups/site-a --read-data --json
  tcpsdump backup full-20261121T020000.000Z.tar.gz.enc --extract ./tree`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if st, err := os.Stat(args[0]); err == nil && !st.IsDir() {
				return dumpArchive(c.Context(), out, args[0], f, extract, asJSON)
			}
			if extract != "" {
				return fmt.Errorf("%w: --extract is for archives; `erlmcp backup restore` brings a repository back", errUsage)
			}
			return dumpRepository(c.Context(), out, args[0], f, readData, asJSON)
		},
	}
	f.repoFlag(c)
	c.Flags().BoolVar(&readData, "read-data", false, "read every byte of a repository")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&extract, "extract", "", "unpack an archive into `DIR`, which must be absent or empty")
	return c
}

func dumpRepository(ctx context.Context, out io.Writer, url string, f stateFlags, readData, asJSON bool) error {
	o := backupfmt.VerifyOptions{ReadData: readData, NoLedger: true}
	repo, err := f.repository(ctx, url)
	var rep *backupfmt.VerifyReport
	switch {
	case errors.Is(err, backupfmt.ErrKeyRequired), errors.Is(err, backupfmt.ErrDamaged):
		st, serr := openStore(ctx, url)
		if serr != nil {
			return serr
		}
		trust, terr := f.trust()
		if terr != nil {
			return terr
		}
		if repo, err = backupfmt.OpenKeyless(ctx, st, trust); err == nil {
			rep, err = repo.Verify(ctx, o)
		}
	case err == nil:
		rep, err = repo.Verify(ctx, o)
	}
	if err != nil {
		return err
	}
	if asJSON {
		err = repositoryJSON(out, url, rep)
	} else {
		err = repositoryText(out, rep)
	}
	if err == nil && !rep.OK() {
		err = errDamage
	}
	return err
}

func repositoryJSON(out io.Writer, url string, rep *backupfmt.VerifyReport) error {
	links := []any{}
	for _, l := range rep.Chain.Links {
		links = append(links, struct {
			backupfmt.Inventory
			backupfmt.Details
			Digest string `json:"digest"`
		}{l.Inventory, l.Details, fmt.Sprintf("%x", l.Digest)})
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{
		"kind": "repository", "location": url, "authenticated": !rep.Keyless, "chain": links, "objects": rep.Objects, "bytes": rep.Bytes,
		"read_objects": rep.Read, "stray": rep.Stray, "gaps": rep.Gaps, "damage": rep.Damage,
		"signing": rep.Signing, "unsigned": rep.Unsigned,
	})
}

func repositoryText(out io.Writer, rep *backupfmt.VerifyReport) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LINK\tKIND\tMADE\tINDEX\tBUILDS ON\tOBJECTS\tBYTES\tROWS\tDIGEST\tLABEL")
	for _, l := range rep.Chain.Links {
		var size int64
		for _, refs := range [][]backupfmt.Ref{l.Packs, l.Lists} {
			for _, r := range refs {
				size += r.Size
			}
		}
		base, rows := "-", "-"
		if l.Base != 0 {
			base = fmt.Sprint(l.Base)
		}
		if !rep.Keyless && l.IsBackup() {
			rows = fmt.Sprint(l.Rows)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\t%d\t%d\t%s\t%.16x\t%s\n", l.Seq, l.Kind, when(l.Time.UnixMilli()), l.Index, base, len(l.Packs)+len(l.Lists),
			size, rows, l.Digest[:], l.Label)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, g := range rep.Gaps {
		fmt.Fprintf(out, "note: log entries %d to %d of life %s were never archived\n", g.From, g.To, g.Life)
	}
	for _, d := range rep.Damage {
		fmt.Fprintf(out, "DAMAGED: %s %s: %s", d.Kind, d.Object, d.Reason)
		if d.Healed {
			fmt.Fprint(out, " (parity can restore it)")
		}
		if len(d.Backups) > 0 && !d.Healed {
			fmt.Fprintf(out, "; cannot be restored: %v", d.Backups)
		}
		if d.From != 0 {
			fmt.Fprintf(out, "; log entries %d to %d", d.From, d.To)
		}
		fmt.Fprintln(out)
	}
	state := "authenticated with the key"
	if rep.Keyless {
		state = "not authenticated: no key"
	}
	if rep.Signing != nil {
		state += fmt.Sprintf(", signatures verified from link %d on (%d older objects without)", rep.Signing.From, len(rep.Unsigned))
	}
	_, err := fmt.Fprintf(out, "-- %d objects, %d bytes, %d read to the last byte, %d stray, %s\n", rep.Objects, rep.Bytes, rep.Read, len(rep.Stray), state)
	return err
}

func dumpArchive(ctx context.Context, out io.Writer, file string, f stateFlags, extract string, asJSON bool) error {
	secret, err := f.secret()
	if err != nil {
		return err
	}
	var each func(string, int64, io.Reader) error
	if extract != "" {
		// Nothing is left that was not checked to the end.
		tmp := extract + ".unpacking"
		if names, err := os.ReadDir(extract); err == nil && len(names) > 0 {
			return fmt.Errorf("%s is not empty; nothing was changed", extract)
		}
		dir, err := classic.NewDir(tmp)
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp) //nolint:errcheck // renamed after success
		each = dir.File
	}
	c, err := classic.Read(ctx, file, secret, each)
	if err != nil {
		return err
	}
	if extract != "" {
		if err := errors.Join(os.MkdirAll(filepath.Join(extract+".unpacking", "backups"), 0o700), removeEmpty(extract)); err != nil {
			return err
		}
		if err := os.Rename(extract+".unpacking", extract); err != nil {
			return err
		}
	}
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(c)
	}
	fmt.Fprintf(out, "%s backup of %s, log index %d\n", c.Type, c.Timestamp.UTC().Format("2006-01-02 15:04:05 UTC"), c.LogIndex)
	fmt.Fprintf(out, "state hash %s\n", c.StateHash)
	for _, part := range []struct{ name, folder string }{
		{"receipts", "receipts"},
		{"work orders", "work_orders"},
		{"andon events", "andon_events"},
		{"kanban", "kanban"},
		{"ontology (.ttl)", "ontology"},
		{"indexes", "indexes"},
	} {
		fmt.Fprintf(out, "  %-16s %d files\n", part.name, c.Folders[part.folder])
	}
	side := "no side file"
	if c.SideFileOK {
		side = "its side file says the same"
	}
	state := "not encrypted"
	if c.Encrypted {
		state = "AES-256-GCM, authenticated"
	}
	_, err = fmt.Fprintf(out, "  %-16s metadata.json, manifest.json\n%s; every file matches the manifest; SHA-256 %s (%s)\n", "metadata", state, c.SHA256, side)
	return err
}

// removeEmpty removes a directory that is there and empty.
func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
