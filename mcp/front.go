package mcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

const (
	headerVersion = "Mcp-Protocol-Version"
	headerSession = "Mcp-Session-Id"

	// drainLimit is how much of a body that is too large is still read, so
	// that the connection stays usable and the answer reaches a client that
	// writes its whole body before it reads.
	drainLimit = 64 << 20
)

// front is the HTTP endpoint: it guards, then routes to the handler of protocol
// 2026-07-28 or to the sessions of the older revisions, over the same server.
type front struct {
	rt *Runtime
}

func newFront(r *Runtime) *front { return &front{rt: r} }

// ServeHTTP implements [http.Handler].
func (f *front) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	defer f.recover(w, req)
	f.rt.ready()
	if bad := f.rt.opts.checkSource(req); bad != nil {
		f.refuse(w, req, bad)
		return
	}
	allowOrigin(w, req)
	if bad := checkConnection(req); bad != nil {
		w.Header().Set("Connection", "close")
		f.refuse(w, req, bad)
		return
	}
	if bad := f.available(); bad != nil {
		f.refuse(w, req, bad)
		return
	}
	if req.Method == http.MethodOptions {
		answerPreflight(w, req) // browsers send it without credentials
		return
	}
	req, bad := f.rt.authenticate(req)
	if bad != nil {
		f.refuse(w, req, bad)
		return
	}
	if f.rt.opts.Authenticator != nil {
		ctx, stop := f.rt.whileCredentialHolds(req)
		defer stop()
		req = req.WithContext(ctx)
	}
	switch req.Method {
	case http.MethodPost:
		f.post(w, req)
	case http.MethodGet, http.MethodDelete:
		f.session(w, req)
	default:
		w.Header().Set("Allow", "GET, POST, DELETE")
		f.refuse(w, req, refuse(http.StatusMethodNotAllowed, jsonrpc.CodeInvalidRequest,
			"method %s not allowed: POST a message, GET a session's stream, DELETE a session", req.Method))
	}
}

// recover keeps one broken request from ending the others.
func (f *front) recover(w http.ResponseWriter, req *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	f.rt.stats.panics.Add(1)
	f.rt.log.Error("request panicked", "method", req.Method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	// Has no effect when an answer has begun; the client then sees it cut short.
	writeRefusal(w, refuse(http.StatusInternalServerError, jsonrpc.CodeInternalError, "internal error; the server log has the details"))
}

func (f *front) refuse(w http.ResponseWriter, req *http.Request, bad *wireError) {
	f.rt.stats.refuse(bad.Code)
	f.rt.log.Debug("request refused", "remote", req.RemoteAddr, "method", req.Method, "status", bad.Status, "code", bad.Code, "reason", bad.Message)
	writeRefusal(w, bad)
}

// available refuses work that could not be finished or not be kept.
func (f *front) available() *wireError {
	select {
	case <-f.rt.done:
		return refuse(http.StatusServiceUnavailable, CodeOverloaded, "the server is shutting down; try again")
	default:
	}
	if err := f.rt.failure(); err != nil {
		return refuse(http.StatusInternalServerError, jsonrpc.CodeInternalError,
			"the store failed and the server must be restarted: %v", err)
	}
	return nil
}

// session serves GET (a session's standalone stream) and DELETE (its end).
func (f *front) session(w http.ResponseWriter, req *http.Request) {
	version := req.Header.Get(headerVersion)
	switch {
	case version >= versionStateless:
		w.Header().Set("Allow", "POST")
		f.refuse(w, req, refuse(http.StatusMethodNotAllowed, jsonrpc.CodeInvalidRequest,
			"method %s not allowed: protocol version %s has only POST", req.Method, version))
		return
	case version != "" && !supported(version):
		f.refuse(w, req, unsupported(version))
		return
	case req.Method == http.MethodGet && !accepts(req.Header, "text/event-stream"):
		f.refuse(w, req, refuse(http.StatusNotAcceptable, jsonrpc.CodeInvalidRequest,
			"Accept is %q: a GET is answered with text/event-stream", req.Header.Get("Accept")))
		return
	case req.Header.Get(headerSession) == "":
		f.refuse(w, req, refuse(http.StatusBadRequest, CodeNotInitialized,
			"%s needs the Mcp-Session-Id header that initialize was answered with", req.Method))
		return
	}
	f.rt.stats.stateful.Add(1)
	if req.Method == http.MethodDelete {
		f.legacyDelete(w, req)
		return
	}
	if f.rt.stats.streams.Add(1) > int64(f.rt.opts.MaxStreams) {
		f.rt.stats.streams.Add(-1)
		f.refuse(w, req, f.tooManyStreams())
		return
	}
	defer f.rt.stats.streams.Add(-1)
	f.legacyGet(w, req)
}

func (f *front) tooManyStreams() *wireError {
	return refuse(http.StatusServiceUnavailable, CodeOverloaded,
		"overloaded: %d event streams are open; try again later", f.rt.opts.MaxStreams)
}

// post checks one message and routes it.
func (f *front) post(w http.ResponseWriter, req *http.Request) {
	if bad := checkPostHeaders(req.Header); bad != nil {
		f.refuse(w, req, bad)
		return
	}
	if f.rt.stats.inFlight.Add(1) > int64(f.rt.opts.MaxRequests) {
		f.rt.stats.inFlight.Add(-1)
		f.refuse(w, req, refuse(http.StatusServiceUnavailable, CodeOverloaded,
			"overloaded: %d requests are being worked on; try again", f.rt.opts.MaxRequests))
		return
	}
	inFlight := true
	leave := func() {
		if inFlight {
			inFlight = false
			f.rt.stats.inFlight.Add(-1)
		}
	}
	defer leave()
	body, bad := f.body(w, req)
	if bad != nil {
		f.refuse(w, req, bad)
		return
	}
	list, batch, bad := parseMessages(body)
	if bad != nil {
		f.refuse(w, req, bad)
		return
	}
	if bad := f.rt.limit(identityIn(req.Context()), req.RemoteAddr, list); bad != nil {
		if !batch {
			bad = bad.withID(list[0].id)
		}
		f.refuse(w, req, bad)
		return
	}
	if bad := f.rt.permit(req, list); bad != nil {
		f.refuse(w, req, bad)
		return
	}
	inSession, bad := f.route(req, list, batch)
	if bad != nil {
		if !batch {
			bad = bad.withID(list[0].id)
		}
		f.refuse(w, req, bad)
		return
	}
	if inSession {
		f.legacyPost(w, req, list, batch)
		return
	}
	if list[0].method == methodListen {
		leave() // a subscription lasts; it counts as a stream
		if f.rt.stats.streams.Add(1) > int64(f.rt.opts.MaxStreams) {
			f.rt.stats.streams.Add(-1)
			f.refuse(w, req, f.tooManyStreams().withID(list[0].id))
			return
		}
		defer f.rt.stats.streams.Add(-1)
	}
	if bad := f.rt.stateless.serve(w, req, &list[0]); bad != nil {
		f.refuse(w, req, bad.withID(list[0].id))
	}
}

// smallBody is a size that is allocated before a byte of it arrived.
const smallBody = MinMessageBytes

// body reads the message, at most MaxMessageBytes and BodyTimeout long.
func (f *front) body(w http.ResponseWriter, req *http.Request) ([]byte, *wireError) {
	limit := f.rt.opts.MaxMessageBytes
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(f.rt.opts.BodyTimeout)) // not every writer has deadlines

	if n := req.ContentLength; n > 0 && n <= smallBody {
		body := make([]byte, n)
		got, err := io.ReadFull(req.Body, body)
		f.rt.stats.bytesIn.Add(int64(got))
		if err == nil {
			_ = rc.SetReadDeadline(time.Time{})
			return body, nil
		}
		w.Header().Set("Connection", "close") // as below
		return nil, bodyError(err, f.rt.opts.BodyTimeout)
	}
	var buf bytes.Buffer
	if n := req.ContentLength; n > 0 {
		buf.Grow(int(min(n, limit)) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(req.Body, limit+1))
	f.rt.stats.bytesIn.Add(n)
	if err != nil {
		// The deadline stays: net/http would otherwise wait for the rest.
		w.Header().Set("Connection", "close")
		return nil, bodyError(err, f.rt.opts.BodyTimeout)
	}
	if n <= limit {
		_ = rc.SetReadDeadline(time.Time{})
	}
	if n == 0 {
		return nil, invalid("invalid request: the body is empty")
	}
	if n <= limit {
		return buf.Bytes(), nil
	}
	var ids idScan
	ids.write(buf.Bytes())
	buf = bytes.Buffer{}
	rest, err := io.CopyBuffer(idWriter{&ids}, io.LimitReader(req.Body, drainLimit), make([]byte, lineBuffer))
	bad := tooLarge(max(req.ContentLength, 0), limit)
	if err != nil || rest == drainLimit {
		w.Header().Set("Connection", "close") // what is left would be read as the next request
		return nil, bad
	}
	_ = rc.SetReadDeadline(time.Time{})
	return nil, bad.withID(ids.found())
}

// idWriter feeds an idScan from io.Copy.
type idWriter struct{ scan *idScan }

func (w idWriter) Write(p []byte) (int, error) {
	w.scan.write(p)
	return len(p), nil
}

func bodyError(err error, limit time.Duration) *wireError {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refuse(http.StatusRequestTimeout, jsonrpc.CodeInvalidRequest, "the body did not arrive within %s", limit)
	}
	return invalid("the body could not be read: %v", err)
}

// route tells which handler a checked message is for.
func (f *front) route(req *http.Request, list []envelope, batch bool) (inSession bool, bad *wireError) {
	version := req.Header.Get(headerVersion)
	if version != "" && !supported(version) {
		return false, unsupported(version)
	}
	if batch {
		return f.routeBatch(req, list, version)
	}
	env := &list[0]
	// A message says in its _meta which protocol it follows. The header must
	// agree; the stateless handler answers when it does not.
	if env.version >= versionStateless || version >= versionStateless {
		f.rt.stats.stateless.Add(1)
		return false, nil
	}
	f.rt.stats.stateful.Add(1)
	if env.method == "initialize" {
		return true, nil
	}
	if req.Header.Get(headerSession) == "" {
		return false, refuse(http.StatusBadRequest, CodeNotInitialized,
			"not initialized: send initialize first and repeat the Mcp-Session-Id it is answered with, or use protocol version %s", versionStateless)
	}
	return true, nil
}

func (f *front) routeBatch(req *http.Request, list []envelope, version string) (inSession bool, bad *wireError) {
	for i := range list {
		version = max(version, list[i].version)
	}
	if version >= versionNoBatch {
		return false, invalid("invalid request: protocol version %s has no batches; send one message per request", version)
	}
	if req.Header.Get(headerSession) == "" {
		return false, refuse(http.StatusBadRequest, CodeNotInitialized, "not initialized: a batch needs the Mcp-Session-Id header")
	}
	f.rt.stats.stateful.Add(1)
	return true, nil
}

func supported(version string) bool {
	for _, v := range sdk.SupportedProtocolVersions() {
		if v == version {
			return true
		}
	}
	return false
}

func unsupported(version string) *wireError {
	bad := refuse(http.StatusBadRequest, CodeUnsupported, "unsupported protocol version %q (supported: %s)",
		version, strings.Join(sdk.SupportedProtocolVersions(), ", "))
	if !isVersion(version) {
		bad.Message = fmt.Sprintf("Mcp-Protocol-Version %q is not a protocol version", version)
	}
	bad.Data = sdk.UnsupportedProtocolVersionData{Supported: sdk.SupportedProtocolVersions(), Requested: version}
	return bad
}
