package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/snapshot"
)

// errDiffer ends a diff that found differences.
var errDiffer = fmt.Errorf("%w: the states differ", errDamage)

func diffCommand(out io.Writer, k *keyFlags) *cobra.Command {
	f := stateFlags{key: k}
	var table string
	var asJSON, full bool
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "Show which rows differ between two states",
		Long: `Show which rows differ between two states. Each is a data directory, a snapshot file, or a backup: REPO@12, REPO@latest.

A line begins with - for a row that only A has, + for one that only B has, and ~ for one that both have with different content, log index or
deadline. Both are read in one pass; memory does not grow with them.

Exit codes: 0 no difference, 1 differences or unreadable input, 2 wrong usage.`,
		Example: `  tcpsdump diff ./data ./restored
  tcpsdump diff /var/backups/erlmcp@11 /var/backups/erlmcp@12 --table tcps_work_orders`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return diff(c.Context(), out, args[0], args[1], f, table, asJSON, full)
		},
	}
	f.repoFlag(c)
	c.Flags().StringVar(&table, "table", "", "only this table")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	c.Flags().BoolVar(&full, "full", false, "do not shorten values")
	return c
}

// pull turns the rows of a state into a sequence; err is set when it ends early.
func (s *state) pull(ctx context.Context, err *error) iter.Seq[*snapshot.Entry] {
	return func(yield func(*snapshot.Entry) bool) {
		*err = s.rows(ctx, func(e *snapshot.Entry) error {
			if !yield(e) {
				return context.Canceled // the reader has enough
			}
			return nil
		})
	}
}

// change is one line of a diff.
type change struct {
	Kind  string     `json:"kind"` // removed, added, changed
	Table string     `json:"table"`
	Key   textJSON   `json:"key"`
	A     *sideOfRow `json:"a,omitempty"`
	B     *sideOfRow `json:"b,omitempty"`
}

type sideOfRow struct {
	Value    textJSON `json:"value"`
	ModIndex uint64   `json:"mod_index"`
	Deadline int64    `json:"deadline_ms,omitempty"`
}

func side(e *snapshot.Entry) *sideOfRow {
	return &sideOfRow{Value: e.Value, ModIndex: e.ModIndex, Deadline: e.Deadline}
}

func diff(ctx context.Context, out io.Writer, a, b string, f stateFlags, table string, asJSON, full bool) error {
	left, err := openState(ctx, a, f)
	if err != nil {
		return err
	}
	defer left.close() //nolint:errcheck // read only
	right, err := openState(ctx, b, f)
	if err != nil {
		return err
	}
	defer right.close() //nolint:errcheck // read only
	w := bufio.NewWriterSize(out, 64<<10)
	enc := json.NewEncoder(w)
	counts := map[string]int{}
	show := func(c change) error {
		if table != "" && c.Table != table {
			return nil
		}
		counts[c.Kind]++
		if asJSON {
			return enc.Encode(c)
		}
		return showChange(w, c, full)
	}
	if err := merge(ctx, left, right, show); err != nil {
		_ = w.Flush()
		return err
	}
	n := counts["removed"] + counts["added"] + counts["changed"]
	if asJSON {
		err = enc.Encode(map[string]any{"kind": "summary", "a_index": left.index, "b_index": right.index, "removed": counts["removed"], "added": counts["added"], "changed": counts["changed"]})
	} else {
		_, err = fmt.Fprintf(w, "-- %s (index %d) and %s (index %d): %d only in the first, %d only in the second, %d changed\n", left.name, left.index,
			right.name, right.index, counts["removed"], counts["added"], counts["changed"])
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil && n > 0 {
		err = errDiffer
	}
	return err
}

// merge walks over both states in step.
func merge(ctx context.Context, left, right *state, show func(change) error) error {
	var errA, errB error
	nextA, stopA := iter.Pull(left.pull(ctx, &errA))
	defer stopA()
	nextB, stopB := iter.Pull(right.pull(ctx, &errB))
	defer stopB()
	a, okA := nextA()
	b, okB := nextB()
	for okA || okB {
		order := 0
		switch {
		case !okA:
			order = 1
		case !okB:
			order = -1
		default:
			order = snapshot.Compare(a.Table, a.Key, b.Table, b.Key)
		}
		// A side that ended with an error must not look like one that has no more rows.
		if !okA && errA != nil || !okB && errB != nil {
			break
		}
		var err error
		switch {
		case order < 0:
			err = show(change{Kind: "removed", Table: a.Table, Key: a.Key, A: side(a)})
		case order > 0:
			err = show(change{Kind: "added", Table: b.Table, Key: b.Key, B: side(b)})
		case !same(a, b):
			err = show(change{Kind: "changed", Table: a.Table, Key: a.Key, A: side(a), B: side(b)})
		}
		if err != nil {
			return err
		}
		if order <= 0 {
			a, okA = nextA()
		}
		if order >= 0 {
			b, okB = nextB()
		}
	}
	if errA != nil && !okA {
		return fmt.Errorf("%s: %w", left.name, errA)
	}
	if errB != nil && !okB {
		return fmt.Errorf("%s: %w", right.name, errB)
	}
	return nil
}

func showChange(w io.Writer, c change, full bool) error {
	limit := 120
	if full {
		limit = 0
	}
	var err error
	sign := map[string]string{"removed": "-", "added": "+", "changed": "~"}[c.Kind]
	line := func(prefix string, s *sideOfRow) {
		if s != nil && err == nil {
			_, err = fmt.Fprintf(w, "%s %s/%s @%d%s = %s\n", prefix, c.Table, text(c.Key, limit), s.ModIndex, deadlineText(s.Deadline), text(s.Value, limit))
		}
	}
	if c.Kind == "changed" {
		line(sign+"a", c.A)
		line(sign+"b", c.B)
		return err
	}
	line(sign, c.A)
	line(sign, c.B)
	return err
}
