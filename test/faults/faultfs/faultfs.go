// Package faultfs makes a real disk misbehave by rules that can be changed while the program runs. It is compiled
// into the erlmcp binary only with the build tag `faults`; the product contains none of it (test/faults proves that).
//
// The rules are the lines of a control file, which is read again before every operation, so that a change is in
// force for everything that begins after the file was replaced. Replace it by rename, never in place. An absent or
// empty file means a healthy disk.
//
//	<operation> <file pattern> <what happens> [after=N] [times=N] [from=OFFSET]
//
//	sync   wal/*.seg  EIO after=20 times=1   the 21st fdatasync of the log fails, later ones work
//	write  *          ENOSPC                 every write fails until the rule is taken away
//	sync   wal/*.seg  delay=150ms            a slow disk
//	write  wal/*.seg  ENOSPC from=130000     no pwrite at this offset or behind it
//
// Operations are sync (fsync, fdatasync, sync_file_range), write (write, pwrite, fallocate) and create (new, renamed,
// linked and reused files, new directories). A pattern of n elements is matched with path.Match against the last n
// elements of the path. The first rule that applies wins; it counts from the moment when the file's content changed.
//
// A failed operation is not carried out at all. For a failed fsync that is the nastiest case: the bytes stay in the
// page cache, where the next process finds them although no disk ever promised to keep them.
package faultfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Variable names the control file in the environment of the program. It is outside of ERLMCP_*, where the
// configuration refuses what it does not know.
const Variable = "FAULTFS_RULES"

// Mark begins every line that is written when a rule strikes.
const Mark = "faultfs: "

// Wrap returns base with the faults of the control file. Struck rules are told to out, one line each; delays only
// the first time. The result is safe for concurrent use if base is.
func Wrap(base vfs.FS, control string, out io.Writer) vfs.FS {
	return errorfs.Wrap(base, &injector{control: control, out: out, sleep: time.Sleep})
}

// rule is one line of the control file.
type rule struct {
	operation string
	pattern   string
	err       syscall.Errno // 0: delay
	delay     time.Duration
	after     int // matching operations that are let through first
	times     int // how often the rule strikes; 0: without end
	from      int // least offset of a pwrite
	seen      int
}

// parse reads a control file.
func parse(text string) ([]*rule, error) {
	var rules []*rule
	for i, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		r, err := parseRule(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d, %q: %w", i+1, line, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func parseRule(fields []string) (*rule, error) {
	if len(fields) < 3 {
		return nil, errors.New("a rule has an operation, a pattern and an effect")
	}
	r := &rule{operation: fields[0], pattern: fields[1]}
	switch r.operation {
	case "sync", "write", "create":
	default:
		return nil, fmt.Errorf("the operation must be sync, write or create, not %q", r.operation)
	}
	if _, err := path.Match(r.pattern, ""); err != nil {
		return nil, err
	}
	switch effect := fields[2]; effect {
	case "EIO":
		r.err = syscall.EIO
	case "ENOSPC":
		r.err = syscall.ENOSPC
	default:
		d, err := time.ParseDuration(strings.TrimPrefix(effect, "delay="))
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("the effect must be EIO, ENOSPC or delay=DURATION, not %q", effect)
		}
		r.delay = d
	}
	for _, f := range fields[3:] {
		key, value, _ := strings.Cut(f, "=")
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q is not a number from 0", f)
		}
		switch key {
		case "after":
			r.after = n
		case "times":
			r.times = n
		case "from":
			r.from = n
		default:
			return nil, fmt.Errorf("unknown option %q", key)
		}
	}
	return r, nil
}

// matches reports whether the rule is about this operation on this file. offset is 0 for all but pwrite.
func (r *rule) matches(operation, name string, offset int64) bool {
	if r.operation != operation || offset < int64(r.from) {
		return false
	}
	elements := strings.Split(filepath.ToSlash(name), "/")
	n := min(len(elements), strings.Count(r.pattern, "/")+1)
	ok, err := path.Match(r.pattern, strings.Join(elements[len(elements)-n:], "/"))
	return ok && err == nil
}

// strikes counts a matching operation and says whether it is hit.
func (r *rule) strikes() bool {
	r.seen++
	return r.seen > r.after && (r.times == 0 || r.seen <= r.after+r.times)
}

// injector is the errorfs.Injector behind Wrap.
type injector struct {
	control string
	out     io.Writer
	sleep   func(time.Duration)

	mu    sync.Mutex
	text  string
	rules []*rule
}

// String implements errorfs.Injector.
func (in *injector) String() string { return "rules of " + in.control }

// operationOf translates the kinds that rules know; "" for all others, which always work.
func operationOf(kind errorfs.OpKind) string {
	switch kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return "sync"
	case errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate:
		return "write"
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpMkdirAll:
		return "create"
	}
	return ""
}

// MaybeError implements errorfs.Injector: it is asked before every operation.
func (in *injector) MaybeError(op errorfs.Op) error {
	operation := operationOf(op.Kind)
	if operation == "" {
		return nil
	}
	hit, err := in.decide(operation, op.Path, op.Offset)
	switch {
	case err != nil:
		return err
	case hit == nil:
		return nil
	case hit.err != 0:
		return &fs.PathError{Op: operation, Path: op.Path, Err: hit.err}
	}
	in.sleep(hit.delay)
	return nil
}

// decide finds the rule that strikes, if any. A control file that cannot be understood fails every operation: a typing
// error must not look like a healthy disk.
func (in *injector) decide(operation, name string, offset int64) (*rule, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	raw, err := os.ReadFile(in.control)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%scontrol file: %w", Mark, err)
	}
	if text := string(raw); text != in.text {
		rules, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s%s: %w", Mark, in.control, err)
		}
		in.text, in.rules = text, rules
	}
	for _, r := range in.rules {
		if !r.matches(operation, name, offset) || !r.strikes() {
			continue
		}
		switch {
		case r.err != 0:
			fmt.Fprintf(in.out, "%s%s %s: %s\n", Mark, operation, name, r.err)
		case r.seen == r.after+1:
			fmt.Fprintf(in.out, "%s%s %s: slow by %s from now on\n", Mark, operation, name, r.delay)
		}
		return r, nil
	}
	return nil, nil
}
