package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/sign"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// repoFlag adds the flag for the key of a repository or an archive.
func (f *stateFlags) repoFlag(c *cobra.Command) {
	c.Flags().StringVar(&f.repoKey, "repo-key-file", "", "`FILE` with the key or passphrase of a repository or archive (default: ERLMCP_BACKUP_ENCRYPTION_KEY)")
	c.Flags().StringArrayVar(&f.verify, "verify-key-file", nil, "`FILE` of public keys: what none of them signed in a repository is refused")
}

// secret is the secret of a repository, nil if none was given.
func (f stateFlags) secret() ([]byte, error) {
	s, _, err := config.ReadSecret(f.repoKey, "flag --repo-key-file", "", config.BackupKeyEnv, os.Environ())
	return s, err
}

// trust are the keys whose signatures count, none if they are not asked for.
func (f stateFlags) trust() (sign.Trust, error) { return (&config.Config{}).BackupTrust(f.verify) }

// repository opens a repository. It only reads, so a repository without encryption needs no word of consent.
func (f stateFlags) repository(ctx context.Context, url string) (*backupfmt.Repo, error) {
	st, err := openStore(ctx, url)
	if err != nil {
		return nil, err
	}
	secret, err := f.secret()
	if err != nil {
		return nil, err
	}
	trust, err := f.trust()
	if err != nil {
		return nil, err
	}
	repo, err := backupfmt.Open(ctx, st, backupfmt.Options{Secret: secret, Trust: trust})
	if errors.Is(err, backupfmt.ErrNotEncrypted) {
		return backupfmt.Open(ctx, st, backupfmt.Options{Plain: true, Trust: trust})
	}
	return repo, err
}

func openStore(ctx context.Context, url string) (store.Store, error) {
	l, err := store.ParseLocation(url, os.Getenv)
	if err != nil {
		return nil, err
	}
	return backup.Target{Location: l}.Store(ctx, false)
}
