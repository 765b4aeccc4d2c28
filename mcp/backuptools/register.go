package backuptools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// Scope is what callers of these tools must hold, where there is
// authentication and nothing else was configured.
const Scope = "operator"

// Names are the tools that Register adds.
var Names = []string{"backup_create", "backup_list", "backup_verify", "restore_plan", "drill_run"}

// ToolScopes adds to rules, as mcp.Options.ToolScopes has them, that every
// tool of this package needs [Scope]. A rule that names such a tool, or a prefix of it, stays;
// one for all tools ("*") does not: who may use the ledger may not use the backups for that.
func ToolScopes(rules map[string][]string) map[string][]string {
	out := make(map[string][]string, len(rules)+len(Names))
	for pattern, scopes := range rules {
		out[pattern] = scopes
	}
	for _, name := range Names {
		if !named(rules, name) {
			out[name] = []string{Scope}
		}
	}
	return out
}

// named reports whether a rule is meant for a tool.
func named(rules map[string][]string, tool string) bool {
	for pattern := range rules {
		prefix, all := strings.CutSuffix(pattern, "*")
		if pattern == tool || all && prefix != "" && strings.HasPrefix(tool, prefix) {
			return true
		}
	}
	return false
}

// tools holds what the handlers need.
type tools struct {
	rt *mcp.Runtime
	s  *backup.Service
}

// taskLimit is the longest running time of a task: days of reading from a slow bucket.
const taskLimit = 7 * 24 * time.Hour

// Register adds the tools to the runtime's server. The runtime must have a store.
func Register(r *mcp.Runtime, s *backup.Service) error {
	if r == nil || s == nil {
		return errors.New("backuptools: runtime and service are required")
	}
	t := &tools{rt: r, s: s}
	t.addCreate()
	t.addList()
	t.addVerify()
	t.addPlan()
	t.addDrill()
	return nil
}

// kind is what the annotations of a tool say.
type kind struct{ reads, idempotent bool }

func describe[Out any](k kind, name, title, description string) *sdk.Tool {
	open, destructive := true, false
	a := &sdk.ToolAnnotations{Title: title, OpenWorldHint: &open, ReadOnlyHint: k.reads, IdempotentHint: k.idempotent}
	if !k.reads {
		a.DestructiveHint = &destructive
	}
	return &sdk.Tool{
		Name: name, Title: title, Description: description, Annotations: a,
		OutputSchema: &jsonschema.Schema{Type: "object", AnyOf: []*jsonschema.Schema{schemaOf[Out](), schemaOf[refusal]()}},
	}
}

// schemaOf panics for types that have no schema: a programming error that the
// first start shows.
func schemaOf[T any]() *jsonschema.Schema {
	s, err := jsonschema.For[T](nil)
	if err != nil {
		panic(fmt.Sprintf("backuptools: no schema for %T: %v", *new(T), err))
	}
	return s
}

// addQuick registers a tool that answers at once.
func addQuick[In, Out any](t *tools, tool *sdk.Tool, fn func(context.Context, In) (Out, error)) {
	sdk.AddTool(t.rt.Server(), tool, func(ctx context.Context, _ *sdk.CallToolRequest, in In) (*sdk.CallToolResult, any, error) {
		out, err := fn(ctx, in)
		res, err := t.result(ctx, out, err)
		return res, nil, err
	})
}

// addTask registers a tool whose calls are durable tasks with one step, named like the tool.
func addTask[In, Out any](t *tools, tool *sdk.Tool, fn func(context.Context, *mcp.Task, In) (Out, error)) {
	mcp.AddTaskTool(t.rt, tool, mcp.TaskOptions{Resumable: true, TimeLimit: taskLimit},
		func(ctx context.Context, task *mcp.Task, in In) (*sdk.CallToolResult, error) {
			out, err := mcp.Step(ctx, task, tool.Name, func(ctx context.Context) (Out, error) { return fn(ctx, task, in) })
			return t.result(ctx, out, err)
		})
}

// progress tells the clients of a task where a job is.
func progress(task *mcp.Task) backup.Report {
	last := time.Time{}
	return func(p backup.Progress) {
		if time.Since(last) < time.Second { // it is called for every row or so
			return
		}
		last = time.Now()
		text := fmt.Sprintf("%s: %d %s", p.Phase, p.Done, p.Unit)
		if p.Total > 0 {
			text = fmt.Sprintf("%s: %d of %d %s", p.Phase, p.Done, p.Total, p.Unit)
		}
		_ = task.Progress("%s", text) // a task that can write nothing any more ends with its context
	}
}

// encode renders v for people and models: compact, without HTML escapes.
func encode(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimRight(b.String(), "\n"), err
}
