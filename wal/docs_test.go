package wal

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

const formatDoc = "../docs/format.md"

// docExample returns the bytes of a hex block of docs/format.md.
func docExample(t *testing.T, doc, name string) []byte {
	t.Helper()
	m := regexp.MustCompile("(?s)```hex " + name + "\n(.*?)```").FindStringSubmatch(doc)
	require.NotNil(t, m, "docs/format.md has no example %q", name)
	b, err := hex.DecodeString(strings.Join(strings.Fields(m[1]), ""))
	require.NoError(t, err)
	return b
}

func hexBlock(name string, b []byte) string {
	var s strings.Builder
	s.WriteString("```hex " + name + "\n")
	for len(b) > 0 {
		n := min(16, len(b))
		fmt.Fprintf(&s, "% x\n", b[:n])
		b = b[n:]
	}
	s.WriteString("```")
	return s.String()
}

// exampleLog writes the log of the examples: two batches, then a seal.
func exampleLog(t *testing.T, key []byte) *vfs.MemFS {
	fs := vfs.NewMem()
	now := time.UnixMilli(1_763_700_000_000)
	l, err := Open("wal", Options{
		FS: fs, SegmentSize: minSegmentSize, Key: key, Now: func() time.Time { return now },
		Rand: bytes.NewReader(bytes.Repeat([]byte{0xa5}, 4096)),
	})
	require.NoError(t, err)
	_, err = l.Append(Entry{Term: 3, Type: 1, Data: []byte("hello")})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return fs
}

func TestDocsExamples(t *testing.T) {
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	fs := exampleLog(t, nil)
	written := map[string][]byte{}
	log, err := readFile(fs, "wal/LOG", 4096)
	require.NoError(t, err)
	seg, err := readFile(fs, "wal/"+segmentName(1), minSegmentSize)
	require.NoError(t, err)
	h, err := decodeSegmentHeader(seg)
	require.NoError(t, err)
	batch := func(seg []byte, off int) []byte {
		h, err := decodeSegmentHeader(seg)
		require.NoError(t, err)
		bh, err := decodeBatchHeader(seg[off:], h.seed())
		require.NoError(t, err)
		return seg[off : off+batchHeaderSize+int(bh.bodyLen)+trailerSize]
	}
	written["identity"] = log[:identitySize]
	written["head-mark"] = log[headMarkStride:][:headMarkSize]
	written["header"] = seg[:headerSize]
	written["state-batch"] = batch(seg, dataStart)
	written["entry-batch"] = batch(seg, dataStart+512)
	written["end-mark"] = seg[dataStart+1024:][:endMarkSize]
	enc, err := readFile(exampleLog(t, key), "wal/"+segmentName(1), minSegmentSize)
	require.NoError(t, err)
	written["encrypted-batch"] = batch(enc, dataStart+512)
	written["footer"] = exampleFooter(t)

	raw, err := os.ReadFile(formatDoc)
	require.NoError(t, err)
	doc := string(raw)
	if os.Getenv("UPDATE_DOCS") != "" {
		for name, b := range written {
			re := regexp.MustCompile("(?s)```hex " + name + "\n(.*?)```")
			doc = re.ReplaceAllLiteralString(doc, hexBlock(name, b))
		}
		require.NoError(t, os.WriteFile(formatDoc, []byte(doc), 0o644))
	}
	for name, b := range written {
		require.Equal(t, hex.EncodeToString(b), hex.EncodeToString(docExample(t, doc, name)), "the software writes %s differently from docs/format.md", name)
	}
	decodeExamples(t, doc, h)
}

// decodeExamples reads the documented bytes as the document says.
func decodeExamples(t *testing.T, doc string, h segmentHeader) {
	id, version, err := decodeIdentity(docExample(t, doc, "identity"))
	require.NoError(t, err)
	require.Equal(t, uint16(1), version)
	require.Equal(t, int64(minSegmentSize), id.segmentSize)
	head, err := decodeHeadMark(docExample(t, doc, "head-mark"), id.logID)
	require.NoError(t, err)
	require.Equal(t, uint64(2), head.number)
	require.Equal(t, uint64(1), head.lastIndex)
	got, err := decodeSegmentHeader(docExample(t, doc, "header"))
	require.NoError(t, err)
	require.Equal(t, h, got)
	require.Equal(t, genesis(id.logID), got.prevChain)
	require.Equal(t, uint64(1), got.firstIndex)

	state, entry := docExample(t, doc, "state-batch"), docExample(t, doc, "entry-batch")
	ts, err := decodeTrailer(state[len(state)-trailerSize:], h.seed())
	require.NoError(t, err)
	te, err := decodeTrailer(entry[len(entry)-trailerSize:], h.seed())
	require.NoError(t, err)
	c := newChainer()
	require.Equal(t, ts.chain, c.next(h.prevChain, state))
	require.Equal(t, te.chain, c.next(ts.chain, entry))
	r, _, err := decodeRecord(state[batchHeaderSize:], h.seed())
	require.NoError(t, err)
	require.True(t, r.control)
	start, err := decodeLogStart(r.data)
	require.NoError(t, err)
	require.Equal(t, logStart{1, 1}, start)
	r, _, err = decodeRecord(entry[batchHeaderSize:], h.seed())
	require.NoError(t, err)
	require.Equal(t, "hello", string(r.data))
	require.Equal(t, uint64(3), r.term())
	require.Equal(t, EntryType(1), r.typ())

	m, err := decodeEndMark(docExample(t, doc, "end-mark"), h.seed())
	require.NoError(t, err)
	require.Equal(t, endMark{number: 2, lastIndex: 1, offset: dataStart + 1024, chain: te.chain}, m)
	f, err := decodeFooter(docExample(t, doc, "footer")[16+16+4:], h.seed())
	require.NoError(t, err)
	require.Equal(t, te.chain, f.chain)
	require.Equal(t, uint32(1), f.entries)
}

func exampleFooter(t *testing.T) []byte {
	fs := exampleLog(t, nil)
	now := time.UnixMilli(1_763_700_000_000)
	l, err := Open("wal", Options{FS: fs, Now: func() time.Time { return now }})
	require.NoError(t, err)
	require.NoError(t, l.TruncateBack(1)) // seals
	require.NoError(t, l.Close())
	seg, err := readFile(fs, "wal/"+segmentName(1), minSegmentSize)
	require.NoError(t, err)
	return seg[minSegmentSize-footerSpan(2, 1):]
}
