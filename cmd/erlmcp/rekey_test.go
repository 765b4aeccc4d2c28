package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestARekeyedRepositoryOpensWithTheNewKeyOnly(t *testing.T) {
	v := newVault(t)
	s := start(t, v.dir("data"))
	some(t, s, "a", 3)
	v.must("backup", "create", "--data", v.dir("data"))
	some(t, s, "b", 2)
	v.must("backup", "create", "--data", v.dir("data"))

	r := run(t, v.args("backup", "keys", "rekey")...)
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "--same-secret")
	second := filepath.Join(v.base, "key2")
	require.NoError(t, os.WriteFile(second, []byte(strings.Repeat("5e", 32)+"\n"), 0o600))
	r = run(t, v.args("backup", "keys", "rekey", "--new-key-file", second, "--same-secret")...)
	require.Equal(t, exitUsage, r.code)

	var d rekeyed
	v.result(&d, "backup", "keys", "rekey", "--new-key-file", second, "--limit-rate", "1GiB")
	require.Equal(t, uint32(1), d.Generation)
	require.NotZero(t, d.Objects)
	require.Contains(t, v.must("backup", "keys", "rekey", "--new-key-file", second).stdout, "nothing was left to do")
	old := run(t, v.args("backup", "create", "--data", v.dir("data"))...)
	require.Equal(t, exitFailure, old.code)
	require.Contains(t, old.stderr, "wrong passphrase or key file")
	for _, n := range []string{old.stderr, old.stdout} {
		require.NotContains(t, n, strings.Repeat("5e", 32))
	}

	v.key = second
	require.Contains(t, v.must("backup", "keys", "list").stdout, "generation 1")
	require.Contains(t, v.must("backup", "verify", "--read-data").stdout, "Sound. 2 backups")
	v.must("backup", "restore", "--to", v.dir("restored"))
	some(t, s, "c", 2)
	v.must("backup", "create", "--data", v.dir("data"))
	require.Contains(t, v.must("drill").stdout, "The backups restore")
	v.must("backup", "keys", "rekey", "--same-secret")
	require.Contains(t, v.must("backup", "keys", "list").stdout, "generation 2")
	v.must("drill")
}
