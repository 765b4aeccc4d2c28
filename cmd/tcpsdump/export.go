package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/snapshot"
	"github.com/erlmcp/erlmcp/tcps/classic"
)

// layoutClassic is the only layout of this version.
const layoutClassic = "priv/tcps"

func exportCommand(out io.Writer, k *keyFlags) *cobra.Command {
	f := stateFlags{key: k}
	var layout, data string
	c := &cobra.Command{
		Use:   "export --layout priv/tcps [--data STATE] OUT",
		Short: "Write the ledger as the classic tree of JSON documents and Turtle files",
		Long: `Write the ledger as a directory tree: receipts/, work_orders/, andon_events/, kanban/ (JSON documents with their checksums), ontology/ (.ttl),
indexes/, backups/, metadata.json and manifest.json (SHA-256 of every file). STATE is a data directory, a snapshot file, or a backup (REPO@12).

OUT must be absent or empty; it appears when it is complete.`,
		Example: `  tcpsdump export --layout priv/tcps --data /var/lib/erlmcp ./tree
  tcpsdump export --layout priv/tcps --data /var/backups/erlmcp@latest ./tree`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if layout != layoutClassic {
				return fmt.Errorf("%w: --layout %q is not %s", errUsage, layout, layoutClassic)
			}
			return export(c.Context(), out, data, args[0], f)
		},
	}
	f.repoFlag(c)
	c.Flags().StringVar(&layout, "layout", "", "priv/tcps")
	c.Flags().StringVar(&data, "data", "./data", "`STATE` to export")
	return c
}

func export(ctx context.Context, out io.Writer, from, to string, f stateFlags) error {
	if names, err := os.ReadDir(to); err == nil && len(names) > 0 {
		return fmt.Errorf("%s is not empty; nothing was changed", to)
	}
	s, err := openState(ctx, from, f)
	if err != nil {
		return err
	}
	defer s.close() //nolint:errcheck // read only
	tmp := to + ".exporting"
	dir, err := classic.NewDir(tmp)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // renamed after success
	meta, err := classic.Write(ctx, tableRows{s}, classic.Metadata{Timestamp: time.Now().UTC(), LogIndex: s.index, StateHash: fmt.Sprintf("%x", s.hash)}, dir)
	if err != nil {
		return err
	}
	if err := errors.Join(removeEmpty(to), os.Rename(tmp, to)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: log index %d, %d receipts, %d work orders, %d andon events, %d changes\n", to, meta.LogIndex, meta.Counts["receipts"],
		meta.Counts["work_orders"], meta.Counts["andon_events"], meta.Counts["changes"])
	return err
}

// tableRows is the classic.Source of a state.
type tableRows struct{ s *state }

// Rows implements classic.Source.
func (t tableRows) Rows(ctx context.Context, table string, fn func(key, value []byte) error) error {
	return t.s.rows(ctx, func(e *snapshot.Entry) error {
		if e.Table != table {
			return nil
		}
		return fn(e.Key, e.Value)
	})
}

func timeOf(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
