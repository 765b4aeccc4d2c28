package snapshot

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// example returns the bytes of all ```hex blocks of a document.
func example(t *testing.T, path string) []byte {
	doc, err := os.ReadFile(path)
	require.NoError(t, err)
	var out []byte
	in := false
	for line := range strings.Lines(string(doc)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "```hex":
			in = true
		case line == "```":
			in = false
		case in:
			b, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
			require.NoError(t, err, "line %q", line)
			out = append(out, b...)
		}
	}
	return out
}

func TestTheDocumentedExampleDecodesAndIsWrittenTheSame(t *testing.T) {
	b := example(t, "../docs/format.md")
	want := []*Entry{
		{Table: "stock", Key: []byte("bolt/m4"), Value: []byte("120"), ModIndex: 5},
		{Table: "stock", Key: []byte("bolt/m5"), Value: []byte("80"), ModIndex: 7, Deadline: 1_700_000_060_000},
		{Table: "task", Key: []byte("1"), Value: []byte("open"), ModIndex: 6},
	}
	got, r, err := readAll(bytes.NewReader(b))
	require.NoError(t, err)
	same(t, want, got)
	h := Header{Index: 7, Term: 2, Created: time.UnixMilli(1_700_000_000_000).UTC()}
	require.Equal(t, h.Index, r.Header().Index)
	require.Equal(t, h.Created, r.Header().Created)

	var again bytes.Buffer
	w, err := NewWriter(&again, h, WriterOptions{})
	require.NoError(t, err)
	for _, e := range want {
		require.NoError(t, w.Add(e))
	}
	_, err = w.Finish()
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(b), hex.EncodeToString(again.Bytes()))
}
