package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheBackupTableHasEveryPhaseOfEveryToolThatIsThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	require.NoError(t, os.WriteFile(file, []byte("<!-- begin backup -->\n<!-- end backup -->\n"), 0o600))
	engines := "erlmcp"
	if len(backupPeers(t.TempDir(), []string{"restic"})) > 0 {
		engines += ",restic,restic/checkpoint"
	}
	require.NoError(t, runBackup([]string{"-sizes", "2", "-log", "1", "-engines", engines, "-dir", t.TempDir(), "-readme", file}))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, phase := range []string{phaseFull, phaseRandom, phaseRuns, phaseSame, phaseRestore, phaseReplay, phaseScrub, phaseFullMore, phasePrune, phasePlain} {
		require.Contains(t, string(text), "| "+phase, "%s", text)
	}
	full := ""
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| "+phaseFull+" ") && full == "" {
			full = line
		}
	}
	require.NotContains(t, full, "| - ", "every tool makes full backups")
}

func TestRecordsAreSortedDocumentsOfTheSizesThatTheTableSays(t *testing.T) {
	b := &backupBench{dir: t.TempDir(), total: 2000, seed: 1}
	_, err := b.child("backup-fill", "", "")
	require.NoError(t, err)
	require.NoError(t, b.change("random 1"))
	require.NoError(t, b.change("runs 1"))
	require.Equal(t, 2020, b.total)
	path := filepath.Join(t.TempDir(), "dump")
	o, err := b.child("backup-dump", "", path)
	require.NoError(t, err)
	require.Greater(t, o.Entries, 2020)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	last := ""
	for line := range strings.Lines(string(text)) {
		require.Less(t, last, line, "sorted")
		last = line
	}
	require.InDelta(t, meanRecord, float64(len(text))/float64(o.Entries), 120)
}
