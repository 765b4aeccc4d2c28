package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/erlmcp/erlmcp/bench/report"
)

var commands = map[string]func(args []string) error{
	"wal":       runWAL,
	"engine":    runEngine,
	"recovery":  runRecovery,
	"restart":   runRestart,
	"damage":    runDamage,
	"mcp":       runMCP,
	"backup":    runBackup,
	"cluster":   runCluster,
	"failover":  runFailover,
	"catchup":   runCatchup,
	"elections": runElections,
	"child":     runChild, // one cell; started by the others only
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: bench wal|engine|recovery|restart|damage|mcp|backup|cluster|failover|catchup|elections [flags]; -h after a command lists them")
	}
	err := commands[args[0]](args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}

// common are the flags every command has.
type common struct {
	name    string
	args    []string
	flags   *flag.FlagSet
	dir     string
	engines string
	reps    int
	seed    uint64
	readme  string
	note    string
}

func newCommon(name string, engines []string, reps int, args []string) *common {
	c := &common{name: name, args: args, flags: flag.NewFlagSet(name, flag.ContinueOnError)}
	c.flags.StringVar(&c.dir, "dir", os.TempDir(), "directory on the disk to measure; emptied afterwards")
	c.flags.StringVar(&c.engines, "engines", strings.Join(engines, ","), "which, in table order")
	c.flags.IntVar(&c.reps, "reps", reps, "repetitions; the tables show medians")
	c.flags.Uint64Var(&c.seed, "seed", 1, "of payloads and of places to damage")
	c.flags.StringVar(&c.readme, "readme", "", "file whose section of this name is replaced by the result")
	c.flags.StringVar(&c.note, "note", "", "sentence to print with the result, such as what else ran on the machine")
	return c
}

// parse reads the flags and moves -dir to a fresh directory below the one given.
func (c *common) parse() (cleanup func(), err error) {
	if err := c.flags.Parse(c.args); err != nil {
		return nil, err
	}
	if c.flags.NArg() > 0 || c.reps < 1 {
		return nil, fmt.Errorf("unexpected %q; -reps must be at least 1", c.flags.Args())
	}
	if c.dir, err = os.MkdirTemp(c.dir, "erlmcp-bench-"); err != nil {
		return nil, err
	}
	return func() { _ = os.RemoveAll(c.dir) }, nil
}

func (c *common) names() []string { return strings.Split(c.engines, ",") }

// finish prints the result and writes it to the README when asked.
func (c *common) finish(body string) error {
	command := "go run . " + c.name
	c.flags.Visit(func(f *flag.Flag) {
		if f.Name != "readme" && f.Name != "note" && f.Name != "dir" {
			command += fmt.Sprintf(" -%s %s", f.Name, f.Value)
		}
	})
	text := fmt.Sprintf("`%s`, %s; %s.", command, time.Now().UTC().Format("2006-01-02"), machine(c.dir))
	if c.note != "" {
		text += " " + c.note
	}
	text += "\n\n" + body
	fmt.Println(text)
	if c.readme == "" {
		return nil
	}
	return report.Replace(c.readme, c.name, text)
}

// machine describes what the figures depend on.
func machine(dir string) string {
	var u unix.Utsname
	kernel := "?"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	fs := "?"
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		fs = fmt.Sprintf("file system type %#x", st.Type)
		if st.Type == unix.EXT4_SUPER_MAGIC {
			fs = "ext4"
		}
	}
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, %s", cpuModel(), runtime.NumCPU(), kernel, fs, runtime.Version())
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if k, v, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// ints reads a list like 1,16,64.
func ints(list string) ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a list of positive numbers", list)
		}
		out = append(out, n)
	}
	return out, nil
}
