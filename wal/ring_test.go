package wal

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// The ring holds a run of the newest entries, byte for byte, however it grows,
// wraps and is cut.
func TestRingHoldsTheNewestEntries(t *testing.T) {
	for _, limit := range []int64{1 << 10, 100_000, 300_000} {
		rng := rand.New(rand.NewPCG(1, uint64(limit)))
		r := newRing(limit)
		require.LessOrEqual(t, len(r.arena), firstArena)
		held := map[uint64][]byte{}
		next := uint64(1)
		for range 5000 {
			switch rng.IntN(50) {
			case 0:
				next -= uint64(rng.IntN(3)) % next
				r.truncateBack(next)
			case 1:
				r.truncateFront(next - uint64(rng.IntN(10))%next)
			}
			data := bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN([]int{40, 40, 40, 3000, int(limit)}[rng.IntN(5)]))
			r.add(next, next<<8, data)
			held[next] = data
			if len(data) <= int(limit)/2 {
				e, ok := r.get(next, nil)
				require.True(t, ok)
				require.True(t, bytes.Equal(data, e.Data))
			}
			next++
			for i := r.first; i < r.first+uint64(r.n); i += 1 + uint64(rng.IntN(20)) {
				e, ok := r.get(i, nil)
				require.True(t, ok)
				require.Equal(t, i, e.Term)
				require.True(t, bytes.Equal(held[i], e.Data), "entry %d", i)
			}
		}
		require.Len(t, r.arena, int(limit), "grown to its limit")
		require.Positive(t, r.n)
	}
}
