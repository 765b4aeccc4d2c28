package engine

import (
	"errors"
	"fmt"
	"strings"
)

// Sentinel errors of the package; test with errors.Is.
var (
	// ErrNotFound: the row does not exist.
	ErrNotFound = errors.New("engine: not found")
	// ErrConflict: another transaction changed what this one had read. Update retries it by itself and
	// returns it only when its tries are used up.
	ErrConflict = errors.New("engine: conflict with a concurrent transaction")
	// ErrOverloaded: the commit queue is full. Nothing was written; try again later.
	ErrOverloaded = errors.New("engine: overloaded")
	// ErrUnavailable: this node of a replicated store reaches no majority now. Nothing was written; try again, here or
	// on another node.
	ErrUnavailable = errors.New("engine: no majority of the cluster can be reached")
	// ErrNoSpace: the disk is (nearly) full. Nothing was written; reads go on; writes resume when space returns.
	ErrNoSpace = errors.New("engine: no space left for writes")
	// ErrInUse: another process has the directory open.
	ErrInUse = errors.New("engine: data directory is in use by another process")
	// ErrNotStore: the directory holds something else. Nothing in it was touched.
	ErrNotStore = errors.New("engine: not an erlmcp data directory")
	// ErrVersion: the data was written by a newer program.
	ErrVersion = errors.New("engine: data format is newer than this program")
	// ErrCorrupt: data on disk is damaged. The message says what, where, and what to do (see CorruptError).
	ErrCorrupt = errors.New("engine: corrupt")
	// ErrClosed: the store or watcher was closed.
	ErrClosed = errors.New("engine: closed")
	// ErrFailed: the store stopped for good after a failed write or fsync; the process must exit.
	ErrFailed = errors.New("engine: failed, no further writes are possible")
	// ErrReadOnly: a write through a read-only view.
	ErrReadOnly = errors.New("engine: read-only")
	// ErrCompacted: the log no longer reaches back to the wanted index.
	ErrCompacted = errors.New("engine: index is older than the retained log")
	// ErrIdempotencyMismatch: the idempotency key was used before for a different request.
	ErrIdempotencyMismatch = errors.New("engine: idempotency key was used for a different request")
	// ErrTooLarge: a key, value or transaction is over its limit.
	ErrTooLarge = errors.New("engine: too large")
	// ErrWrongKey: the encryption key does not fit the data.
	ErrWrongKey = errors.New("engine: wrong encryption key")
	// ErrKeyRequired: the data is encrypted and no key was given.
	ErrKeyRequired = errors.New("engine: the data is encrypted, a key is required")
	// ErrUnknownOutcome: the caller stopped waiting; the write may or may not happen. It wraps the cause
	// (usually the context's error). Ask again with the same idempotency key to learn the outcome.
	ErrUnknownOutcome = errors.New("engine: outcome unknown, the write may still happen")
	// ErrAsyncReads: Async durability was asked for a transaction that read something.
	ErrAsyncReads = errors.New("engine: async durability is for transactions without reads")
	// ErrInvalid: a table name, key, option or argument is outside its allowed form.
	ErrInvalid = errors.New("engine: invalid argument")
	// ErrTxDone: a transaction was used after its function returned.
	ErrTxDone = errors.New("engine: transaction is over")
	// ErrMalformed: bytes that should be a write set or a row are not.
	ErrMalformed = errors.New("engine: malformed data")
)

// CorruptError tells about damage found in the data directory, like a doctor's letter.
// errors.Is(err, ErrCorrupt) holds for it.
type CorruptError struct {
	What   string // what is damaged
	Where  string // file or directory
	Intact string // what is certainly intact
	Means  string // what it means for the data
	Advice string // what to do next
	Cause  error  // underlying error, may be nil
}

// Error joins the parts that are present.
func (e *CorruptError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "engine: corrupt: %s", e.What)
	for _, part := range []struct{ label, text string }{
		{"where", e.Where}, {"intact", e.Intact}, {"meaning", e.Means}, {"what to do", e.Advice},
	} {
		if part.text != "" {
			fmt.Fprintf(&b, "; %s: %s", part.label, part.text)
		}
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, " (%s)", brief(e.Cause))
	}
	return b.String()
}

// brief is the message of an error without the details that Pebble adds in lines of their own, stack traces among them.
func brief(err error) string { return firstLine(err.Error()) }

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// Unwrap makes errors.Is work for ErrCorrupt and for the cause.
func (e *CorruptError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Cause}
}
