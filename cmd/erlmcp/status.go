package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
)

const statusLong = `status shows what the data directory holds and, when a server runs on it, what that server is doing: addresses, health, log and
store indexes, state hash, work in progress and open andons.

A stopped directory is looked at without changing it: nothing is replayed, locked or repaired.

Exit codes: 0 the status was shown (healthy or not: see erlmcp health); 1 it could not be read; 2 wrong usage.`

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show what the data directory holds and what its server is doing",
		Long:    statusLong,
		Example: "  erlmcp status --data /var/lib/erlmcp\n  erlmcp status --json | jq -r .endpoints.mcp",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag, dataKeyFileFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "longest wait for a running server's answer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		status, err := admin.NewClient(cfg.DataDir).Status(ctx)
		if errors.Is(err, admin.ErrNoServer) {
			key, keyErr := cfg.DataKey(a.environ, nil)
			if keyErr != nil {
				return keyErr
			}
			status, err = node.StoppedStatus(cfg.DataDir, key)
		}
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(a.out, status)
		}
		return printStatus(a.out, status)
	}
	return cmd
}

func printStatus(out io.Writer, s admin.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	if s.Running {
		row("server", "running, pid %d, up %s, version %s", s.PID, (time.Duration(s.Uptime) * time.Second).String(), s.Version.Version)
		for _, e := range [][2]string{{"mcp", s.Endpoints.MCP}, {"health", s.Endpoints.Health}, {"metrics", s.Endpoints.Metrics}} {
			if e[1] != "" {
				row(e[0], "%s", e[1])
			}
		}
		if s.Endpoints.Stdio {
			row("stdio", "yes")
		}
	} else {
		row("server", "not running")
	}
	row("data", "%s", s.DataDir)
	if s.Health != nil {
		row("state", "%s%s", s.Health.Status, troubles(s.Health))
	}
	row("log", "entries %d..%d, %d segments, %s on disk, encryption %s", s.Log.FirstIndex, s.Log.LastIndex, s.Log.Segments, bytesText(s.Log.BytesOnDisk), onOff(s.Log.Encrypted))
	if s.Log.TornTail {
		row("", "the last write did not finish (never acknowledged); the next start cuts it")
	}
	for _, damage := range s.Log.Damage {
		row("", "DAMAGE: %s", damage)
	}
	if len(s.Log.Damage) > 0 {
		row("", "`erlmcp verify --data %s` says what it means", s.DataDir)
	}
	if s.Running {
		row("store", "applied %d, flushed to %d, %s on disk", s.Store.AppliedIndex, s.Store.DurableIndex, bytesText(int64(s.Store.BytesOnDisk)))
	} else {
		row("store", "flushed to %d, the next start applies %d more from the log", s.Store.DurableIndex, s.Log.LastIndex-min(s.Log.LastIndex, s.Store.DurableIndex))
	}
	row("state hash", "%s", s.Store.StateHash)
	if s.Ledger != nil {
		row("work", "%s", workText(s.Ledger))
		row("andons", "%d open", s.Ledger.OpenAndons)
	}
	backupRows(row, s.Backup)
	byHandRows(row, s.ByHand)
	if r := s.Recovery; r != nil {
		text := fmt.Sprintf("%d log entries checked, %d replayed, in %.3fs", r.LogEntries, r.ReplayedEntries, r.OpenSeconds)
		if r.TornTail != "" {
			text += "; an unfinished last write was cut"
		}
		if len(r.Repairs) > 0 {
			text += fmt.Sprintf("; %d redundant parts were damaged, data intact", len(r.Repairs))
		}
		row("last start", "%s", text)
	}
	return w.Flush()
}

// troubles lists the components that are not healthy.
func troubles(h *admin.Health) string {
	var bad []string
	for name, c := range h.Components {
		if c.Status != admin.Green {
			bad = append(bad, name+": "+c.Message)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	sort.Strings(bad)
	return " (" + strings.Join(bad, "; ") + ")"
}

func workText(l *admin.Ledger) string {
	var parts []string
	for bucket, n := range l.WorkInProgress {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", bucket, n))
		}
	}
	if len(parts) == 0 {
		return "nothing in progress"
	}
	sort.Strings(parts)
	return "in progress: " + strings.Join(parts, ", ")
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// bytesText writes a size with three significant digits.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
