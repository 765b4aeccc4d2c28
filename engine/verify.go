package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/btree"
)

// Finding is one thing that Verify found wrong.
type Finding struct {
	Kind    string `json:"kind"` // "state-hash", "row", "index", "deadline", "sstable", "log"
	Where   string `json:"where"`
	Message string `json:"message"`
	Advice  string `json:"advice"`
}

// VerifyReport is the result of Verify.
type VerifyReport struct {
	Index       uint64            `json:"index"`     // the applied index that was verified
	Rows        uint64            `json:"rows"`      // of all tables
	Bytes       uint64            `json:"bytes"`     // of their keys and values
	Tables      map[string]uint64 `json:"tables"`    // rows per table
	Deadlines   uint64            `json:"deadlines"` // rows with a deadline
	IndexRows   uint64            `json:"index_rows"`
	StateHash   [32]byte          `json:"-"` // as recomputed
	SSTables    int               `json:"sstables"`
	SSTBytes    uint64            `json:"sst_bytes"`
	LogSegments int               `json:"log_segments"`
	LogFirst    uint64            `json:"log_first"`
	LogLast     uint64            `json:"log_last"`
	Findings    []Finding         `json:"findings"`
	Duration    time.Duration     `json:"duration_ns"`
}

// OK reports whether nothing was found.
func (r VerifyReport) OK() bool { return len(r.Findings) == 0 }

const (
	maxFindings = 100 // of one kind; damage rarely comes alone and the first ones tell

	adviceRestore = "stop the process and restore from a backup or another node; keep this directory for `tcpsdump`"
)

func (r *VerifyReport) add(kind, where, format string, args ...any) {
	n := 0
	for i := range r.Findings {
		if r.Findings[i].Kind == kind {
			n++
		}
	}
	if n < maxFindings {
		r.Findings = append(r.Findings, Finding{kind, where, firstLine(fmt.Sprintf(format, args...)), adviceRestore})
	}
}

// Verify reads everything again and compares: every row against the state hash, the in-memory indexes against the
// rows, deadline entries against the rows, every block of every Pebble table against its checksum (from disk, not from
// a cache), and the log against its chain. The store stays usable meanwhile. Damage is in the report; the error is for
// not being able to look.
func (s *Store) Verify(ctx context.Context) (VerifyReport, error) {
	if err := s.begin(); err != nil {
		return VerifyReport{}, err
	}
	defer s.end()
	began := time.Now()
	rep := VerifyReport{Tables: map[string]uint64{}, Findings: []Finding{}}
	v, err := s.acquire()
	if err != nil {
		return rep, err
	}
	defer v.release()
	if err := s.verifyRows(ctx, v, &rep); err != nil {
		return rep, err
	}
	if err := verifyTables(ctx, s.o.FS, s.storeDir, s.db, s.pebbleOptions(), &rep); err != nil {
		return rep, err
	}
	if err := s.verifyLog(ctx, &rep); err != nil {
		return rep, err
	}
	rep.Duration = time.Since(began)
	return rep, nil
}

// rowCheck recomputes what can be derived from the rows.
type rowCheck struct {
	s      *Store // only its options, sealer and index layout are used
	src    rowSource
	rep    *VerifyReport
	hasher rowHasher
	sum    lanes
	trees  []*btree.BTreeG[indexItem]
}

// rowSource is a Pebble DB or snapshot.
type rowSource interface {
	rowIterator
	Get(key []byte) ([]byte, interface{ Close() error }, error)
}

// dbSource and snapSource give both one type.
type dbSource struct{ *pebble.DB }

func (d dbSource) Get(key []byte) ([]byte, interface{ Close() error }, error) { return d.DB.Get(key) }

type snapSource struct{ *pebble.Snapshot }

func (d snapSource) Get(key []byte) ([]byte, interface{ Close() error }, error) {
	return d.Snapshot.Get(key)
}

func (s *Store) verifyRows(ctx context.Context, v *version, rep *VerifyReport) error {
	c := &rowCheck{s: s, src: snapSource{v.snap}, rep: rep}
	for range s.indexes {
		c.trees = append(c.trees, btree.NewG(indexDegree, itemLess))
	}
	rep.Index = v.index
	complete, err := c.run(ctx, v.lanes)
	if err != nil || !complete {
		return err
	}
	for i, x := range s.indexes {
		c.compareIndex(x.spec.Name, v.trees[i], c.trees[i])
	}
	return nil
}

// run reads all rows. complete is false if damage ended the reading early.
func (c *rowCheck) run(ctx context.Context, want lanes) (complete bool, err error) {
	it, err := c.src.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceRow}, UpperBound: []byte{spaceRow + 1}})
	if err != nil {
		return false, c.s.storeErr("verify", []byte{spaceRow}, err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if c.rep.Rows%1024 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		raw, err := it.ValueAndErr()
		if err != nil {
			c.rep.add("row", fmt.Sprintf("key %q", clip(it.Key())), "cannot be read: %v", err)
			return false, nil
		}
		c.row(it.Key(), raw)
	}
	if err := it.Error(); err != nil {
		c.rep.add("row", fmt.Sprintf("after %d rows", c.rep.Rows), "cannot be read: %v", err)
		return false, nil
	}
	c.rep.StateHash = c.sum.bytes()
	if c.sum != want {
		c.rep.add("state-hash", fmt.Sprintf("index %d", c.rep.Index),
			"the rows add up to %x, the log says %x", c.sum.bytes(), want.bytes())
	}
	return true, c.deadlines(ctx)
}

func (c *rowCheck) row(rowKey, raw []byte) {
	c.rep.Rows++
	where := fmt.Sprintf("key %q", clip(rowKey))
	table, key, err := splitRowKey(rowKey)
	if err != nil {
		c.rep.add("row", where, "%v", err)
		return
	}
	r, err := c.s.decodeRow(rowKey, raw, false)
	if err != nil {
		c.rep.add("row", where, "%v", err)
		return
	}
	if r.mod == 0 || r.mod > c.rep.Index {
		c.rep.add("row", where, "written by log entry %d, but only %d are applied", r.mod, c.rep.Index)
	}
	c.rep.Tables[string(table)]++
	c.rep.Bytes += uint64(len(key) + len(r.value))
	h := c.hasher.row(rowKey, r.mod, r.deadline, r.value)
	c.sum.add(&h)
	if r.deadline != 0 {
		c.rep.Deadlines++
		if err := c.has(appendDeadlineKey(nil, r.deadline, rowKey)); err != nil {
			c.rep.add("deadline", where, "the entry for deadline %d: %v", r.deadline, err)
		}
	}
	if c.trees == nil {
		return
	}
	for _, i := range c.s.byTable[string(table)] {
		for _, ik := range c.s.indexes[i].spec.Keys(key, r.value) {
			c.trees[i].ReplaceOrInsert(indexItem{string(ik), string(key), r.mod})
			c.rep.IndexRows++
		}
	}
}

func (c *rowCheck) has(key []byte) error {
	_, cl, err := c.src.Get(key)
	if err != nil {
		return err
	}
	return cl.Close()
}

// deadlines looks for deadline entries without a row.
func (c *rowCheck) deadlines(ctx context.Context) error {
	it, err := c.src.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceDeadline}, UpperBound: []byte{spaceDeadline + 1}})
	if err != nil {
		return c.s.storeErr("verify", []byte{spaceDeadline}, err)
	}
	defer it.Close()
	n := uint64(0)
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := it.Error(); err != nil {
		c.rep.add("deadline", fmt.Sprintf("after %d entries", n), "cannot be read: %v", err)
		return nil
	}
	if n != c.rep.Deadlines {
		c.rep.add("deadline", "all", "%d entries for %d rows with a deadline", n, c.rep.Deadlines)
	}
	return nil
}

// compareIndex compares an index as maintained with the one made from the rows.
func (c *rowCheck) compareIndex(name string, have, want *btree.BTreeG[indexItem]) {
	have.Ascend(func(it indexItem) bool {
		if w, ok := want.Get(it); !ok || w.mod != it.mod {
			c.rep.add("index", name, "entry (%q, %q) of log entry %d has no such row", it.ikey, it.key, it.mod)
		}
		return true
	})
	want.Ascend(func(it indexItem) bool {
		if !have.Has(it) {
			c.rep.add("index", name, "entry (%q, %q) is missing", it.ikey, it.key)
		}
		return true
	})
}

// verifyTables checks every block of every Pebble table from disk.
func verifyTables(ctx context.Context, fs vfs.FS, dir string, db *pebble.DB, o *pebble.Options, rep *VerifyReport) error {
	levels, err := db.SSTables()
	if err != nil {
		return fmt.Errorf("engine: verify: list tables: %w", err)
	}
	o.EnsureDefaults()
	for _, level := range levels {
		for i := range level {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := fs.PathJoin(dir, fmt.Sprintf("%06d.sst", uint64(level[i].BackingSSTNum)))
			err := verifyTable(ctx, fs, name, o.MakeReaderOptions())
			if errors.Is(err, os.ErrNotExist) && !listed(db, uint64(level[i].FileNum)) {
				continue // compacted away meanwhile
			}
			rep.SSTables++
			rep.SSTBytes += level[i].Size
			if err != nil {
				rep.add("sstable", name, "%v", err)
			}
		}
	}
	return nil
}

// listed reports whether a table is still part of the store.
func listed(db *pebble.DB, num uint64) bool {
	levels, err := db.SSTables()
	if err != nil {
		return true
	}
	for _, level := range levels {
		for i := range level {
			if uint64(level[i].FileNum) == num {
				return true
			}
		}
	}
	return false
}

func verifyTable(ctx context.Context, fs vfs.FS, name string, o sstable.ReaderOptions) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, o)
	if err != nil {
		return err // NewReader has closed the file
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

func (s *Store) verifyLog(ctx context.Context, rep *VerifyReport) error {
	l, err := s.log.Verify(ctx)
	if err != nil {
		return fmt.Errorf("engine: verify the log: %w", err)
	}
	rep.LogSegments, rep.LogFirst, rep.LogLast = l.Segments, l.FirstIndex, l.LastIndex
	for _, f := range l.Findings {
		if f.Severity != "damage" {
			continue
		}
		rep.Findings = append(rep.Findings, Finding{
			Kind: "log", Where: fmt.Sprintf("%s, offset %d", f.File, f.Offset),
			Message: f.Kind + ": " + f.Message, Advice: f.Advice,
		})
	}
	return nil
}
