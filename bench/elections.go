package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/erlmcp/erlmcp/bench/clusters"
	"github.com/erlmcp/erlmcp/bench/report"
)

// electionsRun is one run of the command elections.
type electionsRun struct {
	*common
	minutes float64
	writers int
	logs    string
}

func runElections(args []string) error {
	r := &electionsRun{common: newCommon("elections", []string{"erlmcp"}, 1, args)}
	r.flags.Float64Var(&r.minutes, "minutes", 10, "how long each cluster is pressed")
	r.flags.IntVar(&r.writers, "writers", 256, "proposers in the leader's process")
	r.flags.StringVar(&r.logs, "logs", "", "directory for the members' own messages")
	cleanup, err := r.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return err
	}
	kinds, err := clusters.Pick(r.names())
	if err != nil {
		return err
	}
	t := report.NewTable("cluster", "minutes", "writes", "per second", "p99 ms", "longest ms", "elections")
	bad := 0
	for _, k := range kinds {
		s, err := r.press(k.Name)
		if err != nil {
			return err
		}
		bad += s.elections
		t.Row(k.Name, fmt.Sprintf("%.1f", s.took.Minutes()), fmt.Sprint(s.writes), report.Rate(float64(s.writes)/s.took.Seconds()),
			report.Millis(s.p99), report.Millis(s.longest), fmt.Sprint(s.elections))
	}
	if err := r.finish(fmt.Sprintf("%d proposers of 1 KiB without a pause; an election is a new term. p99 is the worst of all windows of %v.\n\n%s", r.writers, pressWindow, t)); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d elections while nothing had failed", bad)
	}
	return nil
}

// stretch is what a long load has shown.
type stretch struct {
	took         time.Duration
	writes       uint64
	p99, longest time.Duration
	elections    int
}

// pressWindow is how long the load goes on before it is looked at.
const pressWindow = 10 * time.Second

func (r *electionsRun) press(kind string) (s stretch, err error) {
	p, err := startCluster(kind, r.dir, func(o *clusters.Options) {
		if r.logs != "" {
			o.Log = filepath.Join(r.logs, fmt.Sprintf("%s-%d.log", kind, o.ID))
		}
	})
	if err != nil {
		return s, err
	}
	defer p.kill()
	leader, err := p.settled()
	if err != nil {
		return s, err
	}
	term, err := p.term()
	if err != nil {
		return s, err
	}
	began := time.Now()
	for i := uint64(0); time.Since(began).Minutes() < r.minutes; i++ {
		window := min(pressWindow, time.Duration(r.minutes*float64(time.Minute))-time.Since(began))
		a, pressErr := p.members[leader].do(order{Do: "press", Writers: r.writers, Size: 1024, Duration: max(window, time.Second), Seed: r.seed + i})
		s.writes += a.Outcome.Calls
		s.p99, s.longest = max(s.p99, a.Outcome.P99), max(s.longest, a.Outcome.Max)
		now, err := p.term()
		if err != nil {
			return s, err
		}
		if now != term {
			s.elections += int(now - term)
			fmt.Fprintf(os.Stderr, "elections: %s: term %d became %d in the %v before %s\n", kind, term, now, pressWindow, time.Now().UTC().Format(time.TimeOnly))
			term = now
			if leader, err = p.settled(); err != nil {
				return s, err
			}
		} else if pressErr != nil {
			return s, pressErr
		}
	}
	s.took = time.Since(began)
	if s.writes == 0 {
		return s, errors.New("nothing was written")
	}
	return s, nil
}
