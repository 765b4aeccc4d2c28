package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/mcp"
)

const sessionLong = `Clients of the MCP revisions up to 2025-11-25 have sessions over HTTP. A session is a record in the store: it survives restarts and
ends by its client's DELETE, by "session terminate", or when it was not used for mcp.session_timeout (30m).

When a server runs on the directory the commands ask it. Otherwise they open the directory themselves; list and show
change nothing in it.

Who knows a session's id and can pass for its principal can use it: treat the ids like passwords.`

// sessions is where the commands find sessions: a running server, or a stopped directory.
type sessions interface {
	ListSessions(ctx context.Context, after string, limit int) ([]mcp.SessionInfo, error)
	Session(ctx context.Context, id string) (mcp.SessionInfo, error)
	TerminateSession(ctx context.Context, id string) error
}

// sessionFlags are the flags of every session command.
type sessionFlags struct {
	a      *app
	s      *settings
	asJSON bool
	wait   time.Duration
}

func (a *app) sessionFlags(cmd *cobra.Command) *sessionFlags {
	f := &sessionFlags{a: a, s: a.settingFlags(cmd, dataFlag, dataKeyFileFlag)}
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&f.wait, "timeout", 10*time.Second, "longest wait for a running server's answer")
	return f
}

func (a *app) sessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "List, show and end MCP sessions",
		Long:  sessionLong,
		Example: `  erlmcp session list --data /var/lib/erlmcp
  erlmcp session terminate 3kf9`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.sessionListCommand(), a.sessionShowCommand(), a.sessionTerminateCommand())
	return cmd
}

func (a *app) sessionListCommand() *cobra.Command {
	var principal string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the sessions",
		Long:  "list prints one line per session, in the order of their ids.\n\n" + sessionLong,
		Example: `  erlmcp session list --data /var/lib/erlmcp
  erlmcp session list --json | jq -r '.sessions[] | select(.in_memory) | .id'`,
		Args: cobra.NoArgs,
	}
	f := a.sessionFlags(cmd)
	cmd.Flags().StringVar(&principal, "principal", "", "only sessions of this principal, `NAME`")
	cmd.Flags().IntVar(&limit, "limit", 0, "print at most `N` sessions (default: all)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 0 {
			return errUsage("--limit is %d, want 0 or more", limit)
		}
		var found []mcp.SessionInfo
		err := f.with(cmd, false, func(ctx context.Context, from sessions) error {
			return eachSession(ctx, from, func(s mcp.SessionInfo) bool {
				if principal == "" || s.Principal == principal {
					found = append(found, s)
				}
				return limit == 0 || len(found) < limit
			})
		})
		if err != nil {
			return err
		}
		if f.asJSON {
			if found == nil {
				found = []mcp.SessionInfo{} // null is not a list
			}
			return writeJSON(a.out, admin.SessionPage{Sessions: found})
		}
		return printSessions(a.out, found)
	}
	return cmd
}

func (a *app) sessionShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one session with its subscriptions and streams",
		Long:    "show prints what the store has of one session. The beginning of an id is enough when no other session's begins so.\n\n" + sessionLong,
		Example: "  erlmcp session show hEq5XQ",
		Args:    cobra.ExactArgs(1),
	}
	f := a.sessionFlags(cmd)
	cmd.ValidArgsFunction = f.complete
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var info mcp.SessionInfo
		err := f.with(cmd, false, func(ctx context.Context, from sessions) (err error) {
			id, err := findSession(ctx, from, args[0])
			if err == nil {
				info, err = from.Session(ctx, id)
			}
			return err
		})
		if err != nil {
			return err
		}
		if f.asJSON {
			return writeJSON(a.out, info)
		}
		return printSession(a.out, info)
	}
	return cmd
}

func (a *app) sessionTerminateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "terminate ID",
		Short:   "End one session",
		Long:    "terminate ends a session: its calls are cancelled, and its client is told to initialize again. The beginning of an id is enough\nwhen no other session's begins so.\n\n" + sessionLong,
		Example: "  erlmcp session terminate hEq5XQ",
		Args:    cobra.ExactArgs(1),
	}
	f := a.sessionFlags(cmd)
	cmd.ValidArgsFunction = f.complete
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var id string
		err := f.with(cmd, true, func(ctx context.Context, from sessions) (err error) {
			if id, err = findSession(ctx, from, args[0]); err != nil {
				return err
			}
			return from.TerminateSession(ctx, id)
		})
		if err != nil {
			return err
		}
		if f.asJSON {
			return writeJSON(a.out, map[string]string{"terminated": id})
		}
		_, err = fmt.Fprintf(a.out, "session %s ended\n", id)
		return err
	}
	return cmd
}

// with runs fn on the sessions of the running server, or of the directory when there is none.
func (f *sessionFlags) with(cmd *cobra.Command, change bool, fn func(ctx context.Context, from sessions) error) error {
	cfg, err := f.s.load(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.wait)
	defer cancel()
	err = fn(ctx, admin.NewClient(cfg.DataDir))
	if !errors.Is(err, admin.ErrNoServer) {
		return err
	}
	return f.onStopped(cmd.Context(), cfg, change, fn)
}

func (f *sessionFlags) onStopped(ctx context.Context, cfg *config.Config, change bool, fn func(ctx context.Context, from sessions) error) error {
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "FORMAT")); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", cfg.DataDir, integrity.ErrNothingThere) // opening would create it
	}
	key, err := cfg.DataKey(f.a.environ, nil)
	if err != nil {
		return err
	}
	stopped, err := node.OpenStopped(cfg, key, change)
	if err != nil {
		return err
	}
	return errors.Join(fn(ctx, stopped), stopped.Close())
}

// complete proposes the ids of the running server's sessions.
func (f *sessionFlags) complete(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	cfg, err := f.s.load(cmd)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var ids []string
	_ = eachSession(ctx, admin.NewClient(cfg.DataDir), func(s mcp.SessionInfo) bool { // no server: nothing to propose
		if strings.HasPrefix(s.ID, prefix) {
			ids = append(ids, s.ID+"\t"+s.Client)
		}
		return len(ids) < 100
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// eachSession calls fn for every session until it returns false.
func eachSession(ctx context.Context, from sessions, fn func(mcp.SessionInfo) bool) error {
	const page = 1000
	for after := ""; ; {
		list, err := from.ListSessions(ctx, after, page)
		if err != nil {
			return err
		}
		for _, s := range list {
			if !fn(s) {
				return nil
			}
		}
		if len(list) < page {
			return nil
		}
		after = list[len(list)-1].ID
	}
}

// findSession returns the one id that begins so.
func findSession(ctx context.Context, from sessions, prefix string) (string, error) {
	var found []string
	err := eachSession(ctx, from, func(s mcp.SessionInfo) bool {
		if strings.HasPrefix(s.ID, prefix) {
			found = append(found, s.ID)
		}
		return len(found) < 2
	})
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("session %q: %w; `erlmcp session list` shows those that exist", prefix, mcp.ErrNoSession)
	case len(found) > 1:
		return "", fmt.Errorf("more than one session begins with %q: give more of the id", prefix)
	}
	return found[0], nil
}

func printSessions(out io.Writer, list []mcp.SessionInfo) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tPRINCIPAL\tCLIENT\tPROTOCOL\tLAST USED\tEXPIRES\tIN MEMORY")
	for _, s := range list {
		memory := "no"
		if s.InMemory {
			memory = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, s.Principal, clientText(s), s.Protocol, timeText(s.LastUsed), timeText(s.Expires), memory)
	}
	return w.Flush()
}

func printSession(out io.Writer, s mcp.SessionInfo) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, text string) { fmt.Fprintf(w, "%s\t%s\n", name, text) }
	row("id", s.ID)
	row("principal", s.Principal)
	row("client", clientText(s))
	row("protocol", s.Protocol)
	row("initialized", yesNo(s.Initialized))
	if s.LogLevel != "" {
		row("log level", s.LogLevel)
	}
	row("created", timeText(s.Created))
	row("last used", timeText(s.LastUsed))
	row("expires", timeText(s.Expires))
	row("in memory", yesNo(s.InMemory))
	for _, uri := range s.Subscriptions {
		row("subscribed", fmt.Sprintf("%q", uri))
	}
	for _, st := range s.Streams {
		text := fmt.Sprintf("%s, since %s, newest event %d", st.Name, timeText(st.Created), st.Last)
		if len(st.Calls) > 0 {
			text += ", working on " + strings.Join(st.Calls, " ")
		}
		if !st.Open {
			text += ", ended"
		}
		row("stream", text)
	}
	return w.Flush()
}

// clientText quotes what a client says about itself when it holds more than plain text.
func clientText(s mcp.SessionInfo) string {
	text := strings.TrimSpace(s.Client + " " + s.ClientVersion)
	if quoted := fmt.Sprintf("%q", text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
