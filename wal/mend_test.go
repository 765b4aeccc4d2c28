package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// mendable is a stopped log of several segments, its entries, and its files.
func mendable(t *testing.T, key []byte) (fs vfs.FS, entries map[uint64]Entry, files map[string][]byte, batches []BatchInfo) {
	fs = vfs.NewMem()
	l, err := Open("log", Options{FS: fs, SegmentSize: minSegmentSize, Key: key})
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	entries = map[uint64]Entry{}
	for i := range 120 {
		n := 1 + rng.IntN(5)
		var group []Entry
		for range n {
			data := make([]byte, rng.IntN(700))
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
			group = append(group, Entry{Term: uint64(1 + i/50), Type: 16, Data: data})
		}
		l.SetCommitIndex(l.LastIndex())
		last, err := l.Append(group...)
		require.NoError(t, err)
		for j, e := range group {
			e.Index = last - uint64(n-1-j)
			entries[e.Index] = e
		}
		if i == 60 {
			require.NoError(t, l.SetMeta("vote", []byte("n2")))
		}
	}
	require.NoError(t, l.Close())
	r, err := Inspect(fs, "log", InspectOptions{Key: key}, Visitor{Batch: func(b BatchInfo) error { batches = append(batches, b); return nil }})
	require.NoError(t, err)
	require.True(t, r.Clean)
	require.Greater(t, r.Segments, 2)
	return fs, entries, allFiles(t, fs), batches
}

func allFiles(t *testing.T, fs vfs.FS) map[string][]byte {
	names, err := fs.List("log")
	require.NoError(t, err)
	files := map[string][]byte{}
	for _, name := range names {
		b, err := readFile(fs, fs.PathJoin("log", name), 1<<17)
		require.NoError(t, err)
		files[name] = b
	}
	return files
}

func writeAt(t *testing.T, fs vfs.FS, name string, b []byte, off int64) {
	f, err := fs.OpenReadWrite(fs.PathJoin("log", name), vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.WriteAt(b, off)
	require.NoError(t, errors.Join(err, f.Close()))
}

func from(entries map[uint64]Entry) func(context.Context, uint64, uint64) ([]Entry, error) {
	return func(_ context.Context, from, to uint64) (out []Entry, err error) {
		for i := from; i <= to; i++ {
			if e, ok := entries[i]; ok {
				out = append(out, e)
			}
		}
		return out, nil
	}
}

// TestMendPutsEveryByteBack damages one batch after the other, in its header, records and trailer. What is mended is what stood there; what is not
// mended is not touched.
func TestMendPutsEveryByteBack(t *testing.T) {
	for _, key := range [][]byte{nil, []byte("0123456789abcdef0123456789abcdef")} {
		t.Run(fmt.Sprintf("encrypted=%v", key != nil), func(t *testing.T) {
			fs, entries, files, batches := mendable(t, key)
			rng := rand.New(rand.NewPCG(3, 4))
			mended, refused := 0, 0
			for i := 0; i < len(batches)-1; i += 3 { // the last batch of all: nothing behind it tells its trailer
				b := batches[i]
				name := segmentName(b.Segment)
				off, n := b.Offset+rng.Int64N(int64(b.Length)), 1
				if i%2 == 0 {
					off, n = off&^511, 512
				}
				damaged := make([]byte, n)
				if n == 1 {
					damaged[0] = files[name][off] ^ byte(1<<rng.IntN(8))
				}
				writeAt(t, fs, name, damaged, off)
				before := allFiles(t, fs)
				done, err := Mend(t.Context(), "log", MendOptions{FS: fs, Key: key, Entries: from(entries)})
				if err != nil {
					require.True(t, errors.Is(err, ErrMend) || errors.Is(err, ErrForeign), "%v", err)
					require.Empty(t, done)
					require.Equal(t, before, allFiles(t, fs), "what cannot be mended is left alone")
					writeAt(t, fs, name, files[name][off:off+int64(n)], off)
					refused++
					continue
				}
				require.Len(t, done, 1, "batch %d, %d bytes at %d", b.Number, n, off)
				require.Equal(t, files, allFiles(t, fs), "byte for byte")
				mended++
			}
			t.Logf("%d of %d damages mended", mended, mended+refused)
			require.Greater(t, mended, refused, "most damages leave a part of the frame")
			r, err := Inspect(fs, "log", InspectOptions{Key: key}, Visitor{})
			require.NoError(t, err)
			require.True(t, r.Clean)
		})
	}
}

func TestMendRefusesForeignEntries(t *testing.T) {
	fs, entries, files, batches := mendable(t, nil)
	b := batches[len(batches)/2]
	name := segmentName(b.Segment)
	at := b.Offset + batchHeaderSize + recordHeader // inside the first record's data
	writeAt(t, fs, name, []byte{files[name][at] ^ 1}, at)
	damaged := allFiles(t, fs)
	for what, change := range map[string]func(*Entry){
		"data":   func(e *Entry) { e.Data = append([]byte{^e.Data[0]}, e.Data[1:]...) },
		"length": func(e *Entry) { e.Data = append(e.Data[:len(e.Data):len(e.Data)], 0, 0, 0, 0, 0, 0, 0, 0, 0) },
		"term":   func(e *Entry) { e.Term++ },
		"type":   func(e *Entry) { e.Type++ },
	} {
		other := map[uint64]Entry{}
		for i, e := range entries {
			if i >= b.FirstIndex && i <= b.LastIndex && len(e.Data) > 0 {
				change(&e)
			}
			other[i] = e
		}
		_, err := Mend(t.Context(), "log", MendOptions{FS: fs, Entries: from(other)})
		require.ErrorIs(t, err, ErrForeign, what)
		require.Equal(t, damaged, allFiles(t, fs), what)
	}
	_, err := Mend(t.Context(), "log", MendOptions{FS: fs, Entries: from(entries)})
	require.NoError(t, err)
	require.Equal(t, files, allFiles(t, fs))
}

func TestMendSaysWhatItCannot(t *testing.T) {
	fs, entries, _, batches := mendable(t, nil)
	require.NoError(t, fs.Remove(fs.PathJoin("log", segmentName(batches[len(batches)/2].Segment))))
	before := allFiles(t, fs)
	_, err := Mend(t.Context(), "log", MendOptions{FS: fs, Entries: from(entries)})
	require.ErrorIs(t, err, ErrMend)
	require.Equal(t, before, allFiles(t, fs))
}

func TestMendLeavesASoundLogAlone(t *testing.T) {
	fs, _, files, _ := mendable(t, nil)
	done, err := Mend(t.Context(), "log", MendOptions{FS: fs, Entries: func(context.Context, uint64, uint64) ([]Entry, error) {
		return nil, errors.New("nobody has to be asked")
	}})
	require.NoError(t, err)
	require.Empty(t, done)
	require.Equal(t, files, allFiles(t, fs))
}
