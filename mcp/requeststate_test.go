package mcp_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/mcp"
)

//lint:file-ignore SA1019 roots, sampling and logging are deprecated, not gone: clients use them

// as returns a context of a principal.
func as(t testing.TB, subject string) context.Context {
	return mcp.WithIdentity(t.Context(), &mcp.Identity{Subject: subject})
}

// openDir opens a runtime on a directory; the clock is the caller's.
func openDir(t testing.TB, dir string, o mcp.Options) *mcp.Runtime {
	t.Helper()
	r, err := mcp.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func toolCall(name, arguments, state string) *sdk.CallToolRequest {
	return &sdk.CallToolRequest{Params: &sdk.CallToolParamsRaw{Name: name, Arguments: json.RawMessage(arguments), RequestState: state}}
}

type draft struct{ Item string }

func TestRequestStateOpensForTheSameRequestOnly(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	dir := t.TempDir()
	r := openDir(t, dir, mcp.Options{Now: func() time.Time { return now }, StateTTL: time.Minute})
	ada := as(t, "ada")
	state, err := r.SealState(ada, toolCall("order", `{"n":1,"to":"x"}`, ""), draft{"bolts"})
	require.NoError(t, err)
	require.NotContains(t, state, "bolts")

	var got draft
	found, err := r.OpenState(ada, toolCall("order", `{"n":1,"to":"x"}`, ""), &got)
	require.NoError(t, err)
	require.False(t, found, "the first round has no state")

	opens := func(ctx context.Context, req sdk.Request) bool {
		var got draft
		found, err := r.OpenState(ctx, req, &got)
		if err != nil {
			var rpc *jsonrpc.Error
			require.ErrorAs(t, err, &rpc)
			require.EqualValues(t, jsonrpc.CodeInvalidParams, rpc.Code)
			require.False(t, found)
			require.Empty(t, got)
			return false
		}
		require.True(t, found)
		require.Equal(t, draft{"bolts"}, got)
		return true
	}
	require.True(t, opens(ada, toolCall("order", `{"n":1,"to":"x"}`, state)))
	require.True(t, opens(ada, toolCall("order", ` {"to" : "x", "n":1}`, state)), "written differently")
	require.False(t, opens(as(t, "eve"), toolCall("order", `{"n":1,"to":"x"}`, state)))
	require.False(t, opens(ada, toolCall("cancel", `{"n":1,"to":"x"}`, state)))
	require.False(t, opens(ada, toolCall("order", `{"n":100,"to":"x"}`, state)))
	require.False(t, opens(ada, toolCall("order", `{"n":1.0000000000000000001,"to":"x"}`, state)))
	require.False(t, opens(ada, &sdk.GetPromptRequest{Params: &sdk.GetPromptParams{Name: "order", RequestState: state}}))
	require.False(t, opens(ada, toolCall("order", `{"n":1,"to":"x"}`, "rubbish")))
	raw, err := base64.RawURLEncoding.DecodeString(state)
	require.NoError(t, err)
	for i := range raw {
		raw[i] ^= 1
		require.False(t, opens(ada, toolCall("order", `{"n":1,"to":"x"}`, base64.RawURLEncoding.EncodeToString(raw))), "byte %d", i)
		raw[i] ^= 1
	}
	for n := range len(raw) {
		if cut := base64.RawURLEncoding.EncodeToString(raw[:n]); cut != "" {
			require.False(t, opens(ada, toolCall("order", `{"n":1,"to":"x"}`, cut)))
		}
	}

	// After a restart too, until it is too old.
	require.NoError(t, r.Close())
	r = openDir(t, dir, mcp.Options{Now: func() time.Time { return now }, StateTTL: time.Minute})
	require.True(t, opens(ada, toolCall("order", `{"n":1,"to":"x"}`, state)))
	now = now.Add(time.Minute)
	require.False(t, opens(ada, toolCall("order", `{"n":1,"to":"x"}`, state)))

	_, err = r.SealState(ada, toolCall("order", `{}`, ""), strings.Repeat("x", 70<<10))
	require.ErrorContains(t, err, "Handle")
}

func TestStatesOfPromptsAndResourcesAreBoundToo(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	prompt := func(who, state string) sdk.Request {
		return &sdk.GetPromptRequest{Params: &sdk.GetPromptParams{Name: "p", Arguments: map[string]string{"who": who}, RequestState: state}}
	}
	read := func(uri, state string) sdk.Request {
		return &sdk.ReadResourceRequest{Params: &sdk.ReadResourceParams{URI: uri, RequestState: state}}
	}
	for _, c := range []struct {
		first, again, other func(state string) sdk.Request
	}{
		{func(s string) sdk.Request { return prompt("a", s) }, func(s string) sdk.Request { return prompt("a", s) }, func(s string) sdk.Request { return prompt("b", s) }},
		{func(s string) sdk.Request { return read("a", s) }, func(s string) sdk.Request { return read("a", s) }, func(s string) sdk.Request { return read("b", s) }},
	} {
		state, err := r.SealState(t.Context(), c.first(""), 7)
		require.NoError(t, err)
		var n int
		found, err := r.OpenState(t.Context(), c.again(state), &n)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, 7, n)
		_, err = r.OpenState(t.Context(), c.other(state), &n)
		require.Error(t, err)
	}
}

// TestToolAsksAndGoesOn: one tool serves clients of both generations.
func TestToolAsksAndGoesOn(t *testing.T) {
	elicit := &sdk.ClientOptions{ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
		return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"sure": true}}, nil
	}}
	test := func(t *testing.T, r *mcp.Runtime, s *sdk.ClientSession) {
		addOrder(r)
		require.Equal(t, "ordered 3 for bolts", text(t, call(t, s, "order", map[string]any{"item": "bolts"})))
	}
	carriers(t, mcp.Options{}, elicit, test)

	r, _ := newRuntime(t, mcp.Options{})
	addOrder(r)
	mute := connectHTTP(t, serveHTTP(t, r).URL, newProtocol, nil)
	_, err := mute.CallTool(t.Context(), &sdk.CallToolParams{Name: "order", Arguments: map[string]any{"item": "bolts"}})
	var rpc *jsonrpc.Error
	require.ErrorAs(t, err, &rpc)
	require.EqualValues(t, mcp.CodeMissingCapability, rpc.Code)
	require.JSONEq(t, `{"requiredCapabilities":{"elicitation":{}}}`, string(rpc.Data))
}

func addOrder(r *mcp.Runtime) {
	type in struct {
		Item string `json:"item"`
	}
	type plan struct{ Price int }
	mcp.AddTool(r, &sdk.Tool{Name: "order"}, func(ctx context.Context, req *sdk.CallToolRequest, in in) (*sdk.CallToolResult, any, error) {
		var p plan
		again, err := r.OpenState(ctx, req, &p)
		if err != nil {
			return nil, nil, err
		}
		if answer, ok := mcp.Answer[*sdk.ElicitResult](req, "sure"); again && ok && answer.Action == "accept" {
			text := "ordered " + strings.Repeat("I", p.Price)
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: strings.Replace(text, "III", "3", 1) + " for " + in.Item}}}, nil, nil
		}
		res, err := r.Ask(ctx, req, plan{Price: 3}, sdk.InputRequestMap{"sure": &sdk.ElicitParams{
			Message: "sure?", RequestedSchema: json.RawMessage(`{"type":"object","properties":{"sure":{"type":"boolean"}}}`),
		}})
		return res, nil, err
	})
}

func TestTamperedStateIsRefusedOverHTTP(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	addOrder(r)
	url := serveHTTP(t, r).URL
	meta := strings.Replace(metaOf(""), `clientCapabilities":{}`, `clientCapabilities":{"elicitation":{}}`, 1)
	send := func(more string) (int, rpcAnswer) {
		status, answer, _ := post(t, url, statelessHeaders("tools/call", "order"), request("1", "tools/call", meta+`,"name":"order","arguments":{"item":"x"}`+more))
		return status, answer
	}
	_, first := send("")
	var asked struct{ ResultType, RequestState string }
	require.NoError(t, json.Unmarshal(first.Result, &asked))
	require.Equal(t, "input_required", asked.ResultType)
	answers := `,"inputResponses":{"sure":{"action":"accept"},"other":{"action":"decline"}},"requestState":`
	_, done := send(answers + `"` + asked.RequestState + `"`)
	require.Contains(t, string(done.Result), "ordered 3")
	status, refused := send(answers + `"A` + asked.RequestState[1:] + `x"`)
	require.Equal(t, 400, status)
	require.Equal(t, jsonrpc.CodeInvalidParams, refused.Error.Code)
}

func TestHandleLivesBetweenCallsAndRuns(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var mu sync.Mutex
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	dir := t.TempDir()
	r := openDir(t, dir, mcp.Options{Now: clock})
	ada := as(t, "ada")
	h, err := r.NewHandle(ada, time.Hour, draft{"one"})
	require.NoError(t, err)
	require.Len(t, h.ID, 34)
	require.Equal(t, now.Add(time.Hour), h.Expires)

	_, err = r.Handle(as(t, "eve"), h.ID)
	require.ErrorIs(t, err, mcp.ErrNoHandle, "an ID alone opens nothing")
	_, err = r.Handle(ada, "h_"+strings.Repeat("A", 32))
	require.ErrorIs(t, err, mcp.ErrNoHandle)

	a, err := r.Handle(ada, h.ID)
	require.NoError(t, err)
	b, err := r.Handle(ada, h.ID)
	require.NoError(t, err)
	require.NoError(t, a.Put(ada, draft{"two"}))
	require.ErrorIs(t, b.Put(ada, draft{"lost"}), mcp.ErrHandleChanged)
	require.NoError(t, a.Put(ada, draft{"three"}))

	require.NoError(t, r.Close())
	r = openDir(t, dir, mcp.Options{Now: clock})
	h, err = r.Handle(ada, h.ID)
	require.NoError(t, err)
	var got draft
	require.NoError(t, h.Get(&got))
	require.Equal(t, draft{"three"}, got)

	mu.Lock()
	now = now.Add(59 * time.Minute)
	mu.Unlock()
	require.NoError(t, h.Put(ada, draft{"four"}), "writing begins the time again")
	mu.Lock()
	now = now.Add(59 * time.Minute)
	mu.Unlock()
	_, err = r.Handle(ada, h.ID)
	require.NoError(t, err)
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	_, err = r.Handle(ada, h.ID)
	require.ErrorIs(t, err, mcp.ErrNoHandle)
	require.ErrorIs(t, h.Put(ada, draft{"late"}), mcp.ErrNoHandle)
}

func TestHandleCanBeDeletedAndIsGoneThen(t *testing.T) {
	r := openDir(t, t.TempDir(), mcp.Options{})
	h, err := r.NewHandle(t.Context(), time.Hour, 1)
	require.NoError(t, err)
	require.NoError(t, h.Delete(t.Context()))
	require.NoError(t, h.Delete(t.Context()))
	_, err = r.Handle(t.Context(), h.ID)
	require.ErrorIs(t, err, mcp.ErrNoHandle)
	require.ErrorIs(t, h.Put(t.Context(), 2), mcp.ErrNoHandle)
}

func TestHandlesAreBounded(t *testing.T) {
	r := openDir(t, t.TempDir(), mcp.Options{MaxHandles: 2})
	ada, bob := as(t, "ada"), as(t, "bob")
	first, err := r.NewHandle(ada, time.Hour, 1)
	require.NoError(t, err)
	_, err = r.NewHandle(ada, time.Hour, 2)
	require.NoError(t, err)
	_, err = r.NewHandle(ada, time.Hour, 3)
	var rpc *jsonrpc.Error
	require.True(t, errors.As(err, &rpc), "%v", err)
	require.EqualValues(t, mcp.CodeOverloaded, rpc.Code)
	_, err = r.NewHandle(bob, time.Hour, 1)
	require.NoError(t, err, "each principal has its own")
	require.NoError(t, first.Delete(ada))
	_, err = r.NewHandle(ada, time.Hour, 3)
	require.NoError(t, err)

	_, err = r.NewHandle(ada, time.Millisecond, 1)
	require.ErrorContains(t, err, "1s")
	_, err = r.NewHandle(bob, time.Hour, strings.Repeat("x", 70<<10))
	require.ErrorContains(t, err, "65536")
	volatile, _ := newRuntime(t, mcp.Options{})
	_, err = volatile.NewHandle(ada, time.Hour, 1)
	require.ErrorIs(t, err, mcp.ErrNoStore)
}
