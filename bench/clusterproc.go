package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/erlmcp/erlmcp/bench/clusters"
)

// startLimit is how long members may take to begin, or to find a leader.
const startLimit = 90 * time.Second

// memberProc is a member in a process of its own.
type memberProc struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ready chan struct{} // closed when it runs, or has ended

	mu      sync.Mutex
	enc     *json.Encoder
	last    uint64
	waiting map[uint64]chan answer
	ended   error // why no answer will come
}

func startMember(engine string, o clusters.Options) (*memberProc, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := &memberProc{cmd: exec.Command(exe, "child"), ready: make(chan struct{}), waiting: map[uint64]chan answer{}}
	m.cmd.Stderr = os.Stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	m.enc = json.NewEncoder(m.stdin)
	if err := m.enc.Encode(cell{Kind: "member", Engine: engine, Member: o}); err != nil {
		return nil, err
	}
	go m.listen(stdout)
	return m, nil
}

// listen hands answers to those who wait for them.
func (m *memberProc) listen(stdout io.Reader) {
	in := json.NewDecoder(stdout)
	for up := false; ; {
		var a answer
		err := in.Decode(&a)
		if err != nil {
			m.mu.Lock()
			m.ended = fmt.Errorf("the member's process ended: %w", err)
			for id, c := range m.waiting {
				c <- answer{ID: id, Err: m.ended.Error()}
			}
			m.waiting = nil
			m.mu.Unlock()
			if !up {
				close(m.ready)
			}
			return
		}
		if a.ID == 0 { // it runs; or, later, the outcome of a member that was stopped
			if !up {
				close(m.ready)
			}
			up = true
			continue
		}
		m.mu.Lock()
		c := m.waiting[a.ID]
		delete(m.waiting, a.ID)
		m.mu.Unlock()
		c <- a
	}
}

// begin sends an order; the answer comes through the channel.
func (m *memberProc) begin(o order) <-chan answer {
	c := make(chan answer, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended != nil {
		c <- answer{Err: m.ended.Error()}
		return c
	}
	m.last++
	o.ID = m.last
	m.waiting[o.ID] = c
	if err := m.enc.Encode(o); err != nil {
		delete(m.waiting, o.ID)
		c <- answer{Err: err.Error()}
	}
	return c
}

func (m *memberProc) do(o order) (answer, error) {
	a := <-m.begin(o)
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

func (m *memberProc) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

// stop ends the member in good order.
func (m *memberProc) stop() {
	_ = m.stdin.Close()
	end := time.AfterFunc(20*time.Second, func() { _ = m.cmd.Process.Kill() })
	defer end.Stop()
	_ = m.cmd.Wait()
}

// clusterProc is a cluster of processes.
type clusterProc struct {
	kind    string
	options []clusters.Options
	members []*memberProc // nil: down
}

const clusterSize = 3

// startCluster starts three members and waits until one leads.
func startCluster(kind, dir string, change func(*clusters.Options)) (*clusterProc, error) {
	p := &clusterProc{kind: kind, members: make([]*memberProc, clusterSize)}
	addresses, err := freeAddresses(2 * clusterSize)
	if err != nil {
		return nil, err
	}
	var all [][]string
	for i := range clusterSize {
		all = append(all, addresses[2*i:2*i+2])
	}
	for i := range clusterSize {
		o := clusters.Options{Dir: filepath.Join(dir, fmt.Sprint(kind, "-", i)), ID: i, Members: all}
		if change != nil {
			change(&o)
		}
		p.options = append(p.options, o)
	}
	for i := range p.members {
		if p.members[i], err = startMember(kind, p.options[i]); err != nil {
			p.kill()
			return nil, err
		}
	}
	if _, err := p.settled(); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

func freeAddresses(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that none is given out twice
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// settled waits until all members that are up know the one leader, and have
// applied what it has; it returns who that is.
func (p *clusterProc) settled() (int, error) {
	var seen string
	for end := time.Now().Add(startLimit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		leader, applied, good := -1, uint64(0), true
		states, err := p.states()
		if err != nil {
			return 0, err
		}
		for i, s := range states {
			if s.Leader {
				leader, applied = i, s.Applied
			}
		}
		for i, s := range states {
			good = good && (p.members[i] == nil || s.Known && s.Applied >= applied)
		}
		seen = fmt.Sprintf("%+v", states)
		if leader >= 0 && good {
			return leader, nil
		}
	}
	return 0, fmt.Errorf("%s: no leader that all follow after %v: %s", p.kind, startLimit, seen)
}

// states asks all members that are up.
func (p *clusterProc) states() ([]clusters.State, error) {
	out := make([]clusters.State, len(p.members))
	for i, m := range p.members {
		if m == nil {
			continue
		}
		<-m.ready
		a, err := m.do(order{Do: "state"})
		if err != nil {
			return nil, fmt.Errorf("%s, member %d: %w", p.kind, i, err)
		}
		out[i] = a.State
	}
	return out, nil
}

// press presses one member and adds what it cost all three.
func (p *clusterProc) press(at int, o order) (outcome, error) {
	before, err := p.spent()
	if err != nil {
		return outcome{}, err
	}
	o.Do = "press"
	a, err := p.members[at].do(o)
	if err != nil {
		return outcome{}, fmt.Errorf("%s: %w", p.kind, err)
	}
	after, err := p.spent()
	out := a.Outcome
	out.CPU = (after.cpu - before.cpu) / time.Duration(max(out.Calls, 1))
	out.Written = float64(after.written-before.written) / float64(max(out.Calls, 1))
	return out, err
}

// spending is what all members have spent.
type spending struct {
	cpu     time.Duration
	written int64 // bytes that went to the disk
}

func (p *clusterProc) spent() (c spending, err error) {
	for _, m := range p.members {
		if m == nil {
			continue
		}
		cpu, err := cpuTime(m.cmd.Process.Pid)
		if err != nil {
			return c, err
		}
		written, err := bytesWritten(m.cmd.Process.Pid)
		if err != nil {
			return c, err
		}
		c.cpu += cpu
		c.written += written
	}
	return c, nil
}

// bytesWritten is what a process caused to be written to the disk.
func bytesWritten(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/%d/io has no write_bytes", pid)
}

// down kills a member, or ends it in good order.
func (p *clusterProc) down(i int, kill bool) {
	m := p.members[i]
	p.members[i] = nil
	if kill {
		m.kill()
	} else {
		m.stop()
	}
}

// up starts a member that is down; it does not wait for it.
func (p *clusterProc) up(i int) (err error) {
	p.members[i], err = startMember(p.kind, p.options[i])
	return err
}

func (p *clusterProc) kill() {
	for i, m := range p.members {
		if m != nil {
			p.down(i, true)
		}
	}
}
