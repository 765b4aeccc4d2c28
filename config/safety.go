package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Auth says who may use the server and for what.
type Auth struct {
	TokenFile      string   // static bearer tokens; empty: none
	Issuer         string   // OAuth 2.1 authorization server; empty: none
	Resource       string   // URL of this server as clients know it; needed with Issuer
	Audience       []string // accepted aud claims; empty: Resource
	JWKSURL        string   // empty: discovered
	Scopes         []string // offered to clients in the metadata
	RequiredScopes []string // without which nobody gets in
	ToolScopes     []string // "tool=scope scope"; see ScopesOfTools
	AllowAnonymous bool     // serve other machines without authentication
}

// Limits bound what one client may ask for. 0 is no limit.
type Limits struct {
	Messages       int64 // per second and client
	ToolCalls      int64 // per second and client
	Subscriptions  int64 // per second and client
	Connections    int64 // per second and address
	GlobalMessages int64 // per second, all limited clients together
	Loopback       bool  // limit anonymous clients on loopback too
	Sockets        int64 // raw TCP connections and WebSockets at once
	SocketIdle     time.Duration
}

// Audit holds the settings of the audit log of tool calls.
type Audit struct {
	Enabled    bool
	Durability string // one of the Audit* constants
	Retention  time.Duration
	MaxBytes   int64
}

// Values of audit.durability.
const (
	AuditBatched      = "batched"
	AuditBeforeAnswer = "before_answer"
)

// Tracing holds the settings of OpenTelemetry traces.
type Tracing struct {
	Endpoint string  // URL of an OTLP/HTTP collector; empty: what OTEL_* says, or no traces
	Sample   float64 // share of the traces that begin here, (0,1]
}

// On reports whether there is authentication.
func (a *Auth) On() bool { return a.TokenFile != "" || a.Issuer != "" }

// ScopesOfTools returns ToolScopes as a map.
func (a *Auth) ScopesOfTools() map[string][]string {
	rules := make(map[string][]string, len(a.ToolScopes))
	for _, rule := range a.ToolScopes {
		tool, scopes, _ := strings.Cut(rule, "=")
		rules[strings.TrimSpace(tool)] = strings.Fields(scopes)
	}
	return rules
}

var safetySettings = []setting{
	textSetting("auth.token_file", "", func(c *Config) *string { return &c.Auth.TokenFile },
		"File with the hashes of static bearer tokens; `erlmcp token create` makes it. Changes count within a second, or",
		"at once after SIGHUP. With this or auth.issuer every request to /mcp needs a token."),
	textSetting("auth.issuer", "", func(c *Config) *string { return &c.Auth.Issuer },
		"OAuth 2.1 authorization server whose JWTs are accepted, exactly as in their iss claim.",
		"Example: https://id.example.com"),
	textSetting("auth.resource", "", func(c *Config) *string { return &c.Auth.Resource },
		"URL of this server as its clients know it; needed with auth.issuer. Example: https://mcp.example.com/mcp"),
	listSetting("auth.audience", func(c *Config) *[]string { return &c.Auth.Audience },
		"Accepted values of the aud claim. Empty: auth.resource."),
	textSetting("auth.jwks_url", "", func(c *Config) *string { return &c.Auth.JWKSURL },
		"Where the issuer publishes its keys. Empty: found in the issuer's metadata."),
	listSetting("auth.scopes", func(c *Config) *[]string { return &c.Auth.Scopes },
		"Scopes that clients are told to ask for (RFC 9728 metadata)."),
	scopeSetting("auth.required_scopes", func(c *Config) *[]string { return &c.Auth.RequiredScopes },
		"Scopes without which no request is answered."),
	ruleSetting("auth.tool_scopes", func(c *Config) *[]string { return &c.Auth.ToolScopes },
		"Scopes that the callers of a tool need, each \"TOOL=SCOPE SCOPE\"; a TOOL that ends in * means all that begin so,",
		"and the most specific rule counts. Example: [\"*=tcps:write\", \"work_order_list=tcps:read\"]"),
	boolSetting("auth.allow_anonymous", "off", func(c *Config) *bool { return &c.Auth.AllowAnonymous },
		"Serve other machines without authentication: only behind a proxy that authenticates, or in a network where",
		"everybody may do everything."),

	countSetting("limits.messages", "100", 0, 1e9, func(c *Config) *int64 { return &c.Limits.Messages },
		"Messages per second of one client: one principal, or without authentication one address. One second's worth may",
		"come at once; above it the answer is -32010, over HTTP with status 429 and Retry-After. 0: no limit.",
		"Anonymous clients on loopback are not limited, see limits.loopback."),
	countSetting("limits.tool_calls", "50", 0, 1e9, func(c *Config) *int64 { return &c.Limits.ToolCalls },
		"Tool calls per second of one client. 0: no limit."),
	countSetting("limits.subscriptions", "20", 0, 1e9, func(c *Config) *int64 { return &c.Limits.Subscriptions },
		"Subscriptions per second of one client. 0: no limit."),
	countSetting("limits.connections", "10", 0, 1e9, func(c *Config) *int64 { return &c.Limits.Connections },
		"New connections per second of one address. 0: no limit."),
	countSetting("limits.global_messages", "10000", 0, 1e9, func(c *Config) *int64 { return &c.Limits.GlobalMessages },
		"Messages per second of all limited clients together. 0: no limit."),
	boolSetting("limits.loopback", "off", func(c *Config) *bool { return &c.Limits.Loopback },
		"Limit anonymous clients on loopback too, all of them as one."),
	countSetting("limits.sockets", "1000", 1, 1e6, func(c *Config) *int64 { return &c.Limits.Sockets },
		"Raw TCP connections and WebSockets at once."),
	durationSetting("limits.socket_idle", "5m", time.Second, 24*time.Hour, func(c *Config) *time.Duration { return &c.Limits.SocketIdle },
		"A socket without a message and without a running call is closed after this."),

	boolSetting("audit.enabled", "on", func(c *Config) *bool { return &c.Audit.Enabled },
		"Keep a record of every tool call in the store: who, which tool, digest of the arguments, outcome. See `erlmcp audit`."),
	choiceSetting("audit.durability", AuditBatched, []string{AuditBatched, AuditBeforeAnswer},
		func(c *Config) *string { return &c.Audit.Durability },
		"Whether answers wait until the record of their call is on disk. A call that changes something in the store has a record in",
		"any case, committed with its change. batched: the records of how calls ended are committed 0.1 s later at most, and a killed",
		"process loses those; before_answer: every answer waits, and calls that end at the same time share one commit. While the store",
		"takes no records, calls whose answers would wait are refused with -32010."),
	durationSetting("audit.retention", "2160h", time.Minute, 100*365*24*time.Hour, func(c *Config) *time.Duration { return &c.Audit.Retention },
		"A record is removed after this (90 days)."),
	sizeSetting("audit.max_bytes", "1GiB", mib, tib, func(c *Config) *int64 { return &c.Audit.MaxBytes },
		"Most bytes of records; above it the oldest are removed."),

	urlSetting("tracing.endpoint", "", func(c *Config) *string { return &c.Tracing.Endpoint },
		"OpenTelemetry collector that takes traces over OTLP/HTTP, for example http://127.0.0.1:4318. Empty: the variables",
		"OTEL_EXPORTER_OTLP_ENDPOINT and the like, and without them no traces. Headers with secrets: OTEL_EXPORTER_OTLP_HEADERS."),
	shareSetting("tracing.sample", "100%", func(c *Config) *float64 { return &c.Tracing.Sample },
		"Share of the traces that begin here; a client that sends its own trace decides itself."),
}

// urlSetting is empty or an http or https URL without a secret in it.
func urlSetting(key, def string, at func(*Config) *string, doc ...string) setting {
	s := textSetting(key, def, at, doc...)
	s.set = func(c *Config, v string) error {
		u, err := url.Parse(v)
		if v != "" && (err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("is not a URL such as http://127.0.0.1:4318 (without user and password)")
		}
		*at(c) = v
		return nil
	}
	return s
}

// scopeSetting is a listSetting whose items are scopes (RFC 6749, section 3.3).
func scopeSetting(key string, at func(*Config) *[]string, doc ...string) setting {
	return checkedList(listSetting(key, at, doc...), at, checkScope)
}

// ruleSetting is a listSetting whose items give scopes to tools.
func ruleSetting(key string, at func(*Config) *[]string, doc ...string) setting {
	return checkedList(listSetting(key, at, doc...), at, func(rule string) error {
		tool, scopes, ok := strings.Cut(rule, "=")
		if tool = strings.TrimSpace(tool); !ok || tool == "" || strings.ContainsAny(tool, " \t") || strings.Contains(strings.TrimSuffix(tool, "*"), "*") {
			return fmt.Errorf("%q is not a rule: write TOOL=SCOPE, TOOL may end in *", rule)
		}
		for _, scope := range strings.Fields(scopes) {
			if err := checkScope(scope); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkedList(s setting, at func(*Config) *[]string, check func(string) error) setting {
	set := s.set
	s.set = func(c *Config, v string) error {
		before := *at(c)
		if err := set(c, v); err != nil {
			return err
		}
		for _, item := range *at(c) {
			if err := check(item); err != nil {
				*at(c) = before
				return err
			}
		}
		return nil
	}
	return s
}

func checkScope(scope string) error {
	for i := range len(scope) {
		if c := scope[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return fmt.Errorf("%q is not a scope: only printable ASCII without space, quote and backslash", scope)
		}
	}
	return nil
}

// finishSafety checks the settings of access against each other.
func (l *loader) finishSafety() {
	c := l.cfg
	if t := c.Server.TLS; (t.CertFile == "") != (t.KeyFile == "") {
		l.fail(l.origin("server.tls.cert_file"), "server.tls.cert_file", "TLS needs both server.tls.cert_file and server.tls.key_file")
	}
	if a := c.Auth; a.Issuer == "" {
		l.pointless(a.Resource != "", "auth.resource", "auth.issuer")
		l.pointless(len(a.Audience) > 0, "auth.audience", "auth.issuer")
		l.pointless(a.JWKSURL != "", "auth.jwks_url", "auth.issuer")
		l.pointless(len(a.Scopes) > 0, "auth.scopes", "auth.issuer")
	} else if a.Resource == "" {
		l.fail(l.origin("auth.issuer"), "auth.resource", "is needed with auth.issuer: the URL of this server as its clients know it, such as https://mcp.example.com/mcp")
	}
	if a := c.Auth; !a.On() {
		l.pointless(len(a.RequiredScopes) > 0, "auth.required_scopes", "authentication: set auth.token_file or auth.issuer")
		l.pointless(len(a.ToolScopes) > 0, "auth.tool_scopes", "authentication: set auth.token_file or auth.issuer")
	}
	if c.Auth.On() || c.Auth.AllowAnonymous {
		return
	}
	for _, at := range [][2]string{{"server.listen", c.Server.Listen}, {"server.tcp_listen", c.Server.TCPListen}} {
		key, address := at[0], at[1]
		if address == Off || localAddress(address) {
			continue
		}
		l.fail(l.origin(key), key, "%s is reachable from other machines, and nothing asks them who they are: set "+
			"auth.token_file (`erlmcp token create` makes one) or auth.issuer, or, behind a proxy that authenticates, auth.allow_anonymous=on", address)
	}
}

// pointless refuses a setting that has no effect without another one: whoever
// gave it believes in a protection that is not there.
func (l *loader) pointless(given bool, key, without string) {
	if given {
		l.fail(l.origin(key), key, "means nothing without %s", without)
	}
}

// localAddress reports whether only this machine reaches an address.
func localAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
