package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// dice writes random JSON.
type dice struct{ *rand.Rand }

func (d dice) pick(options ...string) string { return options[d.IntN(len(options))] }

func (d dice) text() string {
	return d.pick(`""`, `"plain"`, `"a<b>&'c'"`, `"tab\tline\nquote\"back\\slash"`, `"\u0000\u001f\u007f"`, `"\u2028 \u2029"`,
		`"hällo wörld 漢字 😀"`, `"\ud83d\ude00"`, `"\ud800 alone"`, `"\/"`, `"`+strings.Repeat("long ", d.IntN(2000))+`"`)
}

func (d dice) space() string { return d.pick("", "", "", " ", "\n", "\t ") }

func (d dice) value(depth int) string {
	switch n := d.IntN(9); {
	case n == 0:
		return d.text()
	case n == 1:
		return d.pick("0", "-1", "3.25", "1e3", "9007199254740993", "123456789")
	case n == 2:
		return d.pick("true", "false", "null")
	case n < 6 && depth > 0:
		var items []string
		for range d.IntN(4) {
			items = append(items, d.space()+d.value(depth-1)+d.space())
		}
		return "[" + strings.Join(items, ",") + "]"
	case depth > 0:
		return d.object(depth-1, "a", "b", "c", "text", `d\u0061`)
	}
	return d.text()
}

func (d dice) object(depth int, names ...string) string {
	var items []string
	for range d.IntN(4) {
		items = append(items, d.space()+`"`+d.pick(names...)+`"`+d.space()+":"+d.space()+d.value(depth))
	}
	return "{" + strings.Join(items, ",") + "}"
}

// result writes what a tool could return.
func (d dice) result() string {
	content := func() string {
		return d.pick(
			`{"type":"text","text":`+d.text()+`}`, `{"type":"text","text":`+d.text()+`}`, `{"type":"text","text":`+d.text()+`}`,
			`{"type":"text","text":"x","annotations":{"priority":0.5}}`, `{"type":"text","text":"x","_meta":{"k":1}}`,
			`{"type":"image","data":"aGk=","mimeType":"image/png"}`,
			`{"type":"resource","resource":{"uri":"test://x","text":"y"}}`, `{"type":"resource_link","uri":"test://x","name":"n"}`)
	}
	var items []string
	for range d.IntN(3) {
		items = append(items, content())
	}
	fields := []string{`"content":[` + strings.Join(items, ",") + `]`}
	if d.IntN(2) == 0 {
		fields = append(fields, `"structuredContent":`+d.value(2))
	}
	if d.IntN(3) == 0 {
		fields = append(fields, `"isError":true`)
	}
	if d.IntN(5) == 0 {
		fields = append(fields, `"_meta":`+d.pick(`{}`, `{"k":"v"}`, `{"io.modelcontextprotocol/serverInfo":{"name":"other","version":"2"}}`))
	}
	return "{" + strings.Join(fields, ",") + "}"
}

// params writes the params of a tools/call.
func (d dice) params(tool, arguments string) string {
	fields := []string{`"name":"` + tool + `"`, metaOf(d.pick("", `,"progressToken":1`, `,"progressToken":"t"`, `,"x":`+d.value(2)))}
	if arguments != "" {
		fields = append(fields, `"arguments":`+arguments)
	}
	switch d.IntN(8) {
	case 0:
		fields = append(fields, `"unknown":`+d.value(1))
	case 1:
		fields = append(fields, `"requestState":"state"`)
	case 2:
		fields = append(fields, `"inputResponses":{"k":{"action":"accept"}}`)
	case 3:
		fields = append(fields, `"Name":"other"`)
	case 4:
		fields = append(fields, `"arguments":{"last":"wins"}`)
	}
	d.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	for i := range fields {
		fields[i] = d.space() + fields[i] + d.space()
	}
	return strings.Join(fields, ",")
}

// addMirror adds a tool that answers with what it was given: a result, or all
// of its request.
func addMirror(s *sdk.Server) {
	s.AddTool(&sdk.Tool{Name: "mirror", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		var in struct {
			Result json.RawMessage `json:"result"`
		}
		_ = json.Unmarshal(req.Params.Arguments, &in)
		if in.Result != nil {
			res := new(sdk.CallToolResult)
			if err := json.Unmarshal(in.Result, res); err != nil {
				return nil, err
			}
			if text, err := json.Marshal(res.StructuredContent); err == nil && len(text)%2 == 0 && res.StructuredContent != nil {
				res.StructuredContent = json.RawMessage(text)
			}
			return res, nil
		}
		seen, err := json.Marshal(req.Params)
		if err != nil {
			return nil, err
		}
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: string(seen)}}}, nil
	})
}

func TestShortWayOfToolsCallEqualsTheLongOne(t *testing.T) {
	for _, version := range []string{newProtocol, oldProtocol} {
		t.Run(version, func(t *testing.T) {
			r, _ := newRuntime(t, mcp.Options{})
			addMirror(r.Server())
			bare := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return r.Server() }, &sdk.StreamableHTTPOptions{Stateless: version == newProtocol})
			ours, theirs := newDirectClient(t, r.Handler(), version), newDirectClient(t, bare, version)
			d := dice{rand.New(rand.NewPCG(1, 2))}
			for i := range 500 {
				arguments := d.pick("", d.object(2, "a", "b"), d.value(1))
				if i%2 == 0 {
					arguments = `{"result":` + d.result() + `}`
				}
				body := request(d.pick("7", `"id"`, `"i\u0064"`, "-3"), "tools/call", d.params("mirror", arguments))
				if version == oldProtocol {
					body = strings.Replace(body, `"io.modelcontextprotocol/protocolVersion":"2026-07-28",`, "", 1)
				}
				gotStatus, got := ours.send(body)
				wantStatus, want := theirs.send(body)
				require.Equal(t, wantStatus, gotStatus, body)
				require.Equal(t, want.Error.Code, got.Error.Code, "%s: %s", body, got.Error.Message)
				if want.Error.Code == 0 {
					require.JSONEq(t, string(want.Result), string(got.Result), body)
				}
			}
		})
	}
}

// directClient sends requests to a handler without a network between.
type directClient struct {
	t      *testing.T
	h      http.Handler
	header map[string]string
}

func newDirectClient(t *testing.T, h http.Handler, version string) *directClient {
	c := &directClient{t: t, h: h, header: map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}}
	if version == newProtocol {
		c.header = with(c.header, "Mcp-Protocol-Version", newProtocol, "Mcp-Method", "tools/call", "Mcp-Name", "mirror")
		return c
	}
	rec := c.post(initialize)
	require.Equal(t, http.StatusOK, rec.Code)
	c.header = with(c.header, "Mcp-Session-Id", rec.Header().Get("Mcp-Session-Id"), "Mcp-Protocol-Version", version)
	return c
}

func (c *directClient) post(body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodPost, "http://localhost/mcp", strings.NewReader(body))
	req.RemoteAddr = "127.0.0.1:1" // others are limited in what they may ask for
	for k, v := range c.header {
		req.Header.Set(k, v)
	}
	rec := httptest.NewRecorder()
	c.h.ServeHTTP(rec, req)
	return rec
}

func (c *directClient) send(body string) (int, rpcAnswer) {
	rec := c.post(body)
	data := rec.Body.Bytes()
	if rec.Header().Get("Content-Type") == "text/event-stream" {
		data = lastEvent(data)
	} else {
		require.NotContains(c.t, rec.Body.String(), "\n")
	}
	var answer rpcAnswer
	require.NoError(c.t, json.Unmarshal(data, &answer), "%s", data)
	return rec.Code, answer
}

// TestCancelledCallOfASessionIsAnswered: the short way knows cancellations too.
func TestCancelledCallOfASessionIsAnswered(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	session := open(t, url)
	answered := make(chan rpcAnswer, 1)
	go func() {
		_, answer, _ := post(t, url, session, `{"jsonrpc":"2.0","id":"w","method":"tools/call","params":{"name":"wait","arguments":{}}}`)
		answered <- answer
	}()
	for {
		status, _, _ := post(t, url, session, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"w"}}`)
		require.Equal(t, http.StatusAccepted, status)
		select {
		case answer := <-answered:
			require.Contains(t, string(answer.Result), "context canceled")
			return
		case <-time.After(5 * time.Millisecond): // the call may not have arrived yet
		}
	}
}

type shape struct {
	Text  string             `json:"text"`
	Count *int               `json:"count,omitempty"`
	Ratio float64            `json:"ratio,omitempty"`
	Tags  []string           `json:"tags,omitempty"`
	Deep  map[string]any     `json:"deep,omitempty"`
	Pair  struct{ X, Y int } `json:"pair,omitzero"`
}

// TestTypedToolsBehaveAsTheSDKs adds every tool twice, with the SDK's AddTool
// and with the runtime's, and compares.
func TestTypedToolsBehaveAsTheSDKs(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	addTyped(r, "mirror", nil, func(in shape) (*sdk.CallToolResult, shape, error) { return nil, in, nil })
	addTyped(r, "content", nil, func(in shape) (*sdk.CallToolResult, shape, error) {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "own"}}}, in, nil
	})
	addTyped(r, "any", nil, func(in map[string]any) (*sdk.CallToolResult, any, error) { return nil, in["v"], nil })
	addTyped(r, "untyped", nil, func(in any) (*sdk.CallToolResult, any, error) { return nil, in, nil })
	addTyped(r, "pointer", nil, func(in *shape) (*sdk.CallToolResult, *shape, error) {
		if in.Text == "nil" {
			return nil, nil, nil
		}
		return nil, in, nil
	})
	addTyped(r, "list", nil, func(in shape) (*sdk.CallToolResult, []string, error) { return nil, in.Tags, nil })
	addTyped(r, "map", nil, func(in shape) (*sdk.CallToolResult, map[string]any, error) { return nil, in.Deep, nil })
	addTyped(r, "number", nil, func(in shape) (*sdk.CallToolResult, float64, error) { return nil, in.Ratio, nil })
	addTyped(r, "fail", nil, func(in shape) (*sdk.CallToolResult, shape, error) { return nil, in, fmt.Errorf("no %s", in.Text) })
	addTyped(r, "defaults", map[string]any{"type": "object", "properties": map[string]any{
		"text": map[string]any{"type": "string", "default": "by default"}, "count": map[string]any{"type": "integer", "default": 5},
	}}, func(in shape) (*sdk.CallToolResult, shape, error) { return nil, in, nil })
	addTyped(r, "strict", &jsonschema.Schema{Type: "object", Required: []string{"text"}, Properties: map[string]*jsonschema.Schema{
		"text": {Type: "string", MinLength: jsonschema.Ptr(3)},
	}}, func(in shape) (*sdk.CallToolResult, any, error) { return nil, nil, nil })
	addTyped(r, "asks", nil, func(shape) (*sdk.CallToolResult, shape, error) {
		return &sdk.CallToolResult{InputRequests: sdk.InputRequestMap{"q": &sdk.ElicitParams{Message: "?"}}}, shape{}, nil
	})
	s := connectHTTP(t, serveHTTP(t, r).URL, oldProtocol, &sdk.ClientOptions{
		ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			return &sdk.ElicitResult{Action: "decline"}, nil
		},
	})
	tools, err := s.ListTools(t.Context(), nil)
	require.NoError(t, err)
	byName := make(map[string]*sdk.Tool)
	for _, tool := range tools.Tools {
		byName[tool.Name] = tool
	}
	d := dice{rand.New(rand.NewPCG(3, 4))}
	arguments := func() json.RawMessage {
		fields := []string{`"text":` + d.text()}
		for _, f := range []string{
			`"count":` + d.pick("1", "2.5", "-7", `"x"`), `"ratio":` + d.pick("1", "2.5e-3"), `"tags":["a","b"]`, `"tags":null`,
			`"deep":` + d.object(2, "x", "y"), `"pair":{"X":1,"Y":2}`, `"pair":{"X":1},"pair":{"Y":2}`, `"v":` + d.value(2), `"text":"nil"`, `"Text":"case"`,
		} {
			if d.IntN(4) == 0 {
				fields = append(fields, f)
			}
		}
		d.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
		return json.RawMessage(d.pick("{}", "{"+strings.Join(fields, ",")+"}", "{"+strings.Join(fields, ",")+"}", "{"+strings.Join(fields, ",")+"}", "[]", "null", `"x"`))
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		tool := byName[name]
		theirs, ok := strings.CutSuffix(name, "-ours")
		if !ok {
			continue
		}
		require.Equal(t, byName[theirs].InputSchema, tool.InputSchema, name)
		require.Equal(t, byName[theirs].OutputSchema, tool.OutputSchema, name)
		for range 40 {
			args := arguments()
			want, wantErr := s.CallTool(t.Context(), &sdk.CallToolParams{Name: theirs, Arguments: args})
			got, gotErr := s.CallTool(t.Context(), &sdk.CallToolParams{Name: name, Arguments: args})
			require.Equal(t, wantErr == nil, gotErr == nil, "%s %s: %v / %v", name, args, wantErr, gotErr)
			if wantErr != nil {
				require.Equal(t, strings.ReplaceAll(wantErr.Error(), theirs, name), gotErr.Error())
				continue
			}
			require.Equal(t, canonical(t, want), canonical(t, got), "%s %s", name, args)
		}
	}
}

// canonical renders a result; the texts in it that are JSON with their members
// in order, in which the SDK alone puts them.
func canonical(t *testing.T, res *sdk.CallToolResult) string {
	for _, c := range res.Content {
		text, ok := c.(*sdk.TextContent)
		if ok && strings.HasPrefix(text.Text, "validating \"arguments\": validating root") {
			text.Text = "invalid" // which of several mistakes is found first is a matter of chance
		}
		if ok && strings.HasPrefix(text.Text, "json: cannot unmarshal") {
			text.Text = "not for this type" // the SDK's names a part of its own re-encoding
		}
		var v any
		if ok && json.Unmarshal([]byte(text.Text), &v) == nil {
			sorted, err := json.Marshal(v)
			require.NoError(t, err)
			text.Text = string(sorted)
		}
	}
	out, err := json.Marshal(res)
	require.NoError(t, err)
	return string(out)
}

func addTyped[In, Out any](r *mcp.Runtime, name string, schema any, fn func(In) (*sdk.CallToolResult, Out, error)) {
	name = "t-" + name
	h := func(_ context.Context, _ *sdk.CallToolRequest, in In) (*sdk.CallToolResult, Out, error) {
		return fn(in)
	}
	sdk.AddTool(r.Server(), &sdk.Tool{Name: name, InputSchema: schema}, h)
	mcp.AddTool(r, &sdk.Tool{Name: name + "-ours", InputSchema: schema}, h)
}

func TestLargeIntegersReachTypedTools(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	type in struct {
		N int64 `json:"n"`
	}
	var got int64
	mcp.AddTool(r, &sdk.Tool{Name: "n"}, func(_ context.Context, _ *sdk.CallToolRequest, in in) (*sdk.CallToolResult, any, error) {
		got = in.N
		return nil, nil, nil
	})
	s := connectHTTP(t, serveHTTP(t, r).URL, newProtocol, nil)
	call(t, s, "n", json.RawMessage(`{"n":9223372036854775807}`))
	require.EqualValues(t, int64(9223372036854775807), got)
}
