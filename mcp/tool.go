package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// AddTool adds a tool with typed arguments and results. It does what the SDK's
// function of this name does, the schemas inferred from In and Out, the checks
// of arguments and results against them, the defaults, the wrapping of errors
// and results, at about half the cost: the SDK's spends most of a small call on
// the buffers of its decoder. Whole numbers beyond 2^53 reach In unharmed.
//
// It panics when t or a schema is not usable, as the SDK's does. It may be
// called at any time and replaces a tool of the same name.
func AddTool[In, Out any](r *Runtime, t *sdk.Tool, h sdk.ToolHandlerFor[In, Out]) {
	tool := *t
	input, err := schemaFor[In](&tool.InputSchema)
	if err != nil {
		panic(fmt.Sprintf("mcp: tool %q: input schema: %v", t.Name, err))
	}
	var output *valueSchema
	if t.OutputSchema != nil || reflect.TypeFor[Out]() != reflect.TypeFor[any]() {
		if output, err = schemaFor[Out](&tool.OutputSchema); err != nil {
			panic(fmt.Sprintf("mcp: tool %q: output schema: %v", t.Name, err))
		}
	}
	typed := &typedTool[In, Out]{handler: h, input: input, output: output}
	r.server.AddTool(&tool, typed.call)
}

// A typedTool joins a typed handler to the SDK's untyped ones.
type typedTool[In, Out any] struct {
	handler sdk.ToolHandlerFor[In, Out]
	input   *valueSchema
	output  *valueSchema // nil: results are not checked
}

func (t *typedTool[In, Out]) call(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	arguments, err := t.input.check(req.Params.Arguments, true)
	if err != nil {
		return failed(fmt.Errorf("validating \"arguments\": %w", err)), nil
	}
	var in In
	if err := decodeJSON(arguments, &in); err != nil {
		return failed(err), nil
	}
	res, out, err := t.handler(ctx, req, in)
	if err != nil {
		if _, ok := err.(*jsonrpc.Error); ok {
			return nil, err // for the protocol, not for the model
		}
		return failed(err), nil
	}
	if res == nil {
		res = new(sdk.CallToolResult)
	}
	if res.InputRequests != nil {
		return res, nil // content and questions exclude each other
	}
	if err := t.structure(res, out); err != nil {
		return nil, err
	}
	return res, nil
}

// structure puts out into the result.
func (t *typedTool[In, Out]) structure(res *sdk.CallToolResult, out Out) error {
	var value any = out
	if v := reflect.ValueOf(value); t.output != nil && v.Kind() == reflect.Pointer && v.IsNil() && t.output.inferred {
		value = reflect.Zero(v.Type().Elem()).Interface()
	}
	if value == nil {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("marshaling output: %w", err)
	}
	if t.output != nil {
		if text, err = t.output.check(text, false); err != nil {
			return fmt.Errorf("validating tool output: %w", err)
		}
	}
	res.StructuredContent = json.RawMessage(text)
	if res.Content == nil || text[0] != '{' {
		// Clients that cannot read structured content, or only objects, get the text.
		res.Content = append(res.Content, &sdk.TextContent{Text: string(text)})
	}
	return nil
}

func failed(err error) *sdk.CallToolResult {
	res := new(sdk.CallToolResult)
	res.SetError(err)
	return res
}

// A valueSchema checks values.
type valueSchema struct {
	resolved *jsonschema.Resolved
	defaults bool // a default may have to be filled in
	inferred bool // from a Go type
	quick    *quickSchema
}

// schemaFor resolves the schema in field, or puts one inferred from T there.
func schemaFor[T any](field *any) (*valueSchema, error) {
	var schema *jsonschema.Schema
	v := new(valueSchema)
	switch given := (*field).(type) {
	case nil:
		v.inferred = true
		typ := reflect.TypeFor[T]()
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ == reflect.TypeFor[any]() {
			schema = &jsonschema.Schema{Type: "object"}
			break
		}
		var err error
		if schema, err = jsonschema.ForType(typ, &jsonschema.ForOptions{}); err != nil {
			return nil, err
		}
	case *jsonschema.Schema:
		schema = given
	default:
		text, err := json.Marshal(given)
		if err != nil {
			return nil, err
		}
		if err := decodeJSON(text, &schema); err != nil {
			return nil, err
		}
	}
	if schema == nil {
		return nil, fmt.Errorf("there is none for %v", reflect.TypeFor[T]())
	}
	if *field == nil {
		*field = schema
	}
	var err error
	v.resolved, err = schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	v.defaults = mayDefault(schema)
	if !v.defaults {
		v.quick = compileQuick(schema)
	}
	return v, err
}

// mayDefault reports whether filling in defaults can change a value: a schema
// that refers to others is taken to have some.
func mayDefault(s *jsonschema.Schema) bool {
	text, err := json.Marshal(s)
	if err != nil {
		return true
	}
	var tree any
	if err := decodeJSON(text, &tree); err != nil {
		return true
	}
	return mentions(tree, "default", "$ref", "$dynamicRef")
}

func mentions(tree any, names ...string) bool {
	switch v := tree.(type) {
	case map[string]any:
		for _, name := range names {
			if _, ok := v[name]; ok {
				return true
			}
		}
		for _, child := range v {
			if mentions(child, names...) {
				return true
			}
		}
	case []any:
		for _, child := range v {
			if mentions(child, names...) {
				return true
			}
		}
	}
	return false
}

// check returns text with defaults filled in, or says what is wrong with it.
// Arguments may be absent, which stands for no members.
func (v *valueSchema) check(text json.RawMessage, arguments bool) (json.RawMessage, error) {
	if v.quick != nil && len(text) > 0 && text[0] == '{' && v.quick.accepts(text) {
		return text, nil
	}
	var value any
	switch {
	case arguments:
		members := make(map[string]any)
		if len(text) == 0 {
			text = json.RawMessage("{}")
		} else if err := decodeJSON(text, &members); err != nil {
			return nil, fmt.Errorf("unmarshaling arguments: %w", err)
		}
		value = members
	case len(text) > 0:
		if err := decodeJSON(text, &value); err != nil {
			return nil, err
		}
	}
	_, isObject := value.(map[string]any)
	changed := false
	if value == nil && !arguments && v.resolved.Schema().Type == "object" {
		value, isObject, changed = make(map[string]any), true, true // a nil map
	}
	if isObject && v.defaults {
		if err := v.resolved.ApplyDefaults(&value); err != nil {
			return nil, fmt.Errorf("applying schema defaults:\n%w", err)
		}
		changed = true
	}
	if err := v.resolved.Validate(&value); err != nil {
		return nil, err
	}
	// What was checked must be what runs: of members that appear twice only the
	// last was.
	if !changed && !(arguments && (text[0] != '{' || hasDuplicates(text))) {
		return text, nil
	}
	return json.Marshal(value)
}

// hasDuplicates reports whether an object in a valid text names a member twice.
func hasDuplicates(text []byte) bool {
	found := false
	var walk func(value []byte)
	walk = func(value []byte) {
		s := &scanner{data: value}
		switch value[0] {
		case '{':
			var few [8]string
			names := few[:0]
			_ = s.members(0, func(k, v []byte) error {
				name, _ := unquote(k)
				names = append(names, name)
				walk(v)
				return nil
			})
			found = found || repeats(names)
		case '[':
			_ = s.elements(0, func(v []byte) error {
				walk(v)
				return nil
			})
		}
	}
	walk(text)
	return found
}

func repeats(names []string) bool {
	if len(names) > 16 {
		seen := make(map[string]bool, len(names))
		for _, name := range names {
			if seen[name] {
				return true
			}
			seen[name] = true
		}
		return false
	}
	for i, name := range names {
		for _, other := range names[:i] {
			if name == other {
				return true
			}
		}
	}
	return false
}
