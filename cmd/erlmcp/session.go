package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/mcp"
)

const sessionLong = `Clients of the MCP revisions up to 2025-11-25 have sessions over HTTP. A session is a record in the store: it survives restarts and
ends by its client's DELETE, by "session terminate", or when it was not used for mcp.session_timeout (30m).

When a server runs on the directory the commands ask it. Otherwise they open the directory themselves; list and show
change nothing in it.

Who knows a session's id and can pass for its principal can use it: treat the ids like passwords.`

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
	f := a.reachFlags(cmd)
	cmd.Flags().StringVar(&principal, "principal", "", "only sessions of this principal, `NAME`")
	cmd.Flags().IntVar(&limit, "limit", 0, "print at most `N` sessions (default: all)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 0 {
			return errUsage("--limit is %d, want 0 or more", limit)
		}
		var found []mcp.SessionInfo
		err := f.with(cmd, false, func(ctx context.Context, from source) error {
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
	f := a.reachFlags(cmd)
	cmd.ValidArgsFunction = f.complete(eachSessionID)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var info mcp.SessionInfo
		err := f.with(cmd, false, func(ctx context.Context, from source) (err error) {
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
	f := a.reachFlags(cmd)
	cmd.ValidArgsFunction = f.complete(eachSessionID)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var id string
		err := f.with(cmd, true, func(ctx context.Context, from source) (err error) {
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

// eachSession calls fn for every session until it returns false.
func eachSession(ctx context.Context, from source, fn func(mcp.SessionInfo) bool) error {
	list := func(after string, limit int) ([]mcp.SessionInfo, error) { return from.ListSessions(ctx, after, limit) }
	return eachOf(list, func(s mcp.SessionInfo) string { return s.ID }, fn)
}

func eachSessionID(ctx context.Context, from source, fn func(id, about string) bool) error {
	return eachSession(ctx, from, func(s mcp.SessionInfo) bool { return fn(s.ID, s.Client) })
}

// findSession returns the one id that begins so.
func findSession(ctx context.Context, from source, prefix string) (string, error) {
	return findOne("session", prefix, mcp.ErrNoSession, func(fn func(id, about string) bool) error { return eachSessionID(ctx, from, fn) })
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

func clientText(s mcp.SessionInfo) string {
	return harmless(strings.TrimSpace(s.Client + " " + s.ClientVersion))
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
