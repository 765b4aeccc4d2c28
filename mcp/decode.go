package mcp

import (
	"encoding/json"
	"fmt"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	fastjson "github.com/segmentio/encoding/json"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/internal/avx"
)

//lint:file-ignore SA1019 roots, sampling and logging are deprecated, not gone: clients use them

// decodeJSON decodes a text that the scanner has checked, by the rules of the
// SDK: member names match exactly, as MCP wants, not regardless of case as
// encoding/json has it. It is the SDK's decoder without its 32 KiB buffer.
func decodeJSON(text []byte, into any) error {
	_, err := fastjson.Parse(text, into, fastjson.DontMatchCaseInsensitiveStructFields)
	avx.ZeroUpper()
	return err
}

// A decoder turns raw params into the SDK's request of one method.
type decoder func(session *sdk.ServerSession, extra *sdk.RequestExtra, params json.RawMessage) (sdk.Request, error)

// decoders are the methods that a request of protocol 2026-07-28 may name.
// Methods that are neither here nor in removedMethods may be custom ones.
var decoders = map[string]decoder{
	"server/discover":          decodeParams[sdk.DiscoverParams],
	"completion/complete":      decodeParams[sdk.CompleteParams],
	"prompts/list":             decodeParams[sdk.ListPromptsParams],
	"prompts/get":              decodeParams[sdk.GetPromptParams],
	"resources/list":           decodeParams[sdk.ListResourcesParams],
	"resources/templates/list": decodeParams[sdk.ListResourceTemplatesParams],
	"resources/read":           decodeParams[sdk.ReadResourceParams],
	"tools/list":               decodeParams[sdk.ListToolsParams],
	methodToolsCall:            decodeParams[sdk.CallToolParamsRaw],
	methodListen:               decodeParams[sdk.SubscriptionsListenParams],
	methodTasksGet:             decodeParams[taskParams],
	methodTasksUpdate:          decodeParams[taskParams],
	methodTasksCancel:          decodeParams[taskParams],
}

// notificationDecoders are the notifications that mean something to a server
// without sessions. "notifications/initialized" belongs to sessions, and over
// HTTP a request is cancelled by closing its stream.
var notificationDecoders = map[string]decoder{
	"notifications/roots/list_changed": decodeParams[sdk.RootsListChangedParams],
	"notifications/progress":           decodeParams[sdk.ProgressNotificationParams],
	"notifications/initialized":        nil,
	"notifications/cancelled":          nil,
}

// removedMethods exist in the session revisions only.
var removedMethods = map[string]bool{
	"initialize": true, "ping": true, "logging/setLevel": true,
	"resources/subscribe": true, "resources/unsubscribe": true,
}

func decodeParams[T any, P interface {
	*T
	sdk.Params
}](session *sdk.ServerSession, extra *sdk.RequestExtra, params json.RawMessage) (sdk.Request, error) {
	p := P(new(T))
	if len(params) > 0 {
		if err := decodeJSON(params, p); err != nil {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("invalid params: %v", err)}
		}
	}
	return &sdk.ServerRequest[P]{Session: session, Params: p, Extra: extra}, nil
}

// complete marks the SDK's own results as final, which only the SDK's session
// loop does by itself. Results of calls that may ask for input say so already,
// and custom results speak for themselves.
func complete(res sdk.Result) {
	switch r := res.(type) {
	case *sdk.DiscoverResult:
		r.ResultType = resultComplete
	case *sdk.CompleteResult:
		r.ResultType = resultComplete
	case *sdk.ListPromptsResult:
		r.ResultType = resultComplete
	case *sdk.ListResourcesResult:
		r.ResultType = resultComplete
	case *sdk.ListResourceTemplatesResult:
		r.ResultType = resultComplete
	case *sdk.ListToolsResult:
		r.ResultType = resultComplete
	case *sdk.SubscriptionsListenResult:
		r.ResultType = resultComplete
	}
}

const resultComplete = "complete"

// signResult names the server in the result's _meta (SEP-2575).
func (r *Runtime) signResult(res sdk.Result) {
	meta := res.GetMeta()
	if meta == nil {
		meta = make(map[string]any, 1)
	}
	if _, ok := meta[sdk.MetaKeyServerInfo]; ok {
		return
	}
	meta[sdk.MetaKeyServerInfo] = r.info
	res.SetMeta(meta)
}
