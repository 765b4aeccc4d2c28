package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// benchClients is how many clients create tasks at once.
const benchClients = 64

// benchRuntime has a task tool that ends at once and one that never starts to
// run, because no worker is free.
func benchRuntime(b *testing.B) *mcp.Runtime {
	store, err := engine.Open(b.TempDir(), engine.Options{})
	require.NoError(b, err)
	rt, err := mcp.NewRuntime(store, mcp.Options{Tasks: mcp.TaskLimits{Queue: 1 << 30, Unfinished: 1 << 30}})
	require.NoError(b, err)
	mcp.AddTaskTool(rt, &sdk.Tool{Name: "quick", Description: "ends at once"}, mcp.TaskOptions{},
		func(_ context.Context, _ *mcp.Task, in nameIn) (any, error) { return in.Name, nil })
	mcp.AddTaskTool(rt, &sdk.Tool{Name: "idle", Description: "waits for the end"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, _ *mcp.Task, _ nameIn) (any, error) { <-ctx.Done(); return nil, ctx.Err() })
	b.Cleanup(func() {
		require.NoError(b, rt.Close())
		require.NoError(b, store.Close())
	})
	return rt
}

func benchBody(b *testing.B, tool string) []byte {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{
		"name": tool, "arguments": map[string]any{"name": "0123456789abcdef"},
		"_meta": map[string]any{sdk.MetaKeyProtocolVersion: newProtocol, sdk.MetaKeyClientCapabilities: allAbilities},
	}})
	require.NoError(b, err)
	return body
}

func benchHeader(req *http.Request, tool string) {
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Mcp-Protocol-Version", newProtocol)
	req.Header.Set("Mcp-Method", "tools/call")
	req.Header.Set("Mcp-Name", tool)
}

// BenchmarkTask measures calls that make a durable task: "create" ones that
// wait in the queue, "complete" ones that also run to their end meanwhile.
// "http" has 64 clients over loopback in the same process; "direct" calls the
// handler without a network.
func BenchmarkTask(b *testing.B) {
	for _, tool := range []string{"idle", "quick"} {
		name := map[string]string{"idle": "create", "quick": "complete"}[tool]
		b.Run(name+"/direct", func(b *testing.B) {
			rt, body := benchRuntime(b), benchBody(b, tool)
			b.SetParallelism(benchClients)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req := httptest.NewRequest(http.MethodPost, "http://localhost/", bytes.NewReader(body))
					req.RemoteAddr = "127.0.0.1:1" // without rate limits
					benchHeader(req, tool)
					rec := httptest.NewRecorder()
					rt.Handler().ServeHTTP(rec, req)
					if !bytes.Contains(rec.Body.Bytes(), []byte(`"resultType":"task"`)) {
						b.Fatal(rec.Body.String())
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
		b.Run(name+"/http", func(b *testing.B) {
			rt, body := benchRuntime(b), benchBody(b, tool)
			srv := httptest.NewServer(rt.Handler())
			defer srv.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}
			b.SetParallelism(benchClients / 2)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, _ := http.NewRequest(http.MethodPost, srv.URL, bytes.NewReader(body))
					benchHeader(req, tool)
					res, err := client.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					text, _ := io.ReadAll(res.Body)
					res.Body.Close()
					if !bytes.Contains(text, []byte(`"resultType":"task"`)) {
						b.Fatal(string(text))
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
}
