package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/bench/clusters"
	"github.com/erlmcp/erlmcp/bench/report"
	"github.com/erlmcp/erlmcp/test/process"
)

// failoverRun is one run of the command failover.
type failoverRun struct {
	*common
	kills   int
	writers int
	rng     *rand.Rand
}

// longestGap is after how long a failover counts as none.
const longestGap = 2 * time.Minute

func runFailover(args []string) error {
	r := &failoverRun{common: newCommon("failover", []string{"erlmcp", "erlmcp-compat", "raft-wal", "raft-wal-timed", "etcd"}, 1, args)}
	r.flags.IntVar(&r.kills, "kills", 100, "how often the leader of each cluster is killed")
	r.flags.IntVar(&r.writers, "writers", 16, "proposers in the leader's process when it dies")
	cleanup, err := r.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	if r.kills < 1 || r.writers < 1 {
		return errors.New("-kills and -writers must be at least 1")
	}
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return err
	}
	kinds, err := clusters.Pick(r.names())
	if err != nil {
		return err
	}
	r.rng = rand.New(rand.NewPCG(r.seed, 0))
	text, err := r.table(kinds)
	if err != nil {
		return err
	}
	return r.finish(text)
}

// table kills the leaders of the quick clusters in turn, and beside them those
// of the slow ones: these do nothing for seconds but wait.
func (r *failoverRun) table(kinds []clusters.Kind) (string, error) {
	var quick []*clusterProc
	all := map[string][]time.Duration{}
	type end struct {
		name string
		gaps []time.Duration
		err  error
	}
	slow := make(chan end)
	slows := 0
	for _, k := range kinds {
		p, err := startCluster(k.Name, r.dir, nil)
		if err != nil {
			return "", err
		}
		defer p.kill()
		if !k.Slow {
			quick = append(quick, p)
			continue
		}
		slows++
		rng := rand.New(rand.NewPCG(r.seed, 1))
		go func() {
			e := end{name: k.Name}
			for i := 0; i < r.kills && e.err == nil; i++ {
				var gap time.Duration
				gap, e.err = r.killLeader(p, rng)
				e.gaps = append(e.gaps, gap)
			}
			slow <- e
		}()
	}
	for i := range r.kills {
		for _, p := range quick {
			gap, err := r.killLeader(p, r.rng)
			if err != nil {
				return "", err
			}
			all[p.kind] = append(all[p.kind], gap)
		}
		if (i+1)%5 == 0 {
			fmt.Fprintf(os.Stderr, "failover: %d of %d done\n", i+1, r.kills)
		}
	}
	for range slows {
		e := <-slow
		if e.err != nil {
			return "", e.err
		}
		all[e.name] = e.gaps
	}
	return r.text(kinds, all), nil
}

// killLeader kills a leader that is at work and measures how long nobody
// acknowledges a write. Then the member is started again and the cluster comes
// to rest.
func (r *failoverRun) killLeader(p *clusterProc, rng *rand.Rand) (time.Duration, error) {
	leader, err := p.settled()
	if err != nil {
		return 0, err
	}
	load := p.members[leader].begin(order{Do: "press", Writers: r.writers, Size: 1024, Duration: longestGap, Seed: r.seed})
	select {
	case <-time.After(300*time.Millisecond + time.Duration(rng.Int64N(int64(500*time.Millisecond)))):
	case a := <-load:
		return 0, fmt.Errorf("%s: the load ended before the kill: %s", p.kind, a.Err)
	}
	killed := time.Now()
	p.down(leader, true)
	first := make(chan answer, clusterSize)
	for _, m := range p.members {
		if m == nil {
			continue
		}
		c := m.begin(order{Do: "probe", Size: 1024, Duration: longestGap})
		go func() { first <- <-c }()
	}
	var failed []string
	for range clusterSize - 1 {
		a := <-first
		if a.Err == "" {
			gap := time.Since(killed)
			return gap, p.up(leader)
		}
		failed = append(failed, a.Err)
	}
	return 0, fmt.Errorf("%s: nobody took writes again: %s", p.kind, strings.Join(failed, "; "))
}

func (r *failoverRun) text(kinds []clusters.Kind, all map[string][]time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Leader killed with kill -9 while %d proposers write through it; milliseconds until a write begun after the kill is acknowledged, by whichever member (one begins every %d ms on each); %d times each.\n\n",
		r.writers, probeEvery.Milliseconds(), r.kills)
	t := report.NewTable("cluster", "shortest", "median", "90 %", "longest", "how it is set")
	ms := func(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }
	for _, k := range kinds {
		gaps := slices.Sorted(slices.Values(all[k.Name]))
		if n := len(gaps); n > 0 {
			t.Row(k.Name, ms(gaps[0]), ms(report.Median(gaps)), ms(gaps[(n*9-1)/10]), ms(gaps[n-1]), k.About)
		}
	}
	b.WriteString(t.String())
	for _, k := range kinds {
		fmt.Fprintf(&b, "\n%s\n\n", k.Name)
		for line := range strings.Lines(process.Histogram(all[k.Name])) {
			b.WriteString("    " + line)
		}
	}
	return b.String()
}
