package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/erlmcp/erlmcp/wal"
)

// EntryBase is the type of the first log entry of a built store: it stands for everything up to its index, carries the
// term of that index and no data. Apply skips it.
const EntryBase wal.EntryType = 0x11

// BuilderStart says of which point in the history the rows are.
type BuilderStart struct {
	Index uint64 // newest log entry contained in the rows; 0: the empty beginning
	Term  uint64 // its term

	FoldMemory int // bytes of keys and values that FoldLog holds before it spills them to a file; 0: 40 MiB
}

// Builder makes a new data directory out of the rows of an Image and, if wanted, of log entries that follow. The
// rows go straight into table files. The new store has identities of its own: its log begins a new history. Until Finish
// the directory is marked as half-created and never opens with part of the rows. Not for concurrent use; ErrTxDone after
// Finish or Abort.
type Builder struct {
	s     *Store
	at    BuilderStart
	id    identity
	state int
	err   error

	key   []byte
	last  []byte // Pebble key of the last row
	rows  uint64
	pipe  *rowPipe
	ended bool   // the rows are in tables
	fold  *fold  // nil: none of the log is folded
	next  uint64 // index of the next log entry

	foldMemory int
}

const (
	stateFold = iota
	stateRows
	stateLog
	stateDone
)

// NewBuilder begins a store in dir, which must be absent, empty, or left half-created: otherwise ErrInvalid, or
// ErrNotStore for a directory with other content. Nothing in a refused directory is changed.
func NewBuilder(dir string, o Options, at BuilderStart) (*Builder, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := newStore(dir, o)
	b := &Builder{s: s, at: at, next: at.Index + 1, foldMemory: cmp.Or(at.FoldMemory, foldMemory)}
	if err := b.begin(); err != nil {
		return nil, errors.Join(err, s.release())
	}
	return b, nil
}

func (b *Builder) begin() error {
	s := b.s
	fresh, err := s.claim()
	if err != nil {
		return err
	}
	if !fresh {
		return fmt.Errorf("%w: %s already holds a store", ErrInvalid, s.dir)
	}
	fs := s.o.FS
	marker := fs.PathJoin(s.dir, creatingFile)
	half, err := exists(fs, marker)
	if err != nil {
		return err
	}
	if half {
		// A builder's own log has entries before FORMAT exists, so the check of clearHalf does not apply to its marker.
		if err := b.clear(); err != nil {
			return err
		}
	}
	if err := writeFile(fs, marker, []byte(builderMark)); err != nil {
		return err
	}
	for _, d := range []string{s.dir, fs.PathDir(s.dir)} {
		if err := syncDir(fs, d); err != nil {
			return err
		}
	}
	return b.identify()
}

// builderMark is the content of CREATING in a directory that a Builder makes.
const builderMark = "builder\n"

// clear removes what an interrupted creation left. Only a directory marked by a Builder is cleared without looking at its log.
func (b *Builder) clear() error {
	built, err := b.s.halfBuilt()
	if err != nil {
		return err
	}
	if !built {
		return b.s.clearHalf()
	}
	return b.removeParts()
}

// halfBuilt reports whether a Builder began a directory that is marked as half-created.
func (s *Store) halfBuilt() (bool, error) {
	f, err := s.o.FS.Open(s.o.FS.PathJoin(s.dir, creatingFile))
	if err != nil {
		return false, fmt.Errorf("engine: read %s: %w", creatingFile, err)
	}
	mark, err := io.ReadAll(io.LimitReader(f, 64))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return false, fmt.Errorf("engine: read %s: %w", creatingFile, err)
	}
	return string(mark) == builderMark, nil
}

func (b *Builder) removeParts() error {
	for _, d := range []string{b.s.walDir, b.s.storeDir} {
		if err := b.s.o.FS.RemoveAll(d); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("engine: remove half-built %s: %w", d, err)
		}
	}
	return nil
}

func (b *Builder) identify() error {
	s := b.s
	b.id = identity{created: s.o.Now()}
	if _, err := io.ReadFull(s.o.Rand, b.id.storeID[:]); err != nil {
		return fmt.Errorf("engine: random store id: %w", err)
	}
	if len(s.o.Key) != 0 {
		var err error
		b.id.sealed = true
		if b.id.keyCheck, err = keyCheck(s.o.Key); err != nil {
			return err
		}
		if s.seal, err = newSealer(s.o.Key, s.o.Rand); err != nil {
			return err
		}
	}
	if err := s.openPebble(false); err != nil {
		return err
	}
	b.pipe = newRowPipe(s)
	log, err := wal.Open(s.walDir, s.walOptions())
	if err != nil {
		return fmt.Errorf("engine: create the log: %w", err)
	}
	s.log, b.id.logID = log, log.ID()
	if b.at.Index == 0 {
		return nil
	}
	// The base entry comes first: with it Open refuses an interrupted build instead of making an empty store of it.
	log.SetCommitIndex(b.at.Index)
	if _, err := log.Append(wal.Entry{Index: b.at.Index, Term: b.at.Term, Type: EntryBase}); err != nil {
		return fmt.Errorf("engine: begin the log: %w", s.logErr(err))
	}
	return nil
}

func (b *Builder) usable(state int) error {
	if b.err != nil {
		return b.err
	}
	if b.state > state {
		return fmt.Errorf("%w: the builder is past that", ErrTxDone)
	}
	return nil
}

// fail makes err final: a store with a part of the rows must not come out.
func (b *Builder) fail(err error) error {
	b.err = err
	return err
}

// FoldLog takes log entries that follow the rows before the rows are added: Add then brings the rows straight into the state after the last
// of these entries that could be folded (see fold), which is much faster than replaying them. Indexes are as for AppendLog, which may
// add further ones behind the rows. What cannot be folded is replayed by the next Open. The entries must be those that will be in the
// log; their data is not kept. Every error is final.
func (b *Builder) FoldLog(entries ...wal.Entry) error {
	if err := b.usable(stateFold); err != nil {
		return err
	}
	if err := b.appendLog(entries); err != nil {
		return b.fail(err)
	}
	if b.fold == nil {
		b.fold = newFold(b.s, b.at.Index)
		b.fold.limit = b.foldMemory
	}
	for i := range entries {
		if taken, err := b.fold.take(&entries[i]); err != nil {
			return b.fail(err)
		} else if !taken {
			return nil
		}
	}
	return nil
}

// AppendLog adds log entries after the last row: the first has index BuilderStart.Index+1 (or follows the last one of FoldLog), and so on
// without gap; types and terms are kept. The next Open applies them. Every error is final.
func (b *Builder) AppendLog(entries ...wal.Entry) error {
	if err := b.usable(stateLog); err != nil {
		return err
	}
	b.state = stateLog
	if err := b.appendLog(entries); err != nil {
		return b.fail(err)
	}
	return nil
}

func (b *Builder) appendLog(entries []wal.Entry) error {
	for i := range entries {
		if entries[i].Index != b.next+uint64(i) {
			return fmt.Errorf("%w: log entry %d where %d belongs", ErrInvalid, entries[i].Index, b.next+uint64(i))
		}
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := b.s.log.Append(entries...); err != nil {
		return fmt.Errorf("engine: build the log: %w", b.s.logErr(err))
	}
	b.next += uint64(len(entries))
	b.s.log.SetCommitIndex(b.next - 1)
	return nil
}

// SetMeta stores a small value in the new log, as wal.Log.SetMeta does, for the owner of the commit order. Every error is
// final.
func (b *Builder) SetMeta(key string, value []byte) error {
	if err := b.usable(stateLog); err != nil {
		return err
	}
	if err := b.s.log.SetMeta(key, value); err != nil {
		return b.fail(fmt.Errorf("engine: value %q of the new log: %w", key, b.s.logErr(err)))
	}
	return nil
}

// EndRows ends the adding of rows and returns the state hash of those that were added, without what was folded. Every error is final.
func (b *Builder) EndRows() ([32]byte, error) {
	if err := b.usable(stateLog); err != nil {
		return [32]byte{}, err
	}
	if !b.ended {
		b.state, b.ended = stateLog, true
		err := b.fold.rest(b.pipe)
		if err == nil {
			err = b.pipe.end()
		}
		if err == nil {
			err = b.pipe.tables.close()
		}
		if err = errors.Join(err, b.closeFold()); err != nil {
			return [32]byte{}, b.fail(err)
		}
	}
	return b.pipe.tables.old.bytes(), nil
}

func (b *Builder) closeFold() error {
	err := b.fold.close()
	if err != nil {
		err = fmt.Errorf("engine: end of the folding: %w", err)
	}
	return err
}

// Finish makes the directory a store if the rows have the state hash want; otherwise ErrCorrupt, and nothing is left.
// After any error nothing is left that opens.
func (b *Builder) Finish(want [32]byte) error {
	got, err := b.EndRows()
	if err != nil {
		return errors.Join(err, b.Abort())
	}
	if got != want {
		err := &CorruptError{
			What: fmt.Sprintf("the rows have state hash %x, expected %x", got, want), Where: b.s.dir, Intact: "nothing was installed",
			Means: "rows are missing, changed or too many", Advice: "restore from another backup or node",
		}
		return errors.Join(b.fail(err), b.Abort())
	}
	if err := b.finish(); err != nil {
		return errors.Join(b.fail(err), b.Abort())
	}
	b.state = stateDone
	return nil
}

func (b *Builder) finish() error {
	s := b.s
	if err := s.apart(b.install); err != nil {
		return err
	}
	if err := s.flushBuilt(); err != nil {
		return err
	}
	err := s.apart(s.db.Close)
	s.db = nil
	lerr := s.log.Close()
	s.log = nil
	if err := errors.Join(err, lerr); err != nil {
		return fmt.Errorf("engine: close the built store: %w", err)
	}
	return b.publish()
}

// install brings the tables and what is left of the rows into the row store.
func (b *Builder) install() error {
	s, t := b.s, &b.pipe.tables
	if len(t.paths) > 0 {
		if err := s.db.Ingest(context.Background(), t.paths); err != nil {
			return fmt.Errorf("engine: ingest the rows: %w", err)
		}
	}
	row := appliedRow{index: b.at.Index, lanes: t.sum, logID: b.id.logID, storeID: b.id.storeID}
	if b.fold != nil {
		row.index = b.fold.index
		for _, m := range b.fold.marks {
			if err := t.due.Set(markerKey(m.index), []byte{m.reason}, nil); err != nil {
				return fmt.Errorf("engine: marker: %w", err)
			}
		}
	}
	if err := t.due.Set(appliedKey, row.append(nil), nil); err != nil {
		return fmt.Errorf("engine: applied row: %w", err)
	}
	if err := t.commitDue(); err != nil {
		return err
	}
	t.due = nil
	return nil
}

// flushBuilt flushes, once: Pebble would try for ever on a full disk.
func (s *Store) flushBuilt() error {
	trouble := s.flush.troubleChan()
	done, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("engine: flush: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-s.failed:
		return s.failure()
	case <-trouble:
		return fmt.Errorf("engine: flush: %w", s.flush.whatTrouble())
	}
}

// publish writes FORMAT, from which on the directory is a store.
func (b *Builder) publish() error {
	fs := b.s.o.FS
	if err := syncDir(fs, b.s.dir); err != nil {
		return err
	}
	if err := writeIdentity(fs, b.s.dir, b.id); err != nil {
		return err
	}
	if err := fs.Remove(fs.PathJoin(b.s.dir, creatingFile)); err != nil {
		return fmt.Errorf("engine: remove %s: %w", creatingFile, err)
	}
	return b.s.release()
}

// Abort gives up and removes what was built; after Finish it does nothing.
func (b *Builder) Abort() error {
	if b.state == stateDone {
		return nil
	}
	b.state = stateDone
	var errs []error
	if b.err == nil {
		b.err = fmt.Errorf("%w: aborted", ErrTxDone)
	}
	if b.pipe != nil {
		_ = b.pipe.end() // the files are removed
		b.pipe.tables.abandon()
	}
	_ = b.fold.close()
	lock := b.s.lock
	b.s.lock = nil
	errs = append(errs, b.s.release())
	published, err := exists(b.s.o.FS, b.s.o.FS.PathJoin(b.s.dir, formatFile))
	errs = append(errs, err)
	if err == nil && !published {
		errs = append(errs, b.removeParts())
		if err := b.s.o.FS.Remove(b.s.o.FS.PathJoin(b.s.dir, creatingFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if lock != nil {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}
