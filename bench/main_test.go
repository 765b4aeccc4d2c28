package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/bench/logs"
)

// TestMain lets the test binary serve as the child process.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "child" {
		if err := runChild(nil); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fill writes the damage table's entries with one engine and kills the writer.
func fill(t *testing.T, engine string, segment int) cell {
	t.Helper()
	c := cell{
		Kind: "fill", Engine: engine, Dir: filepath.Join(t.TempDir(), "log"), Seed: 7,
		Size: damageSize, Entries: damageEntries, Batch: damageBatch, SegmentSize: segment,
	}
	_, err := start(c)
	require.NoError(t, err)
	c.Kind = "replay"
	return c
}

func TestAnUnharmedLogComesBackWholeAfterAKill(t *testing.T) {
	for _, name := range logs.Names(func(e logs.Engine) bool { return e.Name != "raw" }) {
		o, err := start(fill(t, name, oneSegment))
		require.NoError(t, err, name)
		require.Equal(t, "", o.Err, name)
		require.Equal(t, [2]int{damageEntries, 0}, [2]int{o.Entries, o.Wrong}, name)
	}
}

// TestEveryInjuryChangesTheLog: raw has no checks at all, so a table in which it
// came back unharmed would mean that nothing had been damaged.
func TestEveryInjuryChangesTheLog(t *testing.T) {
	for _, i := range injuries {
		segment := oneSegment
		if i.files {
			segment = smallSegment
		}
		c := fill(t, "raw-seg", segment)
		sites, err := survey(c.Dir, newEntries(damageSize, c.Seed))
		require.NoError(t, err)
		require.Len(t, sites, damageEntries-damageSafe)
		require.NoError(t, i.do(rand.New(rand.NewPCG(1, 1)), c.Dir, sites, filesOf(sites)))
		o, err := start(c)
		require.NoError(t, err)
		require.False(t, o.Entries == damageEntries && o.Wrong == 0, i.name)
	}
}

func TestATallyCallsSilentWhatWasSilent(t *testing.T) {
	var got tally
	for _, o := range []outcome{
		{Entries: damageEntries},
		{Entries: damageEntries - 3},
		{Entries: damageEntries - 1, Wrong: 1},
		{Entries: 5, Err: "read: checksum"},
		{Crashed: true},
	} {
		got.add(o)
	}
	require.Equal(t, "**2/1/1/1** (up to 3), 1 panics", got.String())
}

func TestACopiedTreeKeepsHolesAndBytes(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.Mkdir(filepath.Join(from, "d"), 0o755))
	f, err := os.Create(filepath.Join(from, "d", "sparse"))
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("here"), 1<<30)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<31))
	require.NoError(t, f.Close())

	require.NoError(t, copyTree(from, to))
	used, err := usedMB(to)
	require.NoError(t, err)
	require.Less(t, used, 1.0)
	c, err := os.Open(filepath.Join(to, "d", "sparse"))
	require.NoError(t, err)
	defer c.Close()
	info, err := c.Stat()
	require.NoError(t, err)
	require.EqualValues(t, 1<<31, info.Size())
	got := make([]byte, 4)
	_, err = c.ReadAt(got, 1<<30)
	require.NoError(t, err)
	require.Equal(t, "here", string(got))
}

func TestASweepMeasuresEveryEngineAtEveryPoint(t *testing.T) {
	c := &common{dir: t.TempDir(), reps: 1, seed: 1}
	g := grid{sizes: []int{128}, writers: []int{1, 4}, dur: 20e6}
	names := []string{"raw", "tidwall"}
	r, err := c.sweep("wal", names, g, nil)
	require.NoError(t, err)
	require.Len(t, r, 4)
	for at, o := range r {
		require.Positive(t, o.Rate, at)
		require.LessOrEqual(t, o.P50, o.P99, at)
	}
}
