package mcp

//lint:file-ignore SA1019 older clients use what 2026-07-28 deprecates

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	sessionIDBytes = 43 // 256 bits in base64url
	requestBlock   = 64 // ids of server-to-client requests reserved by one commit
	touchEvery     = 10 * time.Second
	sweepPage      = 500
)

// errTooManySessions means that Options.MaxSessions are open.
var errTooManySessions = errors.New("mcp: too many sessions")

// errForeign means that the session belongs to another principal. Clients are
// told the same as for ErrNoSession.
var errForeign = errors.New("mcp: session of another principal")

// sessions are the sessions of the revisions up to 2025-11-25. The store has
// all of them; live has those that are connected to the SDK. One that is not
// is connected again when its client comes back, after a restart or after it
// was idle for long.
type sessions struct {
	rt    *Runtime
	store sessionStore
	boot  string       // names this run of the process
	count atomic.Int64 // sessions in the store

	mu     sync.Mutex
	live   map[string]*session
	ending map[string]bool // being removed from the store
	swept  time.Time       // when the store was last searched for expired sessions
}

// A session is one that is connected to the SDK. Its Conn hands every outbound
// message to one of its streams.
type session struct {
	reg       *sessions
	id        string
	principal string
	protocol  string
	ready     chan struct{} // closed when what follows is set
	err       error         // why it could not be connected
	conn      *Conn
	ss        *sdk.ServerSession

	// Guarded by reg.mu.
	refs    int       // HTTP requests that use the session now
	used    time.Time // when the last one ended
	touched time.Time // what the store was told of it

	mu          sync.Mutex
	ended       bool
	initialized bool
	stale       bool               // it has subscriptions from before a restart
	streams     map[string]*stream // of calls that run, by name
	main        *stream            // the standalone stream, once it is needed
	nextID      int64              // id of the next server-to-client request
	endID       int64              // end of the reserved ids
	restoring   sync.WaitGroup     // requests that restore subscriptions
}

func newSessions(r *Runtime) (*sessions, error) {
	var boot [8]byte
	_, _ = rand.Read(boot[:]) // never fails (crypto/rand)
	reg := &sessions{
		rt: r, boot: hex.EncodeToString(boot[:]),
		live: make(map[string]*session), ending: make(map[string]bool), swept: r.opts.Now(),
	}
	if r.store == nil {
		reg.store = newMemorySessions()
		return reg, nil
	}
	reg.store = &engineSessions{store: r.store, boot: reg.boot, shared: reg.shared()}
	n, err := reg.countStored(context.Background())
	if err != nil {
		return nil, fmt.Errorf("mcp: read the sessions: %w", err)
	}
	reg.count.Store(n)
	return reg, nil
}

// shared reports whether other processes have the same store.
func (r *sessions) shared() bool { return r.rt.store != nil && r.rt.opts.Tasks.Node != "" }

func (r *sessions) countStored(ctx context.Context) (n int64, err error) {
	err = r.each(ctx, func(*sessionRecord) error {
		n++
		return nil
	})
	return n, err
}

// each calls fn for every stored session.
func (r *sessions) each(ctx context.Context, fn func(*sessionRecord) error) error {
	for after := ""; ; {
		page, err := r.store.list(ctx, after, sweepPage)
		if err != nil {
			return err
		}
		for _, rec := range page {
			if err := fn(rec); err != nil {
				return err
			}
		}
		if len(page) < sweepPage {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// newSession connects a session that is in no table yet.
func (r *sessions) newSession(id, principal string) *session {
	return &session{
		reg: r, id: id, principal: principal, ready: make(chan struct{}), used: r.rt.opts.Now(),
		streams: make(map[string]*stream),
	}
}

// open connects a new session for an initialize request. It is known to nobody
// until keep has stored it.
func (r *sessions) open(principal string) (*session, error) {
	if r.count.Load() >= int64(r.rt.opts.MaxSessions) {
		return nil, errTooManySessions
	}
	s := r.newSession(newSessionID(), principal)
	close(s.ready)
	return s, s.connect(nil)
}

// connect starts the SDK's side of the session.
func (s *session) connect(state *sdk.ServerSessionState) (err error) {
	s.conn = s.reg.rt.NewConn(nil, ConnOptions{SessionID: s.id, Principal: s.principal, Journal: s})
	s.conn.http = s
	if state != nil {
		s.conn.initialized, s.conn.version = true, s.protocol
	}
	s.ss, err = s.reg.rt.server.Connect(context.Background(), s.conn, &sdk.ServerSessionOptions{State: state})
	return err
}

// keep stores a session whose initialize was answered, and makes it known.
// The caller holds one use of it.
func (r *sessions) keep(ctx context.Context, s *session, params json.RawMessage) error {
	now := r.rt.opts.Now().UTC()
	s.protocol = s.conn.negotiated()
	rec := &sessionRecord{
		ID: s.id, Principal: s.principal, Protocol: s.protocol,
		Params: params, NextRequest: 1, Created: now,
	}
	if err := r.store.create(ctx, rec); err != nil {
		return err
	}
	s.nextID, s.endID = 1, 1
	r.count.Add(1)
	r.rt.stats.sessionsOpened.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	s.refs, s.touched = 1, now
	r.live[s.id] = s
	return nil
}

// acquire returns the session with this id for use by one request; call
// release afterwards. A session that is not connected is connected first,
// once, however many requests ask for it. ErrNoSession: there is none that
// belongs to the principal.
func (r *sessions) acquire(ctx context.Context, id, principal string) (*session, error) {
	if !isSessionID(id) {
		return nil, ErrNoSession
	}
	for {
		r.mu.Lock()
		if r.ending[id] {
			r.mu.Unlock()
			return nil, ErrNoSession
		}
		s := r.live[id]
		first := s == nil
		if first {
			s = r.newSession(id, principal)
			r.live[id] = s
		}
		now := r.rt.opts.Now()
		idle := s.refs == 0 && now.Sub(s.used) >= r.rt.opts.SessionTimeout
		s.refs++
		r.mu.Unlock()
		if first {
			s.err = s.revive(context.WithoutCancel(ctx), principal)
			if s.err != nil {
				r.forget(s)
			}
			close(s.ready)
		}
		<-s.ready
		if s.err == nil && s.principal != principal {
			r.release(s)
			return nil, ErrNoSession
		}
		if s.err == nil && !first {
			again, err := r.recheck(ctx, s)
			if again {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(s.err, errForeign) && !first:
			continue // it is not known whether it belongs to this principal
		case errors.Is(s.err, errForeign):
			return nil, ErrNoSession
		case s.err != nil:
			return nil, s.err
		case idle && !first && !s.busy():
			r.release(s)
			if err := r.end(ctx, id); err != nil {
				return nil, err
			}
			return nil, ErrNoSession
		}
		r.touch(ctx, s, now)
		return s, nil
	}
}

// recheck makes sure that a session in memory, of which the caller has a use,
// was nowhere else meanwhile. If it was, what memory says of it is old: again is
// true, and the use over, as with an error.
func (r *sessions) recheck(ctx context.Context, s *session) (again bool, err error) {
	err = r.store.home(ctx, s.id)
	if err == nil {
		return false, nil
	}
	r.release(s)
	if errors.Is(err, errMoved) {
		r.forget(s)
		s.kill()
		return true, nil
	}
	return false, err
}

// isSessionID reports whether id could be one of ours.
func isSessionID(id string) bool {
	if len(id) != sessionIDBytes {
		return false
	}
	_, err := base64.RawURLEncoding.DecodeString(id)
	return err == nil
}

// release ends a use of s.
func (r *sessions) release(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.refs--
	s.used = r.rt.opts.Now()
}

// forget takes s out of live, unless another one took its place.
func (r *sessions) forget(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[s.id] == s {
		delete(r.live, s.id)
	}
}

// touch writes down that s is in use, now and then. That costs no wait: a
// crash forgets the uses of the last seconds at most.
func (r *sessions) touch(ctx context.Context, s *session, now time.Time) {
	every := min(touchEvery, r.rt.opts.SessionTimeout/10)
	r.mu.Lock()
	due := now.Sub(s.touched) >= every
	if due {
		s.touched = now
	}
	r.mu.Unlock()
	if !due {
		return
	}
	if err := r.store.touch(ctx, s.id, now, now.Add(r.rt.opts.SessionTimeout)); err != nil {
		r.rt.log.Warn("use of a session not noted; a restart may take it for expired", "error", err)
	}
}

// busy reports whether something of the session goes on.
func (s *session) busy() bool {
	if s.conn.openCalls() > 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams) > 0
}

// end ends a session for good. ErrNoSession: there is none.
func (r *sessions) end(ctx context.Context, id string) error {
	r.mu.Lock()
	if r.ending[id] {
		r.mu.Unlock()
		return ErrNoSession
	}
	r.ending[id] = true
	s := r.live[id]
	delete(r.live, id)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.ending, id)
		r.mu.Unlock()
	}()
	if s != nil {
		<-s.ready
		if s.err == nil {
			s.kill()
		}
	} else if _, err := r.store.load(ctx, id); err != nil {
		return err
	}
	if err := r.store.remove(ctx, id); err != nil {
		return err
	}
	r.count.Add(-1)
	r.rt.stats.sessionsEnded.Add(1)
	return nil
}

// kill ends what runs in the session and disconnects it from the SDK. The
// store keeps it.
func (s *session) kill() {
	s.mu.Lock()
	s.ended = true
	all := make([]*stream, 0, len(s.streams)+1)
	for _, st := range s.streams {
		all = append(all, st)
	}
	if s.main != nil {
		all = append(all, s.main)
	}
	s.mu.Unlock()
	_ = s.conn.Close() // first, so that handlers hear of it
	for _, st := range all {
		st.kill()
	}
	s.reg.rt.updates.forget(s.ss)
}

// closed is called when the Conn was closed. If neither the client, nor a
// failure, nor the runtime did it, the server's own code wants the session to end.
func (s *session) closed() error {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return nil
	}
	select {
	case <-s.reg.rt.done:
		return nil
	default:
	}
	go func() {
		if err := s.reg.end(context.Background(), s.id); err != nil && !errors.Is(err, ErrNoSession) {
			s.reg.rt.log.Warn("closed session not removed", "error", err)
		}
	}()
	return nil
}

// fail disconnects a session one of whose events could not be stored: nothing
// that a restart would forget may reach the client. The client's next request
// connects it again, if the store works again.
func (s *session) fail(err error) {
	if away(err) {
		s.reg.rt.log.Debug("session disconnected", "reason", err)
	} else {
		s.reg.rt.log.Error("session disconnected: an event could not be stored", "error", err)
	}
	s.reg.forget(s)
	s.kill()
}

// NextRequestID implements [Journal]: ids are reserved in blocks, each by a commit.
func (s *session) NextRequestID(ctx context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nextID == s.endID {
		var first int64
		err := s.reg.store.change(ctx, s.id, func(rec *sessionRecord) {
			first = rec.NextRequest
			rec.NextRequest += requestBlock
		})
		if err != nil {
			return 0, err
		}
		s.nextID, s.endID = first, first+requestBlock
	}
	s.nextID++
	return s.nextID - 1, nil
}

// Commit implements [Journal]. The streams commit: see stream.put.
func (s *session) Commit(context.Context, *Event) error { return nil }

// asked reports whether the server ever sent a request with this id.
func (s *session) asked(id int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return id > 0 && id < s.nextID
}
