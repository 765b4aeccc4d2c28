package trust

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
)

func verifyOptions(id *Identity) x509.VerifyOptions {
	return x509.VerifyOptions{Roots: id.pool(), DNSName: serverName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}

// KeyDER is the authority's key in PKCS 8.
func (a *Authority) KeyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(a.Key) }

// ParseAuthority reads a certificate, and its key if key is not empty.
func ParseAuthority(cert, key []byte) (*Authority, error) {
	a := new(Authority)
	var err error
	if a.Cert, err = x509.ParseCertificate(cert); err != nil {
		return nil, fmt.Errorf("%w: the authority's certificate: %w", ErrTrust, err)
	}
	if len(key) == 0 {
		return a, nil
	}
	if a.Key, err = ParseKey(key); err != nil {
		return nil, err
	}
	if !a.Key.Public().(ed25519.PublicKey).Equal(a.Cert.PublicKey) {
		return nil, fmt.Errorf("%w: the authority's key and certificate do not belong together", ErrTrust)
	}
	return a, nil
}

// ErrStranger: the other side shows a certificate that is of no authority this member trusts, or has expired.
var ErrStranger = errors.New("trust: not a member as this one knows them")

// Explain adds to a failed handshake what to do about it.
func Explain(address string, err error) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	const how = "stop the member that was away, get a token on one that works (erlmcp cluster token) and run: erlmcp cluster ca accept --data DIR TOKEN"
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: %s shows a certificate of another authority; if one of the two was away while the cluster's authority was rotated, %s (%w)",
			ErrStranger, address, how, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: the certificate of %s has expired, or a clock is wrong; if it was away for so long, %s (%w)", ErrStranger, address, how, err)
	}
	return err
}
