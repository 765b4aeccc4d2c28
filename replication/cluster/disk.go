package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/replication"
	"github.com/hashicorp/raft"
)

// A commit waits for the disk of the leader and for the fastest of the followers that make a majority with it: a slow disk
// costs nothing on a follower, and everything on the leader. So a leader whose disk is slow for a while, while another voter's is
// fast, hands over. (A disk that does not answer at all is replication/pace.go's business.)

const (
	slowDisk    = 50 * time.Millisecond // a write of the log takes longer than this
	fasterDisk  = 4                     // and this many times longer than on another voter
	slowFor     = time.Second           // for so long: then leadership goes there
	reliefPause = 30 * time.Second      // at most so often: all may share one bad disk, and take turns
)

// relief is what a leader remembers about its own slowness.
type relief struct {
	since time.Time // when another voter was first found fitter, without a break; zero: none is
	last  time.Time // when leadership was last given away
}

// due reports whether it is time to hand over to the voter that is fitter now, "" if none is.
func (r *relief) due(fitter string, now time.Time) bool {
	if fitter == "" {
		r.since = time.Time{}
		return false
	}
	if r.since.IsZero() {
		r.since = now
	}
	return now.Sub(r.since) >= slowFor && (r.last.IsZero() || now.Sub(r.last) >= reliefPause)
}

// fitter is the voter with the fastest disk, if that is so much faster than this leader's that leadership belongs there; "": stay.
func fitter(self string, s replication.Status, seen map[string]sighting) (name string, theirs time.Duration) {
	if s.Disk < slowDisk {
		return "", 0
	}
	for _, p := range s.Members {
		see, ok := seen[string(p.ID)]
		disk := time.Duration(see.pong.Disk)
		if string(p.ID) == self || p.Suffrage != raft.Voter || !ok || see.err != nil || see.pong.State != "Follower" ||
			see.pong.Applied+nearness < s.Commit || disk <= 0 || disk > s.Disk/fasterDisk {
			continue
		}
		if name == "" || disk < theirs {
			name, theirs = string(p.ID), disk
		}
	}
	return name, theirs
}

// relieve hands leadership over when this leader's disk is slow.
func (m *Member) relieve(ctx context.Context, node *replication.Node, s replication.Status, slow *relief) {
	m.mu.Lock()
	to, theirs := fitter(m.name, s, m.seen)
	m.mu.Unlock()
	now := m.o.Now()
	if !slow.due(to, now) {
		return
	}
	*slow = relief{last: now}
	why := fmt.Sprintf("its disk takes %v for a write, that of %s %v", s.Disk.Round(time.Millisecond), to, theirs.Round(time.Millisecond))
	m.log.Warn("the disk of this leader is slow; leadership goes to a member with a faster one", "to", to, "here", s.Disk, "there", theirs)
	m.note(Event{Kind: "handover", Old: m.name, New: to, Reason: why})
	hctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := node.HandOverTo(hctx, to); err != nil {
		m.log.Warn("leadership not handed over", "error", err)
	}
}
