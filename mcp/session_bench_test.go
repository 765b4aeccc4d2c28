package mcp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// benchSessions is a runtime on a directory, whose commits wait for the disk.
func benchSessions(b *testing.B, dir string) *mcp.Runtime {
	b.Helper()
	store, err := engine.Open(dir, engine.Options{})
	require.NoError(b, err)
	r, err := mcp.NewRuntime(store, mcp.Options{MaxSessions: 10_000_000})
	require.NoError(b, err)
	addTools(r, nil)
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "burst"}, func(ctx context.Context, req *sdk.CallToolRequest, in struct {
		Events int `json:"events"`
	},
	) (*sdk.CallToolResult, any, error) {
		for i := range in.Events {
			err := req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: "p", Progress: float64(i + 1)})
			if err != nil {
				return nil, nil, err
			}
		}
		return &sdk.CallToolResult{}, nil, nil
	})
	b.Cleanup(func() {
		require.NoError(b, r.Close())
		require.NoError(b, store.Close())
	})
	return r
}

func exchangeRaw(h http.Handler, session, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodPost, "http://localhost/mcp", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		req.Header.Set("Mcp-Session-Id", session)
		req.Header.Set("Mcp-Protocol-Version", oldProtocol)
	}
	req.RemoteAddr = "127.0.0.1:1" // not limited
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

// parallelism is the number of clients at once.
const parallelism = 64

// BenchmarkSessionCreate is initialize: one durable commit each.
func BenchmarkSessionCreate(b *testing.B) {
	r := benchSessions(b, b.TempDir())
	b.SetParallelism(parallelism / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if rec := exchangeRaw(r.Handler(), "", initialize); rec.Code != http.StatusOK {
				b.Fatal(rec.Body)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
}

// BenchmarkSessionResume is the first call on a session that is in the store only.
func BenchmarkSessionResume(b *testing.B) {
	store, err := engine.Open(b.TempDir(), engine.Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	open := func() *mcp.Runtime {
		r, err := mcp.NewRuntime(store, mcp.Options{MaxSessions: 10_000_000})
		require.NoError(b, err)
		addTools(r, nil)
		return r
	}
	first := open()
	ids := make(chan string, b.N)
	for range b.N {
		ids <- exchangeRaw(first.Handler(), "", initialize).Header().Get("Mcp-Session-Id")
	}
	require.NoError(b, first.Close())
	r := open()
	b.Cleanup(func() { require.NoError(b, r.Close()) })
	b.SetParallelism(parallelism / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if rec := exchangeRaw(r.Handler(), <-ids, echoCall("5", "x")); rec.Code != http.StatusOK {
				b.Fatal(rec.Body)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "resumes/s")
}

// BenchmarkEventAppend is one progress event of a call: one durable commit
// each, then written to the client.
func BenchmarkEventAppend(b *testing.B) {
	for _, calls := range []int{1, parallelism} {
		b.Run(fmt.Sprintf("calls=%d", calls), func(b *testing.B) {
			r := benchSessions(b, b.TempDir())
			srv := httptest.NewServer(r.Handler())
			defer srv.Close()
			call := func(n int) {
				h := open(b, srv.URL)
				req, err := http.NewRequest(http.MethodPost, srv.URL, strings.NewReader(fmt.Sprintf(
					`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"burst","arguments":{"events":%d}}}`, n)))
				require.NoError(b, err)
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Accept", "*/*")
				for k, v := range h {
					req.Header.Set(k, v)
				}
				resp, err := http.DefaultClient.Do(req)
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(b, err)
				resp.Body.Close()
			}
			b.ResetTimer()
			done := make(chan struct{})
			for i := range calls {
				n := b.N / calls
				if i == 0 {
					n += b.N % calls
				}
				go func() { call(n); done <- struct{}{} }()
			}
			for range calls {
				<-done
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkSessionMemory states what a session costs in memory: while it is
// connected, after it was evicted, and per open standalone stream.
func BenchmarkSessionMemory(b *testing.B) {
	const sessions, streams = 10_000, 1_000
	for b.Loop() {
		clock := newTestClock()
		store, err := engine.Open(b.TempDir(), engine.Options{})
		require.NoError(b, err)
		r, err := mcp.NewRuntime(store, mcp.Options{Now: clock.now})
		require.NoError(b, err)
		addTools(r, nil)
		before := inUse()
		ids := make([]string, sessions)
		var next atomic.Int64
		work := make(chan struct{})
		for range parallelism {
			go func() {
				for i := next.Add(1) - 1; i < sessions; i = next.Add(1) - 1 {
					ids[i] = exchangeRaw(r.Handler(), "", initialize).Header().Get("Mcp-Session-Id")
					exchangeRaw(r.Handler(), ids[i], initialized)
					exchangeRaw(r.Handler(), ids[i], echoCall("2", "x"))
				}
				work <- struct{}{}
			}()
		}
		for range parallelism {
			<-work
		}
		b.ReportMetric(float64(inUse()-before)/sessions, "B/connected")
		clock.advance(10 * time.Minute)
		require.NoError(b, r.SweepSessions())
		require.Zero(b, r.LiveSessions())
		b.ReportMetric(float64(inUse()-before)/sessions, "B/evicted")

		srv := httptest.NewServer(r.Handler())
		before = inUse()
		var open []*sse
		for i := range streams {
			s := listen(b, http.MethodGet, srv.URL, map[string]string{"Mcp-Session-Id": ids[i], "Mcp-Protocol-Version": oldProtocol}, "")
			s.must()
			open = append(open, s)
		}
		// The client's half of each connection is in this process too.
		b.ReportMetric(float64(inUse()-before)/streams, "B/stream+client")
		for _, s := range open {
			s.close()
		}
		require.NoError(b, r.Close())
		srv.Close()
		require.NoError(b, store.Close())
	}
}

// inUse is the memory of heap and stacks after a collection.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
