package mcp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// Headers that repeat parts of the body, so that proxies can route without
// reading it (SEP-2243). A server must refuse requests in which they differ:
// what a proxy let through would not be what runs.
const (
	headerMethod      = "Mcp-Method"
	headerName        = "Mcp-Name"
	headerParamPrefix = "Mcp-Param-"
)

// named tells which member of params the Mcp-Name header repeats, and whether
// the header is required. Clients that know the tasks only as custom methods
// leave it out.
var named = map[string]struct {
	member   string
	required bool
}{
	methodToolsCall:  {"name", true},
	"prompts/get":    {"name", true},
	"resources/read": {"uri", true},
	"tasks/get":      {"taskId", false},
	"tasks/update":   {"taskId", false},
	"tasks/cancel":   {"taskId", false},
}

func mismatch(format string, args ...any) *wireError {
	return refuse(http.StatusBadRequest, CodeHeaderMismatch, format, args...)
}

// checkHeaders compares the standard headers with the message.
func (s *stateless) checkHeaders(h http.Header, env *envelope) *wireError {
	if h.Get(headerVersion) < versionStateless {
		return nil
	}
	switch method := h.Get(headerMethod); method {
	case env.method:
	case "":
		return mismatch("missing required %s header", headerMethod)
	default:
		return mismatch("header mismatch: %s header value '%s' does not match body value '%s'", headerMethod, method, env.method)
	}
	rule, ok := named[env.method]
	if !ok {
		return nil
	}
	header := h.Get(headerName)
	if header == "" && !rule.required {
		return nil
	}
	if header == "" {
		return mismatch("missing required %s header for method %q", headerName, env.method)
	}
	name, err := unquote(member(env.params, rule.member))
	if err != nil {
		return mismatch("header mismatch: %s header value '%s', but the body has no %q to compare it with", headerName, header, rule.member)
	}
	if header != name {
		if decoded, ok := decodeHeader(header); !ok || decoded != name {
			return mismatch("header mismatch: %s header value '%s' does not match body value '%s'", headerName, header, name)
		}
	}
	if env.method == methodToolsCall {
		return s.checkParams(h, s.rt.catalog.of(name), env.params)
	}
	return nil
}

// checkParams compares the Mcp-Param headers with the arguments.
func (s *stateless) checkParams(h http.Header, bindings []binding, params []byte) *wireError {
	if len(bindings) == 0 {
		return nil
	}
	arguments := member(params, "arguments")
	for i := range bindings {
		b := &bindings[i]
		header := h.Get(b.header)
		value := lookUp(arguments, b.path)
		switch {
		case value == nil && header != "":
			return mismatch("header mismatch: unexpected %s header for absent or null parameter %q", b.header, b.name())
		case value == nil:
			continue
		case header == "":
			return mismatch("header mismatch: missing %s header for parameter %q", b.header, b.name())
		}
		text, ok := decodeHeader(header)
		if !ok {
			return mismatch("header mismatch: %s header contains invalid Base64 encoding", b.header)
		}
		if !sameValue(text, value) {
			return mismatch("header mismatch: %s header value '%s' does not match body parameter %q", b.header, header, b.name())
		}
	}
	return nil
}

// lookUp returns the raw value at path, or nil when it is absent or null.
func lookUp(arguments []byte, path []string) []byte {
	value := arguments
	for _, name := range path {
		if !isObject(value) {
			return nil
		}
		value = member(value, name)
	}
	if string(value) == "null" {
		return nil
	}
	return value
}

// decodeHeader undoes the encoding of values that a header cannot hold as they
// are. It is false for broken Base64.
func decodeHeader(value string) (string, bool) {
	text, ok := strings.CutPrefix(value, "=?base64?")
	if !ok {
		return value, true
	}
	if text, ok = strings.CutSuffix(text, "?="); !ok {
		return value, true
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	return string(decoded), err == nil
}

// maxSafeInteger is the largest whole number that every JSON reader keeps.
const maxSafeInteger = 1<<53 - 1

// sameValue compares a header with a raw JSON value: a string, a boolean or a
// whole number. Nothing else can be bound to a header.
func sameValue(header string, raw []byte) bool {
	switch raw[0] {
	case '"':
		text, err := unquote(raw)
		return err == nil && text == header
	case 't', 'f':
		return header == string(raw)
	case '{', '[':
		return false
	}
	want, ok := safeInteger(string(raw))
	got, ok2 := safeInteger(header)
	return ok && ok2 && want == got
}

func safeInteger(text string) (float64, bool) {
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil && v == math.Trunc(v) && math.Abs(v) <= maxSafeInteger
}

// A binding says that a header repeats one argument of a tool, because the
// tool's input schema marks it with x-mcp-header.
type binding struct {
	header string
	path   []string
}

func (b *binding) name() string { return strings.Join(b.path, ".") }

// catalog knows the tools. It is read at the first call and again after the
// tools changed.
type catalog struct {
	rt *Runtime

	mu    sync.RWMutex
	known map[string][]binding // nil: to be read
	age   uint64               // counts changes, so that a slow reader does not keep old news
}

// of returns what is known of a tool; nothing for one that does not exist.
func (c *catalog) of(tool string) []binding {
	c.mu.RLock()
	known, age := c.known, c.age
	found, ok := known[tool]
	c.mu.RUnlock()
	if ok {
		return found
	}
	if known != nil && !c.stale(known) {
		return nil
	}
	return c.read(age)[tool]
}

// stale reports whether tools appeared or went since known was read; the
// server's own notification of that is some milliseconds late.
func (c *catalog) stale(known map[string][]binding) bool {
	tools, err := c.rt.listTools()
	return err == nil && len(tools) != len(known)
}

func (c *catalog) read(age uint64) map[string][]binding {
	tools, err := c.rt.listTools()
	if err != nil {
		c.rt.log.Error("tools cannot be listed, so their headers are not checked", "error", err)
		return nil
	}
	known := make(map[string][]binding, len(tools))
	for _, tool := range tools {
		known[tool.Name] = bindingsOf(tool)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.age == age {
		c.known = known
	}
	return known
}

// forget makes the next call read the tools again.
func (c *catalog) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = nil
	c.age++
}

// listTools asks the SDK's server, past all middleware: what one principal may
// see does not matter here.
func (r *Runtime) listTools() ([]*sdk.Tool, error) {
	var all []*sdk.Tool
	params := new(sdk.ListToolsParams)
	for {
		res, err := r.base(context.Background(), "tools/list", &sdk.ListToolsRequest{Session: r.observer.session, Params: params})
		if err != nil {
			return nil, err
		}
		page := res.(*sdk.ListToolsResult)
		all = append(all, page.Tools...)
		if page.NextCursor == "" {
			return all, nil
		}
		params = &sdk.ListToolsParams{Cursor: page.NextCursor}
	}
}

// schemaNode is what the headers need of a JSON schema.
type schemaNode struct {
	Header     json.RawMessage       `json:"x-mcp-header"`
	Properties map[string]schemaNode `json:"properties"`
}

// bindingsOf reads the bindings from a tool's input schema. The SDK has
// checked them when the tool was added.
func bindingsOf(tool *sdk.Tool) []binding {
	text, err := json.Marshal(tool.InputSchema)
	if err != nil {
		return nil
	}
	var root schemaNode
	if decodeJSON(text, &root) != nil {
		return nil
	}
	return collectBindings(root, nil, nil)
}

func collectBindings(node schemaNode, path []string, out []binding) []binding {
	for _, name := range slices.Sorted(maps.Keys(node.Properties)) {
		child := node.Properties[name]
		path := append(slices.Clip(path), name)
		if header, err := unquote(child.Header); err == nil && header != "" {
			out = append(out, binding{header: http.CanonicalHeaderKey(headerParamPrefix + header), path: path})
		}
		out = collectBindings(child, path, out)
	}
	return out
}
