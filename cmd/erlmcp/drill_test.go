package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/tcps"
)

func TestADrillChecksMeasuresProvesAndTidiesUp(t *testing.T) {
	v := newVault(t)
	data, scratch := v.dir("data"), v.dir("scratch")
	s := start(t, data)
	some(t, s, "a", 5)
	var c backup.Created
	v.result(&c, "backup", "create", "--data", data)
	var p backupfmt.DrillProof
	v.result(&p, "drill", "latest", "--scratch", scratch, "--data", data)
	require.True(t, p.OK)
	require.Equal(t, c.StateHash, p.StateHash, "the digest is the one recorded when the backup was made")
	require.Equal(t, c.Index, p.Index)
	require.Positive(t, p.RTO)
	for _, phase := range p.Phases {
		require.LessOrEqual(t, phase.Duration, p.RTO, phase.Name)
	}
	ran := map[string]bool{}
	for _, check := range p.Checks {
		require.True(t, check.OK, check)
		ran[check.Name] = true
	}
	for _, name := range append([]string{"integrity", "queries"}, tcps.Checks()...) {
		require.True(t, ran[name], "check %s", name)
	}
	require.GreaterOrEqual(t, len(tcps.Checks()), 5)
	left, err := os.ReadDir(scratch)
	require.NoError(t, err)
	require.Empty(t, left, "scratch is removed after a success")

	// The server knows of it, and shows it, although the repository is not its own.
	st := status(t, data)
	require.Nil(t, st.Backup)
	require.Equal(t, []string{"drill", "backup"}, []string{st.ByHand[0].What, st.ByHand[1].What})
	require.True(t, st.ByHand[0].OK)
	text := run(t, "status", "--data", data).stdout
	require.Contains(t, text, "by hand")
	require.Contains(t, text, "drill of "+v.repo+" ok: backup 1")

	// A backup that lost a pack: the proof says so, what there is of the scratch is named, and the status shows it.
	require.NoError(t, filepath.WalkDir(filepath.Join(v.repo, "packs"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Remove(path)
		}
		return err
	}))
	r := run(t, v.args("drill", "--scratch", scratch, "--data", data)...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stdout, "THE DRILL FAILED")
	st = status(t, data)
	require.False(t, st.ByHand[0].OK)
	require.Contains(t, run(t, "status", "--data", data).stdout, "FAILED")
	r = run(t, v.args("drill", "--last", "--json")...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stdout, `"ok": false`)
}

func TestADrillByHandOnTheServersRepositoryRenewsItsProof(t *testing.T) {
	s := toolServer(t)
	base := filepath.Dir(s.dir)
	some(t, s, "a", 2)
	require.Zero(t, run(t, "backup", "create", "--data", s.dir).code)
	require.True(t, status(t, s.dir).Backup.LastProof.IsZero())
	r := runEnv(t, environment(t, toolSecret), "drill", "--repo", filepath.Join(base, "repo"), "--data", s.dir)
	require.Zero(t, r.code, r.stderr)
	b := status(t, s.dir).Backup
	require.False(t, b.LastProof.IsZero())
	text := run(t, "status", "--data", s.dir).stdout
	require.Contains(t, text, "serving after")
	require.NotContains(t, text, "last proof that they restore: never")
}
