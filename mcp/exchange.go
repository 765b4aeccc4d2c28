package mcp

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// streamAfter is how long a request may go on in silence before its answer
// becomes an event stream, whose comments show proxies and the client that the
// server is still there. A shorter Options.KeepAlive shortens it.
const streamAfter = 5 * time.Second

var errAnswered = errors.New("mcp: the request was answered already")

// An exchange is the answering half of one HTTP request of protocol
// 2026-07-28. The answer is one JSON body, with the HTTP status that belongs to
// it, unless something has to be sent before it: then it becomes an event
// stream whose last event is the answer. There is nothing to resume, so events
// have no ids and nothing is stored.
type exchange struct {
	w         http.ResponseWriter
	keepAlive time.Duration

	mu     sync.Mutex
	rc     *http.ResponseController // nil until a deadline or a flush is needed
	stream bool
	ended  bool
	timer  *time.Timer
}

func newExchange(w http.ResponseWriter, keepAlive time.Duration) *exchange {
	x := &exchange{w: w, keepAlive: keepAlive}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.timer = time.AfterFunc(min(keepAlive, streamAfter), x.tick)
	return x
}

// tick keeps a silent exchange alive.
func (x *exchange) tick() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended { // the writer belongs to net/http again
		return
	}
	x.open()
	_ = x.write([]byte(": keep-alive\n\n"))
	x.timer.Reset(x.keepAlive)
}

// open turns the answer into an event stream. x.mu is held.
func (x *exchange) open() {
	if x.stream {
		return
	}
	x.stream = true
	h := x.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	x.w.WriteHeader(http.StatusOK)
}

// write sends bytes of the stream. x.mu is held.
func (x *exchange) write(p []byte) error {
	x.guard()
	if _, err := x.w.Write(p); err != nil {
		return err
	}
	return x.rc.Flush()
}

// guard bounds the next write: a reader that takes nothing ends its own answer.
func (x *exchange) guard() {
	if x.rc == nil {
		x.rc = http.NewResponseController(x.w)
	}
	_ = x.rc.SetWriteDeadline(time.Now().Add(stallTimeout)) // not every writer has deadlines
}

// event sends one message ahead of the answer. It blocks while the client
// does not read, at most stallTimeout.
func (x *exchange) event(data []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return errAnswered
	}
	x.open()
	return x.write(appendEvent(nil, data))
}

// notify sends a notification ahead of the answer.
func (x *exchange) notify(method string, params any) error {
	data, err := encodeNotification(method, params)
	if err != nil {
		return err
	}
	return x.event(data)
}

// finish sends the answer and ends the exchange. The status counts only while
// no event has been sent.
func (x *exchange) finish(status int, data []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return
	}
	x.ended = true
	x.timer.Stop()
	if x.stream {
		_ = x.write(appendEvent(nil, data))
	} else {
		h := x.w.Header()
		h["Content-Type"] = jsonHeader
		h["Cache-Control"] = noStoreHeader
		h["Content-Length"] = []string{strconv.Itoa(len(data))}
		if len(data) > bigAnswer {
			x.guard()
		}
		x.w.WriteHeader(status)
		_, _ = x.w.Write(data)
	}
	if x.rc != nil {
		_ = x.rc.SetWriteDeadline(time.Time{}) // the connection may serve others next
	}
}

// abandon ends an exchange that somebody else answers.
func (x *exchange) abandon() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	x.timer.Stop()
}

// bigAnswer is about what the buffers of net/http and of the kernel take
// without waiting for the reader; only larger answers need a deadline.
const bigAnswer = 64 << 10

var (
	jsonHeader    = []string{"application/json"}
	noStoreHeader = []string{"no-store"}
)

// appendEvent appends a server-sent event that holds one message. A message is
// one line: the encoders escape line breaks.
func appendEvent(buf, data []byte) []byte {
	buf = append(buf, "event: message\ndata: "...)
	buf = append(buf, data...)
	return append(buf, "\n\n"...)
}

// encodeNotification renders a notification as one line.
func encodeNotification(method string, params any) ([]byte, error) {
	return marshal(struct {
		Version string `json:"jsonrpc"`
		Method  string `json:"method"`
		Params  any    `json:"params,omitempty"`
	}{"2.0", method, params})
}

// beginAnswer appends a response up to its result, which a brace must follow.
func beginAnswer(buf []byte, id json.RawMessage) []byte {
	buf = append(buf, `{"jsonrpc":"2.0","id":`...)
	buf = append(buf, id...)
	return append(buf, `,"result":`...)
}
