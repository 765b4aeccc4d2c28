package tcps_test

import (
	"sync/atomic"
	"testing"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

// BenchmarkCreateWorkOrder measures the whole path of a create on a real
// directory with fsync, by parallel callers in all buckets.
func BenchmarkCreateWorkOrder(b *testing.B) {
	store, err := engine.Open(b.TempDir(), engine.Options{Indexes: tcps.Indexes()})
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	l, err := tcps.New(store, tcps.Options{})
	require.NoError(b, err)
	buckets := tcps.Buckets()
	var n atomic.Int64
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			in := tcps.CreateWorkOrderInput{
				Signal: tcps.PullSignal{Type: tcps.SignalInternalRequest, Source: "bench", Description: "an order of usual size"},
				Bucket: string(buckets[n.Add(1)%6]),
			}
			if _, err := l.CreateWorkOrder(b.Context(), in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
