package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// units of sizes, largest first so that formatSize finds the shortest exact form.
var units = []struct {
	name string
	n    int64
}{
	{"TiB", tib},
	{"GiB", gib},
	{"MiB", mib},
	{"KiB", kib},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"kB", 1e3},
	{"B", 1},
}

// parseSize reads a number of bytes: "1048576", "64MiB", "64 MiB", "1.5GiB", "500MB".
func parseSize(v string) (int64, error) {
	number, factor := strings.TrimSpace(v), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.n
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n < 0 {
			return 0, fmt.Errorf("%q is negative: a size is 0 or more", v)
		}
		if n > math.MaxInt64/factor {
			return 0, fmt.Errorf("%q is too large", v)
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || f < 0 {
		return 0, fmt.Errorf("%q is not a size: write bytes or a number with KiB, MiB, GiB, TiB (or KB, MB, GB, TB), for example 64MiB", v)
	}
	if f *= float64(factor); f >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is too large", v)
	}
	return int64(f), nil
}

// formatSize writes n in the largest binary unit that is exact.
func formatSize(n int64) string {
	for _, u := range units[:4] {
		if n >= u.n && n%u.n == 0 {
			return strconv.FormatInt(n/u.n, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// parseDuration reads a Go duration; a plain number is refused because its unit would be a guess.
func parseDuration(v string) (time.Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(v))
	if err != nil {
		if _, numErr := strconv.ParseFloat(v, 64); numErr == nil {
			return 0, fmt.Errorf("%q has no unit: write for example %ss or %sms", v, v, v)
		}
		return 0, fmt.Errorf("%q is not a duration: write a number with ms, s, m or h, for example 30s or 1h30m", v)
	}
	return d, nil
}

// formatDuration writes whole units without Go's trailing zero parts: 30m instead of 30m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ParseSize reads a number of bytes as settings do: "1048576", "64MiB", "1.5GiB", "500MB".
func ParseSize(v string) (int64, error) { return parseSize(v) }
