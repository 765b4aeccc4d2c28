package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/erlmcp/erlmcp/bench/clusters"
)

// cell is one measurement, as the parent hands it to a child.
type cell struct {
	Kind        string // key of kinds
	Engine      string
	Dir         string
	Size        int // payload bytes
	Writers     int
	Warmup      time.Duration
	Duration    time.Duration
	Seed        uint64
	Entries     int // to write, or to expect
	Batch       int // entries per sync when filling
	SegmentSize int
	Reads       bool   // read before each write, in the same transaction
	Profile     string // write a CPU profile there

	Limit time.Duration // longest run of the child; default cellTimeout

	Address, Path, Version string // of an MCP server that runs, and the revision to speak

	Member clusters.Options // of a cluster
	rest   io.Reader        // what follows the cell on stdin
}

// outcome is what a child found. Err is set when the engine itself reported an
// error, which some cells are made to provoke.
type outcome struct {
	Rate          float64
	P50, P99, Max time.Duration
	PerSync       float64 // entries per sync, 0 when the engine does not tell
	Open, Read    time.Duration
	Fill          time.Duration
	Entries       int // acknowledged entries which came back right and in order
	Wrong         int // entries with other bytes or out of order
	Err           string
	Crashed       bool // the child died without an answer
	DiskMB        float64

	Calls uint64        // all that an MCP server answered, the warm-up's too
	CPU   time.Duration // what the server, or all members of a cluster, spent on one of them; set by the parent

	Written float64 // bytes that all members of a cluster wrote to the disk for one of them; set by the parent
}

// kinds are the things a child can do.
var kinds = map[string]func(cell) (outcome, error){
	"wal":    walCell,
	"engine": engineCell,
	"fill":   fillCell,
	"replay": replayCell,
	"press":  pressCell,
	"rise":   riseCell,

	"backup-fill":   backupFillCell,
	"backup-change": backupChangeCell,
	"backup-dump":   backupDumpCell,

	"mcp-serve": serveCell,
	"mcp-echo":  echoCell,
	"mcp-task":  taskCell,

	"member":  memberCell,
	"mcp-put": putCell,
}

// runChild does the one cell on stdin and answers on stdout.
func runChild([]string) error {
	var c cell
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&c); err != nil {
		return fmt.Errorf("child: %w", err)
	}
	c.rest = io.MultiReader(in.Buffered(), os.Stdin)
	do := kinds[c.Kind]
	if do == nil {
		return fmt.Errorf("child: no kind %q", c.Kind)
	}
	if c.Profile != "" {
		f, err := os.Create(c.Profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	o, err := do(c)
	pprof.StopCPUProfile()
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.Kind, c.Engine, err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		return err
	}
	if c.Kind == "fill" || c.Kind == "press" { // a crash right after the last acknowledgement, or amid many
		return killSelf()
	}
	return nil
}

// cellTimeout ends a child which a damaged file sent round in circles.
const cellTimeout = 5 * time.Minute

// start runs c in a fresh process. A child which died without an answer is an
// error, and the outcome then says Crashed, for cells in which that is one too.
func start(c cell) (outcome, error) {
	exe, err := os.Executable()
	if err != nil {
		return outcome{}, err
	}
	in, err := json.Marshal(c)
	if err != nil {
		return outcome{}, err
	}
	var out, errs bytes.Buffer
	limit := c.Limit
	if limit == 0 {
		limit = cellTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "child")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errs
	runErr := cmd.Run()
	var o outcome
	if err := json.NewDecoder(&out).Decode(&o); err != nil {
		o.Crashed = true
		o.Err = lastLine(errs.Bytes())
		if runErr == nil {
			runErr = err
		}
		return o, fmt.Errorf("%s %s: %w: %s", c.Kind, c.Engine, runErr, errs.String())
	}
	return o, nil
}

// lastLine of a panic or error text is enough for a table.
func lastLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line)
}

// usedMB is what a directory occupies on disk.
func usedMB(dir string) (float64, error) {
	var blocks int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !d.IsDir() {
			blocks += st.Blocks
		}
		return nil
	})
	return float64(blocks) * 512 / (1 << 20), err
}

// ignoreGone lets a live log rename and delete files under the walk.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
