package simdisk

import (
	"fmt"
	"strings"
)

// Kind says what an operation does. Kinds are bits, so that a fault rule can
// name several.
type Kind uint16

// The kinds of operations. OpRead, OpOpen and OpList change nothing: they never
// appear in a trace, but faults can hit them.
const (
	OpCreate     Kind = 1 << iota // a new empty file gets a name; an old file of that name loses it
	OpMkdir                       // a new directory
	OpLink                        // one more name for a file
	OpRemove                      // a name goes
	OpRename                      // a name moves, replacing what stood there
	OpWrite                       // bytes enter the page cache
	OpSync                        // a file's bytes become durable
	OpDirSync                     // a directory's entries become durable
	OpSyncFailed                  // a sync returned an error: some dirty sectors became durable, all count as clean
	OpMisdirect                   // a write whose bytes reached another place of the disk
	OpDropCache                   // clean pages of a range are forgotten and read from the disk again
	OpRead
	OpOpen
	OpList

	// OpAny matches every kind.
	OpAny Kind = 0xffff
)

var kindNames = []string{
	"create", "mkdir", "link", "remove", "rename", "write", "sync", "dirsync",
	"sync-failed", "misdirect", "dropcache", "read", "open", "list",
}

// String returns the name of the kind, or several joined by "|".
func (k Kind) String() string {
	var names []string
	for i, n := range kindNames {
		if k&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, "|")
}

// ino identifies a file or directory for as long as the disk lives.
type ino uint64

// Op is one operation that changed the disk. Ops are immutable once recorded.
type Op struct {
	Kind Kind
	Path string // the name used by the caller; for people and for fault rules

	Ino  uint64 // the file or directory concerned; for create and mkdir the new one
	Dir  uint64 // directory holding Name
	Name string
	To   uint64 // rename, link: directory of the new name; misdirect: inode that was hit instead
	New  string // rename, link: the new name

	Off   int64  // write, misdirect: where the bytes were meant to go; dropcache: start of the range
	Len   int64  // write, misdirect, dropcache: how many
	Data  []byte // write, misdirect: the bytes; nil means Len zeros
	ToOff int64  // misdirect: where the bytes went

	Seed uint64 // sync-failed: decides which sectors became durable
	Time int64  // nanoseconds of the disk's clock
}

// String describes the operation in one line.
func (o Op) String() string {
	switch o.Kind {
	case OpWrite:
		return fmt.Sprintf("write %s [%d,+%d)", o.Path, o.Off, o.Len)
	case OpMisdirect:
		return fmt.Sprintf("misdirect %s [%d,+%d) to inode %d at %d", o.Path, o.Off, o.Len, o.To, o.ToOff)
	case OpDropCache:
		return fmt.Sprintf("dropcache %s [%d,+%d)", o.Path, o.Off, o.Len)
	case OpRename, OpLink:
		return fmt.Sprintf("%s %s to %s", o.Kind, o.Path, o.New)
	default:
		return fmt.Sprintf("%s %s", o.Kind, o.Path)
	}
}
