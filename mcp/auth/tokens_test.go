package auth_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp/auth"
)

// addToken makes a token with the given name in the file and returns its secret.
func addToken(t testing.TB, path, name string, scopes ...string) string {
	t.Helper()
	secret, token, err := auth.NewToken(rand.Reader, auth.Token{Name: name, Subject: name, Scopes: scopes, Created: day})
	require.NoError(t, err)
	require.NoError(t, auth.AddToken(path, token))
	return secret
}

func newTokenGuard(t testing.TB, path string) (*auth.Guard, *auth.Tokens, *clock, *bytes.Buffer) {
	t.Helper()
	c, logs := newClock(), new(bytes.Buffer)
	tokens, err := auth.OpenTokens(path, auth.TokensOptions{Now: c.now, Logger: slog.New(slog.NewTextHandler(logs, nil))})
	require.NoError(t, err)
	guard, err := auth.NewGuard(auth.GuardOptions{Tokens: tokens})
	require.NoError(t, err)
	return guard, tokens, c, logs
}

func TestATokenWorksFromItsCreationToItsRevocation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	first := addToken(t, path, "first", "read")
	guard, tokens, clock, _ := newTokenGuard(t, path)
	id, err := guard.Authenticate(request(first))
	require.NoError(t, err)
	require.Equal(t, "first", id.Subject)
	require.Equal(t, []string{"read"}, id.Scopes)
	require.Equal(t, "token", id.Method)

	second := addToken(t, path, "second")
	require.Equal(t, http.StatusUnauthorized, refused(t, guard, second).Status, "the file is not read for every request")
	clock.move(time.Second)
	id, err = guard.Authenticate(request(second))
	require.NoError(t, err)
	require.NotNil(t, id.Scopes, "nil would permit everything")
	require.Empty(t, id.Scopes)

	gone, err := auth.RevokeToken(path, "first")
	require.NoError(t, err)
	require.Equal(t, "first", gone.Name)
	clock.move(time.Second)
	bad := refused(t, guard, first)
	require.Contains(t, bad.Message, "revoked")
	require.Equal(t, `Bearer error="invalid_token", error_description="the token is unknown or was revoked"`, bad.Challenge)
	require.Equal(t, 1, tokens.Len())
}

func TestTheFileHoldsNoSecretAndBelongsToItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	secret := addToken(t, path, "first")
	require.Regexp(t, `^erlmcp_[A-Za-z0-9_-]{43}$`, secret)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(data), strings.TrimPrefix(secret, "erlmcp_"))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.Chmod(path, 0o620))
	_, err = auth.OpenTokens(path, auth.TokensOptions{})
	require.ErrorContains(t, err, "chmod 600")
}

func TestAnExpiredTokenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	secret, token, err := auth.NewToken(rand.Reader, auth.Token{Name: "n", Subject: "s", Expires: day.Add(time.Hour)})
	require.NoError(t, err)
	require.NoError(t, auth.AddToken(path, token))
	guard, _, clock, _ := newTokenGuard(t, path)
	clock.move(time.Hour - time.Millisecond)
	id, err := guard.Authenticate(request(secret))
	require.NoError(t, err)
	require.Equal(t, day.Add(time.Hour), id.Expires)
	clock.move(time.Millisecond)
	require.Contains(t, refused(t, guard, secret).Message, "expired")
}

func TestABrokenFileKeepsTheTokensAndAMissingOneAdmitsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	secret := addToken(t, path, "first")
	guard, tokens, clock, logs := newTokenGuard(t, path)
	require.NoError(t, os.WriteFile(path, []byte("Bearer "+secret+"\n"), 0o600))
	clock.move(time.Second)
	_, err := guard.Authenticate(request(secret))
	require.NoError(t, err)
	require.Contains(t, logs.String(), "line 1 is not a token")
	require.NotContains(t, logs.String(), secret, "a secret in the wrong place stays out of the log")
	clock.move(time.Second)
	_, err = guard.Authenticate(request(secret))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(logs.String(), "line 1"), "it is said once")

	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, tokens.Reload(), fs.ErrNotExist)
	refused(t, guard, secret)
	again := addToken(t, path, "again")
	require.NoError(t, tokens.Reload())
	_, err = guard.Authenticate(request(again))
	require.NoError(t, err)
}

func TestMalformedFilesAreRefusedWithTheirLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	addToken(t, path, "good", "a")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	line := strings.TrimSpace(strings.SplitN(string(data), "\n", 2)[1])
	for name, c := range map[string]struct{ content, says string }{
		"unknown member":   {strings.Replace(line, `"name"`, `"nom"`, 1), "line 1 is not a token"},
		"two objects":      {line + line, "line 1 is not a token"},
		"not JSON":         {"# fine\n\nsecret", "line 3 is not a token"},
		"short hash":       {strings.Replace(line, `"sha256:`, `"sha256:00`, 1), "line 1: hash"},
		"another hash":     {strings.Replace(line, `sha256`, `md5`, 1), "line 1: hash"},
		"bad id":           {strings.Replace(line, `"id":"`, `"id":"zz`, 1), "line 1: id"},
		"empty name":       {strings.Replace(line, `"name":"good"`, `"name":""`, 1), "line 1: name"},
		"control":          {strings.Replace(line, `"name":"good"`, `"name":"go\u0000d"`, 1), "line 1: name"},
		"anonymous":        {strings.Replace(line, `"subject":"good"`, `"subject":"anonymous"`, 1), "reserved"},
		"looks like OAuth": {strings.Replace(line, `"subject":"good"`, `"subject":"oauth:ann"`, 1), "reserved"},
		"a bad scope":      {strings.Replace(line, `["a"]`, `["a b"]`, 1), "scope"},
		"twice":            {line + "\n" + line, "line 2: a second token"},
		"same id":          {line + "\n" + strings.Replace(line, `"name":"good"`, `"name":"b"`, 1), "twice"},
	} {
		require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
		_, err := auth.ReadTokens(path)
		require.ErrorContains(t, err, c.says, name)
		require.ErrorContains(t, auth.AddToken(path, auth.Token{
			ID: "01020304", Name: "x", Subject: "x", Hash: "sha256:" + strings.Repeat("0", 64),
		}), c.says, name)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, c.content, string(after), "a broken file is not touched")
	}
}

func TestCommentsSurviveEdits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(path, []byte("# ours\n\n# no end of line"), 0o600))
	addToken(t, path, "a")
	addToken(t, path, "b")
	_, err := auth.RevokeToken(path, "a")
	require.NoError(t, err)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `^# ours\n\n# no end of line\n\{.*"name":"b".*\}\n$`, string(data))
	_, err = auth.RevokeToken(path, "a")
	require.ErrorIs(t, err, auth.ErrNoToken)
	list, err := auth.ReadTokens(path)
	require.NoError(t, err)
	_, err = auth.RevokeToken(path, list[0].ID)
	require.NoError(t, err)
}

func TestNamesAreUnique(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	addToken(t, path, "a")
	_, token, err := auth.NewToken(rand.Reader, auth.Token{Name: "a", Subject: "x"})
	require.NoError(t, err)
	require.ErrorContains(t, auth.AddToken(path, token), "already")
}

func TestTokensMadeElsewhereMustBeLong(t *testing.T) {
	_, err := auth.ImportToken(rand.Reader, "hunter2", auth.Token{Name: "a", Subject: "a"})
	require.ErrorContains(t, err, "random")
	_, err = auth.ImportToken(rand.Reader, strings.Repeat("a b", 20), auth.Token{Name: "a", Subject: "a"})
	require.ErrorContains(t, err, "letters")
	secret := strings.Repeat("0123456789abcdef", 4)
	token, err := auth.ImportToken(rand.Reader, secret, auth.Token{Name: "a", Subject: "a"})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, auth.AddToken(path, token))
	guard, _, _, _ := newTokenGuard(t, path)
	_, err = guard.Authenticate(request(secret))
	require.NoError(t, err)
}

func TestCommandsAtTheSameTimeLoseNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			_, token, err := auth.NewToken(rand.Reader, auth.Token{Name: fmt.Sprint("n", i), Subject: "s"})
			if err == nil {
				err = auth.AddToken(path, token)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	list, err := auth.ReadTokens(path)
	require.NoError(t, err)
	require.Len(t, list, 8)
}

func TestTheHeaderIsReadStrictly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	secret := addToken(t, path, "a")
	guard, _, _, _ := newTokenGuard(t, path)
	for _, c := range []struct {
		header []string
		ok     bool
		says   string
	}{
		{nil, false, "send the header"},
		{[]string{"Bearer " + secret}, true, ""},
		{[]string{"bearer   " + secret + " "}, true, ""},
		{[]string{"Bearer " + secret, "Bearer " + secret}, false, "more than one"},
		{[]string{"Basic " + secret}, false, "Bearer <token>"},
		{[]string{secret}, false, "Bearer <token>"},
		{[]string{"Bearer"}, false, "no token"},
		{[]string{"Bearer a b"}, false, "characters"},
		{[]string{"Bearer \x00"}, false, "characters"},
		{[]string{"Bearer é"}, false, "characters"},
		{[]string{"Bearer " + strings.Repeat("a", 17<<10)}, false, "longer"},
		{[]string{"Bearer " + secret[:len(secret)-1]}, false, "unknown"},
		{[]string{"Bearer " + secret + "A"}, false, "unknown"},
		{[]string{"Bearer " + strings.ToUpper(secret)}, false, "unknown"},
	} {
		req := httptest.NewRequest(http.MethodPost, resource+"?access_token="+secret, nil)
		req.Header["Authorization"] = c.header
		id, err := guard.Authenticate(req)
		if c.ok {
			require.NoError(t, err)
			require.Equal(t, "a", id.Subject)
			continue
		}
		require.ErrorContains(t, err, c.says, "%q", c.header)
		require.NotContains(t, err.Error(), secret)
	}
}

func TestBothKindsOfTokensWorkSideBySide(t *testing.T) {
	o := newOAuth(t)
	s := newSigner(t, "k", "ES256")
	o.publish(s.public())
	path := filepath.Join(t.TempDir(), "tokens")
	secret := addToken(t, path, "ann")
	tokens, err := auth.OpenTokens(path, auth.TokensOptions{Now: o.clock.now})
	require.NoError(t, err)
	guard, err := auth.NewGuard(auth.GuardOptions{Tokens: tokens, Verifier: o.verifier})
	require.NoError(t, err)
	static, err := guard.Authenticate(request(secret))
	require.NoError(t, err)
	jwt, err := guard.Authenticate(request(s.sign(t, o.claims())))
	require.NoError(t, err)
	require.NotEqual(t, static.Subject, jwt.Subject, "who is called ann at the issuer is not the ann of the file")
	require.Contains(t, refused(t, guard, "erlmcp_unknown").Message, "unknown")
	require.Contains(t, refused(t, guard, s.sign(t, o.claims("aud", "x"))).Message, "audience")
}
