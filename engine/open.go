package engine

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/wal"
)

// Open opens the store in dir and creates it if dir is empty or absent. It locks the directory, checks that log and
// rows belong together, and applies what the log holds beyond the rows. Nothing is changed in a directory that is
// not a store (ErrNotStore), in use (ErrInUse), newer (ErrVersion), or damaged (ErrCorrupt).
func Open(dir string, o Options) (*Store, error) {
	began := time.Now()
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := newStore(dir, o)
	opened := make(chan error, 1)
	go func() { opened <- s.open() }()
	select {
	case err = <-opened:
	case <-s.failed:
		return nil, s.failure() // Pebble gave up and never returns; lock and files stay with the process
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	s.stats.openDuration = time.Since(began)
	o.Logger.Info("engine: open", "dir", dir, "applied", s.AppliedIndex(), "replayed", s.stats.replayed,
		"replay", s.stats.replayDuration, "indexes", s.stats.indexDuration, "total", s.stats.openDuration)
	return s, nil
}

func newStore(dir string, o Options) *Store {
	s := &Store{
		o: o, dir: dir, walDir: o.FS.PathJoin(dir, walFolder), storeDir: o.FS.PathJoin(dir, storeFolder),
		byTable: map[string][]int{}, byName: map[string]int{}, rejected: map[uint64]byte{},
		failed: make(chan struct{}), stop: make(chan struct{}), idle: make(chan struct{}),
	}
	for i, spec := range o.Indexes {
		s.indexes = append(s.indexes, newLiveIndex(spec))
		s.byTable[spec.Table] = append(s.byTable[spec.Table], i)
		s.byName[spec.Name] = i
	}
	segment := o.SegmentSize
	if segment == 0 {
		segment = 64 << 20
	}
	s.maxEntry = int(min(32<<20, segment/2-4096))
	s.flush.init()
	s.ap = applier{names: map[string]string{}, overlay: map[string]overlayRow{}, traces: newTraces(o.RecentRows), soonest: math.MaxInt64}
	s.win = newWindow(0)
	s.pebbleLog = &pebbleLogger{log: o.Logger, fail: s.fail}
	return s
}

func (s *Store) open() error {
	fresh, err := s.claim()
	if err != nil {
		return err
	}
	if fresh {
		if err := s.create(); err != nil {
			return err
		}
	}
	if s.ident, err = readIdentity(s.o.FS, s.dir); err != nil {
		return err
	}
	if err := s.dropMarker(); err != nil {
		return err
	}
	if err := s.ident.checkKey(s.o.Key); err != nil {
		return err
	}
	if s.ident.sealed {
		if s.seal, err = newSealer(s.o.Key, s.o.Rand); err != nil {
			return err
		}
	}
	if err := s.checkFolders(); err != nil {
		return err
	}
	if err := s.openPebble(true); err != nil {
		return err
	}
	if err := s.openLog(); err != nil {
		return err
	}
	s.space = spaceCheck{
		fs: s.o.FS, dir: s.dir, min: s.o.MinFreeDisk, now: s.o.Now,
		log: func() int64 { s.flush.mu.Lock(); defer s.flush.mu.Unlock(); return s.flush.applied },
	}
	if err := s.recover(); err != nil {
		return err
	}
	return s.start()
}

// claim locks the directory after making sure that it is a store or may become one. fresh: it has to be created.
func (s *Store) claim() (fresh bool, err error) {
	fs := s.o.FS
	if _, err = s.survey(); err != nil {
		return false, err
	}
	if err := fs.MkdirAll(s.dir, 0o700); err != nil {
		return false, fmt.Errorf("engine: create %s: %w", s.dir, err)
	}
	if err := checkLock(fs, fs.PathJoin(s.dir, lockFile)); err != nil {
		return false, err
	}
	lock, err := fs.Lock(fs.PathJoin(s.dir, lockFile))
	switch {
	case err == nil:
	case errors.Is(err, os.ErrPermission) && !errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EROFS),
		errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EIO):
		return false, fmt.Errorf("engine: lock %s: %w", s.dir, err)
	default:
		return false, fmt.Errorf("%w: %s (%w)", ErrInUse, s.dir, err)
	}
	s.lock = lock
	return s.survey() // nobody can change the answer any more
}

// checkLock refuses what cannot be locked for this directory alone: a directory, or a link to a device that others
// lock too.
func checkLock(fs vfs.FS, path string) error {
	info, err := fs.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		names, err := fs.List(fs.PathDir(path))
		if err == nil && slices.Contains(names, lockFile) {
			return fmt.Errorf("engine: %s is a link that leads nowhere; it never holds anything: remove it and start again", path)
		}
		return nil
	case err != nil:
		return fmt.Errorf("engine: look at %s: %w", path, err)
	case info.Mode().IsRegular():
		return nil
	}
	return fmt.Errorf("engine: %s is not a file (%s); it never holds anything: remove it and start again", path, info.Mode().Type())
}

// ignorable are files that may lie in a directory that is to become a store.
var ignorable = []string{lockFile, formatTmp, "lost+found", "admin.sock", "serve.json", "cluster"}

// survey looks at the directory without changing it.
func (s *Store) survey() (fresh bool, err error) {
	fs := s.o.FS
	if there, err := exists(fs, fs.PathJoin(s.dir, formatFile)); there || err != nil {
		return false, err
	}
	names, err := fs.List(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("engine: list %s: %w", s.dir, err)
	}
	half := slices.Contains(names, creatingFile)
	for _, n := range names {
		ours := half && (n == creatingFile || n == walFolder || n == storeFolder)
		if !ours && !slices.Contains(ignorable, n) {
			return false, s.noFormat(names, n)
		}
	}
	return true, nil
}

// holdsParts: these are the names in what was a data directory.
func holdsParts(names []string) bool {
	return slices.Contains(names, walFolder) && slices.Contains(names, storeFolder)
}

// noFormat says what a directory is that holds something, but not FORMAT.
func (s *Store) noFormat(names []string, other string) error {
	if holdsParts(names) {
		return &CorruptError{
			What: "the identity file FORMAT is missing", Where: s.o.FS.PathJoin(s.dir, formatFile), Intact: "log and rows are not affected by this file",
			Means:  "it cannot be told whether log and rows belong together",
			Advice: "restore FORMAT from a backup of this very directory, or restore the whole store from a backup; do not delete anything",
		}
	}
	return fmt.Errorf("%w: %s has no file FORMAT but holds %q; nothing was changed", ErrNotStore, s.dir, other)
}

// create makes an empty store. CREATING marks a directory whose creation may have been interrupted; FORMAT, written
// when everything else is durable, ends it. Until then nothing was ever acknowledged, so starting over loses nothing.
func (s *Store) create() error {
	fs := s.o.FS
	marker := fs.PathJoin(s.dir, creatingFile)
	half, err := exists(fs, marker)
	if err != nil {
		return err
	}
	if half {
		if err := s.startOver(); err != nil {
			return err
		}
	}
	if err := writeFile(fs, marker, nil); err != nil {
		return err
	}
	if err := syncDir(fs, s.dir); err != nil {
		return err
	}
	if err := syncDir(fs, fs.PathDir(s.dir)); err != nil {
		return err
	}
	id := identity{created: s.o.Now()}
	if _, err := io.ReadFull(s.o.Rand, id.storeID[:]); err != nil {
		return fmt.Errorf("engine: random store id: %w", err)
	}
	if len(s.o.Key) != 0 {
		id.sealed = true
		if id.keyCheck, err = keyCheck(s.o.Key); err != nil {
			return err
		}
	}
	if err := s.createParts(&id); err != nil {
		return err
	}
	if err := syncDir(fs, s.dir); err != nil {
		return err
	}
	return writeIdentity(fs, s.dir, id)
}

// dropMarker removes CREATING, which says nothing any more once there is a FORMAT.
func (s *Store) dropMarker() error {
	err := s.o.FS.Remove(s.o.FS.PathJoin(s.dir, creatingFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("engine: remove %s: %w", creatingFile, err)
	}
	return nil
}

// createParts creates log and Pebble and closes them again; the ordinary way of opening follows.
func (s *Store) createParts(id *identity) error {
	if err := s.openPebble(false); err != nil {
		return err
	}
	err := s.db.Close()
	s.db = nil
	if err != nil {
		return fmt.Errorf("engine: create %s: %w", s.storeDir, err)
	}
	log, err := wal.Open(s.walDir, s.walOptions())
	if err != nil {
		return fmt.Errorf("engine: create the log: %w", err)
	}
	id.logID = log.ID()
	if err := log.Close(); err != nil {
		return fmt.Errorf("engine: create the log: %w", err)
	}
	return nil
}

// startOver clears what an interrupted creation left. What a Builder began is not taken for an empty store: whoever restores or installs a
// state must be told that it is not there.
func (s *Store) startOver() error {
	built, err := s.halfBuilt()
	if err != nil {
		return err
	}
	if built {
		return &CorruptError{
			What: "a restore, or the installation of a state, was interrupted in this directory", Where: s.dir, Intact: "where the state came from",
			Means:  "a part of it at most is here",
			Advice: "run it again; this directory may be deleted",
		}
	}
	return s.clearHalf()
}

// clearHalf removes what an interrupted creation left, unless there is anything in the log.
func (s *Store) clearHalf() error {
	fs := s.o.FS
	if there, err := exists(fs, s.walDir); err != nil {
		return err
	} else if there {
		// An unreadable log of a half-created store is as good as none; one with entries cannot be half-created.
		rep, err := wal.Inspect(fs, s.walDir, wal.InspectOptions{Key: s.o.Key}, wal.Visitor{})
		if err == nil && rep.LastIndex != 0 {
			return &CorruptError{
				What: "the identity file FORMAT is missing", Where: s.dir,
				Intact: fmt.Sprintf("the log, which holds entries up to %d", rep.LastIndex),
				Means:  "the directory looks half-created, but holds data",
				Advice: "restore FORMAT from a backup of this very directory; do not delete anything",
			}
		}
	}
	for _, d := range []string{s.walDir, s.storeDir} {
		if err := fs.RemoveAll(d); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("engine: clear half-created %s: %w", d, err)
		}
	}
	return nil
}

// checkFolders refuses to go on where opening would silently create an empty log or store.
func (s *Store) checkFolders() error {
	for _, d := range []struct{ dir, what, intact string }{
		{s.walDir, "the log", "the rows flushed before"},
		{s.storeDir, "the row store", "the log, as far as it reaches back"},
	} {
		names, err := s.o.FS.List(d.dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("engine: list %s: %w", d.dir, err)
		}
		if len(names) == 0 {
			return &CorruptError{
				What: d.what + " is missing", Where: d.dir, Intact: d.intact,
				Means:  "data that was acknowledged is not there",
				Advice: "put the folder back if it was moved, otherwise restore from a backup or another node",
			}
		}
	}
	return checkKinds(s.o.FS, s.storeDir)
}

func (s *Store) walOptions() wal.Options {
	return wal.Options{
		FS: s.o.FS, SegmentSize: s.o.SegmentSize, Key: s.o.Key, Now: s.o.Now, Rand: s.o.Rand, Logger: s.o.Logger,
	}
}

func (s *Store) openLog() error {
	log, err := wal.Open(s.walDir, s.walOptions())
	switch {
	case err == nil:
	case errors.Is(err, wal.ErrCorrupt):
		return &CorruptError{
			What: "the log", Where: s.walDir, Intact: "the rows flushed before the damaged place",
			Means:  "acknowledged changes may be unreadable",
			Advice: "look at it with `tcpsdump chain`, then restore from a backup or another node",
			Cause:  err,
		}
	case errors.Is(err, wal.ErrWrongKey):
		return fmt.Errorf("%w: %w", ErrWrongKey, err)
	case errors.Is(err, wal.ErrVersion):
		return fmt.Errorf("%w: %w", ErrVersion, err)
	default:
		return fmt.Errorf("engine: open the log: %w", s.logErr(err))
	}
	s.log = log
	if log.ID() != s.ident.logID {
		return s.mismatch(fmt.Sprintf("log %x is not the log %x of this store", log.ID(), s.ident.logID))
	}
	return nil
}

func (s *Store) mismatch(what string) error {
	return &CorruptError{
		What: what, Where: s.dir, Intact: "log and rows are each readable",
		Means:  "they do not belong together, so neither can be trusted as the newest state",
		Advice: "put the right wal and store folders together, or restore from a backup or another node",
	}
}

// start begins the background work.
func (s *Store) start() error {
	var err error
	if s.o.Committer != nil {
		s.com, err = s.o.Committer(s)
	} else {
		s.com, err = newLocalCommitter(s)
	}
	if err != nil {
		return err
	}
	s.flush.mu.Lock()
	s.flush.running = true
	s.flush.mu.Unlock()
	s.wg.Add(1)
	go s.flush.run(s)
	s.wg.Add(1)
	go s.watchLog()
	if s.o.SweepInterval > 0 && !s.o.ReadOnly {
		s.wg.Add(1)
		go s.runSweeper()
	}
	return nil
}

// watchLog makes a failure of the log a failure of the store.
func (s *Store) watchLog() {
	defer s.wg.Done()
	select {
	case <-s.log.Failed():
		_ = s.fail("the log cannot be written", s.log.Err())
	case <-s.stop:
	}
}

// Close waits for running calls and queued transactions, flushes and releases the directory. Watchers end with
// ErrClosed. It returns the first problem; the data is safe in the log in any case.
func (s *Store) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.shutDown() })
	return s.closeErr
}

func (s *Store) shutDown() error {
	s.mu.Lock()
	s.closing = true
	if s.active == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	<-s.idle
	s.flush.release() // first: the committer may be held back for a flush that cannot happen
	err := s.com.Close()
	close(s.stop)
	s.wg.Wait()
	if !s.broken() && !s.space.low() {
		if ferr := s.flushNow(); ferr != nil { // nothing is lost: the next open replays the log
			s.o.Logger.Warn("engine: flush at close", "error", ferr)
		}
	}
	return errors.Join(err, s.release())
}

// release closes what is open. Pebble is left alone when it declared itself broken: it holds its own locks then.
func (s *Store) release() error {
	var errs []error
	if s.log != nil {
		if err := s.log.Close(); err != nil && !s.broken() {
			errs = append(errs, fmt.Errorf("engine: close the log: %w", err))
		}
	}
	if s.db != nil && !s.pebbleLog.fatal.Load() {
		s.ap.abandon()
		closing := s.db.Close
		if !s.broken() {
			closing = func() error { return s.apart(s.db.Close) }
		}
		if err := closing(); err != nil && !s.broken() {
			errs = append(errs, fmt.Errorf("engine: close the row store: %w", err))
		}
	}
	if s.lock != nil {
		if err := s.lock.Close(); err != nil {
			errs = append(errs, fmt.Errorf("engine: unlock %s: %w", s.dir, err))
		}
	}
	return errors.Join(errs...)
}
