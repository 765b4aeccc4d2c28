package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
)

var (
	bg     = context.Background()
	secret = bytes.Repeat([]byte{7}, keys.KeySize)
	begin  = time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
)

// target counts requests and fails when told to.
type target struct {
	store.Store
	mu    sync.Mutex
	asked int
	down  error
}

func (t *target) ask() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked++
	return t.down
}

func (t *target) set(err error) { t.mu.Lock(); t.down = err; t.mu.Unlock() }

func (t *target) requests() int { t.mu.Lock(); defer t.mu.Unlock(); return t.asked }

func (t *target) Create(ctx context.Context, name string, b []byte) error {
	if err := t.ask(); err != nil {
		return err
	}
	return t.Store.Create(ctx, name, b)
}

func (t *target) Replace(ctx context.Context, name string, b []byte, v store.Version) (store.Version, error) {
	if err := t.ask(); err != nil {
		return "", err
	}
	return t.Store.Replace(ctx, name, b, v)
}

func (t *target) Get(ctx context.Context, name string) ([]byte, store.Version, error) {
	if err := t.ask(); err != nil {
		return nil, "", err
	}
	return t.Store.Get(ctx, name)
}

func (t *target) GetRange(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := t.ask(); err != nil {
		return nil, err
	}
	return t.Store.GetRange(ctx, name, off, n)
}

func (t *target) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	if err := t.ask(); err != nil {
		return err
	}
	return t.Store.List(ctx, prefix, fn)
}

func (t *target) Delete(ctx context.Context, name string) error {
	if err := t.ask(); err != nil {
		return err
	}
	return t.Store.Delete(ctx, name)
}

// site is a store with a service that backs it up, under a clock that the test moves.
type site struct {
	t      *testing.T
	clock  *clockwork.FakeClock
	fs     vfs.FS
	s      *engine.Store
	disk   *target
	o      Options
	svc    *Service
	events []Event
	writes int
}

func (w *site) engine() engine.Options {
	return engine.Options{
		FS: w.fs, SegmentSize: 256 << 10, MemTableSize: 256 << 10, CacheSize: 1 << 20, FlushInterval: -1, SweepInterval: -1, Now: w.clock.Now,
	}
}

func newSite(t *testing.T, change func(*Options)) *site {
	t.Helper()
	w := &site{t: t, clock: clockwork.NewFakeClockAt(begin), fs: vfs.NewMem()}
	var err error
	w.s, err = engine.Open("data", w.engine())
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.s.Close() })
	d, err := store.CreateDir(vfs.NewMem(), "repo")
	require.NoError(t, err)
	w.disk = &target{Store: d}
	full, err := Cron("0 2 * * *")
	require.NoError(t, err)
	monthly, err := Cron("0 2 1 * *")
	require.NoError(t, err)
	scratch := 0
	w.o = Options{
		Store: w.s, Target: Target{At: w.disk, Secret: secret, Now: w.clock.Now}, Clock: w.clock, Full: full, Drill: monthly,
		Incremental: Every(5 * time.Minute), Archive: time.Second, Verify: true, Policy: backupfmt.DefaultPolicy,
		Scratch: func() string { scratch++; return path.Join("scratch", fmt.Sprint(scratch)) }, Engine: w.engine(),
		Checks: func() []backupfmt.DrillCheck { return nil },
		Event:  func(e Event) { w.events = append(w.events, e) },
	}
	require.NoError(t, w.fs.MkdirAll("scratch", 0o700))
	if change != nil {
		change(&w.o)
	}
	_, err = w.o.Target.Init(bg, keys.File, "test")
	require.NoError(t, err)
	w.restart()
	return w
}

// restart makes a new service on the same store, as a new process would.
func (w *site) restart() {
	w.t.Helper()
	var err error
	w.svc, err = New(w.o)
	require.NoError(w.t, err)
}

func (w *site) write(n int) {
	w.t.Helper()
	for range n {
		w.writes++
		_, err := w.s.Update(bg, func(tx *engine.Tx) error {
			return tx.Put("t", fmt.Appendf(nil, "k%04d", w.writes%500), fmt.Appendf(nil, "value %d", w.writes))
		})
		require.NoError(w.t, err)
	}
}

// until runs the schedules to a moment; each is called before every step of the clock.
func (w *site) until(end time.Time, each func()) {
	w.t.Helper()
	for w.clock.Now().Before(end) {
		if each != nil {
			each()
		}
		next := w.svc.Tick(bg)
		if next.After(end) {
			next = end
		}
		w.clock.Advance(max(next.Sub(w.clock.Now()), time.Millisecond))
	}
}

func (w *site) job(name string) JobState {
	for _, j := range w.svc.Status().Jobs {
		if j.Job == name {
			return j
		}
	}
	return JobState{}
}

func (w *site) repo() *backupfmt.Repo {
	r, err := w.o.Target.Open(bg)
	require.NoError(w.t, err)
	return r
}

func (w *site) backups() []*backupfmt.Link {
	c, err := w.repo().Chain(bg)
	require.NoError(w.t, err)
	return c.Backups("")
}

func TestSixtyDaysOfSchedulesKeepWhatThePolicySays(t *testing.T) {
	// Incrementals every 2 hours instead of 5 minutes: the same code 24 times less often.
	w := newSite(t, func(o *Options) { o.Incremental = Every(2 * time.Hour) })
	w.write(50)
	end := begin.AddDate(0, 0, 60)
	worked := begin
	w.until(end, func() {
		if w.clock.Now().Sub(worked) < time.Hour {
			return
		}
		worked = w.clock.Now()
		w.write(1)
		for _, e := range w.events {
			require.Failf(t, "no event is expected", "%+v", e)
		}
		w.svc.ArchiveTick(bg)
	})
	full, incremental, drill := w.job(JobFull), w.job(JobIncremental), w.job(JobDrill)
	require.EqualValues(t, 60, full.Runs)
	require.Equal(t, time.Date(2026, 10, 30, 2, 0, 0, 0, time.UTC), full.Last.Began)
	require.EqualValues(t, 60*11, incremental.Runs, "one every 2 hours; the full backup at 2:00 is one of them")
	require.EqualValues(t, 2, drill.Runs, "September 1 and October 1")
	require.Equal(t, time.Date(2026, 10, 1, 2, 0, 0, 0, time.UTC), drill.LastSuccess)
	require.Equal(t, drill.LastSuccess, w.svc.Status().LastProof)
	proofs, err := w.repo().Proofs(bg)
	require.NoError(t, err)
	require.Len(t, proofs, 2)

	days, hours := map[string]bool{}, map[string]bool{}
	all := w.backups()
	newest := all[len(all)-1].Time
	for _, l := range all {
		days[l.Time.Format("01-02")], hours[l.Time.Format("01-02T15")] = true, true
		require.Less(t, newest.Sub(l.Time), 32*24*time.Hour, "what is older is gone, but for what the oldest kept one builds on")
	}
	for d := range 30 {
		require.True(t, days[newest.AddDate(0, 0, -d).Format("01-02")], "a backup of %d days ago is kept", d)
	}
	for h := 0; h < 6*24; h += 2 {
		require.True(t, hours[newest.Add(-time.Duration(h)*time.Hour).Format("01-02T15")], "a backup of %d hours ago is kept", h)
	}
	require.Less(t, len(all), 30+7*13+24, "the rest is not")
	rep, err := w.repo().Verify(bg, backupfmt.VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
	for i, l := range all { // every survivor restores; every seventh is proven by doing it
		plan, err := w.repo().Plan(bg, backupfmt.Target{Seq: l.Seq})
		require.NoError(t, err)
		if i%7 != 0 {
			continue
		}
		r, err := w.repo().Restore(bg, plan, backupfmt.RestoreOptions{Dir: fmt.Sprintf("restored/%d", l.Seq), Engine: w.engine()})
		require.NoError(t, err)
		require.True(t, r.Proven)
	}
}

func TestTheDefaultIntervalsGiveTwelveIncrementalsAnHourAndOneFullADay(t *testing.T) {
	at, n := begin.Add(time.Second), 0
	for ; at.Before(begin.Add(time.Hour)); at = Every(5 * time.Minute).Next(at) {
		n++
	}
	require.Equal(t, 12, n)
	daily, err := Cron("0 2 * * *")
	require.NoError(t, err)
	monthly, err := Cron("0 2 1 * *")
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 9, 2, 2, 0, 0, 0, time.UTC), daily.Next(time.Date(2026, 9, 1, 2, 0, 0, 0, time.UTC)))
	require.Equal(t, time.Date(2026, 9, 1, 2, 0, 0, 0, time.UTC), monthly.Next(begin))
	_, err = Cron("every day")
	require.Error(t, err)
}

func TestMissedRunsAreMadeUpForOnce(t *testing.T) {
	w := newSite(t, nil)
	w.until(begin.Add(3*time.Hour), func() { w.write(1) })
	require.EqualValues(t, 1, w.job(JobFull).Runs)
	drills := w.job(JobDrill).Runs
	before := w.job(JobIncremental).Runs

	w.clock.Advance(35 * 24 * time.Hour) // switched off for five weeks
	w.restart()
	w.write(1)
	at := w.clock.Now()
	w.svc.Tick(bg)
	require.EqualValues(t, 2, w.job(JobFull).Runs, "34 were missed")
	require.Equal(t, at.UTC(), w.job(JobFull).Last.Began)
	require.EqualValues(t, drills+1, w.job(JobDrill).Runs)
	require.Equal(t, before, w.job(JobIncremental).Runs, "the full one covers it")
	w.svc.Tick(bg)
	require.EqualValues(t, 2, w.job(JobFull).Runs)
	require.Equal(t, time.Date(2026, 10, 7, 2, 0, 0, 0, time.UTC), w.job(JobFull).Next)
}

func TestAnIdleServerAsksNothingAndWritesNothing(t *testing.T) {
	w := newSite(t, nil)
	w.write(10)
	w.until(begin.Add(10*time.Minute), nil)
	for range 5 { // the archive takes what the records of the jobs left
		w.svc.ArchiveTick(bg)
		w.svc.Tick(bg)
	}
	asked, index, skipped := w.disk.requests(), w.s.AppliedIndex(), w.job(JobIncremental).Skipped
	for range 3600 {
		w.clock.Advance(time.Second)
		w.svc.ArchiveTick(bg)
		w.svc.Tick(bg)
	}
	require.Equal(t, asked, w.disk.requests(), "requests in an hour")
	require.Equal(t, index, w.s.AppliedIndex(), "log entries in an hour")
	require.EqualValues(t, 12, w.job(JobIncremental).Skipped-skipped, "incrementals that had nothing to do")
	w.write(1)
	w.clock.Advance(time.Second)
	w.svc.ArchiveTick(bg)
	require.Less(t, asked, w.disk.requests())
	require.Zero(t, w.svc.Status().Archive.Behind)
}

func TestAnUnreachableRepositoryIsReportedHeldForAndCaughtUpWith(t *testing.T) {
	w := newSite(t, nil)
	w.write(10)
	w.svc.Tick(bg)
	w.svc.ArchiveTick(bg)
	require.Empty(t, w.events)

	w.disk.set(errors.New("the line is cut"))
	for range 1200 { // 20 minutes
		w.clock.Advance(time.Second)
		w.write(1)
		w.svc.ArchiveTick(bg)
		w.svc.Tick(bg)
	}
	kinds := map[string]int{}
	for _, e := range w.events {
		require.Equal(t, EventFailed, e.Kind)
		require.Contains(t, e.Message, "the line is cut")
		kinds[e.Job]++
	}
	require.Equal(t, 1, kinds[JobArchive], "one event, not 1200")
	require.GreaterOrEqual(t, kinds[JobIncremental], 4, "it is tried again after 1, 2, 4... minutes")
	require.LessOrEqual(t, kinds[JobIncremental], 9)
	st := w.svc.Status()
	require.NotZero(t, st.Archive.Behind)
	require.Contains(t, st.Archive.Error, "the line is cut")

	w.disk.set(nil)
	w.events = nil
	w.clock.Advance(10 * time.Minute)
	w.svc.ArchiveTick(bg)
	w.svc.Tick(bg)
	require.Len(t, w.events, 2)
	require.Equal(t, EventRecovered, w.events[0].Kind)
	require.Equal(t, EventRecovered, w.events[1].Kind)
	plan, err := w.repo().Plan(bg, backupfmt.Target{Index: w.s.AppliedIndex() - 500})
	require.NoError(t, err, "no moment of the outage is lost")
	_, err = w.repo().Restore(bg, plan, backupfmt.RestoreOptions{Dir: "restored", Engine: w.engine()})
	require.NoError(t, err)
}

func TestDamageAndAFailedDrillAreEventsAndNotRepeatedEveryMinute(t *testing.T) {
	w := newSite(t, func(o *Options) {
		o.Checks = func() []backupfmt.DrillCheck {
			return []backupfmt.DrillCheck{{Name: "known answer", Run: func(context.Context, *engine.Store) error { return errors.New("42 is missing") }}}
		}
	})
	w.write(10)
	w.until(begin.Add(3*time.Hour), func() { w.write(1) })
	require.Equal(t, []string{EventDrill, EventFailed}, []string{w.events[0].Kind, w.events[1].Kind})
	require.Contains(t, w.events[0].Message, "known answer: 42 is missing; what was restored is kept in scratch/1")
	require.Len(t, w.events, 2, "a drill that failed is not repeated before its time: it would only fill the disk")
	require.Zero(t, w.svc.Status().LastProof)

	w.events = nil
	var packs []string
	require.NoError(t, w.disk.List(bg, "packs/", func(i store.Info) error { packs = append(packs, i.Name); return nil }))
	require.NoError(t, w.disk.Delete(bg, packs[0]))
	w.until(begin.Add(27*time.Hour), nil)
	var text []string
	for _, e := range w.events {
		text = append(text, e.Kind+" "+e.Job)
	}
	require.Contains(t, strings.Join(text, "\n"), "damage verify\nfailed verify")
	require.False(t, w.job(JobVerify).Last.OK)
}

func TestRecordsSurviveARestartAndOnlyTheLeaderWorks(t *testing.T) {
	w := newSite(t, nil)
	w.write(3)
	w.svc.Tick(bg)
	first := w.job(JobIncremental)
	require.EqualValues(t, 1, first.Runs)
	leader := false
	w.o.Leader = func() bool { return leader }
	w.restart()
	w.write(3)
	w.clock.Advance(time.Hour)
	w.svc.Tick(bg)
	w.svc.ArchiveTick(bg)
	require.Len(t, w.backups(), 1)
	leader = true
	w.svc.Tick(bg)
	require.EqualValues(t, 2, w.job(JobIncremental).Runs)
	require.Equal(t, first.Last, w.job(JobIncremental).Recent[1])
	require.Len(t, w.backups(), 2)
}

func TestABackupOnDemandTakesItsTurnAndIsRecorded(t *testing.T) {
	w := newSite(t, nil)
	w.write(3)
	w.svc.turn <- struct{}{} // a job is at work
	ctx, cancel := context.WithTimeout(bg, 10*time.Millisecond)
	defer cancel()
	_, err := w.svc.Create(ctx, CreateOptions{}, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	<-w.svc.turn
	c, err := w.svc.Create(bg, CreateOptions{Label: "by hand"}, nil)
	require.NoError(t, err)
	require.Equal(t, backupfmt.Full, c.Type)
	require.Contains(t, w.job(JobFull).Last.Result, "backup 1, full")
	require.Equal(t, c.Backup, w.svc.Status().LastBackup.Backup)
	again, err := w.svc.Create(bg, CreateOptions{}, nil)
	require.NoError(t, err)
	require.Equal(t, backupfmt.Incremental, again.Type, "the record of the first one is a change, too")
}

func TestWhatIsAskedForOnDemandIsBounded(t *testing.T) {
	w := newSite(t, nil)
	w.write(3)
	w.svc.turn <- struct{}{} // a job is at work
	ctx, cancel := context.WithCancel(bg)
	results := make(chan error, maxWaiting)
	for range maxWaiting {
		go func() { _, err := w.svc.Create(ctx, CreateOptions{}, nil); results <- err }()
	}
	require.Eventually(t, func() bool {
		w.svc.mu.Lock()
		defer w.svc.mu.Unlock()
		return w.svc.waiting == maxWaiting
	}, 10*time.Second, time.Millisecond)
	_, err := w.svc.Create(bg, CreateOptions{}, nil)
	require.ErrorIs(t, err, ErrBusy)
	_, err = w.svc.Verify(bg, backupfmt.VerifyOptions{}, nil)
	require.ErrorIs(t, err, ErrBusy)
	cancel()
	for range maxWaiting {
		require.ErrorIs(t, <-results, context.Canceled)
	}
	<-w.svc.turn
	_, err = w.svc.Create(bg, CreateOptions{}, nil)
	require.NoError(t, err)
}

func TestVerificationsAndDrillsOnDemandAreRecordedLikeScheduledOnes(t *testing.T) {
	ok := true
	w := newSite(t, func(o *Options) {
		o.Checks = func() []backupfmt.DrillCheck {
			return []backupfmt.DrillCheck{{Name: "known answer", Run: func(context.Context, *engine.Store) error {
				if ok {
					return nil
				}
				return errors.New("42 is missing")
			}}}
		}
	})
	w.write(5)
	c, err := w.svc.Create(bg, CreateOptions{Label: "mark-1"}, nil)
	require.NoError(t, err)
	found, there, err := w.svc.Find(bg, "mark-1")
	require.NoError(t, err)
	require.True(t, there)
	require.Equal(t, c.Backup, found.Backup)
	_, there, err = w.svc.Find(bg, "mark-2")
	require.NoError(t, err)
	require.False(t, there)
	rep, err := w.svc.Verify(bg, backupfmt.VerifyOptions{ReadData: true}, nil)
	require.NoError(t, err)
	require.True(t, rep.OK())
	require.True(t, w.job(JobVerify).Last.OK)
	dir := w.svc.ScratchFor("task-1")
	require.NoError(t, w.fs.MkdirAll(dir, 0o700)) // as a killed drill would leave them
	require.NoError(t, w.fs.MkdirAll(dir+".restore-0123", 0o700))
	p, err := w.svc.Drill(bg, DrillOptions{Scratch: dir}, nil)
	require.NoError(t, err)
	require.True(t, p.OK, "%+v", p)
	for _, d := range []string{dir, dir + ".restore-0123"} {
		_, err := w.fs.Stat(d)
		require.ErrorIs(t, err, os.ErrNotExist, d)
	}
	require.False(t, w.svc.Status().LastProof.IsZero())
	ok, w.events = false, nil
	p, err = w.svc.Drill(bg, DrillOptions{}, nil)
	require.NoError(t, err, "a drill that fails was carried out")
	require.False(t, p.OK)
	require.Equal(t, EventDrill, w.events[0].Kind)
	require.False(t, w.job(JobDrill).Last.OK)
	require.NoError(t, w.svc.Note(bg, &backupfmt.DrillProof{OK: true, Began: begin.Add(time.Hour)}))
	require.Equal(t, begin.Add(time.Hour), w.svc.Status().LastProof)
}

func TestANodeThatDoesNotLeadKeepsTheLogThatIsNotArchived(t *testing.T) {
	w := newSite(t, nil)
	w.write(5)
	_, err := w.svc.Create(bg, CreateOptions{}, nil)
	require.NoError(t, err)
	w.svc.ArchiveTick(bg)
	archived := w.svc.Status().Archive.Index
	require.NotZero(t, archived)
	w.o.Leader = func() bool { return false }
	w.restart()
	w.write(2)
	w.svc.ArchiveTick(bg)
	require.Equal(t, archived, w.svc.Status().Archive.Index, "it found out how far the leader is")
	asked := w.disk.requests()
	for range 100 {
		w.clock.Advance(time.Second)
		w.svc.ArchiveTick(bg)
	}
	require.Equal(t, asked, w.disk.requests(), "while nothing changes nothing is asked")
	require.Len(t, w.backups(), 1)
}

func TestRunEndsWithItsContext(t *testing.T) {
	w := newSite(t, nil)
	w.write(1)
	ctx, cancel := context.WithCancel(bg)
	done := make(chan struct{})
	go func() { w.svc.Run(ctx); close(done) }()
	require.NoError(t, w.clock.BlockUntilContext(bg, 2)) // both loops wait for the clock
	require.Len(t, w.backups(), 1)
	cancel()
	<-done
}

func TestArchiveIsMergedEveryHourIfItHasManyPieces(t *testing.T) {
	w := newSite(t, func(o *Options) { o.Full = nil })
	pieces := func() (n int) {
		require.NoError(t, w.disk.List(bg, "archive/", func(store.Info) error { n++; return nil }))
		return n
	}
	w.write(1)
	w.until(begin.Add(5*time.Minute), nil) // the first backup, without which nothing is archived
	for range mergeFrom - 1 {
		w.write(1)
		w.svc.ArchiveTick(bg)
	}
	require.Equal(t, mergeFrom-1, pieces())
	w.until(begin.Add(70*time.Minute), nil)
	require.Zero(t, w.job(JobMerge).Runs, "not yet worth it")
	w.write(1)
	w.svc.ArchiveTick(bg)
	w.until(begin.Add(130*time.Minute), nil)
	require.EqualValues(t, 1, w.job(JobMerge).Runs)
	require.Equal(t, 2, pieces(), "the newest stays as it is")
	asked := w.disk.requests()
	w.until(begin.Add(10*time.Hour), nil)
	require.Equal(t, asked, w.disk.requests(), "a site without changes asks for nothing")
	rep, err := w.repo().Verify(bg, backupfmt.VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
}
