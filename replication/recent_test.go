package replication

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// The newest entries in memory are always a part of the log: nothing that was removed, nothing older than what replaced it, and no
// more bytes than allowed.
func TestRecentEntriesAreAPartOfTheLog(t *testing.T) {
	const limit = 10_000
	r, rng := newRecent(limit), rand.New(rand.NewPCG(3, 4))
	log := map[uint64]byte{}
	first, next, found := uint64(1), uint64(1), 0
	for step := range 5000 {
		switch rng.IntN(10) {
		case 0: // a suffix
			lo := first + rng.Uint64N(next-first+1)
			r.remove(lo, next-1)
			for i := lo; i < next; i++ {
				delete(log, i)
			}
			next = lo
		case 1: // a prefix
			hi := first + rng.Uint64N(next-first+1)
			r.remove(first, hi)
			for i := first; i <= hi; i++ {
				delete(log, i)
			}
			first = hi + 1
			next = max(next, first)
		default:
			var logs []*raft.Log
			for range 1 + rng.IntN(20) {
				data := make([]byte, 1+rng.IntN(500))
				data[0] = byte(step)
				logs = append(logs, &raft.Log{Index: next, Type: raft.LogCommand, Data: data, AppendedAt: time.Now()})
				log[next] = byte(step)
				next++
			}
			r.put(logs)
		}
		size := 0
		for i := uint64(0); i < next+3; i++ {
			var l raft.Log
			if !r.get(i, &l) {
				continue
			}
			found++
			size += len(l.Data)
			want, ok := log[i]
			require.True(t, ok, "entry %d was removed", i)
			require.Equal(t, want, l.Data[0])
			require.Equal(t, i, l.Index)
			require.Zero(t, l.AppendedAt, "as the log returns it")
		}
		require.LessOrEqual(t, size, limit)
		require.Equal(t, r.bytes, size)
		if next > 3000 {
			r.remove(0, next)
			first, next = 1, 1
			clear(log)
		}
	}
	require.NotZero(t, found)
	many := make([]*raft.Log, recentEntries+10)
	for i := range many {
		many[i] = &raft.Log{Index: uint64(i + 1)}
	}
	r.put(many)
	require.False(t, r.get(10, new(raft.Log)))
	require.True(t, r.get(11, new(raft.Log)))
	none := newRecent(-1)
	none.put(many)
	require.False(t, none.get(11, new(raft.Log)))
}
