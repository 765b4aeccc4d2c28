package integrity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// A flipped bit anywhere in a table file is a finding, not a failure to check: exit code 1 depends on it.
func TestADamagedBlockIsAFindingWhicheverCheckMeetsIt(t *testing.T) {
	ctx := context.Background()
	base := filepath.Join(t.TempDir(), "base")
	o := engine.Options{SegmentSize: 1 << 20, MemTableSize: 1 << 20, Indexes: tcps.Indexes()}
	store, err := engine.Open(base, o)
	require.NoError(t, err)
	ledger, err := tcps.New(store, tcps.Options{})
	require.NoError(t, err)
	for _, bucket := range []tcps.Bucket{"security", "reliability", "cost", "compliance"} {
		for i := range 5 {
			in := tcps.CreateWorkOrderInput{Bucket: string(bucket)}
			in.Signal.Type, in.Signal.Source, in.Signal.Description = "internal_request", fmt.Sprintf("%s-%d", bucket, i), strings.Repeat("x", 400)
			_, err := ledger.CreateWorkOrder(ctx, in)
			require.NoError(t, err)
		}
	}
	_, err = store.Checkpoint()
	require.NoError(t, err)
	require.NoError(t, store.Close())
	tables, err := filepath.Glob(filepath.Join(base, "store", "*.sst"))
	require.NoError(t, err)
	require.Len(t, tables, 1)
	good, err := os.ReadFile(tables[0])
	require.NoError(t, err)
	found := 0
	for at := 100; at < len(good); at += max(1, len(good)/25) {
		dir := filepath.Join(t.TempDir(), "data")
		require.NoError(t, os.CopyFS(dir, os.DirFS(base)))
		bad := bytes.Clone(good)
		bad[at] ^= 8
		require.NoError(t, os.WriteFile(filepath.Join(dir, "store", filepath.Base(tables[0])), bad, 0o600))
		r, err := Stopped(ctx, StoppedOptions{DataDir: dir, Engine: o, Now: time.Now}, func(Check) {})
		require.NoError(t, err, "byte %d", at)
		require.Len(t, r.Checks, len(kinds), "byte %d", at)
		if !r.Valid {
			found++
		}
		for _, c := range r.Checks {
			for _, f := range c.Findings {
				require.NotContains(t, f.What, "\n")
			}
		}
	}
	require.Greater(t, found, 20)
}

// Something that is no file in the place of a segment is damage, not a failure to check.
func TestWhatIsNoFileIsAFinding(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	o := engine.Options{SegmentSize: 64 << 10, MemTableSize: 1 << 20}
	store, err := engine.Open(dir, o)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "wal", "0000000000000001.seg")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "wal", "0000000000000001.seg"), 0o700))
	r, err := Stopped(context.Background(), StoppedOptions{DataDir: dir, Engine: o, Now: time.Now}, func(Check) {})
	require.NoError(t, err)
	require.False(t, r.Valid)
	require.Contains(t, r.Checks[0].Findings[0].What, "is not a file")
}
