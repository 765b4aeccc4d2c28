package logs

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryLogReplaysWhatItAcknowledged(t *testing.T) {
	for _, e := range All() {
		t.Run(e.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			l, err := e.Open(dir, Options{})
			require.NoError(t, err)
			want := appendSome(t, l)
			require.NoError(t, l.Close())

			l, err = e.Open(dir, Options{})
			require.NoError(t, err)
			var got []string
			require.NoError(t, l.Replay(func(d []byte) error { got = append(got, string(d)); return nil }))
			require.NoError(t, l.Close())
			slices.Sort(got) // writers race for their place
			slices.Sort(want)
			require.Equal(t, want, got)
		})
	}
}

// appendSome writes from eight goroutines, then two batches from one.
func appendSome(t *testing.T, l Log) []string {
	t.Helper()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		want []string
	)
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				d := fmt.Sprintf("%d/%d/%0*d", w, i, i*7, 1)
				if err := l.Append([]byte(d)); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want = append(want, d)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for b := range 2 {
		var batch [][]byte
		for i := range 64 {
			d := fmt.Sprintf("batch %d/%d", b, i)
			batch = append(batch, []byte(d))
			want = append(want, d)
		}
		require.NoError(t, l.AppendBatch(batch))
	}
	return want
}

func TestGroupWritesOneGroupForAllWaiters(t *testing.T) {
	entered, release := make(chan int), make(chan struct{})
	g := NewGroup(
		func(into *[]byte, d []byte) { *into = append(*into, d...) },
		func(b []byte) error { entered <- len(b); <-release; return nil },
		func(b *[]byte) { *b = (*b)[:0] })
	var wg sync.WaitGroup
	write := func() { wg.Go(func() { require.NoError(t, g.Append([]byte{1})) }) }
	write()
	require.Equal(t, 1, <-entered)
	for range 10 {
		write()
	}
	for { // until all ten have joined the open group
		g.mu.Lock()
		n := g.cur.size
		g.mu.Unlock()
		if n == 10 {
			break
		}
	}
	release <- struct{}{}
	require.Equal(t, 10, <-entered)
	release <- struct{}{}
	wg.Wait()
	g.Close()
	require.ErrorIs(t, g.Append([]byte{1}), errClosed)
}

func TestPickNamesTheKnownLogs(t *testing.T) {
	_, err := Pick([]string{"raw", "nosuch"})
	require.ErrorContains(t, err, `no log named "nosuch"; have raw`)
}
