package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/ops/backup"
)

func TestAServerWithARepositoryLosesNothingThatWasArchivedWhenItsSiteIsGone(t *testing.T) {
	base := t.TempDir()
	repo, data := filepath.Join(base, "repo"), filepath.Join(base, "data")
	secret := "ERLMCP_BACKUP_ENCRYPTION_KEY=canary-passphrase-55"
	env := environment(t, secret)
	require.Zero(t, runEnv(t, env, "backup", "init", "--repo", repo).code)
	set := []string{"--set", "backup.repository=" + repo, "--set", "backup.archive=100ms", "--set", "backup.copies=" + filepath.Join(base, "copy")}

	p := launch(t, environment(t), append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, set...)...)
	require.Equal(t, 2, p.wait())
	require.Contains(t, p.stderr.String(), "backup.repository: there is no passphrase for it: set ERLMCP_BACKUP_ENCRYPTION_KEY")

	s := startEnv(t, env, data, set...)
	backups := func() *backup.Status { return status(t, data).Backup }
	require.Eventually(t, func() bool { b := backups(); return b != nil && b.LastBackup != nil }, patience, 20*time.Millisecond, "the first backup is made at once")
	some(t, s, "a", 30)
	want := status(t, data).Store
	require.Eventually(t, func() bool { return backups().Archive.Index >= want.AppliedIndex }, patience, 20*time.Millisecond)

	text := run(t, "status", "--data", data).stdout
	require.Contains(t, text, "backups")
	require.Contains(t, text, "incremental")
	_, metrics := get(t, "http://"+s.run.Metrics+"/metrics", nil)
	for _, name := range []string{
		`erlmcp_backup_runs_total{job="full",outcome="ok"}`, "erlmcp_backup_archive_lag_entries", `erlmcp_process_health{component="backup"} 1`,
	} {
		require.Contains(t, metrics, name)
	}

	// By hand, without naming the repository: the server knows it, and its passphrase.
	r := run(t, "backup", "create", "--data", data)
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "incremental")

	s.kill()
	require.NoError(t, os.RemoveAll(data))
	r = runEnv(t, env, "backup", "restore", "--to", data, "--repo", repo)
	require.Zero(t, r.code, r.stderr)
	got := status(t, data).Store
	require.GreaterOrEqual(t, got.AppliedIndex, want.AppliedIndex, "everything acknowledged before the archive was complete is back")
	r = runEnv(t, env, "backup", "restore", "--at-index", itoa(want.AppliedIndex), "--to", filepath.Join(base, "then"), "--repo", repo)
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, want.StateHash)

	for _, file := range []string{s.stderr.String(), s.stdout.String()} {
		require.NotContains(t, file, "canary-passphrase-55")
	}
	require.NoError(t, filepath.WalkDir(repo, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		require.NotContains(t, string(b), "canary-passphrase-55", path)
		require.NotContains(t, string(b), "made by a test", "no plain text in %s", path)
		return err
	}))
}

func TestARepositoryThatIsNotThereDegradesTheServerAndSaysWhatToDo(t *testing.T) {
	base := t.TempDir()
	data := filepath.Join(base, "data")
	start(t, data, "--set", "backup.repository="+filepath.Join(base, "nowhere"), "--set", "backup.encryption=off")
	require.Eventually(t, func() bool {
		h := status(t, data).Health
		c, ok := h.Components["backup"]
		return ok && c.Status == "degraded" && strings.Contains(c.Message, "not a backup repository")
	}, patience, 20*time.Millisecond)
	require.NoDirExists(t, filepath.Join(base, "nowhere"), "a server makes no repository by itself: it would not know of a mistyped name")
	require.Contains(t, run(t, "status", "--data", data).stdout, "FAILED")
}
