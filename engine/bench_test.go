package engine

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// BenchmarkUpdate measures durable transactions on a real file system: one put of 1 KiB each, blind or after a read.
func BenchmarkUpdate(b *testing.B) {
	for _, read := range []bool{false, true} {
		for _, writers := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("read=%v/writers=%d", read, writers), func(b *testing.B) {
				s, err := Open(b.TempDir(), Options{FS: vfs.Default})
				require.NoError(b, err)
				defer s.Close()
				value := make([]byte, 1024)
				for i := range value {
					value[i] = byte(rand.Uint32())
				}
				var next atomic.Int64
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for range writers {
					wg.Add(1)
					go func() {
						defer wg.Done()
						var key [16]byte
						for {
							n := next.Add(1)
							if n > int64(b.N) {
								return
							}
							binary.BigEndian.PutUint64(key[:], uint64(n)*0x9e3779b97f4a7c15)
							_, err := s.Update(bg, func(tx *Tx) error {
								if read {
									_, _ = tx.Get("t", key[:])
								}
								return tx.Put("t", key[:], value)
							})
							if err != nil {
								b.Error(err)
								return
							}
						}
					}()
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
			})
		}
	}
}
