// Package process runs the real erlmcp binary for tests from outside: build it, start it, kill it, call its tools over HTTP
// and read its metrics. It knows nothing about what the tools mean (package load does).
//
// A Server belongs to one goroutine; Call and Metrics are safe for concurrent use.
package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Patience is how long something is waited for that takes milliseconds on an idle machine.
const Patience = 60 * time.Second

// root is the directory of the module, found from the working directory upwards.
func root() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, statErr := os.Stat(filepath.Join(dir, "go.mod")); statErr == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("there is no go.mod above the working directory")
		}
	}
	return "", err
}

// Build compiles cmd/erlmcp into dir, as `make build` does, with the given build tags, and returns the binary's path.
func Build(dir string, tags ...string) (string, error) {
	module, err := root()
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, strings.Join(append([]string{"erlmcp"}, tags...), "-"))
	cmd := exec.Command("go", "build", "-trimpath", "-tags", strings.Join(tags, ","), "-o", name, "./cmd/erlmcp")
	cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build erlmcp: %w\n%s", err, out)
	}
	return name, nil
}

// Options say what to start.
type Options struct {
	Binary string
	Dir    string   // data directory
	Args   []string // more arguments of serve
	Env    []string // more environment
	Wrap   []string // a command that runs the server, such as ip netns exec NAME; it must become the server
	Listen string   // default: a free port of the loopback
}

// Server is a process that was started.
type Server struct {
	Ready time.Duration // from start to the banner; 0 before

	cmd            *exec.Cmd
	stdout, stderr *tail
	ended          chan struct{}
	run            struct {
		PID     int    `json:"pid"`
		Metrics string `json:"metrics"`
		MCPURL  string `json:"mcp_url"`
	}
}

// Launch starts `erlmcp serve` on free ports and does not wait for it.
func Launch(o Options) (*Server, error) {
	s := &Server{stdout: newTail(), stderr: newTail(), ended: make(chan struct{})}
	listen := o.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	line := append(append(append([]string{}, o.Wrap...), o.Binary, "serve", "--data", o.Dir, "--listen", listen, "--metrics-listen", "127.0.0.1:0"), o.Args...)
	s.cmd = exec.Command(line[0], line[1:]...)
	// Nothing of the developer's own settings.
	s.cmd.Env = append([]string{"HOME=" + filepath.Dir(o.Dir), "PATH=" + os.Getenv("PATH")}, o.Env...)
	s.cmd.Stdout, s.cmd.Stderr = s.stdout, s.stderr
	// A group of its own: Ctrl-C is meant for the test, which ends the server in its own way.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // the exit code is read from ProcessState
		close(s.ended)
	}()
	return s, nil
}

// Start launches a server and waits until it serves. A server that ends instead is an error with what it said.
func Start(o Options) (*Server, error) {
	begin := time.Now()
	s, err := Launch(o)
	if err != nil {
		return nil, err
	}
	timeout := time.After(Patience)
	for !strings.Contains(s.stdout.String(), "Ctrl-C stops it.") {
		select {
		case <-s.stdout.news:
		case <-s.ended:
			return nil, fmt.Errorf("the server ended at its start with code %d:\n%s", s.ExitCode(), s.Stderr())
		case <-timeout:
			s.Kill()
			return nil, fmt.Errorf("the server did not get ready within %s:\n%s", Patience, s.Stderr())
		}
	}
	s.Ready = time.Since(begin)
	raw, err := os.ReadFile(filepath.Join(o.Dir, "serve.json"))
	if err == nil {
		err = json.Unmarshal(raw, &s.run)
	}
	if err == nil && s.run.PID != s.cmd.Process.Pid {
		err = fmt.Errorf("serve.json names process %d, not %d", s.run.PID, s.cmd.Process.Pid)
	}
	if err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

// Kill ends the process with SIGKILL and waits until it is gone. It may be called again.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // an error means that it is gone
	<-s.ended
}

// Stop sends SIGTERM and returns the exit code.
func (s *Server) Stop() (int, error) {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return -1, err
	}
	return s.Wait(Patience)
}

// Wait returns the exit code once the process has ended by itself.
func (s *Server) Wait(limit time.Duration) (int, error) {
	select {
	case <-s.ended:
		return s.ExitCode(), nil
	case <-time.After(limit):
		return -1, fmt.Errorf("the server still runs after %s", limit)
	}
}

// Ended is closed when the process is gone.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// ExitCode of a process that has ended.
func (s *Server) ExitCode() int { return s.cmd.ProcessState.ExitCode() }

// Stderr returns the newest 64 KiB of what the process logged.
func (s *Server) Stderr() string { return s.stderr.String() }

// Logged waits until the process has written text to stderr.
func (s *Server) Logged(text string) error {
	timeout := time.After(Patience)
	for !strings.Contains(s.Stderr(), text) {
		select {
		case <-s.stderr.news:
		case <-timeout:
			return fmt.Errorf("%q did not appear on stderr:\n%s", text, s.Stderr())
		}
	}
	return nil
}

// Command runs another command of the binary that ends by itself, e.g. verify, and returns its exit code and output.
func Command(ctx context.Context, binary string, args ...string) (code int, output string, err error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{"HOME=" + os.TempDir(), "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, string(out), err
	}
	return cmd.ProcessState.ExitCode(), string(out), ctx.Err()
}

// tail keeps the newest bytes of an output: a soak must not grow because its server logs.
type tail struct {
	news chan struct{} // one token when something was written

	mu sync.Mutex
	b  []byte
}

const tailBytes = 64 << 10

func newTail() *tail { return &tail{news: make(chan struct{}, 1)} }

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	t.mu.Unlock()
	select {
	case t.news <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// URL is where clients find the server's MCP endpoint.
func (s *Server) URL() string { return s.run.MCPURL }
