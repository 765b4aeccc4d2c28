package snapshot

import (
	"errors"
	"fmt"
)

// Sentinel errors; test with errors.Is.
var (
	// ErrCorrupt: the bytes are not what was written. The error is a *CorruptError that names the place.
	ErrCorrupt = errors.New("snapshot: corrupt")
	// ErrNotSnapshot: the stream does not begin like a snapshot.
	ErrNotSnapshot = errors.New("snapshot: not a snapshot")
	// ErrVersion: the snapshot was written by a newer program.
	ErrVersion = errors.New("snapshot: format is newer than this program")
	// ErrOrder: rows were added out of order or twice.
	ErrOrder = errors.New("snapshot: rows out of order")
	// ErrTooLarge: a name, key, value, membership or block size is over its limit.
	ErrTooLarge = errors.New("snapshot: too large")
	// ErrInvalid: an argument is outside its documented form.
	ErrInvalid = errors.New("snapshot: invalid argument")
	// ErrFinished: the writer was finished, aborted, or failed before.
	ErrFinished = errors.New("snapshot: writer is finished")
)

// A CorruptError says which element of a snapshot is damaged and why that is known.
type CorruptError struct {
	Element int64 // number of the element (block, index page, footer), -1: the header
	Offset  int64 // of the element in the stream
	Reason  string
}

// Error names the place and the reason.
func (e *CorruptError) Error() string {
	if e.Element < 0 {
		return fmt.Sprintf("snapshot: corrupt: header: %s", e.Reason)
	}
	return fmt.Sprintf("snapshot: corrupt: element %d at offset %d: %s", e.Element, e.Offset, e.Reason)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }
