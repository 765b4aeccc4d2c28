package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"

	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/auth"
)

// access is who may use the node and how: everything that is read from files and changes while the node runs.
type access struct {
	tokens      *auth.Tokens   // nil: no static tokens
	verifier    *auth.Verifier // nil: no OAuth
	guard       *auth.Guard    // nil: no authentication
	certificate *certificate   // nil: no TLS
}

// openAccess reads the files that the settings name.
func (n *Node) openAccess() (*access, error) {
	a := new(access)
	log := n.log.With("component", "auth")
	c := n.cfg.Auth
	var err error
	if c.TokenFile != "" {
		a.tokens, err = auth.OpenTokens(c.TokenFile, auth.TokensOptions{Logger: log, Now: n.o.Now})
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("auth.token_file: %w; `erlmcp token create --token-file %s --name NAME` makes it", err, c.TokenFile)
		}
		if err != nil {
			return nil, fmt.Errorf("auth.token_file: %w", err)
		}
	}
	if c.Issuer != "" {
		a.verifier, err = auth.NewVerifier(auth.VerifierOptions{
			Issuer: c.Issuer, Resource: c.Resource, Audience: c.Audience, JWKS: c.JWKSURL, Scopes: c.Scopes, Logger: log, Now: n.o.Now,
		})
		if err != nil {
			return nil, err
		}
	}
	if c.On() {
		a.guard, err = auth.NewGuard(auth.GuardOptions{Tokens: a.tokens, Verifier: a.verifier, Required: c.RequiredScopes})
		if err != nil {
			return nil, err
		}
	}
	if t := n.cfg.Server.TLS; t.CertFile != "" {
		if a.certificate, err = loadCertificate(t.CertFile, t.KeyFile, log, n.o.Now); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// reload looks at the files again; problems are logged and change nothing.
func (a *access) reload() {
	if a.tokens != nil {
		_ = a.tokens.Reload() // it logs
	}
	if a.certificate != nil {
		a.certificate.reload(true)
	}
}

// authenticator is for the runtime: a nil pointer in the interface would not be nil.
func (a *access) authenticator() mcp.Authenticator {
	if a.guard == nil {
		return nil
	}
	return a.guard
}

// rates translates the limits: the runtime reads 0 as "use the default", the configuration means no limit.
func (n *Node) rates() mcp.RateLimits {
	perSecond := func(v int64) float64 {
		if v == 0 {
			return -1
		}
		return float64(v)
	}
	l := n.cfg.Limits
	return mcp.RateLimits{
		Messages: perSecond(l.Messages), ToolCalls: perSecond(l.ToolCalls), Subscriptions: perSecond(l.Subscriptions),
		Connections: perSecond(l.Connections), Global: perSecond(l.GlobalMessages), Loopback: l.Loopback,
	}
}

// countConnection counts a new connection of the main listener; before the runtime exists nobody is served anyway.
func (n *Node) countConnection(ctx context.Context, conn net.Conn) context.Context {
	if p := n.parts.Load(); p != nil {
		return p.runtime.ConnContext(ctx, conn)
	}
	return ctx
}

// operatorsOnly reports whether tools for operators may be offered: there is authentication, which tells them from others, or nobody but
// users of this machine reaches the server.
func (n *Node) operatorsOnly() bool {
	if n.access.guard != nil {
		return true
	}
	for _, address := range []string{n.cfg.Server.Listen, n.cfg.Server.TCPListen} {
		if host, _, err := net.SplitHostPort(address); err == nil && !isLoopback(host) {
			return false
		}
	}
	return true
}

// routes adds what clients read before they have a token.
func (a *access) routes(mux *http.ServeMux) {
	if a.verifier == nil {
		return
	}
	mux.Handle(auth.WellKnown, a.verifier.Metadata())
	mux.Handle(auth.WellKnown+"/", a.verifier.Metadata())
}

// warnAboutExposure says what a listener gives away.
func (n *Node) warnAboutExposure(key, address string) {
	if host, _, _ := net.SplitHostPort(address); isLoopback(host) {
		return
	}
	if n.access.guard == nil {
		n.log.Warn("EVERYBODY who reaches this address may do everything: there is no authentication (auth.allow_anonymous)", "setting", key, "address", address)
		return
	}
	if n.access.certificate == nil {
		n.log.Warn("tokens cross the network readable: there is no TLS; set server.tls.cert_file or put a proxy with TLS in front", "setting", key, "address", address)
	}
}
