package engine

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
)

// At-rest encryption of row values: XAES-256-GCM (C2SP), that is AES-256-GCM under a key derived per value from a random
// 192-bit nonce. Random 96-bit nonces under one key would be used up by an engine that writes 10^5 rows a second;
// 192 bits never are, across restores and replicas that share the key.

const (
	sealNonce    = 24
	sealOverhead = sealNonce + 16

	hkdfValues = "erlmcp engine values v1"
	hkdfCheck  = "erlmcp engine key check v1"
)

// sealer encrypts row values; a nil *sealer leaves them plain. Safe for concurrent use if rand is.
type sealer struct {
	block cipher.Block
	k1    [16]byte
	rand  io.Reader
}

// newSealer derives the value key from the user's key.
func newSealer(key []byte, rnd io.Reader) (*sealer, error) {
	k, err := hkdf.Key(sha256.New, key, nil, hkdfValues, 32)
	if err != nil {
		return nil, fmt.Errorf("engine: derive value key: %w", err)
	}
	return newXAES(k, rnd)
}

func newXAES(key []byte, rnd io.Reader) (*sealer, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("engine: value cipher: %w", err)
	}
	s := &sealer{block: b, rand: rnd}
	b.Encrypt(s.k1[:], s.k1[:])
	// Doubling in GF(2^128), as CMAC derives its first subkey.
	var carry byte
	msb := s.k1[0] >> 7
	for i := len(s.k1) - 1; i >= 0; i-- {
		next := s.k1[i] >> 7
		s.k1[i] = s.k1[i]<<1 | carry
		carry = next
	}
	s.k1[15] ^= msb * 0x87
	return s, nil
}

// keyCheck is a value that tells a wrong key before anything is read with it.
func keyCheck(key []byte) ([16]byte, error) {
	var c [16]byte
	k, err := hkdf.Key(sha256.New, key, nil, hkdfCheck, len(c))
	if err != nil {
		return c, fmt.Errorf("engine: derive key check: %w", err)
	}
	copy(c[:], k)
	return c, nil
}

func (s *sealer) aead(nonce []byte) (cipher.AEAD, error) {
	var k [32]byte
	for half := range 2 {
		m := k[16*half : 16*half+16]
		m[1], m[2] = byte(half+1), 'X'
		copy(m[4:], nonce[:12])
		for i := range m {
			m[i] ^= s.k1[i]
		}
		s.block.Encrypt(m, m)
	}
	b, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, fmt.Errorf("engine: value cipher: %w", err)
	}
	return cipher.NewGCM(b)
}

// seal appends the payload for value to dst; aad binds it to its row.
func (s *sealer) seal(dst, aad, value []byte) ([]byte, error) {
	if s == nil {
		return append(dst, value...), nil
	}
	var nonce [sealNonce]byte
	if _, err := io.ReadFull(s.rand, nonce[:]); err != nil {
		return nil, fmt.Errorf("engine: nonce: %w", err)
	}
	return s.sealWith(dst, nonce[:], aad, value)
}

func (s *sealer) sealWith(dst, nonce, aad, value []byte) ([]byte, error) {
	a, err := s.aead(nonce)
	if err != nil {
		return nil, err
	}
	dst = append(dst, nonce...)
	return a.Seal(dst, nonce[12:], value, aad), nil
}

// open returns the value of a payload: the payload itself in a plain store, otherwise decrypted after dst.
func (s *sealer) open(dst, aad, payload []byte) ([]byte, error) {
	if s == nil {
		return payload, nil
	}
	if len(payload) < sealOverhead {
		return nil, fmt.Errorf("%w: encrypted payload of %d bytes", ErrMalformed, len(payload))
	}
	a, err := s.aead(payload[:sealNonce])
	if err != nil {
		return nil, err
	}
	out, err := a.Open(dst, payload[12:sealNonce], payload[sealNonce:], aad)
	if err != nil {
		return nil, fmt.Errorf("%w: encrypted value does not authenticate", ErrMalformed)
	}
	return out, nil
}
