package stores

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryStoreReturnsWhatItAcknowledged(t *testing.T) {
	for _, e := range engines {
		t.Run(e.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			s, err := e.Open(dir, Options{})
			require.NoError(t, err)
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for i := range 10 {
						key := fmt.Appendf(nil, "%d%02d", w, i)
						if err := s.Put(key, append([]byte("v"), key...)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			require.NoError(t, s.PutBatch([][]byte{[]byte("x"), []byte("y")}, [][]byte{[]byte("vx"), []byte("vy")}))
			require.NoError(t, s.Close())

			s, err = e.Open(dir, Options{})
			require.NoError(t, err)
			n := 0
			require.NoError(t, s.Scan(func(k, v []byte) error {
				n++
				require.Equal(t, "v"+string(k), string(v))
				return nil
			}))
			require.Equal(t, 42, n)
			require.NoError(t, s.Close())
		})
	}
}
