package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const backupLong = `backup keeps copies of a data directory in a repository and brings them back.

A repository is a directory or a bucket (s3://BUCKET/PREFIX). It holds full backups, incremental ones that store what changed,
and the log between them, so that any log index or moment can be restored, not only the moments of backups. Everything
in it is encrypted with a passphrase or key, checksummed, linked in a chain and protected by parity.

  where       --repo, else the setting backup.repository
  passphrase  ERLMCP_BACKUP_ENCRYPTION_KEY, or --key-file FILE (or backup.key_file): 64 hex digits, base64 or 32 raw bytes are
              a key, anything else a passphrase of at least 8 bytes. Without one a repository is only made or used
              with --no-encryption.
  signatures  with --verify-key-file FILE (or backup.verify_key_file), the public keys, only what one of them signed counts; commands
              that write sign with --sign-key-file FILE (or backup.sign_key_file). See erlmcp backup keys.
  bucket      AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE and AWS_PROFILE; endpoint and
              region in the URL (s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=R) or AWS_ENDPOINT_URL_S3, AWS_REGION;
              objects of more than &part_size=24MiB (5MiB to 128MiB) are uploaded in parts

Any of these commands may be interrupted, or killed, at any time: what was stored before is not harmed, nothing needs to be
unlocked, and the command can be run again. With --json long commands print one JSON object per line: progress events,
then the result.

Whoever loses the passphrase and all keys loses the backups: nobody can reset them.

Exit codes: 0 success; 1 failure, or damage found; 2 wrong usage or configuration.`

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Make, list, check and restore backups",
		Long:  backupLong,
		Example: `  openssl rand -hex 32 > /etc/erlmcp-backup.key
  erlmcp backup init --repo /var/backups/erlmcp --key-file /etc/erlmcp-backup.key
  erlmcp backup create --repo /var/backups/erlmcp --key-file /etc/erlmcp-backup.key --data /var/lib/erlmcp
  erlmcp backup restore latest --to /var/lib/erlmcp.new --repo /var/backups/erlmcp --key-file /etc/erlmcp-backup.key`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.backupInitCommand(), a.backupCreateCommand(), a.backupListCommand(), a.backupShowCommand(), a.backupVerifyCommand(),
		a.backupRepairCommand(), a.backupRestoreCommand(), a.backupPruneCommand(), a.backupConsolidateCommand(), a.backupCopyCommand(),
		a.backupKeysCommand(), a.backupShardsCommand())
	return cmd
}

// repoFlags are the flags of every command that uses a repository.
type repoFlags struct {
	*settings
	repo, keyFile, rate string
	minHead             string   // a link that must be there
	verifyFiles         []string // public keys
	signFile            string
	packSize            string
	signs               bool // the command writes: it has --sign-key-file
	plain, asJSON       bool
	plainJSON           bool // one document instead of lines
}

func (a *app) repoFlags(cmd *cobra.Command, flags ...settingFlag) *repoFlags {
	r := &repoFlags{settings: a.settingFlags(cmd, flags...)}
	f := cmd.Flags()
	f.StringVar(&r.repo, "repo", "", "repository: a directory or s3://BUCKET/PREFIX, `URL` (default: backup.repository)")
	f.StringVar(&r.keyFile, "key-file", "", "`FILE` with the key or passphrase of the repository (default: ERLMCP_BACKUP_ENCRYPTION_KEY)")
	f.BoolVar(&r.plain, "no-encryption", false, "the repository is not encrypted, and that is intended")
	f.StringVar(&r.rate, "limit-rate", "", "most bytes per second to and from the repository, `SIZE` such as 10MiB (default: backup.limit_rate)")
	f.StringArrayVar(&r.verifyFiles, "verify-key-file", nil, "`FILE` of public keys: what none of them signed is refused; \"off\" looks at no signature "+
		"(default: backup.verify_key_file)")
	f.StringVar(&r.minHead, "min-head", "", "refuse a repository that was put back to before this `LINK`: its number, or number:digest, as backup list shows it")
	f.BoolVar(&r.asJSON, "json", false, "print JSON")
	return r
}

// signing adds the flag of commands that write links, log or proofs.
func (r *repoFlags) signing(cmd *cobra.Command) *repoFlags {
	r.signs = true
	cmd.Flags().StringVar(&r.signFile, "sign-key-file", "", "`FILE` with the private key that signs what is written (default: backup.sign_key_file)")
	return r
}

// packing adds the flag of commands that write packs.
func (r *repoFlags) packing(cmd *cobra.Command) *repoFlags {
	cmd.Flags().StringVar(&r.packSize, "pack-size", "", "how large the objects are in which rows are stored, 4MiB to 32MiB, `SIZE` (default: backup.pack_size)")
	return r
}

// signatures reads the keys that sign and verify.
func (r *repoFlags) signatures(cfg *config.Config, t *backup.Target) (err error) {
	if r.signs {
		if t.Signer, err = cfg.BackupSigner(r.signFile, r.a.environ); err != nil {
			return err
		}
	}
	t.Trust, err = cfg.BackupTrust(r.verifyFiles)
	return err
}

// errUsage makes an error about what the user wrote.
func errUsage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// target finds out which repository is meant; isKey: its secret is a key.
func (r *repoFlags) target(cfg *config.Config) (t backup.Target, isKey bool, err error) {
	calm(repoMemory)
	url := r.repo
	if url == "" {
		url = cfg.Backup.Repository
	}
	if url == "" {
		return t, false, errUsage("no repository is named: use --repo URL, or the setting backup.repository")
	}
	if t, err = r.locate(cfg, url); err != nil {
		return t, false, err
	}
	if r.minHead != "" {
		if t.AtLeast, err = backupfmt.ParseMark(r.minHead); err != nil {
			return t, false, errUsage("--min-head: %w", err)
		}
	}
	if err := r.signatures(cfg, &t); err != nil {
		return t, false, err
	}
	t.Plain = r.plain || !cfg.Backup.Encryption && r.keyFile == ""
	if t.Plain {
		if r.keyFile != "" {
			return t, false, errUsage("--no-encryption and --key-file contradict each other")
		}
		return t, false, nil
	}
	t.Secret, isKey, err = cfg.BackupSecret(r.keyFile, r.a.environ)
	return t, isKey, err
}

// locate reads a URL and the rate limit.
func (r *repoFlags) locate(cfg *config.Config, url string) (t backup.Target, err error) {
	t.Env = lookupIn(r.a.environ)
	if t.Location, err = store.ParseLocation(url, t.Env); err != nil {
		return t, &exitError{code: exitUsage, err: err}
	}
	t.PackSize = cfg.Backup.PackSize
	if r.packSize != "" {
		if t.PackSize, err = config.ParseSize(r.packSize); err != nil || t.PackSize < 4<<20 || t.PackSize > 32<<20 {
			return t, errUsage("--pack-size %q is not a size between 4MiB and 32MiB", r.packSize)
		}
	}
	t.Rate = cfg.Backup.LimitRate
	if r.rate != "" {
		if t.Rate, err = config.ParseSize(r.rate); err != nil {
			return t, errUsage("--limit-rate: %w", err)
		}
	}
	return t, nil
}

// lookupIn looks a variable up; of two equal names the last one wins.
func lookupIn(environ []string) func(string) string {
	return func(name string) (value string) {
		for _, kv := range environ {
			if n, v, _ := strings.Cut(kv, "="); n == name {
				value = v
			}
		}
		return value
	}
}

// open loads the configuration and opens the repository.
func (r *repoFlags) open(ctx context.Context, cmd *cobra.Command) (*backupfmt.Repo, *config.Config, error) {
	cfg, err := r.load(cmd)
	if err != nil {
		return nil, nil, err
	}
	t, _, err := r.target(cfg)
	if err != nil {
		return nil, nil, err
	}
	repo, err := t.Open(ctx)
	return repo, cfg, backup.Explain(err, t.String())
}

// onSignal runs work with a context that Ctrl-C or SIGTERM ends. A second signal ends the process at once, which is as safe.
func onSignal(work func(ctx context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop()
	}()
	return work(ctx)
}

// runOnRepo is the frame of the commands that work on an open repository.
func (r *repoFlags) runOnRepo(work func(ctx context.Context, repo *backupfmt.Repo, cfg *config.Config, m *meter) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		return onSignal(func(ctx context.Context) error {
			repo, cfg, err := r.open(ctx, cmd)
			if err != nil {
				return err
			}
			m := r.a.newMeter(r.asJSON)
			defer m.close()
			return backup.Explain(work(ctx, repo, cfg, m), repo.Store().String())
		})
	}
}

// result prints the outcome of a long command.
func (r *repoFlags) result(m *meter, doc any, text func() error) error {
	m.close()
	if r.asJSON {
		return writeLine(r.a.out, event{Event: "result", Result: doc})
	}
	return text()
}

// backupID reads the number of a backup; 0 for "latest".
func backupID(arg string) (uint64, error) {
	if arg == "latest" {
		return 0, nil
	}
	n, err := strconv.ParseUint(arg, 10, 64)
	if err != nil || n == 0 {
		return 0, errUsage("%q is not a backup: write its number from `erlmcp backup list`, or latest", arg)
	}
	return n, nil
}

// completeIDs offers the numbers of the backups, if the repository can be opened without asking anybody.
func (r *repoFlags) completeIDs(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	out := []string{"latest\tthe newest stored state"}
	repo, _, err := r.open(ctx, cmd)
	if err != nil {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := repo.Chain(ctx)
	if err != nil {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	for _, l := range c.Backups("") {
		out = append(out, fmt.Sprintf("%d\t%s of %s, index %d", l.Seq, l.Kind, l.Time.Format(time.DateTime), l.Index))
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// parseMoment reads a point in time; without a zone it is UTC.
func parseMoment(v string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, v); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errUsage("%q is not a time: write 2026-11-21T14:04:59Z, or 2026-11-21 14:04:59 (UTC)", v)
}
