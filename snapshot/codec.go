package snapshot

import (
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// zstdWindow is the largest distance of a match: a block is compressed alone, so more than a block buys nothing and
// every encoder would pay for it in memory.
const zstdWindow = 512 << 10

// The coders are stateless for EncodeAll and DecodeAll and safe for concurrent use; one of each serves the process.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(zstdWindow),
			zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("snapshot: zstd options: " + err.Error()) // constants above; cannot depend on input
		}
		return e
	})
	zdecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
			zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("snapshot: zstd options: " + err.Error())
		}
		return d
	})
)

// Compress appends the zstd form of raw to dst[:0] if that is smaller, else it returns raw itself and false. Safe for
// concurrent use.
func Compress(dst, raw []byte) (out []byte, compressed bool) {
	out = encoder().EncodeAll(raw, dst[:0])
	if len(out) >= len(raw) {
		return raw, false
	}
	return out, true
}

// Decompress is the inverse of Compress for a known length, which also bounds memory. Safe for concurrent use.
func Decompress(dst, stored []byte, length int) ([]byte, bool) {
	if length < 0 || length > maxBlock {
		return nil, false
	}
	if cap(dst) < length {
		dst = make([]byte, 0, length)
	}
	out, err := zdecoder().DecodeAll(stored, dst[:0:length])
	return out, err == nil && len(out) == length
}
