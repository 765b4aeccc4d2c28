package object

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/erlmcp/erlmcp/snapshot"
)

const hkdfInfo = "erlmcp backup object v1"

// KeySource gives the key of an epoch: ErrNoKey. It is nil in a repository without encryption.
type KeySource func(epoch uint32) (*[32]byte, error)

// cipherOf makes the cipher of one object; nil if the object is not sealed.
func cipherOf(h *Header, epochKey *[32]byte) (cipher.AEAD, error) {
	if epochKey == nil {
		return nil, nil
	}
	salt := append(append(make([]byte, 0, 32), h.Repo[:]...), h.ID[:]...)
	key, err := hkdf.Key(sha256.New, epochKey[:], salt, hkdfInfo+string(rune(h.Kind)), 32)
	if err != nil {
		return nil, fmt.Errorf("object: derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("object: cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

// Packed is a compressed frame on its way into an object.
type Packed struct {
	raw   int
	plain []byte // codec | raw length | data
}

// Frame locates a frame in its object.
type Frame struct {
	Number uint32
	Offset uint32 // in the object
	Length uint32 // stored
}

// Writer builds one object in memory. Not for concurrent use.
type Writer struct {
	h      Header
	aead   cipher.AEAD
	buf    []byte
	clear  [32]byte
	stored []uint32
}

// NewWriter begins an object. key nil: not sealed. The id must be random and never used before: it is what makes the key of this
// object its own. clearSection is stored readable and authenticated.
func NewWriter(kind Kind, repo, id ID, epoch uint32, key *[32]byte, clearSection []byte) (*Writer, error) {
	return newWriter(Header{Kind: kind, Sealed: key != nil, Epoch: epoch, Repo: repo, ID: id}, key, clearSection)
}

func newWriter(h Header, key *[32]byte, clearSection []byte) (*Writer, error) {
	w := &Writer{h: h}
	w.h.Clear = uint32(len(clearSection))
	if len(clearSection) > MaxCovered/2 {
		return nil, fmt.Errorf("%w: clear section of %d bytes", ErrTooLarge, len(clearSection))
	}
	var err error
	if w.aead, err = cipherOf(&w.h, key); err != nil {
		return nil, err
	}
	w.buf = make([]byte, HeaderSize, HeaderSize+len(clearSection)+4096)
	w.h.put(w.buf)
	w.buf = append(w.buf, clearSection...)
	w.clear = sum256(clearSection)
	return w, nil
}

// Adopt lets the writer build the object in buf, whose content is lost; the object that Finish returns is in it, if it is large
// enough. Only before the first Add.
func (w *Writer) Adopt(buf []byte) { w.buf = append(buf[:0], w.buf...) }

// ID is the object's id.
func (w *Writer) ID() ID { return w.h.ID }

// Len is the size so far, without directory, footers and parity.
func (w *Writer) Len() int { return len(w.buf) }

// Frames is the number of frames added.
func (w *Writer) Frames() int { return len(w.stored) }

// Add seals a compressed frame and appends it.
func (w *Writer) Add(p Packed) (Frame, error) {
	if len(w.buf)+len(p.plain)+tagSize > MaxCovered-(1<<20) || len(w.stored) >= math.MaxUint16 {
		return Frame{}, fmt.Errorf("%w: object of %d bytes", ErrTooLarge, len(w.buf))
	}
	f := Frame{Number: uint32(len(w.stored)), Offset: uint32(len(w.buf)), Length: uint32(len(p.plain) + tagSize)}
	w.seal(f.Number, false, p.plain)
	w.stored = append(w.stored, f.Length)
	return f, nil
}

func (w *Writer) seal(number uint32, last bool, plain []byte) {
	aad := additional(w.buf[:aadFixed], number, last, &w.clear)
	if w.aead != nil {
		w.buf = w.aead.Seal(w.buf, nonceOf(number), plain, aad)
		return
	}
	w.buf = append(w.buf, plain...)
	w.buf = append(w.buf, plainTag(aad, plain)...)
}

func nonceOf(number uint32) []byte {
	return append(le.AppendUint32(make([]byte, 0, 12), number), 0, 0, 0, 0, 0, 0, 0, 0)
}

func additional(header []byte, number uint32, last bool, clearSum *[32]byte) []byte {
	aad := append(make([]byte, 0, aadFixed+5+32), header[:aadFixed]...)
	aad = le.AppendUint32(aad, number)
	if !last {
		return append(aad, 0)
	}
	return append(append(aad, 1), clearSum[:]...)
}

func plainTag(aad, plain []byte) []byte {
	sum := sum256(append(append(make([]byte, 0, len(aad)+len(plain)), aad...), plain...))
	return sum[:tagSize]
}

// Finish seals the directory with extra, bytes that belong to the kind, and returns the whole object and its digest. The
// writer cannot be used again.
func (w *Writer) Finish(extra []byte) ([]byte, Digest, error) {
	dir := binary.AppendUvarint(nil, uint64(len(w.stored)))
	for _, n := range w.stored {
		dir = binary.AppendUvarint(dir, uint64(n))
	}
	p, err := Compress(append(dir, extra...))
	if err != nil {
		return nil, Digest{}, err
	}
	return w.finish(p)
}

// finish is Finish with the directory as it is to be sealed.
func (w *Writer) finish(p Packed) ([]byte, Digest, error) {
	w.h.Frames = uint32(len(w.stored))
	w.h.Dir = uint32(len(p.plain) + tagSize)
	w.h.Body = uint32(len(w.buf) - HeaderSize - int(w.h.Clear) + len(p.plain) + tagSize)
	if w.h.covered() > MaxCovered {
		return nil, Digest{}, fmt.Errorf("%w: object of %d bytes", ErrTooLarge, w.h.covered())
	}
	w.seal(w.h.Frames, true, p.plain)
	w.h.put(w.buf)
	digest := Digest(sum256(w.buf))
	out, err := finish(w.buf, w.h.ID)
	w.buf = nil
	return out, digest, err
}

// Opener opens the frames of one object.
type Opener struct {
	Header Header
	fixed  [aadFixed]byte
	aead   cipher.AEAD
}

// NewOpener prepares the opening of an object from its first HeaderSize bytes. The header must name the repository, id
// and kind the caller expects: ErrForged. ErrNoKey if keys has not its epoch, or the object is sealed and keys is nil.
func NewOpener(header []byte, kind Kind, repo ID, id *ID, keys KeySource) (*Opener, error) {
	h, err := ParseHeader(header)
	if err != nil {
		return nil, err
	}
	if h.Kind != kind || h.Repo != repo || id != nil && h.ID != *id {
		return nil, fmt.Errorf("%w: kind %c, id %s of repository %s in the place of kind %c of %s", ErrForged, h.Kind, h.ID, h.Repo, kind, repo)
	}
	if h.Sealed != (keys != nil) {
		if h.Sealed {
			return nil, ErrNoKey
		}
		return nil, fmt.Errorf("%w: it is not encrypted, the repository is", ErrForged)
	}
	o := &Opener{Header: h}
	copy(o.fixed[:], header)
	if keys != nil {
		key, err := keys(h.Epoch)
		if err != nil {
			return nil, err
		}
		if o.aead, err = cipherOf(&h, key); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Frame verifies, opens and decodes the stored bytes of a frame.
func (o *Opener) Frame(number uint32, stored []byte) ([]byte, error) {
	return o.open(number, false, stored, nil)
}

func (o *Opener) open(number uint32, last bool, stored []byte, clearSum *[32]byte) ([]byte, error) {
	plain, err := o.unseal(number, last, stored, clearSum)
	if err != nil {
		return nil, err
	}
	return decode(plain)
}

// unseal verifies and decrypts a frame.
func (o *Opener) unseal(number uint32, last bool, stored []byte, clearSum *[32]byte) ([]byte, error) {
	if len(stored) < prefixSize+tagSize {
		return nil, fmt.Errorf("%w: frame of %d bytes", ErrDamaged, len(stored))
	}
	aad := additional(o.fixed[:], number, last, clearSum)
	plain := stored[:len(stored)-tagSize]
	if o.aead != nil {
		var err error
		if plain, err = o.aead.Open(nil, nonceOf(number), stored, aad); err != nil {
			return nil, fmt.Errorf("%w: frame %d of object %s", ErrForged, number, o.Header.ID)
		}
	} else if subtle.ConstantTimeCompare(plainTag(aad, plain), stored[len(plain):]) != 1 {
		return nil, fmt.Errorf("%w: frame %d of object %s", ErrDamaged, number, o.Header.ID)
	}
	return plain, nil
}

func decode(plain []byte) ([]byte, error) {
	codec, raw, data := plain[0], le.Uint32(plain[1:]), plain[prefixSize:]
	if raw > MaxFrame {
		return nil, fmt.Errorf("%w: frame of %d bytes", ErrDamaged, raw)
	}
	switch {
	case codec == codecRaw && int(raw) == len(data):
		return data, nil
	case codec == codecZstd:
		if out, ok := snapshot.Decompress(nil, data, int(raw)); ok {
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: frame does not decode", ErrDamaged)
}

// Content is a whole opened object.
type Content struct {
	Header Header
	Clear  []byte // without the identity of a resealed object
	Digest Digest // what others call it by: of its bytes, or for a resealed object of those it was first written with
	Extra  []byte // of the kind
	Places []Frame
	opener *Opener
	stored []byte
}

// Open verifies a whole object: digest, directory, clear section, positions of all frames. Frames are opened by Frame.
func Open(stored []byte, kind Kind, repo ID, id *ID, keys KeySource) (*Content, error) {
	health, err := Check(stored)
	if err != nil {
		return nil, err
	}
	o, err := NewOpener(stored, kind, repo, id, keys)
	if err != nil {
		return nil, err
	}
	h := &o.Header
	c := &Content{Header: *h, Digest: health.Identity, opener: o, stored: stored}
	c.Clear, _ = h.ClearOf(stored) // as long as Check found it
	return c, c.readDirectory()
}

// Inspect reads what can be read of an object without the key: header, clear section, digest. It is as trustworthy as the store.
func Inspect(stored []byte, kind Kind, repo ID, id *ID) (*Content, error) {
	health, err := Check(stored)
	if err != nil {
		return nil, err
	}
	h := health.Header
	if h.Kind != kind || h.Repo != repo || id != nil && h.ID != *id {
		return nil, fmt.Errorf("%w: kind %c, id %s of repository %s in the place of kind %c of %s", ErrForged, h.Kind, h.ID, h.Repo, kind, repo)
	}
	c := &Content{Header: h, Digest: health.Identity}
	c.Clear, _ = h.ClearOf(stored)
	return c, nil
}

// readDirectory opens the directory, which authenticates the clear section and the number of frames.
func (c *Content) readDirectory() error {
	h := &c.Header
	from, to := HeaderSize+int(h.Clear), int(h.covered())-int(h.Dir)
	sum := sum256(c.stored[HeaderSize:from])
	raw, err := c.opener.open(h.Frames, true, c.stored[to:to+int(h.Dir)], &sum)
	if err != nil {
		return err
	}
	return c.places(raw, from, to)
}

// places decodes a directory of the frames between from and to.
func (c *Content) places(raw []byte, from, to int) error {
	h := &c.Header
	n, w := binary.Uvarint(raw)
	if w <= 0 || n != uint64(h.Frames) || n > uint64(len(raw)) {
		return fmt.Errorf("%w: directory", ErrDamaged)
	}
	raw = raw[w:]
	at := uint64(from)
	c.Places = make([]Frame, 0, n)
	for i := range n {
		size, w := binary.Uvarint(raw)
		if w <= 0 || size > uint64(to)-at {
			return fmt.Errorf("%w: directory", ErrDamaged)
		}
		raw = raw[w:]
		c.Places = append(c.Places, Frame{Number: uint32(i), Offset: uint32(at), Length: uint32(size)})
		at += size
	}
	if at != uint64(to) {
		return fmt.Errorf("%w: directory does not cover the body", ErrDamaged)
	}
	c.Extra = raw
	return nil
}

// End is where the directory and the first footer of an object lie.
func (h *Header) End() (off, n int64) { return h.covered() - int64(h.Dir), int64(h.Dir) + FooterSize }

// OpenDirectory reads where the frames of an object are, and what its kind keeps beside that, from its header and clear section and its End. Frames
// cannot be read from the result. The digest is what the footer says, or the identity of an object that was resealed.
func OpenDirectory(header, end []byte, kind Kind, repo ID, id *ID, keys KeySource) (*Content, error) {
	o, err := NewOpener(header, kind, repo, id, keys)
	if err != nil {
		return nil, err
	}
	h := &o.Header
	at, n := h.End()
	if int64(len(header)) != HeaderSize+int64(h.Clear) || int64(len(end)) != n || h.Resealed && h.Clear < identitySize {
		return nil, fmt.Errorf("%w: no directory to be read alone", ErrDamaged)
	}
	sum := sum256(header[HeaderSize:])
	raw, err := o.open(h.Frames, true, end[:h.Dir], &sum)
	if err != nil {
		return nil, err
	}
	f, ok := parseFooter(end[h.Dir:])
	if !ok || f.layout.covered != h.covered() || f.id != h.ID {
		return nil, fmt.Errorf("%w: footer", ErrDamaged)
	}
	c := &Content{Header: *h, Digest: h.identity(header, f.digest), opener: o}
	return c, c.places(raw, len(header), int(at))
}

// Frame opens frame i.
func (c *Content) Frame(i int) ([]byte, error) {
	if i < 0 || i >= len(c.Places) {
		return nil, fmt.Errorf("%w: no frame %d", ErrDamaged, i)
	}
	p := c.Places[i]
	return c.opener.Frame(p.Number, c.stored[p.Offset:p.Offset+p.Length])
}
