package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASecretIsAKeyOrAPassphraseByItsForm(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	hexKey := strings.Repeat("ab", 32)
	for _, tc := range []struct {
		content string
		want    []byte
		isKey   bool
	}{
		{hexKey + "\n", bytes.Repeat([]byte{0xab}, 32), true},
		{string(bytes.Repeat([]byte{0x01}, 32)), bytes.Repeat([]byte{1}, 32), true},
		{"correct horse battery\r\n", []byte("correct horse battery"), false},
		{"thirty-two characters, typed in.", []byte("thirty-two characters, typed in."), false}, // of 32 bytes, and no key
	} {
		require.NoError(t, os.WriteFile(file, []byte(tc.content), 0o600))
		secret, isKey, err := ReadSecret(file, "flag", "", BackupKeyEnv, nil)
		require.NoError(t, err)
		require.Equal(t, tc.want, secret)
		require.Equal(t, tc.isKey, isKey, tc.content)
	}
	secret, isKey, err := ReadSecret("", "", "", BackupKeyEnv, []string{BackupKeyEnv + "=" + hexKey})
	require.NoError(t, err)
	require.Equal(t, hexKey, string(secret))
	require.False(t, isKey, "a variable holds a passphrase, whatever it looks like")
	require.NoError(t, os.WriteFile(file, []byte("\n"), 0o600))
	_, _, err = ReadSecret(file, "flag", "", BackupKeyEnv, nil)
	require.ErrorContains(t, err, "is empty")
}

func TestShares(t *testing.T) {
	for text, want := range map[string]float64{"2%": 0.02, " 0.5% ": 0.005, "100%": 1} {
		got, err := ParseShare(text)
		require.NoError(t, err)
		require.InDelta(t, want, got, 1e-12)
	}
	for _, bad := range []string{"", "2", "0%", "101%", "-1%", "%", "two%", "1 %x", "NaN%"} {
		_, err := ParseShare(bad)
		require.Error(t, err, bad)
	}
}
