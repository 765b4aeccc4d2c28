// Package keys guards the secrets of a backup repository.
//
//	passphrase --Argon2id or PBKDF2-SHA256--\
//	                                         > slot key --AES-256-GCM--> master key --HKDF--> wraps the epoch keys, names chunks
//	key file (32 bytes) ------HKDF----------/
//
// A slot is one way to get at the master key; a repository has one or several, for several people or a change of passphrase.
// Epoch keys seal objects: Rotate adds a new one, which new objects use at once, while old objects stay readable.
//
// A generation is everything under one master key. To get rid of a master key that may have leaked, a new generation is begun: its first
// epoch carries, wrapped under the new master key, the epoch keys of the generation before it, until everything is sealed anew, and for
// ever the key that names chunks, which are only ever named inside sealed frames.
//
// Slots and epochs are small JSON objects that carry a checksum for scrubs without a key; what authenticates them is that
// they open: all their fields are additional data of the encryption, together with the digest of the repository's configuration, so
// that nobody can switch encryption off behind the owner's back.
package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"
)

// Sentinel errors; test with errors.Is.
var (
	// ErrWrongKey: no slot opens with the passphrase or key file.
	ErrWrongKey = errors.New("keys: wrong passphrase or key file")
	// ErrDamaged: a slot or epoch is not what was stored.
	ErrDamaged = errors.New("keys: damaged")
	// ErrInvalid: parameters or secret outside the allowed form.
	ErrInvalid = errors.New("keys: invalid argument")
	// ErrVersion: written by a newer program.
	ErrVersion = errors.New("keys: format is newer than this program")
)

// Names of key derivations.
const (
	Argon2id = "argon2id"
	PBKDF2   = "pbkdf2-sha256"
	KeyFile  = "key-file"
)

// KDF says how a secret becomes a slot key.
type KDF struct {
	Name      string `json:"name"`
	Time      uint32 `json:"time,omitempty"`       // Argon2id passes
	MemoryKiB uint32 `json:"memory_kib,omitempty"` // Argon2id
	Threads   uint8  `json:"threads,omitempty"`    // Argon2id
	Rounds    uint32 `json:"rounds,omitempty"`     // PBKDF2
}

// Default is what new slots use: Argon2id with 64 MiB and 3 passes (RFC 9106, second recommendation).
var Default = KDF{Name: Argon2id, Time: 3, MemoryKiB: 64 << 10, Threads: 4}

// Compatible is for environments that require a NIST function: PBKDF2-HMAC-SHA256 with 600 000 rounds (OWASP 2023).
var Compatible = KDF{Name: PBKDF2, Rounds: 600_000}

// File is for a key file of KeySize random bytes: no stretching is needed.
var File = KDF{Name: KeyFile}

// KeySize is the length of a key file's content.
const KeySize = 32

// Bounds of the parameters. The lower ones keep a repository from being created weak; the upper ones keep a hostile slot
// from taking the memory or the day of whoever opens it.
const (
	minArgonMemory = 19 << 10 // KiB; OWASP's least for Argon2id
	maxArgonMemory = 1 << 20
	maxArgonTime   = 32
	minRounds      = 600_000
	maxRounds      = 50_000_000
	minPassphrase  = 8
	maxSecret      = 1 << 16
)

// Check returns ErrInvalid for parameters that are too weak or absurd.
func (k KDF) Check() error {
	ok := false
	switch k.Name {
	case Argon2id:
		ok = k.Time >= 1 && k.Time <= maxArgonTime && k.MemoryKiB >= minArgonMemory && k.MemoryKiB <= maxArgonMemory && k.Threads >= 1 &&
			k.Threads <= 64 && k.Rounds == 0
	case PBKDF2:
		ok = k.Rounds >= minRounds && k.Rounds <= maxRounds && k.Time == 0 && k.MemoryKiB == 0 && k.Threads == 0
	case KeyFile:
		ok = k == File
	}
	if !ok {
		return fmt.Errorf("%w: key derivation %+v", ErrInvalid, k)
	}
	return nil
}

func (k KDF) checkSecret(secret []byte) error {
	switch {
	case k.Name == KeyFile && len(secret) != KeySize:
		return fmt.Errorf("%w: a key file holds %d bytes, this one %d", ErrInvalid, KeySize, len(secret))
	case k.Name != KeyFile && len(secret) < minPassphrase:
		return fmt.Errorf("%w: a passphrase has at least %d bytes", ErrInvalid, minPassphrase)
	case len(secret) > maxSecret:
		return fmt.Errorf("%w: secret of %d bytes", ErrInvalid, len(secret))
	}
	return nil
}

// derive computes the slot key.
func (k KDF) derive(secret, salt []byte) ([]byte, error) {
	switch k.Name {
	case Argon2id:
		return argon2.IDKey(secret, salt, k.Time, k.MemoryKiB, k.Threads, 32), nil
	case PBKDF2:
		return pbkdf2.Key(sha256.New, string(secret), salt, int(k.Rounds), 32)
	}
	return hkdf.Key(sha256.New, secret, salt, "erlmcp backup key file v1", 32)
}

// Derive stretches a secret into a key of 32 bytes: ErrInvalid for parameters or a secret outside their bounds.
func (k KDF) Derive(secret, salt []byte) ([]byte, error) {
	if err := errors.Join(k.Check(), k.checkSecret(secret)); err != nil {
		return nil, err
	}
	return k.derive(secret, salt)
}

// Context binds slots and epochs to their repository.
type Context struct {
	Repo   [16]byte
	Config [32]byte // digest of the configuration
}

// Slot is one way to get at the master key.
type Slot struct {
	Version    int       `json:"version"`
	ID         string    `json:"id"`
	Generation uint32    `json:"generation,omitempty"` // of the master key
	Label      string    `json:"label,omitempty"`
	Created    time.Time `json:"created"`
	KDF        KDF       `json:"kdf"`
	Salt       string    `json:"salt"`
	Nonce      string    `json:"nonce"`
	Wrapped    string    `json:"wrapped"`
	Checksum   string    `json:"checksum"` // BLAKE3 of the JSON with an empty checksum
}

// Epoch is a wrapped epoch key.
type Epoch struct {
	Version    int       `json:"version"`
	Epoch      uint32    `json:"epoch"`
	Generation uint32    `json:"generation,omitempty"` // of the master key
	Created    time.Time `json:"created"`
	Carried    string    `json:"carried,omitempty"` // first epoch of a generation: what it takes over, nonce and sealed bytes
	Nonce      string    `json:"nonce"`
	Wrapped    string    `json:"wrapped"`
	Checksum   string    `json:"checksum"`
}

const version = 1

// Master is the root of all other keys. It is only ever in memory.
type Master struct {
	key [32]byte
	ctx Context
	gen uint32
}

// Generation is the number of the master key: 0 for the first one of a repository.
func (m *Master) Generation() uint32 { return m.gen }

// Next makes the master key of the next generation.
func (m *Master) Next(rnd io.Reader) (*Master, error) {
	next, err := NewMaster(m.ctx, rnd)
	if err != nil {
		return nil, err
	}
	next.gen = m.gen + 1
	return next, nil
}

// Same reports whether both are the same key.
func (m *Master) Same(o *Master) bool {
	return m.gen == o.gen && subtle.ConstantTimeCompare(m.key[:], o.key[:]) == 1
}

// NewMaster makes a random master key.
func NewMaster(ctx Context, rnd io.Reader) (*Master, error) {
	m := &Master{ctx: ctx}
	if _, err := io.ReadFull(rnd, m.key[:]); err != nil {
		return nil, fmt.Errorf("keys: random master key: %w", err)
	}
	return m, nil
}

func random(rnd io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(rnd, b); err != nil {
		return nil, fmt.Errorf("keys: random bytes: %w", err)
	}
	return b, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("keys: cipher: %w", err)
	}
	return cipher.NewGCM(b)
}

// aad is what v stands for, without the wrapped bytes and checksum.
func (c Context) aad(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("keys: encode: %w", err)
	}
	return append(append(append([]byte("erlmcp backup keys v1\n"), c.Repo[:]...), c.Config[:]...), b...), nil
}

// NewSlot wraps the master key for a secret. The salt is random, so every slot key is used for one encryption only.
func (m *Master) NewSlot(secret []byte, kdf KDF, label string, now time.Time, rnd io.Reader) (*Slot, error) {
	if err := errors.Join(kdf.Check(), kdf.checkSecret(secret)); err != nil {
		return nil, err
	}
	if len(label) > 256 {
		return nil, fmt.Errorf("%w: label of %d bytes", ErrInvalid, len(label))
	}
	r, err := random(rnd, 16+16+12)
	if err != nil {
		return nil, err
	}
	s := &Slot{
		Version: version, ID: hex.EncodeToString(r[:16]), Generation: m.gen, Label: label, Created: now.UTC().Truncate(time.Second), KDF: kdf,
		Salt: hex.EncodeToString(r[16:32]), Nonce: hex.EncodeToString(r[32:]),
	}
	key, err := kdf.derive(secret, r[16:32])
	if err != nil {
		return nil, fmt.Errorf("keys: derive: %w", err)
	}
	aad, err := m.ctx.aad(s)
	if err != nil {
		return nil, err
	}
	a, err := gcm(key)
	if err != nil {
		return nil, err
	}
	s.Wrapped = hex.EncodeToString(a.Seal(nil, r[32:], m.key[:], aad))
	return s, nil
}

// Open gets the master key out of a slot: ErrWrongKey.
func (s *Slot) Open(ctx Context, secret []byte) (*Master, error) {
	if err := s.KDF.Check(); err != nil {
		return nil, err
	}
	if s.KDF.checkSecret(secret) != nil {
		return nil, ErrWrongKey
	}
	salt, err1 := hex.DecodeString(s.Salt)
	nonce, err2 := hex.DecodeString(s.Nonce)
	wrapped, err3 := hex.DecodeString(s.Wrapped)
	if errors.Join(err1, err2, err3) != nil || len(salt) != 16 || len(nonce) != 12 {
		return nil, fmt.Errorf("%w: slot %s", ErrDamaged, s.ID)
	}
	key, err := s.KDF.derive(secret, salt)
	if err != nil {
		return nil, fmt.Errorf("keys: derive: %w", err)
	}
	bare := *s
	bare.Wrapped, bare.Checksum = "", ""
	aad, err := ctx.aad(&bare)
	if err != nil {
		return nil, err
	}
	a, err := gcm(key)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, nonce, wrapped, aad)
	if err != nil || len(plain) != 32 {
		return nil, ErrWrongKey
	}
	return &Master{key: [32]byte(plain), ctx: ctx, gen: s.Generation}, nil
}

// Unlock tries all slots, those with a cheap derivation first: ErrWrongKey if none opens. A slot that opens and whose master key does not
// fit is passed over: it was made by somebody who was too late to give the repository a new generation. fits nil: any does.
func Unlock(ctx Context, slots []*Slot, secret []byte, fits func(*Master) bool) (*Master, error) {
	for _, file := range []bool{true, false} {
		for _, s := range slots {
			if (s.KDF.Name == KeyFile) != file {
				continue
			}
			m, err := s.Open(ctx, secret)
			if err == nil && (fits == nil || fits(m)) {
				return m, nil
			}
			if err != nil && !errors.Is(err, ErrWrongKey) {
				return nil, err
			}
		}
	}
	return nil, ErrWrongKey
}

func (m *Master) derived(info string) ([]byte, error) {
	k, err := hkdf.Key(sha256.New, m.key[:], m.ctx.Repo[:], info, 32)
	if err != nil {
		return nil, fmt.Errorf("keys: derive: %w", err)
	}
	return k, nil
}

// ChunkKey is the key under which chunks get their names.
func (m *Master) ChunkKey() ([]byte, error) { return m.derived("erlmcp backup chunk names v1") }

// NewEpoch makes a random epoch key and its wrapped form.
func (m *Master) NewEpoch(number uint32, now time.Time, rnd io.Reader) (*Epoch, *[32]byte, error) {
	key, err := random(rnd, 32)
	if err != nil {
		return nil, nil, err
	}
	e, err := m.WrapEpoch(number, (*[32]byte)(key), nil, now, rnd)
	return e, (*[32]byte)(key), err
}

// WrapEpoch wraps an epoch key, and with the first one of a generation what it carries.
func (m *Master) WrapEpoch(number uint32, key *[32]byte, c *Carried, now time.Time, rnd io.Reader) (*Epoch, error) {
	nonce, err := random(rnd, 12)
	if err != nil {
		return nil, err
	}
	e := &Epoch{Version: version, Epoch: number, Generation: m.gen, Created: now.UTC().Truncate(time.Second), Nonce: hex.EncodeToString(nonce)}
	if c != nil {
		if e.Carried, err = m.sealCarried(number, c, rnd); err != nil {
			return nil, err
		}
	}
	a, aad, err := m.wrapper(e)
	if err != nil {
		return nil, err
	}
	e.Wrapped = hex.EncodeToString(a.Seal(nil, nonce, key[:], aad))
	return e, nil
}

// OpenEpoch unwraps an epoch key: ErrWrongKey if it was not wrapped by this master key.
func (m *Master) OpenEpoch(e *Epoch) (*[32]byte, error) {
	nonce, err1 := hex.DecodeString(e.Nonce)
	wrapped, err2 := hex.DecodeString(e.Wrapped)
	if errors.Join(err1, err2) != nil || len(nonce) != 12 {
		return nil, fmt.Errorf("%w: epoch %d", ErrDamaged, e.Epoch)
	}
	bare := *e
	bare.Wrapped, bare.Checksum = "", ""
	a, aad, err := m.wrapper(&bare)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, nonce, wrapped, aad)
	if err != nil || len(plain) != 32 {
		return nil, fmt.Errorf("%w: epoch %d was not made with this repository's key", ErrWrongKey, e.Epoch)
	}
	return (*[32]byte)(plain), nil
}

// wrapper is the cipher of one epoch: derived for its number, so nonces of different epochs cannot meet.
func (m *Master) wrapper(e *Epoch) (cipher.AEAD, []byte, error) {
	key, err := m.derived(fmt.Sprintf("erlmcp backup epoch %d v1", e.Epoch))
	if err != nil {
		return nil, nil, err
	}
	aad, err := m.ctx.aad(e)
	if err != nil {
		return nil, nil, err
	}
	a, err := gcm(key)
	return a, aad, err
}

// Encode returns the stored form with its checksum.
func (s *Slot) Encode() ([]byte, error) {
	c := *s
	return encode(&c, &c.Checksum)
}

// Encode returns the stored form with its checksum.
func (e *Epoch) Encode() ([]byte, error) {
	c := *e
	return encode(&c, &c.Checksum)
}

func encode(v any, checksum *string) ([]byte, error) {
	sum, err := checksumOf(v, checksum)
	if err != nil {
		return nil, err
	}
	*checksum = sum
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("keys: encode: %w", err)
	}
	return append(b, '\n'), nil
}

func checksumOf(v any, checksum *string) (string, error) {
	*checksum = ""
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("keys: encode: %w", err)
	}
	sum := blake3.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// ParseSlot decodes and checks the stored form, without a key.
func ParseSlot(b []byte) (*Slot, error) {
	var s Slot
	if err := parse(b, &s, &s.Version, &s.Checksum); err != nil {
		return nil, err
	}
	return &s, nil
}

// ParseEpoch decodes and checks the stored form, without a key.
func ParseEpoch(b []byte) (*Epoch, error) {
	var e Epoch
	if err := parse(b, &e, &e.Version, &e.Checksum); err != nil {
		return nil, err
	}
	return &e, nil
}

func parse(b []byte, v any, ver *int, checksum *string) error {
	if len(b) > 1<<16 {
		return fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if *ver > version {
		return fmt.Errorf("%w: version %d", ErrVersion, *ver)
	}
	have := *checksum
	want, err := checksumOf(v, checksum)
	if err != nil || have != want {
		return fmt.Errorf("%w: checksum", ErrDamaged)
	}
	*checksum = have
	// Only the one canonical text is accepted: a change that JSON does not care about is damage too.
	again, err := json.MarshalIndent(v, "", "  ")
	if err != nil || !bytes.Equal(append(again, '\n'), b) {
		return fmt.Errorf("%w: not the text that was written", ErrDamaged)
	}
	return nil
}
