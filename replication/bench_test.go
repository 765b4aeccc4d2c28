package replication

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/hashicorp/raft"
)

// BenchmarkUpdate commits 1 KiB on three members in one process: real disk, transport in memory.
func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			leader, closeAll := benchFleet(b)
			defer closeAll()
			defer b.StopTimer()
			value := make([]byte, 1024)
			var n atomic.Uint64
			b.SetBytes(int64(len(value)))
			b.SetParallelism(max(1, writers/2))
			b.ReportAllocs()
			b.ResetTimer()
			write := func() {
				key := fmt.Appendf(nil, "%012d", n.Add(1))
				_, err := leader.Update(context.Background(), func(tx *engine.Tx) error { return tx.Put("t", key, value) })
				if err != nil {
					b.Error(err)
				}
			}
			if writers == 1 {
				for range b.N {
					write()
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					write()
				}
			})
		})
	}
}

func benchFleet(b *testing.B) (*engine.Store, func()) {
	dir, err := os.MkdirTemp("", "replication")
	if err != nil {
		b.Fatal(err)
	}
	var members []raft.Server
	var transports []*raft.InmemTransport
	for i := range 3 {
		id := fmt.Sprintf("n%d", i)
		addr, t := raft.NewInmemTransport(raft.ServerAddress(id))
		for _, o := range transports {
			o.Connect(addr, t)
			t.Connect(o.LocalAddr(), o)
		}
		transports = append(transports, t)
		members = append(members, raft.Server{ID: raft.ServerID(id), Address: addr})
	}
	// The in-memory transport has no fast path for heartbeats: behind a long write they look late.
	timing := Fast()
	timing.Heartbeat, timing.Election, timing.Lease = 5*time.Second, 5*time.Second, 5*time.Second
	var stores []*engine.Store
	var nodes []*Node
	for i, m := range members {
		node, err := New(Options{ID: string(m.ID), Transport: transports[i], Members: members, Timing: timing})
		if err != nil {
			b.Fatal(err)
		}
		s, err := engine.Open(filepath.Join(dir, string(m.ID)), engine.Options{Committer: node.Start})
		if err != nil {
			b.Fatal(err)
		}
		stores, nodes = append(stores, s), append(nodes, node)
	}
	for {
		for i, n := range nodes {
			if n.IsLeader() {
				return stores[i], func() {
					for _, s := range stores {
						_ = s.Close()
					}
					_ = os.RemoveAll(dir)
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}
