package cluster

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// virgin reports whether this member is a founder (Found) that has not begun: no store, nobody has told it who the others are.
func (m *Member) virgin() bool {
	m.mu.Lock()
	founded := m.me.First || len(m.me.Founders) > 0
	m.mu.Unlock()
	if founded {
		return false
	}
	_, err := os.Stat(filepath.Join(m.dir, "FORMAT"))
	return m.o.Expect > 1 && os.IsNotExist(err)
}

// found is how members that were all given the same secret and list become a cluster: the one with the first name begins when
// it sees Options.Expect founders, itself included, none of which has begun; the others begin with its list as long as
// that cluster has not done anything yet. It returns true when this member may open an empty store with that list, false when
// there is a cluster at work that it has to be let into.
func (m *Member) found(ctx context.Context) (bool, error) {
	m.log.Info("waiting for the other founders of the cluster", "expect", m.o.Expect)
	for {
		peers := m.peers()
		virgins := []peer{{m.name, m.advertise}}
		for _, p := range peers {
			pctx, cancel := context.WithTimeout(ctx, time.Second)
			var a pong
			err := m.tell(pctx, p, "/ping", struct{}{}, &a)
			cancel()
			switch {
			case err != nil:
			case a.Virgin:
				virgins = append(virgins, peer{a.Name, p})
			case slices.ContainsFunc(a.Founders, func(f peer) bool { return f.Name == m.name }):
				return true, m.change(func(me *member) { me.Founders = a.Founders })
			case a.Last > 1:
				return false, nil // a cluster at work
			}
		}
		slices.SortFunc(virgins, func(a, b peer) int { return strings.Compare(a.Name, b.Name) })
		if len(virgins) >= m.o.Expect && virgins[0].Name == m.name {
			founders := virgins[:m.o.Expect]
			return true, m.change(func(me *member) { me.Founders = founders })
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}
