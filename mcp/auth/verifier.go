package auth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/erlmcp/erlmcp/mcp"
)

const (
	oauthSubject = "oauth:" // begins the principal of every JWT

	// leeway forgives clocks that differ.
	leeway = 30 * time.Second
	// rememberFor is how long a verified token is not verified again: what an
	// RSA signature costs is saved, and a key that the issuer withdrew still
	// works this much longer than its fetch interval.
	rememberFor   = time.Minute
	maxRemembered = 4096
)

// algorithms are those with public keys. With a shared secret, or with none,
// everybody who knows the configuration could sign.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// A Verifier accepts JWTs of one OAuth 2.1 authorization server.
// All methods are safe for concurrent use.
type Verifier struct {
	o           VerifierOptions
	keys        issuerKeys
	metadataURL string

	mu         sync.Mutex
	remembered map[[sha256.Size]byte]verified
}

type verified struct {
	who   *mcp.Identity
	until time.Time
}

// VerifierOptions configures a [Verifier].
type VerifierOptions struct {
	// Issuer is the identifier of the authorization server: the iss claim,
	// compared byte for byte. Its keys are found by discovery.
	Issuer string
	// Resource is the URL that clients use for this server, such as
	// https://mcp.example.com/mcp (RFC 8707, RFC 9728).
	Resource string
	// Audience are the accepted values of the aud claim; default: Resource.
	Audience []string
	// JWKS is where the issuer publishes its keys; default: discovered with
	// the first token.
	JWKS string
	// Scopes are those that the metadata offer to clients; may be empty.
	Scopes []string

	Client *http.Client     // default http.Client; redirects are always restricted
	Logger *slog.Logger     // default: discard
	Now    func() time.Time // default time.Now
}

// NewVerifier checks the options; it does not contact the issuer yet.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	if err := checkURL(o.Issuer); err != nil {
		return nil, errors.Join(errors.New("auth: issuer"), err)
	}
	if err := checkURL(o.Resource); err != nil {
		return nil, errors.Join(errors.New("auth: resource"), err)
	}
	if o.JWKS != "" {
		if err := checkURL(o.JWKS); err != nil {
			return nil, errors.Join(errors.New("auth: JWKS"), err)
		}
	}
	if err := CheckScopes(o.Scopes); err != nil {
		return nil, err
	}
	if len(o.Audience) == 0 {
		o.Audience = []string{o.Resource}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	v := &Verifier{o: o, remembered: make(map[[sha256.Size]byte]verified)}
	v.keys = issuerKeys{issuer: o.Issuer, client: newClient(o.Client), log: o.Logger, now: o.Now, fixed: o.JWKS}
	v.metadataURL = metadataURL(o.Resource)
	return v, nil
}

// claims are those that the verifier reads. Authorization servers write scopes
// as a string (RFC 9068) or as a list.
type claims struct {
	jwt.Claims
	Scope scopeClaim `json:"scope"`
	Scp   scopeClaim `json:"scp"`
}

type scopeClaim []string

func (s *scopeClaim) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		*s = strings.Fields(text)
		return nil
	}
	return json.Unmarshal(data, (*[]string)(s))
}

// identify verifies a JWT.
func (v *Verifier) identify(ctx context.Context, credential string) (*mcp.Identity, error) {
	hash := sha256.Sum256([]byte(credential))
	if who := v.recall(hash); who != nil {
		return who, nil
	}
	token, err := jwt.ParseSigned(credential, algorithms)
	if err != nil || len(token.Headers) != 1 {
		return nil, &tokenError{"the token is not a JWT signed with an accepted algorithm"}
	}
	header := token.Headers[0]
	if kind, _ := header.ExtraHeaders[jose.HeaderType].(string); !acceptedType(kind) {
		return nil, &tokenError{"the token is not an access token (typ)"}
	}
	keys, err := v.keys.find(ctx, header.KeyID, header.Algorithm)
	if err != nil {
		return nil, err
	}
	var c claims
	if !slices.ContainsFunc(keys, func(key jose.JSONWebKey) bool {
		c = claims{}
		return token.Claims(key.Key, &c) == nil
	}) {
		return nil, &tokenError{"the signature of the token is not by a key of the issuer"}
	}
	who, err := v.judge(&c)
	if err != nil {
		return nil, err
	}
	v.remember(hash, who)
	return who, nil
}

// acceptedType accepts access tokens (RFC 9068), and what servers that do not
// follow it write.
func acceptedType(kind string) bool {
	switch strings.ToLower(strings.TrimPrefix(kind, "application/")) {
	case "", "jwt", "at+jwt":
		return true
	}
	return false
}

// judge checks the claims of a token whose signature is right.
func (v *Verifier) judge(c *claims) (*mcp.Identity, error) {
	if c.Expiry == nil {
		return nil, &tokenError{"the token never expires (exp is missing)"}
	}
	if c.Issuer == "" || len(c.Audience) == 0 {
		return nil, &tokenError{"the token names no issuer or no audience"}
	}
	if c.Subject == "" || len(c.Subject) > 512 {
		return nil, &tokenError{"the token names no subject of 1 to 512 bytes (sub)"}
	}
	err := c.ValidateWithLeeway(jwt.Expected{Issuer: v.o.Issuer, AnyAudience: v.o.Audience, Time: v.o.Now()}, leeway)
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrExpired):
		return nil, &tokenError{"the token expired"}
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return nil, &tokenError{"the token is not valid yet"}
	case errors.Is(err, jwt.ErrInvalidAudience):
		return nil, &tokenError{"the token is for another audience"}
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return nil, &tokenError{"the token is of another issuer"}
	default:
		return nil, &tokenError{"the claims of the token are not accepted"}
	}
	scopes := make([]string, 0, len(c.Scope)+len(c.Scp))
	for _, scope := range slices.Concat(c.Scope, c.Scp) {
		// "every scope" is for the owner of the token file to grant, not for
		// an issuer in which the word may mean something else.
		if scope != mcp.AllScopes && checkScope(scope) == nil && !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return &mcp.Identity{Subject: oauthSubject + c.Subject, Scopes: scopes, Method: "oauth", Expires: c.Expiry.Time().Add(leeway)}, nil
}

// recall returns the owner of a token that was verified shortly before.
func (v *Verifier) recall(hash [sha256.Size]byte) *mcp.Identity {
	v.mu.Lock()
	defer v.mu.Unlock()
	known, ok := v.remembered[hash]
	if !ok {
		return nil
	}
	if !v.o.Now().Before(known.until) {
		delete(v.remembered, hash)
		return nil
	}
	return known.who
}

func (v *Verifier) remember(hash [sha256.Size]byte, who *mcp.Identity) {
	until := v.o.Now().Add(rememberFor)
	if who.Expires.Before(until) {
		until = who.Expires
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.remembered) >= maxRemembered {
		clear(v.remembered) // only tokens with a valid signature get here: rare enough
	}
	v.remembered[hash] = verified{who, until}
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
