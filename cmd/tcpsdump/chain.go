package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/forensic"
	"github.com/erlmcp/erlmcp/wal"
)

func chainCommand(out io.Writer, k *keyFlags) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "chain DIR",
		Short: "Verify the log's hash chain and name the first bad place",
		Long: `Verify every byte of the log that carries data: checksums of records, batches
and segments, and the BLAKE3 chain that links every batch to all before it.

For every damage it says what is damaged, what is certainly intact, what that
means for the data, and what to do next. A torn last write is normal after a
crash and is no damage.

Exit codes: 0 clean, 1 damage, 2 wrong usage.`,
		Example: "  tcpsdump chain ./data\n  tcpsdump chain ./data --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := k.load()
			if err != nil {
				return err
			}
			return dumpChain(out, vfs.Default, args[0], key, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return c
}

func dumpChain(out io.Writer, fs vfs.FS, dir string, key []byte, asJSON bool) error {
	log, err := logDir(fs, dir)
	if err != nil {
		return err
	}
	var segments []wal.SegmentInfo
	r, err := wal.Inspect(fs, log, wal.InspectOptions{Key: key}, wal.Visitor{
		Segment: func(s wal.SegmentInfo) error { segments = append(segments, s); return nil },
	})
	if err != nil {
		return err
	}
	letter, err := forensic.Examine(fs, dir, key)
	if err != nil {
		return err
	}
	if asJSON {
		err = chainJSON(out, &r, segments, letter)
	} else {
		chainText(out, &r, segments, letter)
	}
	if err != nil {
		return err
	}
	if !r.Clean || letter.Damaged() {
		return errDamage
	}
	return nil
}

func chainText(out io.Writer, r *wal.Report, segments []wal.SegmentInfo, l *forensic.Letter) {
	for _, s := range segments {
		state := "active"
		if s.Sealed {
			state = "sealed"
		}
		fmt.Fprintf(out, "segment %-4d %s  %-16s  %d batches  chain %x -> %x\n", s.ID, state, span(s.FirstIndex, s.LastIndex), s.Batches, s.PrevChain[:8], s.Chain[:8])
	}
	for _, f := range r.Findings {
		if f.Severity != wal.SeverityDamage {
			printFindings(out, []wal.Finding{f})
		}
	}
	l.WriteText(out)
	if r.Clean && !l.Damaged() {
		fmt.Fprintf(out, "clean: log %x, %d batches in %d segments, %s, chain %x\n",
			r.LogID[:4], r.Batches, r.Segments, span(r.FirstIndex, r.LastIndex), r.Chain)
	}
}

func chainJSON(out io.Writer, r *wal.Report, segments []wal.SegmentInfo, l *forensic.Letter) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(map[string]any{
		"log_id": hex.EncodeToString(r.LogID[:]), "clean": r.Clean && !l.Damaged(), "encrypted": r.Encrypted, "torn_tail": r.TornTail,
		"segments": segments, "batches": r.Batches, "first_index": r.FirstIndex, "last_index": r.LastIndex,
		"chain": hex.EncodeToString(r.Chain[:]), "findings": append([]wal.Finding{}, r.Findings...), "diagnoses": l.Diagnoses,
		"store": l.Store,
	})
}
