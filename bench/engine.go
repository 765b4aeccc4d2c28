package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/erlmcp/erlmcp/bench/load"
	"github.com/erlmcp/erlmcp/bench/report"
	"github.com/erlmcp/erlmcp/bench/stores"
)

// keySpace is how many different keys the transactions write.
const keySpace = 1 << 20

// engineCell presses one store with one-write transactions on random keys.
func engineCell(c cell) (outcome, error) {
	e, err := stores.Pick([]string{c.Engine})
	if err != nil {
		return outcome{}, err
	}
	s, err := e[0].Open(c.Dir, stores.Options{})
	if err != nil {
		return outcome{}, err
	}
	payloads := load.NewPayloads(c.Size, c.Writers, c.Seed)
	keys := make([][]byte, c.Writers)
	rngs := make([]*rand.Rand, c.Writers)
	for w := range c.Writers {
		keys[w] = make([]byte, 16)
		rngs[w] = rand.New(rand.NewPCG(c.Seed, uint64(w)<<32))
	}
	r, err := load.Run(load.Config{Workers: c.Writers, Warmup: c.Warmup, Duration: c.Duration}, func(w int) error {
		// Spread over the whole key range, as hashed identifiers are.
		n := rngs[w].Uint64N(keySpace)
		binary.BigEndian.PutUint64(keys[w], n*0x9e3779b97f4a7c15)
		binary.BigEndian.PutUint64(keys[w][8:], n)
		return s.Put(keys[w], payloads.Next(w))
	})
	if err != nil {
		return outcome{}, err
	}
	return measured(r), s.Close()
}

func runEngine(args []string) error {
	c := newCommon("engine", stores.Names(), 3, args)
	var a axes
	a.register(c, "1024")
	cleanup, err := c.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	g, err := a.parse()
	if err != nil {
		return err
	}
	if _, err := stores.Pick(c.names()); err != nil {
		return err
	}
	r, err := c.sweep("engine", c.names(), g, nil)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Durable transactions per second, one Put each, random keys of 16 bytes (p50/p99 in ms); %d repetitions of %v per cell, medians.\n", c.reps, g.dur)
	for _, size := range g.sizes {
		fmt.Fprintf(&b, "\n%d-byte values\n\n%s", size, r.table(c.names(), size, g.writers))
	}
	b.WriteString(engineRatios(r, c.names(), g))
	return c.finish(b.String())
}

// engineRatios divides our store by each of the others.
func engineRatios(r results, names []string, g grid) string {
	t := report.NewTable("value", "writers", "erlmcp against", "ratio")
	rows := 0
	for _, size := range g.sizes {
		for _, w := range g.writers {
			ours, ok := r[at{"erlmcp", size, w}]
			if !ok {
				continue
			}
			for _, n := range names {
				if o := r[at{n, size, w}]; n != "erlmcp" && o.Rate > 0 {
					rows++
					t.Row(fmt.Sprint(size), fmt.Sprint(w), n, fmt.Sprintf("%.2f", ours.Rate/o.Rate))
				}
			}
		}
	}
	if rows == 0 {
		return ""
	}
	return "\nRatios\n\n" + t.String()
}
