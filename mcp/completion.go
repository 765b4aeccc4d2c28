package mcp

import (
	"context"
	"fmt"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// maxCompletions is the most values that one completion may hold (MCP).
const maxCompletions = 100

// A CompletionFunc proposes values for one argument of a prompt or of a
// resource template. prefix is what was typed so far, given the values of the
// arguments already filled in. It may return more values than fit: the first
// 100 are used.
type CompletionFunc func(ctx context.Context, argument, prefix string, given map[string]string) ([]string, error)

// CompletePrompt registers fn for the arguments of the prompt called name.
func (r *Runtime) CompletePrompt(name string, fn CompletionFunc) {
	r.completions.Store("ref/prompt "+name, fn)
}

// CompleteResource registers fn for the variables of a resource template.
func (r *Runtime) CompleteResource(uriTemplate string, fn CompletionFunc) {
	r.completions.Store("ref/resource "+uriTemplate, fn)
}

func (r *Runtime) complete(ctx context.Context, req *sdk.CompleteRequest) (*sdk.CompleteResult, error) {
	ref := req.Params.Ref
	key := ref.Type + " " + ref.Name
	if ref.Type == "ref/resource" {
		key = ref.Type + " " + ref.URI
	}
	fn, ok := r.completions.Load(key)
	if !ok {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("nothing to complete for %s", key)}
	}
	var given map[string]string
	if req.Params.Context != nil {
		given = req.Params.Context.Arguments
	}
	values, err := fn.(CompletionFunc)(ctx, req.Params.Argument.Name, req.Params.Argument.Value, given)
	if err != nil {
		return nil, err
	}
	details := sdk.CompletionResultDetails{Values: values, Total: len(values)}
	if len(values) > maxCompletions {
		details.Values, details.HasMore = values[:maxCompletions], true
	}
	if details.Values == nil {
		details.Values = []string{} // null is not an array
	}
	return &sdk.CompleteResult{Completion: details}, nil
}
