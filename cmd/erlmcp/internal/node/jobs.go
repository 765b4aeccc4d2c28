package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/tcps"
)

// slaCheck is how often the ledger is searched for late security orders.
const slaCheck = time.Minute

// startJobs lets run what the server does without being asked; stopJobs ends it.
func (n *Node) startJobs(p *parts) {
	ctx, cancel := context.WithCancel(context.Background())
	var jobs sync.WaitGroup
	jobs.Go(func() { raiseBreaches(ctx, p.ledger, time.Tick(slaCheck), n.log.With("component", "ledger")) })
	if p.backups != nil {
		jobs.Go(func() { p.backups.Run(ctx) })
		n.log.Info("backups are scheduled", "repository", p.backups.Target().String())
	}
	n.endJobs = func() { cancel(); jobs.Wait() }
}

func (n *Node) stopJobs() {
	if n.endJobs != nil {
		n.endJobs()
	}
}

// raiseBreaches raises an andon event for each security order whose deadline has passed, at every tick until ctx ends. Every member of
// a cluster asks; the ledger raises one event per order. A failure is logged when it begins, and tried again at the next tick.
func raiseBreaches(ctx context.Context, ledger *tcps.Ledger, tick <-chan time.Time, log *slog.Logger) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		limited, cancel := context.WithTimeout(ctx, slaCheck)
		events, err := ledger.RaiseSLABreaches(limited)
		cancel()
		if err != nil && !failing && ctx.Err() == nil {
			log.Warn("late security orders are not found at the moment", "error", err)
		}
		failing = err != nil
		for _, e := range events {
			log.Warn("a security order is late", "order", e.RelatedWorkOrderID, "andon", e.EventID)
		}
	}
}
