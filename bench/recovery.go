package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/erlmcp/erlmcp/bench/logs"
	"github.com/erlmcp/erlmcp/bench/report"
)

// entries makes payloads which a reader can check without having kept them: the
// number of the entry, then bytes drawn from it.
type entries struct {
	pool []byte
	size int
}

// newEntries needs size >= 16.
func newEntries(size int, seed uint64) *entries {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	e := &entries{pool: make([]byte, 1<<20+size), size: size}
	_, _ = src.Read(e.pool) // never fails
	return e
}

// tail is everything behind the number.
func (e *entries) tail(n int) []byte {
	off := int(uint64(n) * 0x9e3779b97f4a7c15 >> 44) // 20 bits
	return e.pool[off : off+e.size-8]
}

// put writes entry n into dst, which has e.size bytes.
func (e *entries) put(dst []byte, n int) {
	binary.BigEndian.PutUint64(dst, uint64(n))
	copy(dst[8:], e.tail(n))
}

// number returns which entry got is, byte by byte; false when it is none.
func (e *entries) number(got []byte) (int, bool) {
	if len(got) != e.size {
		return 0, false
	}
	n := int(binary.BigEndian.Uint64(got))
	return n, bytes.Equal(got[8:], e.tail(n))
}

// fillCell writes c.Entries in synced batches. The process kills itself once the
// parent has the answer: nothing is closed.
func fillCell(c cell) (outcome, error) {
	e, err := logs.Pick([]string{c.Engine})
	if err != nil {
		return outcome{}, err
	}
	l, err := e[0].Open(c.Dir, logs.Options{SegmentSize: c.SegmentSize})
	if err != nil {
		return outcome{}, err
	}
	gen := newEntries(c.Size, c.Seed)
	store := make([]byte, c.Size*c.Batch)
	begin := time.Now()
	for n := 0; n < c.Entries; {
		var batch [][]byte
		for i := range min(c.Batch, c.Entries-n) {
			b := store[i*c.Size : (i+1)*c.Size]
			gen.put(b, n)
			batch = append(batch, b)
			n++
		}
		if err := l.AppendBatch(batch); err != nil {
			return outcome{}, err
		}
	}
	return outcome{Fill: time.Since(begin), Entries: c.Entries}, nil
}

// replayCell opens the log and reads everything. What the engine says against it
// is an answer, not a failure of the benchmark.
func replayCell(c cell) (outcome, error) {
	e, err := logs.Pick([]string{c.Engine})
	if err != nil {
		return outcome{}, err
	}
	gen := newEntries(c.Size, c.Seed)
	var o outcome
	begin := time.Now()
	l, err := e[0].Open(c.Dir, logs.Options{SegmentSize: c.SegmentSize})
	o.Open = time.Since(begin)
	if err != nil {
		o.Err = "open: " + err.Error()
		return o, nil
	}
	next := 0 // gaps are losses, anything else out of place is wrong data
	err = l.Replay(func(d []byte) error {
		n, ok := gen.number(d)
		if !ok || n < next || n >= c.Entries {
			o.Wrong++
			return nil
		}
		o.Entries++
		next = n + 1
		return nil
	})
	o.Read = time.Since(begin) - o.Open
	if err != nil {
		o.Err = "read: " + err.Error()
	}
	return o, nil // and no Close: it could only hide a finding or cost time
}

func runRecovery(args []string) error {
	c := newCommon("recovery", logs.Names(func(e logs.Engine) bool {
		// raw wraps: it holds its last 64 MiB only; our log fills alike by either name
		return e.Name != "raw" && e.Name != "erlmcp-grow"
	}), 3, args)
	size := c.flags.Int("size", 1024, "payload bytes")
	bytes := c.flags.Int("bytes", 1<<30, "payload bytes in all")
	batch := c.flags.Int("batch", 256, "entries per sync while filling")
	cleanup, err := c.parse()
	if err != nil {
		return err
	}
	defer cleanup()
	if _, err := logs.Pick(c.names()); err != nil {
		return err
	}
	all := map[string][]outcome{}
	for rep := range c.reps {
		for _, name := range c.names() {
			one := cell{
				Engine: name, Dir: filepath.Join(c.dir, "log"), Size: *size, Batch: *batch,
				Entries: *bytes / *size, Seed: c.seed + uint64(rep),
			}
			o, err := recoverOnce(one)
			if err != nil {
				return err
			}
			all[name] = append(all[name], o)
			if err := os.RemoveAll(one.Dir); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "recovery: repetition %d of %d done\n", rep+1, c.reps)
	}
	return c.finish(recoveryTable(c, all, *size, *bytes, *batch))
}

// recoverOnce fills, kills, reopens and reads. An engine which does not return
// every entry fails the run: a fast wrong answer is none.
func recoverOnce(c cell) (outcome, error) {
	unix.Sync()
	c.Kind = "fill"
	filled, err := start(c)
	if err != nil {
		return outcome{}, err
	}
	used, err := usedMB(c.Dir)
	if err != nil {
		return outcome{}, err
	}
	unix.Sync()
	c.Kind = "replay"
	o, err := start(c)
	if err != nil {
		return outcome{}, err
	}
	if o.Err != "" || o.Entries != c.Entries || o.Wrong > 0 {
		return o, fmt.Errorf("recovery: %s gave %d of %d entries, %d wrong, error %q", c.Engine, o.Entries, c.Entries, o.Wrong, o.Err)
	}
	o.Fill, o.DiskMB = filled.Fill, used
	return o, nil
}

func recoveryTable(c *common, all map[string][]outcome, size, bytes, batch int) string {
	mb := float64(bytes) / (1 << 20)
	t := report.NewTable("log", "fill MB/s", "open s", "open + read all s", "MB/s", "MB on disk")
	for _, name := range c.names() {
		var fill, open, total []time.Duration
		var disk []float64
		for _, o := range all[name] {
			fill, open = append(fill, o.Fill), append(open, o.Open)
			total, disk = append(total, o.Open+o.Read), append(disk, o.DiskMB)
		}
		sum := report.Median(total).Seconds()
		t.Row(name, fmt.Sprintf("%.0f", mb/report.Median(fill).Seconds()), fmt.Sprintf("%.2f", report.Median(open).Seconds()),
			fmt.Sprintf("%.2f", sum), fmt.Sprintf("%.0f", mb/sum), fmt.Sprintf("%.0f", report.Median(disk)))
	}
	return fmt.Sprintf("%.0f MiB in synced batches of %d × %d bytes, then kill -9, then reopen and read everything with a warm page cache; medians of %d.\n\n%s",
		mb, batch, size, c.reps, t)
}
