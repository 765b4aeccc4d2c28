package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sort"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/engine"
)

// storeFlags choose what `tcpsdump store` shows.
type storeFlags struct {
	table, key   string
	asJSON, full bool
	summary      bool
}

func storeCommand(out io.Writer, k *keyFlags) *cobra.Command {
	var f storeFlags
	c := &cobra.Command{
		Use:   "store DIR",
		Short: "Show the materialised state: tables, rows, versions",
		Long: `Show the rows of a data directory's store as they are on disk.

The store lags behind the log: what was acknowledged after the index shown at
the end is in the log only (see tcpsdump wal --from INDEX) and is applied when
the server starts.

Each row shows the log index that wrote it, so the change itself can be looked
up with tcpsdump wal --from N --to N.`,
		Example: `  tcpsdump store ./data --summary
  tcpsdump store ./data --table work_orders
  tcpsdump store ./data --table andon --key 'ANDON-17*' --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := k.load()
			if err != nil {
				return err
			}
			return dumpStore(out, vfs.Default, args[0], key, f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.table, "table", "", "only this table")
	fl.StringVar(&f.key, "key", "", "only this key; a * at the end matches any continuation; 0x... for hex")
	fl.BoolVar(&f.asJSON, "json", false, "one JSON object per line")
	fl.BoolVar(&f.full, "full", false, "do not shorten values")
	fl.BoolVar(&f.summary, "summary", false, "only the number of rows and bytes per table")
	return c
}

// refusedEntries reads which log entries changed nothing; nil if the store cannot be read.
func refusedEntries(fs vfs.FS, dir string, key []byte) map[uint64]string {
	r, err := engine.OpenReadOnly(fs, dir, engine.ReadOptions{Key: key})
	if err != nil {
		return nil
	}
	defer r.Close() //nolint:errcheck // read only
	refused := map[uint64]string{}
	if err := r.Rejected(func(index uint64, reason string) error { refused[index] = reason; return nil }); err != nil {
		return nil
	}
	return refused
}

type tableSize struct{ rows, bytes uint64 }

func dumpStore(out io.Writer, fs vfs.FS, dir string, key []byte, f storeFlags) error {
	r, err := engine.OpenReadOnly(fs, dir, engine.ReadOptions{Key: key})
	if err != nil {
		return fmt.Errorf("%w\n(`tcpsdump chain %s` says what is intact)", err, dir)
	}
	defer r.Close() //nolint:errcheck // read only
	w := bufio.NewWriterSize(out, 64<<10)
	enc := json.NewEncoder(w)
	tables := map[string]*tableSize{}
	rowErr := r.Rows(f.table, func(row engine.Row) error {
		if f.key != "" && !keyMatches(f.key, row.Key) {
			return nil
		}
		t := tables[row.Table]
		if t == nil {
			t = &tableSize{}
			tables[row.Table] = t
		}
		t.rows++
		t.bytes += uint64(len(row.Key) + len(row.Value))
		if f.summary {
			return nil
		}
		return showRow(w, enc, row, f)
	})
	if err := storeSummary(w, enc, r, tables, f); err != nil {
		return err
	}
	if rowErr != nil {
		fmt.Fprintf(w, "DAMAGED: the rows above are those before the damage: %v\n", rowErr)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if rowErr != nil {
		return errDamage
	}
	return nil
}

func showRow(w io.Writer, enc *json.Encoder, row engine.Row, f storeFlags) error {
	limit := 200
	if f.full {
		limit = 0
	}
	value := text(row.Value, limit)
	if row.Sealed {
		value = "(encrypted; give the key to see it)"
	}
	if f.asJSON {
		o := map[string]any{"kind": "row", "table": row.Table, "key": textJSON(row.Key), "value": textJSON(row.Value), "mod_index": row.ModIndex}
		if !row.Deadline.IsZero() {
			o["deadline"] = when(row.Deadline.UnixMilli())
		}
		if row.Sealed {
			o["sealed"] = true
			delete(o, "value")
		}
		return enc.Encode(o)
	}
	until := ""
	if !row.Deadline.IsZero() {
		until = " until " + when(row.Deadline.UnixMilli())
	}
	_, err := fmt.Fprintf(w, "%s/%s @%d%s = %s\n", row.Table, text(row.Key, limit), row.ModIndex, until, value)
	return err
}

func storeSummary(w io.Writer, enc *json.Encoder, r *engine.Reader, tables map[string]*tableSize, f storeFlags) error {
	names := make([]string, 0, len(tables))
	for n := range tables {
		names = append(names, n)
	}
	sort.Strings(names)
	applied, hash := r.Applied()
	if f.asJSON {
		sizes := map[string]map[string]uint64{}
		for n, t := range tables {
			sizes[n] = map[string]uint64{"rows": t.rows, "bytes": t.bytes}
		}
		return enc.Encode(map[string]any{"kind": "summary", "applied_index": applied, "state_hash": fmt.Sprintf("%x", hash), "tables": sizes})
	}
	for _, n := range names {
		fmt.Fprintf(w, "-- table %-24s %8d rows %10d bytes\n", n, tables[n].rows, tables[n].bytes)
	}
	_, err := fmt.Fprintf(w, "-- state after log index %d, state hash %x\n", applied, hash)
	return err
}
