package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/config"
)

const backupKeysLong = `keys manages what opens a repository. A slot is one passphrase or key; each slot opens the same repository. Objects are sealed with
keys of an epoch; rotate begins a new epoch, so that everything written from then on has a new key.

  keys list            the slots, and the epoch in use
  keys add             another passphrase (ERLMCP_BACKUP_NEW_ENCRYPTION_KEY) or key (--new-key-file)
  keys remove SLOT     take a slot away; never the last one
  keys rotate          begin a new epoch at once; older objects stay readable
  keys rekey           a new master key: seal everything anew, and let the old keys open nothing
  keys sign-generate   a key pair that signs and verifies backups
  keys sign-begin      from here on everything in the repository is signed
  keys sign-public     the public half of a signing key

To change a passphrase: keys add the new one, then keys remove the old one. Whoever opened the repository once may have kept its
master key: if that is feared, keys rekey.

Exit codes: 0 success; 1 failure; 2 wrong usage or configuration.`

func (a *app) backupKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "List, add and remove what opens a repository; rotate its keys",
		Long:    backupKeysLong,
		Example: "  erlmcp backup keys list --repo /var/backups/erlmcp\n  erlmcp backup keys add --new-key-file /etc/erlmcp-backup.key2 --label deputy",
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keysListCommand(), a.keysAddCommand(), a.keysRemoveCommand(), a.keysRotateCommand(), a.keysRekeyCommand(),
		a.keysSignGenerateCommand(), a.keysSignBeginCommand(), a.keysSignPublicCommand())
	return cmd
}

// slotDoc is one slot in the document of `keys list`.
type slotDoc struct {
	ID      string `json:"id"`
	Label   string `json:"label"`
	Created string `json:"created"`
	KDF     string `json:"kdf"`
	Old     bool   `json:"old,omitempty"` // opens nothing any more; the rekey that is under way removes it
}

func (a *app) keysListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "Show the key slots and the epoch", Long: "list shows the key slots of a repository and the key epoch in use.",
		Example: "  erlmcp backup keys list --repo /var/backups/erlmcp", Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.RunE = r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, _ *config.Config, _ *meter) error {
		slots, err := repo.Slots(ctx)
		if err != nil {
			return err
		}
		docs := []slotDoc{}
		for _, s := range slots {
			docs = append(docs, slotDoc{ID: s.ID, Label: s.Label, Created: moment(s.Created), KDF: s.KDF.Name, Old: s.Generation < repo.Generation()})
		}
		if r.asJSON {
			return writeJSON(a.out, map[string]any{
				"slots": docs, "epoch": repo.Epoch(), "generation": repo.Generation(), "rekeying": repo.Rekeying(), "encrypted": repo.Encrypted(),
			})
		}
		if !repo.Encrypted() {
			_, err := fmt.Fprintln(a.out, "the repository is NOT encrypted: there are no keys")
			return err
		}
		w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "SLOT\tMADE (UTC)\tKIND\tLABEL")
		for _, s := range docs {
			if s.Old {
				s.Label += " (old, opens nothing any more)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.ID, s.Created, s.KDF, s.Label)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "epoch %d, generation %d\n", repo.Epoch(), repo.Generation())
		if repo.Rekeying() {
			_, err = fmt.Fprintln(a.out, "A rekey has begun and is not finished: old keys still open old objects. Run `erlmcp backup keys rekey` again.")
		}
		return err
	})
	return cmd
}

func (a *app) keysAddCommand() *cobra.Command {
	var file, kdf, label string
	cmd := &cobra.Command{
		Use: "add", Short: "Let another passphrase or key open the repository",
		Long: "add makes a slot from the passphrase in ERLMCP_BACKUP_NEW_ENCRYPTION_KEY or the key in --new-key-file. The repository is opened with one\n" +
			"that it has already.",
		Example: "  erlmcp backup keys add --new-key-file /etc/erlmcp-backup.key2 --label deputy", Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.Flags().StringVar(&file, "new-key-file", "", "`FILE` with the key or passphrase to add (default: ERLMCP_BACKUP_NEW_ENCRYPTION_KEY)")
	cmd.Flags().StringVar(&kdf, "kdf", "argon2id", "how a passphrase is stretched: argon2id or pbkdf2, `NAME`")
	cmd.Flags().StringVar(&label, "label", "", "note for people, `TEXT`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		secret, isKey, err := config.ReadSecret(file, "flag --new-key-file", "", config.NewBackupKeyEnv, a.environ)
		if err != nil {
			return err
		}
		if secret == nil {
			return errUsage("no new passphrase: put it into %s, or name a file with --new-key-file", config.NewBackupKeyEnv)
		}
		function, err := kdfOf(kdf, isKey)
		if err != nil {
			return err
		}
		return r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, _ *config.Config, _ *meter) error {
			s, err := repo.AddSlot(ctx, secret, function, label)
			if err != nil {
				return err
			}
			if r.asJSON {
				return writeJSON(a.out, slotDoc{ID: s.ID, Label: s.Label, Created: moment(s.Created), KDF: s.KDF.Name})
			}
			_, err = fmt.Fprintf(a.out, "added slot %s\n", s.ID)
			return err
		})(cmd, args)
	}
	return cmd
}

func (a *app) keysRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove SLOT", Short: "Take a slot away, never the last one",
		Long:    "remove takes a key slot away: its passphrase or key no longer opens the repository. The last slot cannot be removed.",
		Example: "  erlmcp backup keys remove 0123456789abcdef0123456789abcdef", Args: cobra.ExactArgs(1),
	}
	r := a.repoFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, _ *config.Config, _ *meter) error {
			if err := repo.RemoveSlot(ctx, args[0]); err != nil {
				return err
			}
			if r.asJSON {
				return writeJSON(a.out, map[string]any{"removed": args[0]})
			}
			_, err := fmt.Fprintf(a.out, "removed slot %s\n", args[0])
			return err
		})(cmd, args)
	}
	return cmd
}

func (a *app) keysRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate", Short: "Begin a new key epoch at once",
		Long:    "rotate begins a new key epoch: everything written from now on is sealed with a new key. Older objects stay readable.",
		Example: "  erlmcp backup keys rotate --repo /var/backups/erlmcp", Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd)
	cmd.RunE = r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, _ *config.Config, _ *meter) error {
		if err := repo.Rotate(ctx); err != nil {
			return err
		}
		if r.asJSON {
			return writeJSON(a.out, map[string]any{"epoch": repo.Epoch()})
		}
		_, err := fmt.Fprintf(a.out, "epoch %d begins\n", repo.Epoch())
		return err
	})
	return cmd
}
