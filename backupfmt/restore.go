package backupfmt

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
	"github.com/erlmcp/erlmcp/wal"
)

// RestoreOptions of one restore.
type RestoreOptions struct {
	Dir      string         // becomes the data directory
	Replace  bool           // Dir holds a store that is to be moved aside; otherwise it must be absent or empty
	Engine   engine.Options // of the restored store: key, file system
	Progress func(phase string, rows, entries uint64)

	replay     bool // tests: the log is replayed, never folded
	foldMemory int  // tests: see engine.BuilderStart
}

// Phase is a part of a restore and how long it took.
type Phase struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration_ns"`
}

// RestoreReport says what was restored.
type RestoreReport struct {
	Dir       string
	Aside     string // where the replaced store is, "" if none
	Index     uint64
	StateHash [32]byte
	Proven    bool // the state hash at Index was recorded at backup time and is the same
	Rows      uint64
	Entries   uint64 // of the log, replayed
	Phases    []Phase
}

// Restore builds a store from a plan. It works in a directory of its own beside Dir, opens the result with the engine, compares it
// with what was recorded, and only then renames it; after an error Dir is as it was before. The restored store has identities of its
// own: its log begins a new life, so what it archives never mixes with the archive of the old one.
func (r *Repo) Restore(ctx context.Context, p *Plan, o RestoreOptions) (rep *RestoreReport, err error) {
	if o.Engine.FS == nil {
		o.Engine.FS = vfs.Default
	}
	fs := o.Engine.FS
	if err := checkTarget(fs, o); err != nil {
		return nil, err
	}
	suffix, err := r.suffix()
	if err != nil {
		return nil, err
	}
	w := &restorer{r: r, p: p, o: o, fs: fs, tmp: o.Dir + ".restore-" + suffix, rep: &RestoreReport{Dir: o.Dir, Index: p.Index}, at: r.o.Now()}
	if err := w.run(ctx); err != nil {
		return nil, errors.Join(err, removeAll(fs, w.tmp))
	}
	if o.Replace {
		w.rep.Aside = o.Dir + ".before-" + suffix
	}
	if err := w.swap(); err != nil {
		return nil, errors.Join(err, removeAll(fs, w.tmp))
	}
	w.phase("rename")
	return w.rep, nil
}

func (r *Repo) suffix() (string, error) {
	var b [6]byte
	if _, err := io.ReadFull(r.o.Rand, b[:]); err != nil {
		return "", fmt.Errorf("backup: random name: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

func removeAll(fs vfs.FS, dir string) error {
	if err := fs.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("backup: remove %s: %w", dir, err)
	}
	return nil
}

// checkTarget refuses to touch a directory that holds something, unless it may be moved aside.
func checkTarget(fs vfs.FS, o RestoreOptions) error {
	if o.Dir == "" {
		return fmt.Errorf("%w: no directory to restore to", ErrInvalid)
	}
	names, err := fs.List(o.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("backup: list %s: %w", o.Dir, err)
	}
	if !o.Replace {
		if len(names) > 0 {
			return fmt.Errorf("%w: %s is not empty; nothing was changed", ErrInvalid, o.Dir)
		}
		return nil
	}
	// Only a store that nobody uses may be moved.
	if len(names) == 0 {
		return nil
	}
	if !slices.Contains(names, "FORMAT") {
		return fmt.Errorf("%w: %s is not empty and holds no store; nothing was changed", ErrInvalid, o.Dir)
	}
	l, err := fs.Lock(fs.PathJoin(o.Dir, "LOCK"))
	if err != nil {
		return fmt.Errorf("%w: %s is in use; nothing was changed: %w", ErrInvalid, o.Dir, err)
	}
	return l.Close()
}

type restorer struct {
	r   *Repo
	p   *Plan
	o   RestoreOptions
	fs  vfs.FS
	tmp string
	rep *RestoreReport
	at  time.Time
}

func (w *restorer) phase(name string) {
	now := w.r.o.Now()
	w.rep.Phases = append(w.rep.Phases, Phase{name, now.Sub(w.at)})
	w.at = now
}

func (w *restorer) progress(phase string) {
	if w.o.Progress != nil {
		w.o.Progress(phase, w.rep.Rows, w.rep.Entries)
	}
}

// run builds and checks the store in the temporary directory. When something is missing that a prune or a merge took away meanwhile, because the same
// is elsewhere now, it starts again with a new plan for the same state.
func (w *restorer) run(ctx context.Context) error {
	err := w.attempt(ctx)
	for again := 0; err != nil && again < maxReplans; again++ {
		p, perr := w.replan(ctx, err)
		if perr != nil || p == nil {
			return err
		}
		w.p = p
		err = w.attempt(ctx)
	}
	if err != nil {
		return err
	}
	return w.open(ctx)
}

// maxReplans bounds how often a restore starts again.
const maxReplans = 3

// replan is another plan for the same state; nil if there is none.
func (w *restorer) replan(ctx context.Context, err error) (*Plan, error) {
	var d *DamageError
	if !errors.Is(err, store.ErrNotFound) && (!errors.As(err, &d) || d.Kind != "missing") {
		return nil, nil
	}
	t := Target{Seq: w.p.Target.Seq}
	if t.Seq == 0 {
		t = Target{Index: w.p.Index, Life: w.p.Backup().Life}
	}
	p, err := w.r.Plan(ctx, t)
	if err != nil || p.Index != w.p.Index || p.Bytes == w.p.Bytes && slices.Equal(p.Pieces, w.p.Pieces) && slices.EqualFunc(p.Run, w.p.Run, sameData) {
		return nil, err
	}
	return p, nil
}

// sameData: two links name the same objects.
func sameData(a, b *Link) bool {
	return a.Seq == b.Seq && slices.Equal(a.Packs, b.Packs) && slices.Equal(a.Lists, b.Lists)
}

// attempt builds the store. The log is folded into the rows; where that turns out to be impossible, it starts again and leaves the log to be replayed.
func (w *restorer) attempt(ctx context.Context) error {
	w.rep.Rows, w.rep.Entries = 0, 0
	err := w.build(ctx, !w.o.replay)
	if errors.Is(err, engine.ErrFold) {
		w.rep.Rows, w.rep.Entries = 0, 0
		err = w.build(ctx, false)
	}
	return err
}

func (w *restorer) build(ctx context.Context, fold bool) error {
	last := w.p.Backup()
	b, err := engine.NewBuilder(w.tmp, w.o.Engine, engine.BuilderStart{Index: last.Index, Term: last.Term, FoldMemory: w.o.foldMemory})
	if err != nil {
		return fmt.Errorf("backup: begin %s: %w", w.tmp, err)
	}
	if err := w.fill(ctx, b, last, fold); err != nil {
		return errors.Join(err, b.Abort())
	}
	return nil
}

func (w *restorer) fill(ctx context.Context, b *engine.Builder, last *Link, fold bool) error {
	hash, err := hex.DecodeString(last.StateHash)
	if err != nil || len(hash) != 32 {
		return &DamageError{Kind: "damaged", Object: manifestName(last.Seq), Seq: last.Seq, Reason: "it has no state hash"}
	}
	if fold {
		if err := w.log(ctx, b.FoldLog, last.Index); err != nil {
			return err
		}
		w.phase("log")
	}
	if err := w.rows(ctx, b); err != nil {
		return err
	}
	got, err := b.EndRows()
	if err != nil {
		return err
	}
	w.phase("rows")
	if !bytes.Equal(got[:], hash) {
		return &DamageError{Kind: "damaged", Object: manifestName(last.Seq), Seq: last.Seq, Reason: fmt.Sprintf("the restored rows have state hash %x, recorded was %x", got, hash)}
	}
	if !fold {
		if err := w.log(ctx, b.AppendLog, last.Index); err != nil {
			return err
		}
		w.phase("log")
	}
	if err := b.Finish([32]byte(hash)); err != nil {
		return fmt.Errorf("backup: finish %s: %w", w.tmp, err)
	}
	w.phase("install")
	return nil
}

func (w *restorer) rows(ctx context.Context, b *engine.Builder) error {
	m, err := w.r.newMerger(ctx, w.p.Run)
	if err != nil {
		return err
	}
	var row engine.Row
	for {
		e, err := m.Next()
		if err != nil {
			return err
		}
		if e == nil {
			return nil
		}
		rowOf(&row, e)
		if err := b.Add(&row); err != nil {
			return err
		}
		if w.rep.Rows++; w.rep.Rows%4096 == 0 {
			w.progress("rows")
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
}

func rowOf(r *engine.Row, e *snapshot.Entry) {
	*r = engine.Row{Table: e.Table, Key: e.Key, Value: e.Value, ModIndex: e.ModIndex}
	if e.Deadline != 0 {
		r.Deadline = time.UnixMilli(e.Deadline).UTC()
	}
}

// restoreBatch bounds how much log is appended at once.
const restoreBatch = 1 << 20

// log hands the log behind the backup on.
func (w *restorer) log(ctx context.Context, to func(...wal.Entry) error, after uint64) error {
	var batch []wal.Entry
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := to(batch...)
		batch, size = batch[:0], 0
		w.progress("log")
		return err
	}
	err := w.r.log(ctx, w.p, after, func(e wal.Entry) error {
		if size+len(e.Data) > restoreBatch {
			if err := flush(); err != nil {
				return err
			}
		}
		e.Data = bytes.Clone(e.Data)
		batch = append(batch, e)
		size += len(e.Data) + 64
		w.rep.Entries++
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// open starts the engine on the result, which replays what was not folded of the log, and compares state hashes where one was recorded.
func (w *restorer) open(ctx context.Context) error {
	s, err := engine.Open(w.tmp, w.o.Engine)
	if err != nil {
		return fmt.Errorf("backup: open what was restored: %w", err)
	}
	defer s.Close()
	index, hash := s.StateHash()
	w.rep.StateHash = hash
	if index != w.p.Index {
		return &DamageError{Kind: "damaged", Object: w.tmp, Reason: fmt.Sprintf("the restored store is at index %d, planned was %d", index, w.p.Index)}
	}
	c, err := w.r.Chain(ctx)
	if err != nil {
		return err
	}
	for _, l := range c.Backups(w.p.Backup().Life) {
		if l.Index != index {
			continue
		}
		if l.StateHash != hex.EncodeToString(hash[:]) {
			return &DamageError{Kind: "damaged", Object: w.tmp, Seq: l.Seq, Reason: fmt.Sprintf("its state hash is %x, recorded was %s", hash, l.StateHash)}
		}
		w.rep.Proven = true
	}
	w.phase("open")
	if err := s.Close(); err != nil {
		return fmt.Errorf("backup: close what was restored: %w", err)
	}
	return nil
}

// swap puts the finished directory in place.
func (w *restorer) swap() error {
	fs, dir := w.fs, w.o.Dir
	if w.rep.Aside != "" {
		if err := fs.Rename(dir, w.rep.Aside); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("backup: move %s aside: %w", dir, err)
		} else if err != nil {
			w.rep.Aside = ""
		}
	} else if _, err := fs.Stat(dir); err == nil {
		if err := fs.Remove(dir); err != nil { // empty, as checked; fails if it no longer is
			return fmt.Errorf("backup: replace the empty directory %s: %w", dir, err)
		}
	}
	if err := fs.Rename(w.tmp, dir); err != nil {
		err = fmt.Errorf("backup: rename %s to %s: %w", w.tmp, dir, err)
		if w.rep.Aside != "" {
			err = errors.Join(err, fs.Rename(w.rep.Aside, dir))
		}
		return err
	}
	d, err := fs.OpenDir(fs.PathDir(dir))
	if err == nil {
		err = d.Sync()
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("backup: sync the directory above %s: %w", dir, err)
	}
	return nil
}
