package auth

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/erlmcp/erlmcp/mcp"
)

// maxBearer bounds a credential. Headers have a limit of their own, but other
// carriers hand in theirs without one.
const maxBearer = 16 << 10

// A Guard names the sender of requests by their bearer credential. It
// implements [mcp.Authenticator] and [mcp.ScopeChallenger].
type Guard struct {
	tokens   *Tokens
	verifier *Verifier
	required []string
}

// GuardOptions configures a [Guard]. At least one of Tokens and Verifier is needed.
type GuardOptions struct {
	Tokens   *Tokens   // static tokens; nil: none are accepted
	Verifier *Verifier // JWTs; nil: none are accepted
	Required []string  // scopes without which nobody gets in, whatever they ask for
}

// NewGuard returns a guard.
func NewGuard(o GuardOptions) (*Guard, error) {
	if o.Tokens == nil && o.Verifier == nil {
		return nil, errors.New("auth: a guard needs static tokens or an OAuth verifier")
	}
	return &Guard{tokens: o.Tokens, verifier: o.Verifier, required: o.Required}, nil
}

// Authenticate implements [mcp.Authenticator].
func (g *Guard) Authenticate(req *http.Request) (*mcp.Identity, error) {
	credential, problem := bearer(req.Header)
	if problem != "" {
		return nil, &mcp.AuthError{
			Status: http.StatusUnauthorized, Message: problem,
			Challenge: g.challenge(req, "", "", g.required),
		}
	}
	id, err := g.identify(req, credential)
	if err != nil {
		return nil, g.refusal(req, err)
	}
	if missing := id.Missing(g.required); missing != nil {
		return nil, &mcp.AuthError{
			Status:    http.StatusForbidden,
			Message:   "insufficient scope: every request needs " + strings.Join(missing, " "),
			Challenge: g.ScopeChallenge(req, g.required),
		}
	}
	return id, nil
}

func (g *Guard) identify(req *http.Request, credential string) (*mcp.Identity, error) {
	if g.tokens != nil {
		id, err := g.tokens.identify(credential)
		if id != nil || err != nil && !errors.Is(err, errUnknownToken) {
			return id, err
		}
		if g.verifier == nil || !looksLikeJWT(credential) {
			return nil, errUnknownToken
		}
	}
	return g.verifier.identify(req.Context(), credential)
}

// refusal turns why a credential is not accepted into what the client reads.
func (g *Guard) refusal(req *http.Request, err error) error {
	var unavailable *unavailableError
	if errors.As(err, &unavailable) {
		return &mcp.AuthError{Status: http.StatusServiceUnavailable, Message: unavailable.Error() + "; try again"}
	}
	var bad *tokenError
	if !errors.As(err, &bad) {
		bad = &tokenError{"the credential is not accepted"}
	}
	return &mcp.AuthError{
		Status: http.StatusUnauthorized, Message: "unauthorized: " + bad.why,
		Challenge: g.challenge(req, "invalid_token", bad.why, nil),
	}
}

// ScopeChallenge implements [mcp.ScopeChallenger].
func (g *Guard) ScopeChallenge(req *http.Request, needed []string) string {
	return g.challenge(req, "insufficient_scope", "", needed)
}

// challenge words a WWW-Authenticate header. None of its parts may contain a
// quote or a backslash: they are constants, checked scopes and our own URL.
func (g *Guard) challenge(_ *http.Request, code, why string, scopes []string) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf(`%s="%s"`, name, value))
		}
	}
	add("error", code)
	add("error_description", why)
	add("scope", strings.Join(scopes, " "))
	if g.verifier != nil {
		add("resource_metadata", g.verifier.metadataURL)
	}
	if len(parts) == 0 {
		return `Bearer realm="erlmcp"`
	}
	return "Bearer " + strings.Join(parts, ", ")
}

// A tokenError says why a credential is refused, in words for its owner.
type tokenError struct{ why string }

func (e *tokenError) Error() string { return e.why }

// An unavailableError says that a credential could not be judged.
type unavailableError struct{ why string }

func (e *unavailableError) Error() string { return e.why }

// bearer returns the credential of the Authorization header, or what is wrong
// with the header.
func bearer(h http.Header) (credential, problem string) {
	values := h.Values("Authorization")
	switch {
	case len(values) == 0:
		return "", "unauthorized: send the header Authorization: Bearer <token>"
	case len(values) > 1:
		return "", "unauthorized: more than one Authorization header"
	}
	scheme, credential, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	credential = strings.TrimSpace(credential)
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return "", "unauthorized: the Authorization header must have the form Bearer <token>"
	case credential == "":
		return "", "unauthorized: the Authorization header has no token"
	case len(credential) > maxBearer:
		return "", fmt.Sprintf("unauthorized: the token is longer than %d bytes", maxBearer)
	}
	for i := range len(credential) {
		if !isTokenByte(credential[i]) {
			return "", "unauthorized: the token has characters that no bearer token may have"
		}
	}
	return credential, ""
}

// isTokenByte tells the characters of RFC 6750, section 2.1.
func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0
}

func looksLikeJWT(credential string) bool { return strings.Count(credential, ".") == 2 }

// checkScope refuses what cannot stand in a scope list (RFC 6749, section 3.3).
func checkScope(scope string) error {
	if scope == "" || len(scope) > 256 {
		return fmt.Errorf("a scope has 1 to 256 characters")
	}
	for i := range len(scope) {
		if c := scope[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return fmt.Errorf("scope %q: only printable ASCII without space, quote and backslash", scope)
		}
	}
	return nil
}

// CheckScopes returns what is wrong with a list of scopes, or nil.
func CheckScopes(scopes []string) error {
	for _, scope := range scopes {
		if err := checkScope(scope); err != nil {
			return err
		}
	}
	return nil
}
