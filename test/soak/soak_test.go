package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/load"
	"github.com/erlmcp/erlmcp/test/process"
)

func TestTenSecondsOfKillNineKeepEveryPromise(t *testing.T) {
	work := t.TempDir()
	binary, err := process.Build(work)
	require.NoError(t, err)
	var out strings.Builder
	v, err := Soak(context.Background(), Options{
		Binary: binary, Dir: filepath.Join(work, "data"), Duration: 10 * time.Second, Life: time.Second,
		Report: 2 * time.Second, Clients: 8, Rate: 400, Seed: uint64(time.Now().UnixNano()), Out: &out,
	})
	require.NoError(t, err, out.String())
	v.Print(&out)
	t.Log(out.String())
	require.True(t, v.Kept())
	require.GreaterOrEqual(t, v.Starts, fewestLives+2, "the undisturbed life and the last comparison have a start each")
}

// life makes samples, one a second.
func life(n int, at func(i int) sample) []sample {
	begin := time.Unix(0, 0)
	list := make([]sample, n)
	for i := range list {
		list[i] = at(i)
		list[i].at = begin.Add(time.Duration(i) * time.Second)
	}
	return list
}

func TestGrowthIsJudgedAgainstTheDataAndNotBeforeItCanBe(t *testing.T) {
	const mib = 1 << 20
	flat := func(i int) sample { return sample{memory: 80 * mib, files: 40} }
	require.False(t, growth(life(120, flat)).Judged, "too short")
	require.True(t, growth(life(400, flat)).Judged)
	require.True(t, growth(life(400, flat)).kept())

	leak := growth(life(400, func(i int) sample { return sample{memory: float64(80+i) * mib, files: 40} }))
	require.False(t, leak.kept(), "%+v", leak)
	data := growth(life(400, func(i int) sample { return sample{memory: float64(80+i) * mib, files: 40, rows: float64(5000 * i)} }))
	require.True(t, data.kept(), "memory that the data explains: %+v", data)
	files := growth(life(400, func(i int) sample { return sample{memory: 80 * mib, files: float64(40 + i/4)} }))
	require.False(t, files.kept(), "%+v", files)
	spike := life(400, flat)
	spike[380].memory, spike[381].files = 4096*mib, 4000
	require.True(t, growth(spike).kept(), "one look is not growth")
}

func TestAVerdictNamesWhatWasBroken(t *testing.T) {
	crowd := load.New(1, 0, 1)
	s := &soak{crowd: crowd, began: time.Now(), problems: []string{"LOST: a", "TWICE: b", "verify ended with code 1"}}
	v := s.judge()
	require.False(t, v.Kept())
	require.Equal(t, []int{1, 1, 1}, []int{v.Lost, v.Twice, v.Bad})
	var out strings.Builder
	v.Print(&out)
	require.Contains(t, out.String(), "LOST: a")
	require.Contains(t, out.String(), "FAILED")
	s.problems = nil
	require.False(t, s.judge().Kept(), "a soak that acknowledged nothing proves nothing")
}
