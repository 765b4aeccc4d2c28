package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/erlmcp/erlmcp/bench/load"
	"github.com/erlmcp/erlmcp/bench/mcpclient"
	"github.com/erlmcp/erlmcp/bench/mcpserve"
	"github.com/erlmcp/erlmcp/bench/report"
)

// taskClients is how many clients make tasks at once.
const taskClients = 64

// taskCell makes durable tasks: c.Engine is the name of the tool.
func taskCell(c cell) (outcome, error) {
	clients := make([]*mcpclient.Client, c.Writers)
	for i := range clients {
		var err error
		if clients[i], err = mcpclient.Dial(c.Address, c.Path, mcpclient.New); err != nil {
			return outcome{}, err
		}
		defer clients[i].Close()
	}
	var calls atomic.Uint64
	r, err := load.Run(load.Config{Workers: c.Writers, Warmup: c.Warmup, Duration: c.Duration}, func(w int) error {
		calls.Add(1)
		return clients[w].Task(c.Engine, payload)
	})
	if err != nil {
		return outcome{}, err
	}
	o := measured(r)
	o.Calls = calls.Load()
	return o, nil
}

// taskTable measures how many durable tasks a second can be made. Nobody else
// has them, so there is nothing to compare with.
func (r *mcpRun) taskTable() (string, error) {
	t := report.NewTable("tasks", "made per second", "p50 ms", "p99 ms", "µs of processor time each")
	for _, c := range []struct{ tool, label string }{
		{"park", "made only (every worker is busy)"},
		{"task", "made while 64 workers run them to their end"},
	} {
		var all []outcome
		for rep := range r.reps {
			o, err := r.taskOnce(c.tool, rep)
			if err != nil {
				return "", err
			}
			all = append(all, o)
		}
		o := medians(map[string][]outcome{"": all})[""]
		t.Row(c.label, report.Rate(o.Rate), report.Millis(o.P50), report.Millis(o.P99), fmt.Sprint(o.CPU.Microseconds()))
		fmt.Fprintf(os.Stderr, "mcp: tasks, %s, done\n", c.tool)
	}
	return fmt.Sprintf("\nDurable tasks, protocol %s, %d clients; the task is on disk before its id is answered; %d repetitions of %v, medians\n\n%s",
		mcpclient.New, taskClients, r.reps, r.dur, t), nil
}

func (r *mcpRun) taskOnce(tool string, rep int) (outcome, error) {
	b, err := mcpserve.Pick("erlmcp")
	if err != nil {
		return outcome{}, err
	}
	dir := filepath.Join(r.common.dir, fmt.Sprintf("tasks-%s-%d", tool, rep))
	defer os.RemoveAll(dir)
	s, err := startServer(b, dir, "")
	if err != nil {
		return outcome{}, err
	}
	defer s.stop()
	return s.press(cell{
		Kind: "mcp-task", Engine: tool, Address: s.address, Path: s.New,
		Writers: taskClients, Warmup: r.warmup, Duration: r.dur,
	})
}
