package main

import (
	"context"
	"fmt"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
)

// Tools that need several round trips (SEP-2322): the answer says what input is
// missing, and the client calls again with it.
//
//lint:file-ignore SA1019 the suite tests what 2026-07-28 deprecates, since older clients use it

// The inputs that the suite knows, by their keys.
const (
	keyName     = "user_name"
	keyGreeting = "greeting"
	keyRoots    = "client_roots"
	keyCapital  = "capital_question"
	keyConfirm  = "confirm"
	keyContext  = "user_context"
)

func askFor(field, message string) *sdk.ElicitParams {
	return &sdk.ElicitParams{Message: message, RequestedSchema: object(field)}
}

func askName() *sdk.ElicitParams { return askFor("name", "What is your name?") }

func askConfirm() *sdk.ElicitParams {
	return &sdk.ElicitParams{Message: "Please confirm", RequestedSchema: map[string]any{
		"type": "object", "properties": map[string]any{"ok": map[string]any{"type": "boolean"}}, "required": []string{"ok"},
	}}
}

func askSample(prompt string) *sdk.CreateMessageParams {
	return &sdk.CreateMessageParams{
		Messages:  []*sdk.SamplingMessage{{Role: "user", Content: &sdk.TextContent{Text: prompt}}},
		MaxTokens: 100,
	}
}

// ask answers a call with the inputs that it needs.
func ask(requests sdk.InputRequestMap) *sdk.CallToolResult {
	return &sdk.CallToolResult{InputRequests: requests}
}

// answer returns a field that the user filled in, or "".
func answer(given sdk.InputResponseMap, key, field string) string {
	res, ok := given[key].(*sdk.ElicitResult)
	if !ok || res == nil || res.Action != "accept" {
		return ""
	}
	s, _ := res.Content[field].(string)
	return s
}

// confirmed tells whether the user agreed.
func confirmed(given sdk.InputResponseMap) bool {
	res, ok := given[keyConfirm].(*sdk.ElicitResult)
	return ok && res != nil && res.Action == "accept" && res.Content["ok"] == true
}

// sampled returns what the model said, or "".
func sampled(given sdk.InputResponseMap, key string) string {
	res, ok := given[key].(*sdk.CreateMessageWithToolsResult)
	if !ok || res == nil {
		return ""
	}
	for _, part := range res.Content {
		if said, ok := part.(*sdk.TextContent); ok {
			return said.Text
		}
	}
	return ""
}

func roots(given sdk.InputResponseMap) ([]*sdk.Root, bool) {
	res, ok := given[keyRoots].(*sdk.ListRootsResult)
	if !ok || res == nil {
		return nil, false
	}
	return res.Roots, true
}

func addRoundTools(rt *mcp.Runtime) {
	s := &rounds{rt}
	add := func(suffix, description string, fn call) {
		addTool(rt, "test_input_required_result_"+suffix, description, fn)
	}
	add("elicitation", "Asks for a name, then greets", greetRound)
	add("sampling", "Asks the client's model, then quotes it", sampleRound)
	add("list_roots", "Asks for the client's roots, then lists them", rootsRound)
	add("request_state", "Asks for a confirmation, and carries a state through it", s.confirm)
	add("tampered_state", "Refuses a state that was changed on the way", s.confirm)
	add("multiple_inputs", "Asks for three inputs at once", s.threeInputs)
	add("multi_round", "Asks twice, the second time with what the first said", s.twoRounds)
	add("capabilities", "Asks only for what the client can give", capabilitiesRound)
}

func greetRound(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	if name := answer(req.Params.InputResponses, keyName, "name"); name != "" {
		return text("Hello, " + name + "!"), nil
	}
	return ask(sdk.InputRequestMap{keyName: askName()}), nil
}

func sampleRound(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	if said := sampled(req.Params.InputResponses, keyCapital); said != "" {
		return text("The model said: " + said), nil
	}
	return ask(sdk.InputRequestMap{keyCapital: askSample("What is the capital of France?")}), nil
}

func rootsRound(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	list, ok := roots(req.Params.InputResponses)
	if !ok {
		return ask(sdk.InputRequestMap{keyRoots: &sdk.ListRootsParams{}}), nil
	}
	var uris []string
	for _, root := range list {
		uris = append(uris, root.URI)
	}
	return text(fmt.Sprintf("%d roots: %s", len(list), strings.Join(uris, ", "))), nil
}

// rounds are the tools that find something again in the client's next call.
type rounds struct{ rt *mcp.Runtime }

func (r *rounds) confirm(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	var waiting string
	again, err := r.rt.OpenState(ctx, req, &waiting)
	switch {
	case err != nil:
		return nil, err
	case again && confirmed(req.Params.InputResponses):
		return text("state-ok: the state came back as it was sent"), nil
	}
	return r.rt.Ask(ctx, req, "waiting for confirmation", sdk.InputRequestMap{keyConfirm: askConfirm()})
}

func (r *rounds) threeInputs(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	given := req.Params.InputResponses
	var waiting string
	again, err := r.rt.OpenState(ctx, req, &waiting)
	if err != nil {
		return nil, err
	}
	name, greeting := answer(given, keyName, "name"), sampled(given, keyGreeting)
	if list, ok := roots(given); again && ok && name != "" && greeting != "" {
		return text(fmt.Sprintf("%s %s: %d roots", greeting, name, len(list))), nil
	}
	return r.rt.Ask(ctx, req, "waiting for three inputs", sdk.InputRequestMap{
		keyName: askName(), keyGreeting: askSample("Say a greeting"), keyRoots: &sdk.ListRootsParams{},
	})
}

// twoRounds keeps what the first round said in the state: the server itself
// remembers nothing between the calls.
func (r *rounds) twoRounds(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	given := req.Params.InputResponses
	var name string // known from the second round on
	if _, err := r.rt.OpenState(ctx, req, &name); err != nil {
		return nil, err
	}
	if name == "" {
		name = answer(given, "step1", "name")
	} else if color := answer(given, "step2", "color"); color != "" {
		return text(fmt.Sprintf("%s likes %s", name, color)), nil
	}
	if name == "" {
		return r.rt.Ask(ctx, req, "", sdk.InputRequestMap{"step1": askFor("name", "Step 1: what is your name?")})
	}
	return r.rt.Ask(ctx, req, name, sdk.InputRequestMap{"step2": askFor("color", "Step 2: which color do you like?")})
}

func capabilitiesRound(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	if len(req.Params.InputResponses) > 0 {
		return text("The client gave what it can."), nil
	}
	requests := sdk.InputRequestMap{}
	if has := req.ClientCapabilities(); has != nil {
		if has.Elicitation != nil {
			requests[keyName] = askName()
		}
		if has.Sampling != nil {
			requests[keyGreeting] = askSample("Say a greeting")
		}
		if has.RootsV2 != nil || has.Roots.ListChanged {
			requests[keyRoots] = &sdk.ListRootsParams{}
		}
	}
	if len(requests) == 0 {
		return text("The client declares nothing that could be asked for."), nil
	}
	return ask(requests), nil
}

func contextPrompt(_ context.Context, req *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
	if about := answer(req.Params.InputResponses, keyContext, "context"); about != "" {
		return prompt(say("Context: " + about)), nil
	}
	return &sdk.GetPromptResult{InputRequests: sdk.InputRequestMap{
		keyContext: askFor("context", "What is this about?"),
	}}, nil
}
