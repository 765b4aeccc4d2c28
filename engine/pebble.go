package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleFormat is the newest Pebble format this version writes; fixed, so that an update of the library alone does not
// change what is on disk.
const pebbleFormat = pebble.FormatColumnarBlocks

// pebbleLogger passes Pebble's messages on and turns its Fatalf into a failure of the store.
type pebbleLogger struct {
	log   *slog.Logger
	fatal atomic.Bool
	slow  atomic.Bool // background work has failed, do not try again at once
	fail  func(doing string, cause error) error
}

// Infof logs at debug level: Pebble is talkative.
func (l *pebbleLogger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

// Errorf logs at error level, without the stack traces that Pebble adds.
func (l *pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + firstLine(fmt.Sprintf(format, args...)))
}

// Fatalf must not return: Pebble's state is not consistent any more. The store fails, the process is about to exit, and
// this goroutine ends. It ends instead of waiting so that the locks it holds are released (Pebble defers that):
// callers that are about to close a snapshot get their answer, which is that the store has failed.
func (l *pebbleLogger) Fatalf(format string, args ...any) {
	l.fatal.Store(true)
	err := fmt.Errorf(format, args...)
	l.log.Error("pebble: fatal", "error", err)
	_ = l.fail("the row store cannot be written", err)
	runtime.Goexit()
}

// apart runs something in a goroutine of its own: where Pebble cannot go on, it ends the goroutine that called it, see Fatalf.
func (s *Store) apart(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-s.failed:
		return s.failure()
	}
}

// pebbleFS treats a directory that cannot be synced as Fatalf does: Pebble would panic, often
// in a goroutine of its own.
type pebbleFS struct {
	vfs.FS
	log *pebbleLogger
}

func (f pebbleFS) Unwrap() vfs.FS { return f.FS }

// retryPause keeps Pebble, which repeats a failed flush for ever and at once, from burning a core on a full disk.
const retryPause = 100 * time.Millisecond

func (f pebbleFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.log.slow.Swap(false) {
		time.Sleep(retryPause)
	}
	return f.FS.Create(name, c)
}

func (f pebbleFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return pebbleDir{d, name, f.log}, nil
}

type pebbleDir struct {
	vfs.File
	name string
	log  *pebbleLogger
}

func (d pebbleDir) Sync() error {
	err := d.File.Sync()
	if err != nil {
		d.log.Fatalf("sync directory %s: %w", d.name, err) // does not return
	}
	return err
}

func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          pebbleFS{s.o.FS, s.pebbleLog},
		DisableWAL:                  true, // our log comes first; flushed state is a prefix of the applied batches
		FormatMajorVersion:          pebbleFormat,
		CacheSize:                   s.o.CacheSize,
		MemTableSize:                s.o.MemTableSize,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                512,
		L0CompactionThreshold:       8, // Pebble counts twice: four flushed memtables. Fewer mean that every row is rewritten once more often
		L0StopWritesThreshold:       24,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      s.pebbleLog,
		EventListener: &pebble.EventListener{
			FlushEnd: func(pebble.FlushInfo) { poke(s.flush.flushed) },
			BackgroundError: func(err error) {
				s.o.Logger.Warn("engine: row store, background work", "error", brief(err))
				s.pebbleLog.slow.Store(true)
				s.flush.stumbled(err)
			},
			// The read that met the damage returns it; a reader must not stop the process.
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				what := firstLine(i.String())
				s.damage.CompareAndSwap(nil, &what)
				s.o.Logger.Error("engine: row store is damaged", "info", what)
			},
		},
	}
	if s.o.NoCompaction {
		o.DisableAutomaticCompactions = true
		o.L0StopWritesThreshold = math.MaxInt32 // nothing would ever let writes go on
	}
	// One flushed memtable is one file: fewer files cost fewer switches per point read.
	o.TargetFileSizes[0] = 16 << 20
	o.FlushSplitBytes = 32 << 20
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return rowCompression }
	}
	return o
}

// openPebble opens the row store; with must it has to exist.
func (s *Store) openPebble(must bool) error {
	o := s.pebbleOptions()
	o.ErrorIfNotExists = must
	var db *pebble.DB
	err := s.apart(func() (err error) { db, err = pebble.Open(s.storeDir, o); return err })
	if err == nil {
		s.db = db
		return nil
	}
	if errors.Is(err, syscall.EAGAIN) {
		return fmt.Errorf("%w: %s (its lock: %w)", ErrInUse, s.storeDir, err) // somebody removed LOCK of the directory
	}
	if must && !environmental(err) {
		return &CorruptError{
			What: "the row store", Where: s.storeDir, Intact: "the log in " + s.walDir + " (check it with `tcpsdump chain`)",
			Means:  "the rows cannot be read; changes that are still in the log can be, older ones only if the log reaches back to them",
			Advice: "restore from a backup or another node; keep this directory for `tcpsdump`",
			Cause:  err,
		}
	}
	return fmt.Errorf("engine: open the row store: %w", err)
}

// environmental reports whether an error comes from the surroundings and not from what is in the files.
func environmental(err error) bool {
	for _, e := range []error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
		syscall.EAGAIN, syscall.EINTR, os.ErrPermission,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
