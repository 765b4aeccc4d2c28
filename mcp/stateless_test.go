package mcp_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/mcp"
)

//lint:file-ignore SA1019 roots, sampling and logging are deprecated, not gone: clients use them

// statelessHeaders are those that go with a request of protocol 2026-07-28.
func statelessHeaders(method, name string, more ...string) map[string]string {
	h := map[string]string{"Mcp-Protocol-Version": newProtocol, "Mcp-Method": method}
	if name != "" {
		h["Mcp-Name"] = name
	}
	return with(h, more...)
}

// metaOf builds params._meta with further fields.
func metaOf(more string) string {
	return `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}` + more + `}`
}

func request(id, method, params string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s}}`, id, method, params)
}

type searchParams struct {
	sdk.ParamsBase
	Query string `json:"query"`
}

type searchResult struct {
	sdk.ResultBase
	ResultType string   `json:"resultType"`
	Hits       []string `json:"hits"`
}

// addOddities registers what the plain tools of addTools leave out.
func addOddities(t testing.TB, r *mcp.Runtime) {
	s := r.Server()
	schema := json.RawMessage(`{"type":"object","properties":{
		"region":{"type":"string","x-mcp-header":"Region"},
		"level":{"type":"integer","x-mcp-header":"level"},
		"deep":{"type":"object","properties":{"dry":{"type":"boolean","x-mcp-header":"Dry-Run"}}}}}`)
	s.AddTool(&sdk.Tool{Name: "bound", InputSchema: schema}, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: string(req.Params.Arguments)}}}, nil
	})
	object := json.RawMessage(`{"type":"object"}`)
	s.AddTool(&sdk.Tool{Name: "nothing", InputSchema: object}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return nil, nil
	})
	s.AddTool(&sdk.Tool{Name: "refuse", InputSchema: object}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return nil, &jsonrpc.Error{Code: -32055, Message: "no", Data: json.RawMessage(`{"why":"because"}`)}
	})
	s.AddTool(&sdk.Tool{Name: "break", InputSchema: object}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return nil, errors.New("out of paper")
	})
	s.AddTool(&sdk.Tool{Name: "needs", InputSchema: object}, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		if req.ClientCapabilities().Sampling == nil {
			return nil, mcp.MissingCapability(&sdk.ClientCapabilities{Sampling: &sdk.SamplingCapabilities{}})
		}
		return &sdk.CallToolResult{}, nil
	})
	s.AddTool(&sdk.Tool{Name: "whoami", InputSchema: object}, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		call, ok := mcp.CallFrom(ctx)
		if !ok {
			return nil, errors.New("no call")
		}
		info := req.Session.InitializeParams().ClientInfo
		out := map[string]any{
			"method": call.Method, "id": call.ID.Raw(), "version": call.Version, "principal": call.Principal, "client": info,
			"asked": req.ClientInfo(), "protocol": req.ProtocolVersion(), "trace": req.Extra.Header.Get("X-Trace"),
		}
		return &sdk.CallToolResult{StructuredContent: out, Content: []sdk.Content{}}, nil
	})
	s.AddTool(&sdk.Tool{Name: "noisy", InputSchema: object}, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		for _, level := range []sdk.LoggingLevel{"debug", "info", "warning", "error"} {
			if err := req.Session.Log(ctx, &sdk.LoggingMessageParams{Level: level, Data: "m"}); err != nil {
				return nil, err
			}
		}
		return &sdk.CallToolResult{}, nil
	})
	s.AddTool(&sdk.Tool{Name: "input", InputSchema: object}, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		if got, ok := req.Params.InputResponses["name"].(*sdk.ElicitResult); ok {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: fmt.Sprint(got.Content["name"], req.Params.RequestState)}}}, nil
		}
		return &sdk.CallToolResult{RequestState: "s1", InputRequests: sdk.InputRequestMap{"name": &sdk.ElicitParams{Message: "who?"}}}, nil
	})
	require.NoError(t, sdk.AddReceivingCustomMethod(s, "acme/search",
		func(ctx context.Context, _ *sdk.ServerSession, p *searchParams) (*searchResult, error) {
			if p.Query == "" {
				return nil, &jsonrpc.Error{Code: -32602, Message: "query is empty"}
			}
			call, ok := mcp.CallFrom(ctx)
			if !ok {
				call = &mcp.Call{Method: "none"}
			}
			return &searchResult{ResultType: "found", Hits: []string{p.Query, call.Method, call.Principal}}, nil
		}))
}

// TestStatelessAnswersAreThoseOfTheSDK sends the same requests to the runtime
// and to the SDK's own handler over the same server.
func TestStatelessAnswersAreThoseOfTheSDK(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	addOddities(t, r)
	ours := serveHTTP(t, r).URL
	bare := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return r.Server() },
		&sdk.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(bare.Close)

	call := func(tool, rest string) [3]string {
		return [3]string{"tools/call", tool, `"name":"` + tool + `"` + rest}
	}
	cases := [][3]string{ // method, Mcp-Name, params without _meta
		{"server/discover", "", ""},
		{"tools/list", "", ""},
		{"tools/list", "", `"cursor":"rubbish"`},
		{"prompts/list", "", ""},
		{"prompts/get", "greet", `"name":"greet","arguments":{"who":"Ada"}`},
		{"prompts/get", "none", `"name":"none"`},
		{"resources/list", "", ""},
		{"resources/templates/list", "", ""},
		{"resources/read", "test://one", `"uri":"test://one"`},
		{"resources/read", "test://none", `"uri":"test://none"`},
		{"completion/complete", "", `"ref":{"type":"ref/prompt","name":"greet"},"argument":{"name":"who","value":"name-00"}`},
		{"completion/complete", "", `"ref":{"type":"ref/prompt","name":"none"},"argument":{"name":"who","value":""}`},
		{"ping", "", ""},
		{"initialize", "", `"protocolVersion":"2026-07-28","capabilities":{}`},
		{"logging/setLevel", "", `"level":"info"`},
		{"resources/subscribe", "", `"uri":"test://one"`},
		{"tasks/result", "", `"taskId":"x"`},
		{"no/such", "", ""},
		{"acme/search", "", `"query":"q"`},
		{"acme/search", "", ""},
		call("echo", `,"arguments":{"text":"hällo <&> \n \u2028"}`), call("echo", `,"arguments":{"Text":"case"}`),
		call("echo", `,"arguments":{}`), call("echo", `,"arguments":{"text":1}`), call("echo", `,"arguments":null`), call("echo", ``),
		call("echo", `,"arguments":[]`), call("echo", `,"arguments":{"text":"a","text":"b"}`), call("echo", `,"Arguments":{"text":"x"}`),
		call("fail", `,"arguments":{"text":"x"}`), call("none", ``), call("refuse", ``), call("break", ``), call("needs", ``),
		call("panic", `,"arguments":{}`), call("noisy", ""), call("input", ""),
		call("input", `,"inputResponses":{"name":{"action":"accept","content":{"name":"Ada"}}},"requestState":"s1"`),
		call("ask", `,"arguments":{"text":"x"}`),
		call("progress", `,"arguments":{}`),
	}
	for _, c := range cases {
		t.Run(strings.Trim(strings.Join(c[:2], " ")+c[2], " "), func(t *testing.T) {
			params := metaOf(`,"progressToken":7`)
			if c[2] != "" {
				params += "," + c[2]
			}
			body := request(`"seven"`, c[0], params)
			gotStatus, got, _ := post(t, ours, statelessHeaders(c[0], c[1]), body)
			wantStatus, want, _ := post(t, bare.URL, statelessHeaders(c[0], c[1]), body)
			require.Equal(t, wantStatus, gotStatus, "%+v", got)
			require.Equal(t, want.Error.Code, got.Error.Code, got.Error.Message)
			require.Equal(t, string(want.ID), string(got.ID))
			require.Equal(t, string(want.Error.Data), string(got.Error.Data))
			if want.Error.Code != 0 {
				require.NotEmpty(t, got.Error.Message)
				return
			}
			if c[0] == "acme/search" { // only ours has a Call
				require.JSONEq(t, strings.Replace(string(want.Result), `"none",""`, `"acme/search","anonymous"`, 1), string(got.Result))
				return
			}
			require.JSONEq(t, string(want.Result), string(got.Result))
		})
	}
}

func TestHeadersMustAgreeWithTheBody(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	addOddities(t, r)
	url := serveHTTP(t, r).URL
	base64Of := func(s string) string { return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?=" }
	echo := `"name":"echo","arguments":{"text":"x"}`
	bound := func(args string) string { return `"name":"bound","arguments":{` + args + `}` }
	for _, c := range []struct {
		name, method, params string
		headers              []string
		code                 int
		says                 string
	}{
		{"all right", "tools/call", echo, []string{"Mcp-Name", "echo"}, 0, ""},
		{"name in base64", "tools/call", echo, []string{"Mcp-Name", base64Of("echo")}, 0, ""},
		{"no method", "tools/call", echo, []string{"Mcp-Method", "-", "Mcp-Name", "echo"}, -32020, "Mcp-Method"},
		{"other method", "tools/call", echo, []string{"Mcp-Method", "tools/list", "Mcp-Name", "echo"}, -32020, "tools/list"},
		{"no name", "tools/call", echo, nil, -32020, "Mcp-Name"},
		{"other name", "tools/call", echo, []string{"Mcp-Name", "fail"}, -32020, "fail"},
		{"name in other case", "tools/call", echo, []string{"Mcp-Name", "Echo"}, -32020, "Echo"},
		{"name that the body lacks", "tools/call", `"arguments":{}`, []string{"Mcp-Name", "echo"}, -32020, "echo"},
		{"other resource", "resources/read", `"uri":"test://one"`, []string{"Mcp-Name", "test://two"}, -32020, "test://two"},
		{"right resource", "resources/read", `"uri":"test://one"`, []string{"Mcp-Name", "test://one"}, 0, ""},
		{"other prompt", "prompts/get", `"name":"greet"`, []string{"Mcp-Name", "x"}, -32020, "greet"},
		{"other task", "tasks/get", `"taskId":"a"`, []string{"Mcp-Name", "b"}, -32020, "b"},
		{"other task to update", "tasks/update", `"taskId":"a"`, []string{"Mcp-Name", "b"}, -32020, "b"},
		{"other task to cancel", "tasks/cancel", `"taskId":"a"`, []string{"Mcp-Name", "b"}, -32020, "b"},
		{"task of a client without the extension", "tasks/get", `"taskId":"a"`, nil, -32601, ""},
		{"name of a removed task method", "tasks/result", `"taskId":"a"`, []string{"Mcp-Name", "b"}, -32601, ""},
		{"name where none belongs", "tools/list", "", []string{"Mcp-Name", "b"}, 0, ""},
		{"other version", "tools/list", "", []string{"Mcp-Protocol-Version", oldProtocol}, -32020, oldProtocol},
		{"no version", "tools/list", "", []string{"Mcp-Protocol-Version", "-"}, -32020, "header"},
		{"bound", "tools/call", bound(`"region":"eu","level":3,"deep":{"dry":true}`), []string{"Mcp-Name", "bound", "Mcp-Param-Region", "eu", "Mcp-Param-Level", "3", "Mcp-Param-Dry-Run", "true"}, 0, ""},
		{"bound, encoded", "tools/call", bound(`"region":"Zürich"`), []string{"Mcp-Name", "bound", "Mcp-Param-Region", base64Of("Zürich")}, 0, ""},
		{"bound, integer as float", "tools/call", bound(`"level":3.0`), []string{"Mcp-Name", "bound", "Mcp-Param-Level", "3"}, 0, ""},
		{"bound, all absent", "tools/call", bound(``), []string{"Mcp-Name", "bound"}, 0, ""},
		{"bound, null", "tools/call", bound(`"region":null`), []string{"Mcp-Name", "bound"}, 0, ""},
		{"bound, header missing", "tools/call", bound(`"region":"eu"`), []string{"Mcp-Name", "bound"}, -32020, "missing Mcp-Param-Region"},
		{"bound, deep header missing", "tools/call", bound(`"deep":{"dry":false}`), []string{"Mcp-Name", "bound"}, -32020, "deep.dry"},
		{"bound, argument missing", "tools/call", bound(``), []string{"Mcp-Name", "bound", "Mcp-Param-Region", "eu"}, -32020, "unexpected"},
		{"bound, other value", "tools/call", bound(`"region":"eu"`), []string{"Mcp-Name", "bound", "Mcp-Param-Region", "us"}, -32020, "us"},
		{"bound, broken base64", "tools/call", bound(`"region":"eu"`), []string{"Mcp-Name", "bound", "Mcp-Param-Region", "=?base64?%%?="}, -32020, "Base64"},
		{"bound, not a primitive", "tools/call", bound(`"region":["eu"]`), []string{"Mcp-Name", "bound", "Mcp-Param-Region", "eu"}, -32020, "region"},
		{"bound, number for text", "tools/call", bound(`"region":7`), []string{"Mcp-Name", "bound", "Mcp-Param-Region", "7"}, 0, ""},
		{"bound, unsafe integer", "tools/call", bound(`"level":9007199254740993`), []string{"Mcp-Name", "bound", "Mcp-Param-Level", "9007199254740993"}, -32020, "level"},
	} {
		t.Run(c.name, func(t *testing.T) {
			params := metaOf("")
			if c.params != "" {
				params += "," + c.params
			}
			status, answer, _ := post(t, url, statelessHeaders(c.method, "", c.headers...), request("7", c.method, params))
			require.Equal(t, c.code, answer.Error.Code, answer.Error.Message)
			require.Contains(t, answer.Error.Message, c.says)
			require.Equal(t, map[int]int{0: 200, -32020: 400, -32601: 404}[c.code], status)
			require.Equal(t, "7", string(answer.ID))
		})
	}
}

func TestHeadersOfAToolAddedOrReplacedLaterAreChecked(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	send := func(tool string) int {
		_, answer, _ := post(t, url, statelessHeaders("tools/call", tool), request("7", "tools/call", metaOf("")+`,"name":"`+tool+`","arguments":{"region":"eu"}`))
		return answer.Error.Code
	}
	require.Equal(t, -32602, send("bound"))
	addOddities(t, r)
	require.Equal(t, -32020, send("bound"))
	open := json.RawMessage(`{"type":"object"}`)
	r.Server().AddTool(&sdk.Tool{Name: "bound", InputSchema: open}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return &sdk.CallToolResult{}, nil
	})
	require.Eventually(t, func() bool { return send("bound") == 0 }, 5*time.Second, time.Millisecond)
}

func TestMetaIsChecked(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	version := `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
	for meta, code := range map[string]int{
		`{}`:                -32602,
		`{` + version + `}`: -32602,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":null}`:                                                             -32602,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":[]}`:                                                               -32602,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":{"sampling":7}}`:                                                   -32602,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":{}}`:                                                               0,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":{"roots":{"listChanged":true}}}`:                                   0,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":"me"}`:                     -32602,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":null}`:                     -32602,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":7}`:                          0,
		`{"io.modelcontextprotocol/protocolVersion":"2026-07-29","io.modelcontextprotocol/clientCapabilities":{}}`:                        -32020,
		`{"io.modelcontextprotocol/protocolVersion":7,"io.modelcontextprotocol/clientCapabilities":{}}`:                                   -32602,
		`{` + version + `,"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":1,"version":"1"}}`: -32602,
	} {
		status, answer, _ := post(t, url, statelessHeaders("tools/list", ""), request("7", "tools/list", `"_meta":`+meta))
		require.Equal(t, code, answer.Error.Code, "%s: %s", meta, answer.Error.Message)
		require.Equal(t, code == 0, status == 200, meta)
	}
}

func TestHandlerKnowsWhoCallsIt(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	addOddities(t, r)
	url := serveHTTP(t, r).URL
	for _, client := range []string{"one", "two", "one"} {
		meta := strings.Replace(metaOf(""), `"name":"t"`, `"name":"`+client+`"`, 1)
		_, answer, _ := post(t, url, statelessHeaders("tools/call", "whoami", "X-Trace", client), request(`"id-`+client+`"`, "tools/call", meta+`,"name":"whoami"`))
		var got struct {
			StructuredContent map[string]any `json:"structuredContent"`
		}
		require.NoError(t, json.Unmarshal(answer.Result, &got))
		who := map[string]any{"name": client, "version": "1"}
		require.Equal(t, map[string]any{
			"method": "tools/call", "id": "id-" + client, "version": newProtocol, "principal": mcp.Anonymous, "client": who,
			"asked": who, "protocol": newProtocol, "trace": client,
		}, got.StructuredContent)
	}
	require.Zero(t, r.Stats().Sessions, "stateless requests leave no session behind")
}

func TestManyKindsOfClientsShareABoundedNumberOfSessions(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	addOddities(t, r)
	url := serveHTTP(t, r).URL
	send := func(name string) {
		meta := strings.Replace(metaOf(""), `"name":"t"`, `"name":"`+name+`"`, 1)
		_, answer, _ := post(t, url, statelessHeaders("tools/call", "whoami"), request("1", "tools/call", meta+`,"name":"whoami"`))
		require.Contains(t, string(answer.Result), `"`+name+`"`)
	}
	for i := range 200 {
		send(fmt.Sprint("client-", i))
	}
	send(strings.Repeat("x", 10<<10))
	alive := func() (n int) {
		for range r.Server().Sessions() {
			n++
		}
		return n
	}
	require.Eventually(t, func() bool { return alive() <= 65 }, 5*time.Second, time.Millisecond)
}

// events posts a request and returns its answer's messages and whether they
// came as a stream.
func events(t testing.TB, url string, header map[string]string, body string) (list []map[string]any, streamed bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	streamed = resp.Header.Get("Content-Type") == "text/event-stream"
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text := lines.Text()
		if streamed {
			var ok bool
			if text, ok = strings.CutPrefix(text, "data: "); !ok {
				continue
			}
		}
		var msg map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &msg))
		list = append(list, msg)
	}
	return list, streamed
}

func TestAnswerIsJSONUnlessSomethingComesBeforeIt(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	addOddities(t, r)
	url := serveHTTP(t, r).URL
	body := func(tool, meta string) string {
		return request("7", "tools/call", metaOf(meta)+`,"name":"`+tool+`","arguments":{}`)
	}
	list, streamed := events(t, url, statelessHeaders("tools/call", "noisy"), body("noisy", ""))
	require.False(t, streamed, "no logLevel, so no messages")
	require.Len(t, list, 1)

	list, streamed = events(t, url, statelessHeaders("tools/call", "noisy"), body("noisy", `,"io.modelcontextprotocol/logLevel":"warning"`))
	require.True(t, streamed)
	require.Len(t, list, 3)
	require.Equal(t, "notifications/message", list[0]["method"])
	require.Equal(t, "warning", list[0]["params"].(map[string]any)["level"])
	require.EqualValues(t, 7, list[2]["id"])

	list, streamed = events(t, url, statelessHeaders("tools/call", "progress"), body("progress", `,"progressToken":"p"`))
	require.True(t, streamed)
	require.Len(t, list, 4)
	require.Equal(t, "p", list[2]["params"].(map[string]any)["progressToken"])
}

func TestLongSilenceBecomesAStreamWithComments(t *testing.T) {
	r, release := newRuntime(t, mcp.Options{KeepAlive: 10 * time.Millisecond})
	url := serveHTTP(t, r).URL
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(request("7", "tools/call", metaOf("")+`,"name":"wait","arguments":{}`)))
	require.NoError(t, err)
	for k, v := range statelessHeaders("tools/call", "wait", "Content-Type", "application/json", "Accept", "*/*") {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for seen := 0; seen < 2; {
		require.True(t, lines.Scan())
		if lines.Text() == ": keep-alive" {
			seen++
		}
	}
	close(release)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			require.Contains(t, data, "released")
			return
		}
	}
	t.Fatal("the stream ended without the answer")
}

func TestHandlerEndsWhenItsClientLeaves(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	url := serveHTTP(t, r).URL
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(request("7", "tools/call", metaOf("")+`,"name":"wait","arguments":{}`)))
	require.NoError(t, err)
	for k, v := range statelessHeaders("tools/call", "wait", "Content-Type", "application/json", "Accept", "*/*") {
		req.Header.Set(k, v)
	}
	go func() {
		for r.Stats().InFlight == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err = http.DefaultClient.Do(req)
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { return r.Stats().InFlight == 0 }, 5*time.Second, time.Millisecond)
}

func TestNotificationsAndAnswersOfTheStatelessProtocolAreTaken(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	heard := make(chan string, 10)
	r.Server().AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			heard <- method
			return next(ctx, method, req)
		}
	})
	url := serveHTTP(t, r).URL
	for _, c := range []struct {
		body   string
		status int
	}{
		{`{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`, 202},
		{`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":2}}`, 202},
		{`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, 202},
		{`{"jsonrpc":"2.0","method":"notifications/initialized"}`, 202},
		{`{"jsonrpc":"2.0","method":"notifications/strange"}`, 400},
		{`{"jsonrpc":"2.0","method":"tools/list"}`, 400},
		{`{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled"}`, 400},
		{`{"jsonrpc":"2.0","id":1,"result":{}}`, 202},
	} {
		var msg struct{ Method string }
		require.NoError(t, json.Unmarshal([]byte(c.body), &msg))
		status, _, _ := post(t, url, statelessHeaders(msg.Method, ""), c.body)
		require.Equal(t, c.status, status, c.body)
	}
	require.Equal(t, "notifications/roots/list_changed", <-heard)
	require.Equal(t, "notifications/progress", <-heard)
	require.Empty(t, heard)
	require.EqualValues(t, 1, r.Stats().StrayAnswers)
}
