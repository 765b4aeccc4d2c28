package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// This file serves the session revisions (2025-11-25 and older) over HTTP.
//
//	POST initialize ── open a session ── answer ── keep it in the store ── 200, Mcp-Session-Id
//	POST call ──────── acquire ── stream ─┬─ answered at once ──────────── 200, application/json
//	                                      └─ else: text/event-stream, resumable
//	POST other ─────── acquire ── hand over ────────────────────────────── 202
//	GET ────────────── acquire ── the standalone stream, or with Last-Event-ID any stream of the session
//	DELETE ─────────── end the session ──────────────────────────────────── 204

// headerLastEvent says where a client resumes a stream.
const headerLastEvent = "Last-Event-ID"

// legacyPost serves one checked POST of a session revision.
func (f *front) legacyPost(w http.ResponseWriter, req *http.Request, list []envelope, batch bool) {
	var id json.RawMessage
	if !batch {
		id = list[0].id
	}
	if req.Header.Get(headerLastEvent) != "" {
		f.refuse(w, req, invalid("invalid request: Last-Event-ID belongs to a GET, which resumes a stream").withID(id))
		return
	}
	if req.Header.Get(headerSession) == "" {
		f.initialize(w, req, list)
		return
	}
	s, bad := f.acquire(req)
	if bad != nil {
		if bad.Code != CodeSessionNotFound {
			// Clients take an error with an id for the end of that call only,
			// and a lost session is more.
			bad = bad.withID(id)
		}
		f.refuse(w, req, bad)
		return
	}
	defer f.rt.sessions.release(s)
	ctx := context.WithValue(req.Context(), httpRequestKey{}, req)
	for i := range list {
		if list[i].method == "notifications/initialized" {
			if err := s.noteInitialized(ctx); err != nil {
				f.refuse(w, req, storeRefusal(err))
				return
			}
		}
	}
	st := s.newStream(list, batch)
	if len(st.rec.Calls) == 0 {
		if err := s.conn.accept(ctx, list, batch, nil); err != nil {
			f.refuse(w, req, s.refusal(err, list))
			return
		}
		w.WriteHeader(http.StatusAccepted)
		return
	}
	r := newReader()
	st.attach(r, 0)
	defer f.detach(ctx, st, r)
	if !s.follow(st) {
		f.refuse(w, req, sessionNotFound())
		return
	}
	if err := s.conn.accept(ctx, list, batch, st); err != nil {
		s.unfollow(st)
		f.refuse(w, req, s.refusal(err, list).withID(id))
		return
	}
	f.pour(w, req, pouring{st: st, r: r, quiet: f.rt.opts.StreamAfter})
}

// acquire finds the session that a request names.
func (f *front) acquire(req *http.Request) (*session, *wireError) {
	s, err := f.rt.sessions.acquire(req.Context(), req.Header.Get(headerSession), identityIn(req.Context()).Subject)
	switch {
	case errors.Is(err, ErrNoSession):
		return nil, sessionNotFound()
	case err != nil:
		return nil, storeRefusal(err)
	}
	return s, nil
}

// detach ends a response's turn at its stream.
func (f *front) detach(ctx context.Context, st *stream, r *reader) {
	if err := st.detach(context.WithoutCancel(ctx), r); err != nil {
		st.s.fail(err)
	}
}

func sessionNotFound() *wireError {
	return refuse(http.StatusNotFound, CodeSessionNotFound,
		"session not found: it ended, expired or was never opened here; send initialize again")
}

// refusal explains why messages were not handed over.
func (s *session) refusal(err error, list []envelope) *wireError {
	var bad *wireError
	switch {
	case errors.As(err, &bad):
		return bad
	case errors.Is(err, errStray):
		id, _ := strconv.ParseInt(string(list[0].id), 10, 64)
		if s.asked(id) {
			// With its id, though the id is the server's own: the official Go
			// client takes an error without one for the end of the session.
			return invalid("invalid request: the answer to request %s came too late: the request ended, or the server restarted meanwhile", list[0].id).withID(list[0].id)
		}
		return invalid("invalid request: the server never sent a request with id %s", list[0].id)
	case errors.Is(err, ErrConnClosed):
		return refuse(http.StatusServiceUnavailable, CodeOverloaded, "the session is being disconnected; try again")
	}
	return refuse(http.StatusInternalServerError, jsonrpc.CodeInternalError, "%v", err)
}

// initialize opens a session. Its record is committed before the client
// learns the id.
func (f *front) initialize(w http.ResponseWriter, req *http.Request, list []envelope) {
	env := &list[0]
	reg := f.rt.sessions
	s, err := reg.open(identityIn(req.Context()).Subject)
	if errors.Is(err, errTooManySessions) {
		f.refuse(w, req, refuse(http.StatusServiceUnavailable, CodeOverloaded,
			"overloaded: %d sessions are open; close some or try again later", reg.count.Load()).withID(env.id))
		return
	}
	if err != nil {
		f.refuse(w, req, refuse(http.StatusInternalServerError, jsonrpc.CodeInternalError, "%v", err).withID(env.id))
		return
	}
	kept := false
	defer func() {
		if !kept {
			s.kill()
		}
	}()
	st, r := s.newStream(list, false), newReader()
	st.attach(r, 0)
	ctx := context.WithValue(req.Context(), httpRequestKey{}, req)
	if err := s.conn.accept(ctx, list, false, st); err != nil {
		f.refuse(w, req, s.refusal(err, list).withID(env.id))
		return
	}
	select {
	case <-r.wake:
	case <-req.Context().Done():
		return
	case <-f.rt.done:
		f.refuse(w, req, f.available().withID(env.id))
		return
	}
	out, _ := st.poll(ctx, r, 0) // a quiet stream reads no store
	if len(out.parts) != 1 {
		f.refuse(w, req, refuse(http.StatusInternalServerError, jsonrpc.CodeInternalError, "initialize was not answered").withID(env.id))
		return
	}
	if s.conn.isInitialized() {
		if err := reg.keep(context.WithoutCancel(ctx), s, env.params); err != nil {
			f.refuse(w, req, storeRefusal(err).withID(env.id))
			return
		}
		kept = true
		defer reg.release(s)
		w.Header().Set(headerSession, s.id)
	}
	writeJSON(w, out.parts[0])
}

// writeJSON answers with one JSON body.
func writeJSON(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h["Content-Type"] = jsonHeader
	h["Cache-Control"] = noStoreHeader
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if len(body) > lineBuffer { // small ones do not block
		rc := http.NewResponseController(w)
		_ = rc.SetWriteDeadline(time.Now().Add(stallTimeout))
		defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	}
	_, _ = w.Write(body)
}

// legacyGet opens the standalone stream, or resumes any stream.
func (f *front) legacyGet(w http.ResponseWriter, req *http.Request) {
	s, bad := f.acquire(req)
	if bad != nil {
		f.refuse(w, req, bad)
		return
	}
	defer f.rt.sessions.release(s)
	if req.Header.Get(headerLastEvent) != "" {
		f.resume(w, req, s)
		return
	}
	ctx := req.Context()
	st, err := s.standalone(ctx)
	if err != nil {
		f.refuse(w, req, storeRefusal(err))
		return
	}
	r := newReader()
	st.attach(r, 0)
	defer f.detach(ctx, st, r)
	pos, behind, err := st.start(ctx)
	if err != nil {
		f.refuse(w, req, storeRefusal(err))
		return
	}
	f.catchUp(w, req, pouring{st: st, r: r, pos: pos}, behind)
}

// resume replays what came behind Last-Event-ID on one stream, then goes on live.
func (f *front) resume(w http.ResponseWriter, req *http.Request, s *session) {
	ctx := req.Context()
	last := req.Header.Get(headerLastEvent)
	name, pos, ok := parseEventID(last)
	if !ok {
		f.refuse(w, req, invalid("invalid request: Last-Event-ID %q is not an event id of this server", last))
		return
	}
	st, err := s.find(ctx, name)
	if err != nil {
		f.refuse(w, req, storeRefusal(err))
		return
	}
	if st == nil || !st.knows(pos) {
		f.refuse(w, req, invalid("invalid request: Last-Event-ID %q names no event of this session; "+
			"streams are forgotten %s after their last event", last, f.rt.opts.EventTTL))
		return
	}
	r := newReader()
	st.attach(r, pos)
	defer f.detach(ctx, st, r)
	behind, err := st.begin(ctx, pos)
	if errors.Is(err, errPurged) {
		f.refuse(w, req, invalid("invalid request: events behind Last-Event-ID %q were removed: "+
			"a stream keeps its newest %d events, for %s", last, st.limit, f.rt.opts.EventTTL))
		return
	}
	if err != nil {
		f.refuse(w, req, storeRefusal(err))
		return
	}
	f.rt.stats.resumptions.Add(1)
	f.catchUp(w, req, pouring{st: st, r: r, pos: pos, replay: true}, behind)
}

// catchUp begins the response of a GET.
func (f *front) catchUp(w http.ResponseWriter, req *http.Request, p pouring, behind bool) {
	p.prime = p.pos
	if !behind && p.st.prime {
		pos, err := p.st.progress(context.WithoutCancel(req.Context()))
		if err != nil {
			if !errors.Is(err, errStreamDead) {
				p.st.s.fail(err)
			}
			f.refuse(w, req, storeRefusal(err))
			return
		}
		p.prime, p.pos = pos, pos
	}
	p.events = startEvents(w)
	if p.st.prime {
		p.events.priming(eventID(p.st.name, p.prime))
	} else {
		p.events.comment("ok") // so that the header leaves
	}
	if err := p.events.flush(); err != nil {
		return
	}
	if p.st.name == standaloneName {
		if uris := p.st.s.doubtful(); len(uris) > 0 {
			go func() { // beside the stream, which must be read meanwhile
				if err := p.st.s.tellChanged(context.Background(), uris); err != nil {
					f.rt.log.Debug("subscriber not told of changes during the restart", "error", err)
				}
			}()
		}
	}
	f.pour(w, req, p)
}

// legacyDelete ends a session.
func (f *front) legacyDelete(w http.ResponseWriter, req *http.Request) {
	s, bad := f.acquire(req)
	if bad != nil {
		f.refuse(w, req, bad)
		return
	}
	f.rt.sessions.release(s)
	err := f.rt.sessions.end(context.WithoutCancel(req.Context()), s.id)
	switch {
	case errors.Is(err, ErrNoSession):
		f.refuse(w, req, sessionNotFound())
	case err != nil:
		f.refuse(w, req, storeRefusal(err))
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// pouring is one response that a stream's events are poured into.
type pouring struct {
	st     *stream
	r      *reader
	pos    int64         // everything up to here was written
	prime  int64         // position of the priming event that was written
	events *eventWriter  // nil: the response has not begun
	quiet  time.Duration // how long to wait for the whole answer before it begins
	replay bool          // the events up to now are repetitions
}

// pour writes what the stream has until it ends, or the client or the
// session is gone.
func (f *front) pour(w http.ResponseWriter, req *http.Request, p pouring) {
	defer func() {
		if p.events != nil {
			p.events.end()
		}
	}()
	ctx := req.Context()
	// One timer for both: nothing need be kept alive before there are events.
	pause := f.rt.opts.KeepAlive
	if p.events == nil {
		pause = p.quiet
	}
	tick := time.NewTimer(pause)
	defer tick.Stop()
	promoted := p.events != nil
	over := f.expiry(ctx)
	for {
		more, err := f.step(ctx, w, &p)
		if err != nil || !more {
			return
		}
		select {
		case <-p.r.wake:
		case <-tick.C:
			tick.Reset(f.rt.opts.KeepAlive)
			if !promoted {
				promoted = true
				if err := f.promote(ctx, w, &p); err != nil {
					return
				}
				continue
			}
			if p.events == nil {
				continue
			}
			p.events.comment("keep-alive")
			if p.events.flush() != nil {
				return
			}
		case <-over:
			return
		case <-f.rt.cut.begun():
			if p.events == nil {
				bad := errCutOff()
				if calls := p.st.unanswered(); len(calls) == 1 {
					bad = bad.withID(calls[0])
				}
				f.refuse(w, req, bad)
			}
			return
		case <-ctx.Done():
			return
		case <-f.closing(p.st):
			return
		}
	}
}

// closing ends standalone streams with the runtime; calls may still finish.
func (f *front) closing(st *stream) <-chan struct{} {
	if st.name == standaloneName {
		return f.rt.done
	}
	return nil
}

// expiry fires when the credential of a request ends; nil: never.
func (f *front) expiry(ctx context.Context) <-chan time.Time {
	expires := identityIn(ctx).Expires
	if expires.IsZero() {
		return nil
	}
	return time.After(expires.Sub(f.rt.opts.Now()))
}

// promote turns a response that waits for its answer into an event stream.
func (f *front) promote(ctx context.Context, w http.ResponseWriter, p *pouring) error {
	if p.events != nil {
		return nil
	}
	if p.st.prime {
		if err := p.st.promote(context.WithoutCancel(ctx)); err != nil {
			p.st.s.fail(err)
			return err
		}
		return nil
	}
	// Without a priming event the client can resume only behind the first
	// event: nothing need be stored before there is one.
	p.events = startEvents(w)
	p.events.comment("ok")
	return p.events.flush()
}

// step writes what there is. It is false when the response is complete.
func (f *front) step(ctx context.Context, w http.ResponseWriter, p *pouring) (more bool, err error) {
	for {
		out, err := p.st.poll(ctx, p.r, p.pos)
		if err != nil {
			f.rt.log.Warn("event stream cut", "error", err)
			return false, err
		}
		if !out.durable && !out.end {
			return true, nil
		}
		if out.parts != nil {
			f.writeParts(w, p, out)
			return false, nil
		}
		if p.events == nil {
			if out.end && len(out.events) == 0 {
				return false, f.cut(w, p)
			}
			p.events = startEvents(w)
			if p.st.prime {
				p.events.priming(eventID(p.st.name, out.first))
			}
		}
		for _, ev := range out.events {
			p.events.message(eventID(p.st.name, ev.Pos), ev.Data)
			p.pos = ev.Pos
		}
		if out.closing {
			p.events.comeBack(out.retry)
		}
		if err := p.events.flush(); err != nil {
			return false, err
		}
		if p.replay {
			f.rt.stats.replayed.Add(uint64(len(out.events)))
		}
		if len(out.events) > 0 {
			p.st.wrote(p.pos)
		}
		if out.end || out.closing {
			return false, nil
		}
		if len(out.events) == 0 {
			p.replay = false
			return true, nil
		}
	}
}

// writeParts sends the answers of a stream that never became durable.
func (f *front) writeParts(w http.ResponseWriter, p *pouring, out outcome) {
	if p.events == nil {
		writeJSON(w, joinParts(out.parts, out.batch))
		return
	}
	for _, part := range out.parts {
		p.events.message("", part)
	}
	_ = p.events.flush() // the client is gone, and holds nothing to ask again with
}

// cut answers a request whose session ended while it ran.
func (f *front) cut(w http.ResponseWriter, p *pouring) error {
	bad := refuse(http.StatusServiceUnavailable, CodeOverloaded, "the session ended while the request ran")
	if calls := p.st.unanswered(); len(calls) == 1 {
		bad = bad.withID(calls[0])
	}
	f.rt.stats.refuse(bad.Code)
	writeRefusal(w, bad)
	return nil
}
