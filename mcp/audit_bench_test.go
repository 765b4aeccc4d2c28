package mcp_test

import (
	"net/http"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/erlmcp/erlmcp/mcp"
)

// BenchmarkSafety shows what audit, metrics, limits and traces cost one echo
// call, without a network.
func BenchmarkSafety(b *testing.B) {
	for _, c := range []struct {
		name   string
		remote string
		o      mcp.Options
	}{
		{"none", "127.0.0.1:1", mcp.Options{Audit: mcp.AuditOptions{Off: true}}},
		{"audit", "127.0.0.1:1", mcp.Options{}},
		{"limits", "192.0.2.1:1", mcp.Options{Audit: mcp.AuditOptions{Off: true}, Rates: mcp.RateLimits{Messages: 1e9, ToolCalls: 1e9, Global: 1e9}}},
		{"traces", "127.0.0.1:1", mcp.Options{Audit: mcp.AuditOptions{Off: true}, Tracer: sdktrace.NewTracerProvider()}},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newStored(b, auditStore(b), c.o)
			require.Equal(b, http.StatusOK, ask(r, c.remote, "", echo).Code)
			b.ReportAllocs()
			for b.Loop() {
				ask(r, c.remote, "", echo)
			}
		})
	}
}

// BenchmarkAuditDurability shows what waiting for the record costs 64 clients
// that call at once, without a network.
func BenchmarkAuditDurability(b *testing.B) {
	const clients = 64
	for _, c := range []struct {
		name string
		o    mcp.AuditOptions
	}{
		{"off", mcp.AuditOptions{Off: true}},
		{"batched", mcp.AuditOptions{Durability: mcp.AuditBatched}},
		{"before_answer", mcp.AuditOptions{Durability: mcp.AuditBeforeAnswer}},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newStored(b, auditStore(b), mcp.Options{Audit: c.o})
			require.Equal(b, http.StatusOK, ask(r, "127.0.0.1:1", "", echo).Code)
			b.SetParallelism(clients / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					ask(r, "127.0.0.1:1", "", echo)
				}
			})
		})
	}
}
