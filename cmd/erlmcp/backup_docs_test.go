package main

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
)

// systemctl stands for the service manager of the guide: it starts and stops the server of the data directory.
const systemctl = `#!/bin/bash
set -euo pipefail
case "$1" in
start)
	setsid erlmcp serve --data LIB/erlmcp --listen 127.0.0.1:0 --metrics-listen off >BASE/serve.out 2>BASE/serve.err </dev/null &
	pid=$!
	echo $pid >BASE/serve.pid
	while kill -0 $pid 2>/dev/null; do grep -q 'Ctrl-C stops it' BASE/serve.out && exit 0; sleep 0.02; done
	cat BASE/serve.err; exit 1 ;;
stop)
	pid=$(cat BASE/serve.pid)
	kill -TERM "$pid" 2>/dev/null || exit 5
	while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done ;;
esac
`

// guide runs the commands of docs/backup.md, with /var/... moved to a temporary place.
type guide struct {
	t                  *testing.T
	base, lib, backups string
	env                []string
	before             string // moment in place of the one in the guide
}

func newGuide(t *testing.T) *guide {
	g := &guide{t: t, base: t.TempDir()}
	g.lib, g.backups = filepath.Join(g.base, "lib"), filepath.Join(g.base, "backups")
	bin := filepath.Join(g.base, "bin")
	for _, d := range []string{g.lib, g.backups, bin} {
		require.NoError(t, os.MkdirAll(d, 0o700))
	}
	script := strings.NewReplacer("LIB", g.lib, "BASE", g.base).Replace(systemctl)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o700))
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "tcpsdump"), "../tcpsdump")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	g.env = append(environment(t), "PATH="+bin+":"+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	t.Cleanup(func() { _ = g.command("systemctl stop erlmcp").Run() })
	return g
}

func (g *guide) data() string { return filepath.Join(g.lib, "erlmcp") }

func (g *guide) repo() string { return filepath.Join(g.backups, "erlmcp") }

func (g *guide) command(script string) *exec.Cmd {
	c := exec.Command("bash", "-euo", "pipefail", "-c", script)
	c.Dir, c.Env = g.base, g.env
	return c
}

// run executes a block of the guide.
func (g *guide) run(script string) string {
	g.t.Helper()
	script = strings.NewReplacer("/var/lib", g.lib, "/var/backups", g.backups, "2026-11-21T14:04:59Z", g.before).Replace(script)
	out, err := g.command(script).CombinedOutput()
	require.NoError(g.t, err, "%s\n%s", script, out)
	return string(out)
}

// some makes work orders on the server of the guide.
func (g *guide) some(name string, n int) {
	g.t.Helper()
	s := &server{t: g.t, dir: g.data()}
	var err error
	s.run, err = admin.ReadRunFile(g.data())
	require.NoError(g.t, err)
	some(g.t, s, name, n)
}

// packs lists the stored objects that hold rows.
func (g *guide) packs() (paths []string) {
	g.t.Helper()
	require.NoError(g.t, filepath.WalkDir(filepath.Join(g.repo(), "packs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		return err
	}))
	require.NotEmpty(g.t, paths)
	return paths
}

// disaster is what happens before a block of the guide, and what must be true after it.
type disaster struct {
	happens func(g *guide)
	after   func(g *guide, output string)
}

// disasters by the names in the guide's comments.
var disasters = map[string]disaster{
	"first steps": {
		happens: func(g *guide) { g.run("systemctl start erlmcp"); g.some("a", 3) },
		after: func(g *guide, out string) {
			require.DirExists(g.t, g.data()+".restored")
			require.Contains(g.t, out, "The backups restore")
		},
	},
	"prepare": {happens: func(g *guide) { g.some("b", 3) }, after: func(*guide, string) {}},
	"site lost": {
		happens: func(g *guide) {
			g.run("systemctl stop erlmcp")
			require.NoError(g.t, os.RemoveAll(g.data()))
		},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "before the move")
			require.Contains(g.t, out, "healthy")
			g.some("c", 3)
			// A restored store has a life of its own, which begins with a backup.
			g.run("erlmcp backup create --repo /var/backups/erlmcp --key-file backup.key --data /var/lib/erlmcp")
			g.run("erlmcp backup copy --repo /var/backups/erlmcp --to /var/backups/erlmcp.copy")
		},
	},
	"store damaged": {
		happens: func(g *guide) {
			g.run("systemctl stop erlmcp")
			damageLog(g.t, g.data(), "c-0")
			_, err := g.command("systemctl start erlmcp").CombinedOutput()
			require.Error(g.t, err, "a server does not start on a damaged log")
		},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "damaged, as feared")
			require.Contains(g.t, out, "would restore")
			kept, err := filepath.Glob(g.data() + ".before-*")
			require.NoError(g.t, err)
			require.Len(g.t, kept, 1)
			g.some("d", 1)
			g.run("erlmcp backup create --repo /var/backups/erlmcp --key-file backup.key --data /var/lib/erlmcp")
			g.run("erlmcp backup copy --repo /var/backups/erlmcp --to /var/backups/erlmcp.copy")
		},
	},
	"wrong key": {
		happens: func(g *guide) {
			wrong := filepath.Join(g.base, "wrong.key")
			require.NoError(g.t, os.WriteFile(wrong, []byte(hex.EncodeToString(make([]byte, 32))+"\n"), 0o600))
			require.NoError(g.t, os.Rename(filepath.Join(g.base, "backup.key"), filepath.Join(g.base, "old.key")))
		},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "wrong passphrase or key file")
			out2, err := g.command("erlmcp backup list --repo " + g.repo() + " --key-file old.key").CombinedOutput()
			require.Error(g.t, err, "its slot was taken away")
			require.Contains(g.t, string(out2), "wrong passphrase or key file")
		},
	},
	"repository damaged": {
		happens: func(g *guide) {
			g.run("erlmcp backup copy --repo /var/backups/erlmcp --to /var/backups/erlmcp.copy")
			packs := g.packs()
			flip(g.t, packs[0])
			require.NoError(g.t, os.Remove(packs[len(packs)-1]))
		},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "DAMAGED")
			require.Contains(g.t, out, "The backups restore")
		},
	},
	"repository damaged for good": {
		happens: func(g *guide) {
			for _, p := range g.packs() {
				require.NoError(g.t, os.Remove(p))
			}
		},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "DAMAGED")
			require.Contains(g.t, out, "The backups restore")
		},
	},
	"deleted by mistake": {
		happens: func(g *guide) {
			time.Sleep(5 * time.Millisecond) // changes have times in whole milliseconds
			g.before = time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
			time.Sleep(5 * time.Millisecond)
			g.some("mistake", 2)
		},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "they differ")
			g.run("systemctl stop erlmcp")
			rows := g.run("tcpsdump store /var/lib/erlmcp")
			require.Contains(g.t, rows, "d-0")
			require.NotContains(g.t, rows, "mistake-0")
		},
	},
	"rekey": {
		happens: func(g *guide) { // of a sound repository with one slot; this one has been through a lot
			g.run(`rm -r /var/backups/erlmcp
				erlmcp backup init   --repo /var/backups/erlmcp --key-file backup.key
				erlmcp backup create --repo /var/backups/erlmcp --key-file backup.key --data /var/lib/erlmcp`)
		},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "Sound")
			_, err := g.command("erlmcp backup list --repo " + g.repo() + " --key-file backup.key").CombinedOutput()
			require.Error(g.t, err, "the old key opens nothing any more")
		},
	},
	"shards": {
		happens: func(*guide) {},
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "added shard")
			require.Contains(g.t, out, "erlmcp.packs")
			require.Contains(g.t, out, "Sound")
		},
	},
	"signed": {
		happens: func(g *guide) { g.run("systemctl start erlmcp"); g.some("e", 2) },
		after: func(g *guide, out string) {
			require.Contains(g.t, out, "signed from link")
			require.DirExists(g.t, g.data()+".signed")
			_, err := g.command("erlmcp backup create --repo " + g.repo() + " --key-file backup.key2 --data " + g.data()).CombinedOutput()
			require.Error(g.t, err, "without the signing key nothing is added")
		},
	},
}

// flip damages one byte in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[len(b)/2] ^= 0x40
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// TestTheCommandsOfTheBackupGuideWork makes the disasters of docs/backup.md and runs its ```sh blocks as they stand. Every block must have a
// disaster, and every disaster its block; the other blocks of the guide show no commands.
func TestTheCommandsOfTheBackupGuideWork(t *testing.T) {
	text, err := os.ReadFile("../../docs/backup.md")
	require.NoError(t, err)
	g := newGuide(t)
	found := regexp.MustCompile("(?s)(?:<!-- test: ([a-z ]+) -->\n)?```([a-z]*)\n(.*?)```\n").FindAllStringSubmatch(string(text), -1)
	seen := map[string]bool{}
	for _, block := range found {
		name := block[1]
		if block[2] != "sh" {
			require.NotContains(t, block[3], "erlmcp ", "a block of commands that nobody runs")
			continue
		}
		if name == "" && len(seen) == 0 {
			name = "first steps"
		}
		d, ok := disasters[name]
		require.True(t, ok, "no disaster is called %q:\n%s", name, block[3])
		seen[name] = true
		d.happens(g)
		d.after(g, g.run(block[3]))
	}
	require.Len(t, seen, len(disasters), fmt.Sprint(seen))
}
