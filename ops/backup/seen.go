package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/engine"
)

// A store remembers, outside of every repository, the newest link that it has seen in each: a repository that is put back to an older state as a whole
// is in order by itself, and only somebody who knows better can tell.

// seenRow is the key of a repository in tableJobs: the JSON of a backupfmt.Mark.
func seenRow(r *backupfmt.Repo) []byte { return []byte("seen:" + r.ID().String()) }

// Recall lets a repository be refused that is older than the store has seen it.
func Recall(ctx context.Context, s *engine.Store, r *backupfmt.Repo) error {
	m, err := seenBy(ctx, s, r)
	if err == nil {
		r.Expect(m)
	}
	return err
}

// seenBy is the newest link that the store has seen.
func seenBy(ctx context.Context, s *engine.Store, r *backupfmt.Repo) (m backupfmt.Mark, err error) {
	err = s.ViewLocal(ctx, func(tx *engine.Tx) (err error) {
		m, err = seenIn(tx, r)
		return err
	})
	return m, err
}

func seenIn(tx *engine.Tx, r *backupfmt.Repo) (m backupfmt.Mark, err error) {
	raw, err := tx.Get(tableJobs, seenRow(r))
	if errors.Is(err, engine.ErrNotFound) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		return m, fmt.Errorf("backup: the record of what was seen of repository %s: %w", r.ID(), err)
	}
	return m, nil
}

// Remember keeps the newest link that was read or written. It never goes back, unless accepted says that this is meant. It writes only if there is
// something new.
func Remember(ctx context.Context, s *engine.Store, r *backupfmt.Repo, accepted bool) error {
	_, err := remember(ctx, s, r, accepted)
	return err
}

// remember returns the log index of its write, 0 if there was nothing to write.
func remember(ctx context.Context, s *engine.Store, r *backupfmt.Repo, accepted bool) (uint64, error) {
	now := r.Seen()
	known, err := seenBy(ctx, s, r)
	if err != nil || now == known || now.Seq == 0 || now.Seq <= known.Seq && !accepted {
		return 0, err
	}
	raw, err := json.Marshal(now)
	if err != nil {
		return 0, fmt.Errorf("backup: encode what was seen: %w", err)
	}
	res, err := s.Update(ctx, func(tx *engine.Tx) error {
		was, err := seenIn(tx, r)
		if err != nil || was.Seq >= now.Seq && !accepted {
			return err
		}
		return tx.Put(tableJobs, seenRow(r), raw)
	}, engine.WithActor("backup"), engine.WithLabel("backup.seen"))
	return res.Index, err
}
