package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// stateless serves POSTs of protocol 2026-07-28, whose requests stand alone:
//
//	headers agree with the body? ── resident session ── typed request ── the server's
//	                                                                    middleware, then
//	      one JSON body, or an event stream ── exchange ── result ────── the handler
//
// The handler runs in the goroutine of the HTTP request and under its context.
// The SDK's own handler for this protocol opens a session, with its goroutines
// and queues, for every request, and decodes a message six times over.
type stateless struct {
	rt        *Runtime
	residents residents
	running   atomic.Int64
}

func newStateless(r *Runtime) *stateless {
	return &stateless{rt: r, residents: residents{rt: r}}
}

// wait returns when no request runs any more, or after patience.
func (s *stateless) wait(patience time.Duration) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); s.running.Load() > 0; <-tick.C {
		if time.Now().After(end) {
			s.rt.log.Warn("runtime closed with requests still running")
			return
		}
	}
}

// serve answers one checked message.
func (s *stateless) serve(w http.ResponseWriter, req *http.Request, env *envelope) *wireError {
	if env.isResponse() {
		s.rt.stats.strayAnswers.Add(1) // nobody asks clients of this protocol anything
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	if bad := s.check(req.Header, env); bad != nil {
		return bad
	}
	if !env.isCall() {
		return s.notification(w, req, env)
	}
	if removedMethods[env.method] {
		return refuse(http.StatusNotFound, jsonrpc.CodeMethodNotFound, "%q is not supported in the new protocol", env.method)
	}
	meta := parseMeta(env.params)
	res, bad := s.residents.lend(&meta)
	if bad != nil {
		return bad
	}
	defer s.residents.giveBack(res)
	s.running.Add(1)
	defer s.running.Add(-1)
	s.answer(w, req, env, res)
	return nil
}

// check refuses requests whose parts contradict each other, in the SDK's order.
func (s *stateless) check(h http.Header, env *envelope) *wireError {
	if h.Get("Last-Event-ID") != "" {
		return invalid("a POST cannot resume a stream: leave out Last-Event-ID")
	}
	if bad := checkShape(env); bad != nil {
		return bad
	}
	version := h.Get(headerVersion)
	switch {
	case env.version == "" && !env.isCall():
	case version == "":
		return mismatch("the %s header is required for requests carrying %q", headerVersion, sdk.MetaKeyProtocolVersion)
	case env.version == "":
		return invalidMeta("missing or invalid", sdk.MetaKeyProtocolVersion)
	case version != env.version:
		return mismatch("%s header %q does not match request %s %q", headerVersion, version, sdk.MetaKeyProtocolVersion, env.version)
	}
	return s.checkHeaders(h, env)
}

// checkShape tells requests from notifications by their method.
func checkShape(env *envelope) *wireError {
	_, isNotification := notificationDecoders[env.method]
	_, isRequest := decoders[env.method]
	isRequest = isRequest || removedMethods[env.method]
	switch {
	case isNotification && env.isCall():
		return invalid("invalid request: unexpected id for %q", env.method)
	case isRequest && !env.isCall():
		return invalid("invalid request: missing id for %q", env.method)
	case !isRequest && !isNotification && !env.isCall():
		return invalid("invalid request: the notification %q is not supported", env.method)
	case isRequest && env.params == nil && needsParams[env.method]:
		return invalid(`invalid request: missing required "params"`)
	}
	return nil
}

var needsParams = map[string]bool{
	"initialize": true, "completion/complete": true, "prompts/get": true, "resources/read": true, methodToolsCall: true,
	methodListen: true, "logging/setLevel": true, "resources/subscribe": true, "resources/unsubscribe": true,
}

// notification hands a notification to the server's middleware. It is never
// answered, so nothing but a broken form is reported.
func (s *stateless) notification(w http.ResponseWriter, req *http.Request, env *envelope) *wireError {
	if decode := notificationDecoders[env.method]; decode != nil {
		res, bad := s.residents.lend(&requestMeta{capabilities: []byte("{}")})
		if bad != nil {
			return bad
		}
		defer s.residents.giveBack(res)
		typed, err := decode(res.session, s.extra(req), env.params)
		if err == nil {
			_, err = s.rt.chain(req.Context(), env.method, typed)
		}
		if err != nil {
			s.rt.log.Debug("notification failed", "method", env.method, "error", err)
		}
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *stateless) extra(req *http.Request) *sdk.RequestExtra {
	return &sdk.RequestExtra{
		TokenInfo: auth.TokenInfoFromContext(req.Context()), Header: req.Header,
		CloseSSEStream: neverResumed,
	}
}

// neverResumed stands for closing a stream that the client could resume, which
// this protocol does not have.
func neverResumed(sdk.CloseSSEStreamArgs) {}

// answer runs one request and answers it.
func (s *stateless) answer(w http.ResponseWriter, req *http.Request, env *envelope, res *resident) {
	x := newExchange(w, s.rt.opts.KeepAlive)
	defer x.abandon() // for panics: the front answers them
	who := identityIn(req.Context())
	call := &Call{
		ID: decodeID(env.id), Method: env.method, Version: env.version,
		Principal: who.Subject, identity: who, Received: s.rt.opts.Now(),
		exchange: x, session: res.session, rawID: env.id, params: env.params,
	}
	ctx := context.WithValue(req.Context(), callKey{}, call)
	buf := borrow()
	defer giveBack(buf)
	data, err := s.run(ctx, call, res, s.extra(req), beginAnswer(*buf, env.id))
	if err != nil {
		data, code := encodeFailure(env.id, err)
		s.rt.stats.refuse(code)
		x.finish(statusOf(code), data)
		return
	}
	*buf = append(data, '}')
	s.rt.stats.bytesOut.Add(int64(len(*buf)))
	x.finish(http.StatusOK, *buf)
}

// run dispatches one request and appends its encoded result to buf.
func (s *stateless) run(ctx context.Context, call *Call, res *resident, extra *sdk.RequestExtra, buf []byte) ([]byte, error) {
	if call.Method == methodToolsCall {
		return s.rt.callTool(ctx, res.session, extra, call.params, true, buf)
	}
	raw, err := s.runSlowly(ctx, call, res, extra)
	return append(buf, raw...), err
}

func (s *stateless) runSlowly(ctx context.Context, call *Call, res *resident, extra *sdk.RequestExtra) (json.RawMessage, error) {
	decode, ok := decoders[call.Method]
	if !ok {
		return s.custom(ctx, call, res, extra)
	}
	typed, err := decode(res.session, extra, call.params)
	if err != nil {
		return nil, err
	}
	result, err := s.rt.chain(ctx, call.Method, typed)
	if err != nil {
		return nil, err
	}
	if isNil(result) {
		return nil, fmt.Errorf("the handler of %s returned neither a result nor an error", call.Method)
	}
	complete(result)
	s.rt.signResult(result)
	return marshal(result)
}

// custom runs a method that was registered with AddReceivingCustomMethod, or
// finds out that there is none: only the SDK knows.
func (s *stateless) custom(ctx context.Context, call *Call, res *resident, extra *sdk.RequestExtra) (json.RawMessage, error) {
	call.ctx = ctx
	s.rt.calls.Store(extra, call)
	defer s.rt.calls.Delete(extra)
	resp, err := res.loop.call(ctx, call.Method, call.params, extra)
	if err != nil {
		return nil, err
	}
	return resp.Result, resp.Error
}

func isNil(res sdk.Result) bool {
	if res == nil {
		return true
	}
	v := reflect.ValueOf(res)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// encodeFailure renders an error as the answer to the call with this id and
// returns its JSON-RPC code.
func encodeFailure(id json.RawMessage, err error) ([]byte, int) {
	bad := &wireError{ID: id, Code: jsonrpc.CodeInternalError, Message: err.Error()}
	var rpc *jsonrpc.Error
	if err = normalise(err); errors.As(err, &rpc) {
		bad.Code, bad.Message = int(rpc.Code), err.Error()
		if direct, ok := err.(*jsonrpc.Error); ok {
			bad.Message = direct.Message
			if len(direct.Data) > 0 {
				bad.Data = direct.Data
			}
		}
	}
	return bad.encode(), bad.Code
}

// statusOf is the HTTP status of an error (SEP-2575). Errors that the protocol
// says nothing about are answers like any other.
func statusOf(code int) int {
	switch code {
	case jsonrpc.CodeMethodNotFound:
		return http.StatusNotFound
	case jsonrpc.CodeInvalidParams, CodeUnsupported, CodeMissingCapability, CodeHeaderMismatch:
		return http.StatusBadRequest
	}
	return http.StatusOK
}
