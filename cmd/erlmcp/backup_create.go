package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/node"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const backupInitLong = `init makes a repository: in a directory, which is made if it is missing and must be empty, or in a bucket, which must exist
and hold nothing below the prefix.

The first key slot is made from the passphrase or key that is given. A passphrase is stretched with Argon2id (64 MiB, 3
passes), or with PBKDF2-HMAC-SHA256 (600 000 rounds) where a NIST function is required. More slots: erlmcp backup keys add.
With --sign-key-file the repository is signed from the beginning.

Exit codes: 0 made; 1 not made; 2 wrong usage or configuration.`

func (a *app) backupInitCommand() *cobra.Command {
	var kdf, label string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a repository",
		Long:  backupInitLong,
		Example: `  erlmcp backup init --repo /var/backups/erlmcp --key-file /etc/erlmcp-backup.key
  ERLMCP_BACKUP_ENCRYPTION_KEY='correct horse battery' erlmcp backup init --repo s3://erlmcp-backups/site-a`,
		Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd).signing(cmd)
	cmd.Flags().StringVar(&kdf, "kdf", "argon2id", "how a passphrase is stretched: argon2id or pbkdf2, `NAME`")
	cmd.Flags().StringVar(&label, "label", "first", "note for people on the first key slot, `TEXT`")
	_ = cmd.RegisterFlagCompletionFunc("kdf", cobra.FixedCompletions([]string{"argon2id", "pbkdf2"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := r.load(cmd)
		if err != nil {
			return err
		}
		t, isKey, err := r.target(cfg)
		if err != nil {
			return err
		}
		function, err := kdfOf(kdf, isKey)
		if err != nil {
			return err
		}
		if !t.Plain && t.Secret == nil {
			return errUsage("no passphrase: put one into ERLMCP_BACKUP_ENCRYPTION_KEY or name a file with --key-file\n" +
				"(`openssl rand -hex 32` makes a key); to make a repository that anybody can read, say --no-encryption")
		}
		return onSignal(func(ctx context.Context) error {
			repo, err := t.Init(ctx, function, label)
			if err == nil && t.Signer != nil {
				_, err = repo.BeginSigning(ctx)
			}
			if err != nil {
				return backup.Explain(err, t.String())
			}
			if r.asJSON {
				return writeJSON(a.out, map[string]any{"repository": t.String(), "id": repo.ID().String(), "encrypted": repo.Encrypted(), "signed": t.Signer != nil})
			}
			protection := "encrypted with AES-256-GCM. Keep the passphrase or key in a second place: without it nobody can read the backups"
			if !repo.Encrypted() {
				protection = "NOT encrypted: whoever can read it can read everything in it"
			}
			_, err = fmt.Fprintf(a.out, "made repository %s in %s\n%s\n", repo.ID(), t, protection)
			return err
		})
	}
	return cmd
}

// kdfOf is the function for a slot.
func kdfOf(name string, isKey bool) (keys.KDF, error) {
	switch {
	case name != "argon2id" && name != "pbkdf2":
		return keys.KDF{}, errUsage("--kdf %q is not argon2id or pbkdf2", name)
	case isKey:
		return keys.File, nil
	case name == "pbkdf2":
		return keys.Compatible, nil
	}
	return keys.Default, nil
}

const backupCreateLong = `create stores the state of a data directory.

When a server runs on the directory, the server does the work, beside its own and without a pause; a relative --repo is taken from here,
and the directory must be writable for the server's user. Without --repo the server uses the repository it is configured
with. When no server runs, the directory is opened here, as a server would open it.

The type is chosen if none is given: incremental, unless there is no backup yet, the log does not reach back to the last one, or 24
incrementals follow the last full backup. An incremental reads the log, not the store: its time and size follow the
change. A full backup reads every row and stores the ones that changed since the last full backup. It shares nothing with one of which
objects are missing; with --fresh, with none.

A server remembers the newest link of the chain that it has seen, in its own store. A repository that ends before it, or has another one in its place,
was put back to an older state: it is refused, and --accept-rollback says that this was on purpose.

The log between the previous backup and this one is stored too, so that every moment in between can be restored
(--no-archive leaves it out).

With --format tar.gz or tar.gz.enc a classic archive of the ledger is written to --to DIR instead: full-<time>.tar.gz holds the documents as JSON, their
ontology as Turtle, and a manifest; .enc is AES-256-GCM under the passphrase; FILE.sha256 is for sha256sum -c. It is a copy for people and
tools: only a repository restores a store, to any moment.

Exit codes: 0 stored, or nothing had changed; 1 not stored; 2 wrong usage or configuration.`

func (a *app) backupCreateCommand() *cobra.Command {
	var o backup.CreateOptions
	var format, to string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a backup of a running server or a stopped directory",
		Long:  backupCreateLong,
		Example: `  erlmcp backup create --repo /var/backups/erlmcp --data /var/lib/erlmcp
  erlmcp backup create --type full --label 'before the upgrade' --limit-rate 20MiB
  erlmcp backup create --format tar.gz.enc --to priv/tcps/backups
  erlmcp backup create --json | jq -c 'select(.event == "result").result'`,
		Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd, dataFlag, dataKeyFileFlag).signing(cmd).packing(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Type, "type", backupfmt.Auto, "auto, full or incremental, `TYPE`")
	f.StringVar(&o.Label, "label", "", "note for people, stored encrypted, `TEXT`")
	f.StringVar(&format, "format", formatRepository, "repository, or a classic archive: tar.gz, tar.gz.enc, `FORMAT`")
	f.StringVar(&to, "to", "", "with --format tar.gz or tar.gz.enc: `DIR` to write the archive and its .sha256 file to")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{formatRepository, formatTar, formatSealedTar}, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVar(&o.Fresh, "fresh", false, "with --type full: share nothing with older backups, after damage that repair did not restore")
	f.BoolVar(&o.AcceptRollback, "accept-rollback", false, "go on with a repository that was put back to an older state on purpose")
	f.BoolVar(&o.NoArchive, "no-archive", false, "do not store the log behind the previous backup")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"auto", "full", "incremental"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Type != backupfmt.Auto && o.Type != backupfmt.Full && o.Type != backupfmt.Incremental {
			return errUsage("--type %q is not auto, full or incremental", o.Type)
		}
		if o.Fresh && o.Type != backupfmt.Full {
			return errUsage("--fresh is for full backups: say --type full")
		}
		cfg, err := r.load(cmd)
		if err != nil {
			return err
		}
		switch {
		case format == formatTar || format == formatSealedTar:
			return r.classic(cfg, format, to, o.Type)
		case format != formatRepository:
			return errUsage("--format %q is not repository, tar.gz or tar.gz.enc", format)
		case to != "":
			return errUsage("--to is for classic archives (--format tar.gz); a repository is named with --repo")
		}
		return onSignal(func(ctx context.Context) error {
			m := a.newMeter(r.asJSON)
			defer m.close()
			created, err := r.create(ctx, cfg, o, m)
			if err != nil {
				return err
			}
			return r.result(m, created, func() error { return printCreated(a.out, created) })
		})
	}
	return cmd
}

// create lets the server of the directory make the backup, or makes it here.
func (r *repoFlags) create(ctx context.Context, cfg *config.Config, o backup.CreateOptions, m *meter) (backup.Created, error) {
	req := admin.BackupRequest{Options: o}
	t, _, targetErr := r.target(cfg)
	// A server knows its own repository and the passphrase, which whoever runs this command may not have.
	own := r.repo == "" && (cfg.Backup.Repository == "" || !t.Plain && t.Secret == nil)
	if !own {
		if targetErr != nil {
			return backup.Created{}, targetErr
		}
		req.Target = &t
	}
	created, err := admin.NewClient(cfg.DataDir).Backup(ctx, req, m.tell)
	if !errors.Is(err, admin.ErrNoServer) {
		return created, backup.Explain(err, t.String())
	}
	if targetErr != nil {
		return backup.Created{}, targetErr
	}
	calm(createMemory + packsInWork*max(0, t.PackSize-usualPack))
	repo, err := t.Open(ctx)
	if err != nil {
		return backup.Created{}, backup.Explain(err, t.String())
	}
	s, err := r.a.openStopped(cfg)
	if err != nil {
		return backup.Created{}, err
	}
	created, err = backup.Create(ctx, s, repo, object.ID{}, o, m.tell)
	return created, errors.Join(backup.Explain(err, t.String()), s.Close())
}

// openStopped opens a directory that no server uses.
func (a *app) openStopped(cfg *config.Config) (*engine.Store, error) {
	options, err := a.engineOptions(cfg)
	if err != nil {
		return nil, err
	}
	// Opening would make an empty store where there is none.
	if _, err := node.HasStore(cfg.DataDir); err != nil {
		return nil, err
	}
	options.CacheSize = 8 << 20 // every row is read once: there is nothing to cache
	options.NoCompaction = true
	s, err := engine.Open(cfg.DataDir, options)
	if err != nil {
		return nil, node.ExplainOpen(cfg.DataDir, options.Key, err)
	}
	return s, nil
}

// engineOptions are those a server would use.
func (a *app) engineOptions(cfg *config.Config) (engine.Options, error) {
	key, err := cfg.DataKey(a.environ, nil)
	if err != nil {
		return engine.Options{}, err
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return node.EngineOptions(cfg, key, log), nil
}

func printCreated(w io.Writer, c backup.Created) error {
	text := fmt.Sprintf("backup %d: %s, index %d, %d rows, %s read, %s stored, %s\n", c.Backup, c.Type, c.Index, c.Rows,
		bytesText(int64(c.RawBytes)), bytesText(int64(c.NewBytes)), seconds(c.Seconds))
	if c.Unchanged {
		text = fmt.Sprintf("nothing changed since backup %d (index %d): nothing was stored\n", c.Backup, c.Index)
	}
	if c.Warning != "" {
		text += "warning: " + c.Warning + "\n"
	}
	_, err := fmt.Fprintf(w, "%sstate hash %s\n", text, c.StateHash)
	return err
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}
