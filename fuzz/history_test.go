package fuzz

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

const logDir = "/data/wal"

// logConfig is what a recorded workload needs to be opened again.
type logConfig struct {
	Name        string
	Seed        uint64
	SegmentSize int64
	BlockSize   int
	Encrypted   bool
}

func (c logConfig) options(d *simdisk.Disk, seed uint64) wal.Options {
	o := wal.Options{
		FS: d, SegmentSize: c.SegmentSize, BlockSize: c.BlockSize,
		RingBytes: []int64{-1, 8 << 10, 64 << 10}[seed%3], // small: the ring is allocated at Open
		Rand:      seededReader(seed), Now: func() time.Time { return time.Unix(1_700_000_000, 0) },
	}
	if c.Encrypted {
		o.Key = bytes.Repeat([]byte{7}, wal.KeySize)
	}
	return o
}

// seededReader stands in for crypto/rand.
func seededReader(seed uint64) *lockedChaCha {
	var key [32]byte
	num(func(b []byte) (int, error) { return copy(key[:], b), nil }, seed)
	return &lockedChaCha{r: rand.NewChaCha8(key)}
}

type lockedChaCha struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (l *lockedChaCha) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// history is a recorded workload: what was done to the log, when it was
// acknowledged, and every disk operation.
type history struct {
	Config logConfig
	Steps  []*step
	Clean  []int // operation counts at which Close had returned
	// Refused are the steps that a full disk refused: nothing of them may be
	// seen but the commit index that the owner had named before, which the first
	// batch of a new segment may carry.
	Refused []*step

	// A second life starts with what the first one left.
	Base   *logModel // what Open showed; nil: an empty log
	From   int       // operations before the second life
	Opened int       // operations when Open had returned
	Before []digest  // what a crash before Opened may show
	Commit uint64    // commit index that Open showed

	trace *simdisk.Trace

	digests  []digest // digests[k]: the model after k steps
	metaKeys []string
}

// finish computes the model after every step.
func (h *history) finish() {
	m := h.start()
	h.digests = append(h.digests[:0], m.digest())
	seen := map[string]bool{}
	for k := range m.Meta {
		seen[k] = true
		h.metaKeys = append(h.metaKeys, k)
	}
	for _, s := range h.Steps {
		m.apply(s)
		h.digests = append(h.digests, m.digest())
		if s.Kind == stepMeta && !seen[s.Key] {
			seen[s.Key] = true
			h.metaKeys = append(h.metaKeys, s.Key)
		}
	}
}

// start is the model before the first step.
func (h *history) start() *logModel {
	if h.Base == nil {
		return newLogModel()
	}
	return h.Base.clone()
}

// modelAt is the model after k steps.
func (h *history) modelAt(k int) *logModel {
	m := h.start()
	for _, s := range h.Steps[:k] {
		m.apply(s)
	}
	return m
}

// window returns the smallest and largest number of steps that a crash after n
// operations may show.
func (h *history) window(n int) (acked, begun int) {
	for i, s := range h.Steps {
		if s.Acked <= n {
			acked = i + 1
		}
		if s.Begun <= n { // operation n itself may have begun (Policy.Partial)
			begun = i + 1
		}
	}
	return acked, max(acked, begun)
}

// commitRange returns the commit indexes that the log may show after a crash
// after n operations: at least the one carried by the last acknowledged batch.
func (h *history) commitRange(n int) (lo, hi uint64) {
	lo, hi = h.Commit, h.Commit
	for _, s := range h.Steps {
		if s.Acked <= n && s.Kind == stepAppend {
			lo = s.Commit
		}
		if s.Begun <= n {
			hi = s.Commit
		}
	}
	for _, s := range h.Refused {
		if s.Begun <= n {
			hi = max(hi, s.Commit)
		}
	}
	return lo, max(lo, hi)
}

// find returns the number of steps in [lo,hi] whose model has this digest.
func (h *history) find(d digest, lo, hi int) (int, bool) {
	for k := hi; k >= lo; k-- {
		if h.digests[k] == d {
			return k, true
		}
	}
	return 0, false
}

// crash names one crash state of a history.
type crash struct {
	History *history
	Trace   []byte // saved simdisk trace
	N       int
	Policy  simdisk.Policy
	Seed    uint64
}

// save stores a crash so that TestCrashReplay can repeat it and returns the
// file's name.
func (c crash) save() string {
	var buf bytes.Buffer
	if err := c.History.trace.Save(&buf); err != nil {
		return "not saved: " + err.Error()
	}
	c.Trace = buf.Bytes()
	var out bytes.Buffer
	if err := gob.NewEncoder(&out).Encode(c); err != nil {
		return "not saved: " + err.Error()
	}
	name := filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d-%d.crash", c.History.Config.Name, c.N, c.Seed))
	if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
		return "not saved: " + err.Error()
	}
	return name
}

func loadCrash(name string) (c crash, err error) {
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

// recorder runs a workload on a log and writes the history.
type recorder struct {
	d   *simdisk.Disk
	cfg logConfig
	rng *rand.Rand
	l   *wal.Log
	h   *history

	// tolerant: this error of the disk is expected. ErrFailed ends the workload
	// (dead); ErrNoSpace, and the error itself while the log has not failed,
	// mean that nothing was written. Any other error still counts as a bug.
	tolerant error
	dead     bool
	refused  int // steps that were refused, with nothing written

	mu      sync.Mutex // guards err and the Acked of steps in flight
	err     error
	wait    sync.WaitGroup
	next    uint64 // index of the next entry
	first   uint64
	term    uint64
	payload uint64
}

// record runs a script on a fresh disk.
func record(cfg logConfig, script func(*recorder)) (*history, error) {
	d, err := newDisk(cfg.Seed)
	if err != nil {
		return nil, err
	}
	r := newRecorder(d, cfg)
	r.open()
	script(r)
	r.settle()
	if r.l != nil {
		r.close()
	}
	return r.end(), r.err
}

// newDisk is a recording disk on which the parent of the log is durable; making
// that so is the caller's duty, not the log's.
func newDisk(seed uint64) (*simdisk.Disk, error) {
	d := simdisk.New(simdisk.Options{Seed: seed})
	err := errors.Join(d.MkdirAll("/data", 0o755), syncPath(d, "/"))
	d.Record()
	return d, err
}

func newRecorder(d *simdisk.Disk, cfg logConfig) *recorder {
	return &recorder{
		d: d, cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x106)), h: &history{Config: cfg},
		next: 1, first: 1, term: 1,
	}
}

// end returns the history. No step may be in flight.
func (r *recorder) end() *history {
	r.h.trace = r.d.Trace()
	r.h.finish()
	return r.h
}

func syncPath(d *simdisk.Disk, name string) error {
	f, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a handle of the simulated disk
	return f.Sync()
}

// fail keeps the first error; a recorder that failed does nothing more.
func (r *recorder) fail(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failLocked(err)
}

func (r *recorder) failLocked(err error) bool {
	if err != nil && r.err == nil {
		r.err = err
	}
	return r.err != nil
}

func (r *recorder) open() {
	if r.fail(nil) {
		return
	}
	l, err := wal.Open(logDir, r.cfg.options(r.d, r.cfg.Seed+uint64(r.d.Ops())))
	if !r.fail(err) {
		r.l = l
	}
}

func (r *recorder) close() {
	if r.fail(r.l.Close()) {
		return
	}
	r.l = nil
	r.h.Clean = append(r.h.Clean, r.d.Ops())
}

func (r *recorder) reopen() {
	r.settle()
	if !r.fail(nil) {
		r.close()
		r.open()
	}
}

// settle waits until every append was acknowledged.
func (r *recorder) settle() {
	r.wait.Wait()
	if r.l != nil {
		_ = atRest(r.l)
	}
}

// atRest waits until the log has written the end mark of its last batch, which
// it does after the batch was acknowledged: a kill in between leaves a log
// whose last batch nothing vouches for. TruncateBack behind the end changes
// nothing, but waits.
func atRest(l *wal.Log) error { return l.TruncateBack(math.MaxUint64) }

// entries makes n entries of up to size bytes, each unlike any other.
func (r *recorder) entries(n, size int) []wal.Entry {
	es := make([]wal.Entry, n)
	room := r.cfg.SegmentSize/2 - 1024 // one append may hold half a segment, headers of records included
	for i := range es {
		r.payload++
		data := make([]byte, min(int64(r.rng.IntN(size+1)), room))
		room -= int64(len(data))
		chacha := seededReader(r.cfg.Seed<<20 + r.payload)
		chacha.Read(data) //nolint:errcheck // never fails
		if r.rng.IntN(4) == 0 {
			clear(data) // zeros must not look like the end of the log
		}
		es[i] = wal.Entry{Index: r.next, Term: r.term, Type: wal.EntryType(1 + r.rng.IntN(255)), Data: data}
		r.next++
	}
	return es
}

// begin notes a step that is about to be called.
func (r *recorder) begin(s *step) *step {
	s.Begun, s.Acked = r.d.Ops(), never
	r.mu.Lock()
	s.Commit = r.h.Commit + uint64(len(r.h.Steps)) + 1 // any growing number will do
	r.l.SetCommitIndex(s.Commit)
	r.h.Steps = append(r.h.Steps, s)
	r.mu.Unlock()
	return s
}

// append appends n entries and waits.
func (r *recorder) append(n, size int) {
	before, refused := r.next, r.refused
	r.appendAsync(n, size)
	r.settle()
	if r.refused > refused {
		r.next = before
	}
}

// appendAsync places n entries without waiting; several calls in a row share
// a group commit.
func (r *recorder) appendAsync(n, size int) {
	if r.fail(nil) {
		return
	}
	if r.dead {
		return
	}
	s := r.begin(&step{Kind: stepAppend, Entries: r.entries(n, size)})
	r.wait.Add(1)
	_, _, err := r.l.AppendAsync(s.Entries, completion{r, s})
	if err != nil {
		r.wait.Done()
		r.outcome(s, err)
	}
}

// outcome judges the error of a step that was not acknowledged.
func (r *recorder) outcome(s *step, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.tolerant != nil && errors.Is(err, wal.ErrFailed):
		r.dead = true
	case r.tolerant != nil && (errors.Is(err, wal.ErrNoSpace) || errors.Is(err, r.tolerant) && r.l.Err() == nil):
		r.refused++
		r.h.Refused = append(r.h.Refused, s)
		r.h.Steps = slices.DeleteFunc(r.h.Steps, func(x *step) bool { return x == s })
	default:
		r.failLocked(fmt.Errorf("%s: %w", s, err))
	}
}

// completion notes the moment of an acknowledgement.
type completion struct {
	r *recorder
	s *step
}

func (c completion) Complete(first, last uint64, err error) {
	defer c.r.wait.Done()
	if err != nil {
		c.r.outcome(c.s, err)
		return
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	switch {
	case first != c.s.Entries[0].Index || last != c.s.Entries[len(c.s.Entries)-1].Index:
		c.r.failLocked(fmt.Errorf("%s was acknowledged as %d..%d", c.s, first, last))
	default:
		c.s.Acked = c.r.d.Ops()
	}
}

// call runs a synchronous step.
func (r *recorder) call(s *step, fn func() error, done func()) {
	r.settle()
	if r.fail(nil) || r.dead {
		return
	}
	r.begin(s)
	if err := fn(); err != nil {
		r.outcome(s, err)
		return
	}
	s.Acked = r.d.Ops()
	done()
}

func (r *recorder) front(index uint64) {
	index = max(index, r.first)
	r.call(&step{Kind: stepFront, Index: index}, func() error { return r.l.TruncateFront(index) }, func() { r.first = index })
}

func (r *recorder) back(index uint64) {
	index = max(index, r.first)
	r.call(&step{Kind: stepBack, Index: index}, func() error { return r.l.TruncateBack(index) }, func() {
		r.next = index
		r.term++
	})
}

func (r *recorder) meta(key string, value []byte) {
	r.call(&step{Kind: stepMeta, Key: key, Value: value}, func() error { return r.l.SetMeta(key, value) }, func() {})
}
