package wal

import (
	"errors"
	"fmt"
	"syscall"
)

// Sentinel errors; compare with errors.Is.
var (
	// ErrCorrupt: bytes that were once durable are damaged, missing or in the
	// wrong place. The error is a *CorruptError that names the place.
	ErrCorrupt = errors.New("wal: corrupt")
	// ErrNotFound: the index is outside [FirstIndex, LastIndex].
	ErrNotFound = errors.New("wal: entry not found")
	// ErrNoSpace: the disk is full. Nothing was written; the same call may
	// succeed later.
	ErrNoSpace = errors.New("wal: no space left on device")
	// ErrFailed: a write or fdatasync failed. The log accepts nothing more in
	// this process, because the kernel may have dropped the data of a failed
	// fdatasync while marking its pages clean.
	ErrFailed = errors.New("wal: failed, restart the process")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("wal: closed")
	// ErrTooLarge: an entry or a single append exceeds MaxEntryBytes or half
	// a segment.
	ErrTooLarge = errors.New("wal: entry too large")
	// ErrIndexGap: an explicit entry index is not LastIndex+1.
	ErrIndexGap = errors.New("wal: entry index does not follow the last one")
	// ErrNotLog: the directory holds files, but not a log.
	ErrNotLog = errors.New("wal: not a log directory")
	// ErrVersion: the log was written by a newer version of this software.
	ErrVersion = errors.New("wal: unknown format version")
	// ErrKeyRequired: the log is encrypted and no key was given.
	ErrKeyRequired = errors.New("wal: log is encrypted and no key was given")
	// ErrWrongKey: the key does not belong to this log, or the log is plain.
	ErrWrongKey = errors.New("wal: wrong key")
	// ErrInvalid: an argument is out of its documented range.
	ErrInvalid = errors.New("wal: invalid argument")
)

// A CorruptError is a Finding that stops the log from opening or an entry
// from being read.
type CorruptError struct{ Finding }

func (e *CorruptError) Error() string {
	s := fmt.Sprintf("wal: corrupt: %s: file %s, offset %d", e.Message, e.File, e.Offset)
	if e.FirstIndex != 0 {
		s += fmt.Sprintf(", from index %d", e.FirstIndex)
	}
	if e.Advice != "" {
		s += " (" + e.Advice + ")"
	}
	return s
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
