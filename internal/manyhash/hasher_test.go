package manyhash

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
)

// widths are the kernels that this machine has, and none.
func widths() []int {
	return slices.DeleteFunc([]int{0, 8, 16}, func(n int) bool { return n > lanes })
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func TestDigestsAreThoseOfBLAKE3(t *testing.T) {
	key := [32]byte{1, 2, 3}
	for _, width := range widths() {
		for seed := range uint64(16) {
			rng := rand.New(rand.NewPCG(seed, 1))
			var msgs [][]byte
			for range rng.IntN(70) {
				size := []int{rng.IntN(3), rng.IntN(130), rng.IntN(3000), 1024 * rng.IntN(20), rng.IntN(80 << 10)}[rng.IntN(5)]
				msgs = append(msgs, random(rng, size))
			}
			plain, keyed := New(), NewKeyed(&key)
			plain.lanes, keyed.lanes = width, width
			for range 2 { // a hasher can be used again
				got, gotKeyed := make([][32]byte, len(msgs)), make([][32]byte, len(msgs))
				plain.Sum(msgs, got)
				keyed.Sum(msgs, gotKeyed)
				for i, m := range msgs {
					require.Equal(t, blake3.Sum256(m), got[i], "width %d seed %d: message of %d bytes", width, seed, len(m))
					one, err := blake3.NewKeyed(key[:])
					require.NoError(t, err)
					_, _ = one.Write(m)
					require.Equal(t, one.Sum(nil), gotKeyed[i][:], "width %d seed %d: message of %d bytes, keyed", width, seed, len(m))
				}
			}
		}
	}
}

func TestEveryLengthAroundBlocksAndChunks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var msgs [][]byte
	for _, around := range []int{0, 64, 128, 1024, 2048, 3072, 4096, 8192, 16384, Largest} {
		for d := -2; d <= 2; d++ {
			if around+d >= 0 {
				msgs = append(msgs, random(rng, around+d))
			}
		}
	}
	for _, width := range widths() {
		h := New()
		h.lanes = width
		out := make([][32]byte, len(msgs))
		h.Sum(msgs, out)
		for i, m := range msgs {
			require.Equal(t, blake3.Sum256(m), out[i], "width %d: %d bytes", width, len(m))
		}
	}
}

func BenchmarkRows(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 3))
	for _, size := range []int{200, 1100, 14 << 10} {
		var msgs [][]byte
		for total := 0; total < 512<<10; total += size {
			msgs = append(msgs, random(rng, size-size/4+rng.IntN(size/2)))
		}
		out := make([][32]byte, len(msgs))
		for _, width := range widths() {
			b.Run(fmt.Sprintf("%d/%d", size, width), func(b *testing.B) {
				h := New()
				h.lanes = width
				b.SetBytes(512 << 10)
				for b.Loop() {
					h.Sum(msgs, out)
				}
			})
		}
	}
}
