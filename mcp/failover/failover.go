// Package failover lets a client of a cluster work on while members die. It is an [http.RoundTripper] below any MCP client over
// Streamable HTTP, such as that of the official SDK:
//
//	session, err := failover.Connect(ctx, client, failover.Options{Endpoints: []string{
//		"http://10.0.0.1:8080/mcp", "http://10.0.0.2:8080/mcp", "http://10.0.0.3:8080/mcp",
//	}}, nil)
//
// It does what docs/cluster.md asks of clients. Requests go to one member as long as it answers. When it does not, when the
// connection breaks before the answer is complete, or when the answer says that it may be better elsewhere, the same request
// goes to the next member: with the same Idempotency-Key, so that a change is made once, whatever the first member did with
// it. A call whose events had begun to arrive goes on in the same response. Sessions, streams and tasks are the cluster's, not
// a member's: Mcp-Session-Id, Last-Event-ID and task ids work on the next member too.
//
// Tools have to honour the key: those of the ledger and all task tools do. Name the ones that do not and that must not run
// twice in Options.Once.
package failover

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// Options of a Transport. Only Endpoints is required.
type Options struct {
	// Endpoints are the MCP URLs of all members, 1 to 100.
	Endpoints []string
	// Base sends the requests; default: a [http.Transport] of its own.
	Base http.RoundTripper
	// Patience is how long one request is tried, over all members; default 30 s.
	Patience time.Duration
	// Try is how long one member may take until its answer begins; default 5 s. A frozen machine is left after that. Tools that
	// answer in one piece must take less.
	Try time.Duration
	// Silence is how long an event stream may bring nothing, not even the server's comments; default 75 s, negative: for ever.
	Silence time.Duration
	// Wait is the pause after every member was asked once; it doubles up to 16 times that; default 20 ms.
	Wait time.Duration
	// MaxBytes bounds a request, and an answer in one piece; default 64 MiB.
	MaxBytes int64
	// Once reports whether a tool must not be sent again when the outcome is unknown; nil: none.
	Once func(tool string) bool
}

// ErrNoMember: no member gave an answer in time. It wraps what the last one did.
var ErrNoMember = errors.New("failover: no member of the cluster answered")

// ErrOutcomeUnknown: the connection broke in a call of a tool that Options.Once names. It may or may not have run.
var ErrOutcomeUnknown = errors.New("failover: the connection broke in a call that must not be repeated; whether it took place is unknown")

// Transport is a [http.RoundTripper]. It is safe for concurrent use.
type Transport struct {
	o         Options
	endpoints []*url.URL
	current   atomic.Int64
	history   atomic.Pointer[string] // of the members; nil: none has said
}

// New checks the options.
func New(o Options) (*Transport, error) {
	if len(o.Endpoints) == 0 || len(o.Endpoints) > 100 {
		return nil, fmt.Errorf("failover: %d endpoints, want 1 to 100", len(o.Endpoints))
	}
	t := &Transport{o: o}
	for _, e := range o.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("failover: %q is no URL of a member, write for example http://10.0.0.1:8080/mcp", e)
		}
		t.endpoints = append(t.endpoints, u)
	}
	if t.o.Base == nil {
		t.o.Base = &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, Proxy: http.ProxyFromEnvironment}
	}
	for d, def := range map[*time.Duration]time.Duration{
		&t.o.Patience: 30 * time.Second, &t.o.Try: 5 * time.Second, &t.o.Silence: 75 * time.Second, &t.o.Wait: 20 * time.Millisecond,
	} {
		if *d == 0 {
			*d = def
		}
	}
	if t.o.MaxBytes == 0 {
		t.o.MaxBytes = 64 << 20
	}
	return t, nil
}

// MCP returns a transport of the official SDK that works through t.
func (t *Transport) MCP() *sdk.StreamableClientTransport {
	return &sdk.StreamableClientTransport{Endpoint: t.endpoints[0].String(), HTTPClient: &http.Client{Transport: t}}
}

// Connect connects a client of the official SDK to the cluster.
func Connect(ctx context.Context, client *sdk.Client, o Options, so *sdk.ClientSessionOptions) (*sdk.ClientSession, error) {
	t, err := New(o)
	if err != nil {
		return nil, err
	}
	return client.Connect(ctx, t.MCP(), so)
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	a := &attempt{t: t, req: req, until: time.Now().Add(t.o.Patience)}
	if req.Body != nil {
		raw, err := io.ReadAll(io.LimitReader(req.Body, t.o.MaxBytes+1))
		_ = req.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("failover: read the request: %w", err)
		}
		if int64(len(raw)) > t.o.MaxBytes {
			return nil, fmt.Errorf("failover: the request has more than %d bytes", t.o.MaxBytes)
		}
		a.body = raw
	}
	a.look()
	if a.tool != "" && req.Header.Get("Idempotency-Key") == "" {
		a.key = rand.Text()
	}
	a.at = t.current.Load()
	a.ctx, a.cancel = context.WithCancel(req.Context())
	resp, streams, err := a.run()
	if !streams {
		a.cancel()
	}
	return resp, err
}

// attempt is one request on its way over the members. It belongs to one goroutine at a time.
type attempt struct {
	t     *Transport
	req   *http.Request
	ctx   context.Context // of the request, and ended with the response
	body  []byte
	key   string
	id    string // of the JSON-RPC request, as sent; "": it expects no answer
	tool  string // "": not tools/call
	until time.Time
	at    int64 // number of the endpoint in use, not reduced
	tries int64
	sent  bool // some member may have seen the request

	cancel context.CancelFunc
}

// run asks one member after the other until the answer is one to keep. streams: the response's body is not in memory.
func (a *attempt) run() (_ *http.Response, streams bool, _ error) {
	var last *http.Response
	var cause error
	for {
		resp, body, err := a.once()
		switch {
		case err == nil && body == nil:
			return a.stream(resp), true, nil // events, or a stream without an end
		case err == nil:
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			if !elsewhere(resp.StatusCode, body) {
				return resp, false, nil
			}
			last = resp
		case a.ctx.Err() != nil:
			return nil, false, a.ctx.Err()
		case a.final():
			return nil, false, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
		}
		cause = err
		if !a.next() {
			if last != nil {
				return last, false, nil // what a member said is better than nothing
			}
			a.t.accept(cause)
			return nil, false, fmt.Errorf("%w within %v: %w", ErrNoMember, a.t.o.Patience, cause)
		}
	}
}

// final reports that a broken request must not be repeated.
func (a *attempt) final() bool {
	return a.sent && a.tool != "" && a.t.o.Once != nil && a.t.o.Once(a.tool)
}

// next turns to the next member, after a pause when all have been asked; false: the time is up.
func (a *attempt) next() bool {
	n := int64(len(a.t.endpoints))
	a.t.current.CompareAndSwap(a.at, a.at+1) // others have found out too, perhaps
	a.at++
	a.tries++
	if a.tries%n == 0 {
		pause := a.t.o.Wait << min(a.tries/n-1, 4)
		select {
		case <-time.After(pause):
		case <-a.ctx.Done():
			return false
		}
	}
	return time.Now().Before(a.until)
}

// once sends the request to the current member. The body of an answer in one piece is read, and not nil then.
func (a *attempt) once() (*http.Response, []byte, error) {
	ctx, cancel := context.WithCancelCause(a.ctx)
	out := a.req.Clone(ctx)
	to := *a.t.endpoints[a.at%int64(len(a.t.endpoints))]
	to.RawQuery = a.req.URL.RawQuery
	out.URL, out.Host = &to, ""
	if a.key != "" {
		out.Header.Set("Idempotency-Key", a.key)
	}
	if a.body != nil {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(a.body)), int64(len(a.body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(a.body)), nil }
	}
	patience := time.AfterFunc(a.t.o.Try, func() { cancel(errSilent) })
	resp, err := a.t.o.Base.RoundTrip(out)
	if err != nil {
		patience.Stop()
		cause := context.Cause(ctx)
		cancel(nil)
		a.sent = a.sent || !isDial(err)
		if errors.Is(cause, errSilent) {
			err = cause
		}
		return nil, nil, fmt.Errorf("%s: %w", to.Host, err)
	}
	a.sent = true
	if err := a.t.recognize(resp); err != nil {
		patience.Stop()
		cancel(nil)
		_ = resp.Body.Close()
		return nil, nil, fmt.Errorf("%s: %w", to.Host, err)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") && resp.StatusCode == http.StatusOK {
		patience.Stop()
		resp.Body = &watched{ReadCloser: resp.Body, silence: a.t.o.Silence, cancel: cancel}
		return resp, nil, nil
	}
	defer cancel(nil)
	defer patience.Stop()
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, a.t.o.MaxBytes+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s: the answer broke off: %w", to.Host, err)
	case int64(len(body)) > a.t.o.MaxBytes:
		return nil, nil, fmt.Errorf("%s: the answer has more than %d bytes", to.Host, a.t.o.MaxBytes)
	case body == nil:
		body = []byte{}
	}
	return resp, body, nil
}
