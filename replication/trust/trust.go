// Package trust says who belongs to a cluster: a certificate authority of the cluster's own, one certificate per
// member, and tokens that let a machine ask for one.
//
//	DIR/cluster/ca.crt     the authority; every member. While it is replaced, both: the one that issues first
//	DIR/cluster/ca.key     its key, 0600; voters only: any of them can admit members and renew certificates
//	DIR/cluster/node.crt   this member's certificate, a year long, renewed by itself after two thirds of it
//	DIR/cluster/node.key   its key, 0600; made here, never leaves the machine
//	DIR/cluster/pending    the four files while they are replaced: they change together or not at all
//
// All keys are Ed25519, all connections TLS 1.3 with certificates on both sides. Whoever holds ca.key can make members:
// it is as worth protecting as the data. Nothing here depends on a name service: certificates are checked against the
// authority and carry the member's name and the cluster's id; addresses are not in them.
package trust

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrTrust: a certificate, key or token is not acceptable. The message says why.
var ErrTrust = errors.New("trust")

const (
	// serverName is in every certificate; members are told apart by their common name.
	serverName = "member.cluster.erlmcp.internal"
	validity   = 365 * 24 * time.Hour
	// early makes up for clocks that differ between members.
	early = 24 * time.Hour
)

// nodeName is what a member may be called: it stands in certificates, keys of rows and file names.
var nodeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// CheckName refuses names that cannot be used for a member.
func CheckName(name string) error {
	if !nodeName.MatchString(name) {
		return fmt.Errorf("%w: %q is no name for a member: 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", ErrTrust, name)
	}
	return nil
}

// Authority can be one with its key (Key not nil) or only its certificate.
type Authority struct {
	Cert *x509.Certificate
	Key  ed25519.PrivateKey
}

// ClusterID identifies the cluster: the fingerprint of the authority's key.
func (a *Authority) ClusterID() string {
	sum := sha256.Sum256(a.Cert.RawSubjectPublicKeyInfo)
	return fmt.Sprintf("%x", sum[:8])
}

// NewAuthority makes a new one.
func NewAuthority(now time.Time) (*Authority, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return authority(key, now.Add(-early), now.AddDate(100, 0, 0))
}

// FromSecret makes the authority that belongs to a secret: members that share the secret need no token. secret must have
// at least 32 bytes.
func FromSecret(secret []byte) (*Authority, error) {
	if len(secret) < 32 {
		return nil, fmt.Errorf("%w: the cluster secret has %d bytes, at least 32 are needed (`openssl rand -hex 32` makes one)", ErrTrust, len(secret))
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "erlmcp cluster authority 1", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	from := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC) // fixed, so that all members make the same certificate
	return authority(ed25519.NewKeyFromSeed(seed), from, from.AddDate(200, 0, 0))
}

func authority(key ed25519.PrivateKey, from, to time.Time) (*Authority, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "erlmcp cluster"},
		NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{Cert: cert, Key: key}, nil
}

// Request makes a key and the request for its certificate.
func Request(name string) (key ed25519.PrivateKey, csr []byte, err error) {
	if err := CheckName(name); err != nil {
		return nil, nil, err
	}
	if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, nil, err
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	return key, csr, err
}

// Issue signs a request. The name in it must be the wanted one.
func (a *Authority) Issue(csr []byte, name string, now time.Time) ([]byte, error) {
	if a.Key == nil {
		return nil, fmt.Errorf("%w: this member does not hold the authority's key (only voters do)", ErrTrust)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate request: %w", ErrTrust, err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: certificate request: %w", ErrTrust, err)
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if req.Subject.CommonName != name {
		return nil, fmt.Errorf("%w: the request is for %q, not for %q", ErrTrust, req.Subject.CommonName, name)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{a.ClusterID()}},
		DNSNames: []string{serverName}, NotBefore: now.Add(-early), NotAfter: now.Add(validity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.Cert, req.PublicKey, a.Key)
}

// Identity is a member's certificate and what it checks others with. Safe for concurrent use.
type Identity struct {
	Name string
	now  atomic.Pointer[standing]
	mu   sync.Mutex // held while now is replaced, and while files are written
}

// standing is what an identity is at one time.
type standing struct {
	leaf    *tls.Certificate
	trusted []*Authority // whose certificates are accepted, the one that issues first
}

// NewIdentity checks that certificate, key and authority belong together. Members with certificates of the other authorities
// are trusted too.
func NewIdentity(a *Authority, der []byte, key ed25519.PrivateKey, others ...*Authority) (*Identity, error) {
	id := new(Identity)
	id.now.Store(&standing{trusted: append([]*Authority{a}, others...)})
	return id, id.Renew(der, key)
}

// Authority is the one that issues.
func (id *Identity) Authority() *Authority { return id.now.Load().trusted[0] }

// Trusted are all authorities whose certificates are accepted, the one that issues first.
func (id *Identity) Trusted() []*Authority { return slices.Clone(id.now.Load().trusted) }

// Issuer is the authority that this member's own certificate is of.
func (id *Identity) Issuer() *Authority {
	st := id.now.Load()
	for _, a := range st.trusted {
		if st.leaf.Leaf.CheckSignatureFrom(a.Cert) == nil {
			return a
		}
	}
	return st.trusted[0] // Renew saw to it
}

// Trust replaces the authorities; the first one issues from now on. The member's own certificate must be of one of them.
func (id *Identity) Trust(list ...*Authority) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	st := id.now.Load()
	for _, a := range list {
		if st.leaf.Leaf.CheckSignatureFrom(a.Cert) == nil {
			id.now.Store(&standing{leaf: st.leaf, trusted: list})
			return nil
		}
	}
	return fmt.Errorf("%w: this member's certificate is of an authority that would not be trusted any more", ErrTrust)
}

// Renew replaces the certificate; connections made from now on use it.
func (id *Identity) Renew(der []byte, key ed25519.PrivateKey) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	st := id.now.Load()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: certificate: %w", ErrTrust, err)
	}
	if pub, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return fmt.Errorf("%w: certificate and key do not belong together", ErrTrust)
	}
	var issuer *Authority
	for _, a := range st.trusted {
		if err = cert.CheckSignatureFrom(a.Cert); err == nil {
			issuer = a
			break
		}
	}
	if issuer == nil {
		return fmt.Errorf("%w: the certificate is not of this cluster: %w", ErrTrust, err)
	}
	if id.Name != "" && id.Name != cert.Subject.CommonName {
		return fmt.Errorf("%w: the certificate is for %s, this is %s", ErrTrust, cert.Subject.CommonName, id.Name)
	}
	id.Name = cert.Subject.CommonName
	leaf := &tls.Certificate{Certificate: [][]byte{der, issuer.Cert.Raw}, PrivateKey: key, Leaf: cert}
	id.now.Store(&standing{leaf: leaf, trusted: st.trusted})
	return nil
}

// Expires is when the certificate ends; RenewAfter is when it should be replaced.
func (id *Identity) Expires() time.Time { return id.now.Load().leaf.Leaf.NotAfter }

// RenewAfter is when two thirds of the certificate's time are over.
func (id *Identity) RenewAfter() time.Time {
	l := id.now.Load().leaf.Leaf
	return l.NotBefore.Add(l.NotAfter.Sub(l.NotBefore) * 2 / 3)
}

func (id *Identity) pool() *x509.CertPool {
	p := x509.NewCertPool()
	for _, a := range id.now.Load().trusted {
		p.AddCert(a.Cert)
	}
	return p
}

// Server is the TLS configuration of a port that speaks the given protocols. Members prove who they are, except for the
// protocols in open.
func (id *Identity) Server(protocols, open []string) *tls.Config {
	isOpen := map[string]bool{}
	for _, p := range open {
		isOpen[p] = true
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: append(append([]string{}, protocols...), open...),
		ClientCAs: id.pool(), ClientAuth: tls.VerifyClientCertIfGiven,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.now.Load().leaf, nil },
		SessionTicketsDisabled: true, // a resumed session would outlive its certificate
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol == "" {
				return fmt.Errorf("%w: the other side speaks none of the cluster's protocols", ErrTrust)
			}
			if len(s.VerifiedChains) == 0 && !isOpen[s.NegotiatedProtocol] {
				return fmt.Errorf("%w: a member of the cluster has to show its certificate", ErrTrust)
			}
			return nil
		},
	}
}

// Client is the TLS configuration for calling another member; name: who it must be, empty: any member.
func (id *Identity) Client(protocol, name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, RootCAs: id.pool(), ServerName: serverName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.now.Load().leaf, nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			if got := s.PeerCertificates[0].Subject.CommonName; name != "" && got != name {
				return fmt.Errorf("%w: %s answers where %s was expected", ErrTrust, got, name)
			}
			return nil
		},
	}
}
