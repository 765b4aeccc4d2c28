package classic

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const turtleHead = "@prefix tcps: <http://erlmcp.org/ontology/tcps#> .\n@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n\n"

// turtle describes one document: a subject with a triple for every scalar member and for every element of a list of scalars. Members
// with an inner structure are JSON literals.
func turtle(k kind, key, value []byte) []byte {
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	if d.Decode(&doc) != nil {
		return fmt.Appendf(nil, "# %s %s does not decode\n\n", k.folder, strings.ToValidUTF8(fileName(key), "?"))
	}
	id := fileName(key)
	if uuid, ok := doc["uuid"].(string); ok {
		id = fileName([]byte(uuid))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<http://erlmcp.org/ontology/tcps#%s%s> a tcps:%s", k.prefix, id, k.class)
	for _, name := range sorted(doc) {
		values, isList := doc[name].([]any)
		if !isList {
			values = []any{doc[name]}
		}
		for _, v := range values {
			if text, ok := literal(name, v); ok {
				fmt.Fprintf(&b, " ;\n  tcps:%s %s", property(name), text)
			}
		}
	}
	b.WriteString(" .\n\n")
	return b.Bytes()
}

// property turns work_order_id into workOrderId.
func property(name string) string {
	var b strings.Builder
	up := false
	for _, c := range name {
		switch {
		case c == '_':
			up = b.Len() > 0
		case c >= 'a' && c <= 'z' && up:
			b.WriteRune(c - 'a' + 'A')
			up = false
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			b.WriteRune(c)
			up = false
		default:
			fmt.Fprintf(&b, "u%04X", c)
		}
	}
	return b.String()
}

// literal is a value in Turtle; null has none.
func literal(name string, v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case bool:
		return fmt.Sprint(v), true
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return `"` + v.String() + `"^^xsd:double`, true
		}
		return v.String(), true
	case string:
		if v == "" {
			return "", false
		}
		kind := ""
		if strings.HasSuffix(name, "_at") || name == "timestamp" || strings.HasSuffix(name, "_deadline") {
			kind = "^^xsd:dateTime"
		}
		return quoted(v) + kind, true
	}
	raw, err := json.Marshal(v)
	if err != nil || string(raw) == "{}" {
		return "", false
	}
	return quoted(string(raw)), true
}

// quoted is a string literal; Turtle has the escapes of JSON but for the slash, and no surrogates.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
