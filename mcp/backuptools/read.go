package backuptools

import (
	"context"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt"
)

type (
	listIn struct {
		Limit  int    `json:"limit,omitempty" jsonschema:"most backups to return, newest first, 1 to 1000, default 50"`
		Before uint64 `json:"before,omitempty" jsonschema:"only backups with smaller numbers: for the next page, the smallest number seen"`
	}
	listOut struct {
		Repository string       `json:"repository"`
		ID         string       `json:"id"`
		Encrypted  bool         `json:"encrypted"`
		Total      int          `json:"total" jsonschema:"backups in the repository"`
		Backups    []shownLink  `json:"backups" jsonschema:"newest first"`
		Log        []loggedSpan `json:"log" jsonschema:"archived log: between the first backup and its end every moment can be restored, but for gaps between spans of one life"`
	}
	shownLink struct {
		Backup    uint64    `json:"backup" jsonschema:"its number"`
		Type      string    `json:"type"`
		Base      uint64    `json:"base,omitempty" jsonschema:"the backup that an incremental builds on"`
		Index     uint64    `json:"index" jsonschema:"log index of the state"`
		Time      time.Time `json:"time" jsonschema:"when it was made"`
		StateTime time.Time `json:"state_time,omitzero" jsonschema:"of the newest change in it"`
		StateHash string    `json:"state_hash"`
		Rows      uint64    `json:"rows" jsonschema:"rows in this backup alone"`
		NewBytes  uint64    `json:"new_bytes" jsonschema:"bytes it stored"`
		Life      string    `json:"life" jsonschema:"the history it belongs to; a restored store begins a new one"`
		Label     string    `json:"label,omitempty"`
	}
	loggedSpan struct {
		Life      string    `json:"life"`
		First     uint64    `json:"first"`
		Last      uint64    `json:"last"`
		FirstTime time.Time `json:"first_time,omitzero"`
		LastTime  time.Time `json:"last_time,omitzero"`
	}
	planIn struct {
		Backup uint64    `json:"backup,omitempty" jsonschema:"exactly this backup"`
		Index  uint64    `json:"index,omitempty" jsonschema:"the state after this log entry"`
		Time   time.Time `json:"time,omitzero" jsonschema:"the state at this time (RFC 3339): before the first newer change"`
		Life   string    `json:"life,omitempty" jsonschema:"the history to restore from, as backup_list shows it; default that of the newest backup"`
	}
	planOut struct {
		Repository string    `json:"repository"`
		Backups    []uint64  `json:"backups" jsonschema:"read by the restore, the full one first"`
		Index      uint64    `json:"index" jsonschema:"log index of the result"`
		LogEntries uint64    `json:"log_entries" jsonschema:"to replay behind the newest of the backups"`
		LogPieces  int       `json:"log_pieces"`
		Bytes      int64     `json:"bytes" jsonschema:"to be read at most"`
		Rows       uint64    `json:"rows" jsonschema:"in the backups, before merging"`
		StateTime  time.Time `json:"state_time,omitzero" jsonschema:"of the newest of the backups"`
		Command    string    `json:"command" jsonschema:"what an operator runs to do it"`
	}
)

const (
	defaultList = 50
	maxList     = 1000
)

func (t *tools) addList() {
	tool := describe[listOut](kind{reads: true, idempotent: true}, "backup_list", "List backups",
		"The backups in this server's repository, newest first, and how far the archived log reaches. Use it to find out what can be restored.")
	addQuick(t, tool, func(ctx context.Context, in listIn) (listOut, error) {
		if in.Limit == 0 {
			in.Limit = defaultList
		}
		if in.Limit < 1 || in.Limit > maxList {
			return listOut{}, fmt.Errorf("%w: limit is %d, want 1 to %d", backupfmt.ErrInvalid, in.Limit, maxList)
		}
		l, err := t.s.List(ctx)
		if err != nil {
			return listOut{}, err
		}
		out := listOut{Repository: l.Repository, ID: l.ID, Encrypted: l.Encrypted, Total: len(l.Backups), Backups: []shownLink{}, Log: []loggedSpan{}}
		for i := len(l.Backups) - 1; i >= 0 && len(out.Backups) < in.Limit; i-- {
			b := l.Backups[i]
			if in.Before != 0 && b.Seq >= in.Before {
				continue
			}
			out.Backups = append(out.Backups, shownLink{
				Backup: b.Seq, Type: b.Kind, Base: b.Base, Index: b.Index, Time: b.Time, StateTime: b.StateTime, StateHash: b.StateHash, Rows: b.Rows,
				NewBytes: b.NewBytes, Life: b.Life, Label: b.Label,
			})
		}
		for _, s := range l.Log[max(0, len(l.Log)-maxList):] {
			out.Log = append(out.Log, loggedSpan{Life: s.Life, First: s.First, Last: s.Last, FirstTime: s.FirstTime, LastTime: s.LastTime})
		}
		return out, nil
	})
}

func (t *tools) addPlan() {
	tool := describe[planOut](kind{reads: true, idempotent: true}, "restore_plan", "Plan a restore (dry run)",
		"Find out whether and how a state can be restored: the newest one, a backup, a log index or a time; at most one of them. The plan is checked for gaps and missing backups. "+
			"Nothing is restored or changed: restoring needs a person and the command line.")
	addQuick(t, tool, func(ctx context.Context, in planIn) (planOut, error) {
		p, err := t.s.Plan(ctx, backupfmt.Target{Seq: in.Backup, Index: in.Index, Time: in.Time, Life: in.Life})
		if err != nil {
			return planOut{}, err
		}
		last := p.Backup()
		out := planOut{
			Repository: t.s.Target().String(), Backups: []uint64{}, Index: p.Index, LogEntries: p.Index - last.Index, LogPieces: len(p.Pieces), Bytes: p.Bytes,
			StateTime: last.StateTime, Command: "erlmcp backup restore " + in.flags() + "--to DIR --repo " + t.s.Target().String(),
		}
		for _, b := range p.Run {
			out.Backups = append(out.Backups, b.Seq)
			out.Rows += b.Rows
		}
		return out, nil
	})
}

// flags name the target on the command line.
func (in planIn) flags() string {
	switch {
	case in.Backup != 0:
		return fmt.Sprintf("%d ", in.Backup)
	case in.Index != 0:
		return fmt.Sprintf("--at-index %d ", in.Index)
	case !in.Time.IsZero():
		return fmt.Sprintf("--at-time %s ", in.Time.UTC().Format(time.RFC3339Nano))
	}
	return ""
}
