package mcp

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"golang.org/x/time/rate"
)

// RateLimits bound how much one client may ask of the server. Each is a token
// bucket: a burst of one second's worth, then the given rate. Over it the
// answer is CodeOverloaded at once, over HTTP with status 429 and Retry-After.
//
// Messages, tool calls and subscriptions are counted per principal; without
// authentication, per address (IPv6: per /64 network). Anonymous clients on
// loopback are not limited unless Loopback is set: they are the owner of the
// machine, and a load test must not measure the limiter.
//
// In each field zero selects the default and a negative number no limit.
type RateLimits struct {
	Messages      float64 // per second; default 100
	ToolCalls     float64 // tools/call per second; default 50
	Subscriptions float64 // resources/subscribe and subscriptions/listen per second; default 20
	Connections   float64 // new connections per second of one address; default 10
	Global        float64 // messages per second of all limited clients together; default 10000
	Loopback      bool    // limit anonymous clients on loopback too, all of them as one
}

func (o *RateLimits) setDefaults() {
	setDefault(&o.Messages, 100)
	setDefault(&o.ToolCalls, 50)
	setDefault(&o.Subscriptions, 20)
	setDefault(&o.Connections, 10)
	setDefault(&o.Global, 10000)
}

// maxBuckets bounds the clients that are told apart. One client costs about
// 500 bytes.
const maxBuckets = 10_000

// limiter counts what clients do.
type limiter struct {
	o   RateLimits
	now func() time.Time

	global *rate.Limiter

	mu      sync.Mutex
	clients map[string]*buckets // by principal or address; at most maxBuckets
	swept   time.Time           // when the full ones were last forgotten
}

// buckets are those of one client.
type buckets struct {
	messages, tools, subscriptions, connections *rate.Limiter
	used                                        time.Time // last
}

func newLimiter(o RateLimits, now func() time.Time) *limiter {
	return &limiter{o: o, now: now, global: bucket(o.Global), clients: make(map[string]*buckets)}
}

// bucket holds one second's worth, and at least one token.
func bucket(perSecond float64) *rate.Limiter {
	if perSecond < 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
}

// of returns the buckets of a client. l.mu is held.
func (l *limiter) of(client string, now time.Time) *buckets {
	b := l.clients[client]
	if b == nil {
		l.makeRoom(now)
		b = &buckets{
			messages: bucket(l.o.Messages), tools: bucket(l.o.ToolCalls),
			subscriptions: bucket(l.o.Subscriptions), connections: bucket(l.o.Connections),
		}
		l.clients[client] = b
	}
	b.used = now
	return b
}

// refillTime is after how long without use every bucket is full again, or as
// good as: forgetting it then gives nothing away. Rates below one per second
// take longer; their clients are forgotten early only when there are too many.
const refillTime = 2 * time.Second

// makeRoom forgets clients. Buckets that are full again are worth nothing; when
// there are none, the first one that comes along goes, so that a flood of
// addresses costs its own members a counter and the server no memory.
// l.mu is held.
func (l *limiter) makeRoom(now time.Time) {
	if len(l.clients) < maxBuckets {
		return
	}
	if now.Sub(l.swept) > refillTime { // looking at all of them must stay rare
		l.swept = now
		for client, b := range l.clients {
			if now.Sub(b.used) > refillTime {
				delete(l.clients, client)
			}
		}
	}
	for client := range l.clients {
		if len(l.clients) < maxBuckets {
			return
		}
		delete(l.clients, client)
	}
}

// A demand is what one inbound frame asks for.
type demand struct{ messages, tools, subscriptions int }

func demandOf(list []envelope) demand {
	d := demand{messages: len(list)}
	for i := range list {
		switch list[i].method {
		case methodToolsCall:
			d.tools++
		case "resources/subscribe", methodListen:
			d.subscriptions++
		}
	}
	return d
}

// take counts a demand of a client, or refuses it and counts nothing.
func (l *limiter) take(client string, d demand) *wireError {
	now := l.now()
	l.mu.Lock()
	b := l.of(client, now)
	l.mu.Unlock()
	var taken []*rate.Reservation
	for _, want := range [...]struct {
		n     int
		of    *rate.Limiter
		limit float64
		what  string
	}{
		{d.messages, b.messages, l.o.Messages, "messages of one client"},
		{d.tools, b.tools, l.o.ToolCalls, "tool calls of one client"},
		{d.subscriptions, b.subscriptions, l.o.Subscriptions, "subscriptions of one client"},
		{d.messages, l.global, l.o.Global, "messages of all clients"},
	} {
		if want.n == 0 || want.limit < 0 {
			continue
		}
		// A batch larger than the bucket takes all of it: it would otherwise
		// never be admitted.
		r := want.of.ReserveN(now, min(want.n, want.of.Burst()))
		wait := r.DelayFrom(now)
		if wait == 0 {
			taken = append(taken, r)
			continue
		}
		r.CancelAt(now)
		for _, r := range taken {
			r.CancelAt(now)
		}
		return limited(wait, "%g %s per second", want.limit, want.what)
	}
	return nil
}

// connect counts a new connection of an address.
func (l *limiter) connect(client string) *wireError {
	if l.o.Connections < 0 {
		return nil
	}
	now := l.now()
	l.mu.Lock()
	b := l.of(client, now)
	l.mu.Unlock()
	r := b.connections.ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return limited(wait, "%g new connections per second of one address", l.o.Connections)
	}
	return nil
}

func limited(wait time.Duration, format string, args ...any) *wireError {
	bad := refuse(http.StatusTooManyRequests, CodeOverloaded, "rate limited: at most "+format+"; try again in %s",
		append(args, wait.Round(time.Millisecond))...)
	bad.retry = wait
	bad.Data = map[string]int64{"retryAfterMs": max(1, wait.Milliseconds())}
	return bad
}

// clientOf names the client whose counters a request is counted on; "" is nobody's.
func (l *limiter) clientOf(id *Identity, remote string) string {
	if id != nil && id.Scopes != nil {
		return "principal " + id.Subject
	}
	return l.addressOf(remote)
}

// addressOf is clientOf for who is not known by name.
func (l *limiter) addressOf(remote string) string {
	host := hostname(remote)
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "address unknown"
	}
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.IsLoopback():
		if !l.o.Loopback {
			return ""
		}
		return "loopback"
	case addr.Is6():
		prefix, _ := addr.Prefix(64) // what one customer of a network gets
		return "address " + prefix.String()
	}
	return "address " + addr.String()
}

// limit refuses the messages of a request that come too fast.
func (r *Runtime) limit(id *Identity, remote string, list []envelope) *wireError {
	client := r.limiter.clientOf(id, remote)
	if client == "" {
		return nil
	}
	bad := r.limiter.take(client, demandOf(list))
	if bad != nil {
		r.stats.rateLimited.Add(1)
	}
	return bad
}

// limitConnection refuses a new connection that comes too early after others.
func (r *Runtime) limitConnection(remote string) *wireError {
	client := r.limiter.addressOf(remote)
	if client == "" {
		return nil
	}
	bad := r.limiter.connect(client)
	if bad != nil {
		r.stats.rateLimited.Add(1)
	}
	return bad
}

type connectionKey struct{}

// ConnContext is for [http.Server.ConnContext]: it counts connections against
// RateLimits.Connections. The first request of one that is too many is answered
// with status 429 and the connection closed.
func (r *Runtime) ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if bad := r.limitConnection(conn.RemoteAddr().String()); bad != nil {
		return context.WithValue(ctx, connectionKey{}, bad)
	}
	return ctx
}

// checkConnection returns what ConnContext found.
func checkConnection(req *http.Request) *wireError {
	bad, _ := req.Context().Value(connectionKey{}).(*wireError)
	return bad
}

// wantsProgress counts a request that asks for progress until done is called.
// It is refused when too many run already; done is nil then.
func (r *Runtime) wantsProgress() (done func(), err error) {
	if n := r.stats.progress.Add(1); n > int64(r.opts.MaxProgress) {
		r.stats.progress.Add(-1)
		return nil, &jsonrpc.Error{Code: CodeOverloaded, Message: fmt.Sprintf(
			"overloaded: %d running requests ask for progress; try again, or without a progress token", r.opts.MaxProgress)}
	}
	return func() { r.stats.progress.Add(-1) }, nil
}
