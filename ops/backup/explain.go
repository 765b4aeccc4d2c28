package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// explained is an error with the advice that belongs to it.
type explained struct {
	err    error
	advice string
}

func (e *explained) Error() string { return e.err.Error() + "\n" + e.advice }

func (e *explained) Unwrap() error { return e.err }

// Explain adds to an error what the person who reads it should do. where names the repository.
func Explain(err error, where string) error {
	var done *explained
	if err == nil || errors.As(err, &done) {
		return err
	}
	if advice := advice(err, where); advice != "" {
		return &explained{err, advice}
	}
	return err
}

func advice(err error, where string) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted: nothing that was stored before is harmed, and what was begun does not count; run the command again whenever you like"
	case errors.Is(err, backupfmt.ErrWrongKey):
		return "give the passphrase in ERLMCP_BACKUP_ENCRYPTION_KEY, or the key file with --key-file, that opens " + where + "; nothing was changed"
	case errors.Is(err, backupfmt.ErrKeyRequired):
		return "put it into ERLMCP_BACKUP_ENCRYPTION_KEY, or name a file with --key-file"
	case errors.Is(err, backupfmt.ErrNotEncrypted):
		return "say --no-encryption (or backup.encryption: off) if that is intended; if it is not, somebody replaced the repository"
	case errors.Is(err, backupfmt.ErrNotRepo):
		return fmt.Sprintf("`erlmcp backup init --repo %s` makes one", where)
	case errors.Is(err, backupfmt.ErrIsRepo):
		return "use it as it is, or name another place; `erlmcp backup list` shows what it holds"
	case errors.Is(err, backupfmt.ErrVersion):
		return "use the newer program"
	case errors.Is(err, backupfmt.ErrGap):
		return "choose a point before the gap with --at-index or --at-time, or a backup behind it (`erlmcp backup list`)"
	case errors.Is(err, shard.ErrUnreachable):
		return "packs are spread over several places, and this one does not answer: mount it, or bring it back, and run it again. `erlmcp backup verify` says what " +
			"cannot be restored without it; if it is lost for good, `erlmcp backup shards remove ID --lost`, then repair from a copy or make a full backup"
	case errors.Is(err, shard.ErrInvalid), errors.Is(err, shard.ErrDamaged):
		return "`erlmcp backup shards list` shows where the packs of a repository are; nothing was changed"
	case errors.Is(err, backupfmt.ErrRekeyed):
		return "give the new passphrase or key file (ERLMCP_BACKUP_ENCRYPTION_KEY, --key-file or backup.key_file), and restart a server that still uses the old one; " +
			"nothing was changed, and its log is kept for the archive meanwhile, up to backup.hold_log"
	case errors.Is(err, backupfmt.ErrDiverged):
		return "two places were written to apart from each other, so a copy would destroy what only one of them holds: look at both with `erlmcp backup list`, keep the " +
			"one that is right as the original, and copy it to a new place"
	case errors.Is(err, backupfmt.ErrUnsigned):
		return "what a trusted key signed counts, and nothing else. Is the right file of public keys given (--verify-key-file, backup.verify_key_file), with older keys that " +
			"still count? If so, somebody changed " + where + ", or it was never signed: take a copy of it that is, restore what is older than the signatures with " +
			"--verify-key-file off if you trust it, or begin with `erlmcp backup keys sign-begin`"
	case errors.Is(err, backupfmt.ErrSignKey):
		return "give the private key with --sign-key-file, or the setting backup.sign_key_file; nothing was changed"
	case errors.Is(err, backupfmt.ErrNotSigned):
		return "if it never was, `erlmcp backup keys sign-begin --repo " + where + "` begins with it; if it was, somebody took the signatures away: look at a copy"
	case errors.Is(err, backupfmt.ErrShards):
		return "somebody else wrote, removed or put back the table that says where packs are, or an older program made it; nothing was changed. `erlmcp backup shards list --repo " + where +
			"` shows it: if it is right, `erlmcp backup shards accept` says so; if not, remove the objects shards and shards.2 and add the right places again"
	case errors.Is(err, backupfmt.ErrRolledBack):
		return "backups that were there are gone from " + where + ", as when it was put back to an older state, or another copy was mounted in its place; nothing was changed. " +
			"Compare with your copies (`erlmcp backup list`), and bring back what is missing with `erlmcp backup copy`. If an older state was put back on purpose, " +
			"`erlmcp backup create --accept-rollback` goes on from there"
	case errors.Is(err, backupfmt.ErrDamaged):
		return fmt.Sprintf("`erlmcp backup verify --read-data --repo %s` names everything that is damaged and what it costs; `erlmcp backup repair` "+
			"restores what parity allows", where)
	case errors.Is(err, backupfmt.ErrNoBackup):
		return "`erlmcp backup list` shows what there is"
	case errors.Is(err, backupfmt.ErrNotReached):
		return "without --at-index and --at-time the newest stored state is restored"
	case errors.Is(err, backupfmt.ErrFenced):
		return "nothing is lost: run the backup again"
	case errors.Is(err, backupfmt.ErrNoParent), errors.Is(err, backupfmt.ErrNoHistory), errors.Is(err, backupfmt.ErrTooMany):
		return "make a full backup (--type full), or let the program choose (--type auto)"
	case errors.Is(err, store.ErrNoSpace):
		return "make room and run it again; `erlmcp backup prune` removes what the retention does not keep"
	case errors.Is(err, store.ErrDenied):
		return "check the access keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the permissions of the directory"
	case errors.Is(err, store.ErrNoStore):
		return "make the directory or the bucket first, or correct the name"
	case errors.Is(err, keys.ErrInvalid):
		return "nothing was changed"
	}
	return ""
}
