// Command erlmcp runs and examines an erlmcp server. See `erlmcp --help`, or docs/architecture.md for what is behind it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/config"
)

// Exit codes of every command; health documents its own.
const (
	exitOK      = 0
	exitFailure = 1 // the command could not do its work, or found damage
	exitUsage   = 2 // wrong flags, arguments or configuration: nothing was tried
)

// app is the world of one command line.
type app struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
	running  bool // a command has begun its work: errors from now on are not about usage
}

// exitError carries an exit code out of a command. A nil err means that everything was said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()}
	os.Exit(a.run(os.Args[1:]))
}

// run executes one command line and returns the exit code of the process.
func (a *app) run(args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	code := exitFailure
	var exit *exitError
	var bad config.Errors
	var one *config.Error
	switch {
	case errors.As(err, &exit):
		code = exit.code
		if exit.err == nil {
			return code
		}
	case errors.As(err, &bad), errors.As(err, &one):
		code = exitUsage
	case !a.running:
		fmt.Fprintf(a.err, "erlmcp: %s\nRun '%s --help' for usage.\n", err, cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(a.err, "erlmcp: %s\n", err)
	return code
}

const rootLong = `erlmcp is an MCP server that does not lose state. Everything it acknowledged is on disk first, checksummed and
chained, so that a crash, a kill -9 or a power failure costs nothing, and damage is found instead of served.

Configuration comes from a YAML file (--config), ERLMCP_* environment variables and flags, in that order of
increasing strength; ` + "`erlmcp config print-defaults`" + ` explains every setting. Secrets come from the environment or
from files, never from settings.

Exit codes: 0 success; 1 failure, or damage found; 2 wrong usage or configuration.`

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "erlmcp",
		Short:         "An MCP server that does not lose state",
		Long:          rootLong,
		Args:          knownCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
		// Runs after flags and arguments were accepted and before the command itself.
		PersistentPreRun: func(*cobra.Command, []string) { a.running = true },
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	root.AddCommand(a.serveCommand(), a.clusterCommand(), a.verifyCommand(), a.statusCommand(), a.healthCommand(), a.sessionCommand(), a.taskCommand(), a.configCommand(), a.tokenCommand(), a.auditCommand(), a.versionCommand(),
		a.backupCommand(), a.drillCommand())
	return root
}

// knownCommand refuses what is not a subcommand, with the one that was probably meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("%s has no command %q%s", cmd.CommandPath(), args[0], hint)
}

// settings are the flags that end up in the configuration.
type settings struct {
	a    *app
	file string
	set  []string
	key  map[string]string // flag name -> setting
}

// settingFlag is a flag that is a shorthand for a setting.
type settingFlag struct{ name, key, placeholder, usage string }

var (
	dataFlag          = settingFlag{"data", "data_dir", "DIR", "directory of the store"}
	dataKeyFileFlag   = settingFlag{"data-key-file", "storage.data_key_file", "FILE", "file with the at-rest key"}
	listenFlag        = settingFlag{"listen", "server.listen", "ADDR", "address of /mcp, /health and /ready (default 127.0.0.1:8080)"}
	tcpFlag           = settingFlag{"tcp", "server.tcp_listen", "ADDR", "address of MCP as lines over raw TCP (default off)"}
	metricsListenFlag = settingFlag{"metrics-listen", "server.metrics_listen", "ADDR", `address of /metrics, or "off" (default 127.0.0.1:9090)`}
	tokenFileFlag     = settingFlag{"token-file", "auth.token_file", "FILE", "file of the static bearer tokens"}
	logLevelFlag      = settingFlag{"log-level", "log.level", "LEVEL", "debug, info, warn or error (default info)"}
	logFormatFlag     = settingFlag{"log-format", "log.format", "FORMAT", "text or json (default text)"}
)

// settingFlags registers --config, --set and the given shorthands on cmd.
func (a *app) settingFlags(cmd *cobra.Command, flags ...settingFlag) *settings {
	s := &settings{a: a, key: map[string]string{}}
	f := cmd.Flags()
	f.StringVar(&s.file, "config", "", "YAML configuration `FILE`")
	f.StringArrayVar(&s.set, "set", nil, "any other setting, `KEY=VALUE` (repeatable)")
	for _, flag := range flags {
		s.key[flag.name] = flag.key
		f.String(flag.name, "", flag.usage)
		f.Lookup(flag.name).Usage = flag.usage
		f.Lookup(flag.name).Value = &placeholderValue{Value: f.Lookup(flag.name).Value, name: flag.placeholder}
	}
	_ = cmd.RegisterFlagCompletionFunc("set", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var keys []string
		for _, v := range config.Default().Values() {
			keys = append(keys, v.Key+"=")
		}
		return keys, cobra.ShellCompDirectiveNoSpace
	})
	for name, choices := range map[string][]string{"log-level": {"debug", "info", "warn", "error"}, "log-format": {"text", "json"}} {
		if f.Lookup(name) != nil {
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	return s
}

// load merges file, environment and the flags that were given.
func (s *settings) load(cmd *cobra.Command) (*config.Config, error) {
	src := config.Sources{File: s.file, Environ: s.a.environ}
	for _, kv := range s.set {
		key, value, ok := cut(kv)
		if !ok {
			return nil, config.Errors{{Where: "flag --set", Problem: fmt.Sprintf("%q is not KEY=VALUE", kv)}}
		}
		src.Flags = append(src.Flags, config.Assignment{Flag: "--set", Key: key, Value: value})
	}
	for name, key := range s.key {
		if f := cmd.Flags().Lookup(name); f.Changed {
			src.Flags = append(src.Flags, config.Assignment{Flag: "--" + name, Key: key, Value: f.Value.String()})
		}
	}
	return config.Load(src)
}
