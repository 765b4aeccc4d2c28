package mcp

import (
	"sync"
	"sync/atomic"
)

// Stats are counters since start, and gauges of the moment.
type Stats struct {
	Stateless    uint64 // HTTP requests of protocol 2026-07-28 and newer
	Stateful     uint64 // HTTP requests of older protocols
	Stdio        uint64 // messages read on stdio
	TCP          uint64 // messages read on raw TCP
	WebSocket    uint64 // messages read on WebSockets
	BytesIn      uint64 // bytes of inbound messages
	BytesOut     uint64 // bytes of outbound messages, over stdio
	ToolCalls    uint64 // tools/call requests that reached a handler
	ToolErrors   uint64 // of those, answered with isError or an error
	Panics       uint64 // handlers that panicked; the process went on
	StrayAnswers uint64 // answers from clients that nothing waited for
	Updates      uint64 // resources/updated notifications handed out
	AuthFailures uint64 // requests refused for want of an accepted credential
	SlowPeers    uint64 // sockets closed because their peer did not read
	RateLimited  uint64 // requests and connections refused because they came too fast

	SessionsOpened  uint64    // HTTP sessions opened
	SessionsEnded   uint64    // HTTP sessions that ended: by their client, by age, by an operator
	SessionsRevived uint64    // HTTP sessions connected again from the store, after a restart or after long idleness
	Interrupted     uint64    // calls whose clients are told that a restart ended them
	Events          uint64    // events of streams committed
	Replayed        uint64    // events of streams sent again to clients that resumed
	Resumptions     uint64    // streams resumed by Last-Event-ID
	Tasks           TaskStats // durable tasks

	Audit   AuditStats    // the audit log
	Methods []MethodStats // requests by method, those that were used
	Tools   []ToolStats   // calls by tool, at most 257

	Refused map[int]uint64 // messages refused before a handler saw them, by JSON-RPC error code

	Sessions       int // sessions in memory now, stdio included
	StoredSessions int // HTTP sessions that exist now, in memory or not
	InFlight       int // HTTP requests worked on now, without streams
	Streams        int // event streams open now
	Sockets        int // raw TCP connections and WebSockets open now
	Subscriptions  int // resources that somebody subscribes to now
}

type counters struct {
	stateless, stateful, stdio atomic.Uint64
	tcp, webSocket             atomic.Uint64
	sockets                    atomic.Int64
	bytesIn, bytesOut          atomic.Int64
	toolCalls, toolErrors      atomic.Uint64
	panics, strayAnswers       atomic.Uint64
	updates, authFailures      atomic.Uint64
	rateLimited, slowPeers     atomic.Uint64
	progress                   atomic.Int64 // running requests that ask for progress
	inFlight, streams          atomic.Int64

	sessionsOpened, sessionsEnded, sessionsRevived atomic.Uint64
	interrupted, events, replayed, resumptions     atomic.Uint64

	mu      sync.Mutex
	refused map[int]uint64
}

func (c *counters) refuse(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = make(map[int]uint64)
	}
	c.refused[code]++
}

// Stats returns the counters. It is cheap enough for every scrape.
func (r *Runtime) Stats() Stats {
	c := &r.stats
	s := Stats{
		Stateless: c.stateless.Load(), Stateful: c.stateful.Load(), Stdio: c.stdio.Load(),
		TCP: c.tcp.Load(), WebSocket: c.webSocket.Load(), Sockets: int(c.sockets.Load()),
		BytesIn: uint64(c.bytesIn.Load()), BytesOut: uint64(c.bytesOut.Load()),
		ToolCalls: c.toolCalls.Load(), ToolErrors: c.toolErrors.Load(),
		Panics: c.panics.Load(), StrayAnswers: c.strayAnswers.Load(), Updates: c.updates.Load(), AuthFailures: c.authFailures.Load(), RateLimited: c.rateLimited.Load(), SlowPeers: c.slowPeers.Load(),
		InFlight: int(c.inFlight.Load()), Streams: int(c.streams.Load()),
		Subscriptions: r.updates.count(),

		SessionsOpened: c.sessionsOpened.Load(), SessionsEnded: c.sessionsEnded.Load(), SessionsRevived: c.sessionsRevived.Load(),
		Interrupted: c.interrupted.Load(), Events: c.events.Load(), Replayed: c.replayed.Load(), Resumptions: c.resumptions.Load(),
		StoredSessions: int(r.sessions.count.Load()),

		Refused: make(map[int]uint64),
	}
	r.tasks.fill(&s.Tasks)
	r.audit.stats(&s.Audit)
	r.measures.fill(&s)
	for session := range r.server.Sessions() {
		if !r.isHidden(session) {
			s.Sessions++
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for code, n := range c.refused {
		s.Refused[code] = n
	}
	return s
}
