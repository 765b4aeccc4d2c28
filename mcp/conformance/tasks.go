package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/mcp"
)

// Tools of the tasks extension (SEP-2663).

// jobTime is how long a job takes: clients can see it working.
const jobTime = time.Second

// job is a handler of a task tool. Every tool here may be started again after
// a crash.
type job[In any] func(ctx context.Context, t *mcp.Task, in In) (*sdk.CallToolResult, error)

func addJob[In any](rt *mcp.Runtime, name, description string, o mcp.TaskOptions, fn job[In]) {
	o.Resumable, o.PollInterval = true, 100*time.Millisecond
	mcp.AddTaskTool(rt, &sdk.Tool{Name: name, Description: description}, o, fn)
}

func addTaskTools(rt *mcp.Runtime) {
	type who struct {
		Name string `json:"name" jsonschema:"who is greeted"`
	}
	sdk.AddTool(rt.Server(), &sdk.Tool{Name: "greet", Description: "Greets at once, never as a task"},
		func(_ context.Context, _ *sdk.CallToolRequest, in who) (*sdk.CallToolResult, any, error) {
			return text("Hello, " + in.Name + "!"), nil, nil
		})
	addJob(rt, "slow_compute", "Takes its time", mcp.TaskOptions{}, slowCompute)
	addJob(rt, "failing_job", "Fails as a tool does", mcp.TaskOptions{Mode: mcp.TaskRequired},
		func(ctx context.Context, t *mcp.Task, _ map[string]any) (*sdk.CallToolResult, error) {
			if err := t.Sleep(ctx, jobTime); err != nil {
				return nil, err
			}
			return nil, errors.New("the job failed, as it always does")
		})
	addJob(rt, "protocol_error_job", "Fails as a request does", mcp.TaskOptions{},
		func(ctx context.Context, t *mcp.Task, _ map[string]any) (*sdk.CallToolResult, error) {
			if err := t.Sleep(ctx, jobTime); err != nil {
				return nil, err
			}
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "the job broke off, as it always does"}
		})
	addJob(rt, "confirm_delete", "Asks before it pretends to delete a file", mcp.TaskOptions{}, confirmDelete)
	addJob(rt, "multi_input", "Asks two questions at once", mcp.TaskOptions{}, multiInput)
	addJob(rt, "test_tool_with_task", "Asks for a name first, then becomes a task", mcp.TaskOptions{Before: askNameBefore},
		func(_ context.Context, t *mcp.Task, _ map[string]any) (*sdk.CallToolResult, error) {
			return text("Hello, " + answer(t.Responses(), keyName, "name") + "!"), nil
		})
}

type computation struct {
	Seconds float64 `json:"seconds" jsonschema:"how long it takes, 0 to 3600"`
	Label   string  `json:"label,omitempty" jsonschema:"returned with the result"`
}

func slowCompute(ctx context.Context, t *mcp.Task, in computation) (*sdk.CallToolResult, error) {
	if in.Seconds < 0 || in.Seconds > 3600 {
		return nil, fmt.Errorf("seconds is %v, want 0 to 3600", in.Seconds)
	}
	if err := t.Sleep(ctx, time.Duration(in.Seconds*float64(time.Second))); err != nil {
		return nil, err
	}
	return text(fmt.Sprintf("%s took %v s", in.Label, in.Seconds)), nil
}

type deletion struct {
	Filename string `json:"filename" jsonschema:"what is not really deleted"`
}

func confirmDelete(ctx context.Context, t *mcp.Task, in deletion) (*sdk.CallToolResult, error) {
	res, err := t.Elicit(ctx, &sdk.ElicitParams{Message: "Delete " + in.Filename + "?", RequestedSchema: map[string]any{
		"type": "object", "properties": map[string]any{"confirm": map[string]any{"type": "boolean"}}, "required": []string{"confirm"},
	}})
	switch {
	case err != nil:
		return nil, err
	case res.Action == "accept" && res.Content["confirm"] == true:
		return text("Deleted " + in.Filename + " (not really)."), nil
	}
	return text("Kept " + in.Filename + "."), nil
}

func multiInput(ctx context.Context, t *mcp.Task, _ map[string]any) (*sdk.CallToolResult, error) {
	answers, err := t.Ask(ctx, sdk.InputRequestMap{"first": askFor("name", "What is your name?"), "second": askFor("name", "Who is your friend?")})
	if err != nil {
		return nil, err
	}
	return text(fmt.Sprintf("%s and %s", answer(answers, "first", "name"), answer(answers, "second", "name"))), nil
}

// askNameBefore asks within the call, before there is a task.
func askNameBefore(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	if answer(req.Params.InputResponses, keyName, "name") == "" {
		return ask(sdk.InputRequestMap{keyName: askName()}), nil
	}
	return nil, nil
}
