package sign

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
)

// PublicKey verifies.
type PublicKey [ed25519.PublicKeySize]byte

// String is the key as files and messages show it.
func (k PublicKey) String() string { return "ed25519 " + hex.EncodeToString(k[:]) }

// MarshalText implements encoding.TextMarshaler.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: ErrInvalid.
func (k *PublicKey) UnmarshalText(b []byte) error {
	kind, digits, ok := strings.Cut(string(b), " ")
	raw, err := hex.DecodeString(digits)
	if !ok || kind != "ed25519" || err != nil || len(raw) != len(k) {
		return fmt.Errorf("%w: a public key is written as ed25519 and 64 hex digits", ErrInvalid)
	}
	copy(k[:], raw)
	return nil
}

// Trust are the public keys whose signatures count.
type Trust []PublicKey

// Has reports whether a key is trusted.
func (t Trust) Has(k PublicKey) bool { return slices.Contains(t, k) }

// maxTrust bounds the keys of a file; a person changes a signing key every year or so.
const maxTrust = 64

// maxFile bounds a key file, in bytes.
const maxFile = 64 << 10

// ParseTrust reads a file of public keys, one a line, each with a note behind it if you like; # begins a comment: ErrInvalid. A file that holds a
// private key is refused: it should not be where only verifying is done.
func ParseTrust(b []byte) (Trust, error) {
	var t Trust
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: a file of public keys of %d bytes", ErrInvalid, len(b))
	}
	if bytes.Contains(b, []byte(keyFormat)) {
		return nil, fmt.Errorf("%w: this is a private key; verifying needs the public one, which `erlmcp backup keys sign-public` prints", ErrInvalid)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return nil, fmt.Errorf("%w: line %d is no public key (ed25519 and 64 hex digits)", ErrInvalid, n)
		}
		var k PublicKey
		if err := k.UnmarshalText([]byte(fields[0] + " " + fields[1])); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if !t.Has(k) {
			t = append(t, k)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(t) == 0 || len(t) > maxTrust {
		return nil, fmt.Errorf("%w: %d public keys, there must be 1 to %d", ErrInvalid, len(t), maxTrust)
	}
	return t, nil
}

// PrivateKey signs. It is a secret: it has no String and must not be logged.
type PrivateKey struct{ seed [ed25519.SeedSize]byte }

// Generate makes a random key.
func Generate(rnd io.Reader) (*PrivateKey, error) {
	p := &PrivateKey{}
	if _, err := io.ReadFull(rnd, p.seed[:]); err != nil {
		return nil, fmt.Errorf("sign: random key: %w", err)
	}
	return p, nil
}

func (p *PrivateKey) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(p.seed[:]) }

// Public is the key that verifies what p signed.
func (p *PrivateKey) Public() PublicKey { return PublicKey(p.key().Public().(ed25519.PublicKey)) }

// MarshalText writes the secret: for handing a key to the server of a directory over its own socket.
func (p *PrivateKey) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(p.seed[:])), nil }

// UnmarshalText reads what MarshalText wrote: ErrInvalid.
func (p *PrivateKey) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(p.seed) {
		return fmt.Errorf("%w: a private key of %d characters", ErrInvalid, len(b))
	}
	copy(p.seed[:], raw)
	return nil
}

const keyFormat = "erlmcp-backup-signing-key"

// keyFile is a private key as it is kept.
type keyFile struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Label   string    `json:"label,omitempty"`
	Public  PublicKey `json:"public"`
	KDF     *keys.KDF `json:"kdf,omitempty"` // of a key with a password
	Salt    string    `json:"salt,omitempty"`
	Nonce   string    `json:"nonce,omitempty"`
	Wrapped string    `json:"wrapped,omitempty"`
	Seed    string    `json:"seed,omitempty"` // of a key without
}

// Encode writes a private key as a file keeps it; with a password, stretched by kdf, encrypted with AES-256-GCM.
func (p *PrivateKey) Encode(password []byte, kdf keys.KDF, label string, now time.Time, rnd io.Reader) ([]byte, error) {
	f := keyFile{Format: keyFormat, Version: 1, Created: now.UTC().Truncate(time.Second), Label: label, Public: p.Public()}
	if password == nil {
		f.Seed = hex.EncodeToString(p.seed[:])
	} else {
		random := make([]byte, 16+12)
		if _, err := io.ReadFull(rnd, random); err != nil {
			return nil, fmt.Errorf("sign: random salt: %w", err)
		}
		f.KDF, f.Salt, f.Nonce = &kdf, hex.EncodeToString(random[:16]), hex.EncodeToString(random[16:])
		a, aad, err := f.cipher(password)
		if err != nil {
			return nil, err
		}
		f.Wrapped = hex.EncodeToString(a.Seal(nil, random[16:], p.seed[:], aad))
	}
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// cipher wraps the seed; everything else in the file is additional data.
func (f keyFile) cipher(password []byte) (cipher.AEAD, []byte, error) {
	salt, err := hex.DecodeString(f.Salt)
	if err != nil || len(salt) != 16 {
		return nil, nil, fmt.Errorf("%w: its salt is damaged", ErrInvalid)
	}
	key, err := f.KDF.Derive(password, salt)
	if err != nil {
		return nil, nil, err
	}
	f.Wrapped = ""
	aad, err := json.Marshal(f)
	if err != nil {
		return nil, nil, fmt.Errorf("sign: encode: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign: cipher: %w", err)
	}
	a, err := cipher.NewGCM(block)
	return a, append([]byte("erlmcp backup signing key v1\n"), aad...), err
}

// IsEncrypted reports whether a private key needs a password.
func IsEncrypted(file []byte) bool {
	var f keyFile
	return json.Unmarshal(file, &f) == nil && f.KDF != nil
}

// PublicOf is the public half of a private key file, which needs no password: ErrInvalid.
func PublicOf(file []byte) (PublicKey, error) {
	var f keyFile
	if len(file) > maxFile || json.Unmarshal(file, &f) != nil || f.Format != keyFormat || f.Public == (PublicKey{}) {
		return PublicKey{}, fmt.Errorf("%w: the file holds no private key; `erlmcp backup keys sign-generate` makes one", ErrInvalid)
	}
	return f.Public, nil
}

// Parse reads a private key: ErrInvalid, ErrPassword.
func Parse(file, password []byte) (*PrivateKey, error) {
	var f keyFile
	if len(file) > maxFile || json.Unmarshal(file, &f) != nil || f.Format != keyFormat {
		return nil, fmt.Errorf("%w: the file holds no private key; `erlmcp backup keys sign-generate` makes one", ErrInvalid)
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("%w: version %d is newer than this program", ErrInvalid, f.Version)
	}
	seed, err := hex.DecodeString(f.Seed)
	if f.KDF != nil {
		if len(password) == 0 {
			return nil, fmt.Errorf("%w: it has one, and none was given", ErrPassword)
		}
		seed, err = f.unwrap(password)
	}
	if err != nil {
		return nil, err
	}
	p := &PrivateKey{}
	if copy(p.seed[:], seed); len(seed) != len(p.seed) || p.Public() != f.Public {
		return nil, fmt.Errorf("%w: the file is damaged, its two halves do not fit", ErrInvalid)
	}
	return p, nil
}

func (f keyFile) unwrap(password []byte) ([]byte, error) {
	nonce, err1 := hex.DecodeString(f.Nonce)
	wrapped, err2 := hex.DecodeString(f.Wrapped)
	if err1 != nil || err2 != nil || len(nonce) != 12 {
		return nil, fmt.Errorf("%w: the file is damaged", ErrInvalid)
	}
	a, aad, err := f.cipher(password)
	switch {
	case errors.Is(err, keys.ErrInvalid) && f.KDF.Check() == nil:
		return nil, ErrPassword // too short to be one
	case err != nil:
		return nil, err
	}
	seed, err := a.Open(nil, nonce, wrapped, aad)
	if err != nil {
		return nil, ErrPassword
	}
	return seed, nil
}
