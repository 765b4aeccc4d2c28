package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
)

func snapshotCommand(out io.Writer) *cobra.Command {
	var f storeFlags
	c := &cobra.Command{
		Use:   "snapshot FILE",
		Short: "Show a snapshot file: header, rows, verified block by block",
		Long: `Show the rows of a snapshot file. Every block is verified before its rows are shown; of a damaged file the rows before the damage are shown, and the damage
is named.

Exit codes: 0 clean, 1 damage found or unreadable input, 2 wrong usage.`,
		Example: "  tcpsdump snapshot state.snap --summary\n  tcpsdump snapshot state.snap --table tcps_work_orders --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return dumpSnapshot(c.Context(), out, args[0], f)
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

func dumpSnapshot(ctx context.Context, out io.Writer, file string, f storeFlags) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := snapshot.NewReader(in, snapshot.ReaderOptions{})
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	w := bufio.NewWriterSize(out, 64<<10)
	enc := json.NewEncoder(w)
	tables := map[string]*tableSize{}
	var rowErr error
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			rowErr = err
			break
		}
		if f.table != "" && e.Table != f.table || f.key != "" && !keyMatches(f.key, e.Key) {
			continue
		}
		t := tables[e.Table]
		if t == nil {
			t = &tableSize{}
			tables[e.Table] = t
		}
		t.rows++
		t.bytes += uint64(len(e.Key) + len(e.Value))
		if f.summary {
			continue
		}
		if err := showRow(w, enc, rowOf(e), f); err != nil {
			return err
		}
	}
	if err := snapshotSummary(w, enc, r, tables, rowErr, f); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if rowErr != nil {
		return errDamage
	}
	return nil
}

func rowOf(e *snapshot.Entry) engine.Row {
	row := engine.Row{Table: e.Table, Key: e.Key, Value: e.Value, ModIndex: e.ModIndex}
	if e.Deadline != 0 {
		row.Deadline = timeOf(e.Deadline)
	}
	return row
}

func snapshotSummary(w io.Writer, enc *json.Encoder, r *snapshot.Reader, tables map[string]*tableSize, damage error, f storeFlags) error {
	h := r.Header()
	if f.asJSON {
		sizes := map[string]map[string]uint64{}
		for n, t := range tables {
			sizes[n] = map[string]uint64{"rows": t.rows, "bytes": t.bytes}
		}
		doc := map[string]any{"kind": "summary", "index": h.Index, "term": h.Term, "log_id": fmt.Sprintf("%x", h.LogID), "tables": sizes}
		if damage != nil {
			doc["damage"] = damage.Error()
		} else {
			doc["state_hash"] = fmt.Sprintf("%x", r.Footer().StateHash)
		}
		return enc.Encode(doc)
	}
	for _, n := range sortedNames(tables) {
		fmt.Fprintf(w, "-- table %-24s %8d rows %10d bytes\n", n, tables[n].rows, tables[n].bytes)
	}
	if damage != nil {
		_, err := fmt.Fprintf(w, "DAMAGED: the rows above are those before the damage: %v\n", damage)
		return err
	}
	_, err := fmt.Fprintf(w, "-- snapshot after log index %d, term %d, made %s, state hash %x: every block verified\n", h.Index, h.Term, when(h.Created.UnixMilli()), r.Footer().StateHash)
	return err
}
