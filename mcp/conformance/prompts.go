package main

import (
	"context"
	"fmt"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
)

func say(s string) sdk.Content { return &sdk.TextContent{Text: s} }

// prompt returns messages of the user.
func prompt(parts ...sdk.Content) *sdk.GetPromptResult {
	res := new(sdk.GetPromptResult)
	for _, part := range parts {
		res.Messages = append(res.Messages, &sdk.PromptMessage{Role: "user", Content: part})
	}
	return res
}

func addPrompts(rt *mcp.Runtime) {
	add := func(name, description string, fn func(args map[string]string) *sdk.GetPromptResult, arguments ...string) {
		p := &sdk.Prompt{Name: name, Description: description}
		for _, argument := range arguments {
			p.Arguments = append(p.Arguments, &sdk.PromptArgument{Name: argument, Description: "A value for the test", Required: true})
		}
		rt.Server().AddPrompt(p, func(_ context.Context, req *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
			return fn(req.Params.Arguments), nil
		})
	}
	add("test_simple_prompt", "One message", func(map[string]string) *sdk.GetPromptResult {
		return prompt(say("This is a simple prompt for testing."))
	})
	add("test_prompt_with_arguments", "A message with the values of both arguments", func(args map[string]string) *sdk.GetPromptResult {
		return prompt(say(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", args["arg1"], args["arg2"])))
	}, "arg1", "arg2")
	add("test_prompt_with_embedded_resource", "A message with a resource inside", func(args map[string]string) *sdk.GetPromptResult {
		return prompt(embedded(args["resourceUri"]), say("Please process the embedded resource above."))
	}, "resourceUri")
	add("test_prompt_with_image", "A message with an image inside", func(map[string]string) *sdk.GetPromptResult {
		return prompt(&sdk.ImageContent{Data: pixelPNG(), MIMEType: "image/png"}, say("Please analyze the image above."))
	})
	rt.CompletePrompt("test_prompt_with_arguments", func(_ context.Context, _, prefix string, _ map[string]string) ([]string, error) {
		return []string{prefix + "paris", prefix + "park", prefix + "party"}, nil
	})
	rt.Server().AddPrompt(&sdk.Prompt{
		Name: "test_input_required_result_prompt", Description: "Asks the user for its context before it answers",
	}, contextPrompt)
}
