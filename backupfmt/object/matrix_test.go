package object

import (
	"math/rand/v2"
	"testing"

	"github.com/klauspost/reedsolomon"
	"github.com/stretchr/testify/require"
)

func TestParityIsThatOfTheVandermondeMatrix(t *testing.T) {
	rng := rand.New(rand.NewPCG(60, 1))
	for _, size := range [][2]int{{1, 4}, {2, 4}, {3, 4}, {16, 4}, {60, 4}, {248, 7}} {
		data, parity := size[0], size[1]
		want, err := reedsolomon.New(data, parity)
		require.NoError(t, err)
		got, err := coder(layout{data: data, parity: parity})
		require.NoError(t, err)
		var a, b [][]byte
		for i := range data + parity {
			s := make([]byte, 64)
			if i < data {
				for k := range s {
					s[k] = byte(rng.Uint32())
				}
			}
			a, b = append(a, s), append(b, append([]byte(nil), s...))
		}
		require.NoError(t, want.Encode(a))
		require.NoError(t, got.Encode(b))
		require.Equal(t, a, b, "%d+%d", data, parity)
		for range parity {
			b[rng.IntN(len(b))] = nil
		}
		require.NoError(t, got.Reconstruct(b))
		require.Equal(t, a, b, "%d+%d", data, parity)
	}
}
