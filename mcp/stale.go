package mcp

import (
	"math"
	"net/http"
	"strconv"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// MetaStale is the member of a tools/call or resources/read request's _meta that asks for an answer from this node alone, without a
// word of the others: it may be old, and it is given when no majority can be reached. Its value is true, or the greatest age in
// seconds that the client accepts (0 to 1e9). The HTTP header Erlmcp-Stale means the same ("true" or a number).
//
// The result's _meta says under MetaStaleness what the answer is worth:
//
//	{"index": 4711, "ageSeconds": 0.12}
//
// The state has every change up to log entry index, and everything that was acknowledged anywhere more than ageSeconds ago. ageSeconds
// is missing when that is not known: this node has not reached a majority since it started. An answer that would be older than the
// client accepts, or of unknown age when it set a limit, is refused with CodeStale and nothing is run.
//
// Reads without it are current. Tools that change something refuse it.
const (
	MetaStale     = "io.erlmcp/stale"
	MetaStaleness = "io.erlmcp/staleness"

	headerStale = "Erlmcp-Stale"
)

// Staleness is what an answer of one node alone is worth.
type Staleness struct {
	Index uint64   `json:"index"`
	Age   *float64 `json:"ageSeconds,omitempty"`
}

// wantsStale is nil for requests that want current answers.
func (r *Runtime) wantsStale(req sdk.Request) (*Staleness, error) {
	var meta sdk.Meta
	switch req := req.(type) {
	case *sdk.CallToolRequest:
		meta = req.Params.Meta
	case *sdk.ReadResourceRequest:
		meta = req.Params.Meta
	default:
		return nil, nil
	}
	limit, asked, err := staleLimit(meta, req.GetExtra())
	if err != nil || !asked {
		return nil, err
	}
	s, age := new(Staleness), time.Duration(0)
	if r.opts.Freshness != nil {
		s.Index, age = r.opts.Freshness()
	}
	if age >= 0 {
		seconds := age.Seconds()
		s.Age = &seconds
	}
	if limit < math.MaxInt64 && (age < 0 || age > limit) {
		return nil, &jsonrpc.Error{Code: CodeStale, Message: "the state of this node may be older than " + limit.String() + ": it does not reach a majority of its cluster; ask another node, or accept a greater age"}
	}
	return s, nil
}

// state writes the staleness into a result.
func (s *Staleness) state(res sdk.Result) {
	if isNil(res) {
		return
	}
	meta := res.GetMeta()
	if meta == nil {
		meta = map[string]any{}
	}
	meta[MetaStaleness] = s
	res.SetMeta(meta)
}

// staleLimit reads what the client asks for, in _meta or in the header.
func staleLimit(meta sdk.Meta, extra *sdk.RequestExtra) (limit time.Duration, asked bool, err error) {
	v, given := meta[MetaStale]
	if !given {
		var h http.Header
		if extra != nil {
			h = extra.Header
		}
		text := h.Get(headerStale)
		if text == "" {
			return 0, false, nil
		}
		if v = text == "true"; text != "true" {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				n = -1
			}
			v = n
		}
	}
	switch v := v.(type) {
	case bool:
		return math.MaxInt64, v, nil
	case float64:
		if v >= 0 && v <= 1e9 {
			return time.Duration(v * float64(time.Second)), true, nil
		}
	}
	return 0, false, invalidParams("_meta[%q] (or the header %s) must be true, or an age in seconds from 0 to 1e9", MetaStale, headerStale)
}
