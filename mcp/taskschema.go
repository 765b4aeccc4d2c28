package mcp

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// toolSchemas checks arguments and encodes results of one tool.
type toolSchemas struct {
	in, out *jsonschema.Resolved
	raw     bool // Out is a CallToolResult
}

// newToolSchemas completes the schemas of tool and resolves them.
func newToolSchemas[In, Out any](tool *sdk.Tool) (*toolSchemas, error) {
	s := &toolSchemas{raw: reflect.TypeFor[Out]() == reflect.TypeFor[*sdk.CallToolResult]()}
	if tool.InputSchema == nil && reflect.TypeFor[In]() == reflect.TypeFor[any]() {
		tool.InputSchema = &jsonschema.Schema{Type: "object"}
	}
	var err error
	if s.in, err = resolveSchema[In](&tool.InputSchema); err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	if tool.OutputSchema != nil || !s.raw && reflect.TypeFor[Out]() != reflect.TypeFor[any]() {
		if s.out, err = resolveSchema[Out](&tool.OutputSchema); err != nil {
			return nil, fmt.Errorf("output schema: %w", err)
		}
	}
	return s, nil
}

// resolveSchema makes *field usable for checks; an empty one becomes the
// schema of T.
func resolveSchema[T any](field *any) (*jsonschema.Resolved, error) {
	schema, ok := (*field).(*jsonschema.Schema)
	switch {
	case *field == nil:
		t := reflect.TypeFor[T]()
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		var err error
		if schema, err = jsonschema.ForType(t, &jsonschema.ForOptions{}); err != nil {
			return nil, err
		}
		*field = schema
	case !ok:
		text, err := json.Marshal(*field)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &schema); err != nil {
			return nil, err
		}
	}
	return schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
}

// prepare checks arguments and adds defaults. Equal arguments become equal bytes.
func (s *toolSchemas) prepare(args json.RawMessage) (json.RawMessage, error) {
	v := make(map[string]any)
	if len(args) > 0 {
		if err := json.Unmarshal(args, &v); err != nil {
			return nil, err
		}
	}
	if err := s.in.ApplyDefaults(&v); err != nil {
		return nil, err
	}
	if err := s.in.Validate(&v); err != nil {
		return nil, err
	}
	return marshal(v)
}

// encode turns what the handler returned into a CallToolResult.
func (s *toolSchemas) encode(out any) (json.RawMessage, error) {
	if s.raw {
		result := out.(*sdk.CallToolResult)
		if result == nil {
			result = new(sdk.CallToolResult)
		}
		if result.InputRequests != nil {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "a task cannot end with input requests; the handler must use Task.Ask"}
		}
		if result.Content == nil {
			c := *result
			c.Content = []sdk.Content{}
			result = &c
		}
		return marshal(result)
	}
	if out == nil {
		return marshal(&sdk.CallToolResult{Content: []sdk.Content{}})
	}
	if v := reflect.ValueOf(out); v.Kind() == reflect.Pointer && v.IsNil() {
		out = reflect.Zero(v.Type().Elem()).Interface()
	}
	text, err := marshal(out)
	if err != nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: fmt.Sprintf("the task's result cannot be encoded: %v", err)}
	}
	if s.out != nil {
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			return nil, err
		}
		if err := s.out.Validate(v); err != nil {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: fmt.Sprintf("the task's result does not fit the tool's output schema: %v", err)}
		}
	}
	return marshal(&sdk.CallToolResult{
		Content:           []sdk.Content{&sdk.TextContent{Text: string(text)}},
		StructuredContent: json.RawMessage(text),
	})
}

// errorResult is the result of a handler that returned err.
func errorResult(err error) json.RawMessage {
	var result sdk.CallToolResult
	result.SetError(err)
	text, encodeErr := marshal(&result)
	if encodeErr != nil { // one text always encodes
		return json.RawMessage(`{"content":[],"isError":true}`)
	}
	return text
}
