package tcpstools

import (
	"context"
	"errors"
	"fmt"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
)

// Codes of refusals that do not come from a rule of the ledger.
const (
	codeOverloaded       = "overloaded"
	codeUnavailable      = "unavailable"
	codeNoSpace          = "no_space"
	codeConflict         = "conflict"
	codeTimeout          = "timeout"
	codeUnknownOutcome   = "unknown_outcome"
	codeTooLarge         = "too_large"
	codeInvalidArguments = "invalid_arguments"
	codeReadOnly         = "read_only"
)

// refusal is the structured content of a tool result with isError.
type refusal struct {
	Code    string         `json:"code" jsonschema:"why the call was refused, for programs"`
	Message string         `json:"message" jsonschema:"why, and what to do next, for people"`
	Field   string         `json:"field,omitempty" jsonschema:"the argument to blame"`
	Details map[string]any `json:"details,omitempty"`
	Retry   bool           `json:"retry" jsonschema:"the same call may succeed later"`
}

// Error implements error: the text of the tool result.
func (r *refusal) Error() string { return r.Code + ": " + r.Message }

// toolError turns an error of the ledger or the engine into a *refusal, or
// into a JSON-RPC error when the caller can do nothing about it.
func toolError(err error) error {
	var rule *tcps.Error
	if errors.As(err, &rule) {
		return &refusal{Code: string(rule.Code), Message: rule.Message, Field: rule.Field, Details: rule.Details}
	}
	for _, known := range []struct {
		is            error
		code, message string
		retry         bool
	}{
		// Before the context errors, which it wraps.
		{engine.ErrUnknownOutcome, codeUnknownOutcome, "the call ended before the change was confirmed, and it may still happen; repeat it with the same idempotency_key, or read before changing again", true},
		{engine.ErrUnavailable, codeUnavailable, "this server reaches no majority of its cluster; nothing was changed, try again, here or on another node", true},
		{engine.ErrOverloaded, codeOverloaded, "too many changes are waiting; nothing was changed, try again in a moment", true},
		{engine.ErrNoSpace, codeNoSpace, "the disk is full; nothing was changed and reading still works. Free disk space on the server, then try again", true},
		{engine.ErrConflict, codeConflict, "other changes kept getting in the way; nothing was changed, try again", true},
		{engine.ErrTooLarge, codeTooLarge, "the document is too large; nothing was changed, send less", false},
		{engine.ErrIdempotencyMismatch, string(tcps.CodeIdempotencyMismatch), "this idempotency_key was used for a different change; use a new key", false},
		{engine.ErrReadOnly, codeReadOnly, "the ledger is read-only here", false},
		{context.DeadlineExceeded, codeTimeout, "the call took too long and was stopped; ask for less, or try again", true},
		{context.Canceled, "cancelled", "the call was cancelled; nothing was changed", true},
	} {
		if errors.Is(err, known.is) {
			return &refusal{Code: known.code, Message: known.message, Retry: known.retry, Details: map[string]any{"cause": err.Error()}}
		}
	}
	return internal(err)
}

// internal is for failures that only the operator can mend.
func internal(err error) error {
	return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: fmt.Sprintf("internal error: %v", err)}
}

// describeErrors adds structured content to tool results that report an error.
// It is a middleware because the SDK lets a typed handler return only an error
// or an output, and because arguments that do not fit the schema never reach
// the handler.
func describeErrors(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		res, err := next(ctx, method, req)
		call, ok := res.(*sdk.CallToolResult)
		if err != nil || !ok || call == nil || !call.IsError || call.StructuredContent != nil || call.GetError() == nil {
			return res, err
		}
		var why *refusal
		if !errors.As(call.GetError(), &why) {
			why = &refusal{Code: codeInvalidArguments, Message: argumentError(call.GetError())}
		}
		call.StructuredContent = why
		call.Content = []sdk.Content{&sdk.TextContent{Text: why.Error()}}
		return call, nil
	}
}

// argumentError shortens what the schema validator says to its point.
func argumentError(err error) string {
	text := err.Error()
	for _, prefix := range []string{`validating "arguments": `, "validating root: ", "unmarshaling arguments: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return "the arguments do not fit the tool's input schema: " + text
}
