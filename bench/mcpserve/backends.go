package mcpserve

import (
	"context"
	"net/http"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/internal/gcfloor"
	erlmcp "github.com/erlmcp/erlmcp/mcp"
)

type echoIn struct {
	Text string `json:"text" jsonschema:"what to say back"`
}

// echo answers with a text alone, in every library.
func echo(_ context.Context, _ *sdk.CallToolRequest, in echoIn) (*sdk.CallToolResult, any, error) {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: in.Text}}}, nil, nil
}

// echoTool changes nothing and says so.
var echoTool = &sdk.Tool{Name: "echo", Description: "says it back", Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true}}

type opener = func(dir string) (http.Handler, func(), error)

// withFloor makes garbage collection begin at 32 MiB of heap, as erlmcp serve
// does: what of the difference between the servers is only that.
func withFloor(open opener) opener {
	return func(dir string) (http.Handler, func(), error) {
		h, stop, err := open(dir)
		if err != nil {
			return nil, nil, err
		}
		end := gcfloor.Start(32 << 20)
		return h, func() {
			stop()
			end()
		}, nil
	}
}

// openOurs serves both protocols on one URL, all state in dir. typed chooses
// between our AddTool and the SDK's; audit says what is recorded of calls.
func openOurs(typed bool, audit erlmcp.AuditOptions) func(string) (http.Handler, func(), error) {
	return func(dir string) (http.Handler, func(), error) {
		r, err := erlmcp.Open(dir, erlmcp.Options{
			Name: "bench", MaxSessions: 100_000, MaxStreams: 10_000, MaxRequests: 10_000,
			Audit: audit,
			Tasks: erlmcp.TaskLimits{Queue: 1 << 20, Unfinished: 1 << 20},
		})
		if err != nil {
			return nil, nil, err
		}
		addTasks(r)
		if typed {
			erlmcp.AddTool(r, echoTool, echo)
		} else {
			sdk.AddTool(r.Server(), echoTool, echo)
		}
		return r.Handler(), func() { _ = r.Close() }, nil
	}
}

// addTasks adds "task", which ends at once, and "park", which does not end.
func addTasks(r *erlmcp.Runtime) {
	options := erlmcp.TaskOptions{Resumable: true}
	erlmcp.AddTaskTool(r, &sdk.Tool{Name: "task", Description: "says it back later"}, options,
		func(_ context.Context, _ *erlmcp.Task, in echoIn) (string, error) { return in.Text, nil })
	erlmcp.AddTaskTool(r, &sdk.Tool{Name: "park", Description: "waits"}, options,
		func(ctx context.Context, _ *erlmcp.Task, _ echoIn) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
}

// openSDK serves the SDK's own handlers, which keep everything in memory.
func openSDK(string) (http.Handler, func(), error) {
	s := sdk.NewServer(&sdk.Implementation{Name: "bench", Version: "1"}, nil)
	sdk.AddTool(s, echoTool, echo)
	get := func(*http.Request) *sdk.Server { return s }
	mux := http.NewServeMux()
	mux.Handle("/old", sdk.NewStreamableHTTPHandler(get, nil))
	mux.Handle("/new", sdk.NewStreamableHTTPHandler(get, &sdk.StreamableHTTPOptions{Stateless: true}))
	return mux, func() {}, nil
}

// openMCPGo serves mark3labs/mcp-go, which by default checks neither session
// ids nor arguments; checked makes it do both, as the others do.
func openMCPGo(checked bool) func(string) (http.Handler, func(), error) {
	return func(string) (http.Handler, func(), error) {
		var options []server.ServerOption
		if checked {
			options = append(options, server.WithInputSchemaValidation())
		}
		s := server.NewMCPServer("bench", "1", options...)
		tool := mcp.NewTool("echo", mcp.WithDescription("says it back"), mcp.WithString("text", mcp.Required(), mcp.Description("what to say back")))
		s.AddTool(tool, func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			text, err := req.RequireString("text")
			if err != nil {
				return mcp.NewToolResultError(err.Error()), nil
			}
			return mcp.NewToolResultText(text), nil
		})
		return server.NewStreamableHTTPServer(s, server.WithEndpointPath("/mcp"), server.WithStateful(checked)), func() {}, nil
	}
}
