package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/test/load"
	"github.com/erlmcp/erlmcp/test/process"
)

// soak is one run. Its fields belong to the goroutine that runs Soak, except where a mutex says so.
type soak struct {
	o      Options
	rnd    *rand.Rand
	crowd  *load.Load
	server *process.Server
	began  time.Time
	// reported is when the last line was printed; it belongs to the watcher of the current life.
	reported time.Time

	restarts int
	ready    []time.Duration // of each start
	problems []string        // broken promises that are not the crowd's to see

	mu      sync.Mutex
	samples []sample // of the undisturbed life
	all     []time.Duration
}

// steadyShare is the part of the time that belongs to the undisturbed life.
const steadyShare = 3

// fewestLives are ended by kill -9 however slow the machine is.
const fewestLives = 3

// Soak runs to the end of o.Duration or until ctx ends, and judges. An error means that it could not be carried through.
func Soak(ctx context.Context, o Options) (Verdict, error) {
	s := &soak{o: o, rnd: rand.New(rand.NewPCG(o.Seed, 0)), crowd: load.New(o.Clients, o.Rate, o.Seed), began: time.Now()}
	s.reported = s.began
	fmt.Fprintf(o.Out, "soak of %s with %d clients, %.0f calls/s, kill -9 every %s or so, seed %d\n%s\n", o.Duration, o.Clients, o.Rate, o.Life, o.Seed, heading)
	defer func() {
		if s.server != nil {
			s.server.Kill()
		}
	}()
	killing := o.Duration - o.Duration/steadyShare
	for (time.Since(s.began) < killing || s.restarts < fewestLives) && ctx.Err() == nil && s.intact() {
		if err := s.rise(); err != nil {
			return Verdict{}, err
		}
		life := o.Life/2 + time.Duration(s.rnd.Int64N(int64(o.Life)+1))
		if err := s.live(ctx, life, false); err != nil {
			return Verdict{}, err
		}
		s.server.Kill()
	}
	if ctx.Err() == nil && s.intact() {
		if err := s.rise(); err != nil {
			return Verdict{}, err
		}
		if err := s.live(ctx, o.Duration/steadyShare, true); err != nil {
			return Verdict{}, err
		}
		s.server.Kill()
	}
	if err := s.finish(); err != nil {
		return Verdict{}, err
	}
	return s.judge(), nil
}

func (s *soak) intact() bool { return len(s.problems) == 0 && len(s.crowd.Violations()) == 0 }

func (s *soak) options() process.Options {
	return process.Options{Binary: s.o.Binary, Dir: s.o.Dir, Args: []string{"--log-level", "warn"}}
}

// rise starts the server, sometimes after a first attempt that dies during its recovery, and compares.
func (s *soak) rise() error {
	if s.restarts%5 == 4 {
		dying, err := process.Launch(s.options())
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(s.rnd.IntN(60)) * time.Millisecond) // the moment of its death
		dying.Kill()
	}
	var err error
	if s.server, err = process.Start(s.options()); err != nil {
		s.problems = append(s.problems, fmt.Sprintf("start %d failed: %v", s.restarts, err))
		return err
	}
	s.restarts++
	s.ready = append(s.ready, s.server.Ready)
	if s.restarts == 1 {
		return s.crowd.Prepare(context.Background(), s.server)
	}
	return s.check(load.Changed)
}

// check settles and compares, and has the server verify itself.
func (s *soak) check(depth load.Depth) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := s.crowd.Settle(ctx, s.server); err != nil {
		return err
	}
	if err := s.crowd.Compare(ctx, s.server, depth); err != nil {
		return err
	}
	return s.verify(ctx)
}

// verify runs `erlmcp verify`, which asks the server when there is one.
func (s *soak) verify(ctx context.Context) error {
	code, out, err := process.Command(ctx, s.o.Binary, "verify", "--data", s.o.Dir)
	if err == nil && code != 0 {
		s.problems = append(s.problems, fmt.Sprintf("verify ended with code %d:\n%s", code, out))
	}
	return err
}

// live lets the crowd work for a while and reports. A server that dies by itself or cuts a client off is a broken promise.
func (s *soak) live(ctx context.Context, d time.Duration, steady bool) error {
	working, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	stopWatch := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(stopWatch, steady) })
	done := make(chan []error, 1)
	go func() { done <- s.crowd.Run(working, s.server) }()
	var stopped []error
	if steady {
		stopped = <-done
	} else {
		select {
		case stopped = <-done: // ctx ended, or the server is in trouble
		case <-time.After(d * 95 / 100):
			s.server.Kill() // in the middle of the work
			<-done
		}
	}
	close(stopWatch)
	watch.Wait()
	for _, err := range stopped {
		s.problems = append(s.problems, fmt.Sprintf("the server failed a client that it should have served: %v\n%s", err, s.server.Stderr()))
	}
	s.collect(s.crowd.Take())
	return nil
}

// watch prints the report and takes the samples of one life.
func (s *soak) watch(stop <-chan struct{}, steady bool) {
	caller := s.server.Caller()
	defer caller.Close()
	tick := time.NewTicker(min(s.o.Report, time.Second) / 2)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		m, err := caller.Metrics(ctx)
		cancel()
		if err != nil {
			continue // the server was killed
		}
		now := sample{
			at: time.Now(), memory: m["process_resident_memory_bytes"], files: m["process_open_fds"],
			rows: m["erlmcp_store_index_entries"],
		}
		if steady {
			s.mu.Lock()
			s.samples = append(s.samples, now)
			s.mu.Unlock()
		}
		if time.Since(s.reported) >= s.o.Report {
			s.reported = time.Now()
			s.line(now)
		}
	}
}

const heading = "   time  calls/s     p50 ms   p99 ms   max ms   RSS MiB  files   data MiB  orders  starts  ready ms"

// line prints one line of the report.
func (s *soak) line(now sample) {
	iv := s.crowd.Take()
	s.collect(iv)
	slices.Sort(iv.Latencies)
	fmt.Fprintf(s.o.Out, "%7.0fs %8.0f %10.2f %8.2f %8.2f %9.0f %6.0f %10.1f %7d %7d %9.0f\n",
		time.Since(s.began).Seconds(), float64(len(iv.Latencies))/time.Since(iv.Since).Seconds(),
		ms(quantile(iv.Latencies, 0.5)), ms(quantile(iv.Latencies, 0.99)), ms(quantile(iv.Latencies, 1)),
		now.memory/(1<<20), now.files, float64(diskUse(s.o.Dir))/(1<<20), s.crowd.Orders(), s.restarts, ms(s.ready[len(s.ready)-1]))
}

func (s *soak) collect(iv load.Interval) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, iv.Latencies...)
}

// finish starts the server a last time, compares everything, stops it gracefully and verifies the directory.
func (s *soak) finish() error {
	if !s.intact() {
		return nil // keep the directory as it is
	}
	var err error
	if s.server, err = process.Start(s.options()); err != nil {
		return err
	}
	s.restarts++
	s.ready = append(s.ready, s.server.Ready)
	if err := s.check(load.Everything); err != nil {
		return err
	}
	code, err := s.server.Stop()
	if err != nil {
		return err
	}
	if code != 0 {
		s.problems = append(s.problems, fmt.Sprintf("the graceful stop ended with code %d:\n%s", code, s.server.Stderr()))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return s.verify(ctx)
}

// diskUse adds up the files of a directory; what disappears meanwhile counts as nothing.
func diskUse(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || d == nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// quantile of a sorted list; 0 of an empty one.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}
