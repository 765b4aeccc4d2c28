package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/mcp"
)

const auditLong = `audit shows who called which tool, newest first. It asks the server that runs on the data directory, or reads the directory
when none does.

Every tools/call on every carrier leaves a record: time, principal, tool, SHA-256 of the arguments (not the arguments),
outcome (ok, tool_error, error, denied, task), duration, session (its first 8 characters), request and trace id. Calls that were
refused for their form or their rate leave none. A call that changes something in the store has a record from that change on,
committed with it: "unfinished" is its outcome until the call has ended. How calls ended is committed about 0.1 s later; what a
killed server had not committed of that is missing here, unless audit.durability lets answers wait for it. Every change of the store
is also in its log with its actor (see ` + "`tcpsdump`" + `).

Records are kept for audit.retention, at most audit.max_bytes of them.`

func (a *app) auditCommand() *cobra.Command {
	var q mcp.AuditQuery
	var since, until string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Show who called which tool",
		Long:    auditLong,
		Example: "  erlmcp audit --since 1h --outcome denied\n  erlmcp audit --principal ci --tool andon_trigger --limit 1000 --json | jq -s 'length'",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag, dataKeyFileFlag)
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "records from this `TIME` on: RFC 3339, or a duration before now such as 90m")
	f.StringVar(&until, "until", "", "records before this `TIME`")
	f.StringVar(&q.Principal, "principal", "", "records of this `PRINCIPAL`")
	f.StringVar(&q.Tool, "tool", "", "records of this `TOOL`")
	f.StringVar(&q.Outcome, "outcome", "", "records with this `OUTCOME`: ok, tool_error, error, denied, task or unfinished")
	f.IntVar(&q.Limit, "limit", 100, "most records, `N`")
	f.BoolVar(&asJSON, "json", false, "print one JSON object per line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		now := time.Now()
		if q.Since, err = pointInTime(since, now); err == nil {
			q.Until, err = pointInTime(until, now)
		}
		if err == nil && q.Limit < 1 {
			err = errors.New("--limit must be at least 1")
		}
		if err != nil {
			return &exitError{code: exitUsage, err: err}
		}
		w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
		if !asJSON {
			fmt.Fprintln(w, "TIME\tPRINCIPAL\tTOOL\tOUTCOME\tMS\tARGUMENTS\tSESSION\tREQUEST\tTRACE")
		}
		print := func(rec mcp.AuditRecord) error {
			if asJSON {
				return json.NewEncoder(a.out).Encode(rec)
			}
			outcome := rec.Outcome
			if rec.Code != 0 {
				outcome = fmt.Sprint(outcome, " ", rec.Code)
			}
			_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f\t%.12s\t%s\t%s\t%s\n", rec.Time.Format("2006-01-02T15:04:05.000Z07:00"),
				harmless(rec.Principal), harmless(rec.Tool), outcome, rec.Millis, rec.Arguments, rec.Session, harmless(rec.RequestID), rec.TraceID)
			return err
		}
		err = a.onRuntime(cmd.Context(), cmd.Context(), cfg, false, func(ctx context.Context, from source) error { return from.Audit(ctx, q, print) })
		return errors.Join(err, w.Flush())
	}
	return cmd
}

// pointInTime reads RFC 3339, or a duration before now.
func pointInTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q is neither a time such as 2026-11-21T12:00:00Z nor a duration such as 90m", text)
	}
	return t, nil
}
