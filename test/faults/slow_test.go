package faults

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestASlowDiskIsBackpressureNotMemory: with an fsync of 150 ms and room for four waiting transactions, 32 clients
// that never pause get quick refusals instead of a queue, and the operator sees why.
func TestASlowDiskIsBackpressureNotMemory(t *testing.T) {
	const maxPending = 4
	s := newSite(t, 32, "--set", "storage.max_pending=4", "--set", "storage.mem_table_size=2MiB") // and a cache that is soon full
	s.start()
	s.prepare()
	s.work(500 * time.Millisecond) // the memory of a server that has worked
	healthy := s.metrics()
	s.rules("sync wal/*.seg delay=150ms\n")

	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	var watch sync.WaitGroup
	depth, memory := 0.0, 0.0
	watch.Go(func() {
		for ctx.Err() == nil {
			m, err := s.server.Caller().Metrics(ctx)
			if err != nil {
				continue // the end of ctx
			}
			depth, memory = max(depth, m["erlmcp_queue_depth"]), max(memory, m["process_resident_memory_bytes"])
			time.Sleep(20 * time.Millisecond) // the pace of sampling, nothing waits for it
		}
	})
	require.Empty(t, s.crowd.Run(ctx, s.server), "overloaded is an answer, not a broken connection")
	watch.Wait()
	slow := s.metrics()
	syncs := slow["erlmcp_wal_fsync_seconds_count"] - healthy["erlmcp_wal_fsync_seconds_count"]
	mean := (slow["erlmcp_wal_fsync_seconds_sum"] - healthy["erlmcp_wal_fsync_seconds_sum"]) / syncs
	overloaded := s.crowd.Totals().Refused["overloaded"]
	t.Logf("%.0f fsyncs of %.0f ms, queue depth up to %.0f, %d refused as overloaded, memory %.0f -> %.0f MiB", syncs, mean*1000, depth,
		overloaded, healthy["process_resident_memory_bytes"]/(1<<20), memory/(1<<20))
	require.GreaterOrEqual(t, mean, 0.14, "the histogram shows the slow disk")
	require.GreaterOrEqual(t, slow["erlmcp_wal_fsync_max_seconds"], 0.15)
	require.NotZero(t, overloaded)
	require.GreaterOrEqual(t, slow["erlmcp_store_refused_total"], float64(overloaded))
	require.NotZero(t, depth)
	require.LessOrEqual(t, depth, float64(maxPending))
	require.Less(t, memory, healthy["process_resident_memory_bytes"]+48*(1<<20), "refusing must not cost memory")

	s.rules("")
	s.nothingLost()
	before := s.crowd.Totals().Changes
	s.work(300 * time.Millisecond)
	require.Greater(t, s.crowd.Totals().Changes, before)
	s.nothingLost()
	s.stopAndVerify()
}
