package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/sign"
	"github.com/erlmcp/erlmcp/config"
)

const signGenerateLong = `sign-generate makes an Ed25519 key pair: FILE with the private key, readable by its owner only, which signs backups, and FILE.pub with
the public one, which verifies them. Keep the private key where backups are made, and give the public one to whoever restores.

With --password the private key is encrypted with the password in ERLMCP_BACKUP_SIGN_PASSWORD, stretched with Argon2id; commands that sign take it
from there, too. Neither file may exist.

Exit codes: 0 made; 1 not made; 2 wrong usage or configuration.`

// signingKey is the document of sign-generate and sign-public.
type signingKey struct {
	Private   string         `json:"private,omitempty"` // file
	File      string         `json:"file,omitempty"`    // of the public key
	Public    sign.PublicKey `json:"public"`
	Encrypted bool           `json:"encrypted"`
}

func (a *app) keysSignGenerateCommand() *cobra.Command {
	var out, label, kdf string
	var withPassword, asJSON bool
	cmd := &cobra.Command{
		Use: "sign-generate --out FILE", Short: "Make a key pair that signs and verifies backups", Long: signGenerateLong,
		Example: "  erlmcp backup keys sign-generate --out /etc/erlmcp-sign.key --label 'site a'\n" +
			"  ERLMCP_BACKUP_SIGN_PASSWORD='correct horse' erlmcp backup keys sign-generate --out sign.key --password",
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "`FILE` for the private key; the public one goes to FILE.pub")
	f.StringVar(&label, "label", "", "note for people, `TEXT`")
	f.BoolVar(&withPassword, "password", false, "encrypt the private key with the password in "+config.SignPasswordEnv)
	f.StringVar(&kdf, "kdf", "argon2id", "how the password is stretched: argon2id or pbkdf2, `NAME`")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.RegisterFlagCompletionFunc("kdf", cobra.FixedCompletions([]string{"argon2id", "pbkdf2"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(*cobra.Command, []string) error {
		if out == "" {
			return errUsage("say where to: --out FILE")
		}
		function, err := kdfOf(kdf, false)
		if err != nil {
			return err
		}
		var password []byte
		if withPassword {
			if password = []byte(lookupIn(a.environ)(config.SignPasswordEnv)); len(password) == 0 {
				return errUsage("no password: put it into %s", config.SignPasswordEnv)
			}
		}
		doc, err := generateKey(out, label, password, function)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(a.out, doc)
		}
		_, err = fmt.Fprintf(a.out, "private key %s: it signs; keep it secret, and a second copy of it somewhere else\npublic key  %s: it verifies; give it to whoever restores\n%s\n",
			doc.Private, doc.File, doc.Public)
		return err
	}
	return cmd
}

// generateKey writes both files, or none.
func generateKey(out, label string, password []byte, kdf keys.KDF) (signingKey, error) {
	key, err := sign.Generate(rand.Reader)
	if err != nil {
		return signingKey{}, err
	}
	private, err := key.Encode(password, kdf, label, time.Now(), rand.Reader)
	if err != nil {
		return signingKey{}, err
	}
	public := key.Public().String()
	if label != "" {
		public += " " + label
	}
	if err := writeNew(out, private, 0o600); err != nil {
		return signingKey{}, err
	}
	if err := writeNew(out+".pub", []byte(public+"\n"), 0o644); err != nil {
		return signingKey{}, errors.Join(err, os.Remove(out))
	}
	return signingKey{Private: out, File: out + ".pub", Public: key.Public(), Encrypted: password != nil}, nil
}

// writeNew writes a file that must not exist; a part of it is never left.
func writeNew(name string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

func (a *app) keysSignPublicCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "sign-public --sign-key-file FILE", Short: "Print the public half of a signing key",
		Long: "sign-public prints the public key that belongs to a private signing key, as a file for --verify-key-file has it. It needs no password.\n\n" +
			"Exit codes: 0 printed; 1 the file holds no signing key; 2 wrong usage or configuration.",
		Example: "  erlmcp backup keys sign-public --sign-key-file /etc/erlmcp-sign.key >> trusted.pub", Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&file, "sign-key-file", "", "`FILE` with the private key")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(*cobra.Command, []string) error {
		if file == "" {
			return errUsage("name the private key: --sign-key-file FILE")
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		public, err := sign.PublicOf(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if asJSON {
			return writeJSON(a.out, signingKey{Public: public, Encrypted: sign.IsEncrypted(raw)})
		}
		_, err = fmt.Fprintln(a.out, public)
		return err
	}
	return cmd
}

const signBeginLong = `sign-begin lets a repository be signed from here on. It adds a signed link to the chain, and fences the stored log, so that from now on
backups, log, prunes, drills and rekeys need the private key (--sign-key-file, or backup.sign_key_file for a server; restart it with that), and whoever
verifies with the public key refuses everything that is not signed by it.

What is stored already stays, and can be restored by whoever does not ask for signatures; with --verify-key-file it is not. The next backup is
therefore a full one: it shares what is stored, but builds on nothing that is not signed.

On a repository that is signed it begins anew: what was signed with keys that are no longer trusted then counts like what was not signed.
Use that after a signing key leaked.

Exit codes: 0 begun; 1 not begun; 2 wrong usage or configuration.`

// begunSigning is the document of sign-begin.
type begunSigning struct {
	Repository string         `json:"repository"`
	From       uint64         `json:"signed_from"`
	Key        sign.PublicKey `json:"key"`
}

func (a *app) keysSignBeginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "sign-begin", Short: "Sign a repository from here on", Long: signBeginLong,
		Example: "  erlmcp backup keys sign-begin --repo /var/backups/erlmcp --key-file backup.key --sign-key-file sign.key", Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd).signing(cmd)
	run := r.runOnRepo(func(ctx context.Context, repo *backupfmt.Repo, cfg *config.Config, _ *meter) error {
		key, err := cfg.BackupSigner(r.signFile, a.environ)
		if err != nil {
			return err
		}
		if key == nil {
			return errUsage("no key to sign with: name it with --sign-key-file; `erlmcp backup keys sign-generate` makes one")
		}
		l, err := repo.BeginSigning(ctx)
		if err != nil {
			return err
		}
		doc := begunSigning{Repository: repo.Store().String(), From: l.Signing.From, Key: key.Public()}
		if r.asJSON {
			return writeJSON(a.out, doc)
		}
		_, err = fmt.Fprintf(a.out, "signed from link %d on, by %s\nnext: restart a server that uses the repository with backup.sign_key_file; erlmcp backup create\n", doc.From, doc.Key)
		return err
	})
	cmd.RunE = run
	return cmd
}
