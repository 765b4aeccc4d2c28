package mcp

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"
)

// TestQuickSchemaAcceptsNothingThatTheSchemaRefuses tries random texts against
// random schemas.
func TestQuickSchemaAcceptsNothingThatTheSchemaRefuses(t *testing.T) {
	d := rand.New(rand.NewPCG(5, 6))
	pick := func(options ...string) string { return options[d.IntN(len(options))] }
	var schema func(depth int) string
	schema = func(depth int) string {
		if depth == 0 {
			return pick(`{}`, `true`, `{"type":"string"}`, `{"type":"integer"}`, `{"type":"number"}`, `{"type":"boolean"}`, `{"type":["null","string"]}`,
				`{"type":"string","minLength":3}`, `{"enum":[1,"a"]}`, `{"type":"integer","description":"x"}`)
		}
		switch d.IntN(3) {
		case 0:
			return `{"type":` + pick(`"array"`, `["null","array"]`) + pick("", `,"items":`+schema(depth-1)) + pick("", "", `,"minItems":1`) + "}"
		default:
			return fmt.Sprintf(`{"type":%s,"properties":{"a":%s,"b":%s}%s%s}`, pick(`"object"`, `["null","object"]`), schema(depth-1), schema(depth-1),
				pick("", `,"required":["a"]`, `,"required":["a","b"]`, `,"required":["c"]`), pick("", `,"additionalProperties":false`, `,"additionalProperties":{"type":"integer"}`))
		}
	}
	var text func(depth int) string
	text = func(depth int) string {
		if depth == 0 || d.IntN(5) == 0 {
			return pick("1", "-7", "2.0", "2.5", "1e2", "12345678901234567890", "true", "false", "null", `"a"`, `"abcd"`, `"\u0061"`, "{}", "[]")
		}
		if d.IntN(3) == 0 {
			var items []string
			for range d.IntN(3) {
				items = append(items, text(depth-1))
			}
			return "[" + strings.Join(items, " , ") + "]"
		}
		var members []string
		for range d.IntN(4) {
			members = append(members, `"`+pick("a", "a", "b", "b", "c", `\u0061`)+`" : `+text(depth-1))
		}
		return "{ " + strings.Join(members, " ,\n") + " }"
	}
	accepted, compiled := 0, 0
	for range 3000 {
		var s jsonschema.Schema
		source := schema(2)
		require.NoError(t, json.Unmarshal([]byte(source), &s))
		q := compileQuick(&s)
		if q == nil {
			continue
		}
		compiled++
		resolved, err := s.Resolve(nil)
		require.NoError(t, err)
		for range 5 {
			doc := text(3)
			if !q.accepts([]byte(doc)) {
				continue
			}
			accepted++
			var v any
			require.NoError(t, decodeJSON([]byte(doc), &v))
			require.NoError(t, resolved.Validate(v), "%s against %s", doc, source)
			require.False(t, hasDuplicates([]byte(doc)) && strings.Contains(source, "properties"), "%s against %s", doc, source)
		}
	}
	require.Greater(t, compiled, 500)
	require.Greater(t, accepted, 200)
}

func TestQuickSchemaKnowsTheUsualOnes(t *testing.T) {
	type in struct {
		Text  string   `json:"text" jsonschema:"what"`
		Count int      `json:"count,omitempty"`
		Tags  []string `json:"tags,omitempty"`
		Deep  *struct {
			On bool `json:"on"`
		} `json:"deep,omitempty"`
	}
	s, err := jsonschema.For[in](nil)
	require.NoError(t, err)
	q := compileQuick(s)
	require.NotNil(t, q)
	for text, want := range map[string]bool{
		`{"text":"x"}`: true, `{"text":"x","count":3,"tags":["a"],"deep":{"on":true}}`: true, `{ "text" : "x" , "tags" : null }`: true,
		`{}`: false, `{"text":1}`: false, `{"text":"x","other":1}`: false, `{"text":"x","text":"y"}`: false, `{"text":"x","count":2.5}`: false,
		`{"text":"x","deep":{}}`: false, `{"text":"x","tags":[1]}`: false, `{"te\u0078t":"x"}`: false,
	} {
		require.Equal(t, want, q.accepts([]byte(text)), text)
	}
}
