package load

import (
	"math/bits"
	"time"
)

// subBits fixes the resolution: 2^subBits buckets per power of two.
const subBits = 5

// Hist is a latency histogram from 1 ns to more than a century. The zero value
// is empty and ready. It is not safe for concurrent use: one per worker, merged
// at the end.
type Hist struct {
	buckets [(64 - subBits) << subBits]uint32
	count   uint64
	max     time.Duration
}

// Record adds one latency. Negative values count as zero.
func (h *Hist) Record(d time.Duration) {
	h.buckets[bucket(uint64(max(d, 0)))]++
	h.count++
	h.max = max(h.max, d)
}

// Merge adds everything in o to h.
func (h *Hist) Merge(o *Hist) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
	h.max = max(h.max, o.max)
}

// Count is the number of latencies recorded.
func (h *Hist) Count() uint64 { return h.count }

// Max is the largest latency recorded, exactly.
func (h *Hist) Max() time.Duration { return h.max }

// Quantile returns an upper bound of the q-quantile, 0 < q <= 1; zero when the
// histogram is empty.
func (h *Hist) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(q*float64(h.count)+0.5), 1)
	var seen uint64
	for i, n := range h.buckets {
		seen += uint64(n)
		if seen >= rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

func bucket(v uint64) int {
	if v < 1<<subBits {
		return int(v)
	}
	exp := bits.Len64(v) - subBits - 1
	return (exp << subBits) + int(v>>exp)
}

// upper is the largest value which falls into bucket i.
func upper(i int) uint64 {
	if i < 1<<subBits {
		return uint64(i)
	}
	exp := i>>subBits - 1
	mantissa := uint64(i) - uint64(exp)<<subBits
	return (mantissa+1)<<exp - 1
}
