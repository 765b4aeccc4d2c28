package replication

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// recent are the newest entries of the log as raft gave them, for raft reads each of them again: to send it to every other member, and to
// apply it. Reading them from the log would copy them each time. Their data is shared and never changed. Safe for concurrent use.
type recent struct {
	limit int // bytes of data

	mu    sync.RWMutex
	slots []raft.Log // entry i is in slot i % len
	first uint64     // oldest entry that is here
	next  uint64     // behind the newest; first == next: none
	bytes int
}

// recentEntries bounds the slots: a few of raft's largest messages.
const recentEntries = 4096

func newRecent(limit int) *recent { return &recent{limit: limit} }

// put takes entries that are durable, ascending without a gap.
func (r *recent) put(logs []*raft.Log) {
	if r.limit < 0 || len(logs) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.slots == nil {
		r.slots = make([]raft.Log, recentEntries)
	}
	if logs[0].Index != r.next {
		r.clear()
		r.first, r.next = logs[0].Index, logs[0].Index
	}
	for _, l := range logs {
		if r.next-r.first == recentEntries {
			r.drop()
		}
		s := &r.slots[r.next%recentEntries]
		*s = *l
		if s.Type == raft.LogCommand && len(s.Extensions) == 0 {
			s.AppendedAt = time.Time{} // the log does not keep it either
		}
		r.next++
		for r.bytes += len(l.Data); r.bytes > r.limit && r.first < r.next; {
			r.drop()
		}
	}
}

// drop forgets the oldest. mu is held.
func (r *recent) drop() {
	s := &r.slots[r.first%recentEntries]
	r.bytes -= len(s.Data)
	*s = raft.Log{}
	r.first++
}

// clear forgets everything. mu is held.
func (r *recent) clear() {
	for r.first < r.next {
		r.drop()
	}
}

// remove forgets the entries from lo to hi, both included, and whatever is on the far side of them.
func (r *recent) remove(lo, hi uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if lo <= r.first {
		for r.first < r.next && r.first <= hi {
			r.drop()
		}
		return
	}
	for r.next > lo {
		r.next--
		s := &r.slots[r.next%recentEntries]
		r.bytes -= len(s.Data)
		*s = raft.Log{}
	}
}

// get copies the entry into l, sharing its data.
func (r *recent) get(index uint64, l *raft.Log) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if index < r.first || index >= r.next {
		return false
	}
	*l = r.slots[index%recentEntries]
	return true
}
