package backupfmt

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/snapshot"
)

// Consolidate merges a full backup and the incrementals over it into a new full backup of the same state, inside the repository: the
// store it came from is not needed. What did not change is shared with the newest full backup. seq 0: the newest backup. A backup
// that is full already is returned as it is. Small pieces of the archive are merged on the way. progress is called now and then and may be nil.
func (r *Repo) Consolidate(ctx context.Context, seq uint64, progress func(rows, raw uint64)) (*Link, error) {
	c, err := r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.writable(c); err != nil {
		return nil, err
	}
	l, err := baseOf(c, Target{Seq: seq})
	if err != nil {
		return nil, err
	}
	if l.Kind == Full {
		same := *l
		same.Unchanged = true
		return &same, nil
	}
	run, err := c.Run(l)
	if err != nil {
		return nil, err
	}
	src, err := newMergedSource(r, run)
	if err != nil {
		return nil, err
	}
	if l, err = r.backup(ctx, c, src, nil, BackupOptions{Label: l.Label, Progress: progress}); err != nil {
		return l, err
	}
	_, err = r.MergeArchive(ctx)
	return l, err
}

// mergedSource shows a stored state as if it were a store.
type mergedSource struct {
	r     *Repo
	run   []*Link
	state State
}

func newMergedSource(r *Repo, run []*Link) (*mergedSource, error) {
	if err := r.allSigned(run); err != nil {
		return nil, err
	}
	l := run[len(run)-1]
	life, err := parseID(l.Life)
	if err != nil {
		return nil, err
	}
	logID, err := parseID(l.LogID)
	if err != nil {
		return nil, err
	}
	hash, err := hex.DecodeString(l.StateHash)
	if err != nil || len(hash) != 32 {
		return nil, &DamageError{Kind: "damaged", Object: manifestName(l.Seq), Seq: l.Seq, Reason: "it has no state hash"}
	}
	return &mergedSource{r: r, run: run, state: State{
		Life: life, LogID: logID, Index: l.Index, Term: l.Term, Hash: [32]byte(hash), Time: l.StateTime, Membership: l.Membership,
	}}, nil
}

// State implements Source.
func (s *mergedSource) State() State { return s.state }

// Rows implements Source.
func (s *mergedSource) Rows(ctx context.Context, fn func(*snapshot.Entry) error) error {
	m, err := s.r.newMerger(ctx, s.run)
	if err != nil {
		return err
	}
	for {
		e, err := m.Next()
		if err != nil || e == nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// Changed implements Source; a stored state has no log.
func (s *mergedSource) Changed(context.Context, uint64, func(*snapshot.Entry) error) error {
	return fmt.Errorf("%w: a stored state", ErrNoHistory)
}

// ArchiveMark says how far the archive was when a backup was made, so that the loss of its newest pieces is noticed.
type ArchiveMark struct {
	First  uint64 `json:"first"` // of the newest piece
	Last   uint64 `json:"last"`
	Digest string `json:"digest"`
}

// mark is the newest piece, nil if there is none.
func (a *Archive) mark() *ArchiveMark {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		return nil
	}
	return &ArchiveMark{First: a.last.First, Last: a.last.Last, Digest: a.prev}
}

// lifeOf is the life of an archive in hex, "" for none.
func (a *Archive) lifeOf() string {
	if a == nil {
		return ""
	}
	return object.ID(a.life).String()
}

// View shows what a backup holds, verified row by row, without restoring it: ErrNoBackup. Its Rows end with ErrDamaged if the state hash of
// all rows is not the recorded one.
func (r *Repo) View(ctx context.Context, seq uint64) (Source, error) {
	c, err := r.Chain(ctx)
	if err != nil {
		return nil, err
	}
	l, err := c.Backup(seq)
	if err != nil {
		return nil, err
	}
	run, err := c.Run(l)
	if err != nil {
		return nil, err
	}
	src, err := newMergedSource(r, run)
	if err != nil {
		return nil, err
	}
	return checkedSource{src}, nil
}

// checkedSource compares the state hash at the end.
type checkedSource struct{ *mergedSource }

// Rows implements Source.
func (s checkedSource) Rows(ctx context.Context, fn func(*snapshot.Entry) error) error {
	got, err := hashedRows(ctx, s.mergedSource, fn)
	if err == nil && got != s.state.Hash {
		err = &DamageError{Kind: "damaged", Object: manifestName(s.run[len(s.run)-1].Seq), Reason: fmt.Sprintf("its rows have state hash %x, recorded was %x", got, s.state.Hash)}
	}
	return err
}
