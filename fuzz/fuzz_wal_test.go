package fuzz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path"
	"runtime"
	"sync"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

// input hands out fuzz bytes; when they run out it gives zeros.
type input struct{ b []byte }

func (in *input) byte() byte {
	if len(in.b) == 0 {
		return 0
	}
	c := in.b[0]
	in.b = in.b[1:]
	return c
}

func (in *input) uint16() uint16 { return uint16(in.byte()) | uint16(in.byte())<<8 }

func (in *input) empty() bool { return len(in.b) == 0 }

// edit changes up to 16 bytes at an offset of up to 64 KiB.
func (in *input) edit(b []byte) {
	off, n := int(in.uint16()), int(in.byte()%16)+1
	for i := 0; i < n && len(b) > 0; i++ {
		b[(off+i)%len(b)] = in.byte()
	}
}

// victims are built once per process; every fuzz execution works on a clone.
var victims = sync.OnceValues(func() ([]*specimen, error) {
	var out []*specimen
	for _, seed := range []uint64{4, 9, 5} { // plain, block 1024, encrypted
		cfg := config("victim", seed)
		d, err := newDisk(seed)
		if err != nil {
			return nil, err
		}
		r := newRecorder(d, cfg)
		r.open()
		for i := range 7 {
			r.append(1+r.rng.IntN(3), 9000)
			r.meta("vote", []byte{byte(i)})
		}
		r.back(r.next - 1)
		r.front(3)
		r.append(2, 300)
		if r.err != nil {
			return nil, r.err
		}
		r.close()
		h := r.end()
		s := &specimen{name: "victim", cfg: cfg, closed: true, body: body{dir: logDir, disk: d.Clone()}}
		s.model, s.keys = h.modelAt(len(h.Steps)), h.metaKeys
		out = append(out, s)
	}
	return out, nil
})

// FuzzLogDamage edits one file of a closed log at any places. The log must
// refuse, or show exactly what it held.
func FuzzLogDamage(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{0, 1, 0, 16, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 2, 44, 1, 3, 255, 255, 255, 255, 0, 128, 1, 1, 1})
	f.Add([]byte{2, 1, 200, 18, 7, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := logDamage(data); err != nil {
			t.Fatal(err)
		}
	})
}

func logDamage(data []byte) error {
	all, err := victims()
	if err != nil {
		return err
	}
	in := &input{data}
	s := all[int(in.byte())%len(all)]
	files := s.disk.Files()
	name := files[int(in.byte())%len(files)]
	b, err := s.disk.ReadFile(name)
	if err != nil {
		return err
	}
	for n := 0; n < 64 && !in.empty(); n++ {
		in.edit(b)
	}
	whole := region{name, "", 0, int64(len(b))}
	hurt := injury{
		what: "edited " + name, class: "file", files: []string{name}, ranges: []region{whole},
		do: func(d *simdisk.Disk) error { return d.WriteFile(name, b) },
	}
	if _, err := s.suffer(hurt); err != nil {
		return err
	}
	return nil
}

// FuzzLogForged edits a segment and then makes all checksums valid again, as a
// bug of ours or an attacker with the log's identity could. The decoders must
// take every length, count and index with suspicion: no panic, no endless
// loop, no allocation beyond what the files can hold.
func FuzzLogForged(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{0, 1, 16, 16, 3, 255, 255, 255, 255})     // body length
	f.Add([]byte{0, 1, 20, 16, 3, 255, 255, 255, 255})     // record count
	f.Add([]byte{0, 1, 52, 16, 3, 255, 255, 255, 255})     // length of the first record
	f.Add([]byte{0, 1, 56, 16, 7, 0, 0, 0, 0, 0, 0, 0, 0}) // its index
	f.Add([]byte{0, 1, 176, 255, 7, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Add([]byte{1, 1, 192, 255, 3, 255, 255, 255, 127})
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := logForged(data); err != nil {
			t.Fatal(err)
		}
	})
}

func logForged(data []byte) error {
	all, err := victims()
	if err != nil {
		return err
	}
	in := &input{data}
	s := all[int(in.byte())%len(all)]
	files := s.disk.Files()
	name := files[int(in.byte())%len(files)]
	b, err := s.disk.ReadFile(name)
	if err != nil {
		return err
	}
	for n := 0; n < 16 && !in.empty(); n++ {
		in.edit(b)
	}
	if path.Ext(name) == ".seg" {
		reseal(b)
	}
	d := s.disk.Clone()
	if err := d.WriteFile(name, b); err != nil {
		return err
	}
	if err := bounded(128<<20, func() error { return openAndReadAll(d, s.cfg) }); err != nil {
		return err
	}
	return nil
}

// openAndReadAll looks at a log in every way. Only an error without a type is
// an error here.
func openAndReadAll(d *simdisk.Disk, cfg logConfig) error {
	o := cfg.options(d, 0)
	var records int
	_, err := wal.Inspect(d, logDir, wal.InspectOptions{Key: o.Key}, wal.Visitor{
		Segment: func(wal.SegmentInfo) error { return nil },
		Batch:   func(wal.BatchInfo) error { return nil },
		Record:  func(r wal.RecordInfo) error { records += len(r.Entry.Data); return nil },
	})
	if err != nil && !typed(err) {
		return fmt.Errorf("inspect: %w", err)
	}
	l, err := wal.Open(logDir, o)
	if err != nil {
		if !typed(err) {
			return fmt.Errorf("open: %w", err)
		}
		return nil
	}
	defer l.Close() //nolint:errcheck // only looked at
	n := 0
	err = l.Iterate(l.FirstIndex(), func(e wal.Entry) error {
		if n++; n > 1<<20 {
			return errors.New("more entries than the files can hold")
		}
		return nil
	})
	if err != nil && !typed(err) {
		return fmt.Errorf("iterate: %w", err)
	}
	for _, i := range []uint64{0, l.FirstIndex(), l.LastIndex(), l.LastIndex() + 1} {
		if _, err := l.Get(i); err != nil && !typed(err) {
			return fmt.Errorf("get %d: %w", i, err)
		}
	}
	return nil
}

func typed(err error) bool {
	for _, want := range []error{
		wal.ErrCorrupt, wal.ErrNotFound, wal.ErrNotLog, wal.ErrVersion, wal.ErrKeyRequired, wal.ErrWrongKey, wal.ErrInvalid, wal.ErrNoSpace,
	} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// bounded runs fn and reports if it allocated more than limit bytes.
func bounded(limit uint64, fn func() error) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := fn()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; err == nil && n > limit {
		return fmt.Errorf("%d bytes were allocated", n)
	}
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// reseal makes the checksums of a plain segment valid, whatever it says. It
// follows docs/format.md and shares nothing with the code under test.
func reseal(b []byte) {
	le := binary.LittleEndian
	for _, off := range []int{0, 2048} {
		copy(b[off:], "erlmcpWS")
		le.PutUint32(b[off+124:], crc32.Checksum(b[off:off+124], castagnoli))
	}
	var in [56]byte
	copy(in[:16], b[56:72])
	copy(in[16:24], b[24:32])
	copy(in[24:], b[72:104])
	sum := blake3.Sum256(in[:])
	seed := le.Uint32(sum[:])
	chain := append([]byte(nil), b[72:104]...)
	at := int64(4096)
	for at+48 <= int64(len(b)) && string(b[at:at+4]) == "BATC" {
		body := int64(le.Uint32(b[at+16:]))
		end := at + 48 + body + 128
		le.PutUint32(b[at+4:], crc32.Update(seed, castagnoli, b[at+8:at+48]))
		if end > int64(len(b)) {
			break
		}
		resealRecords(b[at+48:at+48+body], seed)
		tr := b[end-128 : end]
		copy(tr, "TRLR")
		h := blake3.New()
		h.Write(chain)           //nolint:errcheck // a hash never fails
		h.Write(b[at : end-128]) //nolint:errcheck
		h.Write(tr[8:96])        //nolint:errcheck
		chain = h.Sum(nil)
		copy(tr[96:], chain)
		le.PutUint32(tr[4:], crc32.Update(seed, castagnoli, tr[8:]))
		block := max(512, int64(le.Uint32(b[12:])&0x1e00))
		at = (end + block - 1) / block * block
	}
	if at+64 <= int64(len(b)) && string(b[at:at+4]) == "ENDM" {
		le.PutUint32(b[at+4:], crc32.Update(seed, castagnoli, b[at+8:at+64]))
	}
	ft := b[len(b)-128:]
	if string(ft[:8]) != "erlmcpWF" {
		return
	}
	if from := le.Uint64(ft[56:]); from < uint64(len(b)-128) {
		le.PutUint32(ft[64:], crc32.Checksum(b[from:len(b)-128], castagnoli))
	}
	le.PutUint32(ft[124:], crc32.Update(seed, castagnoli, ft[:124]))
}

func resealRecords(body []byte, seed uint32) {
	for len(body) >= 24 {
		n := int(binary.LittleEndian.Uint32(body[4:]) & (1<<31 - 1))
		if n > len(body)-24 {
			n = len(body) - 24
		}
		binary.LittleEndian.PutUint32(body, crc32.Update(seed, castagnoli, body[4:24+n]))
		body = body[min((24+n+7)&^7, len(body)):]
	}
}

// FuzzCrashRecovery turns bytes into a workload, a fault, a crash and a second
// life, and holds the log against the model.
func FuzzCrashRecovery(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x40\x00\x03aaaaffffmmmm"))
	f.Add([]byte("\x05\x07\x02\xff\x00\x10aAbBcCdDeEfFgGhH0123456789"))
	f.Add([]byte("\x02\x01\x09\x20\x01\x13zzzzyyyyxxxxwwww\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add([]byte("\x01\x04\x30\x99\x00\x08\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := crashRecovery(data); err != nil {
			t.Fatal(err)
		}
	})
}

func crashRecovery(data []byte) error {
	in := &input{data}
	cfg := config("fuzz", uint64(in.byte()))
	kind := int(in.byte()) % (len(faultKinds) + 1)
	nth, at, policy := int(in.byte())+1, int(in.uint16()), int(in.byte())
	d, err := newDisk(cfg.Seed)
	if err != nil {
		return err
	}
	r := newRecorder(d, cfg)
	r.open()
	if r.err != nil {
		return r.err
	}
	if kind < len(faultKinds) {
		fault := faultKinds[kind].fault
		fault.Nth = nth
		r.tolerant = fault.Err
		d.Inject(fault)
	}
	for n := 0; n < 48 && !in.empty() && !r.dead; n++ {
		r.byByte(in.byte())
	}
	r.settle()
	if r.err != nil {
		return r.err
	}
	l := r.l
	h := r.end()
	l.Close() //nolint:errcheck // the trace is taken
	x := crash{History: h, N: at % (h.trace.Len() + 1), Policy: simdisk.Policies()[policy%len(simdisk.Policies())], Seed: uint64(at)}
	c := h.trace.Cursor()
	c.Seek(x.N)
	if err := x.check(c); err != nil {
		return &failure{x, err}
	}
	if f := again(h, c, rand.New(rand.NewPCG(uint64(at), uint64(policy))), &tally{}); f != nil {
		return f
	}
	return nil
}

// byByte does one step that a byte stands for.
func (r *recorder) byByte(b byte) {
	switch arg := int(b >> 3); b & 7 {
	case 0:
		r.append(1, arg*700)
	case 1, 2:
		r.append(1+arg%4, arg*60)
	case 3:
		r.meta(fmt.Sprintf("m%d", arg%3), seedBytes(r.rng, arg))
	case 4:
		if r.next > r.first {
			r.front(r.first + uint64(arg)%(r.next-r.first+1))
		}
	case 5:
		if r.next > r.first {
			r.back(r.first + uint64(arg)%(r.next-r.first))
		}
	case 6:
		if r.tolerant == nil {
			r.reopen()
		}
	default:
		r.append(2, arg*400)
	}
}
