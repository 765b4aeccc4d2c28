package load

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantilesAreWithinOneThirtySecondOfTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h Hist
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(rng.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		h.Record(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))+0.5), len(all))-1]
		got := h.Quantile(q)
		require.GreaterOrEqual(t, got, want, "q=%v", q)
		require.LessOrEqual(t, float64(got), float64(want)*(1+1.0/32)+1, "q=%v", q)
	}
	require.Equal(t, all[len(all)-1], h.Max())
}

func TestEveryBucketHoldsItsOwnUpperBound(t *testing.T) {
	var h Hist
	for i := range h.buckets[:len(h.buckets)-1] {
		require.Equal(t, i, bucket(upper(i)))
		require.Equal(t, i+1, bucket(upper(i)+1))
	}
}

func TestRunReportsTheErrorOfAWorkerAndStopsAll(t *testing.T) {
	boom := errors.New("boom")
	_, err := Run(Config{Workers: 4, Warmup: time.Hour, Duration: time.Hour}, func(w int) error {
		return boom
	})
	require.ErrorIs(t, err, boom)
}

func TestAWindowGrowsUntilAnOperationHasEndedInIt(t *testing.T) {
	r, err := Run(Config{Workers: 1, Duration: time.Nanosecond}, func(int) error { time.Sleep(5 * time.Millisecond); return nil })
	require.NoError(t, err)
	require.Positive(t, r.Ops)
	require.GreaterOrEqual(t, r.Elapsed, time.Millisecond)
}
