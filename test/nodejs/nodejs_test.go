package nodejs

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// A machine without network and without a cache skips; a damaged lock file must not look like one.
func TestOnlyAMissingNetworkIsExcused(t *testing.T) {
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("npm is not installed")
	}
	t.Setenv("npm_config_cache", t.TempDir())
	t.Setenv("npm_config_registry", "http://127.0.0.1:1/")
	t.Setenv("npm_config_fetch_retries", "0")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	_, err := Install(t.Context())
	require.ErrorIs(t, err, ErrUnavailable)

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/package.json", []byte(`{"dependencies":{"left-pad":"1.0.0"}}`), 0o600))
	err = npm(t.Context(), dir) // without its lock file
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrUnavailable)
}

func TestVersionOfSomethingElse(t *testing.T) {
	require.Zero(t, major(t.Context(), "/nonexistent/node"))
	require.Zero(t, major(t.Context(), "/bin/true"))
}
