package tcpstools_test

import (
	"net/http/httptest"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/tcpstools"
	"github.com/erlmcp/erlmcp/tcps"
)

func TestFullDiskIsARefusalWithAdviceAndReadingGoesOn(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	order, err := p.ledger.CreateWorkOrder(t.Context(), tcps.CreateWorkOrderInput{Signal: tcps.PullSignal{Type: "github_issue", Source: "x"}})
	require.NoError(t, err)
	p.close()

	store, err := engine.Open(dir, engine.Options{Indexes: tcps.Indexes(), MinFreeDisk: 1 << 62})
	require.NoError(t, err)
	defer store.Close()
	ledger, err := tcps.New(store, tcps.Options{})
	require.NoError(t, err)
	rt, err := mcp.NewRuntime(store, mcp.Options{})
	require.NoError(t, err)
	defer rt.Close()
	require.NoError(t, tcpstools.Register(rt, ledger, store))
	full := &plant{store: store, ledger: ledger, rt: rt}
	s := full.client(t, "http", "2026-07-28", nil)

	r := refused(t, s, "work_order_cancel", args{"id": order.ID, "reason": "r"})
	require.Equal(t, "no_space", r.Code)
	require.True(t, r.Retry)
	require.Contains(t, r.Message, "Free disk space")
	var view tcps.WorkOrderStatusView
	do(t, s, "work_order_get", args{"id": order.ID}, &view)
	require.Equal(t, tcps.StatusQueued, view.WorkOrder.Status)
}

func TestClosedStoreIsAnInternalError(t *testing.T) {
	p := open(t, t.TempDir())
	s := p.client(t, "http", "2026-07-28", nil)
	require.NoError(t, p.store.Close())
	_, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "work_order_create", Arguments: issue(1)})
	require.Equal(t, int64(-32603), wireError(t, err).Code)
	_, err = s.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "tcps://metrics"})
	require.Equal(t, int64(-32603), wireError(t, err).Code)
	_, err = s.GetPrompt(t.Context(), &sdk.GetPromptParams{Name: "shift_handover"})
	require.Equal(t, int64(-32603), wireError(t, err).Code)
}

func TestTheWatchEndsWithTheRuntime(t *testing.T) {
	p := open(t, t.TempDir())
	srv := httptest.NewServer(p.rt.Handler())
	defer srv.Close()
	start := time.Now()
	p.rt.Close()
	require.Less(t, time.Since(start), 3*time.Second)
	require.NoError(t, p.store.Close())
}
