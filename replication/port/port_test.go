package port

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/replication/trust"
)

func identity(t *testing.T, a *trust.Authority, name string) *trust.Identity {
	t.Helper()
	key, csr, err := trust.Request(name)
	require.NoError(t, err)
	der, err := a.Issue(csr, name, time.Now())
	require.NoError(t, err)
	id, err := trust.NewIdentity(a, der, key)
	require.NoError(t, err)
	return id
}

// A member that speaks another version of a protocol is told so in the handshake, before a byte of the protocol is sent.
func TestAnotherVersionIsRefusedClearly(t *testing.T) {
	a, err := trust.NewAuthority(time.Now())
	require.NoError(t, err)
	p, err := Listen("127.0.0.1:0", identity(t, a, "n1"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer p.Close()
	got := make(chan string, 1)
	p.Handle(Raft, func(c Conn) { got <- c.Member; _ = c.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	other, address := identity(t, a, "n2"), p.Addr().String()

	c, err := Dial(ctx, other, Raft, "n1", address)
	require.NoError(t, err)
	require.Equal(t, "n2", <-got)
	require.NoError(t, c.Close())

	_, err = Dial(ctx, other, "erlmcp-raft/1", "n1", address)
	require.ErrorIs(t, err, ErrProtocol)
	require.ErrorContains(t, err, "same version")
}
