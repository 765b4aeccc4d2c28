package engine

import (
	"sync/atomic"
	"time"
)

// Stats are counters since open and gauges of the moment.
type Stats struct {
	Applied uint64 // log index
	Durable uint64 // log index flushed into Pebble

	Commits    uint64 // transactions committed through this process
	Conflicts  uint64 // runs of a transaction that met a conflict
	Retries    uint64 // of these, run again
	Duplicates uint64 // idempotency keys answered from the record
	Rejected   uint64 // log entries refused by apply (markers)
	Overloaded uint64 // refused because the queue was full
	NoSpace    uint64 // refused because the disk was nearly full
	Expired    uint64 // rows removed after their deadline
	Flushes    uint64 // flushes asked for by the engine
	Groups     uint64 // apply groups
	Entries    uint64 // log entries applied, replay included

	Pending        int   // transactions placed and not yet applied
	PendingBytes   int64 // their size
	AsyncPending   int   // of them answered already (Async)
	UnflushedBytes int64 // log that a crash right now would have to replay
	RetainedFrom   uint64
	FreeDisk       uint64 // bytes; MaxUint64 where the file system does not say
	StoreBytes     uint64 // disk space of Pebble
	Versions       int    // snapshots held by running transactions
	Watchers       int
	IndexEntries   int

	ReplayedEntries uint64
	ReplayDuration  time.Duration // replay of the log at open
	IndexDuration   time.Duration // rebuild of the indexes at open
	OpenDuration    time.Duration // all of Open
}

type counters struct {
	commits, conflicts, retries, duplicates, rejected atomic.Uint64
	overloaded, noSpace, expired, flushes, groups     atomic.Uint64
	entries                                           atomic.Uint64
	replayed                                          uint64 // set once by Open, like the durations
	replayDuration, indexDuration, openDuration       time.Duration
}

// Stats returns a snapshot; the values are not from exactly one moment. After Close it reports the counters only.
func (s *Store) Stats() Stats {
	c := &s.stats
	st := Stats{
		Applied: s.applied.Load(), Durable: s.DurableIndex(),
		Commits: c.commits.Load(), Conflicts: c.conflicts.Load(), Retries: c.retries.Load(),
		Duplicates: c.duplicates.Load(), Rejected: c.rejected.Load(), Overloaded: c.overloaded.Load(),
		NoSpace: c.noSpace.Load(), Expired: c.expired.Load(), Flushes: c.flushes.Load(),
		Groups: c.groups.Load(), Entries: c.entries.Load(),
		Versions: int(s.snapshots.Load()), Watchers: int(s.watchers.Load()),
		ReplayedEntries: c.replayed, ReplayDuration: c.replayDuration, IndexDuration: c.indexDuration,
		OpenDuration: c.openDuration,
	}
	st.Pending, st.PendingBytes, st.AsyncPending = s.win.load()
	s.flush.mu.Lock()
	st.UnflushedBytes = s.flush.applied - s.flush.safe
	s.flush.mu.Unlock()
	if s.begin() != nil {
		return st
	}
	defer s.end()
	st.RetainedFrom = s.log.FirstIndex()
	st.FreeDisk = s.space.available()
	st.StoreBytes = s.db.Metrics().DiskSpaceUsage()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.indexes {
		st.IndexEntries += x.tree.Len()
	}
	return st
}
