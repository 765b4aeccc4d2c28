package node

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/forensic"
)

// ExplainOpen adds to an error of engine.Open what the person at the terminal should do about it.
func ExplainOpen(dir string, key []byte, err error) error {
	advice := ""
	switch {
	case errors.Is(err, engine.ErrInUse):
		advice = inUseAdvice(dir)
	case errors.Is(err, engine.ErrNotStore):
		advice = "nothing in it was changed; name an empty or new directory with --data DIR"
	case errors.Is(err, engine.ErrVersion):
		advice = "run the newer program again, or restore a backup made by this version"
	case errors.Is(err, engine.ErrKeyRequired):
		advice = "set ERLMCP_DATA_KEY, or name the key file with --data-key-file"
	case errors.Is(err, engine.ErrWrongKey):
		advice = "give the key that this directory was created with"
	case errors.Is(err, engine.ErrCorrupt):
		return fmt.Errorf("open %s: the data is damaged; nothing was changed\n%s", dir, damageLetter(dir, key, err))
	case errors.Is(err, fs.ErrPermission):
		advice = "the user of this process needs to read and write the directory"
	case strings.Contains(err.Error(), "read-only file system"):
		advice = "the directory is on a read-only file system; remount it, or name another one with --data DIR"
	case errors.Is(err, engine.ErrNoSpace), errors.Is(err, syscall.ENOSPC), strings.Contains(err.Error(), syscall.ENOSPC.Error()): // Pebble quotes it
		advice = "the disk is full: free some space (or inodes, `df -i`) on it and start again; nothing is lost"
	}
	if advice == "" {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	return fmt.Errorf("open %s: %w\n%s", dir, err, advice)
}

// damageLetter examines the directory and says what is damaged, what is intact, what it means and what to do. If the
// examination finds nothing, the error itself has to do.
func damageLetter(dir string, key []byte, err error) string {
	letter, examErr := forensic.Examine(vfs.Default, dir, key)
	if examErr != nil || !letter.Damaged() {
		return err.Error()
	}
	var text strings.Builder
	letter.WriteText(&text)
	return text.String()
}

func inUseAdvice(dir string) string {
	const rest = "stop it first, or use another directory"
	run, err := admin.ReadRunFile(dir)
	if err != nil {
		return rest
	}
	where := "on stdio"
	if run.MCPURL != "" {
		where = "at " + run.MCPURL
	}
	return fmt.Sprintf("process %d serves it %s since %s: connect there, %s", run.PID, where, run.StartedAt.Format("2006-01-02 15:04:05 MST"), rest)
}

// failStopLetter tells the operator what a failed store means.
func failStopLetter(dir string, cause error) string {
	return strings.Join([]string{
		fmt.Sprintf("what happened: the disk below %s refused a write (%v)", dir, cause),
		"what is intact: every change that was acknowledged is in the log; nothing was acknowledged after the failure",
		"what it means: the process exits now, because what the disk did with the refused write is unknown until the directory is opened again",
		fmt.Sprintf("what to do: look at the disk (dmesg, smartctl, df), then start again; the start checks the whole log, and `erlmcp verify --data %s` the rest", dir),
	}, "; ")
}
