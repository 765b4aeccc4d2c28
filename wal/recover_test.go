package wal

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// image is a log's directory to be damaged.
type image struct {
	t        *testing.T
	r        *rig
	segments []SegmentInfo
	batches  []BatchInfo
}

// inspectImage closes nothing: it takes what a kill -9 would leave.
func (r *rig) image() *image {
	r.t.Helper()
	if r.log != nil {
		r.crash()
	}
	m := &image{t: r.t, r: r}
	_, err := Inspect(r.fs, "db/wal", InspectOptions{Key: r.o.Key}, Visitor{
		Segment: func(s SegmentInfo) error { m.segments = append(m.segments, s); return nil },
		Batch:   func(b BatchInfo) error { m.batches = append(m.batches, b); return nil },
	})
	require.NoError(r.t, err)
	return m
}

func (m *image) path(id uint64) string { return "db/wal/" + segmentName(id) }

func (m *image) read(id uint64, off int64, n int) []byte {
	f, err := m.r.fs.Open(m.path(id))
	require.NoError(m.t, err)
	defer f.Close()
	b := make([]byte, n)
	_, err = f.ReadAt(b, off)
	require.NoError(m.t, err)
	return b
}

func (m *image) write(id uint64, off int64, b []byte) {
	f, err := m.r.fs.OpenReadWrite(m.path(id), vfs.WriteCategoryUnspecified)
	require.NoError(m.t, err)
	_, err = f.WriteAt(b, off)
	require.NoError(m.t, err)
	require.NoError(m.t, f.Close())
}

func (m *image) flip(id uint64, off int64) {
	b := m.read(id, off, 1)
	m.write(id, off, []byte{b[0] ^ 4})
}

func (m *image) zero(id uint64, off int64, n int) { m.write(id, off, make([]byte, n)) }

func (m *image) last() SegmentInfo { return m.segments[len(m.segments)-1] }

// forget removes the head marks from LOG, as if the log had never been idle.
func (m *image) forget() *image {
	f, err := m.r.fs.OpenReadWrite("db/wal/LOG", vfs.WriteCategoryUnspecified)
	require.NoError(m.t, err)
	_, err = f.WriteAt(make([]byte, logFileSize-headMarkStride), headMarkStride)
	require.NoError(m.t, err)
	require.NoError(m.t, f.Close())
	return m
}

// inSegment returns the batches of a segment.
func (m *image) inSegment(id uint64) (bs []BatchInfo) {
	for _, b := range m.batches {
		if b.Segment == id {
			bs = append(bs, b)
		}
	}
	return bs
}

func (m *image) end() BatchInfo { return m.batches[len(m.batches)-1] }

// refused checks that Open names the damage, changes no file, and that
// Inspect reports the same.
func (m *image) refused(kind string, segment uint64) *CorruptError {
	m.t.Helper()
	before := m.dump()
	_, err := Open("db/wal", m.r.o)
	require.ErrorIs(m.t, err, ErrCorrupt)
	var c *CorruptError
	require.ErrorAs(m.t, err, &c)
	require.Equal(m.t, kind, c.Kind, "%v", err)
	require.Equal(m.t, segment, c.Segment, "%v", err)
	require.NotEmpty(m.t, c.Advice)
	require.Equal(m.t, before, m.dump(), "a refused log must not be changed")
	rep, err := Inspect(m.r.fs, "db/wal", InspectOptions{Key: m.r.o.Key}, Visitor{})
	require.NoError(m.t, err)
	require.False(m.t, rep.Clean)
	require.NotEmpty(m.t, rep.Damage())
	return c
}

func (m *image) dump() map[string]string {
	out := map[string]string{}
	names, err := m.r.fs.List("db/wal")
	require.NoError(m.t, err)
	for _, n := range names {
		b, err := readFile(m.r.fs, "db/wal/"+n, 1<<20)
		require.NoError(m.t, err)
		out[n] = string(b)
	}
	return out
}

// repaired checks that the log opens with everything, says what it mended,
// and is clean afterwards.
func (m *image) repaired(kind string, last uint64) {
	m.t.Helper()
	m.r.open().holds(1, last)
	require.NotEmpty(m.t, m.r.log.Recovery().Repairs)
	require.Equal(m.t, kind, m.r.log.Recovery().Repairs[0].Kind)
	m.r.reopen().holds(1, last)
	require.Empty(m.t, m.r.log.Recovery().Repairs, "repaired means repaired")
}

type row struct {
	row  int
	name string
	run  func(t *testing.T)
}

// headMarkRows: the head mark in LOG closes what the tail alone cannot tell.
func headMarkRows(n int) []row {
	return []row{
		{21, "a wiped newest segment is noticed after a clean stop", func(t *testing.T) {
			m := newRig(t).open().fill(n).close().image()
			m.zero(m.last().ID, 0, minSegmentSize)
			require.Equal(t, uint64(n), m.refused(KindMissingSegment, m.last().ID).LastIndex)
		}},
		{21, "a wiped end of the log is noticed after a clean stop", func(t *testing.T) {
			m := newRig(t).open().fill(n).close().image()
			e := m.end()
			m.zero(e.Segment, e.Offset, int(m.last().Tail-e.Offset)+endMarkSize)
			c := m.refused(KindBadBatch, e.Segment)
			require.Contains(t, c.Message, "head mark")
			require.Equal(t, e.Offset, c.Offset)
		}},
		{21, "a wiped newest segment is noticed after kill -9", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			m.zero(m.last().ID, 0, minSegmentSize)
			m.refused(KindMissingSegment, m.last().ID)
		}},
		{21, "a torn head mark leaves the older one", func(t *testing.T) {
			m := newRig(t).open().fill(n).close().image()
			b, err := readFile(m.r.fs, "db/wal/LOG", logFileSize)
			require.NoError(t, err)
			for i := 1; i <= 2; i++ {
				require.NotEqual(t, make([]byte, headMarkSize), b[i*headMarkStride:][:headMarkSize])
				f, err := m.r.fs.OpenReadWrite("db/wal/LOG", vfs.WriteCategoryUnspecified)
				require.NoError(t, err)
				_, err = f.WriteAt([]byte("torn"), int64(i*headMarkStride+20))
				require.NoError(t, err)
				require.NoError(t, f.Close())
				m.r.open().holds(1, uint64(n)).close()
			}
		}},
	}
}

// headMarks returns the head marks in LOG, the older one first.
func (m *image) headMarks() []headMark {
	id, err := readFile(m.r.fs, "db/wal/LOG", logFileSize)
	require.NoError(m.t, err)
	d, _, err := decodeIdentity(id)
	require.NoError(m.t, err)
	var marks []headMark
	for i := 1; i <= 2; i++ {
		h, err := decodeHeadMark(id[i*headMarkStride:], d.logID)
		require.NoError(m.t, err)
		marks = append(marks, h)
	}
	slices.SortFunc(marks, func(a, b headMark) int { return compareUint(a.sequence, b.sequence) })
	return marks
}

// setHead makes the head mark in LOG say that the last batch of a segment was
// the newest durable one.
func (m *image) setHead(segment uint64) *image {
	m.t.Helper()
	m.forget()
	var s SegmentInfo
	for _, x := range m.segments {
		if x.ID == segment {
			s = x
		}
	}
	require.NotZero(m.t, s.ID)
	bs := m.inSegment(segment)
	id, err := readFile(m.r.fs, "db/wal/LOG", logFileSize)
	require.NoError(m.t, err)
	d, _, err := decodeIdentity(id)
	require.NoError(m.t, err)
	mark := headMark{sequence: 9, segment: segment, number: bs[len(bs)-1].Number, lastIndex: s.LastIndex, offset: uint64(s.Tail), chain: s.Chain}
	b := make([]byte, headMarkSize)
	mark.encode(b, d.logID)
	f, err := m.r.fs.OpenReadWrite("db/wal/LOG", vfs.WriteCategoryUnspecified)
	require.NoError(m.t, err)
	_, err = f.WriteAt(b, 2*headMarkStride)
	require.NoError(m.t, err)
	require.NoError(m.t, f.Close())
	return m
}

// The marks that a killed process left may be in the page cache only; they are
// made durable before one of them is overwritten.
func TestHeadMarksAreDurableAfterOpen(t *testing.T) {
	ffs := &faultyFS{free: 1 << 40}
	r := newRig(t).open().fill(40).crash()
	ffs.FS, r.o.FS = r.fs, ffs
	r.open()
	ffs.mu.Lock()
	defer ffs.mu.Unlock()
	require.Positive(t, ffs.syncs["db/wal/LOG"])
}

// A file system that copies on write may have no room for a head mark. The log
// goes on, and does not believe that it wrote one.
func TestARefusedHeadMarkIsWrittenLater(t *testing.T) {
	ffs := &faultyFS{free: 1 << 40}
	r := newRig(t)
	ffs.FS, r.o.FS = r.fs, ffs
	r.open().fill(3)
	before := r.log.head
	ffs.mu.Lock()
	ffs.onWrite = func(p []byte) error {
		if bytes.HasPrefix(p, []byte(magicHead)) {
			return syscall.ENOSPC
		}
		return nil
	}
	ffs.mu.Unlock()
	r.fill(2 * headMarkEvery)
	require.NoError(t, r.log.TruncateBack(math.MaxUint64)) // waits
	ffs.mu.Lock()
	ffs.onWrite = nil
	ffs.mu.Unlock()
	r.fill(1)
	require.NoError(t, r.log.TruncateBack(math.MaxUint64))
	require.Equal(t, before.segment, r.log.tail.seg.id, "no activation wrote a mark")
	marks := (&image{t: t, r: r}).headMarks()
	require.Equal(t, uint64(3+2*headMarkEvery+1), marks[1].lastIndex)
}

// strayRows: an old header of an earlier segment in the file that comes next.
func strayRows(n int) []row {
	// torn returns a log whose newest segment was being activated, with the old
	// header of segment 1 in its place and the state batch there or not.
	torn := func(t *testing.T, edit func(r *rig)) *image {
		r := newRig(t).open().fill(n)
		require.NoError(t, r.log.TruncateBack(uint64(n)))
		if edit != nil {
			edit(r)
		}
		m := r.image()
		m.write(m.last().ID, 0, m.read(1, 0, dataStart))
		return m
	}
	return []row{
		{22, "an old header in the sectors of a torn activation is no segment", func(t *testing.T) {
			for _, whole := range []bool{true, false} {
				m := torn(t, nil)
				s := m.last()
				m.setHead(s.ID-1).zero(s.ID, s.Tail, endMarkSize)
				if !whole {
					m.zero(s.ID, dataStart, minSegmentSize-dataStart)
				}
				rep, err := Inspect(m.r.fs, "db/wal", InspectOptions{}, Visitor{})
				require.NoError(t, err)
				require.True(t, rep.Clean)
				require.True(t, rep.TornTail)
				m.r.open().holds(1, uint64(n))
				rec := m.r.log.Recovery()
				require.NotNil(t, rec.TornTail)
				require.Equal(t, s.ID, rec.TornTail.Segment)
				require.Contains(t, rec.TornTail.Message, "old header of segment 1")
				m.r.fill(5).reopen().holds(1, uint64(n)+5)
				require.Nil(t, m.r.log.Recovery().TornTail)
				require.Empty(t, m.r.log.Recovery().Repairs)
			}
		}},
		{22, "an old header in a prepared segment is wiped", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			next := m.last().ID + 1
			if _, err := m.r.fs.Stat(m.path(next)); err != nil {
				require.NoError(t, prepareSegment(m.r.fs, "db/wal", next, minSegmentSize))
			}
			m.write(next, 0, m.read(1, 0, dataStart))
			m.repaired(KindMisplaced, uint64(n))
			m.r.fill(3*n).reopen().holds(1, uint64(4*n))
		}},
		{22, "an old header in a segment that a head mark names is refused", func(t *testing.T) {
			m := torn(t, nil)
			c := m.refused(KindMisplaced, m.last().ID)
			require.Contains(t, c.Message, "holds segment 1")
		}},
		{22, "an old header in a segment that holds acknowledged batches is refused", func(t *testing.T) {
			m := torn(t, func(r *rig) { r.fill(4) })
			m.setHead(m.last().ID - 1) // even if both head marks went with it
			c := m.refused(KindBadHeader, m.last().ID)
			require.Contains(t, c.Message, "belongs to segment 1")
		}},
		{22, "an old header is refused when no head mark tells", func(t *testing.T) {
			m := torn(t, nil)
			m.forget().refused(KindMisplaced, m.last().ID)
		}},
		{22, "an old header is refused when LOG is lost", func(t *testing.T) {
			m := torn(t, nil)
			require.NoError(t, m.r.fs.Remove("db/wal/LOG"))
			m.refused(KindMisplaced, m.last().ID)
		}},
		{22, "a copy of an earlier segment in place of the newest one is refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			m.write(m.last().ID, 0, m.read(1, 0, minSegmentSize))
			m.refused(KindMisplaced, m.last().ID)
		}},
		{22, "a later header, or one of another log, is never a torn activation", func(t *testing.T) {
			m := torn(t, nil)
			s := m.last()
			m.setHead(s.ID - 1)
			other := newRig(t, func(o *Options) { o.Rand = nil }).open().fill(5).image()
			m.write(s.ID, 0, other.read(1, 0, dataStart))
			m.refused(KindMisplaced, s.ID)
			h, err := decodeSegmentHeader(m.read(1, 0, headerSize))
			require.NoError(t, err)
			h.id = s.ID + 3
			b := make([]byte, headerSize)
			h.encode(b)
			m.zero(s.ID, 0, dataStart)
			m.write(s.ID, 0, b)
			m.refused(KindMisplaced, s.ID)
		}},
		{22, "an old header without the segment before it is refused", func(t *testing.T) {
			m := torn(t, nil)
			s := m.last()
			m.setHead(s.ID - 1)
			require.NoError(t, m.r.fs.Remove(m.path(s.ID-1)))
			m.refused(KindMisplaced, s.ID)
		}},
	}
}

// A torn write of a head mark must not take away the newest one that is
// certainly on disk.
func TestAHeadMarkNeverOverwritesTheNewestDurableOne(t *testing.T) {
	r := newRig(t).open()
	seen := 0
	for range 8 {
		r.fill(3 * headMarkEvery) // idle marks, not synced
		certain := r.log.headSynced
		require.NoError(t, r.log.TruncateBack(math.MaxUint64)) // waits until the idle marks are written
		if r.log.head.sequence == certain {
			r.reopen()
			continue // the fill ended right behind a rotation
		}
		seen++
		marks := (&image{t: t, r: r}).headMarks()
		require.Equal(t, certain, marks[0].sequence, "the synced mark is still there")
		require.Equal(t, r.log.head.sequence, marks[1].sequence)
		r.reopen()
	}
	require.Positive(t, seen, "idle marks were written")
}

// The rows of the decision table in recover.go. Each names what it proves.
func TestRecoveryDecisionTable(t *testing.T) {
	const n = 120
	rows := []row{
		{1, "an idle log ends clean after kill -9", func(t *testing.T) {
			r := newRig(t).open().fill(n).crash().open().holds(1, n)
			require.Nil(t, r.log.Recovery().TornTail)
		}},
		{1, "zeros behind the last batch end the log", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			m.zero(m.last().ID, m.last().Tail, endMarkSize)
			m.r.open().holds(1, n)
			require.Nil(t, m.r.log.Recovery().TornTail)
		}},
		{2, "a torn last write is cut and reported", func(t *testing.T) {
			for _, cut := range []int{0, 40, batchHeaderSize, 600} {
				m := newRig(t).open().fill(n).image().forget()
				e := m.end()
				m.zero(e.Segment, m.last().Tail, endMarkSize)
				m.zero(e.Segment, e.Offset+int64(e.Length)-trailerSize, trailerSize)
				m.write(e.Segment, e.Offset+int64(cut), []byte("torn"))
				m.r.open().holds(1, n-1)
				torn := m.r.log.Recovery().TornTail
				require.NotNil(t, torn)
				require.Equal(t, e.Segment, torn.Segment)
				require.Equal(t, e.Offset, torn.Offset)
				require.Equal(t, uint64(n), torn.FirstIndex)
				m.r.fill(3).reopen().holds(1, n+2)
				require.Nil(t, m.r.log.Recovery().TornTail)
			}
		}},
		{2, "a lost first sector with the rest in place is a torn write", func(t *testing.T) {
			m := newRig(t).open().fill(n).image().forget()
			e := m.end()
			m.zero(e.Segment, m.last().Tail, endMarkSize)
			m.zero(e.Segment, e.Offset, 512)
			m.r.open().holds(1, n-1)
			require.NotNil(t, m.r.log.Recovery().TornTail)
			// What remains of it never counts as evidence against later batches.
			m.r.fill(1)
			m = m.r.image().forget()
			e = m.end()
			m.zero(e.Segment, e.Offset, int(m.last().Tail-e.Offset)+endMarkSize)
			m.r.open().holds(1, n-1)
		}},
		{2, "payloads that imitate marks, trailers and headers prove nothing", func(t *testing.T) {
			r := newRig(t).open().fill(10)
			var fake []byte
			seed := uint32(0xdeadbeef) // who chooses payloads does not know the seed
			for range 4 {
				b := make([]byte, 512)
				(&endMark{number: 999, lastIndex: 999}).encode(b, seed)
				(&batchHeader{number: 999, bodyLen: 8, count: 1}).encode(b[128:], seed)
				(&batchTrailer{number: 999, segmentID: 1, length: 128}).encode(b[256:])
				fake = append(fake, b...)
			}
			_, err := r.log.Append(Entry{Type: 1, Data: append(make([]byte, 512), fake...)})
			require.NoError(t, err)
			m := r.image().forget()
			e := m.end()
			m.zero(e.Segment, m.last().Tail, endMarkSize)
			m.write(e.Segment, e.Offset, bytes.Repeat([]byte("torn"), 128))
			m.zero(e.Segment, e.Offset+int64(e.Length)-trailerSize, trailerSize)
			m.r.open().holds(1, 10)
			require.NotNil(t, m.r.log.Recovery().TornTail)
		}},
		{3, "the end mark proves the last batch", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			e := m.end()
			m.flip(e.Segment, e.Offset+batchHeaderSize+3)
			c := m.forget().refused(KindBadBatch, e.Segment)
			require.Equal(t, e.Offset, c.Offset)
			require.Equal(t, uint64(n), c.FirstIndex)
			require.Contains(t, c.Message, "a valid end mark")
		}},
		{3, "a later trailer proves a batch", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			bs := m.inSegment(m.last().ID)
			b := bs[len(bs)-2]
			m.zero(b.Segment, m.last().Tail, endMarkSize)
			m.zero(b.Segment, b.Offset, 512)
			require.Contains(t, m.forget().refused(KindBadBatch, b.Segment).Message, "a valid trailer")
		}},
		{3, "a later batch header proves a batch", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			bs := m.inSegment(m.last().ID)
			b, e := bs[len(bs)-2], bs[len(bs)-1]
			m.zero(b.Segment, m.last().Tail, endMarkSize)
			m.zero(e.Segment, e.Offset+int64(e.Length)-trailerSize, trailerSize)
			m.zero(b.Segment, b.Offset, 512)
			require.Contains(t, m.forget().refused(KindBadBatch, b.Segment).Message, "a valid batch header")
		}},
		{3, "an older end mark in place of newer batches is not the end", func(t *testing.T) {
			r := newRig(t).open().fill(n)
			m := r.image()
			stale := m.read(m.last().ID, m.last().Tail, 512)
			at := m.last().Tail
			m.r.open().fill(2)
			m = m.r.image()
			m.write(m.last().ID, at, stale)
			require.Equal(t, uint64(n+1), m.forget().refused(KindBadBatch, m.last().ID).FirstIndex)
		}},
		{3, "the footer of a sealed segment proves its last batch", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			last := m.last()
			prev := m.segments[len(m.segments)-2]
			bs := m.inSegment(prev.ID)
			require.NoError(t, m.r.fs.Remove(m.path(last.ID)))
			b := bs[len(bs)-1]
			m.zero(prev.ID, prev.Tail, endMarkSize)
			m.flip(prev.ID, b.Offset+batchHeaderSize)
			require.Contains(t, m.forget().refused(KindBadBatch, prev.ID).Message, "a valid footer")
		}},
		{4, "a crash between seal and activation continues in the next segment", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			require.NoError(t, m.r.open().log.TruncateBack(n)) // seals, next holds state only
			m = m.r.image().forget()
			s := m.last()
			m.zero(s.ID, 0, minSegmentSize)
			m.r.open().holds(1, n).fill(5).reopen().holds(1, n+5)
		}},
		{5, "a missing newest segment is noticed", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			require.NoError(t, m.r.fs.Remove(m.path(m.last().ID)))
			_ = m.r.fs.Remove(m.path(m.last().ID + 1)) // the prepared one
			m.refused(KindMissingSegment, m.last().ID)
		}},
		{5, "two missing newest segments are noticed", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			for id := m.last().ID - 1; id <= m.last().ID+1; id++ {
				_ = m.r.fs.Remove(m.path(id))
			}
			m.refused(KindMissingSegment, m.last().ID-1)
		}},
		{6, "a destroyed header of the newest segment is noticed by what follows it", func(t *testing.T) {
			m := newRig(t).open().fill(n).image().forget()
			m.zero(m.last().ID, 0, dataStart)
			m.refused(KindBadHeader, m.last().ID)
		}},
		{6, "a destroyed header of the only segment is noticed", func(t *testing.T) {
			m := newRig(t).open().fill(5).image()
			m.zero(1, 0, dataStart)
			m.refused(KindBadHeader, 1)
		}},
		{7, "a prepared segment of a fresh log is used", func(t *testing.T) {
			r := newRig(t)
			s := &survey{fs: r.fs, dir: "db/wal"}
			o, err := r.o.withDefaults()
			require.NoError(t, err)
			require.NoError(t, (&Log{dir: "db/wal", o: o, fs: r.fs}).create(s))
			s.close()
			r.open().fill(5).holds(1, 5)
		}},
		{8, "sealed segments continue each other", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			require.Greater(t, len(m.segments), 2)
			m.r.open().holds(1, n)
		}},
		{9, "damage in a sealed segment is refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			b := m.inSegment(2)[4]
			m.flip(2, b.Offset+int64(b.Length)-20)
			c := m.refused(KindBadBatch, 2)
			require.Equal(t, b.Offset, c.Offset)
			require.Equal(t, b.FirstIndex, c.FirstIndex)
			require.Equal(t, m.segments[2].FirstIndex-1, c.LastIndex)
		}},
		{11, "a header of another segment in one copy is a bad copy", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			m.write(1, headerCopy, m.read(2, 0, headerSize))
			m.repaired(KindHeaderCopy, n)
		}},
		{12, "a destroyed header of the only segment left names that segment", func(t *testing.T) {
			r := newRig(t).open().fill(n)
			require.NoError(t, r.log.TruncateFront(n))
			m := r.reopen().image()
			m.zero(m.last().ID, 0, dataStart)
			m.refused(KindBadHeader, m.last().ID)
		}},
		{9, "damage to the last batch of a sealed segment is refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			bs := m.inSegment(1)
			m.zero(1, bs[len(bs)-1].Offset, 512)
			m.refused(KindBadBatch, 1)
		}},
		{10, "a damaged footer is rewritten", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			m.flip(1, minSegmentSize-60)
			m.repaired(KindBadFooter, n)
		}},
		{10, "a damaged footer body is rewritten", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			m.flip(2, minSegmentSize-footerSize-5)
			m.repaired(KindBadFooter, n)
		}},
		{11, "one damaged header copy is rewritten", func(t *testing.T) {
			for _, off := range []int64{5, headerCopy + 60} {
				m := newRig(t).open().fill(n).image()
				m.flip(2, off)
				m.flip(m.last().ID, off)
				m.repaired(KindHeaderCopy, n)
			}
		}},
		{12, "both header copies of a used segment destroyed is refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			m.zero(2, 0, dataStart)
			m.refused(KindBadHeader, 2)
		}},
		{13, "swapped segments are refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			require.NoError(t, m.r.fs.Rename(m.path(1), "db/wal/x"))
			require.NoError(t, m.r.fs.Rename(m.path(2), m.path(1)))
			require.NoError(t, m.r.fs.Rename("db/wal/x", m.path(2)))
			m.refused(KindMisplaced, 1)
		}},
		{13, "a segment of another log is refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			o := newRig(t, func(o *Options) { o.Rand = nil }).open().fill(n).image()
			m.write(2, 0, o.read(2, 0, minSegmentSize))
			m.refused(KindMisplaced, 2)
		}},
		{14, "a truncated segment file is refused", func(t *testing.T) {
			for _, id := range []uint64{1, 0} {
				m := newRig(t).open().fill(n).image()
				if id == 0 {
					id = m.last().ID
				}
				whole := m.read(id, 0, int(m.last().Tail)) // all data is there; yet the size is wrong
				f, err := m.r.fs.Create(m.path(id), vfs.WriteCategoryUnspecified)
				require.NoError(t, err)
				_, err = f.Write(whole)
				require.NoError(t, err)
				require.NoError(t, f.Close())
				m.refused(KindWrongSize, id)
			}
		}},
		{15, "a missing oldest segment is refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			require.NoError(t, m.r.fs.Remove(m.path(1)))
			m.refused(KindMissingSegment, 1)
		}},
		{15, "a missing segment in the middle is refused", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			require.NoError(t, m.r.fs.Remove(m.path(2)))
			m.refused(KindMissingSegment, 2)
		}},
		{16, "leftovers before the start are removed, whatever they hold", func(t *testing.T) {
			r := newRig(t).open().fill(n)
			m := r.image()
			old := m.read(1, 0, minSegmentSize)
			m.r.open()
			require.NoError(t, m.r.log.TruncateFront(n-5))
			m.r.close()
			m.write(1, 0, old)
			m.flip(1, 9000)
			m.r.open().holds(n-5, n)
			m.r.close()
			_, err := m.r.fs.Stat(m.path(1))
			require.Error(t, err)
		}},
		{17, "a segment of another history is refused", func(t *testing.T) {
			r := newRig(t).open().fill(n)
			m := r.image()
			fork := cloneFS(t, m.r.fs)
			m.r.open().fill(n)
			other := newRig(t)
			other.fs, other.o = fork, m.r.o
			other.o.FS = fork
			other.open()
			_, err := other.log.Append(Entry{Type: 9, Data: []byte("another history")})
			require.NoError(t, err)
			other.fill(n)
			o := other.image()
			m = m.r.image()
			id := m.last().ID - 1
			m.write(id, 0, o.read(id, 0, minSegmentSize))
			c := m.refused(KindChainBreak, id)
			require.Contains(t, c.Message, "chain")
		}},
		{18, "a lost or damaged identity is rebuilt", func(t *testing.T) {
			m := newRig(t).open().fill(n).image()
			require.NoError(t, m.r.fs.Remove("db/wal/LOG"))
			m.repaired(KindBadIdentity, n)
		}},
		{18, "any damaged byte of the identity is rebuilt", func(t *testing.T) {
			for off := int64(0); off < identitySize; off += 3 {
				m := newRig(t).open().fill(20).image()
				f, err := m.r.fs.OpenReadWrite("db/wal/LOG", vfs.WriteCategoryUnspecified)
				require.NoError(t, err)
				b := make([]byte, 1)
				_, err = f.ReadAt(b, off)
				require.NoError(t, err)
				_, err = f.WriteAt([]byte{b[0] ^ 8}, off)
				require.NoError(t, err)
				require.NoError(t, f.Close())
				m.repaired(KindBadIdentity, 20)
			}
		}},
		{19, "an identity without segments is refused", func(t *testing.T) {
			m := newRig(t).open().fill(5).image()
			require.NoError(t, m.r.fs.Remove(m.path(1)))
			_ = m.r.fs.Remove(m.path(2))
			m.refused(KindMissingSegment, 1)
		}},
		{20, "a torn activation is done again", func(t *testing.T) {
			r := newRig(t).open().fill(n)
			require.NoError(t, r.log.TruncateBack(n))
			m := r.image().forget()
			s := m.last()
			m.zero(s.ID, dataStart, minSegmentSize-dataStart)
			m.write(s.ID, dataStart+10, []byte("torn"))
			m.r.open().holds(1, n).fill(5).reopen().holds(1, n+5)
		}},
		{20, "a torn activation of the first segment is done again", func(t *testing.T) {
			m := newRig(t).open().image().forget()
			m.zero(1, dataStart, minSegmentSize-dataStart)
			m.r.open().fill(5).reopen().holds(1, 5)
		}},
	}
	rows = append(rows, headMarkRows(n)...)
	rows = append(rows, strayRows(n)...)
	reached := map[int]bool{}
	for _, row := range rows {
		reached[row.row] = true
		t.Run(fmt.Sprintf("row %d: %s", row.row, row.name), row.run)
	}
	for i := 1; i <= 22; i++ {
		require.True(t, reached[i], "row %d of the decision table has no test", i)
	}
}

func TestInspectStepsOverDamageAndShowsTheRest(t *testing.T) {
	m := newRig(t).open().fill(120).image()
	b := m.inSegment(2)[3]
	m.flip(2, b.Offset+batchHeaderSize+1)
	var seen, unlinked []uint64
	rep, err := Inspect(m.r.fs, "db/wal", InspectOptions{}, Visitor{
		Batch: func(x BatchInfo) error {
			if x.Unlinked {
				unlinked = append(unlinked, x.Number)
			}
			return nil
		},
		Record: func(x RecordInfo) error {
			if x.Control == "" {
				seen = append(seen, x.Entry.Index)
			}
			return nil
		},
	})
	require.NoError(t, err)
	require.False(t, rep.Clean)
	require.Len(t, seen, 119)
	require.Equal(t, []uint64{b.Number + 1}, unlinked)
	require.NotContains(t, seen, b.FirstIndex)
}

func TestInspectBesideARunningLogSeesNoDamage(t *testing.T) {
	r := newRig(t).open()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := uint64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.log.Append(Entry{Type: 1, Data: payload(i, int(i*37%2000))}); err != nil {
				t.Error(err)
				return
			}
			if i%200 == 0 {
				if err := r.log.TruncateFront(i - 50); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	defer func() { close(stop); <-done }()
	for range 60 {
		rep, err := Inspect(r.fs, "db/wal", InspectOptions{}, Visitor{})
		require.NoError(t, err)
		require.True(t, rep.Clean, "%+v", rep.Findings)
	}
}

func TestEncryptedLogIsVerifiedWithoutTheKey(t *testing.T) {
	key := make([]byte, 32)
	m := newRig(t, func(o *Options) { o.Key = key }).open().fill(120).image()
	rep, err := Inspect(m.r.fs, "db/wal", InspectOptions{}, Visitor{})
	require.NoError(t, err)
	require.True(t, rep.Clean)
	require.Equal(t, uint64(120), rep.LastIndex)
	m.flip(2, m.inSegment(2)[3].Offset+200)
	rep, err = Inspect(m.r.fs, "db/wal", InspectOptions{}, Visitor{})
	require.NoError(t, err)
	require.False(t, rep.Clean)
}
