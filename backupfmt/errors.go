package backupfmt

import (
	"errors"
	"fmt"
)

// Sentinel errors; test with errors.Is.
var (
	// ErrNotRepo: the target holds no repository (or one whose configuration is gone; the message says so).
	ErrNotRepo = errors.New("backup: not a backup repository")
	// ErrIsRepo: the target already holds a repository.
	ErrIsRepo = errors.New("backup: repository exists already")
	// ErrVersion: the repository was written by a newer program.
	ErrVersion = errors.New("backup: format is newer than this program")
	// ErrKeyRequired: the repository is encrypted and no passphrase or key file was given.
	ErrKeyRequired = errors.New("backup: the repository is encrypted, a passphrase or key file is required")
	// ErrNotEncrypted: a secret was given for a repository that is not encrypted, or encryption was not refused explicitly.
	ErrNotEncrypted = errors.New("backup: the repository is not encrypted")
	// ErrWrongKey: the passphrase or key file does not open the repository.
	ErrWrongKey = errors.New("backup: wrong passphrase or key file")
	// ErrRekeyed: the repository was given a new master key after it was opened. Open it again, with the new passphrase or key file.
	ErrRekeyed = errors.New("backup: the repository has new keys: open it with the new passphrase or key file")
	// ErrDamaged: stored data is damaged, missing or foreign. Often a *DamageError.
	ErrDamaged = errors.New("backup: damaged")
	// ErrDiverged: the target of a copy holds something that the source never had.
	ErrDiverged = errors.New("backup: the target is not an older state of the source")
	// ErrGap: the wanted state cannot be reached because part of the log was never archived or is gone. A *GapError.
	ErrGap = errors.New("backup: gap in the archived log")
	// ErrNoBackup: there is no backup to restore from, or none with that number.
	ErrNoBackup = errors.New("backup: no such backup")
	// ErrNotReached: the wanted index or time is newer than everything stored.
	ErrNotReached = errors.New("backup: the wanted point is newer than what is stored")
	// ErrFenced: a prune gave this backup up, or removed what it builds on. Nothing is lost: start a new one.
	ErrFenced = errors.New("backup: fenced by a prune")
	// ErrNoHistory: the log does not reach back to the parent backup; a full backup is needed.
	ErrNoHistory = errors.New("backup: the log does not reach back to the parent backup")
	// ErrNoParent: there is no backup of this history to build an incremental on.
	ErrNoParent = errors.New("backup: no parent backup of this history")
	// ErrTooMany: so many rows changed that a full backup is the better choice.
	ErrTooMany = errors.New("backup: too many changed rows for an incremental")
	// ErrUnsigned: an object that must be signed by a trusted key is not. Always with a *DamageError that names it.
	ErrUnsigned = errors.New("backup: not signed by a trusted key")
	// ErrSignKey: the repository is signed, and no key to sign with was given.
	ErrSignKey = errors.New("backup: the repository is signed, and without a signing key nothing can be added to it")
	// ErrNotSigned: a key to sign with was given, but the repository is not signed.
	ErrNotSigned = errors.New("backup: the repository is not signed")
	// ErrInvalid: an argument is outside its documented form.
	ErrInvalid = errors.New("backup: invalid argument")
)

// DamageError names a damaged object.
type DamageError struct {
	Kind   string // "missing", "damaged", "forged", "replayed", "rolled-back", "gap", "foreign", "unsigned"
	Object string // name in the store
	Seq    uint64 // backup concerned, 0 if none or several
	Reason string
	Cause  error
}

// Error says what is wrong with which object.
func (e *DamageError) Error() string {
	s := fmt.Sprintf("backup: %s: %s: %s", e.Kind, e.Object, e.Reason)
	if e.Cause != nil {
		s += fmt.Sprintf(" (%v)", e.Cause)
	}
	return s
}

// Unwrap makes errors.Is work for ErrDamaged and the cause.
func (e *DamageError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrDamaged}
	}
	return []error{ErrDamaged, e.Cause}
}

// GapError names the entries that are missing.
type GapError struct {
	From, To  uint64 // missing log entries; To 0: unknown or to the end
	Reachable uint64 // newest index that can be restored before the gap
	Wanted    uint64 // index that was wanted, 0: the newest
}

// Error names the gap and what can be had instead.
func (e *GapError) Error() string {
	to := "the end"
	if e.To != 0 {
		to = fmt.Sprint(e.To)
	}
	return fmt.Sprintf("backup: the archived log lacks entries %d to %s; the newest state that can be restored before the gap is index %d", e.From, to, e.Reachable)
}

// Is makes errors.Is(err, ErrGap) true.
func (e *GapError) Is(target error) bool { return target == ErrGap }
