package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/bench/report"
	"github.com/erlmcp/erlmcp/test/process"
)

// The phases of a backup's life, in table order.
const (
	phaseFull     = "full"
	phaseSame     = "no change"
	phaseRandom   = "1 % + 1 % anywhere"
	phaseRuns     = "1 % + 1 % in runs"
	phaseLog      = "log written"
	phaseRestore  = "restore"
	phaseReplay   = "restore with log"
	phaseScrub    = "read and check all"
	phaseFullMore = "another full"
	phasePrune    = "prune"
	phasePlain    = "full, not encrypted"
	phaseSmall    = "0.1 % + 0.1 % anywhere"
	phaseLarge    = "5 % + 5 % anywhere"
)

// lifeCosts is what the phases of one tool gave.
type lifeCosts struct {
	cost  map[string]cost
	added map[string]int64 // bytes that the repository grew by; after prune: its size
}

func newLifeCosts() lifeCosts { return lifeCosts{map[string]cost{}, map[string]int64{}} }

// backupBench is one size.
type backupBench struct {
	c      *common
	dir    string // of this size and repetition
	binary string
	key    string
	total  int // records
	log    int // MB written between the last two backups, which a restore to the moment before the last one replays
	seed   uint64
}

func runBackup(args []string) error {
	c := newCommon("backup", []string{"erlmcp", "restic", "restic/checkpoint", "borg", "borg/checkpoint"}, 1, args)
	sizes := c.flags.String("sizes", "1024", "MiB of records, a list; the first is measured beside the peers, all make the curve")
	log := c.flags.Int("log", 100, "MB written before the last backup, which one restore replays")
	cleanup, err := c.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	mib, err := ints(*sizes)
	if err != nil {
		return err
	}
	binary, err := buildProduct(c.dir)
	if err != nil {
		return err
	}
	var body strings.Builder
	var curve []string
	rows := report.NewTable("records", "phase", "wall s", "CPU s", "peak MB", "stored MB")
	for n, size := range mib {
		results := map[string][]lifeCosts{}
		var peers []*backupTool
		for rep := range c.reps {
			b := &backupBench{c: c, dir: filepath.Join(c.dir, fmt.Sprintf("%d-%d", size, rep)), binary: binary, log: *log, seed: c.seed + uint64(rep)}
			peers = nil
			if n == 0 {
				peers = backupPeers(b.dir, c.names())
			}
			if err := b.run(size, peers, results, rep); err != nil {
				return err
			}
			if err := os.RemoveAll(b.dir); err != nil {
				return err
			}
		}
		if n == 0 {
			body.WriteString(backupTables(size, *log, c.names(), peers, results))
		}
		curveRows(rows, size, results["erlmcp"])
		curve = append(curve, fmt.Sprint(size))
	}
	fmt.Fprintf(&body, "\nCost of erlmcp against the size of the store (%s MiB of records) and of the change\n\n%s", strings.Join(curve, ", "), rows)
	return c.finish(body.String())
}

// buildProduct compiles the program that is measured.
func buildProduct(dir string) (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if err := os.Chdir(".."); err != nil {
		return "", err
	}
	binary, err := process.Build(dir)
	return binary, errors.Join(err, os.Chdir(here))
}

func (b *backupBench) path(name string) string { return filepath.Join(b.dir, name) }

// child runs a cell on the store.
func (b *backupBench) child(kind, version, path string) (outcome, error) {
	b.seed++
	return start(cell{Kind: kind, Engine: "erlmcp", Dir: b.path("data"), Entries: b.total, Seed: b.seed, Version: version, Path: path, Limit: time.Hour})
}

// change alters the store and keeps count of its records.
func (b *backupBench) change(version string) error {
	o, err := b.child("backup-change", version, "")
	b.total = o.Entries
	return err
}

// run measures all tools once. The store goes through its states; of each the peers get what they read later.
func (b *backupBench) run(size int, peers []*backupTool, results map[string][]lifeCosts, rep int) error {
	for _, d := range []string{b.dir, b.path("W"), b.path("R")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	b.key = b.path("key")
	if err := os.WriteFile(b.key, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return err
	}
	b.total = size << 20 / meanRecord
	if _, err := b.child("backup-fill", "", ""); err != nil {
		return err
	}
	m := newLifeCosts()
	if err := b.ours(m, peers); err != nil {
		return err
	}
	results["erlmcp"] = append(results["erlmcp"], m)
	for i := range peers { // another first one each time
		t := peers[(i+rep)%len(peers)]
		m := newLifeCosts()
		if err := b.peer(t, m); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		results[t.name] = append(results[t.name], m)
	}
	return nil
}

// keep stores what peers back up later: the dump and the checkpoint of this state.
func (b *backupBench) keep(state string, peers []*backupTool) error {
	for _, input := range []string{"file", "checkpoint"} {
		wanted := false
		for _, t := range peers {
			wanted = wanted || t.input == input
		}
		if !wanted {
			continue
		}
		to := b.path(state + "-" + input)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if input == "checkpoint" {
			if err := linkTree(filepath.Join(b.path("data"), "store"), to); err != nil {
				return err
			}
			continue
		}
		if _, err := b.child("backup-dump", "", filepath.Join(to, "orders.ndjson")); err != nil {
			return err
		}
	}
	return nil
}

// erlmcp runs one command of ours on a repository.
func (b *backupBench) erlmcp(m lifeCosts, phase, repo string, args ...string) ([]byte, error) {
	before, err := treeBytes(b.path(repo))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	took, out, err := timed(b.dir, nil, [][]string{append([]string{b.binary}, append(args, "--repo", b.path(repo))...)})
	if err != nil {
		return nil, err
	}
	after, err := treeBytes(b.path(repo))
	if phase != "" {
		m.cost[phase], m.added[phase] = took, after-before
		if phase == phasePrune {
			m.added[phase] = after
		}
		fmt.Fprintf(os.Stderr, "erlmcp %s: %.2f s, %+.1f MB\n", phase, took.wall.Seconds(), float64(after-before)/1e6)
	}
	return out, err
}

// ours takes the store through its states and measures our own commands on the way.
func (b *backupBench) ours(m lifeCosts, peers []*backupTool) error {
	create := func(phase string, extra ...string) (index uint64, err error) {
		args := append([]string{"backup", "create", "--json", "--data", b.path("data"), "--key-file", b.key}, extra...)
		out, err := b.erlmcp(m, phase, "repo", args...)
		if err != nil {
			return 0, err
		}
		var made struct{ Index uint64 }
		return made.Index, lastResult(out, &made)
	}
	restore := func(phase string, extra ...string) error {
		defer os.RemoveAll(b.path("restored"))
		_, err := b.erlmcp(m, phase, "repo", append([]string{"backup", "restore", "--key-file", b.key, "--to", b.path("restored")}, extra...)...)
		return err
	}
	if _, err := b.erlmcp(m, "", "repo", "backup", "init", "--key-file", b.key); err != nil {
		return err
	}
	if _, err := b.erlmcp(m, "", "plain", "backup", "init", "--no-encryption"); err != nil {
		return err
	}
	if _, err := create(phaseFull); err != nil {
		return err
	}
	if _, err := b.erlmcp(m, phasePlain, "plain", "backup", "create", "--no-encryption", "--data", b.path("data")); err != nil {
		return err
	}
	if err := os.RemoveAll(b.path("plain")); err != nil {
		return err
	}
	if _, err := create(phaseSame); err != nil {
		return err
	}
	if err := b.keep("base", peers); err != nil {
		return err
	}
	var last uint64
	for _, step := range []struct{ change, phase, state string }{
		{"random 1", phaseRandom, "random"},
		{"runs 1", phaseRuns, "runs"},
		{"random 0.1", phaseSmall, ""},
		{"random 5", phaseLarge, ""},
		{fmt.Sprintf("log %d", b.log*1000*1000), phaseLog, ""},
	} {
		err := b.change(step.change)
		if err == nil {
			last, err = create(step.phase)
		}
		if err == nil && step.state != "" {
			err = b.keep(step.state, peers)
		}
		if err != nil {
			return err
		}
	}
	if err := restore(phaseRestore); err != nil {
		return err
	}
	if err := restore(phaseReplay, "--at-index", fmt.Sprint(last-1)); err != nil {
		return err
	}
	if _, err := b.erlmcp(m, phaseScrub, "repo", "backup", "verify", "--read-data"); err != nil {
		return err
	}
	if _, err := create(phaseFullMore, "--type", "full"); err != nil {
		return err
	}
	_, err := b.erlmcp(m, phasePrune, "repo", "backup", "prune", "--key-file", b.key, "--keep-last", "1", "--keep-hourly", "1ns", "--keep-daily", "1ns")
	return err
}

// peer measures another tool on the same states.
func (b *backupBench) peer(t *backupTool, m lifeCosts) error {
	if _, _, err := timed(b.dir, t.env, t.setup); err != nil {
		return err
	}
	size := int64(0)
	step := func(phase string, commands [][]string) error {
		took, _, err := timed(b.dir, t.env, commands)
		if err != nil {
			return err
		}
		after, err := treeBytes(t.repo)
		m.cost[phase], m.added[phase] = took, after-size
		if phase == phasePrune {
			m.added[phase] = after
		}
		fmt.Fprintf(os.Stderr, "%s %s: %.2f s, %+.1f MB\n", t.name, phase, took.wall.Seconds(), float64(after-size)/1e6)
		size = after
		return err
	}
	for _, s := range []struct{ state, phase string }{{"base", phaseFull}, {"base", phaseSame}, {"random", phaseRandom}, {"runs", phaseRuns}} {
		if err := b.show(s.state+"-"+t.input, s.phase != phaseSame); err != nil {
			return err
		}
		if err := step(s.phase, t.create); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		phase    string
		commands [][]string
	}{{phaseRestore, t.restore}, {phaseScrub, t.scrub}, {phasePrune, t.prune}} {
		if err := step(s.phase, s.commands); err != nil {
			return err
		}
		if s.phase == phaseRestore {
			if err := b.compare("runs-" + t.input); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(t.repo)
}

// show puts a state where the peers look for it. A tool must not tell from the old files' times that nothing changed; links keep them, copies do not.
func (b *backupBench) show(state string, fresh bool) error {
	if !fresh {
		return nil
	}
	if err := os.RemoveAll(b.path("W")); err != nil {
		return err
	}
	if err := os.MkdirAll(b.path("W"), 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(b.path(state))
	for _, e := range entries {
		err = errors.Join(err, os.Link(filepath.Join(b.path(state), e.Name()), filepath.Join(b.path("W"), e.Name())))
	}
	return err
}

// compare checks that what a peer restored is what it was given, and removes it.
func (b *backupBench) compare(state string) error {
	want, err := treeBytes(b.path(state))
	if err != nil {
		return err
	}
	got, err := treeBytes(b.path("R"))
	if err == nil && got != want {
		err = fmt.Errorf("restored %d bytes instead of %d", got, want)
	}
	return errors.Join(err, os.RemoveAll(b.path("R")), os.MkdirAll(b.path("R"), 0o755))
}

// median of the repetitions.
func (m lifeCosts) of(phase string) (cost, int64, bool) {
	c, ok := m.cost[phase]
	return c, m.added[phase], ok
}

func mediansOf(all []lifeCosts, phase string) (c cost, added int64, ok bool) {
	var wall, cpu []time.Duration
	var rss, bytes []int64
	for _, m := range all {
		c, n, there := m.of(phase)
		if there {
			wall, cpu, rss, bytes = append(wall, c.wall), append(cpu, c.cpu), append(rss, c.rss), append(bytes, n)
		}
	}
	return cost{report.Median(wall), report.Median(cpu), report.Median(rss)}, report.Median(bytes), len(wall) > 0
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }

func (c cost) String() string {
	return fmt.Sprintf("%.2f / %.1f / %.0f", c.wall.Seconds(), c.cpu.Seconds(), float64(c.rss)/(1<<20))
}

// backupTables compares the tools at one size.
func backupTables(size, log int, names []string, peers []*backupTool, results map[string][]lifeCosts) string {
	var shown []string
	versions := []string{}
	for _, name := range names {
		if len(results[name]) > 0 {
			shown = append(shown, name)
		}
	}
	seen := map[string]bool{}
	for _, t := range peers {
		if !seen[t.version] {
			seen[t.version] = true
			versions = append(versions, t.version)
		}
	}
	phases := []string{phaseFull, phaseRandom, phaseRuns, phaseSame, phaseRestore, phaseReplay, phaseScrub, phaseFullMore, phasePrune, phasePlain}
	times, bytes := report.NewTable(append([]string{"phase"}, shown...)...), report.NewTable(append([]string{"MB stored by"}, shown...)...)
	for _, phase := range phases {
		row, stored := []string{phase}, []string{phase}
		for _, name := range shown {
			c, added, ok := mediansOf(results[name], phase)
			if !ok {
				row, stored = append(row, "-"), append(stored, "-")
				continue
			}
			row, stored = append(row, c.String()), append(stored, megabytes(added))
		}
		times.Row(row...)
		if phase != phaseRestore && phase != phaseReplay && phase != phaseScrub {
			if phase == phasePrune {
				stored[0] = "(left after prune)"
			}
			bytes.Row(stored...)
		}
	}
	if len(versions) == 0 {
		versions = []string{"none is installed, or none was asked for"}
	}
	return fmt.Sprintf("%d MiB of records, %d MB of writes in the log that one restore replays; wall s / CPU s / peak MiB of the largest process; %s. Peers: %s.\n\n%s\n%s",
		size, log, repetitions(len(results["erlmcp"])), strings.Join(versions, "; "), times, bytes)
}

func repetitions(n int) string {
	if n == 1 {
		return "one repetition"
	}
	return fmt.Sprintf("medians of %d repetitions", n)
}

// curveRows adds our own figures of one size.
func curveRows(t *report.Table, size int, all []lifeCosts) {
	for _, phase := range []string{phaseFull, phasePlain, phaseSmall, phaseRandom, phaseLarge, phaseRestore, phaseReplay, phaseScrub} {
		if c, added, ok := mediansOf(all, phase); ok {
			stored := megabytes(added)
			if phase == phaseRestore || phase == phaseReplay || phase == phaseScrub {
				stored = ""
			}
			t.Row(fmt.Sprintf("%d MiB", size), phase, fmt.Sprintf("%.2f", c.wall.Seconds()), fmt.Sprintf("%.2f", c.cpu.Seconds()), fmt.Sprintf("%.0f", float64(c.rss)/(1<<20)), stored)
		}
	}
}
