package conversation

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
)

// A Wire passes messages between one client and the servers: one, or the
// members of a cluster. A message is a request of the client, an event of a
// stream, or a plain answer. Behind every message it asks whether to do harm.
//
// Messages pass one at a time, so that "behind message n" means one thing.
type Wire struct {
	behind func(w *Wire, n, at int)
	gates  []*gate
	record *record

	passing sync.Mutex // held while a message passes, and while harm is done
	closed  bool       // guarded by passing: no harm is done any more

	mu    sync.Mutex // guards what follows
	count int
	names []string // of the messages, for people
}

// gate is where the client reaches one server.
type gate struct {
	w      *Wire
	at     int
	target func() *url.URL
	front  *httptest.Server
	cut    atomic.Bool
}

// NewWire listens. targets tell where the servers are at the moment, nil: one
// is down. behind is called behind message n (the first is 1), which server at
// received or sent; no message passes until it returns. Close it after use.
func NewWire(behind func(w *Wire, n, at int), targets ...func() *url.URL) *Wire {
	w := &Wire{behind: behind, record: newRecord()}
	for at, target := range targets {
		g := &gate{w: w, at: at, target: target}
		g.front = httptest.NewUnstartedServer(g)
		w.gates = append(w.gates, g)
	}
	for _, g := range w.gates { // all are there when the first begins to serve
		g.front.Start()
	}
	return w
}

// URLs are where the client finds the servers.
func (w *Wire) URLs() []string {
	urls := make([]string, 0, len(w.gates))
	for _, g := range w.gates {
		urls = append(urls, g.front.URL+"/mcp")
	}
	return urls
}

// Close ends all connections. No harm is done any more.
func (w *Wire) Close() {
	w.passing.Lock() // the last message may be the one to do harm behind
	w.closed = true
	w.passing.Unlock()
	for _, g := range w.gates {
		g.front.CloseClientConnections()
		g.front.Close()
	}
}

// Cut breaks the client's connections to one server, which lives on, and lets
// no new ones through until it is called with false.
func (w *Wire) Cut(at int, cut bool) {
	g := w.gates[at]
	g.cut.Store(cut)
	if cut {
		g.front.CloseClientConnections()
	}
}

// Messages returns what passed, in words.
func (w *Wire) Messages() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.names...)
}

// Rules returns what was broken of what holds on every wire: an event id means
// one event, none comes twice, ids of requests are used once.
func (w *Wire) Rules() []string { return w.record.rules() }

// passed counts a message that the other side has now. w.passing is held.
func (w *Wire) passed(at int, name string) {
	if len(w.gates) > 1 {
		name = fmt.Sprintf("[%d] %s", at, name)
	}
	w.mu.Lock()
	w.count++
	n := w.count
	w.names = append(w.names, name)
	w.mu.Unlock()
	if !w.closed {
		w.behind(w, n, at)
	}
}

// ServeHTTP implements [http.Handler].
func (g *gate) ServeHTTP(out http.ResponseWriter, in *http.Request) {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return // the client went away
	}
	answer, err := g.forward(in, body)
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
		g.events(out, in, answer.Body)
		return
	}
	plain, err := io.ReadAll(answer.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w := g.w
	w.passing.Lock()
	defer w.passing.Unlock()
	out.WriteHeader(answer.StatusCode)
	if _, err := out.Write(plain); err != nil {
		return
	}
	_ = http.NewResponseController(out).Flush()
	w.record.plain(in, plain)
	w.passed(g.at, fmt.Sprintf("<- %d %s", answer.StatusCode, brief(plain)))
}

// errDown: nothing listens there now.
var errDown = errors.New("the server is down")

// forward sends the client's request. It returns when the answer begins.
func (g *gate) forward(in *http.Request, body []byte) (*http.Response, error) {
	w := g.w
	w.passing.Lock()
	unlock := sync.OnceFunc(w.passing.Unlock)
	defer unlock()
	target := g.target()
	if target == nil || g.cut.Load() {
		return nil, errDown
	}

	wrote := make(chan struct{})
	ctx := httptrace.WithClientTrace(in.Context(), &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			defer close(wrote)
			if info.Err == nil {
				w.record.request(in)
				w.passed(g.at, fmt.Sprintf("-> %s %s", in.Method, brief(body)))
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
func (g *gate) events(out http.ResponseWriter, in *http.Request, stream io.Reader) {
	lines := bufio.NewReaderSize(stream, 64<<10)
	for {
		frame, err := readFrame(lines)
		if err != nil {
			if err == io.EOF {
				return // the server ended it
			}
			panic(http.ErrAbortHandler)
		}
		if err := g.pass(out, in, frame); err != nil {
			return // the client went away
		}
	}
}

func (g *gate) pass(out http.ResponseWriter, in *http.Request, frame []byte) error {
	w := g.w
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
	w.passed(g.at, "<- event "+e.id+" "+brief(e.data))
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
