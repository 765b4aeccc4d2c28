package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

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
	n.http.tcp = l
	return nil
}

// serveTCP begins to serve it; it ends when the runtime is closed.
func (n *Node) serveTCP() {
	if n.http.tcp == nil {
		return
	}
	runtime := n.parts.Load().runtime
	go func() {
		if err := runtime.ServeTCP(context.Background(), n.http.tcp); err != nil {
			n.errors <- fmt.Errorf("server.tcp_listen: %w", err)
		}
	}()
}

// Audit implements admin.Source.
func (n *Node) Audit(ctx context.Context, q mcp.AuditQuery, fn func(mcp.AuditRecord) error) error {
	r, err := n.serving()
	if err != nil {
		return err
	}
	return r.Audit(ctx, q, fn)
}
