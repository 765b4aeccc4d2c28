package sign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
)

// Sentinel errors; test with errors.Is.
var (
	// ErrForged: the signature is not one of the named key over this object.
	ErrForged = errors.New("sign: the signature is wrong")
	// ErrInvalid: a key file that is none, or a key outside its form.
	ErrInvalid = errors.New("sign: invalid signing key")
	// ErrPassword: the private key is encrypted, and the password does not open it, or none was given.
	ErrPassword = errors.New("sign: wrong password for the signing key")
)

// SaltSize is the length of the salt, in bytes.
const SaltSize = 32

const (
	domain    = "erlmcp backup signature v1\n"
	before    = `"signature":"`
	after     = `"}`
	textBytes = 2 * (ed25519.PublicKeySize + 32 + ed25519.SignatureSize)
)

// Subject is the object that a signature is about.
type Subject struct {
	Kind   byte
	Repo   [16]byte
	Object [16]byte
}

// Signature is what stands in a clear section.
type Signature struct {
	Key        PublicKey // that it claims to be of
	Commitment [32]byte  // to the frames
	signature  [ed25519.SignatureSize]byte
}

// message is what is signed.
func (s Subject) message(clear []byte, commitment [32]byte) []byte {
	sum := blake3.Sum256(clear)
	b := append(make([]byte, 0, len(domain)+1+16+16+32+32), domain...)
	b = append(b, s.Kind)
	b = append(b, s.Repo[:]...)
	b = append(b, s.Object[:]...)
	b = append(b, sum[:]...)
	return append(b, commitment[:]...)
}

// Commit binds the frames of an object without betraying them to whoever does not know the salt, of SaltSize bytes.
func Commit(salt []byte, frames ...[]byte) ([32]byte, error) {
	c, err := NewCommitment(salt)
	if err != nil {
		return [32]byte{}, err
	}
	for _, f := range frames {
		c.Add(f)
	}
	return c.Sum(), nil
}

// Commitment is a Commit that is given one frame after the other.
type Commitment struct{ h *blake3.Hasher }

// NewCommitment begins one: ErrForged for a salt that is none.
func NewCommitment(salt []byte) (*Commitment, error) {
	if len(salt) != SaltSize {
		return nil, fmt.Errorf("%w: a salt of %d bytes", ErrForged, len(salt))
	}
	h, err := blake3.NewKeyed(salt)
	if err != nil {
		return nil, fmt.Errorf("sign: commitment: %w", err)
	}
	return &Commitment{h}, nil
}

// Add takes the next frame.
func (c *Commitment) Add(frame []byte) {
	_, _ = c.h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(frame))))
	_, _ = c.h.Write(frame)
}

// Sum is the commitment to what was added.
func (c *Commitment) Sum() (out [32]byte) {
	c.h.Sum(out[:0])
	return out
}

// Attach signs an object and returns its clear section with the signature in it, and the salt. clear is a JSON object; an empty clear section
// stands for one without members.
func (p *PrivateKey) Attach(s Subject, clear []byte, rnd io.Reader, frames ...[]byte) (signed, salt []byte, err error) {
	if len(clear) == 0 {
		clear = []byte("{}")
	}
	salt = make([]byte, SaltSize)
	if _, err := io.ReadFull(rnd, salt); err != nil {
		return nil, nil, fmt.Errorf("sign: random salt: %w", err)
	}
	commitment, err := Commit(salt, frames...)
	if err != nil {
		return nil, nil, err
	}
	key := p.Public()
	text := append(append(key[:], commitment[:]...), ed25519.Sign(p.key(), s.message(clear, commitment))...)
	signed = append(make([]byte, 0, len(clear)+len(before)+textBytes+len(after)), clear[:len(clear)-1]...)
	if len(clear) > 2 {
		signed = append(signed, ',')
	}
	signed = append(signed, before...)
	signed = hex.AppendEncode(signed, text)
	return append(signed, after...), salt, nil
}

// Detach takes the signature out of a clear section and returns what it is about. Without one, or with something in its place that no
// signer writes, the section is returned as it is.
func Detach(clear []byte) (bare []byte, sig *Signature) {
	at := len(clear) - len(after) - textBytes - len(before)
	if at < 1 || !bytes.HasPrefix(clear[at:], []byte(before)) || !bytes.HasSuffix(clear, []byte(after)) {
		return clear, nil
	}
	text := clear[at+len(before) : len(clear)-len(after)]
	raw := make([]byte, textBytes/2)
	if _, err := hex.Decode(raw, text); err != nil || !bytes.Equal(hex.AppendEncode(nil, raw), text) {
		return clear, nil
	}
	sig = &Signature{}
	copy(sig.Key[:], raw)
	copy(sig.Commitment[:], raw[32:])
	copy(sig.signature[:], raw[64:])
	switch {
	case at == 1 && clear[0] == '{':
		return []byte("{}"), sig
	case clear[at-1] != ',':
		return clear, nil
	}
	return append(bytes.Clone(clear[:at-1]), '}'), sig
}

// Verify checks that the named key signed this object with this clear section (as Detach returns it): ErrForged. That the frames are those of the
// commitment is another question, which needs them.
func (s *Signature) Verify(about Subject, bare []byte) error {
	if !ed25519.Verify(s.Key[:], about.message(bare, s.Commitment), s.signature[:]) {
		return fmt.Errorf("%w: key %s", ErrForged, s.Key)
	}
	return nil
}
