package mcp

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
)

const (
	methodListen    = "subscriptions/listen"
	methodToolsCall = "tools/call"
)

// gate is the outermost middleware: it gives everything inside the Call that
// the request belongs to. Requests of protocol 2026-07-28 have theirs already,
// and enter at r.chain.
func (r *Runtime) gate(next sdk.MethodHandler) sdk.MethodHandler {
	r.chain = next
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		if extra := req.GetExtra(); extra != nil {
			if call, ok := r.calls.Load(extra); ok {
				ctx = call.(*Call).within(ctx)
			}
		}
		return next(ctx, method, req)
	}
}

// within returns ctx with the call, and with the values of the HTTP request
// that brought it.
func (c *Call) within(ctx context.Context) context.Context {
	if c.ctx != nil {
		ctx = joined{ctx, c.ctx}
	}
	return context.WithValue(ctx, callKey{}, c)
}

// joined is a context that ends with the first and also has the values of the
// second.
type joined struct {
	context.Context
	values context.Context
}

// Value implements [context.Context].
func (j joined) Value(key any) any {
	if v := j.Context.Value(key); v != nil {
		return v
	}
	return j.values.Value(key)
}

// sending keeps what a handler sends to a client of protocol 2026-07-28 with
// the request that it handles, and never asks such a client anything.
func (r *Runtime) sending(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		call, ok := CallFrom(ctx)
		if !ok || call.exchange == nil || req.GetSession() != sdk.Session(call.session) {
			return next(ctx, method, req)
		}
		if !strings.HasPrefix(method, "notifications/") {
			return nil, fmt.Errorf("%q cannot be sent while serving protocol version %s: return InputRequests instead", method, call.Version)
		}
		return nil, call.exchange.notify(method, req.GetParams())
	}
}

// middleware surrounds every handler: it checks scopes, gives it a time limit,
// turns a panic into an answer, and has it counted, traced and audited.
func (r *Runtime) middleware(next sdk.MethodHandler) sdk.MethodHandler {
	r.base = next
	return func(ctx context.Context, method string, req sdk.Request) (res sdk.Result, err error) {
		call, _ := CallFrom(ctx)
		switch {
		case method == methodListen: // a subscription lives as long as its stream
		case call != nil && call.direct: // has it already
		default:
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, r.opts.CallTimeout)
			defer cancel()
		}
		start := r.opts.Now()
		if r.tracer != nil {
			ctx, _ = r.startSpan(ctx, method, req)
		}
		var open *openRecord
		defer func() {
			if p := recover(); p != nil {
				r.stats.panics.Add(1)
				r.log.Error("handler panicked", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				res, err = nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "internal error: the handler of " + method + " failed; the server log has the details"}
			}
			if bad := r.observe(ctx, method, req, res, err, start, open).wait(); bad != nil {
				res, err = nil, notAudited(bad)
			}
		}()
		if tool, ok := req.(*sdk.CallToolRequest); ok {
			if bad := r.checkScopes(identityIn(ctx), tool.Params.Name); bad != nil {
				return nil, bad
			}
			if err := r.audit.admit(); err != nil {
				return nil, err
			}
			ctx, open = r.audit.begin(ctx, tool, start)
		}
		if asksForProgress(req) {
			done, err := r.wantsProgress()
			if err != nil {
				return nil, err
			}
			defer done()
		}
		stale, err := r.wantsStale(req)
		if err != nil {
			return nil, err
		}
		if stale != nil {
			ctx = engine.WithStale(ctx)
		}
		if sub, ok := req.(*sdk.SubscriptionsListenRequest); ok && call != nil {
			res, err = r.listen(ctx, call, sub)
		} else {
			res, err = next(ctx, method, req)
		}
		if stale != nil && err == nil {
			stale.state(res)
		}
		if err != nil {
			err = notFound(req, r.explain(ctx, method, err, r.opts.Now().Sub(start)))
			return nil, err
		}
		if call != nil && call.http != nil && method != methodToolsCall {
			if err := call.http.s.remember(ctx, method, req); err != nil {
				return nil, storeRefusal(err).rpc()
			}
		}
		return res, nil
	}
}

// asksForProgress looks at the requests that run long; the others have no use
// for a token, and perhaps no params.
func asksForProgress(req sdk.Request) bool {
	var meta sdk.Meta
	switch req := req.(type) {
	case *sdk.CallToolRequest:
		meta = req.Params.Meta
	case *sdk.ReadResourceRequest:
		meta = req.Params.Meta
	case *sdk.GetPromptRequest:
		meta = req.Params.Meta
	}
	_, ok := meta["progressToken"]
	return ok
}

// notFound gives the refusal of an unknown resource the code that the client's
// protocol revision names. The SDK sends the one of 2026-07-28 to all.
func notFound(req sdk.Request, err error) error {
	read, ok := req.(*sdk.ReadResourceRequest)
	var rpc *jsonrpc.Error
	if !ok || read.ProtocolVersion() >= versionStateless || !errors.As(err, &rpc) ||
		rpc.Code != jsonrpc.CodeInvalidParams || member(rpc.Data, "uri") == nil {
		return err
	}
	return &jsonrpc.Error{Code: codeResourceNotFoundLegacy, Message: rpc.Message, Data: rpc.Data}
}

// codeResourceNotFoundLegacy is the code of protocol revisions up to 2025-11-25.
const codeResourceNotFoundLegacy = -32002

// explain gives an error of a handler a code, and says so when the time limit
// was what ended it.
func (r *Runtime) explain(ctx context.Context, method string, err error, took time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: fmt.Sprintf(
			"%s gave up after %s, the time limit of one call", method, took.Round(time.Millisecond))}
	}
	return normalise(err)
}
