package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func TestWithoutCompactionTablesStayAsTheyAreAndWritesGoOn(t *testing.T) {
	o := small(vfs.NewMem())
	o.NoCompaction = true
	s := open(t, o)
	const flushes = 30 // more than what otherwise holds writes back
	for i := range flushes {
		put(t, s, "t", "key", fmt.Sprint(i))
		_, err := s.Checkpoint()
		require.NoError(t, err)
	}
	m := s.db.Metrics()
	require.EqualValues(t, flushes, m.Levels[0].TablesCount)
	require.Zero(t, m.Compact.Count)
	require.Equal(t, fmt.Sprint(flushes-1), get(t, s, "t", "key"))
	require.NoError(t, s.Close())

	o.NoCompaction = false
	s = open(t, o)
	require.Eventually(t, func() bool { return s.db.Metrics().Compact.Count > 0 }, 10*time.Second, time.Millisecond, "a store that stays open is compacted")
	require.Equal(t, fmt.Sprint(flushes-1), get(t, s, "t", "key"))
}
