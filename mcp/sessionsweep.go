package mcp

import (
	"context"
	"errors"
	"sync"
	"time"
)

// sweepStored is how often the store is searched for sessions whose time is over.
const sweepStored = 5 * time.Minute

// run removes sessions whose time is over and evicts idle ones from memory,
// until ctx ends.
func (r *sessions) run(ctx context.Context) {
	every := min(r.rt.opts.SessionTimeout, r.rt.opts.EvictAfter) / 4
	tick := time.NewTicker(max(min(every, 30*time.Second), 5*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
			r.rt.log.Warn("sessions not cleaned up", "error", err)
		}
	}
}

// sweep does run's work once.
func (r *sessions) sweep(ctx context.Context) error {
	now := r.rt.opts.Now()
	expired, evicted := r.idle(ctx, now)
	for _, s := range evicted {
		s.kill()
	}
	var errs []error
	for _, id := range expired {
		if moved, err := r.elsewhere(ctx, id); moved || err != nil {
			errs = append(errs, err)
			continue
		}
		if err := r.end(ctx, id); !errors.Is(err, ErrNoSession) {
			errs = append(errs, err)
		}
	}
	if m, ok := r.store.(*memorySessions); ok {
		m.expire(now)
	}
	r.mu.Lock()
	due := now.Sub(r.swept) >= min(sweepStored, r.rt.opts.SessionTimeout/4)
	if due {
		r.swept = now
	}
	r.mu.Unlock()
	if due {
		errs = append(errs, r.endExpired(ctx, now))
	}
	return errors.Join(errs...)
}

// elsewhere lets go of a session that is idle here and another process's.
func (r *sessions) elsewhere(ctx context.Context, id string) (bool, error) {
	err := r.store.home(ctx, id)
	if errors.Is(err, errMoved) {
		r.letGo(id)
		return true, nil
	}
	if errors.Is(err, ErrNoSession) {
		err = nil
	}
	return false, err
}

// idle looks through the sessions in memory. It returns the ids of those whose
// time is over, and takes those out that need no memory now; those in use it
// touches.
func (r *sessions) idle(ctx context.Context, now time.Time) (expired []string, evicted []*session) {
	r.mu.Lock()
	all := make([]*session, 0, len(r.live))
	for _, s := range r.live {
		all = append(all, s)
	}
	r.mu.Unlock()
	for _, s := range all {
		select {
		case <-s.ready:
		default:
			continue // being connected: in use
		}
		if s.err != nil {
			continue
		}
		subscribed := len(r.rt.updates.of(s.ss)) > 0
		r.mu.Lock()
		age := now.Sub(s.used)
		used := s.refs > 0 || s.busy()
		switch {
		case used:
		case age >= r.rt.opts.SessionTimeout:
			expired = append(expired, s.id)
		case age >= r.rt.opts.EvictAfter && !subscribed && r.live[s.id] == s:
			delete(r.live, s.id)
			evicted = append(evicted, s)
		}
		touched := s.touched
		r.mu.Unlock()
		switch {
		case used:
			r.touch(ctx, s, now)
		case touched.Before(s.used): // an eviction or a crash must not shorten its life
			r.noteUse(ctx, s)
		}
	}
	return expired, evicted
}

// noteUse writes down when s was used last.
func (r *sessions) noteUse(ctx context.Context, s *session) {
	if r.store.home(ctx, s.id) != nil {
		return // whoever has it now knows better
	}
	r.mu.Lock()
	used := s.used
	s.touched = used
	r.mu.Unlock()
	if err := r.store.touch(ctx, s.id, used, used.Add(r.rt.opts.SessionTimeout)); err != nil {
		r.rt.log.Warn("use of a session not noted; a restart may take it for expired", "error", err)
	}
}

// endExpired removes the sessions whose time is over from the store.
func (r *sessions) endExpired(ctx context.Context, now time.Time) error {
	var over []string
	stored := int64(0)
	err := r.each(ctx, func(rec *sessionRecord) error {
		stored++
		r.mu.Lock()
		live := r.live[rec.ID] != nil
		r.mu.Unlock()
		if !live && !rec.Seen.Add(r.rt.opts.SessionTimeout).After(now) {
			over = append(over, rec.ID)
		}
		return nil
	})
	if err == nil && r.shared() {
		r.count.Store(stored) // others open and end sessions too
	}
	for _, id := range over {
		if endErr := r.end(ctx, id); !errors.Is(endErr, ErrNoSession) {
			err = errors.Join(err, endErr)
		}
	}
	return err
}

// shutdown disconnects all sessions, waiting a little for their calls. The
// store keeps them: their clients go on after the restart.
func (r *sessions) shutdown() {
	r.mu.Lock()
	all := make([]*session, 0, len(r.live))
	for _, s := range r.live {
		all = append(all, s)
	}
	clear(r.live)
	r.mu.Unlock()
	patience, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	var wait sync.WaitGroup
	for _, s := range all {
		<-s.ready
		if s.err != nil {
			continue
		}
		if !s.busy() {
			s.kill()
			continue
		}
		wait.Go(func() {
			s.drain(patience)
			s.kill()
		})
	}
	wait.Wait()
}

// drain waits until no call of the session runs.
func (s *session) drain(ctx context.Context) {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for s.busy() {
		select {
		case <-poll.C:
		case <-ctx.Done():
			s.reg.rt.log.Warn("session closed with calls still running", "session", s.id[:8])
			return
		}
	}
}
