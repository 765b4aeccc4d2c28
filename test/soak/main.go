// Command soak runs the real erlmcp server under a mixed load, kills it with -9 every few seconds, starts it again, and
// compares what it serves with what the clients were told. `make soak MIN=30` is the usual way to start it.
//
//	|-- lives of a few seconds, each ended by kill -9 ---------------------|-- one undisturbed life ----|
//	   restart, settle, compare, `erlmcp verify`, load, kill                  growth is measured here
//
// Every ten seconds it prints throughput, latencies, memory, open files, size of the data directory and restarts; at the
// end a verdict. Exit code 1: a promise was broken; the data directory is kept then. 2: it could not run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/erlmcp/erlmcp/test/process"
)

func main() {
	var o Options
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the load and of the moments of the kills")
	flag.DurationVar(&o.Duration, "duration", 2*time.Minute, "how long it runs, the last comparison not counted")
	flag.DurationVar(&o.Life, "life", 4*time.Second, "mean time from a start to the kill")
	flag.IntVar(&o.Clients, "clients", 16, "concurrent clients")
	flag.Float64Var(&o.Rate, "rate", 400, "calls per second of all clients together; 0: as fast as they are answered")
	flag.DurationVar(&o.Report, "report", 10*time.Second, "time between two lines of the report")
	flag.Parse()
	o.Seed, o.Out = *seed, os.Stdout

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, o))
}

// run builds the binary, soaks it in a temporary directory and returns the exit code.
func run(ctx context.Context, o Options) int {
	work, err := os.MkdirTemp("", "erlmcp-soak-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 2
	}
	o.Dir = filepath.Join(work, "data")
	if o.Binary, err = process.Build(work); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 2
	}
	verdict, err := Soak(ctx, o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\nThe data directory is kept: %s\n", err, o.Dir)
		return 2
	}
	verdict.Print(o.Out)
	if !verdict.Kept() {
		fmt.Fprintf(o.Out, "The data directory is kept: %s\n", o.Dir)
		return 1
	}
	if err := os.RemoveAll(work); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	return 0
}

// Options of a soak.
type Options struct {
	Binary, Dir string        // program under test and its data directory
	Duration    time.Duration // of everything but the last comparison
	Life        time.Duration // mean, from ready to kill
	Report      time.Duration
	Clients     int
	Rate        float64 // calls per second of all clients; 0: unlimited
	Seed        uint64
	Out         io.Writer
}
