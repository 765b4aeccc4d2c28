package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/internal/version"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/tcps"
)

// Node answers the commands: it is an admin.Source.
var _ admin.Source = (*Node)(nil)

// Status describes the running node.
func (n *Node) Status(ctx context.Context) admin.Status {
	health := n.Health(ctx)
	s := admin.Status{
		Running: true, DataDir: n.dir, Version: version.Get(), PID: os.Getpid(),
		StartedAt: n.startedAt.UTC(), Uptime: n.o.Now().Sub(n.startedAt).Seconds(),
		Endpoints: n.endpoints(), Health: &health,
	}
	p := n.parts.Load()
	if p == nil {
		return s
	}
	log, store := p.store.Log().Stats(), p.store.Stats()
	id := p.store.Log().ID()
	s.Log = admin.Log{
		ID: hex.EncodeToString(id[:]), FirstIndex: log.FirstIndex, LastIndex: log.LastIndex,
		Segments: log.Segments, BytesOnDisk: log.BytesOnDisk, Encrypted: n.o.Key != nil,
	}
	applied, hash := p.store.StateHash()
	s.Store = admin.Store{
		AppliedIndex: applied, DurableIndex: store.Durable, StateHash: hex.EncodeToString(hash[:]), BytesOnDisk: store.StoreBytes,
		UnflushedBytes: store.UnflushedBytes, Pending: store.Pending, FreeDisk: store.FreeDisk, Commits: store.Commits,
	}
	if summary, err := ledgerSummary(ctx, p.ledger); err == nil { // an error is in the health document
		s.Ledger = summary
	}
	s.Recovery, s.Backup = recoveryOf(p), p.backupStatus()
	if runs, err := backup.Manuals(ctx, p.store); err == nil { // an error is in the health document
		s.ByHand = runs
	}
	return s
}

// Verify runs the integrity checks beside the node's work.
func (n *Node) Verify(ctx context.Context, done func(integrity.Check)) (integrity.Report, error) {
	p := n.parts.Load()
	if p == nil || n.currentPhase() != admin.PhaseServing {
		return integrity.Report{}, fmt.Errorf("the server is %s", n.currentPhase())
	}
	return integrity.Live(ctx, p.store, p.ledger, n.dir, n.o.Now, done)
}

func (n *Node) endpoints() admin.Endpoints {
	e := admin.Endpoints{Stdio: n.o.Stdio}
	if a := n.http.mainAddress; a != "" {
		base := "http://" + reachable(a)
		if n.access.certificate != nil {
			base = "https://" + reachable(a)
		}
		e.MCP, e.Health = base+"/mcp", base+"/health"
		e.WebSocket = "ws" + strings.TrimPrefix(base, "http") + "/mcp/ws"
	}
	if a := n.http.tcpAddress(); a != "" {
		e.TCP = reachable(a)
	}
	if a := n.http.metricsAddress; a != "" {
		e.Metrics = "http://" + reachable(a) + "/metrics"
	}
	return e
}

func recoveryOf(p *parts) *admin.Recovery {
	found, stats := p.store.Recovery(), p.store.Stats()
	r := &admin.Recovery{
		Created: p.created, LogEntries: found.Entries, ReplayedEntries: stats.ReplayedEntries, OpenSeconds: stats.OpenDuration.Seconds(),
	}
	if found.TornTail != nil {
		r.TornTail = found.TornTail.String()
	}
	for _, f := range found.Repairs {
		r.Repairs = append(r.Repairs, f.String())
	}
	return r
}

// ledgerSummary counts work in progress and open andons; each is a short scan of an index.
func ledgerSummary(ctx context.Context, l *tcps.Ledger) (*admin.Ledger, error) {
	all, err := l.WIPAll(ctx)
	if err != nil {
		return nil, err
	}
	s := &admin.Ledger{WorkInProgress: map[string]int{}}
	for _, w := range all {
		s.WorkInProgress[string(w.Bucket)] = w.Current
		if !w.Unlimited && w.Current > w.Limit {
			s.OverLimit = append(s.OverLimit, string(w.Bucket))
		}
	}
	slices.Sort(s.OverLimit)
	if s.OpenAndons, err = l.CountOpenAndons(ctx); err != nil {
		return nil, err
	}
	critical, err := l.ListAndons(ctx, tcps.ListAndonsInput{Severity: string(tcps.SeverityCritical), Unresolved: true, Limit: 1000})
	if err != nil {
		return nil, err
	}
	s.CriticalAndons = len(critical.Andons)
	return s, nil
}
