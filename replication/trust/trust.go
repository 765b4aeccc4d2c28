// Package trust says who belongs to a cluster: a certificate authority of the cluster's own, one certificate per
// member, and tokens that let a machine ask for one.
//
//	DIR/cluster/ca.crt     the authority; every member
//	DIR/cluster/ca.key     its key, 0600; voters only: any of them can admit members and renew certificates
//	DIR/cluster/node.crt   this member's certificate, a year long, renewed by itself after two thirds of it
//	DIR/cluster/node.key   its key, 0600; made here, never leaves the machine
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
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
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
	Authority *Authority
	Name      string
	leaf      atomic.Pointer[tls.Certificate]
}

// NewIdentity checks that certificate, key and authority belong together.
func NewIdentity(a *Authority, der []byte, key ed25519.PrivateKey) (*Identity, error) {
	id := &Identity{Authority: a}
	return id, id.Renew(der, key)
}

// Renew replaces the certificate; connections made from now on use it.
func (id *Identity) Renew(der []byte, key ed25519.PrivateKey) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: certificate: %w", ErrTrust, err)
	}
	if pub, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return fmt.Errorf("%w: certificate and key do not belong together", ErrTrust)
	}
	if err := cert.CheckSignatureFrom(id.Authority.Cert); err != nil {
		return fmt.Errorf("%w: the certificate is not of this cluster: %w", ErrTrust, err)
	}
	if id.Name != "" && id.Name != cert.Subject.CommonName {
		return fmt.Errorf("%w: the certificate is for %s, this is %s", ErrTrust, cert.Subject.CommonName, id.Name)
	}
	id.Name = cert.Subject.CommonName
	id.leaf.Store(&tls.Certificate{Certificate: [][]byte{der, id.Authority.Cert.Raw}, PrivateKey: key, Leaf: cert})
	return nil
}

// Expires is when the certificate ends; RenewAfter is when it should be replaced.
func (id *Identity) Expires() time.Time { return id.leaf.Load().Leaf.NotAfter }

// RenewAfter is when two thirds of the certificate's time are over.
func (id *Identity) RenewAfter() time.Time {
	l := id.leaf.Load().Leaf
	return l.NotBefore.Add(l.NotAfter.Sub(l.NotBefore) * 2 / 3)
}

func (id *Identity) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(id.Authority.Cert)
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
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.leaf.Load(), nil },
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
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.leaf.Load(), nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			if got := s.PeerCertificates[0].Subject.CommonName; name != "" && got != name {
				return fmt.Errorf("%w: %s answers where %s was expected", ErrTrust, got, name)
			}
			return nil
		},
	}
}

// Save writes the identity into dir (0700), which may not hold another one unless it is the same cluster's.
func (id *Identity) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	leaf := id.leaf.Load()
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		return err
	}
	files := []struct {
		name, kind string
		der        []byte
		mode       os.FileMode
	}{
		{"ca.crt", "CERTIFICATE", id.Authority.Cert.Raw, 0o644},
		{"node.key", "PRIVATE KEY", key, 0o600},
		{"node.crt", "CERTIFICATE", leaf.Leaf.Raw, 0o644},
	}
	if id.Authority.Key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(id.Authority.Key)
		if err != nil {
			return err
		}
		files = append(files, struct {
			name, kind string
			der        []byte
			mode       os.FileMode
		}{"ca.key", "PRIVATE KEY", der, 0o600})
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(dir, f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), f.mode); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}

// writeFile replaces a file durably.
func writeFile(path string, data []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	_ = os.Remove(tmp)
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Load reads what Save wrote.
func Load(dir string) (*Identity, error) {
	ca, err := readPEM(dir, "ca.crt", "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	a := &Authority{}
	if a.Cert, err = x509.ParseCertificate(ca); err != nil {
		return nil, fmt.Errorf("%w: ca.crt: %w", ErrTrust, err)
	}
	if a.Key, err = readKey(dir, "ca.key"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if a.Key != nil && !a.Key.Public().(ed25519.PublicKey).Equal(a.Cert.PublicKey) {
		return nil, fmt.Errorf("%w: %s: ca.key and ca.crt do not belong together", ErrTrust, dir)
	}
	der, err := readPEM(dir, "node.crt", "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	key, err := readKey(dir, "node.key")
	if err != nil {
		return nil, err
	}
	id, err := NewIdentity(a, der, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return id, nil
}

func readPEM(dir, name, kind string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(raw)
	if b == nil || b.Type != kind {
		return nil, fmt.Errorf("%w: %s holds no %s", ErrTrust, filepath.Join(dir, name), kind)
	}
	return b.Bytes, nil
}

func readKey(dir, name string) (ed25519.PrivateKey, error) {
	der, err := readPEM(dir, name, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	return ParseKey(der)
}

// ParseKey reads an Ed25519 key in PKCS 8.
func ParseKey(der []byte) (ed25519.PrivateKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: key: %w", ErrTrust, err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: the key is not Ed25519", ErrTrust)
	}
	return key, nil
}
