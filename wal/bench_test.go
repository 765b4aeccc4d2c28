package wal

import (
	"fmt"
	"os"
	"testing"
)

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{128, 1024} {
		for _, writers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("size=%d/writers=%d", size, writers), func(b *testing.B) {
				dir, err := os.MkdirTemp("", "wal")
				if err != nil {
					b.Fatal(err)
				}
				defer os.RemoveAll(dir)
				l, err := Open(dir, Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				data := payload(1, size)
				b.ReportAllocs()
				b.SetBytes(int64(size))
				b.SetParallelism(max(1, writers/2))
				b.ResetTimer()
				n := 0
				if writers == 1 {
					for ; n < b.N; n++ {
						if _, err := l.Append(Entry{Type: 1, Data: data}); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := l.Append(Entry{Type: 1, Data: data}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
