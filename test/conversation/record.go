package conversation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
)

// A record is what the wire saw, as far as rules apply to it.
type record struct {
	mu     sync.Mutex
	wrong  []string
	events map[string]seen            // session and event id -> the event
	asked  map[string]map[string]bool // session -> JSON of a server-to-client request's id -> there was one
	order  int
	resume map[*http.Request]int // GET -> order of the event it named last
}

// seen is an event that the client has.
type seen struct {
	order int
	data  string
}

func newRecord() *record {
	return &record{events: make(map[string]seen), asked: make(map[string]map[string]bool), resume: make(map[*http.Request]int)}
}

// rules returns what was broken.
func (r *record) rules() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wrong
}

func (r *record) broken(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

func sessionOf(in *http.Request) string { return in.Header.Get("Mcp-Session-Id") }

// request notes what a client sends.
func (r *record) request(in *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := in.Header.Get("Last-Event-Id")
	if in.Method != http.MethodGet || last == "" {
		return
	}
	was, ok := r.events[sessionOf(in)+" "+last]
	if !ok {
		r.broken("the client resumes behind event %s, which it never got", last)
	}
	r.resume[in] = was.order
}

// plain notes an answer that is no stream.
func (r *record) plain(in *http.Request, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.message(in, body)
}

// event notes an event of a stream: an id always means the same event, and
// what a client has it does not get again.
func (r *record) event(in *http.Request, e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order++
	if e.id != "" {
		key := sessionOf(in) + " " + e.id
		was, known := r.events[key]
		switch {
		case !known:
			r.events[key] = seen{r.order, string(e.data)}
		case len(e.data) == 0: // a position, repeated for clients that forget it
		case was.data != "" && was.data != string(e.data):
			r.broken("event %s was %s and is now %s", e.id, brief([]byte(was.data)), brief(e.data))
		case was.data == "":
			r.events[key] = seen{r.order, string(e.data)}
		default:
			if named, resumed := r.resume[in]; resumed && was.order <= named {
				r.broken("event %s came again, behind a Last-Event-ID that includes it", e.id)
			}
		}
		if known && len(e.data) > 0 && was.data != "" {
			return // a replay; its request was counted
		}
	}
	r.message(in, e.data)
}

// message looks for requests of the server. r.mu is held.
func (r *record) message(in *http.Request, data []byte) {
	var msg struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if len(data) == 0 || bytes.HasPrefix(data, []byte("[")) || json.Unmarshal(data, &msg) != nil || msg.Method == "" || len(msg.ID) == 0 {
		return
	}
	session := sessionOf(in)
	if r.asked[session] == nil {
		r.asked[session] = make(map[string]bool)
	}
	if r.asked[session][string(msg.ID)] {
		r.broken("the server used the id %s for two requests of one session (%s)", msg.ID, msg.Method)
	}
	r.asked[session][string(msg.ID)] = true
}
