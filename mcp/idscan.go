package mcp

import "encoding/json"

// idScan finds the top-level "id" of a JSON object in a stream of bytes, in
// constant memory and without trusting the rest of the text. It lets us answer
// a message that is too large to keep: a caller that gets no answer waits for
// ever. The zero value is ready.
type idScan struct {
	depth    int
	inString bool
	escaped  bool
	isKey    bool   // the string being read is a member name at depth 1
	wantID   bool   // the last member name was "id"; its value comes
	text     []byte // the member name or the id value read so far
	id       json.RawMessage
	many     bool // more than one id: ambiguous, so none
}

func (s *idScan) write(p []byte) {
	for _, c := range p {
		s.step(c)
	}
}

func (s *idScan) step(c byte) {
	if s.inString {
		s.keep(c)
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == '"':
			s.inString = false
			if s.depth == 1 {
				s.endString()
			}
		}
		return
	}
	switch c {
	case '"':
		s.inString = true
		if s.depth == 1 && !s.wantID {
			s.isKey = true
			s.text = s.text[:0]
		}
		s.keep(c)
	case '{', '[':
		s.depth++
		s.wantID = s.wantID && s.depth != 2 // an object or array is no id
	case '}', ']', ',':
		if s.depth == 1 {
			s.endValue()
			s.isKey = false
		}
		if c != ',' {
			s.depth--
		}
	case ' ', '\t', '\r', '\n', ':':
	default:
		s.keep(c)
	}
}

// keep gathers the bytes of a member name or of the id; more than an id may
// have are not kept.
func (s *idScan) keep(c byte) {
	if s.depth == 1 && (s.isKey || s.wantID) && len(s.text) <= maxIDBytes {
		s.text = append(s.text, c)
	}
}

// endString ends a member name, or a string value, at depth 1.
func (s *idScan) endString() {
	if !s.isKey {
		return
	}
	s.isKey = false
	s.wantID = string(s.text) == `"id"`
	s.text = s.text[:0]
}

func (s *idScan) endValue() {
	if !s.wantID {
		return
	}
	s.wantID = false
	if len(s.text) > 0 && json.Valid(s.text) && checkID(s.text) == "" {
		s.many = s.many || s.id != nil
		s.id = append(json.RawMessage(nil), s.text...)
	}
}

// found returns the id, or nil when there is none that can be trusted.
func (s *idScan) found() json.RawMessage {
	if s.many {
		return nil
	}
	return s.id
}

// findID is idScan over a whole text.
func findID(data []byte) json.RawMessage {
	var s idScan
	s.write(data)
	return s.found()
}
