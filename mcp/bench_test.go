package mcp_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// BenchmarkEcho measures tools/call through the whole endpoint and, for
// comparison, through the SDK's handlers alone.
func BenchmarkEcho(b *testing.B) {
	r, _ := newRuntime(b, mcp.Options{})
	bare := func(stateless bool) http.Handler {
		return sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return r.Server() }, &sdk.StreamableHTTPOptions{Stateless: stateless})
	}
	for _, c := range []struct {
		name    string
		handler http.Handler
		version string
	}{
		{"2026-07-28/ours", r.Handler(), newProtocol},
		{"2026-07-28/sdk", bare(true), newProtocol},
		{"2025-11-25/ours", r.Handler(), oldProtocol},
		{"2025-11-25/sdk", bare(false), oldProtocol},
	} {
		b.Run(c.name, func(b *testing.B) {
			send := func(header http.Header, body string) *httptest.ResponseRecorder {
				req := httptest.NewRequest(http.MethodPost, "http://localhost/mcp", strings.NewReader(body))
				req.RemoteAddr = "127.0.0.1:1" // not limited
				req.Header = header
				req.RemoteAddr = "127.0.0.1:1" // others are limited
				rec := httptest.NewRecorder()
				c.handler.ServeHTTP(rec, req)
				return rec
			}
			header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
			body := echoCall("5", "sixteen bytes...")
			if c.version == newProtocol {
				header.Set("Mcp-Protocol-Version", newProtocol)
				header.Set("Mcp-Method", "tools/call")
				header.Set("Mcp-Name", "echo")
				body = stateless("5", "tools/call", `"name":"echo","arguments":{"text":"sixteen bytes..."}`)
			} else {
				header.Set("Mcp-Session-Id", send(header, initialize).Header().Get("Mcp-Session-Id"))
				header.Set("Mcp-Protocol-Version", oldProtocol)
			}
			first := send(header, body)
			require.Equal(b, http.StatusOK, first.Code, first.Body)
			b.ReportAllocs()
			for b.Loop() {
				rec := send(header, body)
				_, _ = io.Copy(io.Discard, rec.Body)
			}
		})
	}
}
