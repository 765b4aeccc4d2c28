package backuptools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// maxLabel bounds a label, in bytes: it is part of every reading of the chain.
const maxLabel = 256

type createIn struct {
	Type  string `json:"type,omitempty" jsonschema:"auto (default), full or incremental; auto is incremental unless a full backup is needed"`
	Label string `json:"label,omitempty" jsonschema:"a note for people, at most 256 bytes; stored encrypted"`
}

func (t *tools) addCreate() {
	tool := describe[backup.Created](kind{}, "backup_create", "Make a backup",
		"Store the state of this server in its backup repository, beside its work and without a pause, and the log since the last backup, so that every moment in between "+
			"can be restored. It waits its turn behind the scheduled jobs. Cancelling it harms nothing. Use it before a risky change; regular backups are made by the schedule.")
	addTask(t, tool, func(ctx context.Context, task *mcp.Task, in createIn) (backup.Created, error) {
		switch in.Type {
		case "", backupfmt.Auto, backupfmt.Full, backupfmt.Incremental:
		default:
			return backup.Created{}, fmt.Errorf("%w: type %q is not auto, full or incremental", backupfmt.ErrInvalid, in.Type)
		}
		if len(in.Label) > maxLabel {
			return backup.Created{}, fmt.Errorf("%w: the label has %d bytes, at most %d are kept", backupfmt.ErrInvalid, len(in.Label), maxLabel)
		}
		mark := taskMark(task)
		if task.Attempt() > 1 { // the backup may have been stored and its result not
			if c, ok, err := t.s.Find(ctx, mark); ok || err != nil {
				return c, err
			}
		}
		label := strings.TrimSpace(in.Label + " " + mark)
		return t.s.Create(ctx, backup.CreateOptions{Type: in.Type, Label: label}, progress(task))
	})
}

// taskMark names a task in labels and in names of directories without giving its id away, which is a secret of its principal.
func taskMark(task *mcp.Task) string {
	sum := sha256.Sum256([]byte(task.ID()))
	return "task-" + hex.EncodeToString(sum[:8])
}
