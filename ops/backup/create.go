package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/engine"
)

// Progress says how far a job is. Total 0: not known beforehand.
type Progress struct {
	Phase string `json:"phase"`
	Done  int64  `json:"done"`
	Total int64  `json:"total,omitempty"`
	Unit  string `json:"unit"` // "bytes", "rows", "entries" or "objects"
}

// Report receives progress. It is called by one goroutine at a time, often; nil: nobody wants to know.
type Report func(Progress)

func (r Report) tell(phase string, done, total int64, unit string) {
	if r != nil {
		r(Progress{Phase: phase, Done: done, Total: total, Unit: unit})
	}
}

// CreateOptions of one backup.
type CreateOptions struct {
	Type      string // backupfmt.Full, Incremental or Auto (default)
	Label     string // a note for people; stored sealed
	NoArchive bool   // do not ship the log behind the previous backup: only the backups themselves can be restored, nothing in between
	Fresh     bool   // a full backup that shares nothing with older ones

	AcceptRollback bool // the repository may be older than the store has seen it: somebody put it back on purpose

	MaxChain int // incrementals after a full backup; 0: backupfmt.MaxChain

	archive *backupfmt.Archive // of the service; nil: opened if needed
}

// Created says what a backup stored.
type Created struct {
	Repository string    `json:"repository"`
	Backup     uint64    `json:"backup"` // its number
	Type       string    `json:"type"`
	Unchanged  bool      `json:"unchanged,omitempty"` // nothing was stored: backup Backup shows the state already
	Base       uint64    `json:"base,omitempty"`
	Index      uint64    `json:"index"` // log index of the state
	Time       time.Time `json:"time"`
	StateTime  time.Time `json:"state_time,omitzero"`
	StateHash  string    `json:"state_hash"`
	Rows       uint64    `json:"rows"`
	Removed    uint64    `json:"removed,omitempty"`
	RawBytes   uint64    `json:"raw_bytes"`
	NewBytes   uint64    `json:"new_bytes"`
	Archived   uint64    `json:"archived,omitempty"` // newest archived log index, 0: no log is archived
	Warning    string    `json:"warning,omitempty"`
	Seconds    float64   `json:"seconds"`
}

// CreatedOf describes a backup.
func CreatedOf(r *backupfmt.Repo, l *backupfmt.Link) Created {
	return Created{
		Repository: r.Store().String(), Backup: l.Seq, Type: l.Kind, Unchanged: l.Unchanged, Base: l.Base, Index: l.Index, Time: l.Time,
		StateTime: l.StateTime, StateHash: l.StateHash, Rows: l.Rows, Removed: l.Removed, RawBytes: l.RawBytes, NewBytes: l.NewBytes,
	}
}

// Create backs an open store up, beside its work. life: the history it belongs to; zero: its own log. When it returns without error the
// backup is durable. Ending ctx at any time changes nothing that counts.
func Create(ctx context.Context, s *engine.Store, r *backupfmt.Repo, life object.ID, o CreateOptions, report Report) (Created, error) {
	begin := time.Now()
	src, err := backupfmt.EngineSource(s, life)
	if err != nil {
		return Created{}, err
	}
	defer src.Close() //nolint:errcheck // releases an image
	if o.AcceptRollback {
		r.Forget()
	} else if err := Recall(ctx, s, r); err != nil {
		return Created{}, err
	}
	archive := o.archive
	warning := ""
	if archive == nil && !o.NoArchive {
		if archive, err = r.OpenArchive(ctx, src.State().Life); err != nil {
			return Created{}, err
		}
	}
	if archive != nil {
		if warning, err = shipBefore(ctx, s, r, archive, src.State(), report); err != nil {
			return Created{}, err
		}
	}
	total := estimate(ctx, r)
	l, err := r.Backup(ctx, src, backupfmt.BackupOptions{
		Type: o.Type, Label: o.Label, MaxChain: o.MaxChain, Fresh: o.Fresh, Archive: archive,
		Progress: func(_, raw uint64) { report.tell("rows", int64(raw), max(total, int64(raw)), "bytes") },
	})
	if err != nil {
		return Created{}, err
	}
	c := CreatedOf(r, l)
	if archive != nil {
		c.Archived = archive.Last()
	}
	c.Warning, c.Seconds = warning, time.Since(begin).Seconds()
	return c, nil
}

// estimate is how many bytes of rows a full backup will read, by the newest one; 0: unknown.
func estimate(ctx context.Context, r *backupfmt.Repo) int64 {
	c, err := r.Chain(ctx)
	if err != nil {
		return 0
	}
	total := int64(0)
	for _, l := range c.Backups("") {
		if l.Kind == backupfmt.Full {
			total = int64(l.RawBytes)
		}
	}
	return total
}

// shipBefore archives the log between the previous backup of the life and the state, so that every moment in between can be restored.
func shipBefore(ctx context.Context, s *engine.Store, r *backupfmt.Repo, a *backupfmt.Archive, st backupfmt.State, report Report) (string, error) {
	c, err := r.Chain(ctx)
	if err != nil {
		return "", err
	}
	mine := c.Backups(st.Life.String())
	if len(mine) == 0 {
		a.StartAfter(st.Index) // nothing before the first backup can be restored
		return "", nil
	}
	a.StartAfter(mine[0].Index)
	return ship(ctx, s, a, st.Index, report)
}

// ship archives the log up to an index. If the log no longer has what must come next, it goes on behind the gap and says so.
func ship(ctx context.Context, s *engine.Store, a *backupfmt.Archive, upTo uint64, report Report) (warning string, err error) {
	began := int64(a.Last())
	for try := 0; ; try++ {
		_, err = a.Ship(ctx, watched{s.Log(), report, began, int64(upTo)}, upTo)
		var gap *backupfmt.GapError
		if !errors.As(err, &gap) || gap.To == 0 || try > 0 {
			return warning, err
		}
		warning = fmt.Sprintf("log entries %d to %d were recycled before they could be archived: no moment between them can be restored", gap.From, gap.To)
		a.SkipTo(gap.To + 1)
	}
}
