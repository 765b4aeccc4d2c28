package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/erlmcp/erlmcp/bench/load"
	"github.com/erlmcp/erlmcp/bench/logs"
	"github.com/erlmcp/erlmcp/bench/report"
)

// walCell presses one log with concurrent durable appends.
func walCell(c cell) (outcome, error) {
	e, err := logs.Pick([]string{c.Engine})
	if err != nil {
		return outcome{}, err
	}
	l, err := e[0].Open(c.Dir, logs.Options{SegmentSize: c.SegmentSize})
	if err != nil {
		return outcome{}, err
	}
	if p, ok := l.(interface{ Prepare() error }); ok {
		if err := p.Prepare(); err != nil {
			return outcome{}, err
		}
		unix.Sync()
	}
	payloads := load.NewPayloads(c.Size, c.Writers, c.Seed)
	r, err := load.Run(load.Config{Workers: c.Writers, Warmup: c.Warmup, Duration: c.Duration},
		func(w int) error { return l.Append(payloads.Next(w)) })
	if err != nil {
		return outcome{}, err
	}
	o := measured(r)
	if s, ok := l.(interface{ PerSync() float64 }); ok {
		o.PerSync = s.PerSync()
	}
	return o, l.Close()
}

func measured(r load.Result) outcome {
	return outcome{Rate: r.Rate(), P50: r.Hist.Quantile(0.50), P99: r.Hist.Quantile(0.99), Max: r.Hist.Max()}
}

// grid is the load tables' axes.
type grid struct {
	sizes, writers []int
	warmup, dur    time.Duration
	profile        string
}

// axes are the flags behind a grid.
type axes struct {
	sizes, writers string
	grid           grid
}

func (a *axes) register(c *common, sizes string) {
	c.flags.StringVar(&a.sizes, "sizes", sizes, "payload bytes")
	c.flags.StringVar(&a.writers, "writers", "1,16,64,256", "writers in flight")
	c.flags.DurationVar(&a.grid.warmup, "warmup", 200*time.Millisecond, "before each measured window")
	c.flags.DurationVar(&a.grid.dur, "dur", 500*time.Millisecond, "measured window of each cell")
	c.flags.StringVar(&a.grid.profile, "profile", "", "directory for one CPU profile per cell")
}

func (a *axes) parse() (g grid, err error) {
	if a.grid.sizes, err = ints(a.sizes); err != nil {
		return g, err
	}
	a.grid.writers, err = ints(a.writers)
	return a.grid, err
}

// at names one column of one table.
type at struct {
	engine        string
	size, writers int
}

// results are the medians over all repetitions.
type results map[at]outcome

// sweep runs every engine at every point, engines innermost and repetitions
// outermost.
func (c *common) sweep(kind string, names []string, g grid, change func(*cell)) (results, error) {
	all := map[at][]outcome{}
	for rep := range c.reps {
		for _, size := range g.sizes {
			for _, writers := range g.writers {
				for _, name := range names {
					one := cell{
						Kind: kind, Engine: name, Dir: filepath.Join(c.dir, "cell"), Size: size, Writers: writers,
						Warmup: g.warmup, Duration: g.dur, Seed: c.seed + uint64(rep),
					}
					if g.profile != "" {
						one.Profile = filepath.Join(g.profile, fmt.Sprintf("%s-%s-%d-%d.pprof", kind, name, size, writers))
					}
					if change != nil {
						change(&one)
					}
					unix.Sync() // what others left dirty is not this cell's burden
					o, err := start(one)
					if err != nil {
						return nil, err
					}
					if err := os.RemoveAll(one.Dir); err != nil {
						return nil, err
					}
					k := at{name, size, writers}
					all[k] = append(all[k], o)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "%s: repetition %d of %d done\n", kind, rep+1, c.reps)
	}
	return medians(all), nil
}

// medians reduces the repetitions of each cell to one.
func medians[K comparable](all map[K][]outcome) map[K]outcome {
	r := map[K]outcome{}
	for k, os := range all {
		var rate, per, written []float64
		var p50, p99, top, cpu []time.Duration
		for _, o := range os {
			rate, per = append(rate, o.Rate), append(per, o.PerSync)
			p50, p99, top = append(p50, o.P50), append(p99, o.P99), append(top, o.Max)
			cpu, written = append(cpu, o.CPU), append(written, o.Written)
		}
		r[k] = outcome{
			Rate: report.Median(rate), PerSync: report.Median(per),
			P50: report.Median(p50), P99: report.Median(p99), Max: report.Median(top), CPU: report.Median(cpu), Written: report.Median(written),
		}
	}
	return r
}

// table shows one payload size: engines down, writers across.
func (r results) table(names []string, size int, writers []int) string {
	heading := []string{"engine"}
	for _, w := range writers {
		heading = append(heading, fmt.Sprintf("%d writers", w))
	}
	t := report.NewTable(heading...)
	for _, n := range names {
		row := []string{n}
		for _, w := range writers {
			o := r[at{n, size, w}]
			row = append(row, fmt.Sprintf("%s (%s/%s)", report.Rate(o.Rate), report.Millis(o.P50), report.Millis(o.P99)))
		}
		t.Row(row...)
	}
	return t.String()
}

// best is the fastest of names at one point, and the lowest p99 among them.
func (r results) best(names []string, size, writers int) (name string, rate float64, p99 time.Duration) {
	for _, n := range names {
		o, ok := r[at{n, size, writers}]
		if !ok {
			continue
		}
		if o.Rate > rate {
			name, rate = n, o.Rate
		}
		if p99 == 0 || o.P99 < p99 {
			p99 = o.P99
		}
	}
	return name, rate, p99
}

func runWAL(args []string) error {
	c := newCommon("wal", logs.Names(func(e logs.Engine) bool { return !e.Store }), 3, args)
	var a axes
	a.register(c, "128,1024,16384")
	cleanup, err := c.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	g, err := a.parse()
	if err != nil {
		return err
	}
	engines, err := logs.Pick(c.names())
	if err != nil {
		return err
	}
	r, err := c.sweep("wal", c.names(), g, nil)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Durable appends per second (p50/p99 in ms); %d repetitions of %v per cell, medians.\n", c.reps, g.dur)
	for _, size := range g.sizes {
		fmt.Fprintf(&b, "\n%d-byte payloads\n\n%s", size, r.table(c.names(), size, g.writers))
	}
	b.WriteString(walRatios(r, engines, g))
	return c.finish(b.String())
}

// walRatios compares our log with raw and with the best peer.
func walRatios(r results, engines []logs.Engine, g grid) string {
	var peers []string
	for _, e := range engines {
		if e.Peer {
			peers = append(peers, e.Name)
		}
	}
	t := report.NewTable("payload", "writers", "erlmcp / raw", "erlmcp / best peer", "best peer", "p99 ms", "lowest p99 of the peers", "entries per sync")
	rows := 0
	for _, size := range g.sizes {
		for _, w := range g.writers {
			ours, ok := r[at{"erlmcp", size, w}]
			name, rate, p99 := r.best(peers, size, w)
			raw := r[at{"raw", size, w}]
			if !ok || rate == 0 || raw.Rate == 0 {
				continue
			}
			rows++
			t.Row(fmt.Sprint(size), fmt.Sprint(w), fmt.Sprintf("%.2f", ours.Rate/raw.Rate), fmt.Sprintf("%.2f", ours.Rate/rate),
				name, report.Millis(ours.P99), report.Millis(p99), fmt.Sprintf("%.0f", ours.PerSync))
		}
	}
	if rows == 0 {
		return ""
	}
	return "\nRatios\n\n" + t.String()
}
