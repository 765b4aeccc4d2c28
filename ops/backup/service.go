package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/engine"
)

// Clock is the time as a Service sees it; clockwork.Clock is one.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

type realClock struct{}

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Options of a Service.
type Options struct {
	Store  *engine.Store
	Target Target
	Copies []Target

	// When jobs run; nil: never. A full backup is followed by a verification (Verify), a prune and the copies.
	Full, Incremental, Scrub, Drill Schedule
	Archive                         time.Duration // how often new log is shipped; 0: never
	Verify                          bool
	ScrubBudget                     float64 // share of the bytes that a scrub reads, (0,1]
	Policy                          backupfmt.Policy
	MaxUnused                       float64 // share of the stored packs that may be unused, see backupfmt.PruneOptions; 0: its default
	MaxChain                        int     // default backupfmt.MaxChain
	HoldLog                         int64   // bytes of log kept for an archive that cannot be reached

	Scratch func() string                 // a fresh directory for a drill
	Engine  engine.Options                // of the store that a drill restores
	Checks  func() []backupfmt.DrillCheck // of a drill
	Life    Life                          // history of the store; nil: its own log
	Leader  func() bool                   // nil: yes. Only the leader of a cluster runs jobs
	Event   func(Event)                   // called by the goroutine of a job; must not block. nil: nobody listens
	Clock   Clock                         // default: the real one
	Logger  *slog.Logger                  // default: discard
}

// Life names the history that a store belongs to. All members of a cluster share one.
type Life func(context.Context) (object.ID, error)

// Service backs an open store up on a schedule and on demand. Its methods are safe for concurrent use; Run and Tick are for one goroutine.
//
// Two kinds of work go on beside each other: the archive ships the log, and everything else waits for its turn. What jobs did is kept in the
// engine. Those records are changes themselves; they do not count as a reason for the next backup, so that an idle server
// asks nothing of its repository.
type Service struct {
	o     Options
	log   *slog.Logger
	turn  chan struct{} // holds a token while a job other than the archive uses the repository
	begun time.Time

	mu       sync.Mutex
	repo     *backupfmt.Repo
	archive  *backupfmt.Archive
	jobs     map[string]*JobState
	loaded   bool
	quiet    map[string]uint64 // what a job has seen: the store is unchanged for it while its index is this
	last     Created           // newest backup that this process made or found
	lag      archiveState
	proof    time.Time // newest good drill
	shipped  int       // pieces that this process archived since it merged the archive
	released bool      // the log is no longer held
	waiting  int       // on demand: at work, or waiting for the turn
	looked   time.Time // when a node that does not lead looked last how far the archive is
}

// New makes a service; nothing runs before Run, but backups can be made on demand.
func New(o Options) (*Service, error) {
	if o.Clock == nil {
		o.Clock = realClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Leader == nil {
		o.Leader = func() bool { return true }
	}
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	if o.ScrubBudget <= 0 || o.ScrubBudget > 1 {
		o.ScrubBudget = 1
	}
	if o.Drill != nil && (o.Scratch == nil || o.Checks == nil) {
		return nil, fmt.Errorf("%w: a drill needs a scratch directory and checks", backupfmt.ErrInvalid)
	}
	o.Target.Now = o.Clock.Now
	for i := range o.Copies {
		o.Copies[i].Now = o.Clock.Now
	}
	if o.Life == nil {
		o.Life = func(context.Context) (object.ID, error) { return object.ID(o.Store.Log().ID()), nil }
	}
	s := &Service{
		o: o, log: o.Logger, turn: make(chan struct{}, 1), begun: o.Clock.Now(), jobs: map[string]*JobState{}, quiet: map[string]uint64{},
	}
	for _, name := range []string{JobFull, JobIncremental, JobArchive, JobVerify, JobScrub, JobDrill, JobPrune, JobCopy, JobMerge} {
		s.jobs[name] = &JobState{Job: name, Recent: []Run{}}
	}
	return s, nil
}

// Target is the repository that the service is configured with.
func (s *Service) Target() Target { return s.o.Target }

// Run works on the schedules until ctx ends.
func (s *Service) Run(ctx context.Context) {
	var all sync.WaitGroup
	if s.o.Archive > 0 {
		s.hold(s.o.Store.Log().FirstIndex())
		all.Go(func() { s.loop(ctx, s.ArchiveTick) })
	}
	s.loop(ctx, s.Tick)
	all.Wait()
	s.o.Store.UnpinLog(pinName)
}

// loop calls tick when it wants to be called.
func (s *Service) loop(ctx context.Context, tick func(context.Context) time.Time) {
	for ctx.Err() == nil {
		at := tick(ctx)
		select {
		case <-ctx.Done():
		case <-s.o.Clock.After(max(at.Sub(s.o.Clock.Now()), time.Millisecond)):
		}
	}
}

// idle is how long a service that has nothing to do, or is not the leader, sleeps.
const idle = time.Minute

// Tick runs every job that is due, one after the other, and returns when to call it again.
func (s *Service) Tick(ctx context.Context) time.Time {
	if !s.o.Leader() {
		s.mu.Lock()
		s.loaded, s.repo, s.archive = false, nil, nil // another node writes the records, and the archive, now
		s.mu.Unlock()
		return s.o.Clock.Now().Add(5 * time.Second)
	}
	if err := s.load(ctx); err != nil {
		s.log.Warn("the records of the backup jobs cannot be read", "error", err)
		return s.o.Clock.Now().Add(idle)
	}
	next := s.o.Clock.Now().Add(idle)
	for _, j := range s.scheduled() {
		at := s.due(j)
		if !at.After(s.o.Clock.Now()) && ctx.Err() == nil {
			s.run(ctx, j.name, j.work)
			at = s.due(j)
		}
		if at.Before(next) {
			next = at
		}
	}
	return next
}

// job is a name, when it runs, and what it does.
type job struct {
	name string
	when Schedule
	work func(context.Context) (string, error)
}

// scheduled lists the jobs in the order in which they run when several are due: a full backup makes the incremental
// of the same minute unnecessary.
func (s *Service) scheduled() (out []job) {
	for _, j := range []job{
		{JobFull, s.o.Full, s.full}, {JobIncremental, s.o.Incremental, s.incremental}, {JobScrub, s.o.Scrub, s.scrub}, {JobDrill, s.o.Drill, s.drill},
	} {
		if j.when != nil {
			out = append(out, j)
		}
	}
	if len(s.o.Copies) > 0 {
		out = append(out, job{JobCopy, Every(time.Hour), s.copies})
	}
	if s.o.Archive > 0 {
		out = append(out, job{JobMerge, Every(time.Hour), s.merge})
	}
	return out
}

// due is when a job runs next. A store that was never backed up is backed up at once.
func (s *Service) due(j job) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.jobs[j.name]
	if j.name == JobIncremental && st.Last.Began.IsZero() {
		st.Next = s.begun
		return st.Next
	}
	st.Next = st.next(j.when, s.begun)
	return st.Next
}

// errNothing is the outcome of a job without anything to do: nothing is recorded.
var errNothing = errors.New("nothing to do")

// run carries a job out, records it, and says what others should hear of.
func (s *Service) run(ctx context.Context, name string, work func(context.Context) (string, error)) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-s.turn }()
	s.runNow(ctx, name, work)
}

// runNow is run for whoever has the turn.
func (s *Service) runNow(ctx context.Context, name string, work func(context.Context) (string, error)) {
	began := s.o.Clock.Now().UTC()
	result, err := work(ctx)
	if ctx.Err() != nil {
		return // the process is stopping: that is no failure, and the job is due again at the next start
	}
	if errors.Is(err, errNothing) {
		s.mu.Lock()
		s.jobs[name].Skipped++
		s.jobs[name].Last.Began = began // it was looked at, so its next time is after this one
		s.mu.Unlock()
		return
	}
	if err != nil {
		s.forget(err)
		result = err.Error()
	}
	s.record(ctx, name, Run{Began: began, Seconds: s.o.Clock.Now().Sub(began).Seconds(), OK: err == nil, Found: errors.Is(err, errFound), Result: result})
}

// forget closes the repository after an error that may be about it, so that the next job opens it afresh.
func (s *Service) forget(err error) {
	if errors.Is(err, backupfmt.ErrDamaged) && !errors.Is(err, backupfmt.ErrShards) || errors.Is(err, errFound) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repo, s.archive = nil, nil
}

// open returns the repository and the archive of the store's life.
func (s *Service) open(ctx context.Context) (*backupfmt.Repo, *backupfmt.Archive, error) {
	s.mu.Lock()
	repo, archive := s.repo, s.archive
	s.mu.Unlock()
	if repo != nil {
		return repo, archive, nil
	}
	life, err := s.o.Life(ctx)
	if err != nil {
		return nil, nil, err
	}
	if repo, err = s.o.Target.Open(ctx); err != nil {
		return nil, nil, err
	}
	if archive, err = repo.OpenArchive(ctx, life); err != nil {
		return nil, nil, err
	}
	if err := Recall(ctx, s.o.Store, repo); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.repo == nil {
		s.repo, s.archive = repo, archive
	}
	return s.repo, s.archive, nil
}
