package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/ops/backup"
)

// signingPair makes a key pair with the real program.
func (v *vault) signingPair(name string, more ...string) (private, public string) {
	v.t.Helper()
	private = filepath.Join(v.base, name)
	r := run(v.t, append([]string{"backup", "keys", "sign-generate", "--out", private, "--label", name}, more...)...)
	require.Zero(v.t, r.code, r.stderr)
	st, err := os.Stat(private)
	require.NoError(v.t, err)
	require.Equal(v.t, os.FileMode(0o600), st.Mode().Perm())
	again := run(v.t, "backup", "keys", "sign-generate", "--out", private)
	require.Equal(v.t, exitFailure, again.code, "a key is never overwritten")
	return private, private + ".pub"
}

func TestASignedRepositoryIsMadeKeptAndRestoredByThePeopleItIsMeantFor(t *testing.T) {
	v := newVault(t)
	key, pub := v.signingPair("sign.key")
	_, other := v.signingPair("other.key")
	s := start(t, v.dir("data"))
	some(t, s, "a", 3)
	v.must("backup", "create", "--data", v.dir("data")) // before it was signed

	r := run(t, v.args("backup", "create", "--data", v.dir("data"), "--sign-key-file", key)...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "sign-begin")
	var begun begunSigning
	r = v.must("backup", "keys", "sign-begin", "--sign-key-file", key, "--json")
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &begun))
	require.Equal(t, uint64(2), begun.From)
	some(t, s, "b", 2)
	r = run(t, v.args("backup", "create", "--data", v.dir("data"))...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "--sign-key-file")
	require.Contains(t, v.must("backup", "create", "--data", v.dir("data"), "--sign-key-file", key).stdout, "full")
	some(t, s, "c", 2)
	require.Contains(t, v.must("backup", "create", "--data", v.dir("data"), "--sign-key-file", key).stdout, "incremental")
	require.Contains(t, v.must("drill", "--sign-key-file", key).stdout, "The backups restore")
	require.Contains(t, v.must("drill", "--last", "--verify-key-file", pub).stdout, "The backups restore")
	v.must("backup", "prune", "--keep-last", "9", "--sign-key-file", key)
	v.must("backup", "consolidate", "--sign-key-file", key)

	require.Contains(t, v.must("backup", "verify", "--read-data", "--verify-key-file", pub).stdout, "signed from link 2 on")
	keyless := run(t, "backup", "verify", "--repo", v.repo, "--verify-key-file", pub)
	require.Zero(t, keyless.code, keyless.stdout+keyless.stderr)
	require.Contains(t, keyless.stdout, "signed from link 2 on")
	require.Contains(t, v.must("backup", "list", "--verify-key-file", pub).stdout, "note: backup 1 is not signed")
	require.Contains(t, v.must("backup", "show", "3", "--verify-key-file", pub).stdout, "verified")
	v.must("backup", "restore", "--to", v.dir("restored"), "--verify-key-file", pub)
	r = run(t, v.args("backup", "restore", "1", "--to", v.dir("old"), "--verify-key-file", pub)...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "manifests/0000000000000001")
	require.NoDirExists(t, v.dir("old"))
	v.must("backup", "restore", "1", "--to", v.dir("old"))
	for _, args := range [][]string{{"list"}, {"restore", "--to", v.dir("never")}, {"verify"}, {"copy", "--to", v.dir("copied")}} {
		r = run(t, v.args(append(append([]string{"backup"}, args...), "--verify-key-file", other)...)...)
		require.Equal(t, exitFailure, r.code, args)
		require.Contains(t, r.stdout+r.stderr, "not a trusted key")
	}
	both := append([]string{"backup", "list", "--verify-key-file", other}, "--verify-key-file", pub)
	v.must(both...)
	v.must("backup", "copy", "--to", v.dir("copied"), "--verify-key-file", pub)
	dump := filepath.Join(v.base, "tcpsdump")
	out, err := exec.Command("go", "build", "-o", dump, "../tcpsdump").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(dump, "backup", v.dir("copied"), "--verify-key-file", pub).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "signatures verified from link 2 on")
	out, err = exec.Command(dump, "backup", v.dir("copied"), "--verify-key-file", other).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "not a trusted key")

	// Somebody with the encryption key writes a new history.
	evil, _ := v.signingPair("evil.key")
	v.must("backup", "keys", "sign-begin", "--sign-key-file", evil)
	v.must("backup", "create", "--type", "full", "--data", v.dir("data"), "--sign-key-file", evil)
	v.must("backup", "verify", "--read-data")
	r = run(t, v.args("backup", "restore", "--to", v.dir("never"), "--verify-key-file", pub)...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, "unsigned: manifests/")
	require.NoDirExists(t, v.dir("never"))
}

func TestASigningKeyMayHaveAPassword(t *testing.T) {
	v := newVault(t)
	key := filepath.Join(v.base, "sign.key")
	env := environment(t, "ERLMCP_BACKUP_SIGN_PASSWORD=correct horse battery")
	require.Equal(t, exitUsage, run(t, "backup", "keys", "sign-generate", "--out", key, "--password").code)
	require.Zero(t, runEnv(t, env, "backup", "keys", "sign-generate", "--out", key, "--password", "--kdf", "pbkdf2").code)
	public := run(t, "backup", "keys", "sign-public", "--sign-key-file", key)
	require.Zero(t, public.code)
	require.True(t, strings.HasPrefix(public.stdout, "ed25519 "))
	for _, e := range [][]string{environment(t), environment(t, "ERLMCP_BACKUP_SIGN_PASSWORD=wrong horse battery")} {
		r := runEnv(t, e, v.args("backup", "keys", "sign-begin", "--sign-key-file", key)...)
		require.Equal(t, exitUsage, r.code)
		require.Contains(t, r.stderr, "password for the signing key")
		require.NotContains(t, r.stderr, "wrong horse")
	}
	r := runEnv(t, env, v.args("backup", "keys", "sign-begin", "--sign-key-file", key)...)
	require.Zero(t, r.code, r.stderr)
}

func TestAServerSignsWhatItsScheduleMakes(t *testing.T) {
	v := newVault(t)
	key, pub := v.signingPair("sign.key")
	v.repo = v.dir("signed")
	v.must("backup", "init", "--sign-key-file", key)
	s := start(t, v.dir("data"), "--set", "backup.repository="+v.repo, "--set", "backup.key_file="+v.key, "--set", "backup.sign_key_file="+key, "--set", "backup.archive=100ms")
	backups := func() *backup.Status { return status(t, v.dir("data")).Backup }
	require.Eventually(t, func() bool { b := backups(); return b != nil && b.LastBackup != nil }, patience, 20*time.Millisecond)
	some(t, s, "a", 5)
	want := status(t, v.dir("data")).Store.AppliedIndex
	require.Eventually(t, func() bool { return backups().Archive.Index >= want }, patience, 20*time.Millisecond)
	v.must("backup", "create", "--data", v.dir("data")) // its own repository: the server has the key
	r := v.must("backup", "verify", "--read-data", "--verify-key-file", pub)
	require.Contains(t, r.stdout, "signed from link 1 on")
	require.NotContains(t, r.stdout, "note:")
	v.must("backup", "restore", "--to", v.dir("restored"), "--verify-key-file", pub)
}
