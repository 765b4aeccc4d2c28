package guide

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// A step is a command of the guide with the output that it shows.
type step struct{ command, output string }

// parse returns the files and the commands of a document: blocks marked
// "go FILE" and "console". In a console a line that begins with "$ " is a
// command, "> " continues one, the rest is output.
func parse(document string) (files map[string]string, steps []step) {
	files = make(map[string]string)
	var block, body string
	inside := false
	for line := range strings.Lines(document) {
		info, fence := strings.CutPrefix(strings.TrimRight(line, "\n"), "```")
		switch {
		case fence && !inside:
			inside, block, body = true, info, ""
		case fence:
			inside = false
			if name, ok := strings.CutPrefix(block, "go "); ok {
				files[name] += body
			}
			if block == "console" {
				steps = append(steps, console(body)...)
			}
		case inside:
			body += line
		}
	}
	return files, steps
}

func console(body string) (steps []step) {
	for line := range strings.Lines(body) {
		command, begins := strings.CutPrefix(line, "$ ")
		more, continues := strings.CutPrefix(line, "> ")
		switch {
		case begins:
			steps = append(steps, step{command: command})
		case continues:
			steps[len(steps)-1].command += more
		default:
			steps[len(steps)-1].output += line
		}
	}
	return steps
}

// matches compares an output with the one shown, where "..." stands for
// anything.
func matches(shown, got string) bool {
	parts := strings.Split(strings.TrimSpace(shown), "...")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(strings.TrimSpace(got))
}

// module writes the guide's program as a module of its own, as a reader has it.
func module(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	here, err := filepath.Abs(root)
	require.NoError(t, err)
	gomod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	text := strings.Replace(string(gomod), "module github.com/erlmcp/erlmcp", "module example.com/notes", 1)
	text += "\nrequire github.com/erlmcp/erlmcp v0.0.0\nreplace github.com/erlmcp/erlmcp => " + here + "\n"
	gosum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	for name, body := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), gosum, 0o600))
	return dir
}

// A shell runs commands one after the other in one bash.
type shell struct {
	in     io.Writer
	out    *bufio.Reader
	stderr bytes.Buffer
}

func newShell(t *testing.T, dir string) *shell {
	t.Helper()
	s := new(shell)
	cmd := exec.CommandContext(t.Context(), "bash")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with everything that it starts
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = &s.stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	s.in, s.out = in, bufio.NewReader(out)
	t.Cleanup(func() { _ = cmd.Wait() }) // t.Context has ended: the group is killed
	return s
}

// run runs one command and returns what it printed.
func (s *shell) run(command string) (string, error) {
	const mark = "--- end of command ---"
	if _, err := fmt.Fprintf(s.in, "%s\necho '%s'\n", command, mark); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if before, ok := strings.CutSuffix(line, mark+"\n"); ok {
			return out.String() + before, nil
		}
		out.WriteString(line)
		if err != nil {
			return out.String(), errors.Join(err, errors.New("the shell ended"))
		}
	}
}

func TestGuideDoesWhatItSays(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs a program")
	}
	for _, program := range []string{"bash", "curl", "sed", "grep", "tee"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed; the guide was NOT run", program)
		}
	}
	document, err := os.ReadFile(filepath.Join(root, "docs", "guide.md"))
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	free := listener.Addr().String()
	require.NoError(t, listener.Close())
	files, steps := parse(strings.ReplaceAll(string(document), "127.0.0.1:8080", free))
	require.Len(t, files, 4)
	require.Greater(t, len(steps), 15)

	dir := module(t, files)
	sh := newShell(t, dir)
	timeout := time.AfterFunc(10*time.Minute, func() { panic("the guide's commands do not end") })
	defer timeout.Stop()
	for _, s := range steps {
		got, err := sh.run(s.command)
		if err != nil || !matches(s.output, got) {
			log, _ := os.ReadFile(filepath.Join(dir, "server.log"))
			t.Fatalf("$ %s\nshown:\n%s\ngot (%v):\n%s\nstderr:\n%s\nserver.log:\n%s", s.command, s.output, err, got, sh.stderr.Bytes(), log)
		}
	}
}

func TestGuideProgramsAreFormatted(t *testing.T) {
	document, err := os.ReadFile(filepath.Join(root, "docs", "guide.md"))
	require.NoError(t, err)
	files, _ := parse(string(document))
	for name, body := range files {
		cmd := exec.CommandContext(t.Context(), "gofmt", "-d")
		cmd.Stdin = strings.NewReader(body)
		diff, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", diff)
		require.Empty(t, string(diff), name)
	}
}

func TestOutputsAreCompared(t *testing.T) {
	require.True(t, matches("{\"id\":1,...\"text\":\"a+b\"...}\n", `{"id":1,"x":2,"text":"a+b","y":3}`))
	require.False(t, matches(`{"id":1,..."text":"a+b"...}`, `{"id":1,"text":"aab"}`))
	require.False(t, matches("", "something"))
	files, steps := parse("x\n```go a.go\npackage a\n```\n```sh\nls\n```\n```console\n$ one \\\n>   more\nout 1\n$ two\n```\n")
	require.Equal(t, map[string]string{"a.go": "package a\n"}, files)
	require.Equal(t, []step{{"one \\\n  more\n", "out 1\n"}, {"two\n", ""}}, steps)
}
