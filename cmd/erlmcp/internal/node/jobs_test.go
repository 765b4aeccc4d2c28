package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
)

func TestALateSecurityOrderRaisesOneAndonByItself(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC).UnixNano())
	store, err := engine.Open("data", engine.Options{
		FS: vfs.NewMem(), Indexes: tcps.Indexes(), SweepInterval: -1, FlushInterval: -1, SegmentSize: 1 << 20, MemTableSize: 1 << 20,
		Now: func() time.Time { return time.Unix(0, now.Load()) },
	})
	require.NoError(t, err)
	ledger, err := tcps.New(store, tcps.Options{})
	require.NoError(t, err)
	order, err := ledger.CreateWorkOrder(t.Context(), tcps.CreateWorkOrderInput{
		Signal: tcps.PullSignal{Type: tcps.SignalInternalRequest, Source: "audit"}, Bucket: string(tcps.BucketSecurity),
	})
	require.NoError(t, err)

	var logged bytes.Buffer
	tick, ended := make(chan time.Time), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		raiseBreaches(ctx, ledger, tick, slog.New(slog.NewTextHandler(&logged, nil)))
	}()
	open := func() []tcps.Andon {
		tick <- time.Time{}
		tick <- time.Time{} // the first one has been dealt with
		page, err := ledger.ListAndons(t.Context(), tcps.ListAndonsInput{})
		require.NoError(t, err)
		return page.Andons
	}
	require.Empty(t, open())
	now.Add(int64(25 * time.Hour))
	require.Len(t, open(), 1)
	require.Len(t, open(), 1, "once per order")
	require.Equal(t, order.ID, open()[0].RelatedWorkOrderID)

	require.NoError(t, store.Close())
	tick <- time.Time{}
	tick <- time.Time{}
	cancel()
	<-ended
	require.Contains(t, logged.String(), order.ID)
	require.Equal(t, 1, bytes.Count(logged.Bytes(), []byte("not found at the moment")), "a failure is told once")
	require.False(t, errors.Is(store.Err(), engine.ErrFailed))
}
