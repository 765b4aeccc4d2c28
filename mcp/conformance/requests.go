package main

import (
	"context"
	"encoding/json"
	"fmt"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
)

// Tools for what a stateless request carries: headers, capabilities, log level
// (SEP-2243, SEP-2575).
//
//lint:file-ignore SA1019 the suite tests what 2026-07-28 deprecates, since older clients use it

func addRequestTools(rt *mcp.Runtime) {
	type place struct {
		Region string `json:"region,omitempty"`
		Level  int    `json:"level,omitempty"`
	}
	sdk.AddTool(rt.Server(), &sdk.Tool{
		Name: "test_x_mcp_header", Description: "Has an argument that clients repeat in the header Mcp-Param-Region",
		InputSchema: json.RawMessage(`{"type": "object", "properties": {
			"region": {"type": "string", "description": "repeated in a header", "x-mcp-header": "Region"},
			"level": {"type": "integer", "description": "not repeated"}
		}}`),
	}, func(_ context.Context, _ *sdk.CallToolRequest, in place) (*sdk.CallToolResult, any, error) {
		return text(fmt.Sprintf("region=%s level=%d", in.Region, in.Level)), nil, nil
	})
	addTool(rt, "test_missing_capability", "Needs a client that can sample", needSampling)
	addTool(rt, "test_streaming_elicitation", "Reports progress, and never asks on the answer's stream", reportProgress)
	addTool(rt, "test_logging_tool", "Logs a message, which reaches clients that asked for it",
		func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return text("Logged."), req.Session.Log(ctx, &sdk.LoggingMessageParams{Level: "info", Data: "test_logging_tool ran"})
		})
}

func needSampling(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	if has := req.ClientCapabilities(); has != nil && has.Sampling != nil {
		return text("The client can sample."), nil
	}
	return nil, mcp.MissingCapability(&sdk.ClientCapabilities{Sampling: &sdk.SamplingCapabilities{}})
}

// addChangeTools adds the tools that change the lists of tools and prompts, so
// that listeners hear of it.
func addChangeTools(rt *mcp.Runtime) {
	addTool(rt, "test_trigger_tool_change", "Changes the list of tools",
		func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			addTool(rt, "test_transient_tool", "Appears when test_trigger_tool_change was called",
				func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) { return text("Here."), nil })
			return text("The list of tools changed."), nil
		})
	addTool(rt, "test_trigger_prompt_change", "Changes the list of prompts",
		func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			rt.Server().AddPrompt(&sdk.Prompt{
				Name: "test_transient_prompt", Description: "Appears when test_trigger_prompt_change was called",
			}, func(context.Context, *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
				return prompt(say("Here.")), nil
			})
			return text("The list of prompts changed."), nil
		})
}
