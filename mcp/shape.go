package mcp

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// stallTimeout ends an answer whose reader takes nothing for this long. A
// blocked write holds locks of the session, so one dead peer must not hold
// them for ever.
const stallTimeout = 30 * time.Second

// A shaper stands between the SDK's HTTP handlers and the client. It turns the
// SDK's plain text errors into JSON-RPC errors, keeps silent event streams
// alive, and bounds how long a write may block.
type shaper struct {
	http.ResponseWriter
	rc *http.ResponseController
	id json.RawMessage // id of the call that is answered; nil: unknown

	mu      sync.Mutex // the keep-alive writes beside the handler
	status  int        // 0 until WriteHeader
	capture bool       // the body is a plain text error, kept back for finish
	stream  bool       // the body is an event stream
	ended   bool       // the handler returned
	timer   *time.Timer
	text    bytes.Buffer
}

func newShaper(w http.ResponseWriter, id json.RawMessage) *shaper {
	return &shaper{ResponseWriter: w, rc: http.NewResponseController(w), id: id}
}

// Unwrap serves http.ResponseController.
func (s *shaper) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (s *shaper) WriteHeader(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header(status)
}

func (s *shaper) header(status int) {
	if s.status != 0 {
		return
	}
	s.status = status
	kind := s.Header().Get("Content-Type")
	s.stream = strings.HasPrefix(kind, "text/event-stream")
	s.capture = status >= 400 && !strings.HasPrefix(kind, "application/json")
	if !s.capture {
		s.ResponseWriter.WriteHeader(status)
	}
}

// Write implements [http.ResponseWriter].
func (s *shaper) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header(http.StatusOK)
	if s.capture {
		if room := 4<<10 - s.text.Len(); room > 0 {
			s.text.Write(p[:min(room, len(p))])
		}
		return len(p), nil
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(stallTimeout)) // not every writer has deadlines
	return s.ResponseWriter.Write(p)
}

// Flush implements [http.Flusher].
func (s *shaper) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.capture {
		_ = s.rc.Flush()
	}
}

// startKeepAlive writes a comment into an event stream every interval: it
// keeps proxies from closing the stream and finds out whether the client is
// still there.
func (s *shaper) startKeepAlive(interval time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(interval, func() { s.keepAlive(interval) })
}

func (s *shaper) keepAlive(interval time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended { // the writer belongs to net/http again
		return
	}
	if s.stream && !s.capture {
		_ = s.rc.SetWriteDeadline(time.Now().Add(stallTimeout))
		if _, err := s.ResponseWriter.Write([]byte(": keep-alive\n\n")); err == nil {
			_ = s.rc.Flush()
		}
	}
	s.timer.Reset(interval)
}

// finish sends an error that was kept back. It returns the JSON-RPC code sent,
// or 0.
func (s *shaper) finish() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	_ = s.rc.SetWriteDeadline(time.Time{}) // the connection may serve others next
	if !s.capture {
		return 0
	}
	s.capture = false
	bad := &wireError{ID: s.id, Status: s.status, Code: codeForStatus(s.status), Message: strings.TrimSpace(s.text.String())}
	if bad.Message == "" {
		bad.Message = http.StatusText(s.status)
	}
	if s.status == http.StatusNotFound {
		// Without an id, as clients take an error with one for the end of that
		// call only, and this is the end of the session.
		bad.ID = nil
		bad.Message = "session not found: it ended, expired or was never opened here; send initialize again"
	}
	writeRefusal(s.ResponseWriter, bad)
	return bad.Code
}

// codeForStatus picks the JSON-RPC code for an error that came without one.
func codeForStatus(status int) int {
	switch status {
	case http.StatusNotFound:
		return CodeSessionNotFound
	case http.StatusRequestEntityTooLarge:
		return CodeMessageTooLarge
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return CodeOverloaded
	}
	if status >= 500 {
		return jsonrpc.CodeInternalError
	}
	return jsonrpc.CodeInvalidRequest
}

// writeRefusal answers an HTTP request with a JSON-RPC error.
func writeRefusal(w http.ResponseWriter, bad *wireError) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if bad.Status == http.StatusServiceUnavailable || bad.retry > 0 {
		// Whole seconds, rounded up: a client that comes back earlier is refused again.
		h.Set("Retry-After", strconv.FormatInt(max(1, int64((bad.retry+time.Second-1)/time.Second)), 10))
	}
	if bad.challenge != "" {
		h.Set("WWW-Authenticate", bad.challenge)
	}
	w.WriteHeader(bad.Status)
	_, _ = w.Write(bad.encode())
}
