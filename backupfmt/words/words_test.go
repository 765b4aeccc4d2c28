package words

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// documents are about n bytes of JSON.
func documents(rng *rand.Rand, n int) []byte {
	var b []byte
	for len(b) < n {
		b = fmt.Appendf(b, "\x01\x04%c{\"id\":\"WO-%016x\",\"größe\":%d,\"text\":\"", rng.IntN(256), rng.Uint64(), rng.IntN(1000))
		for range rng.IntN(60) {
			b = fmt.Appendf(b, "%s%s ", strings.Repeat(string(rune('a'+rng.IntN(26))), 1+rng.IntN(20)), []string{"", "", "n", "ing"}[rng.IntN(4)])
		}
		b = append(b, "\"}"...)
	}
	return b[:n]
}

func requireRoundTrip(t *testing.T, raw []byte) (encoded []byte) {
	t.Helper()
	encoded, ok := Encode([]byte("kept"), raw)
	require.True(t, bytes.HasPrefix(encoded, []byte("kept")))
	if !ok {
		require.Len(t, encoded, 4)
		return nil
	}
	got, ok := Decode(encoded[4:], len(raw))
	require.True(t, ok)
	require.True(t, bytes.Equal(raw, got))
	for _, wrong := range []int{len(raw) - 1, len(raw) + 1} {
		_, ok = Decode(encoded[4:], wrong)
		require.False(t, ok)
	}
	return encoded[4:]
}

func TestFramesComeBackAsTheyWere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 1, 15, 16, 17, 23, 24, 25, 40, 1000, 70_000, 1 << 20} {
		requireRoundTrip(t, documents(rng, n))
		requireRoundTrip(t, bytes.Repeat([]byte("a"), n))
		requireRoundTrip(t, bytes.Repeat([]byte("word "), n)[:n])
		random := make([]byte, n)
		for i := range random {
			random[i] = byte(rng.Uint32())
		}
		requireRoundTrip(t, random)
	}
	text := documents(rng, 1<<20)
	require.Less(t, len(requireRoundTrip(t, text)), len(text)/3)
}

func TestMoreWordsThanThereAreNumbersAreWrittenOut(t *testing.T) {
	var b []byte
	for range 2 {
		for i := range maxWords + 1000 {
			name := []byte("wxxxxxx ")
			for p, v := 1, i; v > 0; p, v = p+1, v/26 {
				name[p] = byte('a' + v%26)
			}
			b = append(append(b, name...), "wxxxxxx wxxxxxx wxxxxxx "...)
		}
	}
	require.NotNil(t, requireRoundTrip(t, b))
}

func TestWhatIsNotTextIsRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	random := make([]byte, 1<<20)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	_, ok := Encode(nil, random)
	require.False(t, ok)
}

// example of docs/format-backup.md.
func example(t *testing.T) (raw string, encoded []byte) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/format-backup.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(doc), "```words\n")
	require.True(t, ok)
	text, _, ok := strings.Cut(rest, "```")
	require.True(t, ok)
	raw, digits, ok := strings.Cut(text, "\n")
	require.True(t, ok)
	encoded, err = hex.DecodeString(strings.NewReplacer(" ", "", "\n", "").Replace(digits))
	require.NoError(t, err)
	return raw, encoded
}

func TestTheDocumentedExampleIsWhatIsWritten(t *testing.T) {
	raw, want := example(t)
	encoded, ok := Encode(nil, []byte(raw))
	require.True(t, ok)
	require.Equal(t, hex.EncodeToString(want), hex.EncodeToString(encoded))
	got, ok := Decode(want, len(raw))
	require.True(t, ok)
	require.Equal(t, raw, string(got))
}

func TestEveryNumberThatPointsNowhereIsRefused(t *testing.T) {
	part := func(b ...byte) []byte { return append([]byte{formRaw, byte(len(b)), byte(len(b))}, b...) }
	frame := func(ops, lens, low, text []byte) []byte {
		return bytes.Join([][]byte{part(ops...), part(lens...), part(low...), part(text...)}, nil)
	}
	good := frame([]byte{opNew, opShort, opRun}, []byte{2, 1}, nil, []byte("abc"))
	got, ok := Decode(good, 5)
	require.True(t, ok)
	require.Equal(t, "ababc", string(got))
	for name, c := range map[string]struct {
		data   []byte
		length int
	}{
		"a word that is not there":      {frame([]byte{opNew, opShort + 1, opRun}, []byte{2, 1}, nil, []byte("abc")), 5},
		"a number that is cut":          {frame([]byte{opNew, opLong, opRun}, []byte{2, 1}, nil, []byte("abc")), 5},
		"a large number":                {frame([]byte{opNew, opLong, opRun}, []byte{2, 1}, []byte{0}, []byte("abc")), 5},
		"a word longer than words are":  {frame([]byte{opNew}, []byte{17}, nil, []byte("0123456789abcdefg")), 17},
		"an empty run":                  {frame([]byte{opNew, opShort, opRun, opRun}, []byte{2, 1, 0}, nil, []byte("abc")), 5},
		"a run beyond the text":         {frame([]byte{opNew, opShort, opRun}, []byte{2, 2}, nil, []byte("abc")), 6},
		"a run beyond the frame":        {frame([]byte{opRun}, []byte{3}, nil, []byte("abc")), 2},
		"a word beyond the frame":       {frame([]byte{opNew, opShort}, []byte{2}, nil, []byte("ab")), 3},
		"text that is left":             {frame([]byte{opNew, opShort}, []byte{2}, nil, []byte("abc")), 4},
		"lengths that are left":         {frame([]byte{opNew, opShort}, []byte{2, 1}, nil, []byte("ab")), 4},
		"low bytes that are left":       {frame([]byte{opNew, opShort}, []byte{2}, []byte{0}, []byte("ab")), 4},
		"bytes behind the last part":    {append(bytes.Clone(good), 0), 5},
		"another length":                {good, 6},
		"a form that nobody knows":      {append([]byte{2}, good[1:]...), 5},
		"a part larger than the frame":  {frame([]byte{opRun}, []byte{1}, nil, []byte("abcdef")), 1},
		"nothing":                       {nil, 0},
		"a part that is not compressed": {append([]byte{formZstd}, good[1:]...), 5},
		"less than the frame":           {frame([]byte{opRun}, []byte{1}, nil, []byte("a")), 2},
	} {
		_, ok := Decode(c.data, c.length)
		require.False(t, ok, name)
	}
	for n := range good {
		_, ok := Decode(good[:n], 5)
		require.False(t, ok, "cut after %d", n)
	}
}

func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 1))
	for _, n := range []int{10, 300, 5000} {
		raw := documents(rng, n)
		encoded, _ := Encode(nil, raw)
		f.Add(encoded, n)
	}
	f.Fuzz(func(t *testing.T, b []byte, length int) {
		length %= 1 << 20
		out, ok := Decode(b, length)
		require.True(t, !ok || len(out) == length)
	})
}

func FuzzRoundTrip(f *testing.F) {
	rng := rand.New(rand.NewPCG(4, 1))
	f.Add(documents(rng, 3000), 1)
	f.Add([]byte("a b c d"), 50)
	f.Fuzz(func(t *testing.T, b []byte, times int) {
		requireRoundTrip(t, bytes.Repeat(b, 1+abs(times)%20))
	})
}

func abs(n int) int { return max(n, -(n + 1)) }
