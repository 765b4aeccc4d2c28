package auth_test

import (
	crand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/auth"
)

const resource = "https://mcp.example.com/mcp"

// oauth is a guard for one issuer.
type oauth struct {
	*issuer
	clock    *clock
	guard    *auth.Guard
	verifier *auth.Verifier
}

func newOAuth(t testing.TB, required ...string) *oauth {
	o := &oauth{issuer: newIssuer(t), clock: newClock()}
	var err error
	o.verifier, err = auth.NewVerifier(auth.VerifierOptions{
		Issuer: o.URL, Resource: resource, Scopes: []string{"read", "write"}, Now: o.clock.now,
	})
	require.NoError(t, err)
	o.guard, err = auth.NewGuard(auth.GuardOptions{Verifier: o.verifier, Required: required})
	require.NoError(t, err)
	return o
}

// claims are those of a good token, changed by pairs of name and value; nil removes.
func (o *oauth) claims(change ...any) map[string]any {
	c := map[string]any{
		"iss": o.URL, "aud": resource, "sub": "ann", "scope": "read write", "client_id": "c",
		"iat": o.clock.in(0), "exp": o.clock.in(time.Hour),
	}
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == nil {
			delete(c, change[i].(string))
			continue
		}
		c[change[i].(string)] = change[i+1]
	}
	return c
}

func request(credential string) *http.Request {
	req := httptest.NewRequest(http.MethodPost, resource, nil)
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	return req
}

func refused(t testing.TB, g *auth.Guard, credential string) *mcp.AuthError {
	t.Helper()
	id, err := g.Authenticate(request(credential))
	require.Nil(t, id)
	var bad *mcp.AuthError
	require.ErrorAs(t, err, &bad)
	return bad
}

func TestTokensOfEveryKindOfKeyAreAccepted(t *testing.T) {
	o := newOAuth(t)
	for _, algorithm := range []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA} {
		s := newSigner(t, "key-"+string(algorithm), algorithm)
		o.publish(map[string]string{"kty": "from the future", "kid": "x"}, s.public())
		o.clock.move(time.Minute) // the key is new: it may be asked for again
		id, err := o.guard.Authenticate(request(s.sign(t, o.claims())))
		require.NoError(t, err, algorithm)
		require.Equal(t, "oauth:ann", id.Subject)
		require.Equal(t, []string{"read", "write"}, id.Scopes)
		require.Equal(t, "oauth", id.Method)
		require.Equal(t, o.clock.now().Add(time.Hour+30*time.Second), id.Expires.UTC())
	}
}

func TestScopesComeInTwoFormsAndEverythingIsNotOneOfThem(t *testing.T) {
	o := newOAuth(t)
	s := newSigner(t, "k", jose.ES256)
	o.publish(s.public())
	for _, c := range []struct {
		claims map[string]any
		want   []string
	}{
		{o.claims("scope", "a b  a"), []string{"a", "b"}},
		{o.claims("scope", nil, "scp", []string{"a", "b"}), []string{"a", "b"}},
		{o.claims("scope", nil, "scp", "a"), []string{"a"}},
		{o.claims("scope", nil), []string{}},
		{o.claims("scope", "* a"), []string{"a"}},
		{o.claims("scope", []string{`q"uote`, "sp ace", "a"}), []string{"a"}},
	} {
		id, err := o.guard.Authenticate(request(s.sign(t, c.claims)))
		require.NoError(t, err)
		require.Equal(t, c.want, id.Scopes)
	}
}

func TestTokensThatAreNotForUsAreRefused(t *testing.T) {
	o := newOAuth(t)
	s, stranger := newSigner(t, "k", jose.RS256), newSigner(t, "k", jose.RS256)
	o.publish(s.public())
	public, err := json.Marshal(s.public())
	require.NoError(t, err)
	shared, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: append(public, make([]byte, 32)...)},
		(&jose.SignerOptions{}).WithHeader("kid", "k"))
	require.NoError(t, err)
	confused, err := jwt.Signed(shared).Claims(o.claims()).Serialize()
	require.NoError(t, err)
	enc := base64.RawURLEncoding.EncodeToString
	body, err := json.Marshal(o.claims())
	require.NoError(t, err)
	changed, err := json.Marshal(o.claims("sub", "root"))
	require.NoError(t, err)
	good := s.sign(t, o.claims())

	for _, c := range []struct{ name, credential, why string }{
		{"another issuer", s.sign(t, o.claims("iss", "https://evil.example.com")), "issuer"},
		{"no issuer", s.sign(t, o.claims("iss", nil)), "issuer"},
		{"an issuer that only begins right", s.sign(t, o.claims("iss", o.URL+"/")), "issuer"},
		{"another audience", s.sign(t, o.claims("aud", "https://other.example.com")), "audience"},
		{"no audience", s.sign(t, o.claims("aud", nil)), "audience"},
		{"an empty audience", s.sign(t, o.claims("aud", []string{})), "audience"},
		{"expired", s.sign(t, o.claims("exp", o.clock.in(-time.Minute))), "expired"},
		{"without end", s.sign(t, o.claims("exp", nil)), "expires"},
		{"not valid yet", s.sign(t, o.claims("nbf", o.clock.in(time.Minute))), "not valid yet"},
		{"issued in the future", s.sign(t, o.claims("iat", o.clock.in(time.Hour))), "not valid yet"},
		{"no subject", s.sign(t, o.claims("sub", nil)), "subject"},
		{"a subject of any length", s.sign(t, o.claims("sub", strings.Repeat("x", 600))), "subject"},
		{"scopes of another type", s.sign(t, o.claims("scope", 7)), "signature"},
		{"a stranger's signature", stranger.sign(t, o.claims()), "signature"},
		{"an unknown key", s.sign(t, o.claims(), "kid", "other"), "signature"},
		{"an id token of another kind", s.sign(t, o.claims(), "typ", "logout+jwt"), "typ"},
		{"public key as shared secret", confused, "algorithm"},
		{"no signature", enc([]byte(`{"alg":"none"}`)) + "." + enc(body) + ".", "algorithm"},
		{"a critical extension", s.sign(t, o.claims(), "crit", "x"), "signature"},
		{"cut short", good[:len(good)-4], "signature"},
		{"another body", strings.Split(good, ".")[0] + "." + enc(changed) + "." + strings.Split(good, ".")[2], "signature"},
		{"not a JWT", "hello", "algorithm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := refused(t, o.guard, c.credential)
			require.Equal(t, http.StatusUnauthorized, bad.Status)
			require.Contains(t, bad.Message, c.why)
			require.Contains(t, bad.Challenge, `error="invalid_token"`)
			require.Contains(t, bad.Challenge, `resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp"`)
			require.NotContains(t, bad.Message+bad.Challenge, c.credential)
		})
	}
	_, err = o.guard.Authenticate(request(good))
	require.NoError(t, err)
}

func TestAForgottenCredentialIsAskedForAndAMissingScopeIsNamed(t *testing.T) {
	o := newOAuth(t, "read")
	s := newSigner(t, "k", jose.EdDSA)
	o.publish(s.public())
	bad := refused(t, o.guard, "")
	require.Equal(t, http.StatusUnauthorized, bad.Status)
	require.Equal(t, `Bearer scope="read", resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp"`, bad.Challenge)

	bad = refused(t, o.guard, s.sign(t, o.claims("scope", "write")))
	require.Equal(t, http.StatusForbidden, bad.Status)
	require.Contains(t, bad.Challenge, `error="insufficient_scope", scope="read"`)
	require.Contains(t, o.guard.ScopeChallenge(nil, []string{"a", "b"}), `error="insufficient_scope", scope="a b", resource_metadata=`)
}

func TestRotatedKeysAreNoticedWithTheFirstTokenAndAFloodOfUnknownOnesIsNot(t *testing.T) {
	o := newOAuth(t)
	first, second := newSigner(t, "1", jose.ES256), newSigner(t, "2", jose.ES256)
	o.publish(first.public())
	_, err := o.guard.Authenticate(request(first.sign(t, o.claims())))
	require.NoError(t, err)
	require.EqualValues(t, 1, o.fetches.Load())

	o.clock.move(11 * time.Second)
	o.publish(first.public(), second.public())
	_, err = o.guard.Authenticate(request(second.sign(t, o.claims())))
	require.NoError(t, err)
	require.EqualValues(t, 2, o.fetches.Load())

	for range 50 {
		refused(t, o.guard, first.sign(t, o.claims(), "kid", crand.Text()))
	}
	require.EqualValues(t, 2, o.fetches.Load(), "within ten seconds the issuer is not asked again")

	// A key that the issuer withdrew stops working once the keys are renewed.
	o.publish(second.public())
	o.clock.move(16 * time.Minute)
	_, err = o.guard.Authenticate(request(second.sign(t, o.claims()))) // starts the renewal
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := o.guard.Authenticate(request(first.sign(t, o.claims("jti", crand.Text()))))
		return err != nil
	}, 10*time.Second, time.Millisecond)
}

func TestAnIssuerThatIsDownCostsNobodyHisSessionForADay(t *testing.T) {
	o := newOAuth(t)
	s := newSigner(t, "k", jose.ES256)
	o.publish(s.public())
	o.breakDown(true)
	bad := refused(t, o.guard, s.sign(t, o.claims()))
	require.Equal(t, http.StatusServiceUnavailable, bad.Status, "nobody can tell yet whether the token is good")
	refused(t, o.guard, s.sign(t, o.claims()))
	require.EqualValues(t, 1, o.fetches.Load())

	o.breakDown(false)
	o.clock.move(11 * time.Second)
	_, err := o.guard.Authenticate(request(s.sign(t, o.claims())))
	require.NoError(t, err)

	o.breakDown(true)
	o.clock.move(23 * time.Hour)
	_, err = o.guard.Authenticate(request(s.sign(t, o.claims())))
	require.NoError(t, err)
	o.clock.move(2 * time.Hour)
	require.Eventually(t, func() bool { // a renewal may still hold the pause
		_, err := o.guard.Authenticate(request(s.sign(t, o.claims())))
		var bad *mcp.AuthError
		return errors.As(err, &bad) && bad.Status == http.StatusServiceUnavailable
	}, 10*time.Second, time.Millisecond)
}

func TestARememberedTokenStillExpires(t *testing.T) {
	o := newOAuth(t)
	s := newSigner(t, "k", jose.ES256)
	o.publish(s.public())
	token := s.sign(t, o.claims("exp", o.clock.in(20*time.Second)))
	_, err := o.guard.Authenticate(request(token))
	require.NoError(t, err)
	o.clock.move(49 * time.Second)
	_, err = o.guard.Authenticate(request(token))
	require.NoError(t, err, "30 s are forgiven")
	o.clock.move(2 * time.Second)
	require.Contains(t, refused(t, o.guard, token).Message, "expired")
}

func TestKeysAreFoundThroughEitherMetadataAndOnlyOfTheRightIssuer(t *testing.T) {
	o := newOAuth(t)
	o.rfc8414 = false
	s := newSigner(t, "k", jose.ES256)
	o.publish(s.public())
	_, err := o.guard.Authenticate(request(s.sign(t, o.claims())))
	require.NoError(t, err)

	// The same server under another name is not the issuer.
	other, err := auth.NewVerifier(auth.VerifierOptions{Issuer: strings.Replace(o.URL, "127.0.0.1", "localhost", 1), Resource: resource, Now: o.clock.now})
	require.NoError(t, err)
	g, err := auth.NewGuard(auth.GuardOptions{Verifier: other})
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, refused(t, g, s.sign(t, o.claims())).Status)
}

func TestWeakAndPrivateKeysAreNotUsed(t *testing.T) {
	o := newOAuth(t)
	s := newSigner(t, "k", jose.ES256)
	o.publish(
		jose.JSONWebKey{Key: s.private, KeyID: "k", Algorithm: "ES256"},
		map[string]string{"kty": "oct", "kid": "k", "k": base64.RawURLEncoding.EncodeToString(make([]byte, 32))},
		jose.JSONWebKey{Key: s.private.Public(), KeyID: "k", Use: "enc"},
		map[string]string{"kty": "RSA", "kid": "k", "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 128)))},
	)
	require.Equal(t, http.StatusServiceUnavailable, refused(t, o.guard, s.sign(t, o.claims())).Status)
}

func TestOptionsThatCannotBeSafeAreRefused(t *testing.T) {
	for name, o := range map[string]auth.VerifierOptions{
		"plain http": {Issuer: "http://id.example.com", Resource: resource},
		"no issuer":  {Resource: resource},
		"no URL":     {Issuer: "id.example.com", Resource: resource},
		"password":   {Issuer: "https://a:b@id.example.com", Resource: resource},
		"JWKS":       {Issuer: "https://id.example.com", Resource: resource, JWKS: "http://id.example.com/keys"},
		"resource":   {Issuer: "https://id.example.com", Resource: "mcp"},
		"scope":      {Issuer: "https://id.example.com", Resource: resource, Scopes: []string{`a"b`}},
	} {
		_, err := auth.NewVerifier(o)
		require.Error(t, err, name)
	}
	_, err := auth.NewGuard(auth.GuardOptions{})
	require.Error(t, err)
}

func TestMetadataTellClientsWhereToGetATokenFrom(t *testing.T) {
	o := newOAuth(t)
	srv := httptest.NewServer(o.verifier.Metadata())
	t.Cleanup(srv.Close)
	for path, want := range map[string]int{
		auth.WellKnown: 200, auth.WellKnown + "/mcp": 200, auth.WellKnown + "/mcp/": 200, auth.WellKnown + "/other": 404, "/": 404,
	} {
		resp, err := http.Get(srv.URL + path)
		require.NoError(t, err)
		require.Equal(t, want, resp.StatusCode, path)
		if want == 200 {
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			require.Equal(t, "*", resp.Header.Get("Access-Control-Allow-Origin"))
			var doc map[string]any
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&doc))
			require.Equal(t, resource, doc["resource"])
			require.Equal(t, []any{o.URL}, doc["authorization_servers"])
			require.Equal(t, []any{"read", "write"}, doc["scopes_supported"])
			require.Equal(t, []any{"header"}, doc["bearer_methods_supported"])
		}
		require.NoError(t, resp.Body.Close())
	}
	resp, err := http.Post(srv.URL+auth.WellKnown, "text/plain", nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}

func TestNoByteOfATokenCanBeChanged(t *testing.T) {
	o := newOAuth(t)
	s := newSigner(t, "k", jose.EdDSA)
	o.publish(s.public())
	good := s.sign(t, o.claims())
	_, err := o.guard.Authenticate(request(good))
	require.NoError(t, err)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/~"
	random := rand.New(rand.NewPCG(1, 2))
	for i := range good {
		bad := []byte(good)
		for bad[i] == good[i] {
			bad[i] = alphabet[random.IntN(len(alphabet))]
		}
		if last := i == len(good)-1 || good[i+1] == '.'; last {
			continue // the last character of a part carries bits that mean nothing
		}
		id, err := o.guard.Authenticate(request(string(bad)))
		require.Error(t, err, "byte %d: %v", i, id)
	}
}

func TestManyRequestsAtOnceFetchTheKeysOnce(t *testing.T) {
	o := newOAuth(t)
	s := newSigner(t, "k", jose.ES256)
	o.publish(s.public())
	var all sync.WaitGroup
	for range 32 {
		token := s.sign(t, o.claims("jti", crand.Text()))
		all.Go(func() {
			_, err := o.guard.Authenticate(request(token))
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, o.fetches.Load())
}

func FuzzAuthenticate(f *testing.F) {
	o := newOAuth(f)
	s := newSigner(f, "k", jose.ES256)
	o.publish(s.public())
	good := s.sign(f, o.claims())
	for _, seed := range []string{good, "", "a.b.c", "..", good + ".", "eyJhbGciOiJub25lIn0.e30.", strings.Repeat(".", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, credential string) {
		req := httptest.NewRequest(http.MethodPost, resource, nil)
		req.Header["Authorization"] = []string{"Bearer " + credential}
		id, err := o.guard.Authenticate(req)
		if err == nil && strings.TrimSpace(credential) != good {
			t.Fatalf("%q is %v", credential, id)
		}
		var bad *mcp.AuthError
		if err != nil && (!errors.As(err, &bad) || strings.ContainsAny(bad.Challenge, "\r\n")) {
			t.Fatalf("%v", err)
		}
	})
}
