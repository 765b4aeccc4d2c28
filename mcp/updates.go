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
	subs  map[string]map[*sdk.ServerSession]bool // URI -> sessions
	dirty map[string]bool                        // subset of the keys of subs
}

func newUpdates(r *Runtime) *updates {
	return &updates{
		rt: r, wake: make(chan struct{}, 1),
		subs: make(map[string]map[*sdk.ServerSession]bool), dirty: make(map[string]bool),
	}
}

// ResourceChanged tells the subscribers of each uri, soon and at most about
// twenty times a second. It never blocks.
func (r *Runtime) ResourceChanged(uris ...string) {
	u := r.updates
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, uri := range uris {
		if u.subs[uri] != nil {
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
	if u.subs[req.Params.URI][req.Session] {
		return nil
	}
	u.forgetClosed()
	if r := u.rt; r.observer != nil && req.Session == r.observer.session {
		u.enter(req.Params.URI, req.Session) // the listeners' own limits apply
		return nil
	}
	held := 0
	for _, sessions := range u.subs {
		if sessions[req.Session] {
			held++
		}
	}
	if held >= u.rt.opts.MaxSubscription {
		return &jsonrpc.Error{Code: CodeSubscriptionLimit, Message: fmt.Sprintf(
			"this session holds %d resource subscriptions, the maximum; unsubscribe from some first", held)}
	}
	u.enter(req.Params.URI, req.Session)
	return nil
}

// enter notes one subscription. u.mu is held.
func (u *updates) enter(uri string, session *sdk.ServerSession) {
	if u.subs[uri] == nil {
		u.subs[uri] = make(map[*sdk.ServerSession]bool)
	}
	u.subs[uri][session] = true
}

func (u *updates) unsubscribe(_ context.Context, req *sdk.UnsubscribeRequest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(req.Params.URI, req.Session)
	return nil
}

// drop removes one subscription. u.mu is held.
func (u *updates) drop(uri string, session *sdk.ServerSession) {
	delete(u.subs[uri], session)
	if len(u.subs[uri]) == 0 {
		delete(u.subs, uri)
		delete(u.dirty, uri)
	}
}

// forgetClosed removes what ended sessions left behind: the SDK forgets their
// subscriptions without saying so. u.mu is held.
func (u *updates) forgetClosed() {
	alive := make(map[*sdk.ServerSession]bool)
	for session := range u.rt.server.Sessions() {
		alive[session] = true
	}
	for uri, sessions := range u.subs {
		for session := range sessions {
			if !alive[session] {
				u.drop(uri, session)
			}
		}
	}
}

func (u *updates) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.subs)
}
