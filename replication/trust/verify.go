package trust

import "crypto/x509"

func verifyOptions(id *Identity) x509.VerifyOptions {
	return x509.VerifyOptions{Roots: id.pool(), DNSName: serverName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}

// KeyDER is the authority's key in PKCS 8.
func (a *Authority) KeyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(a.Key) }
