package node

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/internal/version"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/wal"
)

// registry holds the metrics of one node: nothing is global, so that two nodes in one process do not mix.
func (n *Node) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{node: n},
	)
	return r
}

// collector reads the counters that the packages keep anyway; a scrape costs a few microseconds and changes nothing.
type collector struct {
	node *Node
}

// Describe sends nothing, which makes the collector an unchecked one: which metrics exist depends on the phase.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m := emitter{ch}
	info := version.Get()
	m.gauge("erlmcp_build_info", "Always 1; the labels describe the build.", 1, "version", info.Version, "commit", info.Commit)
	m.gauge("erlmcp_ready", "1 when a request sent now would be served, writes included.", truth(c.node.readiness().Ready))
	v := c.node.measure(ctx)
	for name, component := range judge(v).Components {
		m.gauge("erlmcp_process_health", "1 healthy, 0.5 degraded, 0 unhealthy.", healthValue(component.Status), "component", name)
	}
	if cs := v.certificates; cs != nil {
		m.gauge("erlmcp_cluster_certificate_expires_timestamp_seconds", "When certificates between members end, Unix time.", float64(cs.own.Unix()), "of", "member")
		m.gauge("erlmcp_cluster_certificate_expires_timestamp_seconds", "When certificates between members end, Unix time.", float64(cs.authority.Unix()), "of", "authority")
	}
	if c.node.parts.Load() == nil {
		return
	}
	m.logMetrics(v.log)
	m.storeMetrics(v)
	m.mcpMetrics(v)
	m.backupMetrics(v.backup)
	if v.ledger != nil {
		for bucket, n := range v.ledger.WorkInProgress {
			m.gauge("tcps_kanban_wip_current", "Work orders in progress.", float64(n), "bucket", bucket)
		}
		m.gauge("tcps_andon_open_count", "Andon events that are not resolved.", float64(v.ledger.OpenAndons))
	}
}

// emitter sends metrics with names and labels built on the spot.
type emitter struct{ ch chan<- prometheus.Metric }

func (m emitter) gauge(name, help string, v float64, labels ...string) {
	m.send(prometheus.GaugeValue, name, help, v, labels)
}

func (m emitter) counter(name, help string, v uint64, labels ...string) {
	m.send(prometheus.CounterValue, name, help, float64(v), labels)
}

func (m emitter) send(kind prometheus.ValueType, name, help string, v float64, labels []string) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	m.ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, v, values...)
}

func (m emitter) logMetrics(s wal.Stats) {
	m.counter("erlmcp_wal_appends_total", "Log entries made durable.", s.Appends)
	m.counter("erlmcp_wal_batches_total", "Group commits, one fdatasync each.", s.Batches)
	m.counter("erlmcp_wal_bytes_total", "Bytes written to the log, with framing.", s.Bytes)
	m.counter("erlmcp_wal_rotations_total", "Log segments sealed.", s.Rotations)
	m.gauge("erlmcp_wal_first_index", "Oldest entry that is kept.", float64(s.FirstIndex))
	m.gauge("erlmcp_wal_last_index", "Newest durable entry.", float64(s.LastIndex))
	m.gauge("erlmcp_wal_segments", "Log segments in use.", float64(s.Segments))
	m.gauge("erlmcp_wal_disk_bytes", "Disk space of the log.", float64(s.BytesOnDisk))
	m.gauge("erlmcp_wal_pending_bytes", "Bytes waiting for the next group commit.", float64(s.PendingBytes))
	m.gauge("erlmcp_wal_failed", "1 after the disk refused a write or fsync.", truth(s.Failed))
	m.gauge("erlmcp_wal_fsync_max_seconds", "Longest fdatasync since the start.", float64(s.MaxSyncNanos)/1e9)

	buckets, total := map[float64]uint64{}, uint64(0)
	for i, n := range s.SyncHistogram {
		total += n
		if i < len(s.SyncHistogram)-1 {
			buckets[math.Ldexp(16e-6, i)] = total
		}
	}
	m.ch <- prometheus.MustNewConstHistogram(
		prometheus.NewDesc("erlmcp_wal_fsync_seconds", "Time of one fdatasync.", nil, nil), total, float64(s.SyncNanos)/1e9, buckets)
}

func (m emitter) storeMetrics(v vitals) {
	s := v.store
	m.counter("erlmcp_store_commits_total", "Acknowledged transactions.", s.Commits)
	m.counter("erlmcp_store_conflicts_total", "Transactions that met a concurrent change.", s.Conflicts)
	m.counter("erlmcp_store_retries_total", "Transactions run again after a conflict.", s.Retries)
	m.counter("erlmcp_store_duplicates_total", "Calls answered from a remembered idempotency key.", s.Duplicates)
	m.counter("erlmcp_store_refused_total", "Transactions refused.", s.Overloaded, "reason", "overloaded")
	m.counter("erlmcp_store_refused_total", "Transactions refused.", s.NoSpace, "reason", "no_space")
	m.counter("erlmcp_store_refused_total", "Transactions refused.", s.Rejected, "reason", "conflict_at_apply")
	m.counter("erlmcp_store_expired_rows_total", "Rows removed at their deadline.", s.Expired)
	m.counter("erlmcp_store_flushes_total", "Flushes into the sorted store.", s.Flushes)
	m.gauge("erlmcp_store_applied_index", "Newest applied log entry.", float64(s.Applied))
	m.gauge("erlmcp_store_durable_index", "Newest log entry in the sorted store; later ones are replayed at a start.", float64(s.Durable))
	m.gauge("erlmcp_store_unflushed_bytes", "Log that a restart would replay.", float64(s.UnflushedBytes))
	m.gauge("erlmcp_store_disk_bytes", "Disk space of the sorted store.", float64(s.StoreBytes))
	m.gauge("erlmcp_store_snapshots", "Versions held by running transactions.", float64(s.Versions))
	m.gauge("erlmcp_store_watchers", "Open watches.", float64(s.Watchers))
	m.gauge("erlmcp_store_index_entries", "Entries of the secondary indexes in memory.", float64(s.IndexEntries))
	m.gauge("erlmcp_store_open_seconds", "Duration of the last start of the store, replay included.", s.OpenDuration.Seconds())
	m.gauge("erlmcp_store_replayed_entries", "Log entries replayed at the last start.", float64(s.ReplayedEntries))
	m.gauge("erlmcp_queue_depth", "Transactions waiting to be committed.", float64(s.Pending), "component", "store")
	m.gauge("erlmcp_memory_bytes", "Memory held from the operating system.", float64(v.memory), "component", "process")
	if s.FreeDisk != math.MaxUint64 {
		m.gauge("erlmcp_disk_free_bytes", "Free space below the data directory.", float64(s.FreeDisk))
	}
}

func (m emitter) mcpMetrics(v vitals) {
	s := v.mcp
	m.counter("erlmcp_mcp_messages_total", "Inbound requests by kind of transport.", s.Stateless, "transport", "http_stateless")
	m.counter("erlmcp_mcp_messages_total", "Inbound requests by kind of transport.", s.Stateful, "transport", "http_session")
	m.counter("erlmcp_mcp_messages_total", "Inbound requests by kind of transport.", s.Stdio, "transport", "stdio")
	m.counter("erlmcp_mcp_messages_total", "Inbound requests by kind of transport.", s.TCP, "transport", "tcp")
	m.counter("erlmcp_mcp_messages_total", "Inbound requests by kind of transport.", s.WebSocket, "transport", "websocket")
	m.requestMetrics(s)
	m.counter("erlmcp_mcp_slow_peers_total", "Sockets closed because their peer did not read.", s.SlowPeers)
	m.gauge("erlmcp_connections", "Open connections by kind.", float64(s.Sockets), "component", "mcp_sockets")
	m.counter("erlmcp_mcp_bytes_total", "Bytes of inbound messages.", s.BytesIn)
	m.counter("erlmcp_mcp_tool_calls_total", "Tool calls that reached a handler.", s.ToolCalls)
	m.counter("erlmcp_mcp_tool_errors_total", "Tool calls answered with an error.", s.ToolErrors)
	m.counter("erlmcp_mcp_auth_failures_total", "Requests refused for want of an accepted credential.", s.AuthFailures)
	m.counter("erlmcp_mcp_rate_limited_total", "Requests and connections refused because they came too fast.", s.RateLimited)
	m.counter("erlmcp_mcp_panics_total", "Handlers that panicked.", s.Panics)
	m.counter("erlmcp_mcp_resource_updates_total", "Change notifications handed out.", s.Updates)
	for code, n := range s.Refused {
		m.counter("erlmcp_mcp_refused_total", "Messages refused before a handler saw them.", n, "code", strconv.Itoa(code))
	}
	m.taskMetrics(s.Tasks)
	m.counter("erlmcp_mcp_sessions_opened_total", "HTTP sessions opened.", s.SessionsOpened)
	m.counter("erlmcp_mcp_sessions_ended_total", "HTTP sessions that ended.", s.SessionsEnded)
	m.counter("erlmcp_mcp_sessions_revived_total", "HTTP sessions connected again from the store.", s.SessionsRevived)
	m.counter("erlmcp_mcp_calls_interrupted_total", "Calls whose clients are told that a restart ended them.", s.Interrupted)
	m.counter("erlmcp_mcp_events_total", "Events of streams committed.", s.Events)
	m.counter("erlmcp_mcp_events_replayed_total", "Events sent again to clients that resumed.", s.Replayed)
	m.counter("erlmcp_mcp_resumptions_total", "Streams resumed by Last-Event-ID.", s.Resumptions)
	m.gauge("erlmcp_mcp_sessions", "HTTP sessions that exist, in memory or not.", float64(s.StoredSessions))
	m.gauge("erlmcp_mcp_subscriptions", "Resources that somebody subscribes to.", float64(s.Subscriptions))
	m.gauge("erlmcp_connections", "Open connections by kind.", float64(s.Sessions), "component", "mcp_sessions")
	m.gauge("erlmcp_connections", "Open connections by kind.", float64(s.Streams), "component", "mcp_streams")
	m.gauge("erlmcp_connections", "Open connections by kind.", float64(s.InFlight), "component", "mcp_requests")
}

func (m emitter) taskMetrics(s mcp.TaskStats) {
	for status, n := range map[mcp.TaskStatus]uint64{mcp.TaskCompleted: s.Completed, mcp.TaskFailed: s.Failed, mcp.TaskCancelled: s.Cancelled} {
		m.counter("erlmcp_tasks_ended_total", "Durable tasks that ended, by status.", n, "status", string(status))
	}
	m.counter("erlmcp_tasks_created_total", "Durable tasks created.", s.Created)
	m.counter("erlmcp_tasks_expired_total", "Results of tasks removed after their time.", s.Expired)
	m.counter("erlmcp_tasks_retried_total", "Failed attempts that got another one.", s.Retried)
	m.counter("erlmcp_tasks_suspended_total", "Waiting handlers that ended, to be started again when the wait is over.", s.Suspended)
	m.counter("erlmcp_tasks_resumed_total", "Handlers started again after an interruption or a long wait.", s.Resumed)
	m.counter("erlmcp_tasks_refused_total", "Tasks refused for want of room.", s.Overloaded)
	m.counter("erlmcp_task_steps_total", "Finished steps made durable.", s.Steps)
	m.counter("erlmcp_task_steps_replayed_total", "Steps answered from the journal.", s.Replayed)
	m.counter("erlmcp_task_questions_total", "Input requests of tasks made durable.", s.Questions)
	for state, n := range map[string]int{"queued": s.Queued, "running": s.Running, "waiting": s.Waiting} {
		m.gauge("erlmcp_tasks", "Unfinished durable tasks, by what they do.", float64(n), "state", state)
	}
	m.gauge("erlmcp_queue_depth", "Transactions waiting to be committed.", float64(s.Queued), "component", "tasks")
}

// requestMetrics has labels that clients cannot multiply: methods are those of MCP or "other", tools those that ever answered.
func (m emitter) requestMetrics(s mcp.Stats) {
	for _, method := range s.Methods {
		for i, outcome := range mcp.Outcomes {
			if n := method.Outcomes[i]; n > 0 {
				m.counter("erlmcp_mcp_requests_total", "Requests that reached a handler, by method and outcome.", n, "method", method.Method, "outcome", outcome)
			}
		}
		buckets, total := map[float64]uint64{}, uint64(0)
		for i, n := range method.Latency {
			total += n
			if i < len(mcp.LatencyBuckets) {
				buckets[mcp.LatencyBuckets[i].Seconds()] = total
			}
		}
		m.ch <- prometheus.MustNewConstHistogram(prometheus.NewDesc("erlmcp_mcp_request_seconds", "Time of a handler.", []string{"method"}, nil),
			total, method.Seconds, buckets, method.Method)
	}
	for _, tool := range s.Tools {
		m.counter("erlmcp_mcp_tool_results_total", "Tool calls that ended with a result.", tool.Calls-tool.Errors, "tool", tool.Tool, "outcome", "ok")
		m.counter("erlmcp_mcp_tool_results_total", "Tool calls that ended with a result.", tool.Errors, "tool", tool.Tool, "outcome", "tool_error")
	}
	m.counter("erlmcp_mcp_audit_records_total", "Audit records committed.", s.Audit.Written)
	m.gauge("erlmcp_mcp_audit_waiting", "Audit records not yet committed.", float64(s.Audit.Waiting))
	m.gauge("erlmcp_mcp_audit_lag_seconds", "How long the oldest of them has been waiting.", s.Audit.Lag.Seconds())
	m.gauge("erlmcp_mcp_audit_failing", "1 while the store refuses audit records.", truth(s.Audit.Failing))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func healthValue(l admin.Level) float64 {
	switch l {
	case admin.Green:
		return 1
	case admin.Yellow:
		return 0.5
	}
	return 0
}
