package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Say which build this is",
		Long:    "version prints the version of this program, the commit it was built from, the Go version and the platform.",
		Example: "  erlmcp version\n  erlmcp version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := version.Get()
			if asJSON {
				return writeJSON(a.out, info)
			}
			line := fmt.Sprintf("erlmcp %s", info.Version)
			if info.Commit != "" {
				line += fmt.Sprintf(" (commit %.12s)", info.Commit)
			}
			_, err := fmt.Fprintf(a.out, "%s, %s, %s\n", line, info.Go, info.Platform)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
