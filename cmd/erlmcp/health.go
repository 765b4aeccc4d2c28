package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
)

func (a *app) healthCommand() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the running server how it is",
		Long: `health asks the server that runs on the data directory, through its admin socket, for the state of its components,
and answers with an exit code that a supervisor or a container health check can use.

Exit codes: 0 healthy; 1 degraded (it works, somebody should look); 2 unhealthy, not running, or not answering; also 2
for wrong usage.`,
		Example: "  erlmcp health --data /var/lib/erlmcp\n  erlmcp health --json | jq .components",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "longest wait for the answer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		h, err := admin.NewClient(cfg.DataDir).Health(ctx)
		if err != nil {
			if asJSON && errors.Is(err, admin.ErrNoServer) {
				_ = writeJSON(a.out, admin.Health{Status: admin.Red, Phase: "stopped", Components: map[string]admin.Component{}, Timestamp: time.Now().UTC()})
			}
			return &exitError{code: 2, err: fmt.Errorf("%s: %w", cfg.DataDir, err)}
		}
		if asJSON {
			err = writeJSON(a.out, h)
		} else {
			err = a.printHealth(h)
		}
		if err != nil {
			return err
		}
		return healthExit(h.Status)
	}
	return cmd
}

func healthExit(l admin.Level) error {
	switch l {
	case admin.Green:
		return nil
	case admin.Yellow:
		return &exitError{code: 1}
	}
	return &exitError{code: 2}
}

// printHealth writes the worst components first.
func (a *app) printHealth(h admin.Health) error {
	fmt.Fprintf(a.out, "%s (%s)\n", h.Status, h.Phase)
	names := make([]string, 0, len(h.Components))
	for name := range h.Components {
		names = append(names, name)
	}
	rank := map[admin.Level]int{admin.Red: 0, admin.Yellow: 1, admin.Green: 2}
	sort.Slice(names, func(i, j int) bool {
		x, y := rank[h.Components[names[i]].Status], rank[h.Components[names[j]].Status]
		return x < y || x == y && names[i] < names[j]
	})
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	for _, name := range names {
		c := h.Components[name]
		fmt.Fprintf(w, "  %s\t%s\t%s\n", name, c.Status, c.Message)
	}
	return w.Flush()
}
