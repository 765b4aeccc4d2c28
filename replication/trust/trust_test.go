package trust

import (
	"crypto/ed25519"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func identity(t *testing.T, a *Authority, name string, now time.Time) *Identity {
	t.Helper()
	key, csr, err := Request(name)
	require.NoError(t, err)
	der, err := a.Issue(csr, name, now)
	require.NoError(t, err)
	id, err := NewIdentity(a, der, key)
	require.NoError(t, err)
	return id
}

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority(time.Now())
	require.NoError(t, err)
	return a
}

// shake returns the errors of both sides of a handshake.
func shake(t *testing.T, server, client *tls.Config) (served, called error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			err = tls.Server(c, server).Handshake()
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	called = tls.Client(c, client).Handshake()
	if called != nil {
		_ = c.Close()
	}
	return <-done, called
}

func TestOnlyMembersOfTheClusterAreTalkedTo(t *testing.T) {
	now := time.Now()
	ours, theirs := newAuthority(t), newAuthority(t)
	n1, n2, stranger := identity(t, ours, "n1", now), identity(t, ours, "n2", now), identity(t, theirs, "n1", now)
	server := n1.Server([]string{"p"}, []string{"join"})

	served, called := shake(t, server, n2.Client("p", "n1"))
	require.NoError(t, served)
	require.NoError(t, called)

	_, called = shake(t, server, n2.Client("p", "n3"))
	require.ErrorContains(t, called, "n1 answers where n3 was expected")

	served, called = shake(t, server, stranger.Client("p", ""))
	require.Error(t, called, "a member of another cluster does not believe us")
	require.Error(t, served)

	anybody := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"p"}, InsecureSkipVerify: true}
	served, _ = shake(t, server, anybody)
	require.ErrorContains(t, served, "has to show its certificate")

	old := &tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{"p"}, InsecureSkipVerify: true}
	served, _ = shake(t, server, old)
	require.Error(t, served, "TLS 1.2")

	none := n2.Client("p", "")
	none.NextProtos = nil
	served, _ = shake(t, server, none)
	require.ErrorContains(t, served, "none of the cluster's protocols")

	expired := identity(t, ours, "n2", now.Add(-2*validity))
	served, _ = shake(t, server, expired.Client("p", ""))
	require.Error(t, served, "an expired certificate")
}

func TestTokensAreOfThisClusterInTimeAndUnchanged(t *testing.T) {
	now := time.Now()
	a, other := newAuthority(t), newAuthority(t)
	s, err := a.NewToken(Token{Addresses: []string{"h:1"}, Expires: now.Add(time.Hour), Voter: true, Uses: 2})
	require.NoError(t, err)
	got, err := a.CheckToken(s, now)
	require.NoError(t, err)
	require.True(t, got.Voter)
	require.Equal(t, 2, got.Uses)
	_, err = a.CheckToken(s, now.Add(2*time.Hour))
	require.ErrorContains(t, err, "expired")
	_, err = other.CheckToken(s, now)
	require.ErrorContains(t, err, "not made by this cluster")
	for i := len(tokenPrefix); i < len(s); i++ {
		changed := s[:i] + string(s[i]^1) + s[i+1:]
		if got, err := a.CheckToken(changed, now); err == nil {
			same, _ := a.CheckToken(s, now) // base64 has bits that mean nothing
			require.Equal(t, same, got)
		}
	}
	for _, bad := range []string{"", "erlmcp1.", "erlmcp1.x.y", "erlmcp1.e30.e30", strings.Repeat("x", 9000)} {
		_, err := ReadToken(bad)
		require.ErrorIs(t, err, ErrTrust, "%.20q", bad)
	}
	_, err = (&Authority{Cert: a.Cert}).NewToken(Token{})
	require.ErrorContains(t, err, "does not hold the authority's key")
}

func TestJoiningMachineRecognisesTheClusterOfItsToken(t *testing.T) {
	now := time.Now()
	a, other := newAuthority(t), newAuthority(t)
	s, err := a.NewToken(Token{Expires: now.Add(time.Hour)})
	require.NoError(t, err)
	token, err := ReadToken(s)
	require.NoError(t, err)
	server := identity(t, a, "n1", now).Server([]string{"p"}, []string{"join"})
	served, called := shake(t, server, token.Joining("join"))
	require.NoError(t, served)
	require.NoError(t, called)
	served, _ = shake(t, server, token.Joining("p"))
	require.Error(t, served, "only joining is open")
	_, called = shake(t, identity(t, other, "n1", now).Server(nil, []string{"join"}), token.Joining("join"))
	require.ErrorContains(t, called, "belongs to cluster")
}

func TestSecretMakesTheSameAuthorityEverywhere(t *testing.T) {
	secret := []byte(strings.Repeat("s", 32))
	a, err := FromSecret(secret)
	require.NoError(t, err)
	b, err := FromSecret(secret)
	require.NoError(t, err)
	require.Equal(t, a.Cert.Raw, b.Cert.Raw)
	c, err := FromSecret([]byte(strings.Repeat("t", 32)))
	require.NoError(t, err)
	require.NotEqual(t, a.ClusterID(), c.ClusterID())
	_, err = FromSecret(secret[:31])
	require.ErrorContains(t, err, "at least 32")
}

func TestIdentityIsReadBackAndRenewed(t *testing.T) {
	now := time.Now()
	dir := filepath.Join(t.TempDir(), "cluster")
	a := newAuthority(t)
	id := identity(t, a, "n1", now)
	require.NoError(t, id.Save(dir))
	for _, name := range []string{"ca.key", "node.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
	back, err := Load(dir)
	require.NoError(t, err)
	require.Equal(t, "n1", back.Name)
	require.NotNil(t, back.Authority().Key)
	require.True(t, back.RenewAfter().After(now.Add(200*24*time.Hour)) && back.RenewAfter().Before(back.Expires()))

	key, csr, err := Request("n1")
	require.NoError(t, err)
	der, err := a.Issue(csr, "n1", now.Add(time.Hour))
	require.NoError(t, err)
	require.NoError(t, back.Renew(der, key))
	require.True(t, back.Expires().After(id.Expires()))
	require.ErrorContains(t, id.Renew(der, id.now.Load().leaf.PrivateKey.(ed25519.PrivateKey)), "do not belong together")

	_, csr2, err := Request("n2")
	require.NoError(t, err)
	_, err = a.Issue(csr2, "n1", now)
	require.ErrorContains(t, err, `for "n2", not for "n1"`)
	_, err = a.Issue([]byte("nonsense"), "n1", now)
	require.ErrorIs(t, err, ErrTrust)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "node.crt"), []byte("x"), 0o600))
	_, err = Load(dir)
	require.ErrorContains(t, err, "holds no CERTIFICATE")
}
