package mcp_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// newStored is newRuntime on a store.
func newStored(t testing.TB, store mcp.Store, o mcp.Options) *mcp.Runtime {
	t.Helper()
	r, err := mcp.NewRuntime(store, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	addTools(r, make(chan struct{}))
	return r
}

// auditStore is a store that closes behind the runtimes on it.
func auditStore(t testing.TB) *engine.Store {
	t.Helper()
	store := openStore(t, t.TempDir())
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// audited returns the audit log, newest first.
func audited(t testing.TB, r *mcp.Runtime, q mcp.AuditQuery) []mcp.AuditRecord {
	t.Helper()
	var list []mcp.AuditRecord
	require.NoError(t, r.Audit(context.Background(), q, func(rec mcp.AuditRecord) error {
		list = append(list, rec)
		return nil
	}))
	return list
}

func waitAudited(t testing.TB, r *mcp.Runtime, n uint64) {
	t.Helper()
	require.Eventually(t, func() bool { return r.Stats().Audit.Written >= n }, 20*time.Second, time.Millisecond)
}

func callOf(tool, arguments string) string {
	return stateless("7", "tools/call", `"name":"`+tool+`","arguments":`+arguments)
}

func TestEveryToolCallIsAudited(t *testing.T) {
	store := auditStore(t)
	clock := newTicker()
	r := newStored(t, store, mcp.Options{
		Now: clock.now, Authenticator: people{"ann": {"b"}}, ToolScopes: map[string][]string{"panic": {"b"}, "wait": {"c"}},
	})
	const local = "127.0.0.1:1"
	ask(r, local, "ann", callOf("echo", `{"text":"a secret"}`))
	ask(r, local, "ann", strings.Replace(callOf("fail", `{"text":"x"}`), `"_meta":{`, `"_meta":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",`, 1))
	ask(r, local, "ann", callOf("panic", `{}`))
	ask(r, local, "ann", callOf("nowhere", `{}`))
	ask(r, local, "ann", callOf("wait", `{"x":1}`))
	ask(r, local, "eve", callOf("echo", `{"text":"not let in"}`))
	ask(r, local, "ann", discover)
	waitAudited(t, r, 5)

	list := audited(t, r, mcp.AuditQuery{})
	require.Len(t, list, 5)
	var got []string
	for _, rec := range list {
		require.Equal(t, "ann", rec.Principal)
		require.Equal(t, "test", rec.Method)
		require.Equal(t, "7", rec.RequestID)
		require.Len(t, rec.Arguments, 64)
		got = append(got, fmt.Sprint(rec.Tool, " ", rec.Outcome, " ", rec.Code))
	}
	require.Equal(t, []string{"wait denied -32013", "nowhere error -32602", "panic error -32603", "fail tool_error 0", "echo ok 0"}, got)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", list[3].TraceID)
	require.Equal(t, sha256Hex(`{"text":"a secret"}`), list[4].Arguments)
	require.Len(t, audited(t, r, mcp.AuditQuery{Tool: "echo"}), 1)
	require.Len(t, audited(t, r, mcp.AuditQuery{Outcome: "error", Limit: 1}), 1)
	require.Empty(t, audited(t, r, mcp.AuditQuery{Principal: "eve"}))
	require.Empty(t, audited(t, r, mcp.AuditQuery{Since: clock.now().Add(time.Second)}))
	require.Len(t, audited(t, r, mcp.AuditQuery{Since: clock.now(), Until: clock.now().Add(time.Second)}), 5)
	require.Empty(t, audited(t, r, mcp.AuditQuery{Until: clock.now()}))

	// Nothing of the arguments is in the store.
	require.NoError(t, store.ViewLocal(context.Background(), func(tx *engine.Tx) error {
		return tx.Scan("mcp_audit", engine.Range{}, func(_, value []byte) bool {
			require.NotContains(t, string(value), "a secret")
			return true
		})
	}))
}

func TestCloseWritesWhatIsLeftAndTheNextRuntimeGoesOn(t *testing.T) {
	store := auditStore(t)
	clock := newTicker()
	r := newStored(t, store, mcp.Options{Now: clock.now, Audit: mcp.AuditOptions{Durability: mcp.AuditBatched, Lag: time.Hour}})
	for range 3 {
		require.Equal(t, http.StatusOK, ask(r, "127.0.0.1:1", "", echo).Code)
	}
	require.Equal(t, 3, r.Stats().Audit.Waiting)
	clock.move(time.Minute)
	require.Equal(t, time.Minute, r.Stats().Audit.Lag)
	require.Empty(t, audited(t, r, mcp.AuditQuery{}))
	require.NoError(t, r.Close())
	r = newStored(t, store, mcp.Options{Now: clock.now, Audit: mcp.AuditOptions{Lag: time.Millisecond}})
	require.Len(t, audited(t, r, mcp.AuditQuery{}), 3)
	ask(r, "127.0.0.1:1", "", echo)
	waitAudited(t, r, 1)
	require.Len(t, audited(t, r, mcp.AuditQuery{}), 4)
}

func TestAFullAuditLogLosesItsOldestRecords(t *testing.T) {
	store := auditStore(t)
	clock := newTicker()
	r := newStored(t, store, mcp.Options{Now: clock.now, Audit: mcp.AuditOptions{Lag: time.Nanosecond, MaxBytes: 2000}})
	for i := range 40 {
		clock.move(time.Second)
		ask(r, "127.0.0.1:1", "", strings.Replace(echo, `"id":1`, fmt.Sprintf(`"id":%d`, i), 1))
		waitAudited(t, r, uint64(i+1))
	}
	require.Eventually(t, func() bool { return len(audited(t, r, mcp.AuditQuery{})) < 12 }, 10*time.Second, time.Millisecond)
	list := audited(t, r, mcp.AuditQuery{})
	require.Greater(t, len(list), 3)
	for i, rec := range list {
		require.Equal(t, fmt.Sprint(39-i), rec.RequestID, "the newest are there without a gap")
	}
}

func TestManyRecordsArePagedThrough(t *testing.T) {
	r := newStored(t, auditStore(t), mcp.Options{Audit: mcp.AuditOptions{Lag: time.Microsecond}})
	const n = 700
	for i := range n {
		ask(r, "127.0.0.1:1", "", strings.Replace(echo, `"id":1`, fmt.Sprintf(`"id":%d`, i), 1))
	}
	waitAudited(t, r, n)
	list := audited(t, r, mcp.AuditQuery{Limit: n + 1})
	require.Len(t, list, n)
	for i, rec := range list {
		require.Equal(t, fmt.Sprint(n-1-i), rec.RequestID)
	}
	require.Len(t, audited(t, r, mcp.AuditQuery{}), 100)
	stop := errors.New("stop")
	require.ErrorIs(t, r.Audit(context.Background(), mcp.AuditQuery{}, func(mcp.AuditRecord) error { return stop }), stop)
}

func TestARecordReadsAsItWasWritten(t *testing.T) {
	nasty := "q\"b\\ \u0001\u2028 ü 😀"
	full := mcp.AuditRecord{
		Time: time.Date(2026, 11, 21, 12, 0, 0, 123456789, time.UTC), Principal: nasty, Method: nasty, Session: nasty, Tool: nasty,
		Outcome: "error", Code: -32602, Millis: 0.125, RequestID: nasty, TraceID: "0af7651916cd43dd8448eb211c80319c", Task: nasty,
	}
	for _, want := range []mcp.AuditRecord{full, {Time: full.Time, Outcome: "ok"}, {Millis: 1e9}} {
		var got mcp.AuditRecord
		text := mcp.EncodeAudit(want, []byte("args"))
		require.NoError(t, json.Unmarshal(text, &got), "%s", text)
		want.Arguments = sha256Hex("args")
		require.Equal(t, want, got)
	}
	var got mcp.AuditRecord // a client may cut a character in two
	require.NoError(t, json.Unmarshal(mcp.EncodeAudit(mcp.AuditRecord{Tool: "a\xc3"}, nil), &got))
	require.Equal(t, "a\ufffd", got.Tool)
}

// sullen refuses updates while it is told to.
type sullen struct {
	mcp.Store
	no atomic.Bool
}

func (s *sullen) Update(ctx context.Context, fn func(*engine.Tx) error, o ...engine.TxOption) (engine.Result, error) {
	if s.no.Load() {
		return engine.Result{}, engine.ErrNoSpace
	}
	return s.Store.Update(ctx, fn, o...)
}

func TestAStoreThatRefusesDelaysRecordsAndLosesNone(t *testing.T) {
	store := &sullen{Store: auditStore(t)}
	logs := new(logBuffer)
	r := newStored(t, store, mcp.Options{Logger: logs.logger(), Audit: mcp.AuditOptions{Durability: mcp.AuditBatched, Lag: time.Microsecond}})
	store.no.Store(true)
	for range 5 {
		require.Equal(t, http.StatusOK, ask(r, "127.0.0.1:1", "", echo).Code)
	}
	require.Eventually(t, func() bool { return r.Stats().Audit.Failing }, 10*time.Second, time.Millisecond)
	require.Contains(t, logs.String(), "cannot be audited")
	store.no.Store(false)
	waitAudited(t, r, 5)
	require.Len(t, audited(t, r, mcp.AuditQuery{}), 5)
	require.False(t, r.Stats().Audit.Failing)
}

func TestNoCallGoesUnauditedForLong(t *testing.T) {
	store := &sullen{Store: auditStore(t)}
	r := newStored(t, store, mcp.Options{Audit: mcp.AuditOptions{Durability: mcp.AuditBatched, Lag: time.Microsecond}})
	store.no.Store(true)
	require.Equal(t, http.StatusOK, ask(r, "127.0.0.1:1", "", echo).Code)
	r.FillAudit()
	w := ask(r, "127.0.0.1:1", "", echo)
	require.Contains(t, w.Body.String(), "wait to be audited")
	require.Contains(t, w.Body.String(), "-32010")
	require.Equal(t, http.StatusOK, ask(r, "127.0.0.1:1", "", discover).Code, "what is not audited goes on")
	store.no.Store(false)
	require.Eventually(t, func() bool {
		return !strings.Contains(ask(r, "127.0.0.1:1", "", echo).Body.String(), "wait to be audited")
	}, 30*time.Second, 10*time.Millisecond)
}

func TestAuditCanBeOff(t *testing.T) {
	r := newStored(t, auditStore(t), mcp.Options{Audit: mcp.AuditOptions{Off: true}})
	ask(r, "127.0.0.1:1", "", echo)
	require.NoError(t, r.Close())
	require.Empty(t, audited(t, r, mcp.AuditQuery{}))
	_, err := mcp.NewRuntime(nil, mcp.Options{Audit: mcp.AuditOptions{Lag: -1}})
	require.Error(t, err)
	_, err = mcp.NewRuntime(nil, mcp.Options{Audit: mcp.AuditOptions{Durability: 4}})
	require.ErrorContains(t, err, "Durability")
}

func TestRequestsAreCountedByMethodAndOutcome(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	for range 3 {
		ask(r, "127.0.0.1:1", "", echo)
	}
	ask(r, "127.0.0.1:1", "", callOf("fail", `{"text":"a"}`))
	ask(r, "127.0.0.1:1", "", callOf("nowhere", `{}`))
	ask(r, "127.0.0.1:1", "", discover)
	s := r.Stats()
	found := map[string][5]uint64{}
	for _, m := range s.Methods {
		found[m.Method] = m.Outcomes
		total := uint64(0)
		for _, n := range m.Latency {
			total += n
		}
		require.Equal(t, m.Outcomes[0]+m.Outcomes[1]+m.Outcomes[2], total, m.Method)
	}
	require.Equal(t, [5]uint64{3, 1, 1}, found["tools/call"])
	require.Equal(t, [5]uint64{1}, found["server/discover"])
	require.ElementsMatch(t, []mcp.ToolStats{{Tool: "echo", Calls: 3}, {Tool: "fail", Calls: 1, Errors: 1}}, s.Tools, "a tool that is not there is not counted by name")
	require.EqualValues(t, 5, s.ToolCalls)
	require.EqualValues(t, 2, s.ToolErrors)
}

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// logBuffer is a log that tests read.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
