package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/ops/backup"
)

const keysRekeyLong = `rekey makes a new master key and a slot for it from --new-key-file or ERLMCP_BACKUP_NEW_ENCRYPTION_KEY, seals every object of the repository
anew, in its place, and then removes the old keys: they open nothing that is in the repository afterwards. Use it when a master key,
passphrase or key file may have leaked.

From the moment the new slot counts the repository opens with the new secret only. Every backup and all archived log can be restored at every
moment. It may be interrupted or killed anywhere: run the same command again and it goes on. A server that uses the repository with the old secret
can add nothing any more and says so; give it the new one and restart it. What it had archived before counts.

Other slots cannot open the new generation, as their secrets are not known here: --drop-other-slots says that they may go. --same-secret keeps
the secret: that helps against somebody who has the master key, and not against somebody who has the secret.

Copies keep the old keys until the next ` + "`erlmcp backup copy`" + `, which seals them as the original is. What somebody copied elsewhere before
stays readable for whoever has the old key: no program can change that.

Exit codes: 0 done; 1 not done, or not all of it; 2 wrong usage or configuration.`

// rekeyed is the document of `keys rekey`.
type rekeyed struct {
	Repository string  `json:"repository"`
	Generation uint32  `json:"generation"`
	Epoch      uint32  `json:"epoch"`
	Resumed    bool    `json:"resumed,omitempty"` // an interrupted one was carried on
	Nothing    bool    `json:"nothing,omitempty"` // an earlier one had finished
	Objects    int     `json:"objects"`           // sealed anew
	Bytes      int64   `json:"bytes"`
	Removed    int     `json:"removed"` // slots and epochs of older generations
	Seconds    float64 `json:"seconds"`
}

func (a *app) keysRekeyCommand() *cobra.Command {
	var file, kdf, label string
	var same, drop bool
	cmd := &cobra.Command{
		Use: "rekey", Short: "Seal everything anew under a new master key", Long: keysRekeyLong,
		Example: "  erlmcp backup keys rekey --repo /var/backups/erlmcp --key-file backup.key --new-key-file backup.key2\n" +
			"  erlmcp backup keys rekey --same-secret --limit-rate 20MiB --json",
		Args: cobra.NoArgs,
	}
	r := a.repoFlags(cmd).signing(cmd)
	f := cmd.Flags()
	f.StringVar(&file, "new-key-file", "", "`FILE` with the new key or passphrase (default: ERLMCP_BACKUP_NEW_ENCRYPTION_KEY)")
	f.StringVar(&kdf, "kdf", "argon2id", "how a passphrase is stretched: argon2id or pbkdf2, `NAME`")
	f.StringVar(&label, "label", "rekeyed", "note for people on the new slot, `TEXT`")
	f.BoolVar(&same, "same-secret", false, "keep the passphrase or key, and change the master key behind it only")
	f.BoolVar(&drop, "drop-other-slots", false, "the other slots may go: they cannot open the repository afterwards")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := r.load(cmd)
		if err != nil {
			return err
		}
		t, isKey, err := r.target(cfg)
		if err != nil {
			return err
		}
		secret, newIsKey, err := config.ReadSecret(file, "flag --new-key-file", "", config.NewBackupKeyEnv, a.environ)
		switch {
		case err != nil:
			return err
		case t.Plain:
			return errUsage("a repository without encryption has no keys")
		case t.Secret == nil:
			return errUsage("no passphrase: put it into ERLMCP_BACKUP_ENCRYPTION_KEY or name a file with --key-file")
		case same == (secret != nil):
			return errUsage("say which secret opens the repository afterwards: a new one in %s or --new-key-file, or --same-secret", config.NewBackupKeyEnv)
		case same:
			secret, newIsKey = t.Secret, isKey
		}
		function, err := kdfOf(kdf, newIsKey)
		if err != nil {
			return err
		}
		o := backupfmt.RekeyOptions{Options: backupfmt.Options{Secret: t.Secret, Signer: t.Signer, Trust: t.Trust}, New: secret, KDF: function, Label: label, OtherSlots: drop}
		return onSignal(func(ctx context.Context) error { return backup.Explain(r.rekey(ctx, t, o), t.String()) })
	}
	return cmd
}

func (r *repoFlags) rekey(ctx context.Context, t backup.Target, o backupfmt.RekeyOptions) error {
	st, err := t.Store(ctx, false)
	if err != nil {
		return err
	}
	m := r.a.newMeter(r.asJSON)
	defer m.close()
	o.Progress = func(_ string, done, total int64) {
		m.tell(backup.Progress{Phase: "rekey", Done: done, Total: total, Unit: "bytes"})
	}
	began := time.Now()
	rep, err := backupfmt.ChangeMaster(ctx, st, o)
	if err != nil {
		return err
	}
	doc := rekeyed{
		Repository: t.String(), Generation: rep.Generation, Epoch: rep.Epoch, Resumed: rep.Resumed, Nothing: rep.Nothing, Objects: rep.Objects,
		Bytes: rep.Bytes, Removed: len(rep.Removed), Seconds: time.Since(began).Seconds(),
	}
	return r.result(m, doc, func() error {
		if doc.Nothing {
			_, err := fmt.Fprintf(r.a.out, "the repository has its new keys already (generation %d): nothing was left to do\n", doc.Generation)
			return err
		}
		_, err := fmt.Fprintf(r.a.out, "generation %d, epoch %d: %d objects, %s sealed anew in %s; the old keys open nothing any more\n", doc.Generation, doc.Epoch,
			doc.Objects, bytesText(doc.Bytes), seconds(doc.Seconds))
		return err
	})
}
