package mcp

import (
	"encoding/json"
	"errors"
	"fmt"
)

// maxDepth is the deepest nesting of objects and arrays that is read. The SDK
// refuses more than 1000 levels; we refuse them before anything else runs.
const maxDepth = 1000

var errTooDeep = fmt.Errorf("nested deeper than %d levels", maxDepth)

// scanner checks JSON texts in one pass and hands out the parts of the
// outermost objects as slices of the input. It accepts exactly RFC 8259
// (the same texts as json.Valid), apart from maxDepth.
type scanner struct {
	data []byte
	pos  int
}

// syntaxError says where the text stops being JSON.
func (s *scanner) syntaxError(want string) error {
	if s.pos >= len(s.data) {
		return fmt.Errorf("unexpected end of input, want %s", want)
	}
	return fmt.Errorf("unexpected %q at byte %d, want %s", s.data[s.pos], s.pos, want)
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// end reports an error unless only white space is left.
func (s *scanner) end() error {
	s.space()
	if s.pos < len(s.data) {
		return s.syntaxError("the end of the message")
	}
	return nil
}

// value skips one value, depth levels down, and returns its text.
func (s *scanner) value(depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	start := s.pos
	var err error
	switch c := s.peek(); {
	case c == '{':
		err = s.members(depth, func(_, _ []byte) error { return nil })
	case c == '[':
		err = s.elements(depth, func([]byte) error { return nil })
	case c == '"':
		err = s.str()
	case c == '-' || c >= '0' && c <= '9':
		err = s.number()
	default:
		err = s.literal()
	}
	return s.data[start:s.pos], err
}

// members reads an object and calls fn with the raw key (with its quotes) and
// the raw value of each member.
func (s *scanner) members(depth int, fn func(key, value []byte) error) error {
	s.pos++ // {
	s.space()
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		s.space()
		if s.peek() != '"' {
			return s.syntaxError("a member name")
		}
		start := s.pos
		if err := s.str(); err != nil {
			return err
		}
		key := s.data[start:s.pos]
		s.space()
		if s.peek() != ':' {
			return s.syntaxError("':'")
		}
		s.pos++
		s.space()
		value, err := s.value(depth + 1)
		if err != nil {
			return err
		}
		if err := fn(key, value); err != nil {
			return err
		}
		if done, err := s.next('}'); done || err != nil {
			return err
		}
	}
}

// member reads the next member of an object and leaves the comma or bracket
// behind it. It is false when the text is broken there.
func (s *scanner) member() (key, value []byte, ok bool) {
	s.space()
	if s.peek() != '"' {
		return nil, nil, false
	}
	start := s.pos
	if s.str() != nil {
		return nil, nil, false
	}
	key = s.data[start:s.pos]
	s.space()
	if s.peek() != ':' {
		return nil, nil, false
	}
	s.pos++
	s.space()
	value, err := s.value(1)
	return key, value, err == nil
}

// elements reads an array and calls fn with the raw text of each element.
func (s *scanner) elements(depth int, fn func(value []byte) error) error {
	s.pos++ // [
	s.space()
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		s.space()
		value, err := s.value(depth + 1)
		if err != nil {
			return err
		}
		if err := fn(value); err != nil {
			return err
		}
		if done, err := s.next(']'); done || err != nil {
			return err
		}
	}
}

// next reads the comma before another item, or the closing bracket.
func (s *scanner) next(closing byte) (done bool, err error) {
	s.space()
	switch s.peek() {
	case ',':
		s.pos++
		return false, nil
	case closing:
		s.pos++
		return true, nil
	}
	return false, s.syntaxError(fmt.Sprintf("',' or '%c'", closing))
}

func (s *scanner) str() error {
	for s.pos++; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return nil
		case c < 0x20:
			return s.syntaxError("no control character in a string")
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
	return s.syntaxError("the end of a string")
}

// escape checks the sequence behind a backslash and stays on its last byte.
func (s *scanner) escape() error {
	s.pos++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		for range 4 {
			s.pos++
			if !isHex(s.peek()) {
				return s.syntaxError("four hexadecimal digits")
			}
		}
		return nil
	}
	return s.syntaxError("an escape sequence")
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func (s *scanner) number() error {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if !s.digits() {
		return s.syntaxError("a digit")
	}
	if s.peek() == '.' {
		s.pos++
		if !s.digits() {
			return s.syntaxError("a digit")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if !s.digits() {
			return s.syntaxError("a digit")
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) literal() error {
	for _, word := range []string{"true", "false", "null"} {
		if len(s.data)-s.pos >= len(word) && string(s.data[s.pos:s.pos+len(word)]) == word {
			s.pos += len(word)
			return nil
		}
	}
	return s.syntaxError("a value")
}

// unquote decodes a raw JSON string. Plain strings, nearly all of them, cost
// no call into encoding/json.
func unquote(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", errors.New("not a string")
	}
	for _, c := range raw {
		if c == '\\' {
			var out string
			err := json.Unmarshal(raw, &out)
			return out, err
		}
	}
	return string(raw[1 : len(raw)-1]), nil
}
