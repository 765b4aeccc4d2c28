package mcp

import (
	"bytes"
	"encoding/json"

	"github.com/google/jsonschema-go/jsonschema"
)

// A quickSchema accepts texts that conform to a plain schema without decoding
// them: types, properties, required members, items, no further members. It may
// only err in one direction: what it accepts the schema accepts, member names
// are unambiguous and written without escapes. Everything else is for the real
// validator, which also knows how to say what is wrong.
type quickSchema struct {
	types      quickTypes
	properties []quickProperty
	required   uint64 // bits of properties
	items      *quickSchema
}

type quickProperty struct {
	name   []byte // with quotes
	schema *quickSchema
}

type quickTypes uint8

const (
	quickNull quickTypes = 1 << iota
	quickBool
	quickNumber
	quickInteger
	quickString
	quickArray
	quickObject

	quickAny = quickNull | quickBool | quickNumber | quickString | quickArray | quickObject
)

var quickTypeNames = map[string]quickTypes{
	"null": quickNull, "boolean": quickBool, "number": quickNumber, "integer": quickInteger,
	"string": quickString, "array": quickArray, "object": quickObject,
}

const (
	maxQuickProperties = 64
	maxQuickDepth      = 16
	maxQuickDigits     = 15 // of an integer: exact in every representation
)

// compileQuick returns the quick form of a schema, or nil when it says more
// than a quickSchema can check.
func compileQuick(s *jsonschema.Schema) *quickSchema {
	text, err := json.Marshal(s)
	if err != nil {
		return nil
	}
	return compileQuickText(text, 0)
}

func compileQuickText(text json.RawMessage, depth int) *quickSchema {
	if string(text) == "true" || string(text) == "{}" {
		return &quickSchema{types: quickAny}
	}
	var fields map[string]json.RawMessage
	if depth > maxQuickDepth || json.Unmarshal(text, &fields) != nil {
		return nil
	}
	q := &quickSchema{types: quickAny}
	var properties map[string]json.RawMessage
	var required []string
	for name, value := range fields {
		ok := true
		switch name {
		case "title", "description", "$schema", "x-mcp-header":
		case "type":
			q.types, ok = compileTypes(value)
		case "properties":
			ok = json.Unmarshal(value, &properties) == nil
		case "required":
			ok = json.Unmarshal(value, &required) == nil
		case "additionalProperties":
			ok = string(value) == "false" || string(value) == `{"not":{}}` // others are never accepted here
		case "items":
			q.items = compileQuickText(value, depth+1)
			ok = q.items != nil
		default:
			ok = false
		}
		if !ok {
			return nil
		}
	}
	if !q.setProperties(properties, required, depth) {
		return nil
	}
	return q
}

func compileTypes(value json.RawMessage) (types quickTypes, ok bool) {
	var one string
	var names []string
	if json.Unmarshal(value, &one) == nil {
		names = []string{one}
	} else if json.Unmarshal(value, &names) != nil {
		return 0, false
	}
	for _, name := range names {
		t, known := quickTypeNames[name]
		if !known {
			return 0, false
		}
		types |= t
	}
	return types, true
}

func (q *quickSchema) setProperties(properties map[string]json.RawMessage, required []string, depth int) bool {
	if len(properties) > maxQuickProperties {
		return false
	}
	bit := make(map[string]uint64)
	for name, value := range properties {
		quoted, err := marshal(name)
		schema := compileQuickText(value, depth+1)
		if err != nil || schema == nil || bytes.IndexByte(quoted, '\\') >= 0 {
			return false
		}
		bit[name] = 1 << len(q.properties)
		q.properties = append(q.properties, quickProperty{quoted, schema})
	}
	for _, name := range required {
		if bit[name] == 0 {
			return false
		}
		q.required |= bit[name]
	}
	return true
}

// accepts reports whether text, which must be valid JSON, conforms.
func (q *quickSchema) accepts(text []byte) bool {
	switch c := text[0]; c {
	case '{':
		return q.types&quickObject != 0 && q.acceptsObject(text)
	case '[':
		return q.types&quickArray != 0 && q.acceptsArray(text)
	case '"':
		return q.types&quickString != 0
	case 't', 'f':
		return q.types&quickBool != 0
	case 'n':
		return q.types&quickNull != 0
	default:
		return q.types&quickNumber != 0 && len(text) <= maxQuickDigits ||
			q.types&quickInteger != 0 && len(text) <= maxQuickDigits && !bytes.ContainsAny(text, ".eE")
	}
}

func (q *quickSchema) acceptsObject(text []byte) bool {
	s := &scanner{data: text}
	s.pos++ // {
	s.space()
	if s.peek() == '}' {
		return q.required == 0
	}
	var seen uint64
	for {
		key, value, ok := s.member()
		if !ok || bytes.IndexByte(key, '\\') >= 0 {
			return false
		}
		known := false
		for i := range q.properties {
			p := &q.properties[i]
			if !bytes.Equal(p.name, key) {
				continue
			}
			if seen&(1<<i) != 0 || !p.schema.accepts(value) {
				return false
			}
			seen |= 1 << i
			known = true
			break
		}
		if !known {
			// Members that nobody described could be there twice, or be an
			// object in which some are.
			return false
		}
		if done, err := s.next('}'); err != nil {
			return false
		} else if done {
			return seen&q.required == q.required
		}
	}
}

func (q *quickSchema) acceptsArray(text []byte) bool {
	s := &scanner{data: text}
	ok := true
	err := s.elements(0, func(value []byte) error {
		ok = ok && (q.items != nil && q.items.accepts(value) || q.items == nil && isScalar(value))
		return nil
	})
	return err == nil && ok
}

func isScalar(value []byte) bool { return value[0] != '{' && value[0] != '[' }
