package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
)

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ns.Store(day.UnixNano())
	return c
}

func (c *clock) now() time.Time         { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) move(by time.Duration)  { c.ns.Add(int64(by)) }
func (c *clock) in(d time.Duration) any { return c.now().Add(d).Unix() }

// issuer is an authorization server as far as a resource server sees it.
type issuer struct {
	*httptest.Server
	fetches atomic.Int64 // of the keys

	mu      sync.Mutex
	keys    []any
	broken  bool
	rfc8414 bool
}

func newIssuer(t testing.TB) *issuer {
	i := &issuer{rfc8414: true}
	mux := http.NewServeMux()
	document := func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
	}
	mux.HandleFunc("/.well-known/oauth-authorization-server", func(w http.ResponseWriter, req *http.Request) {
		if !i.rfc8414 {
			http.NotFound(w, req)
			return
		}
		document(w, req)
	})
	mux.HandleFunc("/.well-known/openid-configuration", document)
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.broken {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": i.keys})
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// publish replaces the keys.
func (i *issuer) publish(keys ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

func (i *issuer) breakDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.broken = down
}

// signer signs tokens with one key.
type signer struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

func newSigner(t testing.TB, id string, algorithm jose.SignatureAlgorithm) *signer {
	s := &signer{id: id, algorithm: algorithm}
	var err error
	switch algorithm {
	case jose.RS256, jose.PS256:
		s.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		s.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, s.private, err = ed25519.GenerateKey(rand.Reader)
	}
	require.NoError(t, err)
	return s
}

func (s *signer) public() any {
	return jose.JSONWebKey{Key: s.private.Public(), KeyID: s.id, Algorithm: string(s.algorithm), Use: "sig"}
}

// sign makes a token; header adds to or replaces typ and kid.
func (s *signer) sign(t testing.TB, claims map[string]any, header ...string) string {
	o := (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", s.id)
	for i := 0; i < len(header); i += 2 {
		o = o.WithHeader(jose.HeaderKey(header[i]), header[i+1])
	}
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.private}, o)
	require.NoError(t, err)
	token, err := jwt.Signed(js).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}
