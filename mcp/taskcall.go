package mcp

//lint:file-ignore SA1019 older clients use what 2026-07-28 deprecates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// This file is tools/call of a task tool: it makes a task, and for a client
// that cannot poll it waits for the end.

// waitState marks the requestState of a waiting call whose task asks
// something: the id of the task follows. The id is a secret of the principal,
// and only the principal's calls are let to the task, so it needs no signature.
const waitState = "erlmcp-task:"

// call handles tools/call.
func (t *taskTool) call(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	able := abilitiesOf(req.Params.GetMeta())
	if !able.stateless {
		able.asks = sessionAsks(req)
	}
	if t.opts.Mode == TaskRequired && !able.tasks {
		return nil, missingTasks("tool " + t.name)
	}
	args, err := t.prepare(req.Params.Arguments)
	if err != nil {
		return toolErrorf("invalid arguments: %v", err), nil
	}
	if id, ok := strings.CutPrefix(req.Params.RequestState, waitState); ok && !able.tasks {
		return t.goOn(ctx, req, able, id)
	}
	if t.opts.Before != nil {
		res, err := t.before(ctx, req, args)
		if res != nil || err != nil {
			return res, err
		}
	}
	key, err := IdempotencyKey(req)
	if err != nil {
		return nil, err
	}
	made, here := ctx.Value(madeKey{}).(*madeTask)
	able.tasks = able.tasks && here
	who := identityIn(ctx)
	rec := &taskRecord{
		Principal: who.Subject, Scopes: who.Scopes, Tool: t.name, Args: args, Asks: able.asks, Waited: !able.tasks,
		TTL: t.opts.TTL.Milliseconds(), Poll: t.opts.PollInterval.Milliseconds(), Trace: traceParent(ctx),
	}
	if len(req.Params.InputResponses) > 0 {
		if rec.Responses, err = json.Marshal(req.Params.InputResponses); err != nil {
			return nil, err
		}
	}
	rec, err = t.rt.tasks.create(ctx, rec, key)
	if err != nil {
		return nil, err
	}
	if able.tasks {
		made.rec = rec
		return nil, errTaskMade
	}
	return t.wait(ctx, req, able, rec, key != "")
}

// before runs TaskOptions.Before as the SDK runs a typed handler.
func (t *taskTool) before(ctx context.Context, req *sdk.CallToolRequest, args json.RawMessage) (*sdk.CallToolResult, error) {
	params := *req.Params
	params.Arguments = args
	copied := *req
	copied.Params = &params
	res, err := t.opts.Before(ctx, &copied)
	var rpc *jsonrpc.Error
	if err != nil && !errors.As(err, &rpc) {
		return toolErrorf("%v", err), nil
	}
	return res, err
}

func toolErrorf(format string, args ...any) *sdk.CallToolResult {
	var res sdk.CallToolResult
	res.SetError(fmt.Errorf(format, args...))
	return &res
}

// sessionAsks is what the client of a session declared at initialize.
func sessionAsks(req *sdk.CallToolRequest) (asks string) {
	c := req.ClientCapabilities()
	if c == nil {
		return ""
	}
	if c.Elicitation != nil {
		asks += "e"
	}
	if c.Sampling != nil {
		asks += "s"
	}
	if c.RootsV2 != nil {
		asks += "r"
	}
	return asks
}

// IdempotencyKey reads the key that a client gave a tools/call in _meta (MetaIdempotencyKey) or in the HTTP header Idempotency-Key;
// "" is none. A key of another type or length is an error for the client. Task tools honour it by themselves; the handler of any
// other tool that changes something should.
func IdempotencyKey(req *sdk.CallToolRequest) (string, error) {
	v, given := req.Params.GetMeta()[MetaIdempotencyKey]
	key, ok := v.(string)
	if !given {
		if req.Extra != nil && req.Extra.Header != nil {
			key = req.Extra.Header.Get(headerIdempotencyKey)
		}
		if key == "" {
			return "", nil
		}
	} else if !ok || key == "" {
		return "", invalidParams("_meta[%q] must be a string of 1 to %d bytes", MetaIdempotencyKey, maxIdempotencyKey)
	}
	if len(key) > maxIdempotencyKey {
		return "", invalidParams("the idempotency key has %d bytes, want 1 to %d", len(key), maxIdempotencyKey)
	}
	return key, nil
}

// goOn takes up a waiting call after its client was asked something.
func (t *taskTool) goOn(ctx context.Context, req *sdk.CallToolRequest, able clientAbilities, id string) (*sdk.CallToolResult, error) {
	rec, err := t.rt.tasks.store.get(ctx, id)
	if err == nil && (rec.Principal != identityIn(ctx).Subject || rec.Tool != t.name) {
		err = ErrNoTask
	}
	if err != nil {
		return nil, storeError(err)
	}
	answers := make(map[string]json.RawMessage, len(req.Params.InputResponses))
	for key, answer := range req.Params.InputResponses {
		if answers[key], err = json.Marshal(answer); err != nil {
			return nil, err
		}
	}
	if _, err := t.rt.tasks.answer(rec.Principal, id, answers); err != nil {
		var rpc *jsonrpc.Error
		if !errors.As(err, &rpc) || rpc.Code != jsonrpc.CodeInvalidParams {
			return nil, storeError(err)
		}
		// What does not fit is asked again, as multi round trips want.
	}
	return t.wait(ctx, req, able, rec, true)
}

// wait returns the result of a task, or the questions that it has. keep: the
// client can come back, so the task goes on when the call is given up.
func (t *taskTool) wait(ctx context.Context, req *sdk.CallToolRequest, able clientAbilities, made *taskRecord, keep bool) (*sdk.CallToolResult, error) {
	id := made.ID
	changes, stop := t.rt.tasks.watch(id)
	defer stop()
	again := time.NewTicker(taskPoll) // for what other nodes do
	defer again.Stop()
	for {
		rec, err := t.rt.tasks.store.get(ctx, id)
		switch {
		case errors.Is(err, ErrNoTask):
			return nil, storeError(err)
		case err != nil && ctx.Err() == nil:
			return nil, err
		case err == nil && rec.Status.Final():
			return rec.callResult()
		case err == nil && rec.Status == TaskInputRequired && able.stateless:
			return rec.askBack()
		case err == nil && rec.Status == TaskInputRequired:
			if err := t.askSession(ctx, req, rec); err != nil {
				t.leave(made, false, err.Error())
				return nil, err
			}
			continue
		}
		select {
		case <-changes:
		case <-again.C:
		case <-t.rt.done:
			return nil, refuse(0, CodeOverloaded, "the server is shutting down; the task %s goes on after the restart", id).rpc()
		case <-ctx.Done():
			t.leave(made, keep, "the call that waited for it ended")
			return nil, ctx.Err()
		}
	}
}

// leave cancels a task that nobody can ask about any more.
func (t *taskTool) leave(rec *taskRecord, keep bool, why string) {
	select {
	case <-t.rt.done:
		return // not the client's wish
	default:
	}
	if keep || !rec.Waited {
		return
	}
	if _, err := t.rt.tasks.cancel("", rec.Principal, rec.ID, why); err != nil {
		t.rt.log.Warn("task of an abandoned call not cancelled", "task", rec.describe(), "error", err)
	}
}

// callResult is the end of a task as the answer of a waiting call.
func (rec *taskRecord) callResult() (*sdk.CallToolResult, error) {
	switch rec.Status {
	case TaskFailed:
		return nil, rec.Error
	case TaskCancelled:
		return toolErrorf("cancelled: %s", rec.Message), nil
	}
	res := new(sdk.CallToolResult)
	if err := json.Unmarshal(rec.Result, res); err != nil {
		return nil, fmt.Errorf("result of task %s: %w", rec.ID, err)
	}
	return res, nil
}

// askBack answers a waiting call with the questions of its task.
func (rec *taskRecord) askBack() (*sdk.CallToolResult, error) {
	requests, err := rec.sdkRequests()
	return &sdk.CallToolResult{InputRequests: requests, RequestState: waitState + rec.ID}, err
}

func (rec *taskRecord) sdkRequests() (requests sdk.InputRequestMap, err error) {
	text, err := marshal(rec.inputRequests())
	if err != nil {
		return nil, err
	}
	return requests, json.Unmarshal(text, &requests)
}

// askSession asks the client of a session directly and delivers the answers.
func (t *taskTool) askSession(ctx context.Context, req *sdk.CallToolRequest, rec *taskRecord) error {
	requests, err := rec.sdkRequests()
	if err != nil {
		return err
	}
	for key, request := range requests {
		var answer any
		switch p := request.(type) {
		case *sdk.ElicitParams:
			answer, err = req.Session.Elicit(ctx, p)
		case *sdk.CreateMessageWithToolsParams:
			answer, err = req.Session.CreateMessageWithTools(ctx, p)
		case *sdk.ListRootsParams:
			answer, err = req.Session.ListRoots(ctx, p)
		default:
			err = fmt.Errorf("cannot ask a %T in a session", request)
		}
		if err != nil {
			return fmt.Errorf("the task asks %s: %w", key, err)
		}
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		if _, err := t.rt.tasks.answer(rec.Principal, rec.ID, map[string]json.RawMessage{key: text}); err != nil {
			return storeError(err)
		}
	}
	return nil
}
