package mcp_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// members are two runtimes on one store, as those of a cluster are.
func members(t *testing.T, clock *testClock) (a, b *life) {
	o := mcp.Options{EvictAfter: time.Hour}
	eo := engine.Options{FS: vfs.NewMem(), SegmentSize: 1 << 20, MinFreeDisk: 1, SweepInterval: -1}
	if clock != nil {
		o.Now, eo.Now = clock.now, clock.now // rows must not expire by another clock
	}
	store, err := engine.Open("data", eo)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	o.Tasks.Node = "a"
	a = live(t, store, o)
	o.Tasks.Node = "b"
	return a, live(t, store, o)
}

func TestASessionIsOfOneMemberAtATime(t *testing.T) {
	a, b := members(t, nil)
	h := open(t, a.url)
	require.Equal(t, 202, notify(t, a.url, h, initialized))
	require.Equal(t, 200, notify(t, a.url, h, `{"jsonrpc":"2.0","id":2,"method":"ping"}`))
	require.Equal(t, 1, a.r.LiveSessions())

	require.Equal(t, 200, notify(t, b.url, h, fmt.Sprintf(subscribeOne, 3)), "the other member serves it")
	require.Eventually(t, func() bool { return a.r.LiveSessions() == 0 }, 10*time.Second, time.Millisecond, "and the first one lets go")
	stream := listen(t, http.MethodGet, b.url, h, "")
	first := stream.must()

	// Back again: what the other member did to the session is known, and its stream there ends.
	again := listen(t, http.MethodGet, a.url, h, "")
	require.Empty(t, stream.rest())
	primed := again.must()
	require.NotEqual(t, first.id, primed.id, "an event id is given once, whoever gives it")
	require.Equal(t, "0_2", primed.id)
	require.Contains(t, again.must().data, "notifications/resources/updated", "the subscription came along: it may have missed something")
	a.r.ResourceChanged("test://one")
	b.r.ResourceChanged("test://one")
	next := again.must()
	require.Contains(t, next.data, "notifications/resources/updated")
	require.Zero(t, b.r.LiveSessions())
}

func TestASessionEndsOnAllMembers(t *testing.T) {
	a, b := members(t, nil)
	h := open(t, a.url)
	require.Equal(t, 202, notify(t, a.url, h, initialized))
	req, err := http.NewRequest(http.MethodDelete, b.url, nil)
	require.NoError(t, err)
	for name, value := range h {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	require.Equal(t, 404, notify(t, a.url, h, `{"jsonrpc":"2.0","id":2,"method":"ping"}`), "also where it is still in memory")
}

func TestASessionThatIsUsedElsewhereDoesNotExpire(t *testing.T) {
	clock := newTestClock()
	a, b := members(t, clock)
	h := open(t, a.url)
	require.Equal(t, 202, notify(t, a.url, h, initialized))
	for i := range 4 {
		clock.advance(20 * time.Minute)
		require.Equal(t, 200, notify(t, b.url, h, `{"jsonrpc":"2.0","id":2,"method":"ping"}`), "after %d minutes", 20*(i+1))
		// In this test 20 minutes take less time than a commit that nobody waits for.
		require.Eventually(t, func() bool {
			info, err := a.r.Session(t.Context(), h["Mcp-Session-Id"])
			return err == nil && !info.LastUsed.Before(clock.now().Truncate(time.Millisecond))
		}, 10*time.Second, time.Millisecond)
		require.NoError(t, a.r.SweepSessions())
	}
	require.Equal(t, 200, notify(t, a.url, h, `{"jsonrpc":"2.0","id":2,"method":"ping"}`), "where it was last used 80 minutes ago")
}

func TestCallsOfASessionThatMovesEndWithAnError(t *testing.T) {
	a, b := members(t, nil)
	h := open(t, a.url)
	require.Equal(t, 202, notify(t, a.url, h, initialized))
	call := listen(t, http.MethodPost, a.url, h, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"steps","arguments":{"steps":2},"_meta":{"progressToken":1}}}`)
	position := call.must().id
	a.steps <- struct{}{}
	require.Contains(t, call.must().data, progress(1))
	h["Last-Event-ID"] = position
	resumed := listen(t, http.MethodGet, b.url, h, "").rest()
	require.Contains(t, resumed[len(resumed)-1].data, "server_restarted")
	a.steps <- struct{}{} // whatever its handler does now
	require.Empty(t, call.rest())
	again := listen(t, http.MethodGet, b.url, h, "").rest()
	require.Equal(t, resumed, again)
}

func TestStreamsOfAMemberThatIsCutOffEnd(t *testing.T) {
	var age atomic.Int64
	store := newFaultyStore(t)
	o := mcp.Options{Freshness: func() (uint64, time.Duration) { return 1, time.Duration(age.Load()) }}
	o.Tasks.Node = "a"
	l := live(t, store, o)
	h := open(t, l.url)
	require.Equal(t, 202, notify(t, l.url, h, initialized))
	standalone := listen(t, http.MethodGet, l.url, h, "")
	standalone.must()
	call := listen(t, http.MethodPost, l.url, h, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"steps","arguments":{"steps":2},"_meta":{"progressToken":1}}}`)
	position := call.must().id

	age.Store(int64(time.Hour))
	require.Empty(t, standalone.rest())
	require.Empty(t, call.rest())

	age.Store(0) // and when the others are back the call has its answer
	l.steps <- struct{}{}
	l.steps <- struct{}{}
	require.Eventually(t, func() bool {
		h["Last-Event-ID"] = position
		all := listen(t, http.MethodGet, l.url, h, "").rest()
		return len(all) > 0 && strings.Contains(all[len(all)-1].data, "all steps done")
	}, 10*time.Second, 10*time.Millisecond)
}
