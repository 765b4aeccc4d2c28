package tcps

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCanonicalJSONFollowsRFC8785(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"keys are sorted", `{"b":1,"a":{"d":2,"c":3}}`, `{"a":{"c":3,"d":2},"b":1}`},
		{"space vanishes", " [ 1 ,\t2 ]\n", `[1,2]`},
		{"arrays keep order", `[3,1,2]`, `[3,1,2]`},
		{"literals", `[true,false,null]`, `[true,false,null]`},
		{"numbers have one spelling", `[1.0,1e2,100,-0,0.10,1e21,1e-7,123456789.5,5e-324]`, `[1,100,100,0,0.1,1e+21,1e-7,123456789.5,5e-324]`},
		{"numbers of the RFC", `[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001]`, `[333333333.3333333,1e+30,4.5,0.002,1e-27]`},
		{"exact large integers", `[9007199254740991,9007199254740992,100000000000000000]`, `[9007199254740991,9007199254740992,100000000000000000]`},
		{"escapes", `"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/"`, "\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\""},
		{"control characters", `"\b\t\n\f\r\u0001"`, `"\b\t\n\f\r\u0001"`},
		{"no HTML escapes", `"<&>\u2028"`, "\"<&>\u2028\""},
		{"sorting of the RFC is by UTF-16", `{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}`, "{\"\\r\":2,\"1\":4,\"\u0080\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\ufb33\":3}"},
		{"empty", `{"a":{},"b":[]}`, `{"a":{},"b":[]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := CanonicalJSON([]byte(c.in))
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
			again, err := CanonicalJSON(got)
			require.NoError(t, err)
			require.Equal(t, c.want, string(again), "the canonical form is its own canonical form")
		})
	}
}

func TestCanonicalJSONRefusesWhatHasNoCanonicalForm(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":             "",
		"cut object":          `{"a":1`,
		"cut string":          `"abc`,
		"two values":          `1 2`,
		"duplicate key":       `{"a":1,"a":2}`,
		"invalid UTF-8":       "\"\xff\"",
		"inexact integer":     `9007199254740993`,
		"huge integer":        `123456789012345678901234567890`,
		"number out of range": `1e999`,
		"deep nesting":        strings.Repeat("[", 100) + strings.Repeat("]", 100),
		"trailing comma":      `[1,]`,
		"key without value":   `{"a"}`,
		"unquoted key":        `{a:1}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := CanonicalJSON([]byte(in))
			require.Error(t, err)
		})
	}
}

func TestCanonicalGoValues(t *testing.T) {
	type inner struct {
		Z int    `json:"z"`
		A string `json:"a,omitempty"`
	}
	v := struct {
		When    Time           `json:"when"`
		Unset   Time           `json:"unset,omitempty"`
		List    []int          `json:"list"`
		Map     map[string]any `json:"map"`
		Pointer *inner         `json:"pointer"`
		None    *inner         `json:"none"`
		Skip    int            `json:"-"`
		Plain   uint64
	}{When: "2026-01-26T10:00:00Z", Map: map[string]any{"y": 1.5, "x": nil}, Pointer: &inner{Z: 1}, Plain: 7}
	b, err := canonical(v)
	require.NoError(t, err)
	require.Equal(t, `{"Plain":7,"list":[],"map":{"x":null,"y":1.5},"none":null,"pointer":{"z":1},"when":1769421600000}`, string(b))

	for name, bad := range map[string]any{
		"NaN": math.NaN(), "infinity": math.Inf(1), "channel": make(chan int), "function": func() {}, "bad UTF-8": "\xff",
		"bad time": Time("yesterday"), "int keys": map[int]int{1: 1}, "inexact": int64(1<<53 + 1), "bad number": json.Number("zz"),
	} {
		_, err := canonical(bad)
		require.Error(t, err, name)
	}
}

func TestTimeReadsBothFormsAndWritesOne(t *testing.T) {
	for in, want := range map[string]Time{
		`1769421600123`:                   "2026-01-26T10:00:00.123Z",
		`"2026-01-26T10:00:00.123Z"`:      "2026-01-26T10:00:00.123Z",
		`"2026-01-26T10:00:00Z"`:          "2026-01-26T10:00:00.000Z",
		`"2026-01-26T12:00:00.5+02:00"`:   "2026-01-26T10:00:00.500Z",
		`"2026-01-26T10:00:00.123456Z"`:   "2026-01-26T10:00:00.123Z",
		`""`:                              "",
		`null`:                            "",
		`-62167219200000`:                 "0000-01-01T00:00:00.000Z",
		`"\u0032026-01-26T10:00:00.000Z"`: "2026-01-26T10:00:00.000Z",
	} {
		var got Time
		require.NoError(t, json.Unmarshal([]byte(in), &got), in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{`"yesterday"`, `1e3`, `1.5`, `true`, `253402300800000`, `"2026-13-01T00:00:00Z"`, `{}`} {
		var got Time
		require.Error(t, json.Unmarshal([]byte(in), &got), in)
	}
	require.Equal(t, int64(1769421600123), Time("2026-01-26T10:00:00.123Z").Millis())
	require.Zero(t, Time("").Millis())
	require.True(t, Time("").Time().IsZero())
}

func TestDocumentsAreSealedAndOpened(t *testing.T) {
	r := &Receipt{ReceiptID: "r-1", ReceiptType: ReceiptGate, Timestamp: "2026-01-26T10:00:00.000Z", Details: map[string]any{"checksum": "not this one", "n": 1}}
	raw, err := seal(r)
	require.NoError(t, err)
	canon, err := CanonicalJSON(raw)
	require.NoError(t, err)
	require.Equal(t, string(canon), string(raw), "stored bytes are canonical")

	var object map[string]any
	require.NoError(t, json.Unmarshal(raw, &object))
	sum := object["checksum"]
	delete(object, "checksum")
	body, err := canonical(object)
	require.NoError(t, err)
	want := sha256.Sum256(body)
	require.Equal(t, hexOf(want[:]), sum, "SHA-256 over the canonical form without the checksum member")

	var back Receipt
	require.NoError(t, open(raw, &back))
	require.Equal(t, r.Checksum, back.Checksum)

	// The same content in another layout, and with the base64 spelling of older exports, is still genuine.
	object["checksum"] = base64.StdEncoding.EncodeToString(want[:])
	loose, err := json.MarshalIndent(object, "", "  ")
	require.NoError(t, err)
	require.NoError(t, checkDocument(loose))

	for i := range raw {
		bad := append([]byte(nil), raw...)
		bad[i] ^= 1
		require.Error(t, open(bad, new(Receipt)), "flipping a bit of byte %d (%q) must be noticed", i, raw[i])
	}
	for i := range raw {
		require.Error(t, open(raw[:i], new(Receipt)), "a document cut at %d must be refused", i)
	}
}

func TestMissingAndMalformedChecksumsAreNamed(t *testing.T) {
	for in, code := range map[string]Code{
		`{"a":1}`:                              CodeMissingChecksum,
		`{"a":1,"checksum":7}`:                 CodeMissingChecksum,
		`{"a":1,"checksum":""}`:                CodeMissingChecksum,
		`{"a":1,"checksum":"00"}`:              CodeChecksumMismatch,
		`{"a":1,"b":`:                          CodeMalformedDocument,
		`[1]`:                                  CodeMissingChecksum,
		``:                                     CodeMalformedDocument,
		`{"a":1,"a":2,"checksum":"00"}`:        CodeMalformedDocument,
		"{\"a\":\"\xff\",\"checksum\":\"00\"}": CodeMalformedDocument,
	} {
		require.Equal(t, code, codeOf(checkDocument([]byte(in))), "%q", in)
	}
}

func TestOversizedDocumentsAreRefused(t *testing.T) {
	_, err := seal(&Receipt{Details: map[string]any{"x": strings.Repeat("x", maxDocumentBytes)}})
	require.ErrorIs(t, err, ErrTooLarge)
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

func FuzzDocument(f *testing.F) {
	w := &WorkOrder{ID: "WO-1", Status: StatusQueued, Bucket: BucketCost, CreatedAt: "2026-01-26T10:00:00.000Z", Dependencies: []string{"WO-0"}}
	raw, err := seal(w)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"a":[1,{"b":"\""}],"checksum":"00"}`))
	f.Add([]byte(`{"":}`))
	f.Add([]byte(`{"a"`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// No bytes may panic, whatever reads them.
		workOrderKeys([]byte("WO-1"), raw)
		andonKeys([]byte("A-1"), raw)
		receiptKeys([]byte("R-1"), raw)
		genuine := checkDocument(raw) == nil
		if open(raw, new(WorkOrder)) == nil && !genuine {
			t.Fatalf("opened a document that does not verify: %q", raw)
		}
		canon, err := CanonicalJSON(raw)
		if err != nil {
			return
		}
		again, err := CanonicalJSON(canon)
		if err != nil || string(again) != string(canon) {
			t.Fatalf("not stable: %q -> %q -> %q (%v)", raw, canon, again, err)
		}
	})
}
