package integrity

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
	"github.com/erlmcp/erlmcp/wal"
)

func allChecks() map[string]*Check {
	checks := map[string]*Check{}
	for _, k := range kinds {
		checks[k.name] = newCheck(k.name)
	}
	return checks
}

func TestEveryKindOfFindingFailsItsCheck(t *testing.T) {
	for kind, name := range map[string]string{
		"log": CheckLog, "sstable": CheckFiles, "index": CheckIndexes, "state-hash": CheckState, "row": CheckState, "deadline": CheckState,
		"something new": CheckState,
	} {
		checks := allChecks()
		addStorage(checks, engine.VerifyReport{Findings: []engine.Finding{{Kind: kind, Where: "w", Message: "m", Advice: "a"}}})
		for other, c := range checks {
			require.Equal(t, other != name, c.settled().Passed, "%s -> %s", kind, other)
		}
		require.Equal(t, Finding{Where: "w", What: kind + ": m", Next: "a"}, checks[name].Findings[0])
	}
	for _, name := range tcps.Checks() {
		checks := allChecks()
		addLedger(checks, tcps.VerifyReport{
			Checks:   map[string]tcps.CheckResult{name: {Checked: 3, Details: "3 checked, 1 problems"}},
			Findings: []tcps.Finding{{Check: name, Code: "checksum_mismatch", Table: "receipts", Key: "r1", Message: "m", Advice: "a"}},
		})
		require.False(t, checks[name].settled().Passed, name)
		require.Equal(t, Finding{Where: "table receipts, key r1", What: "checksum_mismatch: m", Next: "a"}, checks[name].Findings[0])
	}
}

func TestAFailedCheckWithoutListedFindingsIsStillFailed(t *testing.T) {
	checks := allChecks()
	addLedger(checks, tcps.VerifyReport{Omitted: 5, Checks: map[string]tcps.CheckResult{CheckChanges: {Checked: 9, Details: "9 checked, 5 problems"}}})
	c := checks[CheckChanges].settled()
	require.False(t, c.Passed)
	require.Equal(t, "9 checked, 5 problems", c.Findings[0].What)
	require.Contains(t, c.Notes[0], "5 findings of all checks are not listed")
}

func TestAReportIsValidOnlyIfEveryCheckPassed(t *testing.T) {
	at := time.Unix(0, 0)
	r := Report{}
	r.add(func(Check) {}, newCheck(CheckLog))
	r.conclude(at, at.Add(time.Second))
	require.True(t, r.Valid)
	require.Equal(t, 1.0, r.Seconds)

	r.skipRest(func(Check) {}, "because")
	r.conclude(at, at)
	require.False(t, r.Valid, "what was not looked at is not known to be good")
	require.Len(t, r.Checks, len(kinds))
	require.True(t, r.Checks[0].Passed)
	require.Equal(t, "because", r.Checks[1].Skipped)
	require.Zero(t, r.Findings())
}

func TestRefusalsOfTheEngineBecomeLetters(t *testing.T) {
	f := openFinding("/data", &engine.CorruptError{What: "w", Where: "store/000004.sst", Means: "m", Intact: "the log", Advice: "a", Cause: errors.New("crc")})
	require.Equal(t, Finding{Where: "store/000004.sst", What: "w: crc", Means: "m; intact: the log", Next: "a"}, f)
	f = openFinding("/data", engine.ErrCorrupt)
	require.Equal(t, "/data", f.Where)
	require.NotEmpty(t, f.Next)
}

func TestLogFindingsSayWhichChangesAreConcerned(t *testing.T) {
	f := logFinding(wal.Finding{File: "0001.seg", Offset: 512, FirstIndex: 3, LastIndex: 5, Message: "m", Advice: "a"})
	require.Equal(t, Finding{Where: "0001.seg, offset 512", What: "m", Means: "changes 3 to 5 of the log cannot be trusted", Next: "a"}, f)
	require.Equal(t, "changes from 3 of the log on cannot be trusted", logFinding(wal.Finding{FirstIndex: 3}).Means)
	require.Equal(t, "write-ahead log", logFinding(wal.Finding{}).Where)
}

func TestADirectoryWithoutALogIsNothingToCheck(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		_, err := Stopped(context.Background(), StoppedOptions{DataDir: dir, Now: time.Now}, func(Check) {})
		require.ErrorIs(t, err, ErrNothingThere)
	}
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "wal"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "wal", "letter.txt"), []byte("dear"), 0o600))
	_, err := Stopped(context.Background(), StoppedOptions{DataDir: dir, Engine: engine.Options{Indexes: tcps.Indexes()}, Now: time.Now}, func(Check) {})
	require.Error(t, err, "somebody else's folder called wal")
	require.NoFileExists(t, filepath.Join(dir, "FORMAT"))
}
