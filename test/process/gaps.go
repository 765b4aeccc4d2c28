package process

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Histogram draws durations, in any order, in steps of 100 ms or more: never in more than 20 lines.
func Histogram(all []time.Duration) string {
	if len(all) == 0 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(all))
	step := 100 * time.Millisecond
	for span := sorted[len(sorted)-1] - sorted[0].Truncate(step); span/step >= 20; {
		step *= 5
	}
	var b strings.Builder
	i := 0
	for from := sorted[0].Truncate(step); i < len(sorted); from += step {
		n := 0
		for ; i < len(sorted) && sorted[i] < from+step; i++ {
			n++
		}
		fmt.Fprintf(&b, "%5d to %5d ms %3d %s\n", from.Milliseconds(), (from + step).Milliseconds(), n, strings.Repeat("#", n))
	}
	return b.String()
}
