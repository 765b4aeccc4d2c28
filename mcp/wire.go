package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// JSON-RPC error codes that this runtime answers with, next to the standard
// ones of package jsonrpc. They are wire format: never renumber them.
const (
	CodeNotInitialized    = -32005 // a request before initialize, or an HTTP request without its session id
	CodeSubscriptionLimit = -32006 // the session holds its maximum of resource subscriptions
	CodeOverloaded        = -32010 // a queue is full; nothing was done, try again later
	CodeUnauthenticated   = -32011 // no credential, or one that is not accepted; over HTTP with status 401
	CodeMessageTooLarge   = -32012 // one message exceeds Options.MaxMessageBytes
	CodeStale             = -32015 // this node's state is older than the client accepts (MetaStale); ask another one
	CodeInsufficientScope = -32013 // the credential lacks a scope that data.requiredScopes names; over HTTP with status 403
	CodeHeaderMismatch    = -32020 // an HTTP header contradicts the body, or is missing (SEP-2243)
	CodeMissingCapability = -32021 // the client did not declare what the request needs (SEP-2575); see [MissingCapability]
	CodeUnsupported       = -32022 // the protocol version is not one of ours (SEP-2575)
	CodeSessionNotFound   = -32058 // unknown or expired Mcp-Session-Id: initialize again
)

// nullID is the id of an answer to a message whose own id could not be read.
var nullID = json.RawMessage("null")

// wireError is a refusal of one inbound message: the JSON-RPC error object,
// the id it answers and the HTTP status that carries it.
type wireError struct {
	ID      json.RawMessage // nil reads as null
	Status  int             // HTTP status; unused on stdio
	Code    int
	Message string
	Data    any

	challenge string        // WWW-Authenticate; empty: none
	retry     time.Duration // Retry-After; 0: none
}

// Error returns the message that the client sees.
func (e *wireError) Error() string { return e.Message }

// refuse builds a wireError for a message whose id is not known yet.
func refuse(status, code int, format string, args ...any) *wireError {
	return &wireError{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// invalid is refuse for the commonest case: readable JSON, unusable message.
func invalid(format string, args ...any) *wireError {
	return refuse(http.StatusBadRequest, jsonrpc.CodeInvalidRequest, format, args...)
}

// withID returns e with the id it answers, unless one is already set.
func (e *wireError) withID(id json.RawMessage) *wireError {
	if e.ID == nil {
		e.ID = id
	}
	return e
}

// encode renders the error as one JSON-RPC response on a single line.
// Unlike the SDK's encoder it keeps "id": null, which JSON-RPC requires.
func (e *wireError) encode() []byte {
	id := e.ID
	if len(id) == 0 {
		id = nullID
	}
	body := struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Error   struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
			Data    any    `json:"data,omitempty"`
		} `json:"error"`
	}{Version: "2.0", ID: id}
	body.Error.Code, body.Error.Message, body.Error.Data = e.Code, e.Message, e.Data
	out, err := marshal(body)
	if err != nil { // only Data can fail to encode; the error itself must still go out
		body.Error.Data = nil
		out, _ = marshal(body)
	}
	return out
}

// marshal is json.Marshal without HTML escaping, as MCP texts often hold < and &.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// normalise gives every error that leaves a handler a JSON-RPC code. The SDK
// encodes a plain Go error with code 0, which no client can interpret.
func normalise(err error) error {
	var rpc *jsonrpc.Error
	if !errors.As(err, &rpc) {
		if refusedByStore(err) {
			return overloadedStore(err).rpc()
		}
		return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: err.Error()}
	}
	if rpc.Code != 0 {
		return err
	}
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: err.Error(), Data: rpc.Data}
}
