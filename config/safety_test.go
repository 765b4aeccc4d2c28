package config

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func set(pairs ...string) Sources {
	s := Sources{Environ: []string{"HOME=/home/x"}}
	for i := 0; i < len(pairs); i += 2 {
		s.Flags = append(s.Flags, Assignment{Flag: "--set", Key: pairs[i], Value: pairs[i+1]})
	}
	return s
}

func TestOpenAddressesNeedAuthenticationOrAWord(t *testing.T) {
	for _, address := range []string{"0.0.0.0:80", ":80", "[::]:80", "192.0.2.1:80", "erlmcp.example.com:80"} {
		for _, key := range []string{"server.listen", "server.tcp_listen"} {
			_, err := Load(set(key, address))
			require.ErrorContains(t, err, key+": "+address+" is reachable from other machines")
			for _, word := range [][]string{{"auth.token_file", "f"}, {"auth.allow_anonymous", "on"}, {"auth.issuer", "https://i", "auth.resource", "https://r/mcp"}} {
				_, err := Load(set(append([]string{key, address}, word...)...))
				require.NoError(t, err)
			}
		}
	}
	for _, address := range []string{"127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "localhost:80", "[::ffff:127.0.0.1]:80", "off"} {
		_, err := Load(set("server.listen", address))
		require.NoError(t, err, address)
	}
	_, err := Load(set("server.tcp_listen", "127.0.0.1:8080"))
	require.ErrorContains(t, err, "taken by another listener")
}

func TestScopesOfToolsAreChecked(t *testing.T) {
	c, err := Load(set("auth.token_file", "f", "auth.tool_scopes", "*=a b, work_* = c,free="))
	require.NoError(t, err)
	require.Equal(t, map[string][]string{"*": {"a", "b"}, "work_*": {"c"}, "free": {}}, c.Auth.ScopesOfTools())
	for _, bad := range []string{"a", "=b", "a*b=c", "a b=c", `a=q"uote`} {
		_, err := Load(set("auth.token_file", "f", "auth.tool_scopes", bad))
		require.Error(t, err, bad)
	}
	_, err = Load(set("auth.token_file", "f", "auth.required_scopes", "ü"))
	require.ErrorContains(t, err, "is not a scope")
}

func TestProtectionThatIsNotThereIsNotBelieved(t *testing.T) {
	for _, s := range []Sources{
		set("auth.required_scopes", "a"), set("auth.tool_scopes", "*=a"), set("auth.audience", "a"), set("auth.jwks_url", "https://a"),
		set("auth.token_file", "f", "auth.scopes", "a"), set("auth.issuer", "https://a"),
		set("server.tls.cert_file", "c"), set("server.tls.key_file", "k"),
		set("tracing.endpoint", "127.0.0.1:4318"), set("tracing.endpoint", "http://user:secret@h"),
	} {
		_, err := Load(s)
		require.Error(t, err, "%v", s.Flags)
		require.NotContains(t, err.Error(), "user:secret")
	}
}

func TestSafetySettingsReachTheirFields(t *testing.T) {
	c, err := Load(set("limits.messages", "0", "limits.loopback", "on", "limits.socket_idle", "1m", "audit.enabled", "off", "audit.retention", "24h",
		"audit.max_bytes", "2MiB", "audit.durability", "before_answer", "tracing.endpoint", "http://h:1", "tracing.sample", "10%", "server.tls.cert_file", "c", "server.tls.key_file", "k"))
	require.NoError(t, err)
	require.Equal(t, Limits{ToolCalls: 50, Subscriptions: 20, Connections: 10, GlobalMessages: 10000, Loopback: true, Sockets: 1000, SocketIdle: time.Minute}, c.Limits)
	require.Equal(t, Audit{Durability: AuditBeforeAnswer, Retention: 24 * time.Hour, MaxBytes: 2 << 20}, c.Audit)
	require.Equal(t, Tracing{Endpoint: "http://h:1", Sample: 0.1}, c.Tracing)
	require.Equal(t, TLS{CertFile: "c", KeyFile: "k"}, c.Server.TLS)
}
