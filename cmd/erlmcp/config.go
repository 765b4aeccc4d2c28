package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/config"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print or check the configuration",
		Args:  knownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(a.configDefaultsCommand(), a.configCheckCommand())
	return cmd
}

func (a *app) configDefaultsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "print-defaults",
		Short: "Print a commented YAML file with every setting and its default",
		Long: `print-defaults prints a configuration file that holds every setting, what it means, its range and its default.
The file is accepted as it is; keep the lines you change.`,
		Example: "  erlmcp config print-defaults > erlmcp.yaml\n  erlmcp config check --config erlmcp.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return config.WriteDefaults(a.out) },
	}
}

func (a *app) configCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and show what is in effect",
		Long: `check merges the file, the environment and the flags exactly as serve does, and prints every setting with its
effective value and where that came from. It opens nothing.

All problems are listed at once, one line each, with file and line, the key, and what would be accepted.

Exit codes: 0 the configuration is usable; 2 it is not.`,
		Example: "  erlmcp config check --config erlmcp.yaml\n  ERLMCP_LOG_LEVEL=debug erlmcp config check --json",
		Args:    cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag, listenFlag, tcpFlag, metricsListenFlag, logLevelFlag, logFormatFlag, dataKeyFileFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		key, err := cfg.DataKey(a.environ, nil)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(a.out, map[string]any{"valid": true, "encrypted": key != nil, "settings": cfg.Values()})
		}
		w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
		for _, v := range cfg.Values() {
			fmt.Fprintf(w, "%s\t%s\t%s\n", v.Key, v.Value, v.Origin)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "\nThe configuration is usable. At-rest encryption: %s.\n", map[bool]string{true: "on", false: "off"}[key != nil])
		return err
	}
	return cmd
}
