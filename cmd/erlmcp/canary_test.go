package main

import (
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Nothing that must stay secret shows up where it does not belong: passphrases and keys nowhere at all, rows nowhere in a repository.
func TestNoSecretAppearsInARepositoryOrInWhatACommandPrints(t *testing.T) {
	const pass, second, wrong, row = "canary-passphrase-71c4", "canary-second-way-5b2e", "canary-wrong-word-9d07", "canary-row-e83f"
	base := t.TempDir()
	repo, data, key := filepath.Join(base, "repo"), filepath.Join(base, "data"), filepath.Join(base, "key")
	raw := []byte(strings.Repeat("K9", 16))
	require.NoError(t, os.WriteFile(key, []byte(hex.EncodeToString(raw)), 0o600))
	secrets := []string{pass, second, wrong, string(raw), hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw)}
	for _, s := range []string{pass, second, wrong} {
		secrets = append(secrets, hex.EncodeToString([]byte(s)), base64.StdEncoding.EncodeToString([]byte(s)))
	}
	s := start(t, data)
	some(t, s, row, 4)
	env := environment(t, "ERLMCP_BACKUP_ENCRYPTION_KEY="+pass, "ERLMCP_BACKUP_NEW_ENCRYPTION_KEY="+second)
	var printed strings.Builder
	say := func(env []string, want int, args ...string) string {
		for _, more := range [][]string{nil, {"--json"}} {
			r := runEnv(t, env, append(append(args, "--repo", repo), more...)...)
			printed.WriteString(r.stdout + r.stderr)
			require.Equal(t, want, r.code, "%v: %s%s", args, r.stdout, r.stderr)
			if want != 0 || args[1] == "init" || args[1] == "keys" {
				return r.stderr
			}
		}
		return ""
	}
	bad := environment(t, "ERLMCP_BACKUP_ENCRYPTION_KEY="+wrong)
	say(env, 0, "backup", "init", "--kdf", "pbkdf2")
	say(env, 0, "backup", "create", "--data", data)
	some(t, s, row+"-more", 2)
	for _, args := range [][]string{
		{"backup", "create", "--data", data},
		{"backup", "list"},
		{"backup", "show", "latest"},
		{"backup", "verify", "--read-data"},
		{"backup", "keys", "add", "--kdf", "pbkdf2"},
		{"backup", "keys", "list"},
		{"backup", "prune"},
		{"backup", "copy", "--to", filepath.Join(base, "copy")},
	} {
		say(env, 0, args...)
	}
	for _, args := range [][]string{{"backup", "list"}, {"backup", "create", "--data", data}, {"backup", "restore", "--to", filepath.Join(base, "no")}, {"drill"}} {
		err := say(bad, 1, args...)
		require.Equal(t, 1, strings.Count(err, "wrong passphrase or key file"), "one clear error: %s", err)
	}
	say(env, 1, "backup", "keys", "rekey", "--kdf", "pbkdf2") // the other slot would go
	say(env, 0, "backup", "keys", "rekey", "--kdf", "pbkdf2", "--drop-other-slots")
	for _, secret := range secrets {
		require.NotContains(t, printed.String(), secret)
		require.NotContains(t, s.stderr.String(), secret)
	}
	for _, root := range []string{repo, filepath.Join(base, "copy")} {
		require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			for _, secret := range append(secrets, row, "work_order", "andon") {
				require.NotContains(t, string(b), secret, path)
			}
			return err
		}))
	}
}
