package fuzz

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

const dbDir = "/data/db"

// dbTables are the tables that workloads use; by_tail indexes the first.
var dbTables = []string{"alpha", "beta", "seq"}

// rows is the visible content of a store: table, zero byte, key -> value.
type rows map[string]string

func rowKey(table string, key []byte) string { return table + "\x00" + string(key) }

func (m rows) digest() digest {
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(m)) {
		num(h.Write, uint64(len(k)), uint64(len(m[k])))
		h.Write([]byte(k))
		h.Write([]byte(m[k]))
	}
	return digest(h.Sum(nil))
}

func (m rows) diff(o rows) string {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if v, ok := o[k]; !ok {
			return fmt.Sprintf("row %q is missing", k)
		} else if v != m[k] {
			return fmt.Sprintf("row %q has another value", k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if _, ok := m[k]; !ok {
			return fmt.Sprintf("row %q should not be there", k)
		}
	}
	return "no difference"
}

// dbOp is a put, or a delete if Value is nil.
type dbOp struct {
	Table string
	Key   []byte
	Value []byte
}

// tx is one transaction and when it happened, in disk operations.
type tx struct {
	Ops   []dbOp
	Idem  string
	Async bool
	Index uint64   // 0: not answered, or Async
	After uint64   // Async: newest index before the call, which places it
	Hash  [32]byte // StateHash after it
	Begun int
	Acked int
}

// place orders transactions as the log does; those without an answer are last.
func (t *tx) place() uint64 {
	switch {
	case t.Async:
		return 2*t.After + 1
	case t.Index == 0:
		return math.MaxUint64
	}
	return 2 * t.Index
}

func (t *tx) apply(m rows) {
	for _, op := range t.Ops {
		if op.Value == nil {
			delete(m, rowKey(op.Table, op.Key))
		} else {
			m[rowKey(op.Table, op.Key)] = string(op.Value)
		}
	}
}

// run is the transaction function. It reads what it overwrites.
func (t *tx) run(etx *engine.Tx) error {
	for _, op := range t.Ops {
		if !t.Async {
			if _, err := etx.Get(op.Table, op.Key); err != nil && !errors.Is(err, engine.ErrNotFound) {
				return err
			}
		}
		var err error
		if op.Value == nil {
			err = etx.Delete(op.Table, op.Key)
		} else {
			err = etx.Put(op.Table, op.Key, op.Value)
		}
		if err != nil {
			return err
		}
	}
	etx.SetOutcome([]byte(t.Idem))
	return nil
}

func (t *tx) options() []engine.TxOption {
	opts := []engine.TxOption{engine.WithActor("fuzz")}
	if t.Idem != "" {
		opts = append(opts, engine.WithIdempotencyKey(t.Idem, []byte("request "+t.Idem)))
	}
	if t.Async {
		opts = append(opts, engine.WithDurability(engine.Async))
	}
	return opts
}

// dbConfig is what a workload needs to be opened again.
type dbConfig struct {
	Name      string
	Seed      uint64
	Encrypted bool
	Retain    int64
}

func (c dbConfig) options(d *simdisk.Disk, seed uint64) engine.Options {
	o := engine.Options{
		FS: d, SegmentSize: 64 << 10, MemTableSize: 256 << 10, CacheSize: 256 << 10,
		MaxUnflushed: 1 << 20, FlushInterval: -1, SweepInterval: -1, RetainLog: c.Retain, MinFreeDisk: 1,
		MaxValueBytes: 24 << 10, Rand: seededReader(seed), Now: func() time.Time { return time.Unix(1_700_000_000, 0) },
		Indexes: []engine.IndexSpec{{Name: "by_tail", Table: dbTables[0], Keys: tailKeys}},
	}
	if c.Encrypted {
		o.Key = bytes.Repeat([]byte{9}, 32)
	}
	return o
}

// tailKeys indexes a row by the last byte of its value.
func tailKeys(_, value []byte) [][]byte {
	if len(value) == 0 {
		return nil
	}
	return [][]byte{value[len(value)-1:]}
}

// dbHistory is a recorded workload of a store.
type dbHistory struct {
	Config dbConfig
	Txs    []*tx
	Base   rows // second life: what Open showed
	From   int
	Opened int
	Before []digest

	trace   *simdisk.Trace
	digests []digest
}

func (h *dbHistory) finish() {
	slices.SortStableFunc(h.Txs, func(a, b *tx) int {
		return cmp.Compare(a.place(), b.place())
	})
	acked := never
	for _, t := range slices.Backward(h.Txs) {
		// The log is one sequence: what stands before an acknowledged entry is
		// as durable as that entry.
		acked = min(acked, t.Acked)
		t.Acked = acked
	}
	m := h.modelAt(0)
	h.digests = []digest{m.digest()}
	for _, t := range h.Txs {
		t.apply(m)
		h.digests = append(h.digests, m.digest())
	}
}

func (h *dbHistory) modelAt(k int) rows {
	m := rows{}
	maps.Copy(m, h.Base)
	for _, t := range h.Txs[:k] {
		t.apply(m)
	}
	return m
}

func (h *dbHistory) window(n int) (acked, begun int) {
	for i, t := range h.Txs {
		if t.Acked <= n {
			acked = i + 1
		}
		if t.Begun <= n {
			begun = i + 1
		}
	}
	return acked, max(acked, begun)
}

// dbRecorder runs a workload on a store.
type dbRecorder struct {
	d   *simdisk.Disk
	cfg dbConfig
	rng *rand.Rand
	s   *engine.Store
	h   *dbHistory
	n   int

	mu  sync.Mutex // guards h.Txs and err while transactions run concurrently
	err error
}

func newDBRecorder(d *simdisk.Disk, cfg dbConfig) *dbRecorder {
	return &dbRecorder{d: d, cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0xdb)), h: &dbHistory{Config: cfg}}
}

func recordDB(cfg dbConfig, script func(*dbRecorder)) (*dbHistory, error) {
	d, err := newDisk(cfg.Seed)
	if err != nil {
		return nil, err
	}
	r := newDBRecorder(d, cfg)
	r.open()
	if r.err == nil {
		script(r)
	}
	if r.err == nil {
		r.close()
	}
	return r.end(), r.err
}

func (r *dbRecorder) end() *dbHistory {
	r.h.trace = r.d.Trace()
	r.h.finish()
	return r.h
}

func (r *dbRecorder) fail(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.err == nil {
		r.err = err
	}
	return r.err != nil
}

func (r *dbRecorder) open() {
	if r.fail(nil) {
		return
	}
	s, err := engine.Open(dbDir, r.cfg.options(r.d, r.cfg.Seed+uint64(r.d.Ops())))
	if !r.fail(err) {
		r.s = s
	}
}

func (r *dbRecorder) close() { r.fail(r.s.Close()) }

func (r *dbRecorder) reopen() {
	if !r.fail(nil) {
		r.close()
		r.open()
	}
}

func (r *dbRecorder) checkpoint() {
	if !r.fail(nil) {
		_, err := r.s.Checkpoint()
		r.fail(err)
	}
}

// make invents a transaction. Each changes the row of its own number, so that
// no two states are alike.
func (r *dbRecorder) make(size int) *tx {
	r.n++
	id := fmt.Sprintf("%s-%d-%d", r.cfg.Name, r.cfg.Seed, r.n)
	t := &tx{Ops: []dbOp{{"seq", fmt.Appendf(nil, "%d", r.n%7), []byte(id)}}, Acked: never}
	for range 1 + r.rng.IntN(3) {
		op := dbOp{Table: dbTables[r.rng.IntN(2)], Key: fmt.Appendf(nil, "key-%02d", r.rng.IntN(24))}
		if r.rng.IntN(4) > 0 {
			op.Value = seedBytes(r.rng, r.rng.IntN(size+1))
		}
		t.Ops = append(t.Ops, op)
	}
	if r.rng.IntN(3) == 0 {
		t.Idem = id
	}
	return t
}

// update runs one transaction and waits.
func (r *dbRecorder) update(size int) { r.do(r.make(size)) }

// blind runs one transaction that does not wait for the disk.
func (r *dbRecorder) blind(size int) {
	t := r.make(size)
	t.Async, t.Idem, t.After = true, "", r.s.AppliedIndex()
	r.do(t)
}

func (r *dbRecorder) do(t *tx) {
	if r.fail(nil) {
		return
	}
	r.mu.Lock()
	t.Begun = r.d.Ops()
	r.h.Txs = append(r.h.Txs, t)
	r.mu.Unlock()
	res, err := r.s.Update(context.Background(), t.run, t.options()...)
	if r.fail(err) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !t.Async {
		t.Acked = r.d.Ops()
	}
	t.Index = res.Index
	t.Hash, _ = r.s.StateHashAt(res.Index)
}

// together runs transactions on rows of their own at the same time.
func (r *dbRecorder) together(n, size int) {
	var wg sync.WaitGroup
	for i := range n {
		t := r.make(size)
		for j := range t.Ops {
			t.Ops[j].Key = fmt.Appendf(t.Ops[j].Key, "-%d", i)
		}
		wg.Go(func() { r.do(t) })
	}
	wg.Wait()
}

// readRows reads everything a user can see, and checks the index against the
// table.
func readRows(s *engine.Store) (rows, error) {
	m := rows{}
	err := s.View(context.Background(), func(etx *engine.Tx) error {
		clear(m)
		for _, t := range dbTables {
			err := etx.Scan(t, engine.Range{}, func(k, v []byte) bool {
				m[rowKey(t, k)] = string(v)
				return true
			})
			if err != nil {
				return err
			}
		}
		return checkIndex(etx, m)
	})
	return m, err
}

func checkIndex(etx *engine.Tx, m rows) error {
	want := 0
	for k, v := range m {
		if k[:len(dbTables[0])] == dbTables[0] {
			want += len(tailKeys(nil, []byte(v)))
		}
	}
	var bad error
	got := 0
	err := etx.ScanIndex("by_tail", engine.Range{}, func(ik, k, v []byte) bool {
		got++
		row, ok := m[rowKey(dbTables[0], k)]
		if !ok || row != string(v) || !bytes.Equal(ik, v[len(v)-1:]) {
			bad = fmt.Errorf("index by_tail: entry %x of row %q does not fit the table", ik, k)
		}
		return bad == nil
	})
	if err == nil && bad == nil && got != want {
		bad = fmt.Errorf("index by_tail has %d entries, the table %d", got, want)
	}
	return errors.Join(err, bad)
}

// dbCrash names one crash state of a store's history.
type dbCrash struct {
	History *dbHistory
	Trace   []byte
	N       int
	Policy  simdisk.Policy
	Seed    uint64
}

func (c dbCrash) save() string {
	var trace, out bytes.Buffer
	err := c.History.trace.Save(&trace)
	c.Trace = trace.Bytes()
	if err == nil {
		err = gob.NewEncoder(&out).Encode(c)
	}
	name := filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d-%d.dbcrash", c.History.Config.Name, c.N, c.Seed))
	if err == nil {
		err = os.WriteFile(name, out.Bytes(), 0o644)
	}
	if err != nil {
		return "not saved: " + err.Error()
	}
	return name
}

func loadDBCrash(name string) (c dbCrash, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return c, err
	}
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&c); err != nil {
		return c, err
	}
	c.History.trace, err = simdisk.LoadTrace(bytes.NewReader(c.Trace))
	c.History.finish()
	return c, err
}
