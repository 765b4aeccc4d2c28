package conversation

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
)

// A wire passes messages between one client and the server. A message is a
// request of the client, an event of a stream, or a plain answer. Behind the
// message with number killAt (the first is 1) it kills the server and starts
// the next one.
//
// Messages pass one at a time, so that "behind message n" means one thing.
type wire struct {
	srv    *server
	killAt map[int]bool
	front  *httptest.Server
	record *record

	passing sync.Mutex // held while a message passes, and while the server is restarted
	closed  bool       // guarded by passing: no server starts any more

	mu      sync.Mutex // guards what follows
	target  *url.URL
	count   int
	names   []string // of the messages, for people
	failure error    // the server could not be restarted
}

// newWire starts the server and listens. Close it after use.
func newWire(bin, dir string, killAt ...int) (*wire, error) {
	w := &wire{srv: &server{bin: bin, dir: dir}, killAt: make(map[int]bool), record: newRecord()}
	for _, n := range killAt {
		w.killAt[n] = true
	}
	target, err := w.srv.start()
	if err != nil {
		return nil, err
	}
	w.target = target
	w.front = httptest.NewServer(w)
	return w, nil
}

func (w *wire) url() string { return w.front.URL + "/mcp" }

func (w *wire) close() {
	w.passing.Lock() // the last message may be the one to kill behind
	w.closed = true
	w.srv.kill()
	w.passing.Unlock()
	w.front.CloseClientConnections()
	w.front.Close()
}

// messages returns how many passed, and what they were.
func (w *wire) messages() (names []string, failure error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.names...), w.failure
}

// passed counts a message that the other side has now. w.passing is held.
func (w *wire) passed(name string) {
	w.mu.Lock()
	w.count++
	w.names = append(w.names, name)
	kill := w.killAt[w.count]
	w.mu.Unlock()
	if !kill || w.closed {
		return
	}
	w.srv.kill()
	target, err := w.srv.start()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failure = err
		return
	}
	w.target = target
}

// ServeHTTP implements [http.Handler].
func (w *wire) ServeHTTP(out http.ResponseWriter, in *http.Request) {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return // the client went away
	}
	answer, err := w.forward(in, body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client sees what a killed server looks like
	}
	defer answer.Body.Close()
	for name, values := range answer.Header {
		out.Header()[name] = values
	}
	if strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		out.WriteHeader(answer.StatusCode)
		_ = http.NewResponseController(out).Flush()
		w.events(out, in, answer.Body)
		return
	}
	plain, err := io.ReadAll(answer.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.passing.Lock()
	defer w.passing.Unlock()
	out.WriteHeader(answer.StatusCode)
	if _, err := out.Write(plain); err != nil {
		return
	}
	_ = http.NewResponseController(out).Flush()
	w.record.plain(in, plain)
	w.passed(fmt.Sprintf("<- %d %s", answer.StatusCode, brief(plain)))
}

// forward sends the client's request. It returns when the answer begins.
func (w *wire) forward(in *http.Request, body []byte) (*http.Response, error) {
	w.passing.Lock()
	w.mu.Lock()
	target := *w.target
	w.mu.Unlock()
	unlock := sync.OnceFunc(w.passing.Unlock)
	defer unlock()

	wrote := make(chan struct{})
	ctx := httptrace.WithClientTrace(in.Context(), &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			defer close(wrote)
			if info.Err == nil {
				w.record.request(in)
				w.passed(fmt.Sprintf("-> %s %s", in.Method, brief(body)))
			}
			unlock()
		},
	})
	req, err := http.NewRequestWithContext(ctx, in.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = in.Header.Clone()
	// A connection of its own: it must break with the server it belongs to.
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	answer, err := transport.RoundTrip(req)
	if err == nil {
		<-wrote // an answer may overtake the note that the request was sent
	}
	return answer, err
}

// events passes the events of a stream.
func (w *wire) events(out http.ResponseWriter, in *http.Request, stream io.Reader) {
	lines := bufio.NewReaderSize(stream, 64<<10)
	for {
		frame, err := readFrame(lines)
		if err != nil {
			if err == io.EOF {
				return // the server ended it
			}
			panic(http.ErrAbortHandler)
		}
		if err := w.pass(out, in, frame); err != nil {
			return // the client went away
		}
	}
}

func (w *wire) pass(out http.ResponseWriter, in *http.Request, frame []byte) error {
	w.passing.Lock()
	defer w.passing.Unlock()
	if _, err := out.Write(frame); err != nil {
		return err
	}
	if err := http.NewResponseController(out).Flush(); err != nil {
		return err
	}
	e := parseFrame(frame)
	if e.comment() {
		return nil
	}
	w.record.event(in, e)
	w.passed("<- event " + e.id + " " + brief(e.data))
	return context.Cause(in.Context())
}

// readFrame reads up to and including the empty line that ends an event.
func readFrame(r *bufio.Reader) ([]byte, error) {
	var frame []byte
	for {
		line, err := r.ReadBytes('\n')
		frame = append(frame, line...)
		if err != nil {
			if err == io.EOF && len(frame) > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return frame, nil
		}
	}
}

// event is one of a stream.
type event struct {
	id   string
	data []byte
	some bool // it has any field
}

func (e *event) comment() bool { return !e.some }

func parseFrame(frame []byte) (e event) {
	for line := range bytes.Lines(frame) {
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "":
			continue
		case "id":
			e.id = string(value)
		case "data":
			e.data = append(e.data, value...)
		}
		e.some = true
	}
	return e
}

// brief shortens a message for people.
func brief(msg []byte) string {
	const most = 110
	s := strings.Join(strings.Fields(string(msg)), " ")
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
