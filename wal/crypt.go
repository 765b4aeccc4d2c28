package wal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/hkdf"
)

// KeySize is the length of Options.Key in bytes (AES-256).
const KeySize = 32

// keyCheck tells a wrong key from damaged data. It reveals nothing about key.
func keyCheck(key []byte, logID [16]byte) (c [8]byte) {
	var out [32]byte
	blake3.DeriveKey("erlmcp wal key check v1", append(append([]byte{}, key...), logID[:]...), out[:])
	copy(c[:], out[:8])
	return c
}

// segmentCipher derives the segment's own AES-256-GCM key (HKDF-SHA256, RFC
// 5869). The salt holds the chain value, so a recycled file gets a new key;
// nonces are random per batch, and a segment holds far fewer than 2^32.
func segmentCipher(key []byte, h *segmentHeader) (cipher.AEAD, error) {
	salt := make([]byte, 0, 16+8+chainSize)
	salt = append(salt, h.logID[:]...)
	salt = binary.LittleEndian.AppendUint64(salt, h.id)
	salt = append(salt, h.prevChain[:]...)
	var k [KeySize]byte
	if _, err := io.ReadFull(hkdf.New(sha256.New, key, salt, []byte("erlmcp wal segment key v1")), k[:]); err != nil {
		return nil, fmt.Errorf("wal: derive segment key: %w", err)
	}
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, fmt.Errorf("wal: segment key: %w", err)
	}
	return cipher.NewGCM(block)
}
