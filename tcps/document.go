package tcps

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
)

// maxDocumentBytes bounds one stored document. Orders and receipts are records
// about work, not the artifacts themselves; those are named by checksum.
const maxDocumentBytes = 1 << 20

// checksumMember is the member that every document carries and that its own
// checksum leaves out.
const checksumMember = "checksum"

// document is an entity that is stored with its checksum.
type document interface {
	docChecksum() *string // the member that holds the checksum
	docNormalise()        // makes absent lists and maps empty, never nil
}

// seal computes the checksum of d, stores it in d and returns the bytes to
// write: canonical JSON including the checksum.
func seal(d document) ([]byte, error) {
	d.docNormalise()
	sum := d.docChecksum()
	*sum = ""
	body, err := canonical(d)
	if err != nil {
		return nil, refuse(CodeInvalidField, "the record cannot be stored: %v", err)
	}
	m, ok := findMember(body, checksumMember)
	if !ok {
		return nil, fmt.Errorf("tcps: a document of type %T has no checksum member", d)
	}
	h := sha256.New()
	h.Write(body[:m.start])
	h.Write(body[m.end:])
	*sum = hex.EncodeToString(h.Sum(nil))
	doc := make([]byte, 0, len(body)+len(*sum))
	doc = append(append(doc, body[:m.valueStart+1]...), *sum...)
	doc = append(doc, body[m.valueEnd-1:]...)
	if len(doc) > maxDocumentBytes {
		return nil, refuse(CodeTooLarge, "the record would be %d bytes, the limit is %d: store large data elsewhere and record its checksum", len(doc), maxDocumentBytes)
	}
	return doc, nil
}

// content returns the canonical form of d without its checksum member.
func content(d document) ([]byte, error) {
	body, err := canonical(d)
	if err != nil {
		return nil, err
	}
	if m, ok := findMember(body, checksumMember); ok {
		body = append(body[:m.start], body[m.end:]...)
	}
	return body, nil
}

// open verifies the checksum of stored bytes and decodes them into d.
func open(raw []byte, d document) error {
	if err := checkDocument(raw); err != nil {
		return err
	}
	return decodeDocument(raw, d)
}

func decodeDocument(raw []byte, d document) error {
	if err := json.Unmarshal(raw, d); err != nil {
		return refuse(CodeMalformedDocument, "the stored document does not decode: %v", err)
	}
	d.docNormalise()
	return nil
}

// checkDocument recomputes the checksum of a stored document. Documents written
// by this package are canonical, so cutting the checksum member out of the
// bytes gives what was hashed; anything else takes the slow way through the
// canonicaliser (imported documents may be laid out differently).
func checkDocument(raw []byte) error {
	m, ok := findMember(raw, checksumMember)
	if !ok {
		if _, err := parseJSON(raw); err != nil {
			return refuse(CodeMalformedDocument, "the stored document is not JSON: %v", err)
		}
		return refuse(CodeMissingChecksum, "the stored document has no checksum member")
	}
	var want string
	if err := json.Unmarshal(raw[m.valueStart:m.valueEnd], &want); err != nil || want == "" {
		return refuse(CodeMissingChecksum, "the checksum member of the stored document is not text")
	}
	h := sha256.New()
	h.Write(raw[:m.start])
	h.Write(raw[m.end:])
	if sumEquals(want, h.Sum(nil)) {
		return nil
	}
	return checkDocumentSlow(raw, want)
}

func checkDocumentSlow(raw []byte, want string) error {
	v, err := parseJSON(raw)
	if err != nil {
		return refuse(CodeMalformedDocument, "the stored document is not JSON: %v", err)
	}
	object, ok := v.(map[string]any)
	if !ok {
		return refuse(CodeMalformedDocument, "the stored document is not a JSON object")
	}
	delete(object, checksumMember)
	body, err := canonical(object)
	if err != nil {
		return refuse(CodeMalformedDocument, "the stored document has no canonical form: %v", err)
	}
	got := sha256.Sum256(body)
	if sumEquals(want, got[:]) {
		return nil
	}
	return refuse(CodeChecksumMismatch, "the stored document has been altered: its checksum says %.64s, its content gives %x", want, got)
}

// sumEquals compares a recorded checksum with a digest. Hex is what we write;
// older exports used base64.
func sumEquals(want string, digest []byte) bool {
	if want == hex.EncodeToString(digest) {
		return true
	}
	old, err := base64.StdEncoding.DecodeString(want)
	return err == nil && bytes.Equal(old, digest)
}

// member is the place of one top-level member in a JSON object: [start,end)
// covers key, value and one neighbouring comma.
type member struct {
	start, end           int
	valueStart, valueEnd int
}

// findMember locates a top-level member of a JSON object without decoding it.
// It is lenient (the caller decodes or hashes afterwards) and never panics.
func findMember(raw []byte, name string) (member, bool) {
	var found member
	ok := false
	eachMember(raw, func(key []byte, m member) bool {
		if string(key) == name {
			found, ok = m, true
			return false
		}
		return true
	})
	return found, ok
}

// eachMember calls fn for every top-level member of the JSON object in raw until
// fn returns false. Keys are given as written, between their quotes. It stops
// silently at the first byte that cannot belong to an object.
func eachMember(raw []byte, fn func(key []byte, m member) bool) {
	i := skipSpace(raw, 0)
	if i >= len(raw) || raw[i] != '{' {
		return
	}
	i++
	comma := -1 // place of the comma before the current member, if any
	for {
		i = skipSpace(raw, i)
		if i >= len(raw) || raw[i] != '"' {
			return
		}
		keyStart := i
		i = skipString(raw, i)
		if i > len(raw) {
			return
		}
		key := raw[keyStart+1 : i-1]
		if i = skipSpace(raw, i); i >= len(raw) || raw[i] != ':' {
			return
		}
		m := member{start: keyStart, valueStart: skipSpace(raw, i+1)}
		m.valueEnd = skipValue(raw, m.valueStart)
		if m.valueEnd > len(raw) {
			return
		}
		m.end = m.valueEnd
		i = skipSpace(raw, m.valueEnd)
		more := i < len(raw) && raw[i] == ','
		switch {
		case comma >= 0:
			m.start = comma
		case more:
			m.end = i + 1
		}
		if !fn(key, m) || !more {
			return
		}
		comma = i
		i++
	}
}

func skipSpace(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\n' || raw[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index behind the string that starts at i, or more than
// len(raw) if it does not end.
func skipString(raw []byte, i int) int {
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw) + 1
}

// skipValue returns the index behind the value that starts at i, or more than
// len(raw) if it does not end.
func skipValue(raw []byte, i int) int {
	depth := 0
	for start := i; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			i = skipString(raw, i)
		case c == '{' || c == '[':
			depth++
			i++
		case c == '}' || c == ']':
			if depth == 0 {
				if i == start {
					return len(raw) + 1
				}
				return i
			}
			depth--
			i++
		case depth == 0 && (c == ',' || c == ' ' || c == '\n' || c == '\t' || c == '\r'):
			if i == start {
				return len(raw) + 1
			}
			return i
		default:
			i++
		}
		if depth == 0 && i <= len(raw) && i > 0 && (raw[i-1] == '"' || raw[i-1] == '}' || raw[i-1] == ']') {
			return i
		}
	}
	return len(raw) + 1
}

// text returns the string value of a member, "" if it is something else.
func (m member) text(raw []byte) string {
	v := raw[m.valueStart:m.valueEnd]
	if len(v) >= 2 && v[0] == '"' && !bytes.ContainsRune(v, '\\') {
		return string(v[1 : len(v)-1])
	}
	var s string
	if json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s
}

// decode decodes the value of a member into out.
func (m member) decode(raw []byte, out any) error {
	if err := json.Unmarshal(raw[m.valueStart:m.valueEnd], out); err != nil {
		return fmt.Errorf("member: %w", err)
	}
	return nil
}

// millis returns the moment a member holds as unix milliseconds: stored
// documents have the number, imported ones may have text.
func (m member) millis(raw []byte) (int64, error) {
	if n, err := strconv.ParseInt(string(raw[m.valueStart:m.valueEnd]), 10, 64); err == nil {
		return n, nil
	}
	var t Time
	err := m.decode(raw, &t)
	return t.Millis(), err
}
