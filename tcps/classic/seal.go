package classic

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A sealed archive (suffix .enc):
//
//	offset size
//	0      8     magic "ERLMENC1"
//	8      4     PBKDF2-HMAC-SHA256 iterations, little-endian
//	12     16    salt
//	28     4     plain bytes per piece, little-endian (65536)
//	32     ...   pieces: AES-256-GCM of up to 65536 bytes, each with its tag of 16 bytes
//
// Key = PBKDF2(secret, salt). The salt is random, so the key is used for one file only; the nonce of a piece is its number (8 bytes,
// big-endian), 3 zero bytes, and 1 for the last piece, else 0: pieces cannot be dropped, moved, or cut off. The header is additional data.
const (
	sealMagic   = "ERLMENC1"
	sealHeader  = 32
	sealPiece   = 64 << 10
	sealRounds  = 600_000
	sealTag     = 16
	maxSealIter = 50_000_000
)

// Errors of archives; test with errors.Is.
var (
	// ErrSealed: the archive is encrypted and no secret was given.
	ErrSealed = errors.New("classic: the archive is encrypted, a passphrase or key file is required")
	// ErrSecret: the secret is wrong, or the first bytes of the archive are damaged.
	ErrSecret = errors.New("classic: wrong passphrase or key file")
	// ErrDamaged: the archive is damaged.
	ErrDamaged = errors.New("classic: the archive is damaged")
)

func pieceCipher(secret []byte, header []byte) (cipher.AEAD, error) {
	rounds := int(binary.LittleEndian.Uint32(header[8:]))
	if rounds < sealRounds || rounds > maxSealIter || binary.LittleEndian.Uint32(header[28:]) != sealPiece {
		return nil, fmt.Errorf("%w: its header is not one", ErrDamaged)
	}
	key, err := pbkdf2.Key(sha256.New, string(secret), header[12:28], rounds, 32)
	if err != nil {
		return nil, fmt.Errorf("classic: derive the key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("classic: cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

func pieceNonce(number uint64, last bool) []byte {
	n := make([]byte, 12)
	binary.BigEndian.PutUint64(n, number)
	if last {
		n[11] = 1
	}
	return n
}

// sealer encrypts a stream.
type sealer struct {
	w      io.Writer
	aead   cipher.AEAD
	header []byte
	buf    []byte
	number uint64
}

func newSealer(w io.Writer, secret []byte) (*sealer, error) {
	h := make([]byte, sealHeader)
	copy(h, sealMagic)
	binary.LittleEndian.PutUint32(h[8:], sealRounds)
	if _, err := rand.Read(h[12:28]); err != nil {
		return nil, fmt.Errorf("classic: salt: %w", err)
	}
	binary.LittleEndian.PutUint32(h[28:], sealPiece)
	aead, err := pieceCipher(secret, h)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(h)
	return &sealer{w: w, aead: aead, header: h}, err
}

// Write implements io.Writer. A full piece is kept back until it is known not to be the last one.
func (s *sealer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(s.buf) == sealPiece {
			if err := s.flush(false); err != nil {
				return 0, err
			}
		}
		take := min(len(p), sealPiece-len(s.buf))
		s.buf, p = append(s.buf, p[:take]...), p[take:]
	}
	return n, nil
}

func (s *sealer) flush(last bool) error {
	_, err := s.w.Write(s.aead.Seal(nil, pieceNonce(s.number, last), s.buf, s.header))
	s.number++
	s.buf = s.buf[:0]
	return err
}

// Close writes the last piece.
func (s *sealer) Close() error { return s.flush(true) }

// opener decrypts a stream; nothing is handed out that did not authenticate.
type opener struct {
	r      io.Reader
	aead   cipher.AEAD
	header []byte
	number uint64
	next   []byte // piece that was read ahead
	plain  []byte
	end    bool
}

func newOpener(r io.Reader, secret []byte) (*opener, error) {
	h := make([]byte, sealHeader)
	if _, err := io.ReadFull(r, h); err != nil || !bytes.HasPrefix(h, []byte(sealMagic)) {
		return nil, fmt.Errorf("%w: it has no header", ErrDamaged)
	}
	aead, err := pieceCipher(secret, h)
	if err != nil {
		return nil, err
	}
	o := &opener{r: r, aead: aead, header: h}
	if err := o.ahead(); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *opener) ahead() error {
	b := make([]byte, sealPiece+sealTag)
	n, err := io.ReadFull(o.r, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	o.next = b[:n]
	return nil
}

// Read implements io.Reader.
func (o *opener) Read(p []byte) (int, error) {
	for len(o.plain) == 0 {
		if o.end {
			return 0, io.EOF
		}
		cur := o.next
		if len(cur) == 0 {
			return 0, fmt.Errorf("%w: it ends early", ErrDamaged)
		}
		if err := o.ahead(); err != nil {
			return 0, err
		}
		o.end = len(o.next) == 0
		plain, err := o.aead.Open(nil, pieceNonce(o.number, o.end), cur, o.header)
		switch {
		case err != nil && o.number == 0:
			return 0, fmt.Errorf("%w (or its beginning is damaged)", ErrSecret)
		case err != nil:
			return 0, fmt.Errorf("%w: piece %d does not authenticate", ErrDamaged, o.number)
		}
		o.number++
		o.plain = plain
	}
	n := copy(p, o.plain)
	o.plain = o.plain[n:]
	return n, nil
}
