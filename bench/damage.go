package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/bench/logs"
	"github.com/erlmcp/erlmcp/bench/report"
)

const (
	damageEntries = 2000
	damageSize    = 1024
	damageBatch   = 8
	// damageSafe is the number of the newest entries left alone. One node cannot
	// tell damage to its very last batch from a write the crash cut short, so
	// every engine may drop that, and this table is about what it may not.
	damageSafe   = 100
	oneSegment   = 4 << 20   // all entries in one file
	smallSegment = 256 << 10 // about nine files
	sector       = 512
)

// site is one copy of one entry on disk.
type site struct {
	entry int
	file  string // below the log's directory
	off   int64  // of the payload
}

// injury is one way to damage a copy of a log. sites are the entries which may
// be hit, files those which hold entries, oldest first.
type injury struct {
	name  string
	files bool // needs a log of several files
	do    func(rng *rand.Rand, dir string, sites []site, files []string) error
}

var injuries = []injury{
	{name: "1 bit flipped", do: patch(1, func(rng *rand.Rand, b []byte) { b[0] ^= 1 << rng.IntN(8) })},
	{name: "512 B zeroed", do: patch(sector, func(_ *rand.Rand, b []byte) { clear(b) })},
	{name: "8 random bytes", do: patch(8, func(rng *rand.Rand, b []byte) { binary.LittleEndian.PutUint64(b, rng.Uint64()) })},
	{name: "segment missing", files: true, do: func(rng *rand.Rand, dir string, _ []site, files []string) error {
		return os.Remove(filepath.Join(dir, files[middle(rng, files)]))
	}},
	{name: "newest segment missing", files: true, do: func(_ *rand.Rand, dir string, _ []site, files []string) error {
		return os.Remove(filepath.Join(dir, files[len(files)-1]))
	}},
	{name: "two segments swapped", files: true, do: swapFiles},
	{name: "older segment in its place", files: true, do: func(rng *rand.Rand, dir string, _ []site, files []string) error {
		i := middle(rng, files)
		return copyFile(filepath.Join(dir, files[i-1]), filepath.Join(dir, files[i]))
	}},
}

// middle picks a file which is neither the oldest nor one of the last two.
func middle(rng *rand.Rand, files []string) int { return 1 + rng.IntN(len(files)-3) }

func swapFiles(rng *rand.Rand, dir string, _ []site, files []string) error {
	i := middle(rng, files)
	a, b := filepath.Join(dir, files[i]), filepath.Join(dir, files[i+1])
	tmp := a + ".swap"
	for _, step := range [][2]string{{a, tmp}, {b, a}, {tmp, b}} {
		if err := os.Rename(step[0], step[1]); err != nil {
			return err
		}
	}
	return nil
}

// patch changes length bytes around a random entry: its payload or the header in
// front of it. A sector is hit whole.
func patch(length int64, change func(*rand.Rand, []byte)) func(*rand.Rand, string, []site, []string) error {
	return func(rng *rand.Rand, dir string, sites []site, _ []string) error {
		s := sites[rng.IntN(len(sites))]
		const before = 32 // about a record header
		off := max(0, s.off-before) + rng.Int64N(before+damageSize)
		if length == sector {
			off -= off % sector
		}
		f, err := os.OpenFile(filepath.Join(dir, s.file), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, length)
		if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
			return err
		}
		change(rng, b)
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		return f.Close()
	}
}

// survey finds where every entry lies. A store may hold an entry twice.
func survey(dir string, gen *entries) (sites []site, err error) {
	marks := map[[16]byte]int{}
	b := make([]byte, damageSize)
	for n := range damageEntries - damageSafe {
		gen.put(b, n)
		marks[[16]byte(b)] = n
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return eachExtent(f, func(off, length int64) error {
			data := make([]byte, length)
			if _, err := f.ReadAt(data, off); err != nil && err != io.EOF {
				return err
			}
			for i := 0; i+16 <= len(data); i++ {
				// The number's first bytes are zero: skip most places cheaply.
				if i == 0 || data[i] == 0 {
					if n, ok := marks[[16]byte(data[i:])]; ok {
						sites = append(sites, site{n, rel, off + int64(i)})
					}
				}
			}
			return nil
		})
	})
	if err == nil && len(sites) == 0 {
		err = fmt.Errorf("damage: no entry found in the files of %s", dir)
	}
	return sites, err
}

// filesOf lists the files which hold entries, oldest entry first.
func filesOf(sites []site) []string {
	first := map[string]int{}
	for _, s := range sites {
		if n, ok := first[s.file]; !ok || s.entry < n {
			first[s.file] = s.entry
		}
	}
	var files []string
	for f := range first {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b string) int { return first[a] - first[b] })
	return files
}

// tally counts what became of the trials of one kind on one engine.
type tally struct {
	detected, wrong, lost, intact, crashed int
	most                                   int // most entries lost or wrong in one trial
}

func (t *tally) add(o outcome) {
	switch {
	case o.Crashed:
		t.crashed++
		t.detected++
	case o.Err != "":
		t.detected++
	case o.Wrong > 0:
		t.wrong++
		t.most = max(t.most, o.Wrong)
	case o.Entries < damageEntries:
		t.lost++
		t.most = max(t.most, damageEntries-o.Entries)
	default:
		t.intact++
	}
}

func (t tally) String() string {
	s := fmt.Sprintf("%d/%d/%d/%d", t.detected, t.wrong, t.lost, t.intact)
	if t.wrong+t.lost > 0 {
		s = fmt.Sprintf("**%s** (up to %d)", s, t.most)
	}
	if t.crashed > 0 {
		s += fmt.Sprintf(", %d panics", t.crashed)
	}
	return s
}

func runDamage(args []string) error {
	c := newCommon("damage", logs.Names(func(e logs.Engine) bool {
		return !strings.HasPrefix(e.Name, "raw") && e.Name != "erlmcp-grow" // the same log
	}), 12, args)
	cleanup, err := c.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	engines, err := logs.Pick(c.names())
	if err != nil {
		return err
	}
	heading := []string{"log"}
	for _, i := range injuries {
		heading = append(heading, i.name)
	}
	table := report.NewTable(heading...)
	for _, e := range engines {
		row, err := c.damageRow(e)
		if err != nil {
			return err
		}
		table.Row(row...)
		fmt.Fprintf(os.Stderr, "damage: %s done\n", e.Name)
	}
	return c.finish(fmt.Sprintf("%d acknowledged entries of %d bytes, kill -9, damage in one place (not in the newest %d entries), reopen and read in a new process; "+
		"%d trials each: detected / wrong data served / entries lost silently / unharmed. Bold is silent. A peer's panic counts as detected.\n\n%s",
		damageEntries, damageSize, damageSafe, c.reps, table))
}

// damageRow runs all trials of one engine.
func (c *common) damageRow(e logs.Engine) ([]string, error) {
	row := []string{e.Name}
	for _, segment := range []int{oneSegment, smallSegment} {
		master := cell{
			Kind: "fill", Engine: e.Name, Dir: filepath.Join(c.dir, fmt.Sprint(e.Name, segment)), Seed: c.seed,
			Size: damageSize, Entries: damageEntries, Batch: damageBatch, SegmentSize: segment,
		}
		if segment == smallSegment && !e.Segmented {
			row = append(row, "-", "-", "-", "-")
			continue
		}
		if _, err := start(master); err != nil {
			return nil, err
		}
		sites, err := survey(master.Dir, newEntries(damageSize, c.seed))
		if err != nil {
			return nil, err
		}
		for n, i := range injuries {
			if i.files != (segment == smallSegment) {
				continue
			}
			t, err := c.trials(master, i, sites, uint64(n))
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", e.Name, i.name, err)
			}
			row = append(row, t.String())
		}
	}
	return row, nil
}

func (c *common) trials(master cell, i injury, sites []site, n uint64) (t tally, err error) {
	files := filesOf(sites)
	if i.files && len(files) < 4 {
		return t, fmt.Errorf("only %d files hold entries", len(files))
	}
	one := master
	one.Kind, one.Dir = "replay", filepath.Join(c.dir, "trial")
	for trial := range c.reps {
		if err := copyTree(master.Dir, one.Dir); err != nil {
			return t, err
		}
		rng := rand.New(rand.NewPCG(c.seed, n<<32|uint64(trial)))
		if err := i.do(rng, one.Dir, sites, files); err != nil {
			return t, err
		}
		o, err := start(one)
		if err != nil && !o.Crashed {
			return t, err
		}
		t.add(o)
		if err := os.RemoveAll(one.Dir); err != nil {
			return t, err
		}
	}
	return t, nil
}
