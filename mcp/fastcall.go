package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// This file is the short way of tools/call, the method that servers spend
// their time on: parameters are taken apart in one pass, results are written
// by hand. Whatever is unusual about either goes the long way, through the
// SDK's decoders and encoders, and comes out the same.

// callTool runs one tools/call in session and appends the encoded result.
// modern says that the client speaks protocol 2026-07-28 or newer.
func (r *Runtime) callTool(ctx context.Context, session *sdk.ServerSession, extra *sdk.RequestExtra, params json.RawMessage, modern bool, buf []byte) ([]byte, error) {
	req := &sdk.CallToolRequest{Session: session, Extra: extra, Params: new(sdk.CallToolParamsRaw)}
	if !quickParams(params, req.Params) {
		typed, err := decodeParams[sdk.CallToolParamsRaw](session, extra, params)
		if err != nil {
			return buf, err
		}
		req = typed.(*sdk.CallToolRequest)
	}
	res, err := r.chain(ctx, methodToolsCall, req)
	if err != nil {
		return buf, err
	}
	if isNil(res) {
		return buf, fmt.Errorf("the handler of tool %q returned neither a result nor an error", req.Params.Name)
	}
	if result, ok := res.(*sdk.CallToolResult); ok {
		if out, ok := r.quickResult(buf, result, modern); ok {
			return out, nil
		}
	}
	if modern {
		complete(res)
		r.signResult(res)
	}
	text, err := marshal(res)
	return append(buf, text...), err
}

// quickParams decodes the params of a tools/call that has nothing but a name,
// arguments and _meta. It is false, with p half filled, for any other.
func quickParams(params []byte, p *sdk.CallToolParamsRaw) bool {
	s := &scanner{data: params}
	s.pos++ // {
	s.space()
	if s.peek() != '"' {
		return false
	}
	for {
		key, value, ok := s.member()
		if !ok {
			return false
		}
		switch string(key) {
		case `"name"`:
			name, err := unquote(value)
			if err != nil || p.Name != "" {
				return false
			}
			p.Name = name
		case `"arguments"`:
			if p.Arguments != nil || value[0] == 'n' {
				return false
			}
			p.Arguments = value
		case `"_meta"`:
			if p.Meta != nil || value[0] != '{' || decodeJSON(value, &p.Meta) != nil {
				return false
			}
		default:
			return false
		}
		if done, err := s.next('}'); done || err != nil {
			return err == nil
		}
	}
}

// quickResult appends a result that has nothing but texts and structured
// content. It is false, with buf unchanged, for any other.
func (r *Runtime) quickResult(buf []byte, res *sdk.CallToolResult, modern bool) ([]byte, bool) {
	if res.Meta != nil || res.InputRequests != nil || res.RequestState != "" || res.Content == nil {
		return buf, false
	}
	for _, c := range res.Content {
		text, ok := c.(*sdk.TextContent)
		if !ok || text == nil || text.Meta != nil || text.Annotations != nil {
			return buf, false
		}
	}
	structured, isRaw := res.StructuredContent.(json.RawMessage)
	if res.StructuredContent != nil && (!isRaw || !isLine(structured)) {
		return buf, false
	}
	buf = append(buf, '{')
	if modern {
		buf = append(buf, r.signature...)
		buf = append(buf, `"resultType":"complete",`...)
	}
	buf = append(buf, `"content":[`...)
	for i, c := range res.Content {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(buf, `{"type":"text","text":`...)
		buf = appendString(buf, c.(*sdk.TextContent).Text)
		buf = append(buf, '}')
	}
	buf = append(buf, ']')
	if isRaw {
		buf = append(buf, `,"structuredContent":`...)
		buf = append(buf, structured...)
	}
	if res.IsError {
		buf = append(buf, `,"isError":true`...)
	}
	return append(buf, '}'), true
}

// signatureOf encodes the member that names the server in every result.
func signatureOf(info *sdk.Implementation) []byte {
	text, err := marshal(map[string]any{sdk.MetaKeyServerInfo: info})
	if err != nil { // strings and lists of strings
		panic(fmt.Sprintf("mcp: server info cannot be encoded: %v", err))
	}
	return fmt.Appendf(nil, `"_meta":%s,`, text)
}

// isLine reports whether text is JSON that needs no change to be sent: an
// event stream and the line protocols cannot carry line breaks.
func isLine(text []byte) bool {
	for _, c := range text {
		if c < 0x20 {
			return false
		}
	}
	s := &scanner{data: text}
	_, err := s.value(0)
	return err == nil && s.end() == nil && utf8.Valid(text)
}

// appendString appends a JSON string.
func appendString(buf []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < 0x20 || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return appendEscaped(buf, text, i)
		}
	}
	buf = append(buf, '"')
	buf = append(buf, text...)
	return append(buf, '"')
}

// appendEscaped appends a string whose first plain bytes need no escape.
func appendEscaped(buf []byte, text string, plain int) []byte {
	buf = append(buf, '"')
	start := 0
	for i := plain; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(text[i:])
			if r == utf8.RuneError && size == 1 {
				buf = append(append(buf, text[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		i++
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		buf = append(buf, text[start:i-1]...)
		start = i
		switch c {
		case '"', '\\':
			buf = append(buf, '\\', c)
		case '\n':
			buf = append(buf, '\\', 'n')
		case '\r':
			buf = append(buf, '\\', 'r')
		case '\t':
			buf = append(buf, '\\', 't')
		default:
			const digits = "0123456789abcdef"
			buf = append(buf, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(append(buf, text[start:]...), '"')
}

// answers lends out buffers for encoded answers.
var answers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled bounds the buffers that are kept: a few large answers must not
// hold memory for ever.
const maxPooled = 64 << 10

func borrow() *[]byte { return answers.Get().(*[]byte) }

func giveBack(p *[]byte) {
	if cap(*p) <= maxPooled {
		*p = (*p)[:0]
		answers.Put(p)
	}
}
