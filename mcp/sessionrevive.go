package mcp

//lint:file-ignore SA1019 older clients use what 2026-07-28 deprecates

import (
	"context"
	"fmt"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// This file connects a session again from its record.

// revive connects a session from its record.
func (s *session) revive(ctx context.Context, principal string) error {
	r := s.reg
	rec, err := r.store.load(ctx, s.id)
	if err != nil {
		return err
	}
	if rec.Principal != principal {
		return errForeign
	}
	if !rec.Seen.Add(r.rt.opts.SessionTimeout).After(r.rt.opts.Now()) {
		return ErrNoSession // the next sweep removes it
	}
	if r.shared() {
		// From here on nobody else writes to it; read again what they wrote until now.
		if err := r.store.claim(ctx, s.id); err != nil {
			return err
		}
		if rec, err = r.store.load(ctx, s.id); err != nil {
			return err
		}
	}
	s.protocol, s.initialized, s.touched = rec.Protocol, rec.Initialized, rec.Seen
	s.nextID, s.endID = rec.NextRequest, rec.NextRequest
	if err := s.endInterrupted(ctx); err != nil {
		return err
	}
	state, err := rec.state()
	if err != nil {
		return err
	}
	if err := s.connect(state); err != nil {
		return err
	}
	if err := s.resubscribe(ctx, rec.Subs); err != nil {
		s.kill()
		return err
	}
	r.rt.stats.sessionsRevived.Add(1)
	return nil
}

// state is what the SDK knew of the session.
func (rec *sessionRecord) state() (*sdk.ServerSessionState, error) {
	params := new(sdk.InitializeParams)
	if err := decodeJSON(rec.Params, params); err != nil {
		return nil, fmt.Errorf("mcp: initialize parameters of a stored session: %w", err)
	}
	// The SDK reads roots into a field of another name than its type has for JSON.
	var roots struct {
		Capabilities struct {
			Roots *sdk.RootCapabilities `json:"roots"`
		} `json:"capabilities"`
	}
	if err := decodeJSON(rec.Params, &roots); err == nil && params.Capabilities != nil {
		params.Capabilities.RootsV2 = roots.Capabilities.Roots
	}
	state := &sdk.ServerSessionState{
		InitializeParams: params, NegotiatedProtocolVersion: rec.Protocol, LogLevel: sdk.LoggingLevel(rec.LogLevel),
	}
	if rec.Initialized {
		state.InitializedParams = new(sdk.InitializedParams)
	}
	return state, nil
}

// endInterrupted gives every call that no process works on any more its last
// answer: an error that says so. Its client reads it when it resumes.
func (s *session) endInterrupted(ctx context.Context) error {
	list, err := s.reg.store.streams(ctx, s.id)
	if err != nil {
		return err
	}
	for _, rec := range list {
		if rec.Done || rec.Name == standaloneName {
			continue
		}
		why, reason := "the server restarted while it ran; what it did until then may be in effect", "server_restarted"
		if s.reg.shared() {
			why = "the session moved to another member of the cluster, or the server restarted, while it ran; what it did until then may be in effect"
		}
		if rec.Boot == s.reg.boot {
			why, reason = "its event stream ended because an event could not be stored; what it did until then may be in effect", "stream_lost"
		}
		var errs [][]byte
		for _, id := range rec.Calls {
			errs = append(errs, (&wireError{
				ID: id, Code: jsonrpc.CodeInternalError, Message: "the request was interrupted: " + why,
				Data: map[string]string{"reason": reason},
			}).encode())
		}
		st := s.stream(*rec, s.reg.rt.opts.StreamEvents+len(errs))
		st.durable = true
		if err := st.commit(ctx, nil, true, errs...); err != nil {
			return err
		}
		s.reg.rt.stats.interrupted.Add(uint64(len(errs)))
	}
	return nil
}

// resubscribe repeats the subscriptions, so that the SDK and updates know them.
func (s *session) resubscribe(ctx context.Context, uris []string) error {
	if len(uris) == 0 {
		return nil
	}
	s.stale = true
	for i, uri := range uris {
		params, err := marshal(map[string]string{"uri": uri})
		if err != nil {
			return err
		}
		s.restoring.Add(1)
		if err := s.conn.inject(ctx, fmt.Sprintf("erlmcp:restore:%d", i), "resources/subscribe", params); err != nil {
			s.restoring.Done()
			return err
		}
	}
	s.restoring.Wait()
	return nil
}
