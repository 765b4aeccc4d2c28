package object

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheDocumentedExampleIsWhatIsWritten(t *testing.T) {
	doc, err := os.ReadFile("../../docs/format-backup.md")
	require.NoError(t, err)
	var want []byte
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
			want = append(want, b...)
		}
	}
	w, err := NewWriter(List, ID{0x11}, ID{0x22}, 0, nil, []byte(`{"n":1}`))
	require.NoError(t, err)
	p, err := Compress([]byte("hello, backup"))
	require.NoError(t, err)
	_, err = w.Add(p)
	require.NoError(t, err)
	b, digest, err := w.Finish([]byte("x"))
	require.NoError(t, err)
	require.Len(t, b, 677)
	require.Equal(t, hex.EncodeToString(want), hex.EncodeToString(b[:len(want)]))
	require.Equal(t, hex.EncodeToString(b[137:265]), hex.EncodeToString(b[677-FooterSize:]))
	require.Equal(t, "d4701156", hex.EncodeToString(digest[:4]))

	c, err := Open(b, List, ID{0x11}, &ID{0x22}, nil)
	require.NoError(t, err)
	got, err := c.Frame(0)
	require.NoError(t, err)
	require.Equal(t, "hello, backup", string(got))
	require.Equal(t, `{"n":1}`, string(c.Clear))
}
