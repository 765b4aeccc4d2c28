package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

//lint:file-ignore SA1019 roots, sampling and logging are deprecated, not gone: clients use them

const (
	// maxListenBytes bounds what one subscription may make the server remember.
	maxListenBytes = 256 << 10
)

// A filter is what a client asks to be told (SEP-2575, SEP-2663), and in the
// acknowledgement what it will be told.
type filter struct {
	Tools     bool     `json:"toolsListChanged,omitempty"`
	Prompts   bool     `json:"promptsListChanged,omitempty"`
	Resources bool     `json:"resourcesListChanged,omitempty"`
	URIs      []string `json:"resourceSubscriptions,omitempty"`
	TaskIDs   []string `json:"taskIds,omitempty"`
}

func (f *filter) empty() bool {
	return !f.Tools && !f.Prompts && !f.Resources && len(f.URIs) == 0 && len(f.TaskIDs) == 0
}

// A listener is one open subscriptions/listen request. Publishers mark what
// happened and never wait; the request's goroutine sends it. Marks of the same
// thing coalesce, so a slow client costs no more memory than it subscribed to.
type listener struct {
	principal string
	id        json.RawMessage // of the request: tags every notification
	want      filter
	wake      chan struct{} // capacity 1

	mu    sync.Mutex
	kinds map[string]bool // list_changed notifications to send, by method
	uris  map[string]bool
	tasks map[string]bool
}

func (l *listener) mark(set *map[string]bool, key string) {
	l.mu.Lock()
	if *set == nil {
		*set = make(map[string]bool)
	}
	(*set)[key] = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns what was marked and forgets it.
func (l *listener) take() (kinds, uris, tasks map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kinds, uris, tasks = l.kinds, l.uris, l.tasks
	l.kinds, l.uris, l.tasks = nil, nil, nil
	return kinds, uris, tasks
}

// listeners knows every open subscription by what it waits for. The SDK tells
// it of changes through the runtime's observer, a session of its own.
type listeners struct {
	rt *Runtime

	mu     sync.Mutex
	byKind map[string]map[*listener]bool // list_changed method
	byURI  map[string]map[*listener]bool
	byTask map[string]map[*listener]bool

	subMu  sync.Mutex      // held while the observer subscribes: its state follows byURI
	subbed map[string]bool // what the observer is subscribed to
}

func newListeners(r *Runtime) *listeners {
	return &listeners{
		rt: r, byKind: make(map[string]map[*listener]bool), byURI: make(map[string]map[*listener]bool),
		byTask: make(map[string]map[*listener]bool), subbed: make(map[string]bool),
	}
}

const (
	toolsChanged     = "notifications/tools/list_changed"
	promptsChanged   = "notifications/prompts/list_changed"
	resourcesChanged = "notifications/resources/list_changed"
	resourceUpdated  = "notifications/resources/updated"
)

// observe takes what the SDK sends to every session.
func (h *listeners) observe(method string, params json.RawMessage) {
	switch method {
	case toolsChanged:
		h.rt.catalog.forget()
	case promptsChanged, resourcesChanged:
	case resourceUpdated:
		uri, _ := unquote(member(params, "uri"))
		for _, l := range h.waiting(h.byURI, uri) {
			l.mark(&l.uris, uri)
		}
		return
	default:
		return
	}
	for _, l := range h.waiting(h.byKind, method) {
		l.mark(&l.kinds, method)
	}
}

func (h *listeners) waiting(in map[string]map[*listener]bool, key string) []*listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*listener, 0, len(in[key]))
	for l := range in[key] {
		out = append(out, l)
	}
	return out
}

// publishTask tells the subscribers among a principal's clients that a task
// changed. It never blocks and may be called for tasks that nobody waits for.
func (r *Runtime) publishTask(principal, taskID string) {
	for _, l := range r.listeners.waiting(r.listeners.byTask, taskID) {
		if l.principal == principal {
			l.mark(&l.tasks, taskID)
		}
	}
}

func (h *listeners) add(ctx context.Context, l *listener) error {
	h.mu.Lock()
	enter := func(in map[string]map[*listener]bool, key string) {
		if in[key] == nil {
			in[key] = make(map[*listener]bool)
		}
		in[key][l] = true
	}
	for method, on := range l.want.kinds() {
		if on {
			enter(h.byKind, method)
		}
	}
	for _, uri := range l.want.URIs {
		enter(h.byURI, uri)
	}
	for _, id := range l.want.TaskIDs {
		enter(h.byTask, id)
	}
	h.mu.Unlock()
	return h.subscribe(ctx, l.want.URIs)
}

func (h *listeners) remove(l *listener) {
	h.mu.Lock()
	leave := func(in map[string]map[*listener]bool, key string) {
		delete(in[key], l)
		if len(in[key]) == 0 {
			delete(in, key)
		}
	}
	for method := range l.want.kinds() {
		leave(h.byKind, method)
	}
	for _, uri := range l.want.URIs {
		leave(h.byURI, uri)
	}
	for _, id := range l.want.TaskIDs {
		leave(h.byTask, id)
	}
	h.mu.Unlock()
	if err := h.subscribe(context.Background(), l.want.URIs); err != nil {
		h.rt.log.Debug("unsubscribing", "error", err)
	}
}

func (f *filter) kinds() map[string]bool {
	return map[string]bool{toolsChanged: f.Tools, promptsChanged: f.Prompts, resourcesChanged: f.Resources}
}

// subscribe brings the observer's own subscriptions in line with byURI. The
// SDK then notifies the observer however the change was made known, with
// Runtime.ResourceChanged or with the SDK server's ResourceUpdated.
func (h *listeners) subscribe(ctx context.Context, uris []string) error {
	h.subMu.Lock()
	defer h.subMu.Unlock()
	for _, uri := range uris {
		h.mu.Lock()
		want := len(h.byURI[uri]) > 0
		h.mu.Unlock()
		if want == h.subbed[uri] {
			continue
		}
		method := "resources/subscribe"
		if !want {
			method = "resources/unsubscribe"
		}
		params, err := marshal(map[string]string{"uri": uri})
		if err != nil {
			return err
		}
		resp, err := h.rt.observer.loop.call(ctx, method, params, nil)
		if err == nil {
			err = resp.Error
		}
		if err != nil {
			return err
		}
		if want {
			h.subbed[uri] = true
		} else {
			delete(h.subbed, uri)
		}
	}
	return nil
}

// listen serves subscriptions/listen until the client leaves or the runtime
// closes. It runs as the handler of that method, behind the server's
// middleware, on every carrier.
func (r *Runtime) listen(ctx context.Context, call *Call, req *sdk.SubscriptionsListenRequest) (sdk.Result, error) {
	want, err := r.allowed(ctx, call, req)
	if err != nil {
		return nil, err
	}
	l := &listener{principal: call.Principal, id: call.rawID, want: *want, wake: make(chan struct{}, 1)}
	err = r.listeners.add(ctx, l)
	defer r.listeners.remove(l)
	if err != nil {
		return nil, err
	}
	tag := map[string]any{sdk.MetaKeySubscriptionID: l.id}
	ack := map[string]any{"notifications": want, "_meta": tag}
	if err := call.notify(ctx, "notifications/subscriptions/acknowledged", ack); err != nil {
		return nil, err
	}
	// A task may have changed between the call that created it and this one.
	for _, id := range want.TaskIDs {
		l.mark(&l.tasks, id)
	}
	var over <-chan time.Time // a subscription lasts no longer than the credential that opened it
	if expires := identityIn(ctx).Expires; !expires.IsZero() {
		timer := time.NewTimer(expires.Sub(r.opts.Now()))
		defer timer.Stop()
		over = timer.C
	}
	for !want.empty() && ctx.Err() == nil {
		select {
		case <-l.wake:
			if err := r.deliver(ctx, call, l, tag); err != nil {
				return nil, err
			}
		case <-ctx.Done():
		case <-r.done:
			want = new(filter) // the result tells the client that no more will come
		case <-over:
			want = new(filter)
		case <-r.cut.begun():
			return nil, errCutOff().rpc()
		}
	}
	return &sdk.SubscriptionsListenResult{Meta: sdk.Meta(tag)}, nil
}

// deliver sends what happened since the last time.
func (r *Runtime) deliver(ctx context.Context, call *Call, l *listener, tag map[string]any) error {
	kinds, uris, tasks := l.take()
	for method := range kinds {
		if err := call.notify(ctx, method, map[string]any{"_meta": tag}); err != nil {
			return err
		}
	}
	for uri := range uris {
		if err := call.notify(ctx, resourceUpdated, map[string]any{"uri": uri, "_meta": tag}); err != nil {
			return err
		}
	}
	for id := range tasks {
		params, ok := r.taskNotification(ctx, l.principal, id)
		if !ok {
			continue // it expired
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(params, &fields); err != nil {
			return fmt.Errorf("mcp: notification of task %s: %w", id, err)
		}
		meta, err := marshal(tag)
		if err != nil {
			return err
		}
		fields["_meta"] = meta
		if err := call.notify(ctx, "notifications/tasks", fields); err != nil {
			return err
		}
	}
	return nil
}

// allowed checks a subscription and reduces it to what the server offers and
// the client may see.
func (r *Runtime) allowed(ctx context.Context, call *Call, req *sdk.SubscriptionsListenRequest) (*filter, error) {
	raw := member(call.params, "notifications")
	if !isObject(raw) {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: `missing required "notifications" field`}
	}
	var want filter
	if err := decodeJSON(raw, &want); err != nil {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("invalid params: %v", err)}
	}
	if n := len(want.URIs) + len(want.TaskIDs); n > r.opts.MaxSubscriptions || len(raw) > maxListenBytes {
		return nil, &jsonrpc.Error{Code: CodeSubscriptionLimit, Message: fmt.Sprintf(
			"the subscription names %d resources and tasks in %d bytes; at most %d in %d bytes are allowed", n, len(raw), r.opts.MaxSubscriptions, maxListenBytes)}
	}
	if len(want.TaskIDs) > 0 {
		caps := req.ClientCapabilities()
		if caps == nil || caps.Extensions[ExtensionTasks] == nil {
			return nil, MissingCapability(&sdk.ClientCapabilities{Extensions: map[string]any{ExtensionTasks: struct{}{}}})
		}
	}
	res, err := r.base(ctx, "server/discover", &sdk.ServerRequest[*sdk.DiscoverParams]{
		Session: req.Session, Params: &sdk.DiscoverParams{Meta: req.Params.Meta},
	})
	if err != nil {
		return nil, err
	}
	offer := res.(*sdk.DiscoverResult).Capabilities
	want.Tools = want.Tools && offer.Tools != nil && offer.Tools.ListChanged
	want.Prompts = want.Prompts && offer.Prompts != nil && offer.Prompts.ListChanged
	want.Resources = want.Resources && offer.Resources != nil && offer.Resources.ListChanged
	if offer.Resources == nil || !offer.Resources.Subscribe {
		want.URIs = nil
	}
	asked := want.TaskIDs
	want.TaskIDs = nil
	for _, id := range asked {
		if r.taskNotification == nil {
			break
		}
		if _, ok := r.taskNotification(ctx, call.Principal, id); ok {
			want.TaskIDs = append(want.TaskIDs, id)
		}
	}
	return &want, nil
}

// MissingCapability is the error with which a handler refuses a client of
// protocol 2026-07-28 that did not declare capabilities the request needs
// (SEP-2575, code CodeMissingCapability, HTTP status 400). A handler finds out
// with the ClientCapabilities method of its request.
func MissingCapability(required *sdk.ClientCapabilities) error {
	data, err := marshal(map[string]any{"requiredCapabilities": capabilityData(required)})
	if err != nil {
		return err
	}
	return &jsonrpc.Error{Code: CodeMissingCapability, Message: "the client did not declare a capability that this request needs", Data: data}
}

// capabilityData encodes capabilities without the "roots" that the SDK's type
// always carries.
func capabilityData(caps *sdk.ClientCapabilities) any {
	text, err := marshal(caps)
	var fields map[string]json.RawMessage
	if err != nil || json.Unmarshal(text, &fields) != nil {
		return caps
	}
	delete(fields, "roots")
	if caps.RootsV2 != nil {
		if roots, err := marshal(caps.RootsV2); err == nil {
			fields["roots"] = roots
		}
	}
	return fields
}

// notify sends a notification that belongs to the call.
func (c *Call) notify(ctx context.Context, method string, params any) error {
	if c.exchange != nil {
		return c.exchange.notify(method, params)
	}
	if c.conn == nil {
		return &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: method + " needs a carrier that can stream"}
	}
	text, err := marshal(params)
	if err != nil {
		return err
	}
	return c.conn.Write(ctx, &jsonrpc.Request{Method: method, Params: text})
}
