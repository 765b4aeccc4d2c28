package fuzz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

// specimen is a healthy log at rest that damage is done to.
type specimen struct {
	body
	name  string
	cfg   logConfig
	model *logModel
	keys  []string
	// earlier holds the states after fewer steps: a loss that a single node
	// cannot tell from a torn write takes it back to one of them. It is allowed
	// only when the process was killed, and only if one damage takes everything
	// from there up to and with the end mark behind the last batch.
	earlier []digest
	closed  bool
	mark    region // the end mark
}

// body is a directory tree that damage is done to.
type body struct {
	disk    *simdisk.Disk
	dir     string // of the log
	regions []region
	older   map[string][]byte // files as they were in an earlier life
}

// keepOlder remembers the files as they are now.
func (s *body) keepOlder(t *testing.T, d *simdisk.Disk) {
	s.older = map[string][]byte{}
	d = d.Clone()
	for _, f := range d.Files() {
		b, err := d.ReadFile(f)
		require.NoError(t, err)
		s.older[f] = b
	}
}

// survey finds the regions of all files.
func (s *body) survey(t *testing.T) {
	still := s.disk.Clone() // a running log renames its spare files meanwhile
	for _, f := range still.Files() {
		b, err := still.ReadFile(f)
		require.NoError(t, err)
		s.regions = append(s.regions, layout(f, b)...)
	}
}

// spot picks a class of bytes, then a region of it, so that rare classes get
// their share.
func (s *body) spot(rng *rand.Rand) region {
	byClass := map[string][]region{}
	for _, r := range s.regions {
		byClass[r.class] = append(byClass[r.class], r)
	}
	classes := slices.Sorted(maps.Keys(byClass))
	rs := byClass[classes[rng.IntN(len(classes))]]
	return rs[rng.IntN(len(rs))]
}

// specimens returns the kinds of logs that damage meets.
func specimens(t *testing.T, seed uint64) []*specimen {
	var out []*specimen
	for _, k := range []struct {
		name   string
		seed   uint64 // config() derives block size and encryption from it
		closed bool
		front  bool
	}{
		{"closed", 4, true, false},
		{"killed", 4, false, false},
		{"recycled", 9, true, true},
		{"encrypted", 5, false, true},
		{"big blocks", 7, true, false},
	} {
		cfg := config(k.name, k.seed)
		cfg.Seed = seed*16 + k.seed
		out = append(out, grow(t, cfg, k.name, k.closed, k.front))
	}
	return out
}

// grow runs a workload that leaves several segments, some truncation and a last
// batch of its own.
func grow(t *testing.T, cfg logConfig, name string, closed, front bool) *specimen {
	d, err := newDisk(cfg.Seed)
	require.NoError(t, err)
	r := newRecorder(d, cfg)
	r.open()
	s := &specimen{name: name, cfg: cfg, closed: closed, body: body{dir: logDir}}
	for i := range 8 {
		r.append(1+r.rng.IntN(3), 12000)
		r.meta(fmt.Sprintf("k%d", i%3), []byte{byte(i)})
		if i == 3 {
			r.back(r.next - 1)
			s.keepOlder(t, d)
		}
		if front && i%2 == 1 {
			r.front(r.next - 2)
		}
	}
	r.append(1, 2000)
	r.append(1, 2000)
	r.settle()
	require.NoError(t, r.err)
	if closed {
		r.close()
	} else {
		s.disk = d.Clone()
		require.NoError(t, r.l.Close())
	}
	if s.disk == nil {
		s.disk = d.Clone()
	}
	h := r.end()
	s.model, s.keys = h.modelAt(len(h.Steps)), h.metaKeys
	s.earlier = h.digests[:len(h.Steps)]
	s.survey(t)
	var ok bool
	s.mark, ok = lastOf(s.regions, "end mark")
	require.True(t, ok, "the log was idle, so its end is marked")
	return s
}

// injury is one damage to a specimen.
type injury struct {
	what  string
	class string
	files []string // whose content or presence changed
	// ranges that changed, for the undecidable case
	ranges []region
	do     func(*simdisk.Disk) error
}

// hits reports whether the injury touches a region.
func (i injury) hits(r region) bool {
	return slices.ContainsFunc(i.ranges, func(x region) bool {
		return x.file == r.file && x.off < r.end() && r.off < x.end()
	})
}

// spotInjuries damages one spot, in every way.
func spotInjuries(s *body, at region, off int64, rng *rand.Rand) []injury {
	f := at.file
	size := fileSize(s.disk, f)
	sector := off / simdisk.SectorSize * simdisk.SectorSize
	sectorLen := min(int64(simdisk.SectorSize), size-sector)
	page := off / 4096 * 4096
	pageLen := min(4096, size-page)
	one := func(what string, off, n int64, do func(*simdisk.Disk) error) injury {
		return injury{what, at.class, []string{f}, []region{{f, "", off, n}}, do}
	}
	bit := uint(rng.IntN(8))
	eight := min(8, size-off)
	noise, few := seedBytes(rng, int(sectorLen)), seedBytes(rng, int(eight))
	out := []injury{
		one(fmt.Sprintf("bit %d of byte %d flipped", bit, off), off, 1, func(d *simdisk.Disk) error { return d.FlipBit(f, off, bit) }),
		one(fmt.Sprintf("sector at %d zeroed", sector), sector, sectorLen, func(d *simdisk.Disk) error { return d.Zero(f, sector, sectorLen) }),
		one(fmt.Sprintf("page at %d zeroed", page), page, pageLen, func(d *simdisk.Disk) error { return d.Zero(f, page, pageLen) }),
		one(fmt.Sprintf("sector at %d garbage", sector), sector, sectorLen, func(d *simdisk.Disk) error { return d.Overwrite(f, sector, noise) }),
		one(fmt.Sprintf("8 bytes at %d garbage", off), off, eight, func(d *simdisk.Disk) error { return d.Overwrite(f, off, few) }),
	}
	if size < 2*simdisk.SectorSize {
		return out
	}
	other := rng.Int64N(size/simdisk.SectorSize) * simdisk.SectorSize
	if sectorLen < simdisk.SectorSize {
		return out
	}
	if other != sector {
		in := one(fmt.Sprintf("sectors at %d and %d swapped", sector, other), sector, sectorLen, func(d *simdisk.Disk) error {
			return d.Swap(f, sector, other, simdisk.SectorSize)
		})
		in.ranges = append(in.ranges, region{f, "", other, simdisk.SectorSize})
		out = append(out, in)
	}
	from := s.regions[rng.IntN(len(s.regions))]
	if b, err := s.disk.ReadFile(from.file); err == nil && int64(len(b)) >= from.off/512*512+512 {
		stray := b[from.off/512*512 : from.off/512*512+512]
		out = append(out, one(fmt.Sprintf("sector at %d holds the %s", sector, from), sector, sectorLen, func(d *simdisk.Disk) error {
			return d.Overwrite(f, sector, stray)
		}))
	}
	if old := s.older[f]; int64(len(old)) >= sector+512 {
		out = append(out, one(fmt.Sprintf("sector at %d is of an older life", sector), sector, sectorLen, func(d *simdisk.Disk) error {
			return d.Overwrite(f, sector, old[sector:sector+512])
		}))
	}
	return out
}

func fileSize(d *simdisk.Disk, name string) int64 {
	info, err := d.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// fileInjuries damages whole files: missing, duplicated, renamed, cut, longer,
// empty, replaced by an older life of itself or by another.
func fileInjuries(s *body) []injury {
	var out []injury
	files := s.disk.Files()
	whole := func(f string) region { return region{f, "", 0, 1 << 40} }
	add := func(what string, do func(*simdisk.Disk) error, touched ...string) {
		in := injury{what: what, class: "file", files: touched, do: do}
		for _, f := range touched {
			in.ranges = append(in.ranges, whole(f))
		}
		out = append(out, in)
	}
	for _, f := range files {
		size := fileSize(s.disk, f)
		add(f+" missing", func(d *simdisk.Disk) error { return d.Discard(f) }, f)
		for _, n := range []int64{0, 1, 63, 511, 4096, size / 2, size - 512, size - 1, size + 1, size + 4096} {
			if n >= 0 && n != size {
				add(fmt.Sprintf("%s cut to %d bytes", f, n), func(d *simdisk.Disk) error { return d.Truncate(f, n) }, f)
			}
		}
		add(f+" filled with zeros", func(d *simdisk.Disk) error { return d.Zero(f, 0, size) }, f)
		if old, ok := s.older[f]; ok {
			add(f+" replaced by its older self", func(d *simdisk.Disk) error { return d.WriteFile(f, old) }, f)
		}
		for _, g := range files {
			if f == g {
				continue
			}
			add(f+" duplicated over "+g, func(d *simdisk.Disk) error { return d.CopyFile(f, g) }, g)
			if f < g {
				add(f+" and "+g+" exchanged", func(d *simdisk.Disk) error { return exchange(d, f, g) }, f, g)
			}
		}
		for _, id := range []string{"0000000000000063.seg", "0000000000000001.seg"} {
			g := path.Join(s.dir, id)
			if path.Dir(f) == s.dir && !slices.Contains(files, g) {
				add(f+" duplicated as "+id, func(d *simdisk.Disk) error { return d.CopyFile(f, g) }, g)
				add(f+" renamed to "+id, func(d *simdisk.Disk) error { return errors.Join(d.CopyFile(f, g), d.Discard(f)) }, f, g)
			}
		}
	}
	add("stray file", func(d *simdisk.Disk) error { return d.WriteFile(path.Join(s.dir, "notes.txt"), []byte("hello")) }, path.Join(s.dir, "notes.txt"))
	return out
}

// injuries returns up to spots damages to whole files, and about as many to
// single places, the same number for every class of bytes.
func (s *body) injuries(spots int, rng *rand.Rand) []injury {
	out := fileInjuries(s)
	if len(out) > spots {
		rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		out = out[:spots]
	}
	byClass := map[string][]region{}
	for _, r := range s.regions {
		byClass[r.class] = append(byClass[r.class], r)
	}
	for _, class := range slices.Sorted(maps.Keys(byClass)) {
		rs := byClass[class]
		for range max(raceScale(4), spots/7/len(byClass)) { // about 7 injuries per spot
			r := rs[rng.IntN(len(rs))]
			found := spotInjuries(s, r, r.off+rng.Int64N(r.n), rng)
			if raceEnabled && os.Getenv("ERLMCP_CORRUPTIONS") == "" {
				at := rng.IntN(len(found))
				found = found[at : at+1]
			}
			out = append(out, found...)
		}
	}
	return out
}

// tailInjuries swaps every two sectors around the end of the log, where what
// proves the end is kept.
func tailInjuries(s *specimen) []injury {
	var out []injury
	f, size := s.mark.file, int64(simdisk.SectorSize)
	lo := max(4096/size, s.mark.off/size-10)
	hi := min(fileSize(s.disk, f)/size, s.mark.off/size+3)
	for a := lo; a < hi; a++ {
		for b := a + 1; b < hi; b++ {
			out = append(out, injury{
				what: fmt.Sprintf("sectors at %d and %d swapped", a*size, b*size), class: "tail", files: []string{f},
				ranges: []region{{f, "", a * size, size}, {f, "", b * size, size}},
				do:     func(d *simdisk.Disk) error { return d.Swap(f, a*size, b*size, size) },
			})
		}
	}
	return out
}

func exchange(d *simdisk.Disk, f, g string) error {
	a, err := d.ReadFile(f)
	b, err2 := d.ReadFile(g)
	return errors.Join(err, err2, d.WriteFile(f, b), d.WriteFile(g, a))
}

// TestCorruptionOfTheLogIsNeverSilent does damage to every class of bytes and
// to every file of a log. Each damage must be detected, with the place named,
// or be harmless: the log opens and shows exactly what it held.
func TestCorruptionOfTheLogIsNeverSilent(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	// Per specimen, spread over the classes; and as many of the damages to files.
	spots := int(env(t, "ERLMCP_CORRUPTIONS", uint64(raceScale(600))))
	for _, s := range specimens(t, seed) {
		t.Run(s.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0xdead))
			counts := &tally{}
			for _, in := range append(s.injuries(spots, rng), tailInjuries(s)...) {
				outcome, err := s.suffer(in)
				if err != nil {
					outcome = "FAILED"
					t.Errorf("seed %d, %s: %s: %v", seed, in.class, in.what, err)
				}
				counts.add(in.class + ": " + outcome)
			}
			t.Logf("%d damages to a %s log from seed %d: %s", counts.total(), s.name, seed, counts)
		})
	}
}

// suffer does one damage to a copy of the specimen and judges the outcome.
func (s *specimen) suffer(in injury) (outcome string, err error) {
	d := s.disk.Clone()
	if err := in.do(d); err != nil {
		return "", err
	}
	rep, ierr := wal.Inspect(d, logDir, wal.InspectOptions{Key: s.cfg.options(d, 0).Key}, wal.Visitor{})
	l, err := wal.Open(logDir, s.cfg.options(d, 0))
	if herr := handlesInOrder(d); err != nil && herr != nil {
		return "", fmt.Errorf("after a refusal (%w): %w", err, herr)
	}
	if err != nil {
		return s.judgeRefusal(in, err, rep, ierr)
	}
	defer l.Close() //nolint:errcheck // only looked at
	m, err := readLog(l, s.keys)
	if err != nil {
		return "", fmt.Errorf("the log opens, but does not read: %w", err)
	}
	vrep, verr := l.Verify(context.Background())
	switch rec := l.Recovery(); {
	case m.digest() == s.model.digest() && (verr != nil || !vrep.Clean):
		return "", fmt.Errorf("the log opens with all its data, but verify says %v %v", verr, vrep.Findings)
	case m.digest() == s.model.digest() && len(rec.Repairs) > 0:
		return "repaired", nil
	case m.digest() == s.model.digest():
		return "harmless", nil
	case !s.closed && in.hits(s.mark) && len(in.ranges) == 1 && slices.Contains(s.earlier, m.digest()):
		return "undecidable", nil
	default:
		return "", fmt.Errorf("SILENT LOSS: %s (torn tail: %v)", s.model.diff(m), rec.TornTail)
	}
}

// judgeRefusal: the log does not open. It must say what and where, and the
// offline reader must see damage too.
func (s *specimen) judgeRefusal(in injury, err error, rep wal.Report, ierr error) (string, error) {
	var c *wal.CorruptError
	if !errors.As(err, &c) {
		return "", fmt.Errorf("refused without a typed error: %w", err)
	}
	if c.File == "" || c.Kind == "" || c.Advice == "" || c.Message == "" {
		return "", fmt.Errorf("the error does not name the place: %#v", c.Finding)
	}
	if !slices.ContainsFunc(in.files, func(f string) bool { return path.Base(f) == c.File }) && !s.named(in, c) {
		return "", fmt.Errorf("the error names the wrong file (touched: %s): %w", strings.Join(in.files, ", "), err)
	}
	if len(in.ranges) == 1 && path.Base(in.ranges[0].file) == c.File && in.class != "file" && c.Offset >= in.ranges[0].end() {
		return "", fmt.Errorf("the error names an offset behind the damage: %w", err)
	}
	if ierr == nil && rep.Clean {
		return "", fmt.Errorf("open refuses (%w), inspect finds nothing", err)
	}
	return "detected: " + c.Kind, nil
}

// named accepts a finding that names the neighbour at which the damage shows: a
// missing or misplaced file is noticed by its absence.
func (s *specimen) named(in injury, c *wal.CorruptError) bool {
	return in.class == "file" && (c.Kind == wal.KindMissingSegment || c.Kind == wal.KindMisplaced || c.Kind == wal.KindChainBreak)
}
