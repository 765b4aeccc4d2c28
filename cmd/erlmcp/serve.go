package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/internal/gcfloor"
)

const serveLong = `serve opens the data directory (creating it when it is new), recovers what the last run left, and serves MCP until it is
told to stop.

Over HTTP it serves /mcp (Streamable HTTP, protocol revisions 2025-11-25 and 2026-07-28), /health and /ready, and
Prometheus metrics on a port of their own; WebSockets (subprotocol mcp) at /mcp/ws; with --tcp also newline-delimited
JSON-RPC over raw TCP. Once it is ready it prints the addresses and a client configuration to
paste. With --stdio it speaks MCP on stdin and stdout, prints nothing else there, and opens a port only if --listen or
--metrics-listen (or their settings) are given; it ends when stdin ends.

Logs go to stderr. DIR/serve.json holds the process id and the addresses while the server runs.

With auth.token_file or auth.issuer every request to /mcp needs a bearer token (see ` + "`erlmcp token`" + `); without them the
server refuses to listen where other machines reach it, unless auth.allow_anonymous says so. SIGHUP makes it read the
files of tokens and of the TLS certificate again; it also notices by itself.

SIGTERM and SIGINT stop it gracefully within server.shutdown_timeout (5s); a second signal ends it at once. When the
disk refuses a write the server exits immediately with code 1: everything it acknowledged is safe, and the next start
recovers it.

Without --data the directory is $XDG_DATA_HOME/erlmcp or ~/.local/share/erlmcp.

Exit codes: 0 stopped as asked; 1 it could not start, or failed; 2 wrong usage or configuration.`

func (a *app) serveCommand() *cobra.Command {
	var stdio bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long:  serveLong,
		Example: `  erlmcp serve
  erlmcp serve --data /var/lib/erlmcp --listen 127.0.0.1:8080 --log-format json
  erlmcp serve --config /etc/erlmcp.yaml --set storage.retain_log=1GiB
  erlmcp serve --stdio --data ~/ledger`,
		Args: cobra.NoArgs,
	}
	s := a.settingFlags(cmd, dataFlag, listenFlag, tcpFlag, metricsListenFlag, logLevelFlag, logFormatFlag, dataKeyFileFlag)
	cmd.Flags().BoolVar(&stdio, "stdio", false, "speak MCP on stdin and stdout")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load(cmd)
		if err != nil {
			return err
		}
		return a.serve(cfg, stdio)
	}
	return cmd
}

// heapFloor is how large the heap may grow before garbage is collected: an idle server stays below 64 MiB with it, and
// one under load collects a third as often. GOGC and GOMEMLIMIT overrule it.
const heapFloor = 32 << 20

func (a *app) serve(cfg *config.Config, stdio bool) error {
	key, err := cfg.DataKey(a.environ, nil)
	if err != nil {
		return err
	}
	secret, err := cfg.ClusterSecret(a.environ)
	if err != nil {
		return err
	}
	logger := newLogger(a.err, cfg.Log)
	executable, err := os.Executable()
	if err != nil {
		executable = os.Args[0]
	}
	ctx, stop := untilSignal(logger)
	defer stop()
	reload, ignore := onHangup()
	defer ignore()
	defer gcfloor.Start(heapFloor)()
	err = node.Run(ctx, node.Options{
		Config: cfg, Key: key, Secret: secret, Stdio: stdio, In: a.in, Out: a.out, Logger: logger, Executable: executable,
		FS: diskOf(), Reload: reload, Environ: a.environ, Extend: extraTools(),
	})
	if errors.Is(err, node.ErrFailStop) {
		return &exitError{code: exitFailure, err: err}
	}
	return err
}

// newLogger writes structured logs in the configured form.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// onHangup returns a channel that gets a value for SIGHUP: look at the files of tokens and certificates again.
func onHangup() (<-chan struct{}, func()) {
	signals, reload := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for range signals {
			select {
			case reload <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return reload, func() {
		signal.Stop(signals)
		close(signals)
	}
}

// echo is how long a repeated signal counts as the same one. `timeout`, make and process supervisors signal the process and
// its group, so that one wish to stop arrives twice within milliseconds.
const echo = 500 * time.Millisecond

// untilSignal returns a context that the first SIGTERM or SIGINT cancels.
func untilSignal(log *slog.Logger) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go obey(signals, cancel, time.Now, func(reason string) {
		log.Warn("ended at once", "reason", reason)
		os.Exit(exitFailure)
	})
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(nil)
	}
}

// obey cancels at the first signal and aborts at the second, unless that is only an echo of the first: whoever sends another one does not want
// to wait, and nothing acknowledged depends on a tidy end.
func obey(signals <-chan os.Signal, cancel context.CancelCauseFunc, now func() time.Time, abort func(reason string)) {
	var first time.Time
	for sig := range signals {
		switch {
		case first.IsZero():
			first = now()
			cancel(fmt.Errorf("received %s", sig))
		case now().Sub(first) > echo:
			abort("second signal: " + sig.String())
		}
	}
}
