package tcps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of any JSON the ledger reads or writes, so that
// no input can exhaust the stack. Documents use at most 6 levels themselves.
const maxDepth = 64

// maxExactInt is the largest integer a JSON number carries exactly in every
// reader (2^53 - 1). Larger ones that would be rounded are refused.
const maxExactInt = 1<<53 - 1

// CanonicalJSON returns the canonical form (RFC 8785) of one JSON value: object
// keys sorted by UTF-16 code units, no insignificant space, one spelling for
// each string and number. It fails on malformed JSON, invalid UTF-8, duplicate
// keys, nesting deeper than 64 and integers that a double cannot hold exactly.
func CanonicalJSON(raw []byte) ([]byte, error) {
	v, err := parseJSON(raw)
	if err != nil {
		return nil, err
	}
	return appendCanonical(make([]byte, 0, len(raw)), reflect.ValueOf(v), 0)
}

// canonical encodes a Go value in canonical form. It follows the json struct
// tags (name, omitempty, "-"), writes Time as unix milliseconds and nil maps and
// slices as empty ones, which is what the stored documents need.
func canonical(v any) ([]byte, error) {
	return appendCanonical(make([]byte, 0, 1024), reflect.ValueOf(v), 0)
}

// parseJSON decodes raw strictly; objects become map[string]any and numbers
// json.Number.
func parseJSON(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("JSON is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := parseValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("JSON has bytes after its value")
	}
	return v, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("JSON is nested deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("JSON is malformed: %w", err)
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if delim == '[' {
		list := []any{}
		for d.More() {
			v, err := parseValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, closeDelim(d)
	}
	object := map[string]any{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("JSON is malformed: %w", err)
		}
		key, _ := k.(string)
		if _, dup := object[key]; dup {
			return nil, fmt.Errorf("JSON object has the key %q twice", key)
		}
		if object[key], err = parseValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	return object, closeDelim(d)
}

func closeDelim(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("JSON is malformed: %w", err)
	}
	return nil
}

var (
	typeTime   = reflect.TypeFor[Time]()
	typeNumber = reflect.TypeFor[json.Number]()
)

func appendCanonical(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value is nested deeper than %d", maxDepth)
	}
	if !v.IsValid() {
		return append(b, "null"...), nil
	}
	switch v.Type() {
	case typeTime:
		return appendTime(b, Time(v.String()))
	case typeNumber:
		return appendNumber(b, v.String())
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return appendCanonical(b, v.Elem(), depth)
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendInt(b, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return appendNumber(b, strconv.FormatUint(v.Uint(), 10))
	case reflect.Float32, reflect.Float64:
		return appendFloat(b, v.Float())
	case reflect.Slice, reflect.Array:
		return appendList(b, v, depth)
	case reflect.Map:
		return appendMap(b, v, depth)
	case reflect.Struct:
		return appendStruct(b, v, depth)
	}
	return nil, fmt.Errorf("a %s cannot be written as JSON", v.Type())
}

func appendTime(b []byte, t Time) ([]byte, error) {
	if t == "" {
		return append(b, "null"...), nil
	}
	c, err := ParseTime(string(t))
	if err != nil {
		return nil, err
	}
	return strconv.AppendInt(b, c.Millis(), 10), nil
}

func appendList(b []byte, v reflect.Value, depth int) ([]byte, error) {
	b = append(b, '[')
	var err error
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendCanonical(b, v.Index(i), depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendMap(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Type().Key().Kind() != reflect.String {
		return nil, fmt.Errorf("a %s cannot be written as JSON", v.Type())
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int { return compareUTF16(x.String(), y.String()) })
	b = append(b, '{')
	var err error
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendString(b, k.String()); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if b, err = appendCanonical(b, v.MapIndex(k), depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendStruct(b []byte, v reflect.Value, depth int) ([]byte, error) {
	b = append(b, '{')
	first := true
	var err error
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		if f.omitEmpty && isEmpty(fv) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(append(b, '"'), f.name...), '"', ':')
		if b, err = appendCanonical(b, fv, depth+1); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return append(b, '}'), nil
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.Array, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// field is one member of a struct in canonical order.
type field struct {
	name      string
	index     int
	omitEmpty bool
}

var fieldCache sync.Map // reflect.Type -> []field

func fieldsOf(t reflect.Type) []field {
	if c, ok := fieldCache.Load(t); ok {
		return c.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, opts, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if !sf.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = sf.Name
		}
		fields = append(fields, field{name, i, strings.Contains(opts, "omitempty")})
	}
	slices.SortFunc(fields, func(x, y field) int { return compareUTF16(x.name, y.name) })
	fieldCache.Store(t, fields)
	return fields
}

// compareUTF16 orders strings by UTF-16 code units. That differs from byte
// order only when a character beyond U+FFFF meets one in U+E000..U+FFFF.
func compareUTF16(x, y string) int {
	for i := 0; i < len(x) && i < len(y); i++ {
		if x[i] == y[i] {
			continue
		}
		if x[i] < utf8.RuneSelf || y[i] < utf8.RuneSelf {
			break
		}
		return slices.Compare(utf16.Encode([]rune(x)), utf16.Encode([]rune(y)))
	}
	return strings.Compare(x, y)
}

func appendInt(b []byte, n int64) ([]byte, error) {
	if n > maxExactInt || n < -maxExactInt {
		return appendNumber(b, strconv.FormatInt(n, 10))
	}
	return strconv.AppendInt(b, n, 10), nil
}

func appendNumber(b []byte, s string) ([]byte, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("number %.40s is out of range", s)
	}
	at := len(b)
	if b, err = appendFloat(b, f); err != nil {
		return nil, err
	}
	if math.Abs(f) > maxExactInt && !strings.ContainsAny(s, ".eE") && string(b[at:]) != s {
		return nil, fmt.Errorf("integer %.40s cannot be represented exactly; write it as a string", s)
	}
	return b, nil
}

// appendFloat writes the shortest form that reads back the same, in the layout
// ECMAScript prescribes.
func appendFloat(b []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("NaN and infinity cannot be written as JSON")
	}
	abs := math.Abs(f)
	if abs == 0 {
		return append(b, '0'), nil
	}
	if abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(b, f, 'f', -1, 64), nil
	}
	b = strconv.AppendFloat(b, f, 'e', -1, 64)
	// Go writes e-07 where ECMAScript writes e-7.
	if n := len(b); n >= 4 && b[n-4] == 'e' && b[n-2] == '0' {
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b, nil
}

const hexDigits = "0123456789abcdef"

func appendString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, errors.New("text is not valid UTF-8")
	}
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\f':
			b = append(b, '\\', 'f')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[start:]...), '"'), nil
}
