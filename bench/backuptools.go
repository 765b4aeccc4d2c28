package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cost is what a command took. CPU and memory are those of the process and its children (wait4).
type cost struct {
	wall, cpu time.Duration
	rss       int64 // bytes, of the largest process
}

// plus adds the cost of a second command to that of a first.
func (c cost) plus(d cost) cost {
	return cost{wall: c.wall + d.wall, cpu: c.cpu + d.cpu, rss: max(c.rss, d.rss)}
}

// backupTool is a program that backs a directory up.
type backupTool struct {
	name    string // in tables
	version string
	repo    string
	env     []string
	// input: "file" one sorted dump, "checkpoint" the directory of a Pebble checkpoint; ours reads the store itself.
	input string

	setup, create, restore, scrub, prune [][]string // commands
}

// timed runs commands one after the other after a sync(2), in dir, and returns what they cost together and what the last one printed.
func timed(dir string, env []string, commands [][]string) (total cost, out []byte, err error) {
	unix.Sync()
	for _, args := range commands {
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
		cmd.Env = append(os.Environ(), env...)
		begin := time.Now()
		err := cmd.Run()
		took := time.Since(begin)
		if err != nil {
			return total, nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
		}
		u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			return total, nil, fmt.Errorf("%s: no resource usage", args[0])
		}
		total = total.plus(cost{wall: took, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), rss: u.Maxrss << 10})
		out = stdout.Bytes()
	}
	return total, out, nil
}

// treeBytes is the sum of the sizes of all files.
func treeBytes(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// linkTree makes a copy of a directory of files that are never changed once they are complete, as a Pebble checkpoint does: tables are linked,
// the rest is copied.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case d.Name() == "LOCK":
			return nil
		case strings.HasSuffix(d.Name(), ".sst"):
			return os.Link(path, filepath.Join(to, rel))
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

// splitLines yields the lines of a text.
func splitLines(b []byte) iter.Seq[[]byte] { return bytes.SplitSeq(bytes.TrimSpace(b), []byte("\n")) }

// firstLine runs a command and returns the first line that it prints; empty if it is not there.
func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// peers are the tools beside ours that are installed, each for both inputs. keys and caches stay below dir.
func backupPeers(dir string, names []string) (out []*backupTool) {
	for _, name := range names {
		program, input, _ := strings.Cut(name, "/")
		if input == "" {
			input = "file"
		}
		repo := filepath.Join(dir, "repo-"+strings.ReplaceAll(name, "/", "-"))
		t := &backupTool{name: name, repo: repo, input: input}
		switch {
		case strings.HasPrefix(program, "restic"):
			t.restic(program, dir)
		case program == "borg":
			t.borg(dir)
		default:
			continue
		}
		if t.version != "" {
			out = append(out, t)
		}
	}
	return out
}

func (t *backupTool) restic(program, dir string) {
	t.version = firstLine(program, "version")
	t.env = []string{"RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=" + t.repo, "RESTIC_CACHE_DIR=" + filepath.Join(dir, "cache-"+filepath.Base(t.repo))}
	t.setup = [][]string{{program, "init"}}
	t.create = [][]string{{program, "backup", "--quiet", "W"}}
	t.restore = [][]string{{program, "restore", "--quiet", "latest", "--target", "R"}}
	t.scrub = [][]string{{program, "check", "--quiet", "--read-data"}}
	t.prune = [][]string{{program, "forget", "--quiet", "--keep-last", "1", "--group-by", "", "--prune"}}
}

func (t *backupTool) borg(dir string) {
	t.version = firstLine("borg", "--version")
	t.env = []string{"BORG_PASSPHRASE=bench", "BORG_REPO=" + t.repo, "BORG_BASE_DIR=" + filepath.Join(dir, "borg")}
	t.setup = [][]string{{"borg", "init", "-e", "repokey-blake2"}}
	t.create = [][]string{{"borg", "create", "--compression", "zstd,3", "::{now:%Y%m%dT%H%M%S%f}", "W"}}
	t.restore = [][]string{{"sh", "-c", `cd R && borg extract "::$(borg list --last 1 --format '{archive}')"`}}
	t.scrub = [][]string{{"borg", "check", "--verify-data"}}
	t.prune = [][]string{{"borg", "prune", "--keep-last", "1"}, {"borg", "compact", "--threshold", "0"}}
}
