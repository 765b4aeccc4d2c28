package conversation

import (
	"bufio"
	"bytes"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// server is the fixture server, one process after the other on one directory.
type server struct {
	bin, dir string

	cmd    *exec.Cmd
	ended  chan struct{}
	stderr *logTail
	at     *url.URL // of the present process
}

// start launches a process and waits until it serves.
func (s *server) start() error {
	s.cmd = exec.Command(s.bin, "-http", "127.0.0.1:0", "-data", s.dir)
	if s.stderr == nil {
		s.stderr = new(logTail)
	}
	s.cmd.Stderr = s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is meant for the test
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	s.ended = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ended is known: it was killed, or the reader below fails
		close(s.ended)
	}()
	if readErr != nil {
		<-s.ended
		return fmt.Errorf("the server did not start: %w\n%s", readErr, s.stderr)
	}
	s.at, err = url.Parse(strings.TrimSpace(line))
	return err
}

// kill ends the process with SIGKILL.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // an error means that it is gone
	<-s.ended
}

// logTail keeps the first 64 KiB of what the processes log.
type logTail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() < 64<<10 {
		l.buf.Write(p)
	}
	return len(p), nil
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
