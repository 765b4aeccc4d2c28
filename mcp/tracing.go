package mcp

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// This file makes spans, when Options.Tracer is set. Names and attributes follow
// the OpenTelemetry semantic conventions for MCP and generative AI. The parent is
// what the client sent: _meta.traceparent (SEP-414), or else the HTTP header.

const tracerName = "github.com/erlmcp/erlmcp/mcp"

var traceContext propagation.TraceContext

// metaCarrier lets the propagator read _meta.
type metaCarrier map[string]any

// Get implements [propagation.TextMapCarrier].
func (m metaCarrier) Get(key string) string {
	v, _ := m[key].(string)
	return v
}

// Set implements [propagation.TextMapCarrier]; nothing is written.
func (m metaCarrier) Set(string, string) {}

// Keys implements [propagation.TextMapCarrier].
func (m metaCarrier) Keys() []string { return []string{"traceparent", "tracestate"} }

// target names what a request is about, and its _meta. Only requests with
// params that cannot be absent are looked at.
func target(req sdk.Request) (name string, meta sdk.Meta, attr attribute.KeyValue) {
	switch req := req.(type) {
	case *sdk.CallToolRequest:
		name, meta = cut(req.Params.Name, 128), req.Params.Meta
		return name, meta, attribute.String("gen_ai.tool.name", name)
	case *sdk.GetPromptRequest:
		name, meta = cut(req.Params.Name, 128), req.Params.Meta
		return name, meta, attribute.String("gen_ai.prompt.name", name)
	case *sdk.ReadResourceRequest:
		// Not part of the name: there are as many URIs as clients care to ask for.
		return "", req.Params.Meta, attribute.String("mcp.resource.uri", cut(req.Params.URI, 512))
	}
	return "", nil, attribute.KeyValue{}
}

// headerOf returns the headers of the HTTP request that brought req; may be nil.
func headerOf(ctx context.Context, req sdk.Request) http.Header {
	if extra := req.GetExtra(); extra != nil && extra.Header != nil {
		return extra.Header
	}
	if r, ok := ctx.Value(httpRequestKey{}).(*http.Request); ok {
		return r.Header
	}
	return nil
}

// startSpan begins the span of a request.
func (r *Runtime) startSpan(ctx context.Context, method string, req sdk.Request) (context.Context, trace.Span) {
	name, meta, attr := target(req)
	if parent := traceContext.Extract(ctx, metaCarrier(meta)); trace.SpanContextFromContext(parent).IsRemote() {
		ctx = parent
	} else if h := headerOf(ctx, req); h != nil {
		ctx = traceContext.Extract(ctx, propagation.HeaderCarrier(h))
	}
	known := measuredMethods[measuredIndex[method]]
	attrs := []attribute.KeyValue{attribute.String("mcp.method.name", known), attribute.String("enduser.id", identityIn(ctx).Subject)}
	if attr.Valid() {
		attrs = append(attrs, attr)
	}
	if method == methodToolsCall {
		attrs = append(attrs, attribute.String("gen_ai.operation.name", "execute_tool"))
	}
	if call, ok := CallFrom(ctx); ok {
		attrs = append(attrs, attribute.String("jsonrpc.request.id", cut(idText(call), 128)))
		if call.Version != "" {
			attrs = append(attrs, attribute.String("mcp.protocol.version", call.Version))
		}
		if call.SessionID != "" {
			// The whole id would let readers of traces take the session over.
			attrs = append(attrs, attribute.String("mcp.session.id", cut(call.SessionID, 8)))
		}
	}
	if name != "" {
		known += " " + name
	}
	return r.tracer.Start(ctx, known, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attrs...))
}

// endSpan says how the request ended. Texts of errors stay out: they may hold
// what the client sent.
func endSpan(span trace.Span, outcome int, code int64) {
	switch Outcomes[outcome] {
	case outcomeToolError:
		span.SetAttributes(attribute.String("error.type", "tool_error"))
		span.SetStatus(codes.Error, "")
	case outcomeError, outcomeDenied:
		text := strconv.FormatInt(code, 10)
		span.SetAttributes(attribute.String("error.type", text), attribute.String("rpc.response.status_code", text))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// traceParent is the span of ctx as text; "" when there is none.
func traceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	text := make(propagation.MapCarrier, 2)
	traceContext.Inject(ctx, text)
	return text.Get("traceparent")
}

// traceStep makes the span of one step of a task. It is linked to the span of
// the call that made the task, and no child of it: the call ended long ago, and
// perhaps in another process. end takes the error of the step.
func (r *Runtime) traceStep(ctx context.Context, t *Task, name string) (_ context.Context, end func(error)) {
	if r.tracer == nil {
		return ctx, func(error) {}
	}
	options := []trace.SpanStartOption{trace.WithAttributes(
		attribute.String("erlmcp.task.id", cut(t.ID(), 8)), attribute.String("gen_ai.tool.name", t.Tool()),
		attribute.Int("erlmcp.task.attempt", t.Attempt()),
	)}
	made := traceContext.Extract(context.Background(), propagation.MapCarrier{"traceparent": t.run.rec.Trace})
	if sc := trace.SpanContextFromContext(made); sc.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{
			SpanContext: sc, Attributes: []attribute.KeyValue{attribute.String("erlmcp.link", "created by")},
		}))
	}
	ctx, span := r.tracer.Start(ctx, "task step "+cut(name, 128), options...)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

// traceIDOf returns the trace that a tool call belongs to, traced or not.
func traceIDOf(ctx context.Context, req *sdk.CallToolRequest) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	parent := metaCarrier(req.Params.Meta).Get("traceparent")
	if parent == "" {
		if h := headerOf(ctx, req); h != nil {
			parent = h.Get("Traceparent")
		}
	}
	// 00-<32 hex digits>-<16 hex digits>-<flags>
	if len(parent) < 55 || parent[2] != '-' || parent[35] != '-' {
		return ""
	}
	if _, err := hex.DecodeString(parent[3:35]); err != nil {
		return ""
	}
	return parent[3:35]
}

// idText is the JSON-RPC id of a call for people.
func idText(c *Call) string {
	if c.rawID != nil {
		return string(c.rawID)
	}
	return fmt.Sprint(c.ID.Raw())
}
