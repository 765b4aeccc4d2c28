package mcp

//lint:file-ignore SA1019 older clients use what 2026-07-28 deprecates

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/maphash"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// This file joins a session with its streams and its record.

func (s *session) stream(rec streamRecord, limit int) *stream {
	st := &stream{s: s, name: rec.Name, rec: rec, prime: s.protocol >= versionPriming, limit: limit}
	st.room.L = &st.mu
	return st
}

// newStream returns the quiet stream of one POST request with these calls.
func (s *session) newStream(list []envelope, batch bool) *stream {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	st := s.stream(streamRecord{Name: hex.EncodeToString(random[:])}, s.reg.rt.opts.StreamEvents)
	st.batch = batch
	for i := range list {
		if list[i].isCall() {
			st.rec.Calls = append(st.rec.Calls, list[i].id)
		}
	}
	return st
}

// follow makes a stream findable for GET. It is false when the session ended.
func (s *session) follow(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.streams[st.name] = st
	}
	return !s.ended
}

func (s *session) unfollow(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st.name)
}

// deliver takes an outbound message of the session's Conn: an answer to call,
// or a message that belongs to call, or to none.
func (s *session) deliver(ctx context.Context, call *Call, ev *Event) error {
	if call != nil && call.internal {
		if ev.Final {
			s.restoring.Done()
		}
		return nil
	}
	var st *stream
	if call != nil {
		st = call.http
	} else {
		var err error
		if st, err = s.standalone(ctx); err != nil {
			s.fail(err)
			return err
		}
	}
	err := st.put(ctx, call, ev)
	var rpc *jsonrpc.Error
	if err != nil && !errors.Is(err, errStreamDead) && !errors.As(err, &rpc) {
		s.fail(err)
	}
	if err == nil && ev.Final && st.finished() {
		s.unfollow(st)
	}
	return err
}

// standalone returns the stream of messages that belong to no call.
func (s *session) standalone(ctx context.Context) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, errStreamDead
	}
	if s.main != nil {
		return s.main, nil
	}
	st := s.stream(streamRecord{Name: standaloneName, Next: 1, Created: s.reg.rt.opts.Now().UTC()}, maxWaitingEvents)
	st.durable = true
	rec, err := s.reg.store.stream(ctx, s.id, standaloneName)
	if err != nil {
		return nil, err
	}
	if rec != nil {
		st.rec, st.delivered = *rec, rec.Delivered
		events, err := s.reg.store.events(ctx, s.id, standaloneName, 0, maxWaitingEvents, 2*maxKeptBytes)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			st.kept = append(st.kept, keptEvent{ev.Pos, len(ev.Data), maphash.Bytes(sumSeed, ev.Data)})
			st.keptBytes += len(ev.Data)
		}
	}
	s.main = st
	return st, nil
}

// find returns the stream that an event id names, or nil.
func (s *session) find(ctx context.Context, name string) (*stream, error) {
	if name == standaloneName {
		return s.standalone(ctx)
	}
	s.mu.Lock()
	st := s.streams[name]
	s.mu.Unlock()
	if st != nil {
		return st, nil
	}
	rec, err := s.reg.store.stream(ctx, s.id, name)
	if err != nil || rec == nil {
		return nil, err
	}
	st = s.stream(*rec, s.reg.rt.opts.StreamEvents)
	st.durable, st.done = true, rec.Done
	return st, nil
}

// remember writes down what a request changed in the session, before its
// answer leaves.
func (s *session) remember(ctx context.Context, method string, req sdk.Request) error {
	switch method {
	case "logging/setLevel":
		level := string(req.GetParams().(*sdk.SetLoggingLevelParams).Level)
		return s.reg.store.change(ctx, s.id, func(rec *sessionRecord) { rec.LogLevel = level })
	case "resources/subscribe":
		return s.reg.store.subscribe(ctx, s.id, req.GetParams().(*sdk.SubscribeParams).URI)
	case "resources/unsubscribe":
		return s.reg.store.unsubscribe(ctx, s.id, req.GetParams().(*sdk.UnsubscribeParams).URI)
	}
	return nil
}

// noteInitialized writes down that the client is ready.
func (s *session) noteInitialized(ctx context.Context) error {
	s.mu.Lock()
	known := s.initialized
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.reg.store.change(ctx, s.id, func(rec *sessionRecord) { rec.Initialized = true }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.initialized = true
	return nil
}

// doubtful returns the subscriptions whose resources may have changed while
// the process did not run, once.
func (s *session) doubtful() []string {
	s.mu.Lock()
	stale := s.stale
	s.stale = false
	s.mu.Unlock()
	if !stale {
		return nil
	}
	return s.reg.rt.updates.of(s.ss)
}

// tellChanged tells the client that resources may have changed.
func (s *session) tellChanged(ctx context.Context, uris []string) error {
	for _, uri := range uris {
		params, err := marshal(map[string]string{"uri": uri})
		if err != nil {
			return err
		}
		note := &jsonrpc.Request{Method: methodUpdated, Params: json.RawMessage(params)}
		if err := s.conn.Write(ctx, note); err != nil {
			return err
		}
	}
	return nil
}
