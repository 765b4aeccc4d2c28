package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTheCommandsOfTheBackupGuideWork runs every ```sh block of docs/backup.md as it stands, with /var/... moved to a temporary place.
func TestTheCommandsOfTheBackupGuideWork(t *testing.T) {
	text, err := os.ReadFile("../../docs/backup.md")
	require.NoError(t, err)
	base := t.TempDir()
	lib, backups := filepath.Join(base, "lib"), filepath.Join(base, "backups")
	require.NoError(t, os.MkdirAll(lib, 0o700))
	require.NoError(t, os.MkdirAll(backups, 0o700))
	s := start(t, filepath.Join(lib, "erlmcp"))
	some(t, s, "a", 3)
	blocks := strings.Split(string(text), "```sh\n")[1:]
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		script, _, ok := strings.Cut(b, "```")
		require.True(t, ok)
		script = strings.NewReplacer("/var/lib", lib, "/var/backups", backups).Replace(script)
		c := exec.Command("bash", "-euo", "pipefail", "-c", script)
		c.Dir = base
		c.Env = append(environment(t), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s\n%s", script, out)
	}
	require.DirExists(t, filepath.Join(lib, "erlmcp.restored"))
}
