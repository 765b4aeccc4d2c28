package mcp

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// Anonymous is the subject of requests on carriers without authentication.
// All of them are one principal: whoever can reach the server is trusted alike.
const Anonymous = "anonymous"

// AllScopes is the scope that stands for every scope.
const AllScopes = "*"

// An Identity is who makes a request. Sessions, streams, tasks and state
// handles belong to its Subject. It is not modified once it is in a context.
type Identity struct {
	Subject string   // never empty
	Scopes  []string // what the subject may do; nil when the carrier has no authentication, which permits everything
	Method  string   // how the subject proved itself: "token", "oauth" or the like; empty without authentication
	// Expires is when the credential ends; zero is never. Streams and sockets
	// opened with it end then.
	Expires time.Time
}

// Missing returns those of the wanted scopes that the identity does not hold.
func (id *Identity) Missing(wanted []string) []string {
	if id.Scopes == nil || len(wanted) == 0 || slices.Contains(id.Scopes, AllScopes) {
		return nil
	}
	var missing []string
	for _, scope := range wanted {
		if !slices.Contains(id.Scopes, scope) {
			missing = append(missing, scope)
		}
	}
	return missing
}

// An Authenticator names the sender of HTTP requests. Implementations must be
// safe for concurrent use.
type Authenticator interface {
	// Authenticate returns who sent req, or an error whose text tells the
	// client what is missing: an *AuthError to choose the answer, any other
	// error for a plain 401. It must not read the body, and its error must not
	// repeat any part of a credential. The identity has scopes that are not nil.
	Authenticate(req *http.Request) (*Identity, error)
}

// A ScopeChallenger is an [Authenticator] that words the WWW-Authenticate
// header of a request that lacks scopes (RFC 6750, section 3.1).
type ScopeChallenger interface {
	ScopeChallenge(req *http.Request, missing []string) string
}

// An AuthError is the refusal of a credential.
type AuthError struct {
	Status    int    // 401; 403; 503 when the credential could not be judged now
	Challenge string // value of the WWW-Authenticate header; may be empty
	Message   string // tells the client what is missing
}

// Error implements error.
func (e *AuthError) Error() string { return e.Message }

// wire turns an Authenticator's error into the refusal that the client reads.
func authRefusal(err error) *wireError {
	bad, ok := err.(*AuthError)
	if !ok {
		bad = &AuthError{Status: http.StatusUnauthorized, Message: err.Error()}
	}
	challenge := bad.Challenge
	if challenge == "" && bad.Status == http.StatusUnauthorized {
		challenge = "Bearer"
	}
	code := CodeUnauthenticated
	switch bad.Status {
	case http.StatusForbidden:
		code = CodeInsufficientScope
	case http.StatusServiceUnavailable:
		code = CodeOverloaded
	}
	w := refuse(bad.Status, code, "%s", bad.Message)
	w.challenge = challenge
	return w
}

type identityKey struct{}

// withIdentity returns ctx with the sender of the request.
func withIdentity(ctx context.Context, id *Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

var anonymous = &Identity{Subject: Anonymous}

// identityIn returns the identity that ctx carries; it is never nil.
func identityIn(ctx context.Context) *Identity {
	// The call comes first: the contexts of a session's handlers descend from
	// the request that opened the session, whose sender may have had others
	// scopes.
	if call, ok := CallFrom(ctx); ok && call.identity != nil {
		return call.identity
	}
	if id, ok := ctx.Value(identityKey{}).(*Identity); ok {
		return id
	}
	return anonymous
}

// IdentityFrom returns who sent the request that ctx belongs to; on carriers
// without authentication the subject is [Anonymous].
func IdentityFrom(ctx context.Context) Identity { return *identityIn(ctx) }

// toolScopes knows which scopes a tool needs; see Options.ToolScopes.
type toolScopes struct {
	exact    map[string][]string
	prefixes []scopePrefix // longest first
}

type scopePrefix struct {
	prefix string
	scopes []string
}

func newToolScopes(rules map[string][]string) toolScopes {
	t := toolScopes{exact: make(map[string][]string)}
	for pattern, scopes := range rules {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			t.prefixes = append(t.prefixes, scopePrefix{prefix, scopes})
			continue
		}
		t.exact[pattern] = scopes
	}
	slices.SortFunc(t.prefixes, func(a, b scopePrefix) int { return len(b.prefix) - len(a.prefix) })
	return t
}

// of returns what tool needs: the scopes of the most specific rule.
func (t *toolScopes) of(tool string) []string {
	if scopes, ok := t.exact[tool]; ok {
		return scopes
	}
	for _, p := range t.prefixes {
		if strings.HasPrefix(tool, p.prefix) {
			return p.scopes
		}
	}
	return nil
}

// checkScopes refuses a tool call whose sender lacks a scope.
func (r *Runtime) checkScopes(id *Identity, tool string) *jsonrpc.Error {
	missing := id.Missing(r.scopes.of(tool))
	if missing == nil {
		return nil
	}
	data, _ := marshal(map[string][]string{"requiredScopes": r.scopes.of(tool)})
	return &jsonrpc.Error{
		Code:    CodeInsufficientScope,
		Message: "insufficient scope: the tool " + tool + " needs " + strings.Join(missing, " "),
		Data:    data,
	}
}
