package wal

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"time"
)

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// syncBuckets: bucket i counts fdatasync calls that took less than 2^i × 16 µs;
// the last one holds everything from about 8 s on.
const syncBuckets = 20

type counters struct {
	appends, batches, bytes, rotations atomic.Uint64
	syncNanos, maxSyncNanos            atomic.Uint64
	hist                               [syncBuckets]atomic.Uint64
}

func (c *counters) synced(d time.Duration, bytes, entries int) {
	c.appends.Add(uint64(entries))
	c.batches.Add(1)
	c.bytes.Add(uint64(bytes))
	n := uint64(max(d, 0))
	c.syncNanos.Add(n)
	for old := c.maxSyncNanos.Load(); n > old && !c.maxSyncNanos.CompareAndSwap(old, n); old = c.maxSyncNanos.Load() {
	}
	c.hist[min(bits.Len64(n/16_000), syncBuckets-1)].Add(1)
}

// Stats are counters since Open and sizes now.
type Stats struct {
	Appends   uint64 // entries made durable
	Batches   uint64 // group commits, one fdatasync each
	Bytes     uint64 // written, with framing
	Rotations uint64
	// SyncNanos is the total time spent in fdatasync, MaxSyncNanos the longest.
	SyncNanos, MaxSyncNanos uint64
	// SyncHistogram[i] counts fdatasync calls below 2^i × 16 µs (and not below
	// 2^(i-1) × 16 µs); the last bucket is open.
	SyncHistogram [syncBuckets]uint64

	FirstIndex, LastIndex uint64
	Segments              int   // in use
	BytesOnDisk           int64 // of segments in use and the prepared one
	PendingBytes          int   // waiting to be encoded
	Prepared              bool  // the next segment is ready
	Failed                bool
}

// Stats returns a snapshot.
func (l *Log) Stats() Stats {
	c := &l.stats
	s := Stats{
		Appends: c.appends.Load(), Batches: c.batches.Load(), Bytes: c.bytes.Load(), Rotations: c.rotations.Load(),
		SyncNanos: c.syncNanos.Load(), MaxSyncNanos: c.maxSyncNanos.Load(),
		FirstIndex: l.FirstIndex(), LastIndex: l.LastIndex(), Failed: l.Err() != nil,
	}
	for i := range c.hist {
		s.SyncHistogram[i] = c.hist[i].Load()
	}
	l.idx.RLock()
	s.Segments = len(l.segments)
	l.idx.RUnlock()
	l.mu.Lock()
	s.PendingBytes = l.queued
	l.mu.Unlock()
	l.keep.mu.Lock()
	s.Prepared = l.keep.prepared != nil
	l.keep.mu.Unlock()
	s.BytesOnDisk = int64(s.Segments) * l.id.segmentSize
	if s.Prepared {
		s.BytesOnDisk += l.id.segmentSize
	}
	return s
}
