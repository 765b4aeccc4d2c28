package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/mcp"
)

// bindTCP binds the port of MCP over raw TCP. Connections wait in it until serveTCP.
func (n *Node) bindTCP(address string) error {
	const key = "server.tcp_listen"
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: cannot listen on %s (from %s): %w; choose another address, port 0 picks a free one",
			key, address, n.cfg.Origin(key), err)
	}
	n.warnAboutExposure(key, l.Addr().String())
	if n.access.certificate != nil {
		l = tls.NewListener(l, n.access.certificate.config())
	}
	n.http.mu.Lock()
	n.http.tcp = l
	n.http.mu.Unlock()
	return nil
}

// resumeTCP binds the same port again for a new runtime: the one before closed it with itself.
func (n *Node) resumeTCP() error {
	address := n.http.tcpAddress()
	if address == "" {
		return nil
	}
	if err := n.bindTCP(address); err != nil {
		return err
	}
	n.serveTCP()
	return nil
}

// serveTCP begins to serve it; it ends when the runtime is closed.
func (n *Node) serveTCP() {
	n.http.mu.Lock()
	l := n.http.tcp
	n.http.mu.Unlock()
	if l == nil {
		return
	}
	runtime := n.parts.Load().runtime
	go func() {
		if err := runtime.ServeTCP(context.Background(), l); err != nil {
			n.errors <- fmt.Errorf("server.tcp_listen: %w", err)
		}
	}()
}

// auditOptions translates the configuration of the audit log.
func auditOptions(c *config.Config) mcp.AuditOptions {
	return mcp.AuditOptions{
		Off: !c.Audit.Enabled, Retention: c.Audit.Retention, MaxBytes: c.Audit.MaxBytes,
		Durability: map[string]mcp.AuditDurability{
			config.AuditBatched:      mcp.AuditBatched,
			config.AuditBeforeAnswer: mcp.AuditBeforeAnswer,
		}[c.Audit.Durability],
	}
}

// Audit implements admin.Source.
func (n *Node) Audit(ctx context.Context, q mcp.AuditQuery, fn func(mcp.AuditRecord) error) error {
	r, err := n.serving()
	if err != nil {
		return err
	}
	return r.Audit(ctx, q, fn)
}
