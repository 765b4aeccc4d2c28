package engine

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fullSet has every field set.
func fullSet() *WriteSet {
	return &WriteSet{
		Time: 1795293878000, Snapshot: 41, Actor: "mcp:claude", Label: "work_order_start",
		Outcome: []byte(`{"ok":true}`), IdempotencyKey: "key-1", RequestHash: bytes.Repeat([]byte{9}, 32),
		IdempotencyDeadline: 1795380278000,
		Reads:               []Read{{"orders", []byte("a"), 7}, {"orders", []byte("b"), 0}, {"wip", []byte("x"), math.MaxUint64}},
		ScanReads: []ScanRead{
			{Table: "orders", LoKey: []byte("a"), HiKey: []byte("c"), Rows: 2, PrintA: 1, PrintB: 2},
			{Index: "by_state", Lo: []byte("s"), LoKey: []byte("k"), Open: true},
		},
		Ops: []Op{
			{Table: "orders", Key: []byte("a"), Value: []byte("doc")},
			{Table: "orders", Key: []byte("b"), Delete: true},
			{Table: "sessions", Key: []byte("s"), Value: []byte{}, Deadline: 5},
		},
	}
}

func normal(w *WriteSet) *WriteSet {
	c := *w
	for i := range c.Ops {
		if len(c.Ops[i].Value) == 0 {
			c.Ops[i].Value = nil
		}
	}
	for i := range c.ScanReads {
		r := &c.ScanReads[i]
		for _, p := range []*[]byte{&r.Lo, &r.LoKey, &r.Hi, &r.HiKey} {
			if len(*p) == 0 {
				*p = nil
			}
		}
	}
	return &c
}

func TestWriteSetComesBackAsItWas(t *testing.T) {
	for _, w := range []*WriteSet{fullSet(), {}, {Ops: []Op{{Table: "t", Key: []byte("k")}}}} {
		b := w.Encode([]byte("prefix"))[6:]
		got, err := DecodeWriteSet(b)
		require.NoError(t, err)
		require.Equal(t, b, got.Encode(nil))
		if w.Actor != "" {
			require.Equal(t, normal(w), normal(got))
		}
	}
}

// The example stands in docs/format.md.
func TestWriteSetExampleOfTheDocumentation(t *testing.T) {
	w := WriteSet{
		Time: 1000, Snapshot: 3, Actor: "ann", Label: "rename",
		Reads: []Read{{"users", []byte("7"), 2}},
		Ops:   []Op{{Table: "names", Key: []byte("bob"), Delete: true}, {Table: "users", Key: []byte("7"), Value: []byte("Rob")}},
	}
	want := "01 e807 03 03616e6e 0672656e616d65 00 00 02 056e616d6573 057573657273 01 01 0137 02 00 02 00 00 03626f62 01 01 0137 03526f62"
	require.Equal(t, strings.ReplaceAll(want, " ", ""), hex.EncodeToString(w.Encode(nil)))

	doc, err := os.ReadFile("../docs/format.md")
	require.NoError(t, err)
	var inDoc strings.Builder
	_, example, ok := strings.Cut(string(doc), "put users/7 = \"Rob\":\n")
	require.True(t, ok)
	for _, line := range strings.Split(strings.TrimSpace(example), "\n")[:8] {
		hexPart, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
		inDoc.WriteString(hexPart)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(inDoc.String(), " ", ""))
	require.NoError(t, err)
	require.Equal(t, w.Encode(nil), raw)
}

func TestEveryCutOrBadByteOfAWriteSetIsRefusedOrHarmless(t *testing.T) {
	good := fullSet().Encode(nil)
	for n := range good {
		_, err := DecodeWriteSet(good[:n])
		require.ErrorIs(t, err, ErrMalformed, "cut to %d", n)
	}
	_, err := DecodeWriteSet(append(bytes.Clone(good), 0))
	require.ErrorIs(t, err, ErrMalformed)
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if w, err := DecodeWriteSet(bad); err == nil {
				_, err = DecodeWriteSet(w.Encode(nil))
				require.NoError(t, err, "byte %d bit %d", i, bit)
			}
		}
	}
	_, err = DecodeWriteSet([]byte{2})
	require.ErrorIs(t, err, ErrVersion)
	for _, ops := range [][]Op{
		{{Table: "t", Key: []byte("b")}, {Table: "t", Key: []byte("a")}},
		{{Table: "t", Key: []byte("a")}, {Table: "t", Key: []byte("a")}},
		{{Table: "BAD", Key: []byte("a")}},
	} {
		_, err = DecodeWriteSet((&WriteSet{Ops: ops}).Encode(nil))
		require.ErrorIs(t, err, ErrMalformed)
	}
}

func FuzzDecodeWriteSet(f *testing.F) {
	f.Add(fullSet().Encode(nil))
	f.Add((&WriteSet{}).Encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := DecodeWriteSet(b)
		if err != nil {
			return
		}
		again, err := DecodeWriteSet(w.Encode(nil))
		if err != nil {
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
		if !bytes.Equal(w.Encode(nil), again.Encode(nil)) {
			t.Fatal("two encodings differ")
		}
	})
}

func FuzzDecodeRows(f *testing.F) {
	f.Add(appliedRow{index: 5}.append(nil))
	f.Add(idemRow{index: 5, reqHash: []byte("h"), outcome: []byte("o")}.append(nil))
	f.Add(appendRowKey(nil, "t", []byte("k")))
	f.Add(appendDeadlineKey(nil, 77, appendRowKey(nil, "t", []byte("k"))))
	f.Add(identity{sealed: true}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseAppliedRow(b); err == nil && !bytes.Equal(r.append(nil), b) {
			t.Fatal("applied row")
		}
		if _, err := parseIdemRow(b); err == nil && len(b) < 9 {
			t.Fatal("idempotency row")
		}
		if table, key, err := splitRowKey(b); err == nil && !bytes.Equal(appendRowKey(nil, string(table), key), b) {
			t.Fatal("row key")
		}
		if d, table, key, err := splitDeadlineKey(b); err == nil {
			if !bytes.Equal(appendDeadlineKey(nil, d, appendRowKey(nil, string(table), key)), b) {
				t.Fatal("deadline key")
			}
		}
		_, _, _, _ = parseRow(b)
		_, _ = parseIdentity(b)
	})
}

func TestRowFormatExamplesOfTheDocumentation(t *testing.T) {
	require.Equal(t, "64757365727300"+"37", hex.EncodeToString(appendRowKey(nil, "users", []byte("7"))))
	require.Equal(t, "0000000000000004"+"00"+"526f62", hex.EncodeToString(append(appendRowHeader(nil, 4, 0), "Rob"...)))
	require.Equal(t, "74"+"00000000000003e8"+"757365727300"+"37",
		hex.EncodeToString(appendDeadlineKey(nil, 1000, appendRowKey(nil, "users", []byte("7")))))
	require.Equal(t, "6d78"+"0000000000000009", hex.EncodeToString(markerKey(9)))
	require.Equal(t, "0000000000000004"+"02"+"6868"+"6f7574",
		hex.EncodeToString(idemRow{4, []byte("hh"), []byte("out")}.append(nil)))
	row := appliedRow{index: 4, lanes: lanes{1, 2, 3, 4}}
	row.logID[0], row.storeID[0] = 0xaa, 0xbb
	b := row.append(nil)
	require.Len(t, b, appliedRowLen)
	require.Equal(t, "01"+"0000000000000004"+"0000000000000001000000000000000200000000000000030000000000000004"+
		"aa000000000000000000000000000000"+"bb000000000000000000000000000000", hex.EncodeToString(b[:73]))
	got, err := parseAppliedRow(b)
	require.NoError(t, err)
	require.Equal(t, row, got)
	b[20] ^= 1
	_, err = parseAppliedRow(b)
	require.ErrorIs(t, err, ErrMalformed)
}

func TestPrefixCoversExactlyTheKeysThatBeginWithIt(t *testing.T) {
	require.Equal(t, Range{Lo: []byte("ab"), Hi: []byte("ac")}, Prefix([]byte("ab")))
	require.Equal(t, Range{Lo: []byte("a\xff\xff"), Hi: []byte("b")}, Prefix([]byte("a\xff\xff")))
	require.Equal(t, Range{Lo: []byte("\xff\xff")}, Prefix([]byte("\xff\xff")))
	require.Nil(t, Prefix(nil).Hi)
}

func TestTagSurvivesDecodingAndOnlyAWholeOneIsAccepted(t *testing.T) {
	w := WriteSet{Time: 5, Ops: []Op{{Table: "t", Key: []byte("k"), Value: []byte("v")}}}
	plain := w.Encode(nil)
	tagged := TagWriteSet(bytes.Clone(plain), [16]byte{1, 2, 15: 9})
	got, err := DecodeWriteSet(tagged)
	require.NoError(t, err)
	require.Equal(t, [16]byte{1, 2, 15: 9}, got.Tag)
	require.Equal(t, tagged, got.Encode(nil))
	got, err = DecodeWriteSet(plain)
	require.NoError(t, err)
	require.Zero(t, got.Tag)
	for n := 1; n < 40; n++ {
		_, err := DecodeWriteSet(append(bytes.Clone(plain), make([]byte, n)...))
		require.ErrorIs(t, err, ErrMalformed, "%d zero bytes", n)
		if n != 16 {
			_, err = DecodeWriteSet(append(bytes.Clone(plain), bytes.Repeat([]byte{1}, n)...))
			require.ErrorIs(t, err, ErrMalformed, "%d bytes", n)
		}
	}
}

func TestAWriteSetOfManyTablesIsReadAsItWasWritten(t *testing.T) {
	w := WriteSet{Time: 1}
	for i := range 200 {
		w.Ops = append(w.Ops, Op{Table: fmt.Sprintf("t%03d", i), Key: []byte("k"), Value: []byte("v")})
	}
	b := w.Encode(nil)
	got, err := DecodeWriteSet(b)
	require.NoError(t, err)
	require.Equal(t, b, got.Encode(nil))
	for _, last := range []int{199, 63} { // a table that nothing names
		w.Ops[last].Table = w.Ops[last-1].Table
		w.Ops[last].Key = []byte("l")
		fewer := w.Encode(nil)
		name := append([]byte{4}, fmt.Sprintf("t%03d", last-1)...)
		at := bytes.Index(fewer, name)
		extra := append(append(append([]byte(nil), fewer[:at+5]...), append([]byte{4}, fmt.Sprintf("t%03d", last)...)...), fewer[at+5:]...)
		n := bytes.Index(extra, []byte{4, 't', '0', '0', '0'})
		extra[n-2]++ // the number of tables, in two bytes
		_, err = DecodeWriteSet(extra)
		require.ErrorIs(t, err, ErrMalformed)
	}
}
