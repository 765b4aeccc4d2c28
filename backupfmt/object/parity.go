package object

import (
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/klauspost/reedsolomon"
)

var coders sync.Map // [2]int{data, parity} -> reedsolomon.Encoder

func coder(l layout) (reedsolomon.Encoder, error) {
	key := [2]int{l.data, l.parity}
	if c, ok := coders.Load(key); ok {
		return c.(reedsolomon.Encoder), nil
	}
	c, err := reedsolomon.New(l.data, l.parity, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithCustomMatrix(parityRows(l.data, l.parity)))
	if err != nil {
		return nil, fmt.Errorf("object: parity of %d+%d shards: %w", l.data, l.parity, err)
	}
	coders.Store(key, c)
	return c, nil
}

// shards returns data shard i of the covered bytes; tail is the padded last one, zero stands for shards beyond the end.
type shards struct {
	l       layout
	covered []byte
	tail    []byte
	zero    []byte
}

func newShards(l layout, covered []byte) *shards {
	s := &shards{l: l, covered: covered}
	if at := (l.shards - 1) * l.shard; len(covered)-at < l.shard {
		s.tail = make([]byte, l.shard)
		copy(s.tail, covered[at:])
	}
	return s
}

func (s *shards) get(i int) []byte {
	switch {
	case i >= s.l.shards:
		if s.zero == nil {
			s.zero = make([]byte, s.l.shard)
		}
		return s.zero
	case i == s.l.shards-1 && s.tail != nil:
		return s.tail
	}
	return s.covered[i*s.l.shard : (i+1)*s.l.shard]
}

// appendChecks appends the check section for the covered bytes.
func appendChecks(dst []byte, l layout, covered []byte) ([]byte, error) {
	c, err := coder(l)
	if err != nil {
		return nil, err
	}
	s := newShards(l, covered)
	for i := range l.shards {
		dst = le.AppendUint32(dst, crc32.Checksum(s.get(i), castagnoli))
	}
	table := len(dst)
	dst = append(dst, make([]byte, int(l.checkSize())-4*l.shards)...)
	parity := dst[table+4*l.groups*l.parity:]
	set := make([][]byte, l.data+l.parity)
	for g := range l.groups {
		for d := range l.data {
			set[d] = s.get(d*l.groups + g)
		}
		for p := range l.parity {
			n := g*l.parity + p
			set[l.data+p] = parity[n*l.shard : (n+1)*l.shard]
		}
		if err := c.Encode(set); err != nil {
			return nil, fmt.Errorf("object: parity: %w", err)
		}
	}
	for n := range l.groups * l.parity {
		le.PutUint32(dst[table+4*n:], crc32.Checksum(parity[n*l.shard:(n+1)*l.shard], castagnoli))
	}
	return dst, nil
}

// Health is the result of Check and Heal.
type Health struct {
	Header    Header // valid if the object could be read or healed
	Digest    Digest // of the covered bytes as they were written
	Identity  Digest // what others call it by: Digest, or for a resealed object that of its first form; set with Header
	Size      int64
	BadShards int    // data and parity shards found damaged
	Footers   int    // damaged footers, 0..2
	Healed    []byte // Heal: the whole object as it was written; nil if nothing was damaged
}

// Check tells whether stored bytes are what was stored, without a key: nil, ErrNotObject, or ErrDamaged.
func Check(b []byte) (Health, error) {
	var h Health
	f, bad, err := findFooter(b)
	h.Footers = bad
	if err != nil {
		return h, err
	}
	h.Digest, h.Size = f.digest, f.layout.total()
	if int64(len(b)) != h.Size {
		return h, fmt.Errorf("%w: %d bytes, written were %d", ErrDamaged, len(b), h.Size)
	}
	covered := b[:f.layout.covered]
	checks := b[f.layout.covered+FooterSize : int64(len(b))-FooterSize]
	switch {
	case sum256(covered) != f.digest:
		return h, fmt.Errorf("%w: digest of the content", ErrDamaged)
	case sum256(checks) != f.checks:
		return h, fmt.Errorf("%w: digest of the parity, the content is sound", ErrDamaged)
	case bad > 0:
		return h, fmt.Errorf("%w: a footer, the content is sound", ErrDamaged)
	}
	if h.Header, err = ParseHeader(covered); err != nil {
		return h, err
	}
	if h.Header.ID != f.id || h.Header.covered() != f.layout.covered {
		return h, fmt.Errorf("%w: header and footer do not belong together", ErrDamaged)
	}
	h.Identity = h.Header.identity(covered, h.Digest)
	return h, nil
}

// findFooter returns a valid footer of an object and how many of the two are damaged.
func findFooter(b []byte) (f footer, bad int, err error) {
	if int64(len(b)) < HeaderSize+2*FooterSize {
		return f, 2, fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	last, lastOK := parseFooter(b[len(b)-FooterSize:])
	covered := last.layout.covered
	if !lastOK {
		h, err := ParseHeader(b)
		if err != nil {
			return f, 2, fmt.Errorf("%w: neither header nor footer can be read", ErrDamaged)
		}
		covered = h.covered()
	}
	var first footer
	firstOK := false
	if covered+FooterSize <= int64(len(b)) {
		first, firstOK = parseFooter(b[covered:])
		firstOK = firstOK && first.layout.covered == covered
	}
	switch {
	case lastOK && firstOK && first != last:
		return last, 1, nil
	case lastOK && firstOK:
		return last, 0, nil
	case lastOK:
		return last, 1, nil
	case firstOK:
		return first, 1, nil
	}
	return f, 2, fmt.Errorf("%w: both footers", ErrDamaged)
}

// Heal restores a damaged object from its parity, without a key. A sound object gives Healed == nil. The result has the digest
// that was computed when it was written; if that cannot be reached: ErrUnhealable, or ErrNotObject.
func Heal(b []byte) (Health, error) {
	h, err := Check(b)
	if err == nil {
		return h, nil
	}
	f, bad, ferr := findFooter(b)
	if ferr != nil {
		return h, fmt.Errorf("%w: %w", ErrUnhealable, ferr)
	}
	h.Footers = bad
	// A cut or grown object is brought to its length; what is missing counts as damaged.
	whole := make([]byte, f.layout.total())
	copy(whole, b)
	covered := whole[:f.layout.covered]
	if sum256(covered) != f.digest {
		if h.BadShards, err = heal(f.layout, whole); err != nil {
			return h, err
		}
	}
	if sum256(covered) != f.digest {
		return h, fmt.Errorf("%w: the restored bytes do not have the digest that was stored", ErrUnhealable)
	}
	out, err := finish(append(make([]byte, 0, len(whole)), covered...), f.id)
	if err != nil {
		return h, err
	}
	h.Healed = out
	if h.Header, err = ParseHeader(out); err == nil {
		h.Identity = h.Header.identity(out, h.Digest)
	}
	return h, err
}

// heal reconstructs bad data shards in place and returns how many shards were bad.
func heal(l layout, whole []byte) (bad int, err error) {
	c, err := coder(l)
	if err != nil {
		return 0, err
	}
	checks := whole[l.covered+FooterSize:]
	parity := checks[l.tableSize():]
	s := newShards(l, whole[:l.covered])
	set := make([][]byte, l.data+l.parity)
	for g := range l.groups {
		lost := 0
		for d := range l.data {
			i := d*l.groups + g
			set[d] = append([]byte(nil), s.get(i)...)
			if i < l.shards && crc32.Checksum(set[d], castagnoli) != le.Uint32(checks[4*i:]) {
				set[d] = nil
				lost++
			}
		}
		for p := range l.parity {
			n := g*l.parity + p
			set[l.data+p] = parity[n*l.shard : (n+1)*l.shard]
			if crc32.Checksum(set[l.data+p], castagnoli) != le.Uint32(checks[4*(l.shards+n):]) {
				set[l.data+p] = nil
				lost++
			}
		}
		if bad += lost; lost == 0 {
			continue
		}
		if lost > l.parity {
			return bad, fmt.Errorf("%w: %d of %d shards of a group are bad, %d can be restored", ErrUnhealable, lost, l.data+l.parity, l.parity)
		}
		if err := c.ReconstructData(set); err != nil {
			return bad, fmt.Errorf("%w: %w", ErrUnhealable, err)
		}
		for d := range l.data {
			if at := (d*l.groups + g) * l.shard; at < int(l.covered) {
				copy(whole[at:l.covered], set[d])
			}
		}
	}
	return bad, nil
}

// finish appends footers and checks to the covered bytes.
func finish(b []byte, id ID) ([]byte, error) {
	l := layoutOf(int64(len(b)))
	covered := b
	checks, err := appendChecks(make([]byte, 0, l.checkSize()), l, covered)
	if err != nil {
		return nil, err
	}
	f := footer{layout: l, digest: sum256(covered), checks: sum256(checks), id: id}
	b = f.append(b)
	b = append(b, checks...)
	return f.append(b), nil
}
