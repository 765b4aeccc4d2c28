package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/tcps/classic"
)

// Formats of `backup create`.
const (
	formatRepository = "repository"
	formatTar        = "tar.gz"
	formatSealedTar  = "tar.gz.enc"
)

// classic writes a classic archive into a directory.
func (r *repoFlags) classic(cfg *config.Config, format, dir string, kind string) error {
	if dir == "" {
		return errUsage("--format %s needs a directory to write to: --to DIR", format)
	}
	if kind == "incremental" {
		return errUsage("a classic archive is always a full one: incremental backups need a repository")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	req := admin.ClassicRequest{Dir: dir}
	if format == formatSealedTar {
		if req.Secret, _, err = cfg.BackupSecret(r.keyFile, r.a.environ); err != nil {
			return err
		}
		if req.Secret == nil {
			return errUsage("no passphrase: put one into ERLMCP_BACKUP_ENCRYPTION_KEY or name a file with --key-file")
		}
	} else if !r.plain {
		return errUsage("a .tar.gz can be read by anybody: say --no-encryption if that is intended, or --format tar.gz.enc")
	}
	return onSignal(func(ctx context.Context) error {
		a, err := admin.NewClient(cfg.DataDir).Classic(ctx, req)
		if errors.Is(err, admin.ErrNoServer) {
			a, err = r.a.classicStopped(ctx, cfg, req)
		}
		if err != nil {
			return backup.Explain(err, dir)
		}
		if r.asJSON {
			return writeJSON(r.a.out, a)
		}
		_, err = fmt.Fprintf(r.a.out, "%s\n%s, log index %d, %s\ncheck it: sha256sum -c %s, or tcpsdump backup %s\n", a.File, bytesText(a.Size), a.LogIndex,
			counts(a), filepath.Base(a.SideFile), a.File)
		return err
	})
}

func counts(a classic.Archive) string {
	var parts []string
	for _, name := range sortedKeys(a.Counts) {
		parts = append(parts, fmt.Sprintf("%d %s", a.Counts[name], strings.ReplaceAll(name, "_", " ")))
	}
	return strings.Join(parts, ", ")
}

func (a *app) classicStopped(ctx context.Context, cfg *config.Config, req admin.ClassicRequest) (classic.Archive, error) {
	s, err := a.openStopped(cfg)
	if err != nil {
		return classic.Archive{}, err
	}
	out, err := node.ClassicArchive(ctx, s, req.Dir, req.Secret, time.Now())
	return out, errors.Join(err, s.Close())
}
