package words

import (
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

var zdecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("words: zstd options: " + err.Error())
	}
	return d
})

// Decode is the inverse of Encode for a known length, which also bounds memory. Safe for concurrent use.
func Decode(data []byte, length int) ([]byte, bool) {
	if length < 0 || length > maxFrame {
		return nil, false
	}
	j, ok := joiners.Get().(*joiner)
	if !ok {
		j = new(joiner)
	}
	defer joiners.Put(j)
	for i := range j.parts {
		if data, ok = j.part(i, data, length); !ok {
			return nil, false
		}
	}
	if len(data) > 0 {
		return nil, false
	}
	return j.join(length)
}

// joiner makes bytes of streams. Not for concurrent use.
type joiner struct {
	parts   [parts][]byte
	buffers [parts][]byte
	places  [maxWords]uint32 // of words in what was put out: offset<<5 | length
}

var joiners sync.Pool

// part decodes the next stream; none is longer than what comes out of all of them.
func (j *joiner) part(i int, data []byte, most int) (rest []byte, ok bool) {
	if len(data) == 0 {
		return nil, false
	}
	form := data[0]
	length, n := binary.Uvarint(data[1:])
	if n <= 0 || length > uint64(most) {
		return nil, false
	}
	data = data[1+n:]
	stored, n := binary.Uvarint(data)
	if n <= 0 || stored > uint64(len(data)-n) {
		return nil, false
	}
	data, rest = data[n:n+int(stored)], data[n+int(stored):]
	switch form {
	case formRaw:
		j.parts[i] = data
		return rest, stored == length
	case formZstd:
		if cap(j.buffers[i]) < int(length) {
			j.buffers[i] = make([]byte, length)
		}
		out, err := zdecoder().DecodeAll(data, j.buffers[i][:0:length])
		j.parts[i] = out
		return rest, err == nil && len(out) == int(length)
	}
	return nil, false
}

// join carries out the ops. Words are copied as 16 bytes whatever their length, so there is room for that behind the end.
func (j *joiner) join(length int) ([]byte, bool) {
	ops, lens, low, text := j.parts[0], j.parts[1], j.parts[2], j.parts[3]
	out := make([]byte, length+maxWord)
	at, count := 0, 0
	for _, op := range ops {
		if op >= opShort {
			number := int(op) - opShort
			if op >= opLong {
				if len(low) == 0 {
					return nil, false
				}
				number = short + (int(op)-opLong)<<8 + int(low[0])
				low = low[1:]
			}
			if number >= count {
				return nil, false
			}
			place := j.places[number]
			from, n := int(place>>5), int(place&31)
			if at+n > length {
				return nil, false
			}
			a, b := binary.LittleEndian.Uint64(out[from:]), binary.LittleEndian.Uint64(out[from+8:])
			binary.LittleEndian.PutUint64(out[at:], a)
			binary.LittleEndian.PutUint64(out[at+8:], b)
			at += n
			continue
		}
		n, w := binary.Uvarint(lens)
		if w <= 0 || n == 0 || n > uint64(len(text)) || n > uint64(length-at) {
			return nil, false
		}
		if op == opNew {
			if n > maxWord || count == maxWords {
				return nil, false
			}
			j.places[count] = uint32(at)<<5 | uint32(n)
			count++
		}
		copy(out[at:], text[:n])
		at, lens, text = at+int(n), lens[w:], text[n:]
	}
	return out[:length:length], at == length && len(lens) == 0 && len(low) == 0 && len(text) == 0
}
