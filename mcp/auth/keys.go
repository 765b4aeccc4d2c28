package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	keysMaxAge   = 15 * time.Minute // keys older than this are fetched again
	keysMaxStale = 24 * time.Hour   // and used no longer than this when that fails
	keysPause    = 10 * time.Second // between two fetches that unknown key ids or failures cause
	fetchTimeout = 5 * time.Second
	maxDocument  = 1 << 20 // bytes of a JWKS or of metadata
	maxKeys      = 100
	minRSABits   = 2048
)

// issuerKeys are the signing keys of one issuer. Tokens with an unknown key id
// make it look for new ones, at most once per keysPause: rotation is noticed
// with the first token signed by the new key, and a flood of invented key ids
// reaches the issuer as one request in ten seconds.
type issuerKeys struct {
	issuer  string
	client  *http.Client
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[keySet]
	renewal atomic.Bool // a renewal of keys that still serve is under way

	mu     sync.Mutex // one fetch at a time
	fixed  string     // URL of the keys; empty: discovered
	jwks   string     // the discovered one
	tried  time.Time  // last fetch
	lastly error      // its failure
}

type keySet struct {
	keys    []jose.JSONWebKey
	fetched time.Time
}

// find returns the keys that may have signed a token with the given key id
// (may be empty) and algorithm. The error is an *unavailableError when that
// cannot be told.
func (k *issuerKeys) find(ctx context.Context, id, algorithm string) ([]jose.JSONWebKey, error) {
	set := k.current.Load()
	if set != nil {
		found, age := set.find(id, algorithm), k.now().Sub(set.fetched)
		if age >= keysMaxAge && age < keysMaxStale && k.renewal.CompareAndSwap(false, true) {
			go func() { // nobody waits for an issuer that is slow today
				defer k.renewal.Store(false)
				_, _ = k.refresh(context.WithoutCancel(ctx), set) // it logs
			}()
		}
		if len(found) > 0 && age < keysMaxStale {
			return found, nil
		}
	}
	set, err := k.refresh(ctx, set)
	if set == nil || k.now().Sub(set.fetched) >= keysMaxStale {
		k.log.Error("the keys of the token issuer cannot be fetched; nobody gets in with its tokens", "issuer", k.issuer, "error", err)
		return nil, &unavailableError{"the keys of the token issuer cannot be fetched now"}
	}
	return set.find(id, algorithm), nil
}

// refresh fetches the keys unless somebody did so since seen was current, or
// just now in vain. It returns what is current then.
func (k *issuerKeys) refresh(ctx context.Context, seen *keySet) (*keySet, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if set := k.current.Load(); set != seen {
		return set, nil
	}
	if now := k.now(); !k.tried.IsZero() && now.Sub(k.tried) < keysPause {
		return seen, k.lastly
	}
	// The fetch serves everybody who waits: it must not end with the request
	// that happened to start it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	k.tried = k.now()
	keys, err := k.fetch(ctx)
	if k.lastly = err; err != nil {
		k.jwks = "" // it may have moved
		k.log.Warn("keys of the token issuer not fetched", "issuer", k.issuer, "error", err)
		return seen, err
	}
	set := &keySet{keys: keys, fetched: k.tried}
	k.current.Store(set)
	k.log.Debug("keys of the token issuer fetched", "issuer", k.issuer, "keys", len(keys))
	return set, nil
}

func (k *issuerKeys) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	if k.jwks == "" {
		k.jwks = k.fixed
	}
	if k.jwks == "" {
		found, err := k.discover(ctx)
		if err != nil {
			return nil, err
		}
		k.jwks = found
	}
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, k.jwks, &doc); err != nil {
		return nil, err
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("%s has %d keys, more than %d", k.jwks, len(doc.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range doc.Keys {
		var key jose.JSONWebKey
		// A key of a kind unknown here must not hide the others.
		if json.Unmarshal(raw, &key) == nil && usable(&key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s has no key that can check signatures (RSA of %d bits, P-256, P-384, P-521 or Ed25519)", k.jwks, minRSABits)
	}
	return keys, nil
}

// usable admits public signature keys of sufficient strength.
func usable(key *jose.JSONWebKey) bool {
	if !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
		return false
	}
	switch public := key.Key.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

func (s *keySet) find(id, algorithm string) []jose.JSONWebKey {
	var found []jose.JSONWebKey
	for _, key := range s.keys {
		if (id == "" || key.KeyID == id) && (key.Algorithm == "" || key.Algorithm == algorithm) && fits(key.Key, algorithm) {
			found = append(found, key)
		}
	}
	return found
}

// fits reports whether a key is of the kind that an algorithm uses.
func fits(key any, algorithm string) bool {
	switch public := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return algorithm == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[public.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// discover finds the address of the keys in the issuer's metadata: RFC 8414,
// or else OpenID Connect Discovery.
func (k *issuerKeys) discover(ctx context.Context) (string, error) {
	u, err := url.Parse(k.issuer)
	if err != nil {
		return "", err
	}
	path := strings.TrimSuffix(u.Path, "/")
	at := func(p string) string {
		c := *u
		c.Path, c.RawPath = p, ""
		return c.String()
	}
	var problems []error
	for _, address := range slices.Compact([]string{
		at("/.well-known/oauth-authorization-server" + path),
		at("/.well-known/openid-configuration" + path),
		at(path + "/.well-known/openid-configuration"),
	}) {
		var doc struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		err := k.get(ctx, address, &doc)
		switch {
		case err != nil:
		case doc.Issuer != k.issuer:
			err = fmt.Errorf("%s is of the issuer %q", address, doc.Issuer)
		case doc.JWKS == "":
			err = fmt.Errorf("%s has no jwks_uri", address)
		default:
			if err = checkURL(doc.JWKS); err == nil {
				return doc.JWKS, nil
			}
		}
		problems = append(problems, err)
	}
	return "", fmt.Errorf("no metadata of the issuer found: %w", errors.Join(problems...))
}

// get reads one JSON document.
func (k *issuerKeys) get(ctx context.Context, address string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", address, resp.Status)
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); strings.HasPrefix(kind, "text/html") {
		return fmt.Errorf("%s answered with a web page", address)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	if len(data) > maxDocument {
		return fmt.Errorf("%s is longer than %d bytes", address, maxDocument)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	return nil
}

// newClient follows redirects only to addresses that could have been
// configured: a key that came over plain HTTP proves nothing.
func newClient(base *http.Client) *http.Client {
	if base == nil {
		base = &http.Client{}
	}
	c := *base
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) >= 5 {
			return errors.New("too many redirects")
		}
		return checkURL(req.URL.String())
	}
	return &c
}

// checkURL accepts https, and http on loopback.
func checkURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%q is not a URL such as https://id.example.com", address)
	}
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%q: https is needed (http only on loopback)", address)
}
