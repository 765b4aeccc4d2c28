package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// Backup stores the node's state in a repository, beside its work. One backup runs at a time; another one waits.
func (n *Node) Backup(ctx context.Context, r admin.BackupRequest, report backup.Report) (backup.Created, error) {
	p := n.parts.Load()
	if p == nil || n.currentPhase() != admin.PhaseServing {
		return backup.Created{}, fmt.Errorf("the server is %s", n.currentPhase())
	}
	if r.Target == nil {
		return backup.Created{}, errors.New("no repository is named, and the server is not configured with one: use --repo URL, or the setting backup.repository")
	}
	select {
	case n.backups <- struct{}{}:
	case <-ctx.Done():
		return backup.Created{}, ctx.Err()
	}
	defer func() { <-n.backups }()
	n.log.Info("backup begins", "repository", r.Target.String(), "type", r.Options.Type)
	repo, err := r.Target.Open(ctx)
	var created backup.Created
	if err == nil {
		created, err = backup.Create(ctx, p.store, repo, object.ID{}, r.Options, report)
	}
	if err != nil {
		n.log.Warn("backup failed", "repository", r.Target.String(), "error", err)
		return created, backup.Explain(err, r.Target.String())
	}
	n.log.Info("backup stored", "repository", r.Target.String(), "backup", created.Backup, "type", created.Type, "index", created.Index)
	return created, nil
}
