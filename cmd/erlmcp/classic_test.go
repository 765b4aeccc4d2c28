package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/tcps/classic"
)

// buildDump builds the forensic reader once, beside the program under test.
var buildDump = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(filepath.Dir(binary), "tcpsdump")
	out, err := exec.Command("go", "build", "-o", bin, "../tcpsdump").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build tcpsdump: %w\n%s", err, out)
	}
	return bin, nil
})

// tcpsdump runs the forensic reader.
func tcpsdump(t *testing.T) func(env []string, args ...string) (string, int) {
	t.Helper()
	bin, err := buildDump()
	require.NoError(t, err)
	return func(env []string, args ...string) (string, int) {
		c := exec.Command(bin, args...)
		c.Env = env
		out, _ := c.CombinedOutput()
		return string(out), c.ProcessState.ExitCode()
	}
}

func TestClassicArchiveAndForensicReaderSeeTheSameLedger(t *testing.T) {
	dump := tcpsdump(t)
	base := t.TempDir()
	data, to := filepath.Join(base, "data"), filepath.Join(base, "priv", "tcps", "backups")
	env := environment(t, "ERLMCP_BACKUP_ENCRYPTION_KEY=a passphrase for archives")
	s := start(t, data)
	some(t, s, "order with \"quotes\" ", 7)
	live := status(t, data).Store

	require.Equal(t, 2, runEnv(t, env, "backup", "create", "--data", data, "--format", "tar.gz", "--to", to).code, "plain must be said aloud")
	r := runEnv(t, env, "backup", "create", "--data", data, "--format", "tar.gz.enc", "--to", to, "--json")
	require.Zero(t, r.code, r.stderr)
	var a classic.Archive
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &a))
	require.GreaterOrEqual(t, a.LogIndex, live.AppliedIndex)
	if a.LogIndex == live.AppliedIndex { // else the audit log was written in between
		require.Equal(t, live.StateHash, a.StateHash)
	}
	require.Equal(t, 7, a.Counts["work_orders"])
	require.Regexp(t, `/full-\d{8}T\d{6}\.\d{3}Z\.tar\.gz\.enc$`, a.File)
	sum := exec.Command("sha256sum", "-c", filepath.Base(a.SideFile))
	sum.Dir = to
	out, err := sum.CombinedOutput()
	require.NoError(t, err, string(out))
	raw, err := os.ReadFile(a.File)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "work_orders")

	text, code := dump(env, "backup", a.File)
	require.Zero(t, code, text)
	for _, part := range []string{"receipts         7 files", "work orders      7 files", "andon events     0 files", "ontology (.ttl)  4 files", "its side file says the same"} {
		require.Contains(t, text, part)
	}
	text, code = dump(environment(t), "backup", a.File)
	require.Equal(t, 1, code)
	require.Contains(t, text, "encrypted")
	text, code = dump(environment(t, "ERLMCP_BACKUP_ENCRYPTION_KEY=not this one"), "backup", a.File, "--extract", filepath.Join(base, "x"))
	require.Equal(t, 1, code)
	require.Contains(t, text, "wrong passphrase or key file")
	require.NoDirExists(t, filepath.Join(base, "x"))
	for _, at := range []int{len(raw) - 1, len(raw) / 2, 40} {
		bad := append([]byte{}, raw...)
		bad[at] ^= 1
		require.NoError(t, os.WriteFile(a.File, bad, 0o600))
		_, code = dump(env, "backup", a.File)
		require.Equal(t, 1, code, "byte %d", at)
	}
	require.NoError(t, os.WriteFile(a.File, raw[:len(raw)-20], 0o600))
	_, code = dump(env, "backup", a.File)
	require.Equal(t, 1, code, "cut off")
	require.NoError(t, os.WriteFile(a.File, raw, 0o600))

	tree := filepath.Join(base, "tree")
	text, code = dump(env, "backup", a.File, "--extract", tree)
	require.Zero(t, code, text)
	require.Zero(t, s.stop())
	require.Zero(t, run(t, "verify", "--data", data).code)
	exported := filepath.Join(base, "exported")
	text, code = dump(env, "export", "--layout", "priv/tcps", "--data", data, exported)
	require.Zero(t, code, text)
	for _, dir := range []string{tree, exported} {
		require.Equal(t, []string{"andon_events", "backups", "indexes", "kanban", "manifest.json", "metadata.json", "ontology", "receipts", "work_orders"}, folders(t, dir), dir)
		require.Len(t, names(t, filepath.Join(dir, "receipts")), 7)
		ttl, err := os.ReadFile(filepath.Join(dir, "ontology", "work_orders.ttl"))
		require.NoError(t, err)
		require.Equal(t, 7, strings.Count(string(ttl), "> a tcps:WorkOrder"))
		require.Contains(t, string(ttl), `tcps:demandSignal "order with \"quotes\" -3"`)
	}
	text, code = dump(env, "export", "--layout", "priv/tcps", "--data", data, exported)
	require.Equal(t, 1, code)
	require.Contains(t, text, "is not empty; nothing was changed")
}

// folders is what a tree holds, without the folders for what there is none of.
func folders(t *testing.T, dir string) []string {
	t.Helper()
	for _, name := range []string{"andon_events", "kanban"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o700))
	}
	return names(t, dir)
}

func TestForensicReaderShowsRepositoriesWithAndWithoutTheKeyAndComparesStates(t *testing.T) {
	dump := tcpsdump(t)
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "a", 4)
	v.must("backup", "create", "--data", data, "--label", "before")
	some(t, s, "b", 2)
	v.must("backup", "create", "--data", data)
	require.Zero(t, s.stop())
	v.must("backup", "create", "--data", data)

	env := environment(t)
	text, code := dump(env, "backup", v.repo)
	require.Zero(t, code, text)
	require.Contains(t, text, "not authenticated: no key")
	require.NotContains(t, text, "before")
	text, code = dump(env, "backup", v.repo, "--repo-key-file", v.key, "--read-data")
	require.Zero(t, code, text)
	require.Contains(t, text, "authenticated with the key")
	require.Contains(t, text, "before")

	text, code = dump(env, "diff", v.repo+"@latest", data, "--repo-key-file", v.key)
	require.Zero(t, code, text)
	text, code = dump(env, "diff", v.repo+"@1", v.repo+"@2", "--repo-key-file", v.key, "--table", "tcps_work_orders")
	require.Equal(t, 1, code, text)
	require.Contains(t, text, "0 only in the first, 2 only in the second, 0 changed")

	packs, err := filepath.Glob(filepath.Join(v.repo, "packs", "*", "*"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(packs[0]))
	before := names(t, v.repo)
	text, code = dump(env, "backup", v.repo)
	require.Equal(t, 1, code)
	require.Contains(t, text, "DAMAGED: missing packs/")
	require.Equal(t, before, names(t, v.repo), "nothing is written")
}
