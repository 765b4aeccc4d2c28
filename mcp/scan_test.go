package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func scanAll(data []byte) error {
	s := &scanner{data: data}
	s.space()
	if _, err := s.value(0); err != nil {
		return err
	}
	return s.end()
}

func TestScannerAgreesWithTheStandardLibrary(t *testing.T) {
	for _, text := range []string{
		"", " ", "{", "}", "{}", " { } ", "[]", "[,]", "[1,]", "[1 2]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{\"a\" : [ { } ] }",
		"0", "-0", "01", "-", "1.", ".5", "1.5e", "1e+", "1E-7", "1e400", "+1", "0x1", "NaN", "nul", "null", "nulll", "true", "falsey",
		`"`, `"\`, `"\"`, `"\u"`, `"\u12"`, `"\u12G4"`, `"\u12aF"`, `"\x"`, `"\/\b\f\n\r\t\\"`, "\"\n\"", "\"\x00\"", "\"\x7f\"", "\"\xff\"", `"é"`,
		"1 1", "{}{}", "[] x", "\ufeff{}", "\v1", "\u00a01", `"\u` + "\x10" + `123"`,
	} {
		require.Equal(t, json.Valid([]byte(text)), scanAll([]byte(text)) == nil, "%q: %v", text, scanAll([]byte(text)))
	}
}

func TestScannerStopsAtTheDepthLimit(t *testing.T) {
	nest := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	require.NoError(t, scanAll(nest(maxDepth)))
	require.ErrorIs(t, scanAll(nest(maxDepth+2)), errTooDeep)
	require.ErrorIs(t, scanAll(bytes.Repeat([]byte(`{"a":`), 1<<20)), errTooDeep)
}

func FuzzScanner(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"x\u00e9",null,true,{}]}`, "[[[]]]", `"\`, "-0.0"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := scanAll(data)
		if errors.Is(err, errTooDeep) {
			return
		}
		if want := json.Valid(data); want != (err == nil) {
			t.Fatalf("%q: json.Valid says %t, scanner says %v", data, want, err)
		}
	})
}

// FuzzIDScan compares the id found in a stream with the one that a parser of
// the whole text finds.
func FuzzIDScan(f *testing.F) {
	for _, s := range []string{
		`{"id":1}`, `{"params":{"id":2},"id":"a\"b"}`, `{"id":[1],"x":2}`, `{"id":{},"id":3}`, `{ "id" : -5 , "z":"id" }`,
		`{"a":"id","b":1}`, `[{"id":1}]`, `{"\u0069d":1}`,
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		var s idScan
		for rest := data; len(rest) > 0; {
			n := min(int(cut%7)+1, len(rest))
			s.write(rest[:n])
			rest = rest[n:]
		}
		got := s.found()
		if !json.Valid(data) {
			return
		}
		if got != nil {
			require.Empty(t, checkID(got))
		}
		env, bad := parseObject(&scanner{data: bytes.TrimSpace(data)})
		if bytes.TrimSpace(data)[0] != '{' {
			require.Nil(t, got)
		} else if bad == nil && !bytes.Contains(data, []byte(`\u`)) {
			require.Equal(t, string(env.id), string(got))
		}
	})
}

func TestIDIsFoundHoweverTheStreamIsCut(t *testing.T) {
	seed := int64(7)
	rnd := rand.New(rand.NewSource(seed))
	text := []byte(`{"params":{"id":9,"s":"\"id\":3,{["},"k":["id",{"id":4}],"id" : "the, one}" ,"jsonrpc":"2.0"}`)
	for range 1000 {
		var s idScan
		for rest := text; len(rest) > 0; {
			n := 1 + rnd.Intn(len(rest))
			s.write(rest[:n])
			rest = rest[n:]
		}
		require.Equal(t, `"the, one}"`, string(s.found()), "seed %d", seed)
	}
	require.Nil(t, findID([]byte(`{"id":1,"id":2}`)), "two ids: neither can be trusted")
	require.Nil(t, findID([]byte(`{"id":`+strings.Repeat("1", 5000)+`}`)))
	require.Nil(t, findID([]byte(`{"id":{"id":1}}`)))
}

func TestLineReader(t *testing.T) {
	read := func(input string, limit int64) (lines []string, bad []string) {
		r := newLineReader(strings.NewReader(input), limit)
		for {
			line, err := r.next()
			var w *wireError
			if errors.As(err, &w) {
				bad = append(bad, string(w.ID))
				continue
			}
			if err != nil {
				return lines, bad
			}
			lines = append(lines, string(line))
		}
	}
	lines, bad := read("a\r\n\n  \n b \nlast", 10)
	require.Equal(t, []string{"a", "b", "last"}, lines)
	require.Empty(t, bad)

	// The limit is exact, whatever the buffer holds and however lines end.
	for _, size := range []int{10, lineBuffer - 1, lineBuffer, lineBuffer + 1, 3 * lineBuffer} {
		for _, end := range []string{"\n", "\r\n"} {
			fits, over := strings.Repeat("x", size), strings.Repeat("y", size+1)
			lines, bad = read(over+end+fits+end+over+end+"z", int64(size))
			require.Equal(t, []string{fits, "z"}, lines, "size %d", size)
			require.Len(t, bad, 2)
		}
	}
	lines, bad = read(strings.Repeat("x", 100), 10)
	require.Empty(t, lines)
	require.Len(t, bad, 1, "a last line without an end is checked too")
}
