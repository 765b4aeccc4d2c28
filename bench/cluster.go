package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/erlmcp/erlmcp/bench/clusters"
	"github.com/erlmcp/erlmcp/bench/load"
	"github.com/erlmcp/erlmcp/bench/mcpclient"
	"github.com/erlmcp/erlmcp/bench/report"
)

// clusterRun is one run of the command cluster.
type clusterRun struct {
	*common
	size             int
	writers, clients []int
	warmup, dur      time.Duration
	profile          string
}

func runCluster(args []string) error {
	r := &clusterRun{common: newCommon("cluster", []string{"erlmcp", "raft-wal", "raft-wal-tuned", "raft-wal-pebble", "raft-boltdb", "etcd"}, 3, args)}
	writers := r.flags.String("writers", "1,64,256", "proposers at once, in the leader's process")
	clients := r.flags.String("clients", "1,16,64", "MCP clients at once; empty leaves MCP out")
	r.flags.IntVar(&r.size, "size", 1024, "bytes of a row")
	r.flags.DurationVar(&r.warmup, "warmup", 300*time.Millisecond, "before each measured window")
	r.flags.DurationVar(&r.dur, "dur", 2*time.Second, "measured window of each cell")
	r.flags.StringVar(&r.profile, "profile", "", "directory for CPU profiles of the leaders and of a follower")
	cleanup, err := r.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return err
	}
	if r.writers, err = ints(*writers); err != nil {
		return err
	}
	kinds, err := clusters.Pick(r.names())
	if err != nil {
		return err
	}
	text, err := r.writeTables(kinds)
	if err != nil {
		return err
	}
	if *clients != "" {
		if r.clients, err = ints(*clients); err != nil {
			return err
		}
		more, err := r.mcpTable()
		if err != nil {
			return err
		}
		text += more
	}
	return r.finish(text)
}

// loadPoint is a column of the tables.
type loadPoint struct {
	kind    string
	writers int
}

// writeTables runs all clusters at once and presses them in turn.
func (r *clusterRun) writeTables(kinds []clusters.Kind) (string, error) {
	running := map[string]*clusterProc{}
	terms := map[string]uint64{}
	defer func() {
		for _, p := range running {
			p.kill()
		}
	}()
	for _, k := range kinds {
		p, err := startCluster(k.Name, r.dir, nil)
		if err != nil {
			return "", err
		}
		running[k.Name] = p
		if terms[k.Name], err = p.term(); err != nil {
			return "", err
		}
	}
	all := map[loadPoint][]outcome{}
	for rep := range r.reps {
		for _, w := range r.writers {
			for _, k := range kinds {
				o, err := r.pressOnce(running[k.Name], w, rep)
				if err != nil {
					return "", err
				}
				at := loadPoint{k.Name, w}
				all[at] = append(all[at], o)
			}
		}
		fmt.Fprintf(os.Stderr, "cluster: repetition %d of %d done\n", rep+1, r.reps)
	}
	changes := map[string]uint64{}
	for name, p := range running {
		now, err := p.term()
		if err != nil {
			return "", err
		}
		changes[name] = now - terms[name]
	}
	return r.writeText(kinds, medians(all), changes), nil
}

// term is the highest of all members.
func (p *clusterProc) term() (uint64, error) {
	states, err := p.states()
	var most uint64
	for _, s := range states {
		most = max(most, s.Term)
	}
	return most, err
}

func (r *clusterRun) pressOnce(p *clusterProc, writers, rep int) (outcome, error) {
	o := order{Writers: writers, Size: r.size, Warmup: r.warmup, Duration: r.dur, Seed: r.seed + uint64(rep)}
	if r.profile != "" {
		o.Profile = filepath.Join(r.profile, fmt.Sprintf("cluster-%s-%d.pprof", p.kind, writers))
	}
	unix.Sync()
	for tries := 0; ; tries++ {
		leader, err := p.settled()
		if err != nil {
			return outcome{}, err
		}
		if r.profile != "" {
			path := filepath.Join(r.profile, fmt.Sprintf("cluster-%s-%d-follower.pprof", p.kind, writers))
			done := p.members[(leader+1)%clusterSize].begin(order{Do: "profile", Profile: path, Duration: r.warmup + r.dur})
			defer func() { <-done }()
		}
		out, err := p.press(leader, o)
		if err == nil || tries == 3 {
			return out, err
		}
		fmt.Fprintf(os.Stderr, "cluster: %v: again\n", err) // the leader changed; the table of terms tells
	}
}

func (r *clusterRun) writeText(kinds []clusters.Kind, m map[loadPoint]outcome, changes map[string]uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Committed writes of %d bytes per second, three processes on the loopback, proposers in the leader's process (p50/p99 in ms); %d repetitions of %v per cell, medians.\n\n",
		r.size, r.reps, r.dur)
	heading := []string{"cluster"}
	for _, w := range r.writers {
		heading = append(heading, fmt.Sprintf("%d proposers", w))
	}
	rates := report.NewTable(append(heading, "changes of leader")...)
	costs := report.NewTable(heading...)
	for _, k := range kinds {
		row, spent := []string{k.Name}, []string{k.Name}
		for _, w := range r.writers {
			o := m[loadPoint{k.Name, w}]
			row = append(row, fmt.Sprintf("%s (%s/%s)", report.Rate(o.Rate), report.Millis(o.P50), report.Millis(o.P99)))
			spent = append(spent, fmt.Sprintf("%d µs, %.1f KiB", o.CPU.Microseconds(), o.Written/1024))
		}
		rates.Row(append(row, fmt.Sprint(changes[k.Name]))...)
		costs.Row(spent...)
	}
	fmt.Fprintf(&b, "%s\nWhat a write costs all three processes together: processor time, bytes written to the disk\n\n%s", rates, costs)
	b.WriteString(r.ratios(kinds, m))
	b.WriteString("\nHow they are set\n\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "* %s: %s\n", k.Name, k.About)
	}
	return b.String()
}

// ratios divides ours by each of the others.
func (r *clusterRun) ratios(kinds []clusters.Kind, m map[loadPoint]outcome) string {
	heading := []string{"erlmcp against"}
	for _, w := range r.writers {
		heading = append(heading, fmt.Sprintf("%d: rate", w), "p99", "processor time")
	}
	t := report.NewTable(heading...)
	rows := 0
	for _, k := range kinds {
		row := []string{k.Name}
		for _, w := range r.writers {
			ours, theirs := m[loadPoint{"erlmcp", w}], m[loadPoint{k.Name, w}]
			if k.Peer && ours.Rate > 0 && theirs.Rate > 0 {
				row = append(row, fmt.Sprintf("%.2f", ours.Rate/theirs.Rate), fmt.Sprintf("%.2f", float64(ours.P99)/float64(theirs.P99)),
					fmt.Sprintf("%.2f", float64(ours.CPU)/float64(theirs.CPU)))
			}
		}
		if len(row) > 1 {
			t.Row(row...)
			rows++
		}
	}
	if rows == 0 {
		return ""
	}
	return "\nRatios, ours divided by theirs: a rate above 1, p99 and processor time below 1 are better\n\n" + t.String()
}

// putCell calls the tool "put" of a running server with c.Writers clients, each
// with a session of its own.
func putCell(c cell) (outcome, error) {
	all := make([]*mcpclient.Client, c.Writers)
	for i := range all {
		var err error
		if all[i], err = mcpclient.Dial(c.Address, c.Path, c.Version); err != nil {
			return outcome{}, err
		}
		defer all[i].Close()
		if c.Version == mcpclient.Old {
			if err := all[i].Initialize(); err != nil {
				return outcome{}, err
			}
		}
	}
	text := strings.Repeat("0123456789abcdef", c.Size/16+1)[:c.Size]
	done := make([]uint64, c.Writers)
	r, err := load.Run(load.Config{Workers: c.Writers, Warmup: c.Warmup, Duration: c.Duration}, func(w int) error {
		done[w]++
		return all[w].Put(fmt.Sprint(w, "-", done[w]%(clusters.KeySpace/64)), text)
	})
	if err != nil {
		return outcome{}, err
	}
	o := measured(r)
	for _, n := range done {
		o.Calls += n
	}
	return o, nil
}

// mcpTable presses the MCP server of the leader, and that of a follower.
func (r *clusterRun) mcpTable() (string, error) {
	p, err := startCluster(clusters.MCP.Name, r.dir, nil)
	if err != nil {
		return "", err
	}
	defer p.kill()
	type place struct {
		where   string
		version string
		clients int
	}
	all := map[place][]outcome{}
	places := []string{"leader", "follower"}
	versions := []string{mcpclient.Old, mcpclient.New}
	for rep := range r.reps {
		for _, version := range versions {
			for _, n := range r.clients {
				for _, where := range places {
					o, err := r.putOnce(p, where, version, n)
					if err != nil {
						return "", err
					}
					at := place{where, version, n}
					all[at] = append(all[at], o)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "cluster: MCP, repetition %d of %d done\n", rep+1, r.reps)
	}
	m := medians(all)
	heading := []string{"protocol", "asked"}
	for _, n := range r.clients {
		heading = append(heading, fmt.Sprintf("%d clients", n))
	}
	t := report.NewTable(heading...)
	for _, version := range versions {
		for _, where := range places {
			row := []string{version, where}
			for _, n := range r.clients {
				o := m[place{where, version, n}]
				row = append(row, fmt.Sprintf("%s (%s/%s; %d)", report.Rate(o.Rate), report.Millis(o.P50), report.Millis(o.P99), o.CPU.Microseconds()))
			}
			t.Row(row...)
		}
	}
	return fmt.Sprintf("\nCalls of an MCP tool that keeps %d bytes in a durable transaction, over HTTP, the audit log on, per second (p50/p99 in ms; µs of all three members' processor time per call)\n\n%s",
		r.size, t), nil
}

func (r *clusterRun) putOnce(p *clusterProc, where, version string, clients int) (outcome, error) {
	unix.Sync()
	leader, err := p.settled()
	if err != nil {
		return outcome{}, err
	}
	at := leader
	if where != "leader" {
		at = (leader + 1) % clusterSize
	}
	states, err := p.states()
	if err != nil {
		return outcome{}, err
	}
	before, err := p.spent()
	if err != nil {
		return outcome{}, err
	}
	o, err := start(cell{
		Kind: "mcp-put", Engine: p.kind, Address: states[at].Address, Path: "/mcp", Version: version, Size: r.size,
		Writers: clients, Warmup: r.warmup, Duration: r.dur,
	})
	if err != nil {
		return o, err
	}
	after, err := p.spent()
	o.CPU = (after.cpu - before.cpu) / time.Duration(max(o.Calls, 1))
	return o, err
}
