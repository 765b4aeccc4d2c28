package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/erlmcp/erlmcp/bench/load"
	"github.com/erlmcp/erlmcp/bench/mcpclient"
	"github.com/erlmcp/erlmcp/bench/mcpserve"
	"github.com/erlmcp/erlmcp/bench/report"
)

// payload is the text that echo calls carry.
const payload = "sixteen bytes..."

// serveCell runs one MCP server until stdin ends. Its address is its only output
// before the outcome.
func serveCell(c cell) (outcome, error) {
	b, err := mcpserve.Pick(c.Engine)
	if err != nil {
		return outcome{}, err
	}
	address, stop, err := mcpserve.Start(b, c.Dir)
	if err != nil {
		return outcome{}, err
	}
	defer stop()
	fmt.Println(address)
	_, err = io.Copy(io.Discard, os.Stdin)
	return outcome{}, err
}

// echoCell presses a running server with c.Writers clients.
func echoCell(c cell) (outcome, error) {
	clients := make([]*mcpclient.Client, c.Writers)
	for i := range clients {
		var err error
		if clients[i], err = mcpclient.Dial(c.Address, c.Path, c.Version); err != nil {
			return outcome{}, err
		}
		defer clients[i].Close()
		if c.Version == mcpclient.Old {
			if err := clients[i].Initialize(); err != nil {
				return outcome{}, err
			}
		}
	}
	var calls atomic.Uint64
	r, err := load.Run(load.Config{Workers: c.Writers, Warmup: c.Warmup, Duration: c.Duration}, func(w int) error {
		calls.Add(1)
		return clients[w].Echo(payload)
	})
	if err != nil {
		return outcome{}, err
	}
	o := measured(r)
	o.Calls = calls.Load()
	return o, nil
}

// A mcpServer is a server in a process of its own.
type mcpServer struct {
	mcpserve.Backend
	address string
	dir     string
	cmd     *exec.Cmd
	stdin   io.Closer
}

// startServer starts backend b with its state in dir. A CPU profile of its
// whole life is written to the file profile, unless that is empty.
func startServer(b mcpserve.Backend, dir, profile string) (*mcpServer, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &mcpServer{Backend: b, dir: dir, cmd: exec.Command(exe, "child")}
	s.cmd.Stderr = os.Stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stdin = stdin
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(stdin).Encode(cell{Kind: "mcp-serve", Engine: b.Name, Dir: dir, Profile: profile}); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = s.cmd.Process.Kill()
		return nil, fmt.Errorf("server %s did not start: %w", b.Name, err)
	}
	s.address = strings.TrimSpace(address)
	return s, nil
}

func (s *mcpServer) stop() {
	_ = s.stdin.Close()
	end := time.AfterFunc(15*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer end.Stop()
	_ = s.cmd.Wait()
}

// kill ends the server as a crash would.
func (s *mcpServer) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// press runs one cell against the server and adds what it cost the server.
func (s *mcpServer) press(c cell) (outcome, error) {
	before, err := cpuTime(s.cmd.Process.Pid)
	if err != nil {
		return outcome{}, err
	}
	o, err := start(c)
	if err != nil {
		return o, err
	}
	after, err := cpuTime(s.cmd.Process.Pid)
	o.CPU = (after - before) / time.Duration(max(o.Calls, 1))
	return o, err
}

// cpuTime is what a process spent on the processors, in the kernel too.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // behind the name, which may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // USER_HZ is 100
}

// memory asks what the server holds.
func (s *mcpServer) memory() (m mcpserve.Memory, err error) {
	resp, err := http.Get("http://" + s.address + "/mem")
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	return m, json.NewDecoder(resp.Body).Decode(&m)
}

func (s *mcpServer) path(version string) string {
	if version == mcpclient.Old {
		return s.Old
	}
	return s.New
}

// mcpRun is one run of the command.
type mcpRun struct {
	*common
	clients     []int
	warmup, dur time.Duration
	sessions    int
	streams     int
	tasks       bool
	servers     []*mcpServer
}

func runMCP(args []string) error {
	var names []string
	for _, b := range mcpserve.Backends() {
		names = append(names, b.Name)
	}
	r := &mcpRun{common: newCommon("mcp", names, 5, args)}
	clients := r.flags.String("clients", "1,16,64", "clients at once")
	r.flags.DurationVar(&r.warmup, "warmup", 500*time.Millisecond, "before each measured window")
	r.flags.DurationVar(&r.dur, "dur", 2*time.Second, "measured window of each cell")
	r.flags.IntVar(&r.sessions, "sessions", 10_000, "idle sessions in the memory table; 0 leaves it out")
	r.flags.IntVar(&r.streams, "streams", 1_000, "open streams in the memory table; 0 leaves it out")
	r.flags.BoolVar(&r.tasks, "tasks", true, "measure durable tasks too")
	profile := r.flags.String("profile", "", "existing directory for one CPU profile of each server under echo calls")
	cleanup, err := r.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	if r.common.dir, err = filepath.Abs(r.common.dir); err != nil {
		return err
	}
	if r.clients, err = ints(*clients); err != nil {
		return err
	}
	defer r.stopAll()
	file := ""
	for i, name := range r.names() {
		b, err := mcpserve.Pick(name)
		if err != nil {
			return err
		}
		if *profile != "" {
			file = filepath.Join(*profile, "mcp-"+name+".pprof")
		}
		s, err := startServer(b, filepath.Join(r.common.dir, fmt.Sprint("server-", i)), file)
		if err != nil {
			return err
		}
		r.servers = append(r.servers, s)
	}
	text, err := r.echoTables()
	if err != nil {
		return err
	}
	r.stopAll()
	more, err := r.memoryTables()
	if err != nil {
		return err
	}
	text += more
	if r.tasks {
		if more, err = r.taskTable(); err != nil {
			return err
		}
		text += more
	}
	return r.finish(text)
}

func (r *mcpRun) stopAll() {
	for _, s := range r.servers {
		s.stop()
	}
	r.servers = nil
}

// point names a cell of the echo tables.
type point struct {
	server, version string
	clients         int
}

// echoTables measures all servers in turn, round after round.
func (r *mcpRun) echoTables() (string, error) {
	all := map[point][]outcome{}
	for rep := range r.reps {
		for _, version := range []string{mcpclient.Old, mcpclient.New} {
			for _, clients := range r.clients {
				for _, s := range r.servers {
					o, err := s.press(cell{
						Kind: "mcp-echo", Engine: s.Name, Address: s.address, Path: s.path(version), Version: version,
						Writers: clients, Warmup: r.warmup, Duration: r.dur,
					})
					if err != nil {
						return "", err
					}
					p := point{s.Name, version, clients}
					all[p] = append(all[p], o)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "mcp: repetition %d of %d done\n", rep+1, r.reps)
	}
	peaks, err := r.peaks()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Echo calls per second (p50/p99 in ms; µs of the server's processor time per call); %d repetitions of %v per cell, medians. Peak memory is the process's, over all cells.\n", r.reps, r.dur)
	medians := medians(all)
	for _, version := range []string{mcpclient.Old, mcpclient.New} {
		fmt.Fprintf(&b, "\nProtocol %s\n\n%s", version, r.echoTable(medians, version, peaks))
	}
	b.WriteString(r.echoRatios(medians))
	return b.String(), nil
}

func (r *mcpRun) peaks() (map[string]int64, error) {
	out := map[string]int64{}
	for _, s := range r.servers {
		m, err := s.memory()
		if err != nil {
			return nil, err
		}
		out[s.Name] = m.Peak
	}
	return out, nil
}

func (r *mcpRun) echoTable(medians map[point]outcome, version string, peaks map[string]int64) string {
	heading := []string{"server"}
	for _, n := range r.clients {
		heading = append(heading, fmt.Sprintf("%d clients", n))
	}
	t := report.NewTable(append(heading, "peak memory")...)
	for _, s := range r.servers {
		row := []string{s.Name}
		for _, n := range r.clients {
			o := medians[point{s.Name, version, n}]
			row = append(row, fmt.Sprintf("%s (%s/%s; %d)", report.Rate(o.Rate), report.Millis(o.P50), report.Millis(o.P99), o.CPU.Microseconds()))
		}
		t.Row(append(row, fmt.Sprintf("%d MiB", peaks[s.Name]>>20))...)
	}
	return t.String()
}

// echoRatios divides ours by each of the others: calls per second, and what
// theirs spend on a call by what ours spends, which other work on the machine
// disturbs less.
func (r *mcpRun) echoRatios(medians map[point]outcome) string {
	heading := []string{"protocol", "erlmcp against"}
	for _, n := range r.clients {
		heading = append(heading, fmt.Sprintf("%d clients: rate", n), "processor time")
	}
	t := report.NewTable(heading...)
	rows := 0
	for _, version := range []string{mcpclient.Old, mcpclient.New} {
		for _, s := range r.servers {
			row := []string{version, s.Name}
			for _, n := range r.clients {
				ours, theirs := medians[point{"erlmcp", version, n}], medians[point{s.Name, version, n}]
				if s.Name != "erlmcp" && ours.Rate > 0 && theirs.Rate > 0 {
					row = append(row, fmt.Sprintf("%.2f", ours.Rate/theirs.Rate), fmt.Sprintf("%.2f", float64(theirs.CPU)/float64(ours.CPU)))
				}
			}
			if len(row) > 2 {
				t.Row(row...)
				rows++
			}
		}
	}
	if rows == 0 {
		return ""
	}
	return "\nRatios\n\n" + t.String()
}
