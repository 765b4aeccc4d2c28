package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/test/load"
)

// sample is a look at the server during the undisturbed life.
type sample struct {
	at            time.Time
	memory, files float64 // bytes resident, open file descriptors
	rows          float64 // index entries, which live in memory by design: one part of the growth is the data itself
}

// Growth is what memory and open files did between the second and the last quarter of the undisturbed life.
type Growth struct {
	Judged       bool          // false: the life was too short to tell growth from warming up
	Span         time.Duration // between the middles of the two quarters
	Memory       float64       // bytes
	Files        float64
	Rows         float64
	MemoryBudget float64 // bytes that may have come
	FilesBudget  float64
}

const (
	// shortestLife is how long the undisturbed life must be to judge growth: before, caches, rings and memory tables still
	// fill, at the default rate for minutes.
	shortestLife = 5 * time.Minute
	// bytesPerRow is what one more index entry may cost in memory, everything around it included.
	bytesPerRow = 1024
	// memorySlack covers what is not growth: two memory tables, the caches, and a heap that the garbage collector lets double.
	memorySlack = 64 << 20
	// fileSlack covers a flush or compaction at the moment of the sample.
	fileSlack = 8
)

// growth compares medians, which single spikes do not move.
func growth(samples []sample) Growth {
	n := len(samples) / 4
	if n < 3 {
		return Growth{}
	}
	early, late := samples[n:2*n], samples[len(samples)-n:]
	g := Growth{
		Judged: samples[len(samples)-1].at.Sub(samples[0].at) >= shortestLife, Span: late[n/2].at.Sub(early[n/2].at),
		Memory: delta(early, late, func(s sample) float64 { return s.memory }),
		Files:  delta(early, late, func(s sample) float64 { return s.files }),
		Rows:   delta(early, late, func(s sample) float64 { return s.rows }),
	}
	g.MemoryBudget, g.FilesBudget = memorySlack+max(0, g.Rows)*bytesPerRow, fileSlack
	return g
}

func delta(early, late []sample, of func(sample) float64) float64 {
	median := func(list []sample) float64 {
		values := make([]float64, 0, len(list))
		for _, s := range list {
			values = append(values, of(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return median(late) - median(early)
}

func (g Growth) kept() bool {
	return !g.Judged || g.Memory <= g.MemoryBudget && g.Files <= g.FilesBudget
}

func (g Growth) print(w io.Writer) {
	if g.Span == 0 {
		fmt.Fprintf(w, "growth      NOT JUDGED: there was no undisturbed life to measure\n")
		return
	}
	perHour := float64(time.Hour) / float64(g.Span)
	fmt.Fprintf(w, "growth      in %s without a kill: RSS %+.1f MiB (%+.0f MiB/h; budget %.0f MiB for %.0f more index entries), open files %+.0f (%+.0f/h; budget %.0f)\n",
		g.Span.Round(time.Second), g.Memory/(1<<20), g.Memory/(1<<20)*perHour, g.MemoryBudget/(1<<20), g.Rows, g.Files, g.Files*perHour, g.FilesBudget)
	if !g.Judged {
		fmt.Fprintf(w, "            NOT JUDGED: a life shorter than %s is still warming up (run at least %.0f minutes)\n", shortestLife, (steadyShare * shortestLife).Minutes())
	}
}

// Verdict is the end of a soak.
type Verdict struct {
	Seed             uint64
	Took             time.Duration
	Starts           int
	ReadyP50         time.Duration
	ReadyMax         time.Duration
	P50, P99, Max    time.Duration // of all answered calls
	Totals           load.Totals
	Growth           Growth
	Lost, Twice, Bad int      // broken promises by kind; Bad: all others
	Broken           []string // in words
}

func (s *soak) judge() Verdict {
	slices.Sort(s.all)
	slices.Sort(s.ready)
	v := Verdict{
		Seed: s.o.Seed, Took: time.Since(s.began), Starts: s.restarts,
		ReadyP50: quantile(s.ready, 0.5), ReadyMax: quantile(s.ready, 1),
		P50: quantile(s.all, 0.5), P99: quantile(s.all, 0.99), Max: quantile(s.all, 1),
		Totals: s.crowd.Totals(), Growth: growth(s.samples), Broken: append(s.problems, s.crowd.Violations()...),
	}
	for _, b := range v.Broken {
		switch {
		case strings.HasPrefix(b, "LOST"):
			v.Lost++
		case strings.HasPrefix(b, "TWICE"):
			v.Twice++
		default:
			v.Bad++
		}
	}
	return v
}

// Kept reports whether every promise was kept and something was tried at all.
func (v Verdict) Kept() bool { return len(v.Broken) == 0 && v.Growth.kept() && v.Totals.Changes > 0 }

// Print writes the verdict for people.
func (v Verdict) Print(w io.Writer) {
	t := v.Totals
	fmt.Fprintf(w, "\n%s, seed %d\n", v.Took.Round(time.Second), v.Seed)
	fmt.Fprintf(w, "load        %d calls: %d changes acknowledged, %d repeats, %d reads, refused %v\n", t.Calls, t.Changes, t.Repeats, t.Reads, t.Refused)
	fmt.Fprintf(w, "latency     p50 %.2f ms, p99 %.2f ms, max %.0f ms\n", ms(v.P50), ms(v.P99), ms(v.Max))
	fmt.Fprintf(w, "restarts    %d starts, ready after %.0f ms (median), %.0f ms (max)\n", v.Starts, ms(v.ReadyP50), ms(v.ReadyMax))
	fmt.Fprintf(w, "comparison  %d records compared, %d changes without an answer settled afterwards\n", t.Compared, t.Settled)
	v.Growth.print(w)
	for _, b := range v.Broken {
		fmt.Fprintf(w, "BROKEN      %s\n", b)
	}
	word := "all promises kept"
	if !v.Growth.Judged {
		word += ", growth not judged"
	}
	switch {
	case t.Changes == 0:
		word = "FAILED: nothing was acknowledged, so nothing was tested"
	case !v.Growth.kept():
		word = "FAILED: memory or open files grow"
	case !v.Kept():
		word = "FAILED"
	}
	fmt.Fprintf(w, "verdict     lost %d, twice %d, other violations %d: %s\n", v.Lost, v.Twice, v.Bad, word)
}
