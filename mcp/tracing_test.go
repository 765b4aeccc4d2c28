package mcp_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/erlmcp/erlmcp/mcp"
)

func TestSpansContinueTheTraceOfTheClient(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	r, _ := newRuntime(t, mcp.Options{Tracer: provider})
	var inside trace.SpanContext
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "look", Description: "sees its span"},
		func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, textOut, error) {
			inside = trace.SpanContextFromContext(ctx)
			return nil, textOut{}, nil
		})
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traced := func(message string) string {
		return strings.Replace(message, `"_meta":{`, `"_meta":{"traceparent":"`+parent+`",`, 1)
	}
	ask(r, "127.0.0.1:1", "", traced(callOf("look", `{}`)))
	ask(r, "127.0.0.1:1", "", callOf("fail", `{"text":"a secret"}`))
	ask(r, "127.0.0.1:1", "", callOf("nowhere", `{}`))
	ask(r, "127.0.0.1:1", "", discover)

	ended := spans.Ended()
	require.Len(t, ended, 4)
	attributes := func(i int) map[attribute.Key]string {
		m := map[attribute.Key]string{}
		for _, kv := range ended[i].Attributes() {
			m[kv.Key] = kv.Value.AsString()
		}
		return m
	}
	require.Equal(t, "tools/call look", ended[0].Name())
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", ended[0].SpanContext().TraceID().String())
	require.Equal(t, "b7ad6b7169203331", ended[0].Parent().SpanID().String())
	require.True(t, ended[0].Parent().IsRemote())
	require.Equal(t, ended[0].SpanContext().SpanID(), inside.SpanID())
	require.Equal(t, trace.SpanKindServer, ended[0].SpanKind())
	a := attributes(0)
	require.Equal(t, "tools/call", a["mcp.method.name"])
	require.Equal(t, "look", a["gen_ai.tool.name"])
	require.Equal(t, "execute_tool", a["gen_ai.operation.name"])
	require.Equal(t, "7", a["jsonrpc.request.id"])
	require.Equal(t, "2026-07-28", a["mcp.protocol.version"])
	require.Equal(t, codes.Unset, ended[0].Status().Code)

	require.Equal(t, "tool_error", attributes(1)["error.type"])
	require.Equal(t, codes.Error, ended[1].Status().Code)
	require.Equal(t, "-32602", attributes(2)["rpc.response.status_code"])
	require.Equal(t, "server/discover", ended[3].Name())
	for i := range ended {
		for _, v := range attributes(i) {
			require.NotContains(t, v, "secret")
		}
	}

	// Sessions: the HTTP header, or _meta, of each request.
	url := serveHTTP(t, r).URL
	session := open(t, url)
	_, _, _ = post(t, url, with(session, "Traceparent", parent), `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a"}}}`)
	status, _, _ := post(t, url, session, traced(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a"},"_meta":{"x":1}}}`))
	require.Equal(t, http.StatusOK, status)
	found := 0
	for _, s := range spans.Ended() {
		if s.Name() == "tools/call echo" {
			require.Equal(t, "b7ad6b7169203331", s.Parent().SpanID().String())
			found++
		}
	}
	require.Equal(t, 2, found)
}

// The spans of a task's steps are linked to the call that made the task, after
// a crash too, when no span of that call is in memory.
func TestStepsAreLinkedToTheCallThatMadeTheTask(t *testing.T) {
	m := newMachine(t)
	first, second := tracetest.NewInMemoryExporter(), tracetest.NewInMemoryExporter()
	add := func(r *mcp.Runtime) {
		mcp.AddTaskTool(r, &sdk.Tool{Name: "job", Description: "asks between two steps"}, mcp.TaskOptions{Resumable: true},
			func(ctx context.Context, task *mcp.Task, _ struct{}) (string, error) {
				if err := task.Step(ctx, "before", func(context.Context) error { return nil }); err != nil {
					return "", err
				}
				if _, err := task.Elicit(ctx, nameForm()); err != nil {
					return "", err
				}
				return "done", task.Step(ctx, "after", func(context.Context) error { return nil })
			})
	}
	m.options.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(first))
	m.start(add)
	a := m.srv.rpc(allAbilities, "tools/call", map[string]any{
		"name": "job", "arguments": map[string]any{}, "_meta": map[string]any{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	})
	id := a.str("taskId")
	key := m.srv.question(id)
	m.crash()
	m.options.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(second))
	m.start(add)
	defer m.stop()
	require.Nil(t, m.srv.answerWith(id, key, "Ada").Error)
	m.srv.until(id, mcp.TaskCompleted)

	find := func(spans tracetest.SpanStubs, name string) tracetest.SpanStub {
		for _, s := range spans {
			if s.Name == name {
				return s
			}
		}
		t.Fatalf("no span %q", name)
		return tracetest.SpanStub{}
	}
	call := find(first.GetSpans(), "tools/call job").SpanContext
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", call.TraceID().String())
	for _, step := range []tracetest.SpanStub{find(first.GetSpans(), "task step before"), find(second.GetSpans(), "task step after")} {
		require.Len(t, step.Links, 1, step.Name)
		require.Equal(t, call.TraceID(), step.Links[0].SpanContext.TraceID())
		require.Equal(t, call.SpanID(), step.Links[0].SpanContext.SpanID())
		require.False(t, step.Parent.IsValid(), "the call ended long ago: %s is no child of it", step.Name)
	}
}
