package backup

import (
	"context"
	"time"
)

// pinName is the pin that keeps log for the archive and the next incremental.
const pinName = "backup"

// archiveState is how far the archive is; guarded by Service.mu.
type archiveState struct {
	index  uint64    // newest archived entry
	at     time.Time // when it was found to be complete
	since  time.Time // when the failure began, zero: it works
	again  time.Time // no try before this
	events time.Time // when the last event about the failure was raised
	err    string
}

const (
	archiveRetryFirst = time.Second
	archiveRetryMost  = 30 * time.Second
	archiveRepeat     = time.Hour // events of a failure that goes on
)

// ArchiveTick ships new log and returns when to call it again. Without new log it asks nothing of the repository.
func (s *Service) ArchiveTick(ctx context.Context) time.Time {
	now := s.o.Clock.Now()
	next := now.Add(s.o.Archive)
	if !s.o.Leader() {
		s.follow(ctx, now)
		return next
	}
	if s.unchanged(JobArchive) {
		return next
	}
	s.mu.Lock()
	again := s.lag.again
	s.mu.Unlock()
	if again.After(now) {
		return again
	}
	index := s.o.Store.AppliedIndex()
	warning, err := s.ship(ctx, index)
	if ctx.Err() != nil {
		return next
	}
	if warning != "" {
		s.log.Warn("the archive goes on behind a gap", "warning", warning)
		s.event(Event{Kind: EventLogGap, Job: JobArchive, Message: warning})
	}
	if err != nil {
		s.forget(err)
		return s.archiveFailed(ctx, now, err)
	}
	s.saw(JobArchive, index)
	s.archiveWorks(ctx, now, index)
	return next
}

// ship archives up to an index. Nothing is shipped before the first backup of the life: it could not be restored.
func (s *Service) ship(ctx context.Context, index uint64) (string, error) {
	repo, archive, err := s.open(ctx)
	if err != nil {
		return "", err
	}
	if archive.Last() == 0 {
		c, err := repo.Chain(ctx)
		if err != nil {
			return "", err
		}
		life, err := s.o.Life(ctx)
		if err != nil {
			return "", err
		}
		mine := c.Backups(life.String())
		if len(mine) == 0 {
			return "", nil
		}
		archive.StartAfter(mine[0].Index)
	}
	return ship(ctx, s.o.Store, archive, index, nil)
}

// followEvery is how often a node that does not lead asks how far the archive is.
const followEvery = time.Minute

// jobFollow is what a node that does not lead does, as a name for Service.quiet.
const jobFollow = "follow"

// follow keeps the log that the leader has not archived, so that this node can go on with the archive when it leads. The limit of what is
// kept holds for it, too. While nothing changes nothing is asked.
func (s *Service) follow(ctx context.Context, now time.Time) {
	s.limitHold()
	s.mu.Lock()
	early := now.Sub(s.looked) < followEvery
	s.mu.Unlock()
	if early || s.unchanged(jobFollow) {
		return
	}
	index := s.o.Store.AppliedIndex()
	s.mu.Lock()
	s.looked, s.repo, s.archive = now, nil, nil // what was known of its end is old
	s.mu.Unlock()
	_, archive, err := s.open(ctx)
	if err != nil {
		s.log.Debug("how far the archive is cannot be seen", "error", err)
		return
	}
	s.mu.Lock()
	s.lag = archiveState{index: archive.Last(), at: now}
	s.released = false
	s.mu.Unlock()
	s.saw(jobFollow, index)
	if archive.Last() > 0 {
		s.hold(archive.Last() + 1)
	}
	s.limitHold()
}

func (s *Service) archiveWorks(ctx context.Context, now time.Time, index uint64) {
	s.mu.Lock()
	failed := s.lag.since
	if index > s.lag.index {
		s.shipped++
	}
	s.lag = archiveState{index: index, at: now}
	s.released = false
	s.mu.Unlock()
	s.holdFrom()
	if !failed.IsZero() {
		s.record(ctx, JobArchive, Run{Began: now.UTC(), OK: true, Result: "the archive is complete again after " + now.Sub(failed).Round(time.Second).String()})
	}
}

// archiveFailed keeps the log for later tries, as far as that was allowed.
func (s *Service) archiveFailed(ctx context.Context, now time.Time, err error) time.Time {
	s.mu.Lock()
	first := s.lag.since.IsZero()
	if first {
		s.lag.since = now
	}
	pause := min(max(now.Sub(s.lag.since), archiveRetryFirst), archiveRetryMost)
	s.lag.again, s.lag.err = now.Add(pause), err.Error()
	again := s.lag.again
	loud := first || now.Sub(s.lag.events) >= archiveRepeat
	if loud {
		s.lag.events = now
	}
	s.mu.Unlock()
	if loud {
		s.record(ctx, JobArchive, Run{Began: now.UTC(), Result: err.Error()})
	}
	s.limitHold()
	return again
}

// holdFrom keeps the log behind the archive, and behind the newest backup for the next incremental.
func (s *Service) holdFrom() {
	s.mu.Lock()
	from := s.last.Index
	if s.o.Archive > 0 && (from == 0 || s.lag.index < from) {
		from = s.lag.index
	}
	released := s.released
	s.mu.Unlock()
	if from != 0 && !released {
		s.hold(from + 1)
	}
	s.limitHold()
}

func (s *Service) hold(index uint64) { s.o.Store.PinLog(pinName, index) }

// limitHold gives the log up when more of it than allowed would be kept: a full disk would be worse than a gap in the archive.
func (s *Service) limitHold() {
	kept := s.o.Store.Log().Stats().BytesOnDisk
	s.mu.Lock()
	give := s.o.HoldLog > 0 && kept > s.o.HoldLog && !s.released
	s.released = s.released || give
	s.mu.Unlock()
	if !give {
		return
	}
	s.o.Store.UnpinLog(pinName)
	s.event(Event{Kind: EventLogHeld, Job: JobArchive, Message: "the repository cannot be reached and backup.hold_log is used up: log may be recycled before it is archived"})
}
