package node

import (
	"context"
	"fmt"
	"math"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/internal/version"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/wal"
)

// Thresholds of the runbooks' quick reference: yellow from the first number, red above the second.
const (
	queueYellow, queueRed             = 100, 1000
	connectionsYellow, connectionsRed = 1000, 5000
	memoryYellow, memoryRed           = 500 << 20, 1 << 30
)

// vitals are the measurements that health is judged by.
type vitals struct {
	phase        admin.Phase
	storeErr     error // why the store failed; nil: it works
	store        engine.Stats
	log          wal.Stats
	mcp          mcp.Stats
	ledger       *admin.Ledger // nil: could not be read
	ledgerErr    error
	minFreeDisk  uint64
	maxUnflushed int64
	memory       uint64 // bytes the process holds
	now          time.Time
	backup       *backup.Status // nil: not configured
	maxProofAge  time.Duration
	drills       bool
	certificates *certificates // nil: not a member of a cluster
}

// certificates are when a member's ends, and that of its cluster's authority.
type certificates struct {
	own, authority time.Time
	warnings       []string
}

// Health measures now and judges.
func (n *Node) Health(ctx context.Context) admin.Health {
	h := judge(n.measure(ctx))
	h.Version, h.Timestamp = version.String(), n.o.Now().UTC()
	return h
}

func (n *Node) measure(ctx context.Context) vitals {
	v := vitals{
		phase: n.currentPhase(), memory: processMemory(),
		minFreeDisk: uint64(n.cfg.Storage.MinFreeDisk), maxUnflushed: n.cfg.Storage.MaxUnflushed,
	}
	v.now = n.o.Now()
	if n.member != nil {
		c := new(certificates)
		c.own, c.authority, c.warnings = n.member.Certificates()
		v.certificates = c
	}
	p := n.parts.Load()
	if p == nil {
		return v
	}
	v.storeErr = storeError(p.store)
	v.store, v.log, v.mcp = p.store.Stats(), p.store.Log().Stats(), p.runtime.Stats()
	v.ledger, v.ledgerErr = ledgerSummary(ctx, p.ledger)
	v.backup, v.maxProofAge, v.drills = p.backupStatus(), n.cfg.Backup.MaxProofAge, n.cfg.Backup.Drill != config.Off
	return v
}

// storeError returns why the store failed, nil while it works.
func storeError(s *engine.Store) error {
	select {
	case <-s.Failed():
		return s.Err()
	default:
		return nil
	}
}

// judge turns measurements into levels. It is a pure function.
func judge(v vitals) admin.Health {
	h := admin.Health{Status: admin.Green, Phase: v.phase, Components: map[string]admin.Component{}}
	add := func(name string, level admin.Level, value any, format string, args ...any) {
		h.Components[name] = admin.Component{Status: level, Message: fmt.Sprintf(format, args...), Value: value}
		h.Status = admin.Worse(h.Status, level)
	}
	mib := v.memory >> 20
	add("process", level(v.memory, memoryYellow, memoryRed), mib, "%d MiB of memory", mib)
	judgeCertificates(v, add)
	if v.phase == admin.PhaseRecovering || v.phase == admin.PhaseStopping {
		add("store", admin.Yellow, nil, "%s", map[admin.Phase]string{
			admin.PhaseRecovering: "opening the store and replaying the log", admin.PhaseStopping: "stopping",
		}[v.phase])
		return h
	}
	judgeStorage(v, add)
	judgeBackup(v.backup, v.now, v.maxProofAge, v.drills, func(name string, l admin.Level, value any, format string, args ...any) {
		h.Components[name] = admin.Component{Status: l, Message: fmt.Sprintf(format, args...), Value: value}
		if l != admin.Green {
			// The server does its work: no balancer may take it out because of this.
			h.Status = admin.Worse(h.Status, admin.Yellow)
		}
	})

	connections := v.mcp.Sessions + v.mcp.Streams
	add("mcp", level(connections, connectionsYellow, connectionsRed), connections,
		"%d sessions, %d streams, %d requests in flight", v.mcp.Sessions, v.mcp.Streams, v.mcp.InFlight)

	switch {
	case v.ledgerErr != nil:
		add("ledger", admin.Red, nil, "cannot be read: %s", v.ledgerErr)
	case v.ledger != nil:
		kanban := admin.Green
		if len(v.ledger.OverLimit) > 0 {
			kanban = admin.Yellow
		}
		running := 0
		for _, n := range v.ledger.WorkInProgress {
			running += n
		}
		text := fmt.Sprintf("%d work orders in progress", running)
		if kanban != admin.Green {
			text += "; over the WIP limit: " + strings.Join(v.ledger.OverLimit, ", ")
		}
		add("kanban", kanban, running, "%s", text)
		andon, text := admin.Green, fmt.Sprintf("%d open", v.ledger.OpenAndons)
		if v.ledger.CriticalAndons > 0 {
			andon, text = admin.Yellow, fmt.Sprintf("%s, %d of them critical: the line is stopped there", text, v.ledger.CriticalAndons)
		}
		add("andon", andon, v.ledger.OpenAndons, "%s", text)
	}
	return h
}

// judgeCertificates judges the certificates between members. One that has ended lets no new connection be made.
func judgeCertificates(v vitals, add func(name string, l admin.Level, value any, format string, args ...any)) {
	c := v.certificates
	if c == nil {
		return
	}
	days := int(c.own.Sub(v.now) / (24 * time.Hour))
	switch {
	case !v.now.Before(c.own) || !v.now.Before(c.authority):
		add("certificates", admin.Red, days, "%s", strings.Join(c.warnings, "; "))
	case len(c.warnings) > 0:
		add("certificates", admin.Yellow, days, "%s", strings.Join(c.warnings, "; "))
	default:
		add("certificates", admin.Green, days, "this member's ends in %d days, that of the cluster's authority in %d", days, int(c.authority.Sub(v.now)/(24*time.Hour)))
	}
}

// judgeStorage judges log, store, queue and disk.
func judgeStorage(v vitals, add func(name string, l admin.Level, value any, format string, args ...any)) {
	if v.storeErr != nil || v.log.Failed {
		add("store", admin.Red, nil, "failed, the process is about to exit: %v", v.storeErr)
		add("wal", admin.Red, nil, "failed: a write or fsync was refused by the disk")
		return
	}
	mean := 0.0
	if v.log.Batches > 0 {
		mean = float64(v.log.SyncNanos) / float64(v.log.Batches) / 1e6
	}
	add("wal", admin.Green, v.log.LastIndex, "entries %d..%d, mean fdatasync %.2f ms", v.log.FirstIndex, v.log.LastIndex, mean)

	store, text := admin.Green, fmt.Sprintf("applied %d, flushed to %d", v.store.Applied, v.store.Durable)
	if v.store.UnflushedBytes >= v.maxUnflushed {
		store, text = admin.Yellow, text+"; commits wait for a flush (storage.max_unflushed)"
	}
	add("store", store, v.store.Applied, "%s", text)
	add("queue", level(v.store.Pending, queueYellow, queueRed), v.store.Pending, "%d transactions waiting", v.store.Pending)

	switch free := v.store.FreeDisk; {
	case free == math.MaxUint64:
		add("disk", admin.Green, nil, "free space unknown on this file system")
	case free < v.minFreeDisk:
		add("disk", admin.Red, free, "%d MiB free, below storage.min_free_disk: writes are refused, reads go on; free some space", free>>20)
	case free < 2*v.minFreeDisk:
		add("disk", admin.Yellow, free, "%d MiB free: writes stop below %d MiB", free>>20, v.minFreeDisk>>20)
	default:
		add("disk", admin.Green, free, "%d MiB free", free>>20)
	}
}

func level[T int | uint64](value, yellow, red T) admin.Level {
	switch {
	case value > red:
		return admin.Red
	case value >= yellow:
		return admin.Yellow
	}
	return admin.Green
}

// readiness says whether a request sent now would be served, writes included.
func (n *Node) readiness() readiness {
	r := readiness{Phase: n.currentPhase()}
	p := n.parts.Load()
	switch {
	case r.Phase != admin.PhaseServing || p == nil:
		r.Reason = "the server is " + string(r.Phase)
	case storeError(p.store) != nil:
		r.Reason = "the store failed"
	case n.member != nil && !n.member.HasLeader():
		r.Reason = "no leader of the cluster is known: changes are refused"
	case p.store.Stats().FreeDisk < uint64(n.cfg.Storage.MinFreeDisk):
		r.Reason = "the disk is full: writes are refused, reads go on"
	default:
		r.Ready = true
	}
	return r
}

// processMemory is what the Go runtime holds from the operating system, in bytes.
func processMemory() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}
