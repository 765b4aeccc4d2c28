package mcp_test

//lint:file-ignore SA1019 older clients use what 2026-07-28 deprecates

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// testClock is a clock that the test moves.
type testClock struct{ ns atomic.Int64 }

func newTestClock() *testClock {
	c := new(testClock)
	c.ns.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

func (c *testClock) now() time.Time           { return time.Unix(0, c.ns.Load()) }
func (c *testClock) advance(by time.Duration) { c.ns.Add(int64(by)) }

// stores runs a test on a durable and on a volatile runtime.
func stores(t *testing.T, test func(t *testing.T, store mcp.Store)) {
	t.Run("durable", func(t *testing.T) { test(t, newFaultyStore(t)) })
	t.Run("volatile", func(t *testing.T) { test(t, nil) })
}

const subscribeOne = `{"jsonrpc":"2.0","id":%d,"method":"resources/subscribe","params":{"uri":"test://one"}}`

func TestUndurableEventNeverReachesAClient(t *testing.T) {
	store := newFaultyStore(t)
	l := live(t, store, mcp.Options{StreamAfter: time.Millisecond})
	h := open(t, l.url)

	s := listen(t, http.MethodPost, l.url, h, fmt.Sprintf(stepsCall, 5, 4))
	s.must() // priming
	l.steps <- struct{}{}
	first := s.must()
	store.refuse.Store(true)
	l.steps <- struct{}{}
	require.Empty(t, s.rest(), "the stream ends instead")

	for _, body := range []string{initialize, `{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"info"}}`} {
		with := h
		if body == initialize {
			with = nil
		}
		_, answer, header := post(t, l.url, with, body)
		require.Equal(t, -32603, answer.Error.Code, "%+v", answer)
		require.Contains(t, answer.Error.Message, "no space left")
		require.Empty(t, header.Get("Mcp-Session-Id"))
	}

	// When the store works again so does the session, and the call's client learns what became of it.
	store.refuse.Store(false)
	status, answer, _ := post(t, l.url, h, echoCall("7", "works"))
	require.Equal(t, 200, status, "%+v", answer)
	rest := listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", first.id), "").rest()
	require.Contains(t, rest[len(rest)-1].data, "could not be stored")
	require.NotContains(t, rest[len(rest)-1].data, "restarted")
	require.NotContains(t, fmt.Sprint(rest), progress(2))
}

func TestMessagesWaitForTheStandaloneStream(t *testing.T) {
	stores(t, func(t *testing.T, store mcp.Store) {
		l := live(t, store, mcp.Options{})
		h := open(t, l.url)
		post(t, l.url, h, fmt.Sprintf(subscribeOne, 2))
		l.r.ResourceChanged("test://one")
		require.Eventually(t, func() bool { return l.r.Stats().Events == 1 }, 5*time.Second, time.Millisecond)
		l.r.ResourceChanged("test://one") // says nothing new
		s := listen(t, http.MethodGet, l.url, h, "")
		prime, waiting := s.must(), s.must()
		require.Empty(t, prime.data)
		require.Contains(t, waiting.data, "test://one")
		s.close()
		require.Eventually(t, func() bool { return l.r.Stats().Streams == 0 }, 5*time.Second, time.Millisecond)

		// It was delivered; only what comes now comes again.
		s = listen(t, http.MethodGet, l.url, h, "")
		prime = s.must()
		require.Empty(t, prime.data)
		require.Eventually(t, func() bool {
			l.r.ResourceChanged("test://one")
			return l.r.Stats().Events >= 2
		}, 5*time.Second, 100*time.Millisecond)
		next := s.must()
		require.Contains(t, next.data, "test://one")
		require.NotEqual(t, waiting.id, next.id)

		// A newer stream replaces the older one, and resumes where it is told to.
		again := listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", prime.id), "")
		require.Equal(t, prime.id, again.must().id)
		require.Equal(t, next.id, again.must().id)
		for e, ok := s.next(); ok; e, ok = s.next() {
			require.NotEmpty(t, e.data)
		}
	})
}

func TestSubscriptionsSurviveARestart(t *testing.T) {
	store := newFaultyStore(t)
	l := live(t, store, mcp.Options{MaxSubscriptions: 2})
	h := open(t, l.url)
	post(t, l.url, h, fmt.Sprintf(subscribeOne, 2))
	post(t, l.url, h, strings.Replace(fmt.Sprintf(subscribeOne, 3), "one", "two", 1))
	post(t, l.url, h, strings.Replace(fmt.Sprintf(subscribeOne, 4), "subscribe", "unsubscribe", 1))
	post(t, l.url, h, strings.Replace(fmt.Sprintf(subscribeOne, 5), "one", "three", 1))
	l.kill()

	l = live(t, store, mcp.Options{MaxSubscriptions: 2})
	s := listen(t, http.MethodGet, l.url, h, "")
	got := map[string]bool{}
	for len(got) < 2 {
		if e := s.must(); e.data != "" {
			require.Contains(t, e.data, "resources/updated")
			got[e.data] = true
		}
	}
	require.Equal(t, 2, l.r.Stats().Subscriptions)
	status, answer, _ := post(t, l.url, h, fmt.Sprintf(subscribeOne, 6))
	require.Equal(t, 200, status)
	require.Equal(t, mcp.CodeSubscriptionLimit, answer.Error.Code, "the limit counts what was restored")
	require.NoError(t, l.r.Server().ResourceUpdated(t.Context(), &sdk.ResourceUpdatedNotificationParams{URI: "test://three"}))
	require.Contains(t, s.must().data, "test://three", "the SDK knows the subscription too")
}

func TestSessionsEndByAge(t *testing.T) {
	stores(t, func(t *testing.T, store mcp.Store) {
		clock := newTestClock()
		o := mcp.Options{Now: clock.now, EvictAfter: time.Hour, SessionTimeout: 30 * time.Minute}
		l := live(t, store, o)
		h := open(t, l.url)
		ping := `{"jsonrpc":"2.0","id":2,"method":"ping"}`
		clock.advance(29*time.Minute + 59*time.Second)
		require.Equal(t, 200, notify(t, l.url, h, ping), "one second before the end")
		clock.advance(30 * time.Minute)
		require.Equal(t, 404, notify(t, l.url, h, ping), "on time")
		require.Zero(t, l.r.Stats().StoredSessions)

		used, idle := open(t, l.url), open(t, l.url)
		clock.advance(20 * time.Minute)
		require.Equal(t, 200, notify(t, l.url, used, ping))
		require.NoError(t, l.r.SweepSessions())
		clock.advance(15 * time.Minute)
		require.NoError(t, l.r.SweepSessions())
		require.Equal(t, 1, l.r.Stats().StoredSessions, "cleaned up without a request")
		require.Equal(t, 404, notify(t, l.url, idle, ping))
		if store == nil {
			return
		}
		l.kill()
		l = live(t, store, o)
		require.Equal(t, 200, notify(t, l.url, used, ping), "the restart knows when it was used")
		l.kill()
		clock.advance(31 * time.Minute)
		l = live(t, store, o)
		require.Equal(t, 404, notify(t, l.url, used, ping), "too old sessions do not come back")
		clock.advance(8 * time.Minute)
		require.NoError(t, l.r.SweepSessions())
		require.Zero(t, l.r.Stats().StoredSessions)
		rows := 0
		require.NoError(t, l.r.Store().View(t.Context(), func(tx *engine.Tx) error {
			for _, table := range []string{"mcp_sessions", "mcp_session_seen", "mcp_session_subs", "mcp_streams", "mcp_events"} {
				if err := tx.Scan(table, engine.Range{}, func(_, _ []byte) bool { rows++; return true }); err != nil {
					return err
				}
			}
			return nil
		}))
		require.Zero(t, rows, "nothing is left behind")
	})
}

func TestIdleSessionLeavesMemoryAndComesBack(t *testing.T) {
	stores(t, func(t *testing.T, store mcp.Store) {
		clock := newTestClock()
		l := live(t, store, mcp.Options{Now: clock.now, EvictAfter: time.Minute})
		idle, subscribed, listening := open(t, l.url), open(t, l.url), open(t, l.url)
		post(t, l.url, subscribed, fmt.Sprintf(subscribeOne, 2))
		s := listen(t, http.MethodGet, l.url, listening, "")
		s.must()
		clock.advance(2 * time.Minute)
		require.NoError(t, l.r.SweepSessions())
		require.Equal(t, 2, l.r.LiveSessions(), "those with a subscription or an open stream stay")
		status, answer, _ := post(t, l.url, idle, echoCall("3", "back"))
		require.Equal(t, 200, status)
		require.Contains(t, string(answer.Result), "back")
		require.Equal(t, 3, l.r.LiveSessions())
		require.EqualValues(t, 1, l.r.Stats().SessionsRevived)
		require.Zero(t, l.r.Stats().Interrupted)
	})
}

func TestRemovedEventsAreAnHonestError(t *testing.T) {
	stores(t, func(t *testing.T, store mcp.Store) {
		l := live(t, store, mcp.Options{})
		h := open(t, l.url)
		s := listen(t, http.MethodPost, l.url, h, fmt.Sprintf(stepsCall, 5, 130))
		prime := s.must()
		for range 130 {
			l.steps <- struct{}{}
		}
		all := s.rest()
		require.Len(t, all, 131)
		resume := func(id string) (int, string) {
			status, answer, _ := do(t, http.MethodGet, l.url, with(h, "Last-Event-ID", id), nil)
			return status, answer.Error.Message
		}
		for _, id := range []string{prime.id, all[0].id, all[29].id} {
			status, why := resume(id)
			require.Equal(t, http.StatusBadRequest, status, id)
			require.Contains(t, why, "were removed")
			require.Contains(t, why, "newest 100")
		}
		got := listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", all[30].id), "").rest()
		require.Equal(t, all[31:], got[1:], "the newest 100 are there, the answer among them")
		name, _, _ := strings.Cut(prime.id, "_")
		for _, id := range []string{"ffffffffffffffff_1", name + "_9999", "0_7"} {
			status, why := resume(id)
			require.Equal(t, http.StatusBadRequest, status, id)
			require.Contains(t, why, "names no event")
		}
		for _, id := range []string{"x", "_1", "0_", "0_-1", "a/b_1"} {
			_, why := resume(id)
			require.Contains(t, why, "not an event id", id)
		}
	})
}

func TestServerMayEndASession(t *testing.T) {
	stores(t, func(t *testing.T, store mcp.Store) {
		l := live(t, store, mcp.Options{})
		h := open(t, l.url)
		infos, err := l.r.ListSessions(t.Context(), "", 10)
		require.NoError(t, err)
		require.Len(t, infos, 1)
		require.Equal(t, "raw", infos[0].Client)
		s := listen(t, http.MethodPost, l.url, h, fmt.Sprintf(stepsCall, 5, 2))
		s.must()
		info, err := l.r.Session(t.Context(), infos[0].ID)
		require.NoError(t, err)
		require.Equal(t, []string{"5"}, info.Streams[0].Calls)
		require.NoError(t, l.r.TerminateSession(t.Context(), infos[0].ID))
		require.Empty(t, s.rest())
		require.ErrorIs(t, l.r.TerminateSession(t.Context(), infos[0].ID), mcp.ErrNoSession)
		require.Equal(t, 404, notify(t, l.url, h, echoCall("6", "x")))

		// So may its own code, by the SDK's means.
		open(t, l.url)
		for session := range l.r.Server().Sessions() {
			if session.ID() != "" {
				require.NoError(t, session.Close())
			}
		}
		require.Eventually(t, func() bool { return l.r.Stats().StoredSessions == 0 }, 5*time.Second, time.Millisecond)
	})
}

func TestGracefulStopKeepsSessions(t *testing.T) {
	store := newFaultyStore(t)
	l := live(t, store, mcp.Options{})
	h := open(t, l.url)
	require.NoError(t, l.r.Close())
	l = live(t, store, mcp.Options{})
	require.Equal(t, 200, notify(t, l.url, h, echoCall("6", "x")))
}

func TestOlderRevisionsResumeWithoutPriming(t *testing.T) {
	l := live(t, newFaultyStore(t), mcp.Options{StreamAfter: time.Millisecond})
	status, _, header := post(t, l.url, nil, strings.Replace(initialize, oldProtocol, "2025-06-18", 1))
	require.Equal(t, 200, status)
	h := map[string]string{"Mcp-Session-Id": header.Get("Mcp-Session-Id"), "Mcp-Protocol-Version": "2025-06-18"}
	s := listen(t, http.MethodPost, l.url, h, fmt.Sprintf(stepsCall, 5, 2))
	require.Zero(t, l.r.Stats().Events, "nothing to resume yet, so nothing is stored")
	l.steps <- struct{}{}
	first := s.must()
	require.Contains(t, first.data, progress(1))
	s.close()
	s = listen(t, http.MethodGet, l.url, with(h, "Last-Event-ID", first.id), "")
	l.steps <- struct{}{}
	all := s.rest()
	require.Len(t, all, 2, "no priming: %v", all)
	require.Contains(t, all[1].data, "all steps done")
}

func TestLogLevelSurvivesARestart(t *testing.T) {
	store := newFaultyStore(t)
	logTool := func(l *life) {
		sdk.AddTool(l.r.Server(), &sdk.Tool{Name: "log"}, func(ctx context.Context, req *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
			for _, level := range []sdk.LoggingLevel{"info", "error"} {
				if err := req.Session.Log(ctx, &sdk.LoggingMessageParams{Level: level, Data: string(level)}); err != nil {
					return nil, nil, err
				}
			}
			return &sdk.CallToolResult{}, nil, nil
		})
	}
	l := live(t, store, mcp.Options{})
	logTool(l)
	h := open(t, l.url)
	post(t, l.url, h, `{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"warning"}}`)
	l.kill()
	l = live(t, store, mcp.Options{})
	logTool(l)
	all := listen(t, http.MethodPost, l.url, h, `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"log"}}`).rest()
	require.Len(t, all, 3, "priming, one log message, the answer: %v", all)
	require.Contains(t, all[1].data, `"error"`)
}
