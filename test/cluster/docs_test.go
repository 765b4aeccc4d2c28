package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOperatorsGuide executes the commands of docs/cluster.md, on other ports than those printed.
func TestOperatorsGuide(t *testing.T) {
	raw, err := os.ReadFile("../../docs/cluster.md")
	require.NoError(t, err)
	text := string(raw)
	for _, port := range []string{"7401", "7402", "7403", "8081", "8082", "8083"} {
		a := freeAddress(t)
		text = strings.ReplaceAll(text, "127.0.0.1:"+port, a)
	}
	dir := t.TempDir()
	require.NoError(t, os.Symlink(binary, filepath.Join(dir, "erlmcp")))
	var servers []*exec.Cmd
	end := func() {
		for _, s := range servers {
			_ = s.Process.Kill()
			_ = s.Wait()
		}
		servers = nil
	}
	t.Cleanup(end)
	ran := 0
	for _, block := range blocks(text) {
		if block.after == "after stopping" {
			end()
		}
		for _, line := range block.lines {
			background := strings.HasSuffix(line, "&")
			script := "set -e; " + strings.TrimSuffix(line, "&")
			if background {
				script = "exec " + strings.TrimSuffix(line, "&")
			}
			cmd := func() *exec.Cmd {
				c := exec.Command("bash", "-c", script)
				c.Dir, c.Env = dir, []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "HOME=" + dir}
				return c
			}
			ran++
			if background {
				c := cmd()
				require.NoError(t, c.Start())
				servers = append(servers, c)
				continue
			}
			// A command may have to wait for the server that the line before started.
			var out []byte
			require.Eventually(t, func() bool {
				out, err = cmd().CombinedOutput()
				return err == nil
			}, 30*time.Second, 200*time.Millisecond, "%s", line)
			t.Logf("$ %s\n%s", line, out)
		}
	}
	require.Greater(t, ran, 12)
}

// TestEveryClusterCommandIsInTheGuide: what the program can do, the guide says; and all but remove, which leaves nothing to go on with, is executed above.
func TestEveryClusterCommandIsInTheGuide(t *testing.T) {
	raw, err := os.ReadFile("../../docs/cluster.md")
	require.NoError(t, err)
	help := command(t, "cluster", "--help")
	_, list, ok := strings.Cut(help, "Available Commands:\n")
	require.True(t, ok, help)
	list, _, _ = strings.Cut(list, "\n\n")
	var run []string
	for _, b := range blocks(string(raw)) {
		run = append(run, b.lines...)
	}
	names := 0
	for line := range strings.SplitSeq(list, "\n") {
		name := strings.Fields(line)[0]
		names++
		if name == "remove" {
			require.Contains(t, string(raw), "**remove NAME**")
			continue
		}
		require.Contains(t, strings.Join(run, "\n"), "erlmcp cluster "+name, "the guide does not run it")
	}
	require.Greater(t, names, 8)
}

type block struct {
	after string
	lines []string
}

// blocks are the indented lines behind each <!-- run --> mark.
func blocks(text string) (out []block) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		mark, ok := strings.CutPrefix(lines[i], "<!-- run")
		if !ok {
			continue
		}
		b := block{after: strings.TrimSpace(strings.TrimSuffix(mark, "-->"))}
		for i++; i < len(lines) && strings.HasPrefix(lines[i], "    "); i++ {
			b.lines = append(b.lines, strings.TrimSpace(lines[i]))
		}
		out = append(out, b)
	}
	return out
}
