package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// serving returns the running MCP runtime.
func (n *Node) serving() (*mcp.Runtime, error) {
	p := n.parts.Load()
	if p == nil || n.currentPhase() != admin.PhaseServing {
		return nil, fmt.Errorf("the server is %s", n.currentPhase())
	}
	return p.runtime, nil
}

// ListSessions implements admin.Source.
func (n *Node) ListSessions(ctx context.Context, after string, limit int) ([]mcp.SessionInfo, error) {
	r, err := n.serving()
	if err != nil {
		return nil, err
	}
	return r.ListSessions(ctx, after, limit)
}

// Session implements admin.Source.
func (n *Node) Session(ctx context.Context, id string) (mcp.SessionInfo, error) {
	r, err := n.serving()
	if err != nil {
		return mcp.SessionInfo{}, err
	}
	return r.Session(ctx, id)
}

// TerminateSession implements admin.Source.
func (n *Node) TerminateSession(ctx context.Context, id string) error {
	r, err := n.serving()
	if err != nil {
		return err
	}
	if err := r.TerminateSession(ctx, id); err != nil {
		return err
	}
	n.log.Info("session terminated by an operator", "session", id[:min(8, len(id))])
	return nil
}

// Stopped is the MCP runtime of a directory that no server uses.
type Stopped struct {
	*mcp.Runtime
	store *engine.Store
}

// OpenStopped opens the directory as a server would, for reading only unless change is set. Where there is no store the error wraps
// [integrity.ErrNothingThere] and nothing is created.
func OpenStopped(cfg *config.Config, key []byte, change bool) (*Stopped, error) {
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "FORMAT")); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", cfg.DataDir, integrity.ErrNothingThere)
	}
	options := EngineOptions(cfg, key, slog.New(slog.DiscardHandler))
	options.ReadOnly = !change
	options.SweepInterval = -1
	store, err := engine.Open(cfg.DataDir, options)
	if err != nil {
		return nil, ExplainOpen(cfg.DataDir, key, err)
	}
	runtime, err := mcp.NewRuntime(store, mcp.Options{SessionTimeout: cfg.MCP.SessionTimeout})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &Stopped{Runtime: runtime, store: store}, nil
}

// Close lets others use the directory.
func (s *Stopped) Close() error { return errors.Join(s.Runtime.Close(), s.store.Close()) }
