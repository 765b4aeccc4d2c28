package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

const (
	maxIDBytes     = 1 << 10 // an id is echoed and kept while the call runs
	maxMethodBytes = 256
	maxBatch       = 100     // messages in one batch; each may start a handler
	maxExactID     = 1 << 53 // larger numbers lose digits in JavaScript and in the SDK
)

// The protocol versions that decide how a message is routed.
const (
	versionStateless = "2026-07-28" // from here on every request stands alone
	versionNoBatch   = "2025-06-18" // from here on an array is no message
	versionPriming   = "2025-11-25" // from here on streams begin with an event that only has an id
)

// envelope is one inbound JSON-RPC message that obeys JSON-RPC and the parts
// of MCP that do not depend on the method.
type envelope struct {
	id      json.RawMessage // raw token; nil for a notification
	method  string          // empty for a response
	params  json.RawMessage // nil when absent
	result  json.RawMessage // responses only
	failure *jsonrpc.Error  // responses only
	version string          // params._meta protocolVersion, if any
	call    *Call           // of a request that a Conn has taken on
}

func (e *envelope) isCall() bool     { return e.method != "" && e.id != nil }
func (e *envelope) isResponse() bool { return e.method == "" }

// message converts e into the SDK's form. The SDK's own decoder would parse
// the text a second time.
func (e *envelope) message() jsonrpc.Message {
	id := decodeID(e.id)
	if e.isResponse() {
		resp := &jsonrpc.Response{ID: id, Result: e.result}
		if e.failure != nil {
			resp.Error = e.failure
		}
		return resp
	}
	return &jsonrpc.Request{ID: id, Method: e.method, Params: e.params}
}

// decodeID turns a checked raw id into the SDK's form; nil becomes no id.
func decodeID(raw json.RawMessage) jsonrpc.ID {
	var v any
	if len(raw) > 0 {
		if raw[0] == '"' {
			v, _ = unquote(raw)
		} else {
			v, _ = strconv.ParseFloat(string(raw), 64)
		}
	}
	id, _ := jsonrpc.MakeID(v)
	return id
}

// parseMessages checks one frame and returns its messages. Nothing of a frame
// is used unless all of it is well formed.
func parseMessages(data []byte) (list []envelope, batch bool, bad *wireError) {
	if !utf8.Valid(data) {
		bad := refuse(http.StatusBadRequest, jsonrpc.CodeParseError,
			"parse error: the message is not valid UTF-8 (first bad byte at offset %d)", firstInvalidUTF8(data))
		return nil, false, bad.withID(findID(data))
	}
	s := &scanner{data: data}
	s.space()
	switch s.peek() {
	case '{':
		env, bad := parseObject(s)
		if bad == nil {
			if err := s.end(); err != nil {
				bad = parseError(err)
			}
		}
		return []envelope{env}, false, bad
	case '[':
		list, bad := parseBatch(s)
		return list, true, bad
	}
	if _, err := s.value(0); err != nil {
		return nil, false, parseError(err)
	}
	if err := s.end(); err != nil {
		return nil, false, parseError(err)
	}
	return nil, false, invalid("invalid request: a JSON-RPC message is an object")
}

func parseError(err error) *wireError {
	return refuse(http.StatusBadRequest, jsonrpc.CodeParseError, "parse error: %v", err)
}

func firstInvalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(data)
}

// parseBatch reads an array of messages: 1..maxBatch of them, no initialize,
// no id twice.
func parseBatch(s *scanner) ([]envelope, *wireError) {
	var raw [][]byte
	tooMany := errors.New("too many")
	err := s.elements(0, func(v []byte) error {
		if len(raw) == maxBatch {
			return tooMany
		}
		raw = append(raw, v)
		return nil
	})
	if err == nil {
		err = s.end()
	}
	switch {
	case errors.Is(err, tooMany):
		return nil, invalid("invalid request: a batch holds at most %d messages", maxBatch)
	case err != nil:
		return nil, parseError(err)
	case len(raw) == 0:
		return nil, invalid("invalid request: empty batch")
	}
	list := make([]envelope, 0, len(raw))
	seen := make(map[string]bool, len(raw))
	for i, text := range raw {
		if text[0] != '{' {
			return nil, invalid("invalid request: message %d of the batch is not an object", i)
		}
		env, bad := parseObject(&scanner{data: text})
		if bad != nil {
			bad.Message += " (message " + strconv.Itoa(i) + " of the batch)"
			return nil, bad
		}
		if env.method == "initialize" {
			return nil, invalid("invalid request: initialize must not be part of a batch")
		}
		if env.isCall() {
			if seen[string(env.id)] {
				return nil, invalid("invalid request: id %s twice in one batch", env.id)
			}
			seen[string(env.id)] = true
		}
		list = append(list, env)
	}
	return list, nil
}

// parseObject reads one message object. JSON errors win over protocol errors,
// and the id is attached to a refusal whenever it is usable.
func parseObject(s *scanner) (envelope, *wireError) {
	var f fields
	err := s.members(0, f.add)
	if f.bad != nil && errors.Is(err, f.bad) {
		// Finish the text: a broken one is a parse error, whatever came before.
		rest := &scanner{data: s.data}
		rest.space()
		if _, err := rest.value(0); err != nil {
			return envelope{}, parseError(err)
		}
		return envelope{}, f.bad
	}
	if err != nil {
		return envelope{}, parseError(err)
	}
	return f.envelope()
}

// fields gathers the members of a message object by name.
type fields struct {
	jsonrpc, id, method, params, result, failure []byte
	bad                                          *wireError
}

func (f *fields) add(key, value []byte) error {
	name, slot := f.slot(key)
	if slot == nil {
		return nil // unknown members are ignored, as JSON-RPC peers expect
	}
	if *slot != nil {
		// Two parsers may pick different ones: what was checked would not be what runs.
		f.bad = invalid("invalid request: member %q appears twice", name)
		return f.bad
	}
	*slot = value
	return nil
}

// slot returns where the value of a member with this raw name belongs.
func (f *fields) slot(key []byte) (name string, slot *[]byte) {
	if bytes.IndexByte(key, '\\') >= 0 {
		plain, err := unquote(key)
		if err != nil {
			return "", nil
		}
		key = []byte(`"` + plain + `"`)
	}
	switch string(key) {
	case `"jsonrpc"`:
		return "jsonrpc", &f.jsonrpc
	case `"id"`:
		return "id", &f.id
	case `"method"`:
		return "method", &f.method
	case `"params"`:
		return "params", &f.params
	case `"result"`:
		return "result", &f.result
	case `"error"`:
		return "error", &f.failure
	}
	return "", nil
}

func (f *fields) envelope() (envelope, *wireError) {
	var env envelope
	fail := func(bad *wireError) (envelope, *wireError) { return envelope{}, bad.withID(env.id) }
	if f.id != nil {
		if why := checkID(f.id); why != "" {
			return fail(invalid("invalid request: %s", why))
		}
		env.id = f.id
	}
	if v, err := unquote(f.jsonrpc); err != nil || v != "2.0" {
		return fail(invalid(`invalid request: "jsonrpc" must be "2.0"`))
	}
	if f.method == nil {
		return f.response(env)
	}
	if f.result != nil || f.failure != nil {
		return fail(invalid(`invalid request: a message with "method" cannot carry "result" or "error"`))
	}
	method, err := unquote(f.method)
	if err != nil || method == "" || len(method) > maxMethodBytes {
		return fail(invalid(`invalid request: "method" must be a string of 1 to %d bytes`, maxMethodBytes))
	}
	env.method = method
	if f.params != nil && string(f.params) != "null" {
		if f.params[0] != '{' {
			return fail(refuse(http.StatusBadRequest, jsonrpc.CodeInvalidParams, `invalid params: "params" must be an object`))
		}
		env.params = f.params
		env.version = metaVersion(f.params)
	}
	return env, nil
}

// response finishes a message without a method.
func (f *fields) response(env envelope) (envelope, *wireError) {
	switch {
	case f.result == nil && f.failure == nil:
		return envelope{}, invalid(`invalid request: "method" is missing`).withID(env.id)
	case f.result != nil && f.failure != nil:
		return envelope{}, invalid(`invalid response: both "result" and "error"`)
	case env.id == nil:
		return envelope{}, invalid(`invalid response: "id" is missing`)
	}
	env.result = f.result
	if f.failure != nil {
		failure := new(jsonrpc.Error)
		if err := json.Unmarshal(f.failure, failure); err != nil {
			return envelope{}, invalid(`invalid response: "error" must be an object with an integer code and a message`)
		}
		env.failure = failure
	}
	return env, nil
}

// checkID says what is wrong with a raw id, or "".
func checkID(raw []byte) string {
	switch c := raw[0]; {
	case len(raw) > maxIDBytes:
		return `"id" is longer than ` + strconv.Itoa(maxIDBytes) + " bytes"
	case c == '"':
		return ""
	case c == '-' || c >= '0' && c <= '9':
		v, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || v != math.Trunc(v) || math.Abs(v) > maxExactID {
			return `"id" must be a whole number between -2^53 and 2^53, or a string`
		}
		return ""
	}
	return `"id" must be a string or a whole number`
}

// metaVersion returns params._meta["io.modelcontextprotocol/protocolVersion"],
// or "" when there is none. params is a valid JSON object.
func metaVersion(params []byte) string {
	meta := member(params, "_meta")
	if len(meta) == 0 || meta[0] != '{' {
		return ""
	}
	v, _ := unquote(member(meta, sdk.MetaKeyProtocolVersion))
	return v
}

// isName reports whether a raw member name is name.
func isName(raw []byte, name string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1:len(raw)-1]) == name
	}
	got, err := unquote(raw)
	return err == nil && got == name
}

// member returns the raw value of a member of a valid JSON object: the last
// one of that name, as encoding/json would.
func member(object []byte, name string) (value []byte) {
	s := &scanner{data: object}
	_ = s.members(0, func(k, v []byte) error {
		if isName(k, name) {
			value = v
		}
		return nil
	})
	return value
}
