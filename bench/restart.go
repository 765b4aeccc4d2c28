package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/erlmcp/erlmcp/bench/load"
	"github.com/erlmcp/erlmcp/bench/logs"
	"github.com/erlmcp/erlmcp/bench/report"
	"github.com/erlmcp/erlmcp/bench/stores"
	ledger "github.com/erlmcp/erlmcp/test/load"
	"github.com/erlmcp/erlmcp/test/process"
)

// Two kinds of subjects restart: logs, whose owner has its state back only when it has read everything again, and
// stores, which keep their state beside the log. And the whole server.
const (
	logPrefix   = "log "
	storePrefix = "store "
	theServer   = "erlmcp serve"
)

// served is what a subject must do before it serves: a durable write on top of its state.
type served interface {
	write(n int) error
	// state reads what has to be read before the first answer and returns how many entries there are, -1 if it needs none.
	state() (int, error)
}

type servedLog struct {
	l   logs.Log
	gen *entries
}

func (s servedLog) write(n int) error {
	b := make([]byte, s.gen.size)
	s.gen.put(b, n)
	return s.l.Append(b)
}

func (s servedLog) state() (n int, err error) {
	err = s.l.Replay(func([]byte) error { n++; return nil })
	return n, err
}

type servedStore struct {
	s   stores.Store
	gen *entries
}

func (s servedStore) write(n int) error {
	key := binary.BigEndian.AppendUint64(nil, uint64(n)*0x9e3779b97f4a7c15)
	b := make([]byte, s.gen.size)
	s.gen.put(b, n)
	return s.s.Put(key, b)
}

func (s servedStore) state() (int, error) { return -1, nil }

// openServed opens the subject of a cell.
func openServed(c cell) (served, error) {
	gen := newEntries(c.Size, c.Seed)
	if name, ok := cutPrefix(c.Engine, logPrefix); ok {
		e, err := logs.Pick([]string{name})
		if err != nil {
			return nil, err
		}
		l, err := e[0].Open(c.Dir, logs.Options{})
		return servedLog{l, gen}, err
	}
	name, ok := cutPrefix(c.Engine, storePrefix)
	if !ok {
		return nil, fmt.Errorf("no subject named %q", c.Engine)
	}
	e, err := stores.Pick([]string{name})
	if err != nil {
		return nil, err
	}
	s, err := e[0].Open(c.Dir, stores.Options{})
	return servedStore{s, gen}, err
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return s, false
}

// pressCell writes with c.Writers at once for c.Duration. runChild then kills the process while all of them go on.
func pressCell(c cell) (outcome, error) {
	s, err := openServed(c)
	if err != nil {
		return outcome{}, err
	}
	var next, acked atomic.Int64
	broken := make(chan error, 1)
	go func() {
		_, err := load.Run(load.Config{Workers: c.Writers, Duration: 2 * c.Duration}, func(int) error {
			if err := s.write(int(next.Add(1))); err != nil {
				return err
			}
			acked.Add(1)
			return nil
		})
		broken <- errors.Join(err, errors.New("the load ended before the kill"))
	}()
	select {
	case err := <-broken:
		return outcome{}, err
	case <-time.After(c.Duration):
		return outcome{Entries: int(acked.Load())}, nil
	}
}

// riseCell opens what the kill left and works until the first new write is durable.
func riseCell(c cell) (outcome, error) {
	var o outcome
	begin := time.Now()
	s, err := openServed(c)
	if err != nil {
		return o, err
	}
	o.Open = time.Since(begin)
	if o.Entries, err = s.state(); err != nil {
		return o, err
	}
	if err := s.write(1 << 40); err != nil {
		return o, err
	}
	o.Fill = time.Since(begin) // everything
	return o, nil
}

func runRestart(args []string) error {
	names := []string{theServer}
	for _, n := range []string{"erlmcp", "pebble", "bbolt", "badger"} {
		names = append(names, storePrefix+n)
	}
	for _, n := range []string{"erlmcp-grow", "raft-wal", "etcd", "pebble"} {
		names = append(names, logPrefix+n)
	}
	c := newCommon("restart", names, 3, args)
	size := c.flags.Int("size", 1024, "payload bytes")
	writers := c.flags.Int("writers", 64, "concurrent writers until the kill")
	dur := c.flags.Duration("dur", 8*time.Second, "load before the kill")
	cleanup, err := c.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	all := map[string][]outcome{}
	for rep := range c.reps {
		for _, name := range c.names() {
			one := cell{Engine: name, Dir: filepath.Join(c.dir, "data"), Size: *size, Writers: *writers, Duration: *dur, Seed: c.seed + uint64(rep)}
			o, err := restartOnce(one, c.dir)
			if err != nil {
				return err
			}
			all[name] = append(all[name], o)
			if err := os.RemoveAll(one.Dir); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "restart: repetition %d of %d done\n", rep+1, c.reps)
	}
	return c.finish(restartTable(c, all, *size, *writers, *dur))
}

// restartOnce presses, kills and starts again. A subject that comes back with less than it acknowledged fails the run.
func restartOnce(c cell, dir string) (outcome, error) {
	unix.Sync()
	if c.Engine == theServer {
		return restartServer(c, dir)
	}
	c.Kind = "press"
	pressed, err := start(c)
	if err != nil {
		return outcome{}, err
	}
	used, err := usedMB(c.Dir)
	if err != nil {
		return outcome{}, err
	}
	c.Kind = "rise"
	o, err := start(c)
	if err != nil {
		return o, err
	}
	if o.Entries >= 0 && o.Entries < pressed.Entries {
		return o, fmt.Errorf("restart: %s acknowledged %d entries and came back with %d", c.Engine, pressed.Entries, o.Entries)
	}
	o.Entries, o.DiskMB = pressed.Entries, used
	return o, nil
}

// restartServer does the same to the real server: work orders over HTTP as fast as they are answered, kill -9, start,
// ready when the banner stands. What was acknowledged is compared afterwards.
func restartServer(c cell, dir string) (outcome, error) {
	binary := filepath.Join(dir, "erlmcp")
	if _, err := os.Stat(binary); err != nil {
		build := exec.Command("go", "build", "-trimpath", "-o", binary, "./cmd/erlmcp")
		build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return outcome{}, fmt.Errorf("build the server: %w\n%s", err, out)
		}
	}
	o := process.Options{Binary: binary, Dir: c.Dir, Args: []string{"--log-level", "warn"}}
	s, err := process.Start(o)
	if err != nil {
		return outcome{}, err
	}
	people := ledger.New(c.Writers, 0, c.Seed)
	ctx := context.Background()
	if err := people.Prepare(ctx, s); err != nil {
		s.Kill()
		return outcome{}, err
	}
	done := make(chan struct{})
	go func() { people.Run(ctx, s); close(done) }()
	time.Sleep(c.Duration) // the length of the load is what is asked for
	s.Kill()
	<-done
	used, err := usedMB(c.Dir)
	if err != nil {
		return outcome{}, err
	}
	if s, err = process.Start(o); err != nil {
		return outcome{}, err
	}
	defer s.Kill()
	if err := people.Settle(ctx, s); err != nil {
		return outcome{}, err
	}
	if err := people.Compare(ctx, s, ledger.Everything); err != nil {
		return outcome{}, err
	}
	if v := people.Violations(); len(v) > 0 {
		return outcome{}, fmt.Errorf("restart: the server broke a promise: %v", v[0])
	}
	return outcome{Open: s.Ready, Fill: s.Ready, Entries: people.Totals().Changes, DiskMB: used}, nil
}

func restartTable(c *common, all map[string][]outcome, size, writers int, dur time.Duration) string {
	t := report.NewTable("subject", "acknowledged", "MB on disk", "open s", "serving s", "worst s")
	for _, name := range c.names() {
		var open, total []time.Duration
		var disk, acked []float64
		var worst time.Duration
		for _, o := range all[name] {
			open, total = append(open, o.Open), append(total, o.Fill)
			disk, acked = append(disk, o.DiskMB), append(acked, float64(o.Entries))
			worst = max(worst, o.Fill)
		}
		t.Row(name, fmt.Sprintf("%.0f", report.Median(acked)), fmt.Sprintf("%.0f", report.Median(disk)), fmt.Sprintf("%.2f", report.Median(open).Seconds()),
			fmt.Sprintf("%.2f", report.Median(total).Seconds()), fmt.Sprintf("%.2f", worst.Seconds()))
	}
	return fmt.Sprintf("%d writers of %d bytes for %v, then kill -9 in the middle of it, then a new process; medians of %d. "+
		"A store serves when its first new write is durable; a log serves when its owner has read it all again and the first new append is durable; "+
		"the server serves when /ready says so, %d clients of the ledger worked before, and everything it had acknowledged is compared afterwards.\n\n%s",
		writers, size, dur, c.reps, writers, t)
}

// killSelf ends the process as kill -9 does.
func killSelf() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) }
