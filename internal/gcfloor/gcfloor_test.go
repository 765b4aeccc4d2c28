package gcfloor

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGrowthLeadsToTheFloorAndNeverBelowTwice(t *testing.T) {
	const floor = 32 << 20
	for live, percent := range map[int64]int{0: 3100, 1 << 20: 3100, 8 << 20: 300, 16 << 20: 100, 20 << 20: 100, 1 << 40: 100} {
		require.Equal(t, percent, percentFor(live, floor), "%d", live)
	}
}

// garbage allocates n bytes and returns how many collections that took.
func garbage(n int) uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	for range n >> 15 {
		sink = make([]byte, 32<<10)
	}
	metrics.Read(sample)
	return sample[0].Value.Uint64() - before
}

var sink []byte

func TestFloorSparesCollections(t *testing.T) {
	t.Setenv("GOGC", "") // as if unset
	runtime.GC()
	without := garbage(256 << 20)
	stop := Start(64 << 20)
	runtime.GC()
	with := garbage(256 << 20)
	require.Less(t, with*4, without, "%d collections without the floor, %d with it", without, with)
	stop()
	stop()
	require.Equal(t, normal, debug.SetGCPercent(normal), "stop restores the setting")
}

func TestWhoeverSetTheCollectorIsObeyed(t *testing.T) {
	t.Setenv("GOGC", "50")
	old := debug.SetGCPercent(50)
	defer debug.SetGCPercent(old)
	Start(64 << 20)()
	require.Equal(t, 50, debug.SetGCPercent(50))

	t.Setenv("GOGC", "")
	limit := debug.SetMemoryLimit(100 << 20)
	defer debug.SetMemoryLimit(limit)
	Start(64 << 20)()
	require.Equal(t, 50, debug.SetGCPercent(50), "a tight memory limit leaves no room for a floor")
}

func TestIdleProcessGivesItsMemoryBackOnce(t *testing.T) {
	var q quiet
	cycles := uint64(0)
	for i, step := range []struct {
		collections uint64
		free        bool
	}{{100, false}, {100, false}, {0, true}, {1, false}, {2, false}, {50, false}, {1, true}} {
		cycles += step.collections
		require.Equal(t, step.free, q.begins(cycles), "step %d", i)
	}
}
