package mcp

//lint:file-ignore SA1019 older clients use what 2026-07-28 deprecates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// This file is the tasks extension of protocol 2026-07-28 (SEP-2663).
//
// Session revisions have no tasks here. What 2025-11-25 calls tasks is another
// protocol (the client decides, tasks/result blocks), the official SDK has no
// client for it, and SEP-2663 replaces it. Calls of task tools in a session,
// and of clients without the extension, run over the same durable machinery
// and wait for the result: see taskcall.go.

// ExtensionTasks is the identifier of the tasks extension.
const ExtensionTasks = "io.modelcontextprotocol/tasks"

// MetaIdempotencyKey is the member of a tools/call request's _meta that makes
// the call of a task tool repeatable: calls of one principal with the same key
// (1 to 256 bytes) are one task, for as long as the task is kept. The HTTP
// header Idempotency-Key means the same.
const MetaIdempotencyKey = "io.erlmcp/idempotencyKey"

const (
	headerIdempotencyKey = "Idempotency-Key"
	maxIdempotencyKey    = 256

	methodTasksGet    = "tasks/get"
	methodTasksUpdate = "tasks/update"
	methodTasksCancel = "tasks/cancel"
	methodDiscover    = "server/discover"
)

// taskParams are the parameters of all three methods.
type taskParams struct {
	sdk.ParamsBase
	TaskID         string                     `json:"taskId"`
	InputResponses map[string]json.RawMessage `json:"inputResponses,omitempty"`
}

// taskAck acknowledges tasks/update and tasks/cancel.
type taskAck struct {
	sdk.ResultBase
	ResultType string `json:"resultType"`
}

// taskSeed is what every view of a task shows.
type taskSeed struct {
	TaskID         string     `json:"taskId"`
	Status         TaskStatus `json:"status"`
	StatusMessage  string     `json:"statusMessage,omitempty"`
	CreatedAt      string     `json:"createdAt"`
	LastUpdatedAt  string     `json:"lastUpdatedAt"`
	TTLMs          *int64     `json:"ttlMs"`
	PollIntervalMs int64      `json:"pollIntervalMs"`
}

// taskCreated is CreateTaskResult.
type taskCreated struct {
	sdk.ResultBase
	ResultType string `json:"resultType"`
	taskSeed
}

// taskDetails are the members that depend on the status.
type taskDetails struct {
	taskSeed
	InputRequests map[string]inputRequest `json:"inputRequests,omitempty"`
	Result        json.RawMessage         `json:"result,omitempty"`
	Error         *jsonrpc.Error          `json:"error,omitempty"`
}

type inputRequest struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

// taskDetailed is GetTaskResult.
type taskDetailed struct {
	sdk.ResultBase
	ResultType string `json:"resultType"`
	taskDetails
}

func (rec *taskRecord) seed() taskSeed {
	return taskSeed{
		TaskID: rec.ID, Status: rec.Status, StatusMessage: rec.Message,
		CreatedAt: isoTime(rec.Created), LastUpdatedAt: isoTime(rec.Updated), TTLMs: rec.ttlMs(), PollIntervalMs: max(1, rec.Poll),
	}
}

func (rec *taskRecord) details() taskDetails {
	d := taskDetails{taskSeed: rec.seed(), Result: rec.Result, Error: rec.Error}
	if len(rec.Pending) > 0 {
		d.InputRequests = rec.inputRequests()
	}
	return d
}

func (rec *taskRecord) inputRequests() map[string]inputRequest {
	m := make(map[string]inputRequest, len(rec.Pending))
	for _, p := range rec.Pending {
		m[p.Key] = inputRequest{p.Method, p.Params}
	}
	return m
}

func invalidParams(format string, args ...any) *jsonrpc.Error {
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf(format, args...)}
}

// rpc is the refusal as an error of a handler.
func (e *wireError) rpc() *jsonrpc.Error {
	return &jsonrpc.Error{Code: int64(e.Code), Message: e.Message}
}

// missingTasks refuses a client that did not declare the extension.
func missingTasks(what string) *jsonrpc.Error {
	return &jsonrpc.Error{
		Code: CodeMissingCapability,
		Message: "missing required client capability: " + what + " needs the extension " + ExtensionTasks +
			" in _meta[\"" + sdk.MetaKeyClientCapabilities + "\"].extensions (protocol " + versionStateless + ")",
		Data: json.RawMessage(`{"requiredCapabilities":{"extensions":{"` + ExtensionTasks + `":{}}}}`),
	}
}

// clientAbilities are what a request says its client can do.
type clientAbilities struct {
	stateless bool // protocol 2026-07-28 or newer
	tasks     bool // has the extension
	asks      string
}

// abilitiesOf reads the capabilities in the _meta of a request.
func abilitiesOf(meta map[string]any) (a clientAbilities) {
	version, _ := meta[sdk.MetaKeyProtocolVersion].(string)
	if a.stateless = version >= versionStateless; !a.stateless {
		return a
	}
	capabilities, _ := meta[sdk.MetaKeyClientCapabilities].(map[string]any)
	extensions, _ := capabilities["extensions"].(map[string]any)
	_, a.tasks = extensions[ExtensionTasks]
	for _, c := range []string{"elicitation", "sampling", "roots"} {
		if v, declared := capabilities[c]; declared && v != nil {
			a.asks += c[:1]
		}
	}
	return a
}

// canAsk reports whether a client with these abilities answers method.
func canAsk(asks, method string) bool {
	kinds := map[string]byte{"elicitation/create": 'e', "sampling/createMessage": 's', "roots/list": 'r'}
	return slices.Contains([]byte(asks), kinds[method])
}

// addTaskMethods registers the methods of the extension.
func (r *Runtime) addTaskMethods() {
	if r.store == nil {
		return
	}
	r.taskNotification = r.describeTask
	add := func(method string, handler func(ctx context.Context, ss *sdk.ServerSession, p *taskParams) (sdk.Result, error)) {
		if err := sdk.AddReceivingCustomMethod(r.server, method, handler); err != nil {
			panic(err) // only for the names of standard methods
		}
	}
	add(methodTasksGet, func(ctx context.Context, _ *sdk.ServerSession, p *taskParams) (sdk.Result, error) {
		rec, err := r.tasks.store.get(ctx, p.TaskID)
		if err == nil && rec.Principal != identityIn(ctx).Subject {
			err = ErrNoTask
		}
		if err != nil {
			return nil, storeError(err)
		}
		return &taskDetailed{ResultType: "complete", taskDetails: rec.details()}, nil
	})
	add(methodTasksUpdate, func(ctx context.Context, _ *sdk.ServerSession, p *taskParams) (sdk.Result, error) {
		if p.InputResponses == nil {
			return nil, invalidParams("inputResponses is missing")
		}
		if _, err := r.tasks.answer(identityIn(ctx).Subject, p.TaskID, p.InputResponses); err != nil {
			return nil, storeError(err)
		}
		return &taskAck{ResultType: "complete"}, nil
	})
	add(methodTasksCancel, func(ctx context.Context, _ *sdk.ServerSession, p *taskParams) (sdk.Result, error) {
		who := identityIn(ctx).Subject
		if _, err := r.tasks.cancel(who, who, p.TaskID, "cancelled by the client"); err != nil {
			return nil, storeError(err)
		}
		return &taskAck{ResultType: "complete"}, nil
	})
}

// answer delivers answers to a task.
func (tr *taskRunner) answer(principal, id string, answers map[string]json.RawMessage) (*taskRecord, error) {
	rec, changed, err := tr.store.answer(principal, id, answers, checkAnswer)
	if err == nil && changed {
		tr.news(rec)
	}
	return rec, err
}

type madeKey struct{}

// madeTask is where a tool leaves the task that it made instead of a result.
type madeTask struct{ rec *taskRecord }

// errTaskMade is what the tool returns then; no client ever sees it.
var errTaskMade = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "a task was made"}

// taskMiddleware gates the extension's methods, and turns the calls that made
// a task into CreateTaskResult, which a tool handler of the SDK cannot return.
func (r *Runtime) taskMiddleware(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		switch method {
		case methodToolsCall:
			call, ok := req.(*sdk.CallToolRequest)
			if !ok || r.tasks.tool(call.Params.Name) == nil {
				return next(ctx, method, req)
			}
			made := new(madeTask)
			res, err := next(context.WithValue(ctx, madeKey{}, made), method, req)
			if made.rec != nil {
				return &taskCreated{ResultType: "task", taskSeed: made.rec.seed()}, nil
			}
			return res, err
		case methodTasksGet, methodTasksUpdate, methodTasksCancel:
			if err := r.gateTasks(method, req); err != nil {
				return nil, err
			}
		case methodDiscover:
			res, err := next(ctx, method, req)
			if found, ok := res.(*sdk.DiscoverResult); ok && err == nil && r.tasks.served() {
				found.Capabilities.AddExtension(ExtensionTasks, nil)
			}
			return res, err
		}
		return next(ctx, method, req)
	}
}

// gateTasks refuses requests that do not declare the extension.
func (r *Runtime) gateTasks(method string, req sdk.Request) error {
	p, ok := req.GetParams().(*taskParams)
	if !ok || p == nil {
		return invalidParams("taskId is missing")
	}
	able := abilitiesOf(p.GetMeta())
	switch {
	case !able.stateless || !r.tasks.served():
		return &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: fmt.Sprintf(
			"method not found: %q (the tasks extension needs protocol %s)", method, versionStateless)}
	case !able.tasks:
		return missingTasks(method)
	case p.TaskID == "":
		return invalidParams("taskId is missing")
	}
	return nil
}

// served reports whether there are task tools.
func (tr *taskRunner) served() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.started
}

// describeTask is the content of notifications/tasks; ok is false for a
// task that is unknown or somebody else's.
func (r *Runtime) describeTask(ctx context.Context, principal, id string) (params json.RawMessage, ok bool) {
	rec, err := r.tasks.store.get(ctx, id)
	if err != nil || rec.Principal != principal {
		return nil, false
	}
	params, err = marshal(rec.details())
	return params, err == nil
}

// checkAnswer checks an answer to a question and fills in a form's defaults.
func checkAnswer(p *pendingInput, answer json.RawMessage) (json.RawMessage, error) {
	bad := func(format string, args ...any) (json.RawMessage, error) {
		return nil, invalidParams("inputResponses[%q]: %s", p.Key, fmt.Sprintf(format, args...))
	}
	var probe struct {
		Action  *string          `json:"action"`
		Role    *string          `json:"role"`
		Roots   *json.RawMessage `json:"roots"`
		Content json.RawMessage  `json:"content"`
	}
	if len(answer) == 0 || answer[0] != '{' || json.Unmarshal(answer, &probe) != nil {
		return bad("the answer to %s must be an object", p.Method)
	}
	var typed sdk.InputResponseMap
	if err := json.Unmarshal(slices.Concat([]byte(`{"a":`), answer, []byte("}")), &typed); err != nil {
		return bad("not an answer to %s: %v", p.Method, err)
	}
	var fits bool
	switch typed["a"].(type) {
	case *sdk.ElicitResult:
		fits = p.Method == "elicitation/create"
	case *sdk.CreateMessageWithToolsResult:
		fits = p.Method == "sampling/createMessage"
	case *sdk.ListRootsResult:
		fits = p.Method == "roots/list"
	}
	if !fits {
		return bad("not an answer to %s", p.Method)
	}
	if probe.Action == nil {
		return answer, nil
	}
	switch *probe.Action {
	case "decline", "cancel":
		return answer, nil
	case "accept":
		return checkForm(p, answer, probe.Content)
	}
	return bad(`action is %q, want "accept", "decline" or "cancel"`, *probe.Action)
}

// checkForm checks the content of an accepted form against the schema that was asked for.
func checkForm(p *pendingInput, answer, content json.RawMessage) (json.RawMessage, error) {
	var form struct {
		Mode   string             `json:"mode"`
		Schema *jsonschema.Schema `json:"requestedSchema"`
	}
	if err := json.Unmarshal(p.Params, &form); err != nil || form.Mode == "url" || form.Schema == nil {
		return answer, nil // nothing to check against
	}
	resolved, err := form.Schema.Resolve(nil)
	if err != nil {
		return answer, nil //nolint:nilerr // the handler's schema is not the client's fault
	}
	values := make(map[string]any)
	if len(content) > 0 {
		if err := json.Unmarshal(content, &values); err != nil {
			return nil, invalidParams("inputResponses[%q]: content must be an object", p.Key)
		}
	}
	err = errors.Join(resolved.ApplyDefaults(&values), resolved.Validate(&values))
	if err != nil {
		return nil, invalidParams("inputResponses[%q]: content does not fit the requested schema: %v", p.Key, err)
	}
	return marshal(map[string]any{"action": "accept", "content": values})
}
