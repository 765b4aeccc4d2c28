package sign

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
)

var made = time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)

func fixed(t *testing.T, b byte) *PrivateKey {
	t.Helper()
	p, err := Generate(bytes.NewReader(bytes.Repeat([]byte{b}, 32)))
	require.NoError(t, err)
	return p
}

// example is a block of docs/format-backup.md, without white space.
func example(t *testing.T, fence string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/format-backup.md")
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(doc), "```"+fence+"\n")
	require.True(t, ok)
	text, _, _ := strings.Cut(after, "```")
	return strings.Join(strings.Fields(text), "")
}

func TestTheDocumentedSignatureIsWhatIsWritten(t *testing.T) {
	key := fixed(t, 0x33)
	about := Subject{Kind: 'H', Repo: [16]byte{0x11}, Object: [16]byte{0x22}}
	clear, salt, err := key.Attach(about, []byte(`{"seq":1}`), bytes.NewReader(bytes.Repeat([]byte{0x44}, 32)), []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, example(t, "signature"), string(clear))
	require.Equal(t, bytes.Repeat([]byte{0x44}, 32), salt)
	bare, sig := Detach(clear)
	require.Equal(t, `{"seq":1}`, string(bare))
	require.NoError(t, sig.Verify(about, bare))
	require.Equal(t, key.Public(), sig.Key)
	commitment, err := Commit(salt, []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, commitment, sig.Commitment)
	require.Equal(t, example(t, "signed"), hex.EncodeToString(about.message(bare, commitment)))
}

func TestASignatureIsAboutOneObjectAndItsContent(t *testing.T) {
	key := fixed(t, 1)
	about := Subject{Kind: 'M', Repo: [16]byte{1}, Object: [16]byte{2}}
	for _, text := range []string{"", "{}", `{"a":1}`} {
		clear, salt, err := key.Attach(about, []byte(text), rand.Reader, []byte("one"), []byte("two"))
		require.NoError(t, err)
		bare, sig := Detach(clear)
		if text == "" {
			text = "{}"
		}
		require.Equal(t, text, string(bare))
		require.NoError(t, sig.Verify(about, bare))
		for _, other := range []Subject{{'P', about.Repo, about.Object}, {'M', [16]byte{9}, about.Object}, {'M', about.Repo, [16]byte{9}}} {
			require.ErrorIs(t, sig.Verify(other, bare), ErrForged)
		}
		require.ErrorIs(t, sig.Verify(about, []byte(`{"a":2}`)), ErrForged)
		for _, frames := range [][][]byte{{[]byte("onetwo")}, {[]byte("one")}, {[]byte("two"), []byte("one")}, {[]byte("onet"), []byte("wo")}} {
			c, err := Commit(salt, frames...)
			require.NoError(t, err)
			require.NotEqual(t, sig.Commitment, c)
		}
		for i := range clear { // no damaged text is taken for another signature that is good
			bad := bytes.Clone(clear)
			bad[i] ^= 1
			if b, s := Detach(bad); s != nil {
				require.ErrorIs(t, s.Verify(about, b), ErrForged, "byte %d", i)
			}
		}
	}
	for _, none := range []string{"", "{}", `{"signature":""}`, `"signature":"` + strings.Repeat("0", textBytes) + `"}`, `{"signature":"` + strings.Repeat("A", textBytes) + `"}`} {
		bare, sig := Detach([]byte(none))
		require.Nil(t, sig, none)
		require.Equal(t, none, string(bare))
	}
	_, err := Commit(nil)
	require.ErrorIs(t, err, ErrForged)
}

func TestAPrivateKeyIsKeptWithOrWithoutAPassword(t *testing.T) {
	key := fixed(t, 7)
	plain, err := key.Encode(nil, keys.KDF{}, "site a", made, rand.Reader)
	require.NoError(t, err)
	require.False(t, IsEncrypted(plain))
	again, err := Parse(plain, nil)
	require.NoError(t, err)
	require.Equal(t, key, again)

	cheap := keys.KDF{Name: keys.Argon2id, Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	locked, err := key.Encode([]byte("correct horse"), cheap, "site a", made, rand.Reader)
	require.NoError(t, err)
	require.True(t, IsEncrypted(locked))
	require.NotContains(t, string(locked), strings.Repeat("07", 32))
	again, err = Parse(locked, []byte("correct horse"))
	require.NoError(t, err)
	require.Equal(t, key, again)
	for _, wrong := range []string{"", "short", "correct horsf"} {
		_, err = Parse(locked, []byte(wrong))
		require.ErrorIs(t, err, ErrPassword, wrong)
	}
	_, err = Parse(bytes.Replace(locked, []byte("site a"), []byte("site b"), 1), []byte("correct horse"))
	require.ErrorIs(t, err, ErrPassword, "everything in the file is authenticated")
	_, err = Parse(bytes.Replace(plain, []byte("07"), []byte("08"), 1), nil)
	require.ErrorIs(t, err, ErrInvalid)
	for _, junk := range []string{"", "{}", "ed25519 00", `{"format":"erlmcp-backup-signing-key","version":2}`, `{"format":"erlmcp-backup-signing-key","version":1}`} {
		_, err = Parse([]byte(junk), nil)
		require.ErrorIs(t, err, ErrInvalid, junk)
	}
	_, err = key.Encode([]byte("short"), cheap, "", made, rand.Reader)
	require.ErrorIs(t, err, keys.ErrInvalid)
}

func TestAFileOfPublicKeysIsReadAsPeopleWriteIt(t *testing.T) {
	a, b := fixed(t, 1), fixed(t, 2)
	trust, err := ParseTrust([]byte("# ours\n" + a.Public().String() + "\n\n  " + b.Public().String() + "  the old one, until May\r\n" + a.Public().String() + "\n"))
	require.NoError(t, err)
	require.Equal(t, Trust{a.Public(), b.Public()}, trust)
	private, err := a.Encode(nil, keys.KDF{}, "", made, rand.Reader)
	require.NoError(t, err)
	for text, want := range map[string]string{
		"": "0 public keys", "# nothing\n": "0 public keys", "hello": "line 1", a.Public().String() + "\nrsa 00": "line 2", "ed25519 12": "line 1",
		string(private): "private key", strings.Repeat("#\n", maxFile): "bytes",
	} {
		_, err := ParseTrust([]byte(text))
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, want)
	}
}

func FuzzDetachTakesNothingForASignatureThatIsNone(f *testing.F) {
	f.Add([]byte(`{"a":1,"signature":"00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		bare, sig := Detach(b)
		if sig == nil {
			require.Equal(t, b, bare)
			return
		}
		require.ErrorIs(t, sig.Verify(Subject{}, bare), ErrForged)
	})
}
