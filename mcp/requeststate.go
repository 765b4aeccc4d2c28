package mcp

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

//lint:file-ignore SA1019 roots, sampling and logging are deprecated, not gone: clients use them

// Layout of a sealed request state, in base64url without padding:
//
//	version (1 byte) | salt (16) | AES-256-GCM(expiry, Unix ms, big-endian (8) | value, JSON)
//
// The key of each state is HKDF-SHA256(server secret, salt); with it the nonce
// is zero. What the state is bound to is authenticated beside it, so it is
// neither in the state nor readable from it.
const (
	stateVersion   = 1
	stateSalt      = 16
	stateExpiry    = 8
	maxSealedBytes = 64 << 10 // of the JSON value; clients send it back whole
	stateKeyInfo   = "erlmcp request state 1"
)

// SealState encrypts v, which must encode as JSON of at most 64 KiB, into a
// requestState for the answer to req: a tools/call, prompts/get or
// resources/read that asks the client for input (SEP-2322). The client repeats
// its request with the state, and [Runtime.OpenState] gives v back, on any node
// and after any restart, until [Options.StateTTL] is over.
//
// A state is bound to the principal, the method, the tool, prompt or resource,
// and the arguments: it opens for the same request of the same principal
// only. It may be presented more than once; what must happen only once belongs
// into a [Handle] or a task. [Runtime.Ask] does all of this at once.
func (r *Runtime) SealState(ctx context.Context, req sdk.Request, v any) (string, error) {
	value, err := marshal(v)
	if err != nil {
		return "", fmt.Errorf("mcp: request state: %w", err)
	}
	if len(value) > maxSealedBytes {
		return "", fmt.Errorf("mcp: the request state has %d bytes, more than %d; keep it in a Handle", len(value), maxSealedBytes)
	}
	bound, _, err := r.boundTo(ctx, req)
	if err != nil {
		return "", err
	}
	out := make([]byte, 1+stateSalt, 1+stateSalt+stateExpiry+len(value)+16)
	out[0] = stateVersion
	_, _ = rand.Read(out[1:]) // never fails (crypto/rand)
	box, err := r.stateBox(ctx, out[1:])
	if err != nil {
		return "", err
	}
	plain := binary.BigEndian.AppendUint64(nil, uint64(r.opts.Now().Add(r.opts.StateTTL).UnixMilli()))
	out = box.Seal(out, make([]byte, box.NonceSize()), append(plain, value...), bound)
	return base64.RawURLEncoding.EncodeToString(out), nil
}

// OpenState decodes the state that came with req into v, which must be a
// pointer. It is false when req carries none: the first round. A state that was
// altered, made for another request or principal, or is too old is an error
// that handlers return as it is: clients get it as invalid params (-32602).
func (r *Runtime) OpenState(ctx context.Context, req sdk.Request, v any) (bool, error) {
	bound, text, err := r.boundTo(ctx, req)
	if err != nil || text == "" {
		return false, err
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sealed) <= 1+stateSalt || sealed[0] != stateVersion {
		return false, errState
	}
	box, err := r.stateBox(ctx, sealed[1:1+stateSalt])
	if err != nil {
		return false, err
	}
	plain, err := box.Open(nil, make([]byte, box.NonceSize()), sealed[1+stateSalt:], bound)
	if err != nil || len(plain) < stateExpiry {
		return false, errState
	}
	if expiry := time.UnixMilli(int64(binary.BigEndian.Uint64(plain))); !r.opts.Now().Before(expiry) {
		return false, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf(
			"requestState is older than %s; begin again without it", r.opts.StateTTL)}
	}
	if err := json.Unmarshal(plain[stateExpiry:], v); err != nil {
		return false, fmt.Errorf("mcp: request state: %w", err)
	}
	return true, nil
}

// errState says no more than a forger may know.
var errState = &jsonrpc.Error{
	Code:    jsonrpc.CodeInvalidParams,
	Message: "requestState is not one that this server gave out for this request; begin again without it",
}

func (r *Runtime) stateBox(ctx context.Context, salt []byte) (cipher.AEAD, error) {
	master, err := r.stateSecret.get(ctx)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, master, salt, stateKeyInfo, secretBytes)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// boundTo returns what a state for req is bound to, and the state it carries.
func (r *Runtime) boundTo(ctx context.Context, req sdk.Request) (bound []byte, state string, err error) {
	var method, name string
	var arguments []byte
	switch q := req.(type) {
	case *sdk.CallToolRequest:
		method, name, state = methodToolsCall, q.Params.Name, q.Params.RequestState
		arguments, err = canonicalJSON(q.Params.Arguments)
	case *sdk.GetPromptRequest:
		method, name, state = "prompts/get", q.Params.Name, q.Params.RequestState
		arguments, err = json.Marshal(q.Params.Arguments)
	case *sdk.ReadResourceRequest:
		method, name, state = "resources/read", q.Params.URI, q.Params.RequestState
	default:
		return nil, "", fmt.Errorf("mcp: a %T cannot ask for input", req)
	}
	if err != nil {
		return nil, "", fmt.Errorf("mcp: arguments of %s: %w", name, err)
	}
	hash := sha256.New()
	for _, part := range [][]byte{[]byte(IdentityFrom(ctx).Subject), []byte(method), []byte(name), arguments} {
		_, _ = hash.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part)))) // a hash never fails
		_, _ = hash.Write(part)
	}
	return hash.Sum(nil), state, nil
}

// canonicalJSON renders arguments so that equal ones are equal bytes: clients
// may write the same object differently the second time.
func canonicalJSON(text json.RawMessage) ([]byte, error) {
	if len(text) == 0 {
		return []byte("{}"), nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // digits beyond a float's count
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if v == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(v)
}

// Ask returns the result of a tool that needs the client's input before it can
// go on (SEP-2322): questions by a key of the tool's choice, and v, which
// [Runtime.OpenState] gives back when the client calls again with the answers.
// It fails with the error of [MissingCapability], which the tool returns as it
// is, when the client cannot be asked one of the questions.
//
//	func(ctx context.Context, req *sdk.CallToolRequest, in orderIn) (*sdk.CallToolResult, any, error) {
//		var draft order
//		again, err := rt.OpenState(ctx, req, &draft)
//		if err != nil {
//			return nil, nil, err
//		}
//		if answer, ok := mcp.Answer[*sdk.ElicitResult](req, "confirm"); again && ok && answer.Action == "accept" {
//			return place(ctx, draft)
//		}
//		draft = plan(in)
//		res, err := rt.Ask(ctx, req, draft, sdk.InputRequestMap{
//			"confirm": &sdk.ElicitParams{Message: "Order " + draft.String() + "?", RequestedSchema: yesNo},
//		})
//		return res, nil, err
//	}
//
// Clients of the session revisions are asked by requests, and the tool is
// called again in the same way.
func (r *Runtime) Ask(ctx context.Context, req *sdk.CallToolRequest, v any, questions sdk.InputRequestMap) (*sdk.CallToolResult, error) {
	if len(questions) == 0 {
		return nil, errors.New("mcp: Ask without a question")
	}
	if missing := missingFor(req.ClientCapabilities(), questions); missing != nil {
		return nil, MissingCapability(missing)
	}
	state, err := r.SealState(ctx, req, v)
	if err != nil {
		return nil, err
	}
	return &sdk.CallToolResult{InputRequests: questions, RequestState: state}, nil
}

// missingFor returns the capabilities that the client lacks to be asked these
// questions, or nil.
func missingFor(have *sdk.ClientCapabilities, questions sdk.InputRequestMap) *sdk.ClientCapabilities {
	if have == nil {
		have = new(sdk.ClientCapabilities)
	}
	missing, some := new(sdk.ClientCapabilities), false
	for _, q := range questions {
		switch q.(type) {
		case *sdk.ElicitParams:
			if have.Elicitation == nil {
				missing.Elicitation, some = new(sdk.ElicitationCapabilities), true
			}
		case *sdk.CreateMessageParams, *sdk.CreateMessageWithToolsParams:
			if have.Sampling == nil {
				missing.Sampling, some = new(sdk.SamplingCapabilities), true
			}
		case *sdk.ListRootsParams:
			if have.RootsV2 == nil {
				missing.RootsV2, some = new(sdk.RootCapabilities), true
			}
		}
	}
	if !some {
		return nil
	}
	return missing
}

// Answer returns the client's answer to the question that was asked under key,
// an *sdk.ElicitResult, *sdk.CreateMessageWithToolsResult or
// *sdk.ListRootsResult. It is false when there is none, or one of another kind:
// ask again.
func Answer[T sdk.InputResponse](req *sdk.CallToolRequest, key string) (T, bool) {
	answer, ok := req.Params.InputResponses[key].(T)
	return answer, ok
}
