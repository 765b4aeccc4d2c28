package cluster

import (
	"context"
	"time"

	"github.com/erlmcp/erlmcp/replication"
	"github.com/hashicorp/raft"
)

// DamagedRows is why a store is replaced whose files of rows are damaged: what met the damage got an error, and more may follow. The
// log is sound, or the store would not have opened, so this member knows its votes and stays a voter.
func DamagedRows(what string) string { return "its files of rows are damaged: " + what }

// replace gives up a store with damaged rows, unless the others could not do without this member meanwhile; true: it did. what is "" when
// nothing is damaged.
func (m *Member) replace(ctx context.Context, s replication.Status, what string) bool {
	if what == "" || !m.spared(ctx, s) {
		return false
	}
	m.RebuildNow(DamagedRows(what))
	return true
}

// spared reports whether the others are a majority of the voters without this member: all that are needed answer, serve, and are not
// damaged themselves, or come later in the order in which damaged ones are replaced.
func (m *Member) spared(ctx context.Context, s replication.Status) bool {
	m.look(ctx, s, time.Time{})
	m.mu.Lock()
	defer m.mu.Unlock()
	voters, well := 0, 0
	for _, p := range s.Members {
		if p.Suffrage != raft.Voter {
			continue
		}
		voters++
		name := string(p.ID)
		see := m.seen[name]
		if name == m.name || see.err != nil || see.pong.State != "Leader" && see.pong.State != "Follower" {
			continue
		}
		if !see.pong.Damaged || m.name < name {
			well++
		}
	}
	return well > voters/2
}
