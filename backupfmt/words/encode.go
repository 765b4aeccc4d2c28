package words

import (
	"encoding/binary"
	"math/bits"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// zencoder compresses streams. What is left in them are few and short matches: slower levels find hardly more.
var zencoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("words: zstd options: " + err.Error()) // constants above; cannot depend on input
	}
	return e
})

// Encode appends the encoded form of raw to dst. False: raw is no text, and dst is returned as it was. Safe for concurrent use.
func Encode(dst, raw []byte) ([]byte, bool) {
	if len(raw) > maxFrame {
		return dst, false
	}
	s, ok := splitters.Get().(*splitter)
	if !ok {
		s = new(splitter)
	}
	defer splitters.Put(s)
	if !s.split(raw) {
		return dst, false
	}
	for _, p := range [parts][]byte{s.ops, s.lens, s.low, s.text} {
		s.packed = zencoder().EncodeAll(p, s.packed[:0])
		form, stored := byte(formZstd), s.packed
		if len(stored) >= len(p) {
			form, stored = formRaw, p
		}
		dst = append(dst, form)
		dst = binary.AppendUvarint(dst, uint64(len(p)))
		dst = binary.AppendUvarint(dst, uint64(len(stored)))
		dst = append(dst, stored...)
	}
	return dst, true
}

// Classes of bytes, in an order that split uses.
const (
	other  = iota // control characters
	mark          // punctuation and space
	digit         //
	letter        // also what is not ASCII
)

var class = func() (t [256]byte) {
	for c := range t {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c >= 0x80:
			t[c] = letter
		case c >= '0' && c <= '9':
			t[c] = digit
		case c >= ' ' && c < 0x7f, c == '\t', c == '\n', c == '\r':
			t[c] = mark
		}
	}
	return t
}()

const (
	slotBits = 15 // twice as many slots as there may be words
	slots    = 1 << slotBits

	// probe is after how many bytes split looks whether this is text at all.
	probe = 64 << 10
)

// slot of the table of words: one of them, padded with zeros, and its number.
type slot struct {
	a, b   uint64
	number uint32
	round  uint32 // of the splitter when the slot was filled: what others left is nothing
}

// splitter makes streams of bytes. Not for concurrent use.
type splitter struct {
	table                [slots]slot
	round, count         uint32
	ops, lens, low, text []byte
	packed               []byte
}

var splitters sync.Pool

// split fills the streams; false: this is not text.
func (s *splitter) split(raw []byte) bool {
	s.ops, s.lens, s.low, s.text, s.count = s.ops[:0], s.lens[:0], s.low[:0], s.text[:0], 0
	if s.round++; s.round == 0 {
		s.table, s.round = [slots]slot{}, 1
	}
	end := len(raw) - maxWord - 8 // the last bytes are a run, so that words can be loaded whole
	open, check := 0, probe       // where the run before i begins
	for i := 0; i < end; {
		if class[raw[i]] < digit {
			i++
			continue
		}
		n, is := wordAt(raw, i)
		if !is || n < 3 && open < i { // a word of two bytes is not worth an interruption
			i += n
			continue
		}
		s.run(raw[open:i])
		s.word(raw, i, n)
		i += n
		open = i
		if i >= check {
			if len(s.text)+len(s.ops) > i/8*7 {
				return false
			}
			check = i + probe
		}
	}
	s.run(raw[min(open, len(raw)):])
	return true
}

// wordAt looks at the letters and digits at i, and returns how many bytes to go on by. A word has no digits and takes along the space or up to
// four other marks behind it.
func wordAt(raw []byte, i int) (n int, is bool) {
	j := i + letters(raw[i:])
	if j == i+8 {
		j += letters(raw[j:])
	}
	switch {
	case j == i+maxWord:
	case class[raw[j]] == digit: // a number, a hash, a name with a number
		for j < len(raw) && class[raw[j]] >= digit {
			j++
		}
		return j - i, false
	case raw[j] == ' ':
		j++
	default:
		for most := min(j+4, i+maxWord); j < most && class[raw[j]] == mark; {
			j++
		}
	}
	return j - i, true
}

// letters counts the letters at the beginning of b, up to 8. Like class, but that the character DEL passes for one.
func letters(b []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	x := binary.LittleEndian.Uint64(b)
	y := (x | 0x20*ones) &^ tops // lower case; the line of a name becomes DEL
	is := (y+(0x80-'a')*ones)&^(y+(0x7f-'z')*ones) | (y + ones) | x
	return bits.TrailingZeros64(^is&tops) >> 3
}

func (s *splitter) run(b []byte) {
	if len(b) > 0 {
		s.ops = append(s.ops, opRun)
		s.lens = binary.AppendUvarint(s.lens, uint64(len(b)))
		s.text = append(s.text, b...)
	}
}

// word writes the word of n bytes at i.
func (s *splitter) word(raw []byte, i, n int) {
	a, b := binary.LittleEndian.Uint64(raw[i:]), uint64(0)
	if n <= 8 {
		a &= ^uint64(0) >> (64 - 8*n)
	} else {
		b = binary.LittleEndian.Uint64(raw[i+8:]) & (^uint64(0) >> (128 - 8*n))
	}
	h := (a ^ bits.RotateLeft64(b*0xff51afd7ed558ccd, 31)) * 0x9e3779b97f4a7c15 >> (64 - slotBits)
	for {
		t := &s.table[h%slots]
		switch {
		case t.round != s.round && s.count == maxWords:
			s.run(raw[i : i+n])
			return
		case t.round != s.round:
			*t = slot{a, b, s.count, s.round}
			s.count++
			s.ops = append(s.ops, opNew)
			s.lens = append(s.lens, byte(n))
			s.text = append(s.text, raw[i:i+n]...)
			return
		case t.a == a && t.b == b:
			s.known(t.number)
			return
		}
		h++
	}
}

func (s *splitter) known(number uint32) {
	if number < short {
		s.ops = append(s.ops, byte(opShort+number))
		return
	}
	number -= short
	s.ops = append(s.ops, byte(opLong+number>>8))
	s.low = append(s.low, byte(number))
}
