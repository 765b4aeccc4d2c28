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

const taskLong = `A task is a tool call that outlives its request: a record in the store with a journal of the steps that are done. After a restart the
server goes on with the tasks that were interrupted, or reports them as failed when their handlers cannot be started again.
The result of a task is kept for mcp.tasks.ttl (1h) after its end.

When a server runs on the directory the commands ask it. Otherwise they open the directory themselves; list and show change
nothing in it. The beginning of an id is enough where no other task's begins so.

Exit codes: 0 done; 1 it could not be done (no such task, not in a state for it, the directory cannot be read); 2 wrong usage.`

func (a *app) taskCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "task",
		Short: "List, show, cancel and retry durable tasks",
		Long:  taskLong,
		Example: `  erlmcp task list --data /var/lib/erlmcp --status working
  erlmcp task cancel 7Qx2`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.taskListCommand(), a.taskShowCommand(),
		a.taskChangeCommand(&cobra.Command{
			Use: "cancel ID", Short: "Cancel one task",
			Long: "cancel ends a task at once: its handler is told to stop and can write nothing more. A task that has ended stays as it is.\n\n" + taskLong,
		}, admin.Tasks.CancelTask),
		a.taskChangeCommand(&cobra.Command{
			Use: "retry ID", Short: "Start a task again that did not end well",
			Long: "retry starts a task again that failed, was cancelled, or completed with a tool error. Steps that were finished are not\n" +
				"repeated. On a stopped directory it starts with the next server.\n\n" + taskLong,
		}, admin.Tasks.RetryTask))
	return cmd
}

func (a *app) taskListCommand() *cobra.Command {
	var filter mcp.TaskFilter
	var status string
	var limit int
	states := []string{
		string(mcp.TaskWorking), string(mcp.TaskInputRequired), string(mcp.TaskCompleted), string(mcp.TaskFailed), string(mcp.TaskCancelled),
	}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tasks",
		Long:  "list prints one line per task, in the order of their ids, which is by chance.\n\n" + taskLong,
		Example: `  erlmcp task list --status input_required
  erlmcp task list --json --tool store_verify | jq -r '.tasks[].id'`,
		Args: cobra.NoArgs,
	}
	f := a.reachFlags(cmd)
	cmd.Flags().StringVar(&status, "status", "", "only tasks in this `STATUS`: "+strings.Join(states, ", "))
	cmd.Flags().StringVar(&filter.Tool, "tool", "", "only tasks of this tool, `NAME`")
	cmd.Flags().StringVar(&filter.Principal, "principal", "", "only tasks of this principal, `NAME`")
	cmd.Flags().IntVar(&limit, "limit", 0, "print at most `N` tasks (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter.Status = mcp.TaskStatus(status)
		if status != "" && !strings.Contains(" "+strings.Join(states, " ")+" ", " "+status+" ") {
			return errUsage("--status is %q, want one of %s", status, strings.Join(states, ", "))
		}
		if limit < 0 {
			return errUsage("--limit is %d, want 0 or more", limit)
		}
		found := []mcp.TaskInfo{} // null is not a list
		err := f.with(cmd, false, func(ctx context.Context, from source) error {
			return eachTask(ctx, from, filter, func(t mcp.TaskInfo) bool {
				found = append(found, t)
				return limit == 0 || len(found) < limit
			})
		})
		if err != nil {
			return err
		}
		if f.asJSON {
			return writeJSON(a.out, admin.TaskPage{Tasks: found})
		}
		return printTasks(a.out, found)
	}
	return cmd
}

func (a *app) taskShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one task with its journal and result",
		Long:    "show prints what the store has of one task.\n\n" + taskLong,
		Example: "  erlmcp task show HQ3KZ",
		Args:    cobra.ExactArgs(1),
	}
	f := a.reachFlags(cmd)
	cmd.ValidArgsFunction = f.complete(eachTaskID)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		info, err := oneTask(f, cmd, args[0], false, admin.Tasks.Task)
		if err != nil {
			return err
		}
		if f.asJSON {
			return writeJSON(a.out, info)
		}
		return printTask(a.out, info)
	}
	return cmd
}

// taskChangeCommand completes a command that changes one task.
func (a *app) taskChangeCommand(cmd *cobra.Command, change func(admin.Tasks, context.Context, string) (mcp.TaskInfo, error)) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
	f := a.reachFlags(cmd)
	cmd.ValidArgsFunction = f.complete(eachTaskID)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		info, err := oneTask(f, cmd, args[0], true, change)
		if err != nil {
			return err
		}
		if f.asJSON {
			return writeJSON(a.out, info)
		}
		_, err = fmt.Fprintf(a.out, "task %s is %s%s\n", info.ID, info.Status, inParentheses(info.Message))
		return err
	}
	return cmd
}

func inParentheses(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// oneTask finds a task by the beginning of its id and does something with it.
func oneTask(f *reach, cmd *cobra.Command, prefix string, change bool, do func(admin.Tasks, context.Context, string) (mcp.TaskInfo, error)) (info mcp.TaskInfo, err error) {
	err = f.with(cmd, change, func(ctx context.Context, from source) error {
		id, err := findOne("task", strings.ToUpper(prefix), mcp.ErrNoTask, func(fn func(id, about string) bool) error { return eachTaskID(ctx, from, fn) })
		if err == nil {
			info, err = do(from, ctx, id)
		}
		return err
	})
	return info, err
}

// eachTask calls fn for every task until it returns false.
func eachTask(ctx context.Context, from source, filter mcp.TaskFilter, fn func(mcp.TaskInfo) bool) error {
	list := func(after string, limit int) ([]mcp.TaskInfo, error) {
		return from.ListTasks(ctx, after, limit, filter)
	}
	return eachOf(list, func(t mcp.TaskInfo) string { return t.ID }, fn)
}

func eachTaskID(ctx context.Context, from source, fn func(id, about string) bool) error {
	return eachTask(ctx, from, mcp.TaskFilter{}, func(t mcp.TaskInfo) bool { return fn(t.ID, t.Tool+", "+string(t.Status)) })
}

func printTasks(out io.Writer, list []mcp.TaskInfo) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTOOL\tSTATUS\tPRINCIPAL\tCREATED\tUPDATED\tATTEMPT\tMESSAGE")
	for _, t := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%q\t%s\t%s\t%d\t%s\n", t.ID, t.Tool, t.Status, t.Principal,
			t.Created.Format(time.RFC3339), t.Updated.Format(time.RFC3339), t.Attempt, oneLine(t.Message))
	}
	return w.Flush()
}

func printTask(out io.Writer, t mcp.TaskInfo) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	moment := func(name string, at *time.Time) {
		if at != nil {
			row(name, "%s", at.Format(time.RFC3339))
		}
	}
	row("id", "%s", t.ID)
	row("tool", "%s", t.Tool)
	row("principal", "%q", t.Principal)
	row("status", "%s%s", t.Status, inParentheses(oneLine(t.Message)))
	moment("created", &t.Created)
	moment("updated", &t.Updated)
	moment("starts", t.Starts)
	moment("ended", t.Ended)
	moment("removed after", t.Expires)
	row("attempt", "%d, %d failed, %d after interruptions, %.1fs of running time", t.Attempt, t.Failures, t.Resumes, t.RanSecs)
	if t.Worker != "" {
		row("worker", "%s", t.Worker)
	}
	for _, key := range t.Asks {
		row("asks", "%s", key)
	}
	row("arguments", "%s", harmless(string(t.Arguments)))
	for i, s := range t.Steps {
		text := fmt.Sprintf("%s %q, %s", s.Kind, s.Name, s.At.Format(time.RFC3339))
		if s.Until != nil {
			text += ", until " + s.Until.Format(time.RFC3339)
		}
		if s.Error != "" {
			text += ", error " + oneLine(s.Error)
		} else if len(s.Result) > 0 {
			text += ", " + oneLine(string(s.Result))
		}
		row(fmt.Sprintf("journal %d", i), "%s", text)
	}
	if len(t.Result) > 0 {
		row("result", "%s", harmless(string(t.Result)))
	}
	if t.Error != nil {
		row("error", "%d: %s", t.Error.Code, oneLine(t.Error.Message))
	}
	return w.Flush()
}
