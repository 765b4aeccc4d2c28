package main

import (
	"context"
	"fmt"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
)

// Tools that talk to the client while they run: notifications in both protocol
// generations, requests (sampling, elicitation) in the session revisions.
//
//lint:file-ignore SA1019 the suite tests what 2026-07-28 deprecates, since older clients use it

// beat is the pause that the suite asks for between notifications.
const beat = 50 * time.Millisecond

// pause waits, or returns why the call ended first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func addClientTools(rt *mcp.Runtime) {
	addTool(rt, "test_tool_with_logging", "Logs three messages while it runs", logThrice)
	addTool(rt, "test_tool_with_progress", "Reports progress 0, 50 and 100 of 100", reportProgress)
	addTool(rt, "test_reconnection", "Ends its event stream before it answers (SEP-1699)", hangUp)
	type prompt struct {
		Prompt string `json:"prompt" jsonschema:"what the model is asked"`
	}
	sdk.AddTool(rt.Server(), &sdk.Tool{Name: "test_sampling", Description: "Asks the client's model"},
		func(ctx context.Context, req *sdk.CallToolRequest, in prompt) (*sdk.CallToolResult, any, error) {
			res, err := askModel(ctx, req, in.Prompt)
			return res, nil, err
		})
	type message struct {
		Message string `json:"message" jsonschema:"what the user is asked"`
	}
	sdk.AddTool(rt.Server(), &sdk.Tool{Name: "test_elicitation", Description: "Asks the client's user"},
		func(ctx context.Context, req *sdk.CallToolRequest, in message) (*sdk.CallToolResult, any, error) {
			res, err := askUser(ctx, req, in.Message, object("username", "email"))
			return res, nil, err
		})
	addTool(rt, "test_elicitation_sep1034_defaults", "Asks the user with a default for every kind of value",
		func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return askUser(ctx, req, "Please confirm or change these values", defaultsSchema())
		})
	addTool(rt, "test_elicitation_sep1330_enums", "Asks the user to choose, in the five forms of an enumeration",
		func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return askUser(ctx, req, "Please choose", enumsSchema())
		})
}

func logThrice(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	for i, line := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
		if i > 0 {
			if err := pause(ctx, beat); err != nil {
				return nil, err
			}
		}
		if err := req.Session.Log(ctx, &sdk.LoggingMessageParams{Level: "info", Data: line}); err != nil {
			return nil, err
		}
	}
	return text("Logged three messages."), nil
}

func reportProgress(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	token := req.Params.GetProgressToken()
	if token == nil {
		return text("No progress token, no progress."), nil
	}
	for i, done := range []float64{0, 50, 100} {
		if i > 0 {
			if err := pause(ctx, beat); err != nil {
				return nil, err
			}
		}
		err := req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: token, Progress: done, Total: 100})
		if err != nil {
			return nil, err
		}
	}
	return text(fmt.Sprint(token)), nil
}

// hangUp gives the client time to notice that the stream ended and to resume it.
func hangUp(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	if req.Extra != nil && req.Extra.CloseSSEStream != nil {
		req.Extra.CloseSSEStream(sdk.CloseSSEStreamArgs{RetryAfter: 10 * time.Millisecond})
	}
	if err := pause(ctx, 2*beat); err != nil {
		return nil, err
	}
	return text("Answered on the stream that the client resumed."), nil
}

func askModel(ctx context.Context, req *sdk.CallToolRequest, prompt string) (*sdk.CallToolResult, error) {
	res, err := req.Session.CreateMessage(ctx, &sdk.CreateMessageParams{
		Messages:  []*sdk.SamplingMessage{{Role: "user", Content: &sdk.TextContent{Text: prompt}}},
		MaxTokens: 100,
	})
	if err != nil {
		return nil, fmt.Errorf("sampling: %w", err)
	}
	said, ok := res.Content.(*sdk.TextContent)
	if !ok {
		return nil, fmt.Errorf("sampling: the model answered with a %T, not with text", res.Content)
	}
	return text("LLM response: " + said.Text), nil
}

func askUser(ctx context.Context, req *sdk.CallToolRequest, message string, schema map[string]any) (*sdk.CallToolResult, error) {
	res, err := req.Session.Elicit(ctx, &sdk.ElicitParams{Message: message, RequestedSchema: schema})
	if err != nil {
		return nil, fmt.Errorf("elicitation: %w", err)
	}
	return text(fmt.Sprintf("User response: action=%s, content=%v", res.Action, res.Content)), nil
}
