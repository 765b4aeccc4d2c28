package mcp

import (
	"net/http"
	"strconv"
	"time"
)

// streamRetry is how long a client whose stream broke waits before it comes
// back: about as long as a restart takes.
const streamRetry = time.Second

// An eventWriter writes server-sent events (HTML standard, section 9.2).
type eventWriter struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf []byte
}

// startEvents begins a response of events.
func startEvents(w http.ResponseWriter) *eventWriter {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no") // proxies that buffer answers must not
	w.WriteHeader(http.StatusOK)
	return &eventWriter{w: w, rc: http.NewResponseController(w)}
}

// field appends one field line.
func (e *eventWriter) field(name, value string) {
	e.buf = append(append(append(append(e.buf, name...), ": "...), value...), '\n')
}

// message appends one message; id may be empty.
func (e *eventWriter) message(id string, data []byte) {
	e.field("event", "message")
	if id != "" {
		e.field("id", id)
	}
	e.buf = append(append(append(e.buf, "data: "...), data...), "\n\n"...)
}

// priming appends an event without data: it tells the client where to resume
// before anything happened (MCP 2025-11-25, transports, "Sending messages").
func (e *eventWriter) priming(id string) {
	e.field("id", id)
	e.field("retry", strconv.FormatInt(streamRetry.Milliseconds(), 10))
	e.buf = append(e.buf, "data: \n\n"...)
}

// comeBack appends the event before a response that ends early.
func (e *eventWriter) comeBack(after time.Duration) {
	if after <= 0 {
		return
	}
	e.field("event", "close")
	e.field("retry", strconv.FormatInt(max(after.Milliseconds(), 1), 10))
	e.buf = append(e.buf, "data: \n\n"...)
}

// comment appends a line that clients ignore.
func (e *eventWriter) comment(text string) {
	e.buf = append(append(append(e.buf, ": "...), text...), "\n\n"...)
}

// flush sends what was appended. A client that takes nothing for stallTimeout
// is given up: it can resume.
func (e *eventWriter) flush() error {
	if len(e.buf) == 0 {
		return nil
	}
	_ = e.rc.SetWriteDeadline(time.Now().Add(stallTimeout)) // not every writer has deadlines
	_, err := e.w.Write(e.buf)
	if cap(e.buf) > lineBuffer {
		e.buf = nil
	}
	e.buf = e.buf[:0]
	if err != nil {
		return err
	}
	return e.rc.Flush()
}

// end lets the connection serve others.
func (e *eventWriter) end() { _ = e.rc.SetWriteDeadline(time.Time{}) }
