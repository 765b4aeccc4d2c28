package backuptools

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// refusal is the structured content of a tool result with isError.
type refusal struct {
	Code    string `json:"code" jsonschema:"why the call was refused, for programs"`
	Message string `json:"message" jsonschema:"why, and what to do next, for people"`
	Retry   bool   `json:"retry" jsonschema:"the same call may succeed later"`
}

// codes of what a repository answers; everything else is the repository's being out of reach.
var codes = []struct {
	is   error
	code string
}{
	{backupfmt.ErrInvalid, "invalid_arguments"},
	{backupfmt.ErrNotRepo, "no_repository"},
	{backupfmt.ErrWrongKey, "wrong_key"},
	{backupfmt.ErrKeyRequired, "wrong_key"},
	{backupfmt.ErrNotEncrypted, "not_encrypted"},
	{backupfmt.ErrGap, "gap"},
	{backupfmt.ErrUnsigned, "unsigned"},
	{backupfmt.ErrSignKey, "unsigned"},
	{backupfmt.ErrNotSigned, "unsigned"},
	{backupfmt.ErrDamaged, "damaged"},
	{backupfmt.ErrNoBackup, "no_backup"},
	{backupfmt.ErrNotReached, "not_reached"},
	{backupfmt.ErrNoParent, "no_parent"},
	{backupfmt.ErrNoHistory, "no_parent"},
	{backupfmt.ErrTooMany, "no_parent"},
	{backupfmt.ErrFenced, "fenced"},
	{backupfmt.ErrVersion, "newer_format"},
}

// retried are the codes after which the same call may succeed.
var retried = map[string]bool{"fenced": true, "unreachable": true}

// result turns what a tool found into its answer. Errors that end the work of
// the server, not of the call, are returned: the task then goes on elsewhere.
func (t *tools) result(ctx context.Context, out any, err error) (*sdk.CallToolResult, error) {
	switch {
	case err == nil:
		return answer(out, false)
	case ctx.Err() != nil:
		return nil, errors.Join(context.Cause(ctx), err)
	case errors.Is(err, backup.ErrBusy):
		return nil, &jsonrpc.Error{Code: mcp.CodeOverloaded, Message: err.Error()}
	}
	why := refusal{Code: "unreachable", Message: backup.Explain(err, t.s.Target().String()).Error()}
	for _, c := range codes {
		if errors.Is(err, c.is) {
			why.Code = c.code
			break
		}
	}
	why.Retry = retried[why.Code]
	return answer(why, true)
}

// answer is a tool result whose text says what its structured content says.
func answer(v any, isError bool) (*sdk.CallToolResult, error) {
	text, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	res := &sdk.CallToolResult{StructuredContent: v, IsError: isError, Content: []sdk.Content{&sdk.TextContent{Text: text}}}
	if why, ok := v.(refusal); ok {
		res.Content[0] = &sdk.TextContent{Text: why.Code + ": " + why.Message}
	}
	return res, nil
}
