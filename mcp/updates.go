package mcp

import (
	"context"
	"fmt"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// updatePause gathers changes of one resource: a subscriber learns within this
// time that it changed, however often it did.
const updatePause = 50 * time.Millisecond

// updates tells subscribers that resources changed. Its memory is bounded by
// the subscriptions: a change of a URI that nobody subscribes to costs one map
// look-up and is forgotten, a burst of changes of one URI is one notification.
type updates struct {
	rt   *Runtime
	wake chan struct{} // capacity 1: there are dirty URIs

	mu    sync.Mutex
	held  map[*sdk.ServerSession]map[string]bool // session -> URIs
	subs  map[string]int                         // URI -> sessions that hold it
	dirty map[string]bool                        // subset of the keys of subs
	limit int                                    // sessions in held before the next forgetClosed
}

// minForget is the number of subscribing sessions below which none is looked
// for that ended unseen.
const minForget = 8

func newUpdates(r *Runtime) *updates {
	return &updates{
		rt: r, wake: make(chan struct{}, 1),
		held: make(map[*sdk.ServerSession]map[string]bool), subs: make(map[string]int),
		dirty: make(map[string]bool), limit: minForget,
	}
}

// ResourceChanged tells the subscribers of each uri, soon and at most about
// twenty times a second. It never blocks.
func (r *Runtime) ResourceChanged(uris ...string) {
	u := r.updates
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, uri := range uris {
		if u.subs[uri] > 0 {
			u.dirty[uri] = true
		}
	}
	u.signal()
}

// AllResourcesChanged tells every subscriber that its resource may have
// changed: for when it is not known which did.
func (r *Runtime) AllResourcesChanged() {
	u := r.updates
	u.mu.Lock()
	defer u.mu.Unlock()
	for uri := range u.subs {
		u.dirty[uri] = true
	}
	u.signal()
}

// signal wakes run if there is something to do. u.mu is held.
func (u *updates) signal() {
	if len(u.dirty) == 0 {
		return
	}
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// run sends the notifications until the runtime closes.
func (u *updates) run() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for {
		select {
		case <-u.wake:
		case <-u.rt.done:
			return
		}
		u.mu.Lock()
		changed := u.dirty
		u.dirty = make(map[string]bool)
		u.mu.Unlock()
		for uri := range changed {
			u.rt.stats.updates.Add(1)
			// The SDK logs what it cannot deliver; nobody else can act on it.
			_ = u.rt.server.ResourceUpdated(context.Background(), &sdk.ResourceUpdatedNotificationParams{URI: uri})
		}
		pause.Reset(updatePause)
		select {
		case <-pause.C:
		case <-u.rt.done:
			return
		}
	}
}

// subscribe is called by the SDK before it notes a subscription.
func (u *updates) subscribe(_ context.Context, req *sdk.SubscribeRequest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	held := u.held[req.Session]
	if held[req.Params.URI] {
		return nil
	}
	observer := u.rt.observer // the listeners' own limits apply to it
	if len(held) >= u.rt.opts.MaxSubscriptions && (observer == nil || req.Session != observer.session) {
		return &jsonrpc.Error{Code: CodeSubscriptionLimit, Message: fmt.Sprintf(
			"this session holds %d resource subscriptions, the maximum; unsubscribe from some first", len(held))}
	}
	if held == nil {
		u.forgetClosed() // carriers other than HTTP do not say when a session ends
		held = make(map[string]bool)
		u.held[req.Session] = held
	}
	held[req.Params.URI] = true
	u.subs[req.Params.URI]++
	return nil
}

func (u *updates) unsubscribe(_ context.Context, req *sdk.UnsubscribeRequest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(req.Params.URI, req.Session)
	return nil
}

// drop removes one subscription. u.mu is held.
func (u *updates) drop(uri string, session *sdk.ServerSession) {
	if !u.held[session][uri] {
		return
	}
	delete(u.held[session], uri)
	if len(u.held[session]) == 0 {
		delete(u.held, session)
	}
	if u.subs[uri]--; u.subs[uri] == 0 {
		delete(u.subs, uri)
		delete(u.dirty, uri)
	}
}

// forget removes all subscriptions of a session that ended: the SDK forgets
// them without saying so.
func (u *updates) forget(session *sdk.ServerSession) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for uri := range u.held[session] {
		u.drop(uri, session)
	}
}

// forgetClosed is forget for every session that the server does not have any
// more. u.mu is held.
func (u *updates) forgetClosed() {
	if len(u.held) < u.limit {
		return
	}
	alive := make(map[*sdk.ServerSession]bool)
	for session := range u.rt.server.Sessions() {
		alive[session] = true
	}
	for session, uris := range u.held {
		if !alive[session] {
			for uri := range uris {
				u.drop(uri, session)
			}
		}
	}
	u.limit = max(minForget, 2*len(u.held)) // so that it costs little per session
}

// of returns the resources that a session subscribes to.
func (u *updates) of(session *sdk.ServerSession) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	uris := make([]string, 0, len(u.held[session]))
	for uri := range u.held[session] {
		uris = append(uris, uri)
	}
	return uris
}

func (u *updates) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.subs)
}
