package cluster

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// post sends a JSON-RPC message of protocol 2025-11-25 and returns the answer's session and body.
func post(t *testing.T, url, session, body string) (string, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		req.Header.Set("Mcp-Session-Id", session)
		req.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Less(t, resp.StatusCode, 300, string(raw))
	return resp.Header.Get("Mcp-Session-Id"), string(raw)
}

func TestSessionOfADeadMemberWorksOnTheOthers(t *testing.T) {
	f := newFleet(t, 3)
	urls := map[*node]string{}
	for _, x := range f.nodes {
		for _, m := range f.status(x).Members {
			if m.Name == x.name {
				urls[x] = m.URL
			}
		}
	}
	l := f.leader()
	session, _ := post(t, urls[l], "", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`)
	require.NotEmpty(t, session)
	post(t, urls[l], session, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	list := func(x *node, id int) string {
		_, body := post(t, urls[x], session, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/list"}`, id))
		return body
	}
	require.Contains(t, list(l, 2), "work_order_create")
	f.kill(l)
	f.leader(l)
	for i, x := range f.nodes {
		if x != l {
			require.True(t, strings.Contains(list(x, 10+i), "work_order_create"), "on %s", x.name)
		}
	}
}
