package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// pendingFile holds all files of an identity while they are replaced, as JSON from name to content.
const pendingFile = "pending"

// modes are the files of an identity.
var modes = map[string]os.FileMode{"ca.crt": 0o644, "ca.key": 0o600, "node.crt": 0o644, "node.key": 0o600}

const (
	blockCert = "CERTIFICATE"
	blockKey  = "PRIVATE KEY"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Save writes the identity into dir (0700). A crash leaves the files of before or those of now, and nothing between.
func (id *Identity) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	st := id.now.Load()
	key, err := x509.MarshalPKCS8PrivateKey(st.leaf.PrivateKey)
	if err != nil {
		return err
	}
	files := map[string][]byte{"node.key": block(blockKey, key), "node.crt": block(blockCert, st.leaf.Leaf.Raw)}
	for _, a := range st.trusted {
		files["ca.crt"] = append(files["ca.crt"], block(blockCert, a.Cert.Raw)...)
		if a.Key == nil {
			continue
		}
		der, err := a.KeyDER()
		if err != nil {
			return err
		}
		files["ca.key"] = append(files["ca.key"], block(blockKey, der)...)
	}
	raw, err := json.Marshal(files)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, pendingFile), raw, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", pendingFile, err)
	}
	return finish(dir, files)
}

// finish writes the files that are pending.
func finish(dir string, files map[string][]byte) error {
	for name, data := range files {
		if modes[name] == 0 {
			return fmt.Errorf("%w: %s names a file %q", ErrTrust, filepath.Join(dir, pendingFile), name)
		}
		if err := writeFile(filepath.Join(dir, name), data, modes[name]); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if files["ca.key"] == nil {
		if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, pendingFile)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Load reads what Save wrote, and finishes what a crash left of it.
func Load(dir string) (*Identity, error) {
	raw, err := os.ReadFile(filepath.Join(dir, pendingFile))
	if err == nil {
		var files map[string][]byte
		if err := json.Unmarshal(raw, &files); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrTrust, filepath.Join(dir, pendingFile), err)
		}
		err = finish(dir, files)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	trusted, err := readAuthorities(dir)
	if err != nil {
		return nil, err
	}
	der, err := readPEM(dir, "node.crt", blockCert)
	if err != nil {
		return nil, err
	}
	keys, err := readKeys(dir, "node.key")
	if err != nil {
		return nil, err
	}
	id, err := NewIdentity(trusted[0], der[0], keys[0], trusted[1:]...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return id, nil
}

// readAuthorities reads ca.crt, and the keys in ca.key to the certificates they belong to.
func readAuthorities(dir string) (list []*Authority, err error) {
	ders, err := readPEM(dir, "ca.crt", blockCert)
	if err != nil {
		return nil, err
	}
	keys, err := readKeys(dir, "ca.key")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, der := range ders {
		a := new(Authority)
		if a.Cert, err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("%w: ca.crt: %w", ErrTrust, err)
		}
		for i, key := range keys {
			if key.Public().(ed25519.PublicKey).Equal(a.Cert.PublicKey) {
				a.Key = key
				keys = append(keys[:i:i], keys[i+1:]...)
				break
			}
		}
		list = append(list, a)
	}
	if len(keys) > 0 {
		return nil, fmt.Errorf("%w: %s: ca.key and ca.crt do not belong together", ErrTrust, dir)
	}
	return list, nil
}

// readPEM reads one block or more, all of a kind.
func readPEM(dir, name, kind string) (ders [][]byte, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	for len(bytes.TrimSpace(raw)) > 0 {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil || b.Type != kind {
			return nil, fmt.Errorf("%w: %s holds no %s", ErrTrust, filepath.Join(dir, name), kind)
		}
		ders = append(ders, b.Bytes)
	}
	if len(ders) == 0 {
		return nil, fmt.Errorf("%w: %s holds no %s", ErrTrust, filepath.Join(dir, name), kind)
	}
	return ders, nil
}

func readKeys(dir, name string) (keys []ed25519.PrivateKey, err error) {
	ders, err := readPEM(dir, name, blockKey)
	if err != nil {
		return nil, err
	}
	for _, der := range ders {
		key, err := ParseKey(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
		keys = append(keys, key)
	}
	return keys, nil
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
