package mcp_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// people is an Authenticator whose credential is the name of a person.
type people map[string][]string

func (p people) Authenticate(req *http.Request) (*mcp.Identity, error) {
	name, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	switch scopes, ok := p[name]; {
	case ok:
		return &mcp.Identity{Subject: name, Scopes: scopes, Method: "test"}, nil
	case name == "":
		return nil, &mcp.AuthError{Status: 401, Challenge: `Bearer realm="test"`, Message: "no credential"}
	case name == "later":
		return nil, &mcp.AuthError{Status: 503, Message: "cannot tell now"}
	}
	return nil, errors.New("unknown person")
}

// whoTool registers a tool that answers with its caller.
func whoTool(r *mcp.Runtime, name string) {
	sdk.AddTool(r.Server(), &sdk.Tool{Name: name, Description: "says who calls"},
		func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, textOut, error) {
			return nil, textOut{Text: mcp.IdentityFrom(ctx).Subject}, nil
		})
}

func TestWithAnAuthenticatorOnlyKnownSendersGetIn(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{Authenticator: people{"ann": nil, "bob": {"write"}}, ToolScopes: map[string][]string{"who_*": {"write"}, "who_all": {}}})
	whoTool(r, "who")
	whoTool(r, "who_writes")
	whoTool(r, "who_all")
	url := serveHTTP(t, r).URL
	call := func(tool string) string { return stateless("5", "tools/call", `"name":"`+tool+`","arguments":{}`) }
	as := func(who, tool string) map[string]string {
		return map[string]string{
			"Authorization": "Bearer " + who, "Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool,
		}
	}

	for _, c := range []struct {
		name      string
		header    map[string]string
		body      string
		status    int
		code      int
		challenge string
		says      string
	}{
		{"nobody", nil, call("who"), 401, mcp.CodeUnauthenticated, `Bearer realm="test"`, "no credential"},
		{"nobody, with a broken message", nil, "{", 401, mcp.CodeUnauthenticated, `Bearer realm="test"`, "no credential"},
		{"somebody else", as("eve", "who"), call("who"), 401, mcp.CodeUnauthenticated, "Bearer", "unknown person"},
		{"not to be judged now", as("later", "who"), call("who"), 503, mcp.CodeOverloaded, "", "cannot tell"},
		{"a scope is missing", as("ann", "who_writes"), call("who_writes"), 403, mcp.CodeInsufficientScope, `Bearer error="insufficient_scope", scope="write"`, "who_writes needs write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, h := post(t, url, c.header, c.body)
			require.Equal(t, c.status, status, "%+v", body)
			require.Equal(t, c.code, body.Error.Code)
			require.Contains(t, body.Error.Message, c.says)
			require.Equal(t, c.challenge, h.Get("WWW-Authenticate"))
		})
	}
	for _, c := range []struct{ who, tool string }{{"ann", "who"}, {"bob", "who_writes"}, {"ann", "who_all"}} {
		status, body, _ := post(t, url, as(c.who, c.tool), call(c.tool))
		require.Equal(t, 200, status, "%+v", body)
		require.Contains(t, string(body.Result), `"text":"`+c.who+`"`)
	}
	require.EqualValues(t, 4, r.Stats().AuthFailures)

	// A browser asks without credentials whether it may send them.
	req, err := http.NewRequest(http.MethodOptions, url, nil)
	require.NoError(t, err)
	req.Header.Set("Origin", "http://localhost:3000")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
}

func TestAStrangerIsRefusedBeforeTheBodyIsRead(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{Authenticator: people{}})
	url := serveHTTP(t, r).URL
	status, _, _ := post(t, url, nil, strings.Repeat("x", 1<<20))
	require.Equal(t, http.StatusUnauthorized, status)
	require.Zero(t, r.Stats().BytesIn)
}

func TestScopesAreCheckedForEveryMessageOfABatch(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{Authenticator: people{"ann": {"read"}}, ToolScopes: map[string][]string{"*": {"write"}, "echo": nil}})
	url := serveHTTP(t, r).URL
	auth := map[string]string{"Authorization": "Bearer ann"}
	_, _, h := post(t, url, auth, strings.Replace(initialize, "2025-11-25", "2025-03-26", 1))
	auth["Mcp-Session-Id"] = h.Get("Mcp-Session-Id")
	status, body, _ := post(t, url, auth,
		`[{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a"}}},`+
			`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"fail","arguments":{"text":"a"}}}]`)
	require.Equal(t, http.StatusForbidden, status)
	require.Equal(t, mcp.CodeInsufficientScope, body.Error.Code)
	require.JSONEq(t, `{"requiredScopes":["write"]}`, string(body.Error.Data))
	require.Zero(t, r.Stats().ToolCalls)
}
