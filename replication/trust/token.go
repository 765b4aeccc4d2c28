package trust

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Token lets a machine become a member. It is signed with a key that follows from the authority's, so that every voter
// can make and check it; how often it was used is counted in the replicated store.
type Token struct {
	Cluster   string    `json:"c"` // ClusterID: what the joining machine recognises the cluster by
	Addresses []string  `json:"a"`
	Expires   time.Time `json:"e"`
	Voter     bool      `json:"v"`
	Nonce     string    `json:"n"`
	Uses      int       `json:"u"` // 0: any number until it expires
}

const tokenPrefix = "erlmcp1."

func (a *Authority) tokenKey() ([]byte, error) {
	if a.Key == nil {
		return nil, fmt.Errorf("%w: this member does not hold the authority's key (only voters do): ask another one", ErrTrust)
	}
	return hkdf.Key(sha256.New, a.Key.Seed(), nil, "erlmcp join token 1", 32)
}

// NewToken signs a token.
func (a *Authority) NewToken(t Token) (string, error) {
	key, err := a.tokenKey()
	if err != nil {
		return "", err
	}
	var nonce [9]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return "", err
	}
	t.Cluster, t.Nonce, t.Expires = a.ClusterID(), base64.RawURLEncoding.EncodeToString(nonce[:]), t.Expires.UTC().Truncate(time.Second)
	body, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	e := base64.RawURLEncoding
	return tokenPrefix + e.EncodeToString(body) + "." + e.EncodeToString(mac.Sum(nil)), nil
}

// ReadToken decodes a token without checking its signature: what a joining machine can know.
func ReadToken(s string) (t Token, err error) {
	_, _, t, err = splitToken(s)
	return t, err
}

func splitToken(s string) (body, mac []byte, t Token, err error) {
	bad := fmt.Errorf("%w: this is not a join token (`erlmcp cluster token` on a voter prints one)", ErrTrust)
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	b, m, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(s) > 8192 {
		return nil, nil, t, bad
	}
	if body, err = base64.RawURLEncoding.DecodeString(b); err != nil {
		return nil, nil, t, bad
	}
	if mac, err = base64.RawURLEncoding.DecodeString(m); err != nil {
		return nil, nil, t, bad
	}
	if json.Unmarshal(body, &t) != nil || t.Cluster == "" || t.Nonce == "" {
		return nil, nil, t, bad
	}
	return body, mac, t, nil
}

// CheckToken accepts a token that this cluster signed and that has not expired.
func (a *Authority) CheckToken(s string, now time.Time) (Token, error) {
	body, mac, t, err := splitToken(s)
	if err != nil {
		return t, err
	}
	key, err := a.tokenKey()
	if err != nil {
		return t, err
	}
	h := hmac.New(sha256.New, key)
	h.Write(body)
	switch {
	case !hmac.Equal(mac, h.Sum(nil)):
		return t, fmt.Errorf("%w: the join token was not made by this cluster", ErrTrust)
	case now.After(t.Expires):
		return t, fmt.Errorf("%w: the join token expired at %s", ErrTrust, t.Expires.Format(time.RFC3339))
	}
	return t, nil
}

// Joining is the TLS configuration of a machine that has a token and no certificate yet: it talks to the cluster of the
// token and to nobody else.
func (t Token) Joining(protocol string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, ServerName: serverName,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, against the fingerprint in the token
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) < 2 {
				return fmt.Errorf("%w: the other side shows no authority", ErrTrust)
			}
			a := &Authority{Cert: s.PeerCertificates[1]}
			if a.ClusterID() != t.Cluster {
				return fmt.Errorf("%w: the other side belongs to cluster %s, the token to %s", ErrTrust, a.ClusterID(), t.Cluster)
			}
			id := new(Identity)
			id.now.Store(&standing{trusted: []*Authority{a}})
			_, err := s.PeerCertificates[0].Verify(verifyOptions(id))
			return err
		},
	}
}
