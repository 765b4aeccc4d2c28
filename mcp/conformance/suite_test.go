package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/nodejs"
)

// build compiles the fixture server.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "fixtures")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return bin
}

// start runs the fixture server and returns its URL.
func start(t *testing.T, bin, data string) string {
	t.Helper()
	cmd := exec.Command(bin, "-http", "127.0.0.1:0", "-data", data)
	var logs bytes.Buffer
	cmd.Stderr = &logs
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	url, err := bufio.NewReader(stdout).ReadString('\n')
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		require.NoError(t, cmd.Wait(), "the server stops cleanly")
		if t.Failed() {
			t.Logf("the server logged:\n%s", logs.Bytes())
		}
	})
	require.NoError(t, err, "the server prints its URL")
	return strings.TrimSpace(url)
}

// excuses are the checks that end without success, by revision.
var excuses = map[string][]excuse{
	"2026-07-28": {{"tasks-status-notifications", "SKIPPED", "the suite has no way to test this yet"}},
}

// attempts is how often the suite is run before its verdict counts. Some of its
// checks listen for half a second only, which a busy machine may use up
// elsewhere; what is wrong with the server is wrong every time.
const attempts = 3

func TestSuitePassesOnOneURL(t *testing.T) {
	if testing.Short() {
		t.Skip("installs and runs a Node program")
	}
	tools := nodejs.Require(t)
	url := start(t, build(t), t.TempDir())
	for _, revision := range []string{"2026-07-28", "2025-11-25"} {
		t.Run(revision, func(t *testing.T) {
			for attempt := 1; ; attempt++ {
				want, got := runSuite(t, tools, url, revision)
				wrong := judge(want, got, excuses[revision])
				if len(wrong) == 0 {
					t.Logf("%d required scenarios; run but not scored: %s", len(want.Required), strings.Join(want.NotScored, ", "))
					return
				}
				report := fmt.Sprintf("run %d: %d checks did not succeed:\n%s", attempt, len(wrong), strings.Join(wrong, "\n"))
				if attempt == attempts {
					t.Fatal(report)
				}
				t.Log(report)
			}
		})
	}
}

// runSuite runs the scenarios of one revision and returns what was wanted and
// what came out.
func runSuite(t *testing.T, tools *nodejs.Tools, url, revision string) (requirements, map[string][]check) {
	t.Helper()
	suite := tools.Module("@modelcontextprotocol", "conformance")
	list, err := os.ReadFile(filepath.Join(suite, "requirements", revision+".yaml"))
	require.NoError(t, err)
	want, err := readRequirements(list)
	require.NoError(t, err)

	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tools.Node, filepath.Join(suite, "dist", "index.js"),
		"server", "--url", url, "--output-dir", out, "--requirements", revision)
	log, err := cmd.CombinedOutput() // its exit code counts failures, which judge names
	got, readErr := readChecks(out)
	require.NoError(t, readErr, "%v\n%s", err, log)
	require.NotEmpty(t, got, "the suite ran nothing: %v\n%s", err, log)
	return want, got
}

func TestJudgeFindsWhatIsWrong(t *testing.T) {
	want, err := readRequirements([]byte("# head\nserver:\n  - a\n  - b\n\nclient:\n  - c\n\nnot_scored:\n" +
		"  - scenario: d\n    leg: client\n  - scenario: e\n    leg: server\n    reason: pending\n"))
	require.NoError(t, err)
	require.Equal(t, requirements{Required: []string{"a", "b"}, NotScored: []string{"e"}}, want)
	_, err = readRequirements([]byte("something: else\n"))
	require.Error(t, err)

	ok := []check{{ID: "x", Status: "SUCCESS"}, {ID: "y", Status: "INFO"}}
	require.Empty(t, judge(want, map[string][]check{"a": ok, "b": ok, "e": ok}, nil))
	skipped := []check{{ID: "z", Status: "SKIPPED"}}
	require.Empty(t, judge(want, map[string][]check{"a": ok, "b": skipped, "e": ok}, []excuse{{"b", "SKIPPED", "no test"}}))
	require.Equal(t, []string{
		"a: FAILURE f: broken",
		"b: WARNING w: looks odd",
		"b: no check is SKIPPED any more; remove its excuse",
		"e: was not run",
		"f: SKIPPED z: ",
	}, judge(want, map[string][]check{
		"a": {{ID: "f", Status: "FAILURE", Error: "broken"}},
		"b": {{ID: "w", Status: "WARNING", About: "looks odd"}},
		"f": skipped,
	}, []excuse{{"b", "SKIPPED", "another status"}}))
	require.Equal(t, []string{"b: no check is WARNING any more; remove its excuse"},
		judge(want, map[string][]check{"a": ok, "b": ok, "e": ok}, []excuse{{"b", "WARNING", "old"}}))
}

func TestReadChecksRefusesAnotherLayout(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "results"), 0o700))
	_, err := readChecks(dir)
	require.ErrorContains(t, err, "layout")
}
