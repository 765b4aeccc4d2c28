package mcp

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

// This file decides over HTTP who is there and what they may do, before a
// message reaches a handler. The middleware decides again about scopes, for
// the carriers that have no status codes.

// authenticate returns req with the identity of its sender in the context.
// Without an Authenticator that is req itself. The request returned is never nil.
func (r *Runtime) authenticate(req *http.Request) (*http.Request, *wireError) {
	if r.opts.Authenticator == nil {
		return req, nil
	}
	id, err := r.opts.Authenticator.Authenticate(req)
	if err != nil {
		r.stats.authFailures.Add(1)
		// Guessing and knocking are work too.
		if bad := r.limit(nil, req.RemoteAddr, make([]envelope, 1)); bad != nil {
			return req, bad
		}
		return req, authRefusal(err)
	}
	if id.Scopes == nil {
		// nil would mean that nobody asked who it is.
		held := *id
		held.Scopes, id = []string{}, &held
	}
	return req.WithContext(withIdentity(req.Context(), id)), nil
}

// permit refuses messages whose sender lacks a scope, with the HTTP status and
// the challenge that tell the client to ask for more (MCP, authorization).
func (r *Runtime) permit(req *http.Request, list []envelope) *wireError {
	id := identityIn(req.Context())
	if id.Scopes == nil {
		return nil
	}
	for i := range list {
		env := &list[i]
		if env.method != methodToolsCall {
			continue
		}
		tool, _ := unquote(member(env.params, "name"))
		rpc := r.checkScopes(id, tool)
		if rpc == nil {
			continue
		}
		bad := refuse(http.StatusForbidden, int(rpc.Code), "%s", rpc.Message).withID(env.id)
		bad.Data = rpc.Data
		needed := r.scopes.of(tool)
		if c, ok := r.opts.Authenticator.(ScopeChallenger); ok {
			bad.challenge = c.ScopeChallenge(req, needed)
		} else {
			bad.challenge = `Bearer error="insufficient_scope", scope="` + strings.Join(needed, " ") + `"`
		}
		r.auditDenied(req, env, tool, bad)
		return bad
	}
	return nil
}

// credentialPause is how often the credential behind an open stream or socket
// is looked at again.
const credentialPause = 30 * time.Second

// whileCredentialHolds returns the context of req, which also ends when the
// credential of req is no longer accepted: streams and sockets stay open for
// days, and a token that was revoked or expired must not keep them.
func (r *Runtime) whileCredentialHolds(req *http.Request) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(req.Context())
	var stopTimer func() bool
	var mu sync.Mutex
	ended := false
	var check func()
	arm := func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			stopTimer = r.opts.AfterFunc(credentialPause, check)
		}
	}
	check = func() {
		_, err := r.opts.Authenticator.Authenticate(req)
		var bad *AuthError
		if err != nil && !(errors.As(err, &bad) && bad.Status == http.StatusServiceUnavailable) {
			r.stats.authFailures.Add(1)
			cancel(err)
			return
		}
		arm()
	}
	arm()
	return ctx, func() {
		mu.Lock()
		ended = true
		stopTimer()
		mu.Unlock()
		cancel(nil)
	}
}
