package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

var testHeader = Header{
	Index: 4711, Term: 3, Chain: [32]byte{1, 2, 3}, LogID: [16]byte{9, 8}, Created: time.UnixMilli(1_700_000_000_123).UTC(),
	Membership: []byte("three nodes"),
}

// rows returns n sorted rows of three tables.
func rows(seed uint64, n int) []*Entry {
	rng := rand.New(rand.NewPCG(seed, 1))
	var out []*Entry
	for i := range n {
		e := &Entry{Table: []string{"_idem", "stock", "task"}[3*i/n], Key: fmt.Appendf(nil, "key/%08d", i), ModIndex: rng.Uint64N(5000)}
		e.Value = bytes.Repeat(fmt.Appendf(nil, "v%d,", rng.IntN(10)), rng.IntN(60))
		if rng.IntN(4) == 0 {
			e.Deadline = 1 + rng.Int64N(1<<40)
		}
		out = append(out, e)
	}
	return out
}

func image(t testing.TB, es []*Entry, o WriterOptions) ([]byte, Footer) {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, testHeader, o)
	require.NoError(t, err)
	for _, e := range es {
		require.NoError(t, w.Add(e))
	}
	f, err := w.Finish()
	require.NoError(t, err)
	return b.Bytes(), f
}

// readAll reads a snapshot to its end.
func readAll(r io.Reader) ([]*Entry, *Reader, error) {
	sr, err := NewReader(r, ReaderOptions{})
	if err != nil {
		return nil, nil, err
	}
	var out []*Entry
	for {
		e, err := sr.Next()
		if errors.Is(err, io.EOF) {
			return out, sr, nil
		}
		if err != nil {
			return out, sr, err
		}
		out = append(out, e.Clone())
	}
}

// same compares rows; nil and empty values are the same row.
func same(t *testing.T, want, got []*Entry) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		if !bytes.Equal(want[i].Key, got[i].Key) || !bytes.Equal(want[i].Value, got[i].Value) || want[i].Table != got[i].Table ||
			want[i].ModIndex != got[i].ModIndex || want[i].Deadline != got[i].Deadline || want[i].Removed != got[i].Removed {
			t.Fatalf("row %d: want %+v, got %+v", i, want[i], got[i])
		}
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3000, 20000} {
		es := rows(uint64(n), n)
		b, f := image(t, es, WriterOptions{BlockSize: 4 << 10})
		got, r, err := readAll(iotest.HalfReader(bytes.NewReader(b)))
		require.NoError(t, err)
		same(t, es, got)
		require.Equal(t, testHeader, r.Header())
		require.Equal(t, f.Root, r.Footer().Root)
		require.Equal(t, uint64(n), f.Rows)
		var h StateHash
		for _, e := range es {
			h.Add(e)
		}
		require.Equal(t, h.Sum(), f.StateHash)
	}
}

func TestReaderStopsAtTheTailOfAStream(t *testing.T) {
	b, _ := image(t, rows(1, 100), WriterOptions{})
	in := bytes.NewReader(append(b, "next message"...))
	_, _, err := readAll(in)
	require.NoError(t, err)
	rest, err := io.ReadAll(in)
	require.NoError(t, err)
	require.Equal(t, "next message", string(rest))
}

func TestBytesDoNotDependOnTheNumberOfWorkers(t *testing.T) {
	es := rows(7, 5000)
	one, _ := image(t, es, WriterOptions{BlockSize: 8 << 10, Workers: 1})
	many, _ := image(t, es, WriterOptions{BlockSize: 8 << 10, Workers: 7})
	require.True(t, bytes.Equal(one, many))
}

func TestLargeRowsAndSmallRowsShareASnapshot(t *testing.T) {
	big := make([]byte, 9<<20)
	for i := range big {
		big[i] = byte(i * 7 >> 3)
	}
	es := []*Entry{{Table: "a", Key: nil, Value: []byte("empty key")}, {Table: "a", Key: []byte("b"), Value: big}, {Table: "a", Key: []byte("c")}}
	b, _ := image(t, es, WriterOptions{BlockSize: 4 << 10})
	got, _, err := readAll(bytes.NewReader(b))
	require.NoError(t, err)
	same(t, es, got)
}

func TestWriterRefusesBadRowsAndStaysUsable(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, testHeader, WriterOptions{})
	require.NoError(t, err)
	row := func(table, key string) *Entry { return &Entry{Table: table, Key: []byte(key)} }
	require.NoError(t, w.Add(row("b", "k")))
	for _, tc := range []struct {
		e    *Entry
		want error
	}{
		{row("b", "k"), ErrOrder},
		{row("b", "a"), ErrOrder},
		{row("a", "z"), ErrOrder},
		{row("", "k"), ErrInvalid},
		{row("Bad", "k"), ErrInvalid},
		{&Entry{Table: "c", Deadline: -1}, ErrInvalid},
		{&Entry{Table: "c", Removed: true}, ErrInvalid},
		{&Entry{Table: "c", Key: make([]byte, MaxKey+1)}, ErrTooLarge},
		{&Entry{Table: "c", Value: make([]byte, MaxValue+1)}, ErrTooLarge},
	} {
		require.ErrorIs(t, w.Add(tc.e), tc.want)
	}
	require.NoError(t, w.Add(row("b", "l")))
	_, err = w.Finish()
	require.NoError(t, err)
	require.ErrorIs(t, w.Add(row("c", "k")), ErrFinished)
	_, err = w.Finish()
	require.ErrorIs(t, err, ErrFinished)
	got, _, err := readAll(&b)
	require.NoError(t, err)
	require.Len(t, got, 2)

	_, err = NewWriter(&b, Header{Membership: make([]byte, MaxMembership+1)}, WriterOptions{})
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = NewWriter(&b, Header{}, WriterOptions{BlockSize: 100})
	require.ErrorIs(t, err, ErrInvalid)
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errors.New("pipe closed")
	}
	return len(b), nil
}

func TestAFailedStreamFailsTheWriterForGood(t *testing.T) {
	w, err := NewWriter(&failingWriter{left: 20000}, testHeader, WriterOptions{BlockSize: 4 << 10})
	require.NoError(t, err)
	for _, e := range rows(3, 20000) {
		if err = w.Add(e); err != nil {
			break
		}
	}
	require.ErrorContains(t, err, "pipe closed")
	_, err = w.Finish()
	require.ErrorContains(t, err, "pipe closed")
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	b, _ := image(t, rows(5, 110), WriterOptions{BlockSize: 4 << 10})
	require.Greater(t, len(elements(t, b)), 4, "several blocks")
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= byte(1 << (i % 8))
		_, _, err := readAll(bytes.NewReader(bad))
		require.Error(t, err, "byte %d of %d", i, len(b))
		require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion) || errors.Is(err, ErrNotSnapshot), "byte %d: %v", i, err)
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	b, _ := image(t, rows(5, 100), WriterOptions{BlockSize: 4 << 10})
	for n := range b {
		_, _, err := readAll(bytes.NewReader(b[:n]))
		require.True(t, errors.Is(err, ErrCorrupt) || n < headerFixed && errors.Is(err, ErrNotSnapshot), "%d bytes: %v", n, err)
	}
}

// elements returns the positions of all elements of a sound snapshot.
func elements(t *testing.T, b []byte) (at []int) {
	n, err := headerLength(b)
	require.NoError(t, err)
	for {
		at = append(at, n)
		f, reason := decodeFrame(b[n:])
		require.Empty(t, reason)
		n += frameSize + int(f.stored)
		if f.kind == kindFooter {
			return append(at, n)
		}
	}
}

func TestMovedAndForeignBlocksAreFound(t *testing.T) {
	b, _ := image(t, rows(5, 2000), WriterOptions{BlockSize: 4 << 10})
	at := elements(t, b)
	require.Greater(t, len(at), 6)
	// Leave out each element; swap each with its neighbour.
	for i := range len(at) - 1 {
		cut := append(bytes.Clone(b[:at[i]]), b[at[i+1]:]...)
		_, _, err := readAll(bytes.NewReader(cut))
		require.ErrorIs(t, err, ErrCorrupt, "without element %d", i)
		if i+2 >= len(at) {
			continue
		}
		swapped := bytes.Clone(b[:at[i]])
		swapped = append(swapped, b[at[i+1]:at[i+2]]...)
		swapped = append(swapped, b[at[i]:at[i+1]]...)
		swapped = append(swapped, b[at[i+2]:]...)
		_, _, err = readAll(bytes.NewReader(swapped))
		require.ErrorIs(t, err, ErrCorrupt, "elements %d and %d swapped", i, i+1)
	}
	// A block of another snapshot with the same layout.
	var other bytes.Buffer
	h := testHeader
	h.Index++
	w, err := NewWriter(&other, h, WriterOptions{BlockSize: 4 << 10})
	require.NoError(t, err)
	for _, e := range rows(5, 2000) {
		require.NoError(t, w.Add(e))
	}
	_, err = w.Finish()
	require.NoError(t, err)
	mixed := bytes.Clone(b)
	copy(mixed[at[2]:at[3]], other.Bytes()[at[2]:at[3]])
	_, _, err = readAll(bytes.NewReader(mixed))
	var c *CorruptError
	require.ErrorAs(t, err, &c)
	require.Equal(t, int64(2), c.Element)
	require.Equal(t, int64(at[2]), c.Offset)
}

func TestNewerVersionAndForeignFilesAreNamed(t *testing.T) {
	b, _ := image(t, nil, WriterOptions{})
	b[8] = 2
	_, err := NewReader(bytes.NewReader(b), ReaderOptions{})
	require.ErrorIs(t, err, ErrVersion)
	_, err = NewReader(bytes.NewReader([]byte("PK\x03\x04 certainly a zip file, not ours")), ReaderOptions{})
	require.ErrorIs(t, err, ErrNotSnapshot)
	_, err = NewReader(iotest.ErrReader(os.ErrPermission), ReaderOptions{})
	require.ErrorIs(t, err, os.ErrPermission)
}

func TestFileScansOneTableFromAKey(t *testing.T) {
	es := rows(11, 9000)
	b, f := image(t, es, WriterOptions{BlockSize: 4 << 10})
	file, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	require.Equal(t, f.Root, file.Footer().Root)
	require.Equal(t, map[string]uint64{"_idem": 3000, "stock": 3000, "task": 3000}, file.Footer().Tables)
	for _, tc := range []struct {
		table, from string
		want        []*Entry
	}{
		{"", "", es},
		{"stock", "", es[3000:6000]},
		{"stock", "key/00004000", es[4000:6000]},
		{"stock", "key/00004000x", es[4001:6000]},
		{"task", "zzz", nil},
		{"nothing", "", nil},
		{"zzz", "", nil},
		{"aaa", "", nil},
	} {
		var got []*Entry
		require.NoError(t, file.Scan(tc.table, []byte(tc.from), func(e *Entry) bool { got = append(got, e.Clone()); return true }))
		same(t, tc.want, got)
	}
	n := 0
	require.NoError(t, file.Scan("task", nil, func(*Entry) bool { n++; return n < 5 }))
	require.Equal(t, 5, n)
}

func TestFileNeverHandsOutDamagedRows(t *testing.T) {
	es := rows(12, 110)
	b, _ := image(t, es, WriterOptions{BlockSize: 4 << 10})
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		file, err := Open(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			continue
		}
		var got []*Entry
		err = file.Scan("", nil, func(e *Entry) bool { got = append(got, e.Clone()); return true })
		if err == nil {
			require.Len(t, got, len(es))
		}
		same(t, es[:len(got)], got)
	}
	for n := range b {
		_, err := Open(bytes.NewReader(b[:n]), int64(n))
		require.Error(t, err)
	}
}

func TestIndexPagesOfLargeSnapshots(t *testing.T) {
	var es []*Entry
	value := make([]byte, 5000) // one block each
	for i := range 3*pageBlocks + 5 {
		es = append(es, &Entry{Table: "t", Key: fmt.Appendf(nil, "%06d", i), Value: value, ModIndex: 1})
	}
	b, _ := image(t, es, WriterOptions{BlockSize: 4 << 10})
	got, r, err := readAll(bytes.NewReader(b))
	require.NoError(t, err)
	require.Len(t, got, len(es))
	require.Len(t, r.footer.pages, 4)
	file, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	for _, i := range []int{0, 1, pageBlocks - 1, pageBlocks, 2*pageBlocks + 7, len(es) - 1} {
		var first *Entry
		require.NoError(t, file.Scan("t", es[i].Key, func(e *Entry) bool { first = e.Clone(); return false }))
		require.Equal(t, string(es[i].Key), string(first.Key))
	}
}

func TestMemoryDoesNotGrowWithTheState(t *testing.T) {
	value := make([]byte, 4000)
	rng := rand.New(rand.NewPCG(1, 1))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, _, err := discard(pr)
		done <- err
	}()
	w, err := NewWriter(pw, testHeader, WriterOptions{BlockSize: 64 << 10, Workers: 2})
	require.NoError(t, err)
	var base uint64
	for i := range 8000 {
		for j := range 40 {
			value[rng.IntN(len(value))] = byte(j)
		}
		require.NoError(t, w.Add(&Entry{Table: "t", Key: fmt.Appendf(nil, "%08d", i), Value: value}))
		if i == 2000 {
			base = heap()
		}
	}
	require.Less(t, heap(), base+4<<20)
	_, err = w.Finish()
	require.NoError(t, err)
	require.NoError(t, pw.Close())
	require.NoError(t, <-done)
}

func discard(r io.Reader) (n int, sr *Reader, err error) {
	if sr, err = NewReader(r, ReaderOptions{Workers: 2}); err != nil {
		return 0, nil, err
	}
	for ; ; n++ {
		if _, err = sr.Next(); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, sr, err
}

func FuzzReader(f *testing.F) {
	for _, n := range []int{0, 3, 300} {
		b, _ := image(f, rows(1, n), WriterOptions{BlockSize: 4 << 10})
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = readAll(bytes.NewReader(b))
		if file, err := Open(bytes.NewReader(b), int64(len(b))); err == nil {
			_ = file.Scan("", nil, func(*Entry) bool { return true })
		}
	})
}

func FuzzCursor(f *testing.F) {
	var b BlockBuilder
	for _, e := range rows(1, 30) {
		b.Add(e)
	}
	b.Add(&Entry{Table: "zz", Key: []byte("gone"), Removed: true, ModIndex: 7})
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		// What decodes must encode to the same bytes: there is one way to write a block.
		c := NewCursor(raw)
		var again BlockBuilder
		for {
			e, err := c.Next()
			if err != nil {
				return
			}
			if e == nil {
				break
			}
			require.NoError(t, e.Validate())
			again.Add(e)
		}
		if len(raw) > 0 {
			require.Equal(t, raw, again.Bytes())
		}
	})
}

func BenchmarkWrite(b *testing.B) { benchmark(b, false) }
func BenchmarkRead(b *testing.B)  { benchmark(b, true) }

func benchmark(b *testing.B, read bool) {
	rng := rand.New(rand.NewPCG(1, 2))
	var es []*Entry
	var size int64
	for i := range 50000 {
		v := fmt.Appendf(nil, `{"id":"%d","state":"open","owner":"user-%d","quantity":%d,"notes":"`, i, rng.IntN(5000), rng.IntN(1e6))
		for range 120 {
			v = fmt.Appendf(v, "%x ", rng.IntN(1<<16))
		}
		es = append(es, &Entry{Table: "orders", Key: fmt.Appendf(nil, "order/%010d", i), Value: v, ModIndex: uint64(i)})
		size += int64(len(v)) + 16
	}
	img, _ := image(b, es, WriterOptions{})
	b.SetBytes(size)
	b.ReportMetric(float64(size)/float64(len(img)), "ratio")
	b.ResetTimer()
	for range b.N {
		if read {
			_, _, err := discard(bytes.NewReader(img))
			require.NoError(b, err)
			continue
		}
		w, err := NewWriter(io.Discard, testHeader, WriterOptions{})
		require.NoError(b, err)
		for _, e := range es {
			require.NoError(b, w.Add(e))
		}
		_, err = w.Finish()
		require.NoError(b, err)
	}
}
