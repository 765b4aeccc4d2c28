// Package store is where a backup repository keeps its objects: a small flat namespace of immutable objects, plus very few
// that are replaced under a condition.
//
// There are two kinds, Dir (a local directory) and S3 (a bucket). A repository is byte-identical on all of them: the name
// of an object is the path of the file and the key in the bucket. Every kind runs the conformance suite of package
// storetest.
//
// A store promises:
//
//   - Create is atomic and durable: when it returns nil the whole object is there and survives a power loss; if it fails or
//     the process dies there is nothing under the name, or the whole object, never a part.
//   - Of several Creates of one name with different content one wins, the others get ErrExists. Creating what is already
//     there byte by byte is success, so that a request whose answer was lost can be repeated.
//   - Replace succeeds for one of several callers that saw the same version.
//   - Reads come from the target, never from a cache.
//
// Names are slash-separated segments of [a-zA-Z0-9_.-], none beginning with a dot.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Sentinel errors; test with errors.Is.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("store: object not found")
	// ErrExists: an object with this name and other content is there.
	ErrExists = errors.New("store: object exists")
	// ErrChanged: the object is not the version that was to be replaced.
	ErrChanged = errors.New("store: object was changed by somebody else")
	// ErrShort: the object ends before the wanted range.
	ErrShort = errors.New("store: object is shorter than expected")
	// ErrInvalid: a malformed name, range or setting.
	ErrInvalid = errors.New("store: invalid argument")
	// ErrDenied: the store refused the credentials or the operation.
	ErrDenied = errors.New("store: access denied")
	// ErrNoStore: the directory or bucket does not exist.
	ErrNoStore = errors.New("store: directory or bucket not found")
	// ErrNoSpace: the target is full.
	ErrNoSpace = errors.New("store: no space left")
)

// Version identifies the content of a replaceable object; "" stands for "there is none".
type Version string

// Info describes an object.
type Info struct {
	Name string
	Size int64
}

// Store is a place for objects. Methods are safe for concurrent use. An operation that fails without one of the sentinel errors
// (network, I/O) may be repeated.
type Store interface {
	// Create writes a new object; see the package comment. body is not kept.
	Create(ctx context.Context, name string, body []byte) error
	// Replace writes an object if its version is old, "" meaning that it must not exist: ErrChanged otherwise.
	Replace(ctx context.Context, name string, body []byte, old Version) (Version, error)
	// Get reads a whole object of at most MaxObject bytes: ErrNotFound.
	Get(ctx context.Context, name string) ([]byte, Version, error)
	// GetRange reads n bytes from off: ErrNotFound, ErrShort.
	GetRange(ctx context.Context, name string, off, n int64) ([]byte, error)
	// Stat returns the size: ErrNotFound.
	Stat(ctx context.Context, name string) (Info, error)
	// List calls fn for every object whose name begins with prefix, ascending by name. prefix is "" or ends with a slash.
	List(ctx context.Context, prefix string, fn func(Info) error) error
	// Delete removes an object; removing what is not there is success.
	Delete(ctx context.Context, name string) error
	// String names the target for messages, without secrets.
	String() string
}

// Sweeper is a Store in which killed processes leave something that is no object: parts of what they were writing.
type Sweeper interface {
	// Sweep removes what was begun before t and not finished, and counts it. A process that is at work all the same only fails.
	Sweep(ctx context.Context, t time.Time) (int, error)
}

// MaxObject bounds the size of an object, in bytes; it also bounds what a reader takes into memory.
const MaxObject = 128 << 20

// maxName keeps names below the limits of file systems and of S3 (1024 bytes).
const maxName = 512

// CheckName returns ErrInvalid for a name that not every store can keep.
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: object name of %d bytes", ErrInvalid, len(name))
	}
	for seg := range strings.SplitSeq(name, "/") {
		if seg == "" || seg[0] == '.' || len(seg) > 200 {
			return fmt.Errorf("%w: object name %q", ErrInvalid, name)
		}
		for i := range len(seg) {
			c := seg[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-' {
				return fmt.Errorf("%w: object name %q", ErrInvalid, name)
			}
		}
	}
	return nil
}

func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	rest, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("%w: prefix %q does not end with a slash", ErrInvalid, prefix)
	}
	return CheckName(rest)
}

func checkRange(off, n int64) error {
	if off < 0 || n < 0 || n > MaxObject {
		return fmt.Errorf("%w: range of %d bytes at %d", ErrInvalid, n, off)
	}
	return nil
}

func checkBody(name string, body []byte) error {
	if len(body) > MaxObject {
		return fmt.Errorf("%w: object %s of %d bytes, limit %d", ErrInvalid, name, len(body), MaxObject)
	}
	return CheckName(name)
}
