package process

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHistogramCountsEveryGapOnceAndStaysShort(t *testing.T) {
	ms := time.Millisecond
	require.Equal(t, "  300 to   400 ms   2 ##\n  400 to   500 ms   0 \n  500 to   600 ms   1 #\n",
		Histogram([]time.Duration{520 * ms, 300 * ms, 399 * ms}))
	require.Empty(t, Histogram(nil))
	long := Histogram([]time.Duration{100 * ms, 14_900 * ms})
	require.LessOrEqual(t, strings.Count(long, "\n"), 21)
	require.Equal(t, 2, strings.Count(long, "#"))
}
