package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
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
		"and the most specific rule counts. Example: [\"*=tcps:write\", \"tcps_sku_status=tcps:read\"]"),
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
	if address := c.Server.Listen; address != Off && !localAddress(address) {
		l.fail(l.origin("server.listen"), "server.listen", "%s is reachable from other machines, and nothing asks them who they are: set "+
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
