package admin

import (
	"time"

	"github.com/erlmcp/erlmcp/internal/version"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// Level is the state of a component or of the whole, in the traffic-light sense of the runbooks.
type Level string

// The three levels, best first. Status texts in documents: healthy, degraded, unhealthy.
const (
	Green  Level = "healthy"
	Yellow Level = "degraded"
	Red    Level = "unhealthy"
)

// Worse returns the worse of two levels.
func Worse(a, b Level) Level {
	if a == Red || b == Red {
		return Red
	}
	if a == Yellow || b == Yellow {
		return Yellow
	}
	return Green
}

// Phase says where in its life the server is.
type Phase string

// The phases in order. A server is ready in PhaseServing only.
const (
	PhaseRecovering Phase = "recovering" // opening the store, replaying the log
	PhaseServing    Phase = "serving"
	PhaseStopping   Phase = "stopping"
	PhaseFailed     Phase = "failed" // fail-stop: the process is about to exit
)

// Component is the health of one part.
type Component struct {
	Status  Level  `json:"status"`
	Message string `json:"message"`         // what was seen; for a level other than healthy also what it means
	Value   any    `json:"value,omitempty"` // the measured value, when there is one
}

// Health is the answer of /health.
type Health struct {
	Status     Level                `json:"status"` // the worst of the components
	Phase      Phase                `json:"phase"`
	Version    string               `json:"version"`
	Components map[string]Component `json:"components"`
	Timestamp  time.Time            `json:"timestamp"`
}

// Status is everything `erlmcp status` shows.
type Status struct {
	Running   bool         `json:"running"`
	DataDir   string       `json:"data_dir"`
	Version   version.Info `json:"version"`
	PID       int          `json:"pid,omitempty"`
	StartedAt time.Time    `json:"started_at,omitzero"`
	Uptime    float64      `json:"uptime_seconds,omitempty"`
	Endpoints Endpoints    `json:"endpoints"`
	Health    *Health      `json:"health,omitempty"`
	Log       Log          `json:"log"`
	Store     Store        `json:"store"`
	Ledger    *Ledger      `json:"ledger,omitempty"`
	Recovery  *Recovery    `json:"recovery,omitempty"` // what the last start found; only of a running server

	Backup *backup.Status  `json:"backup,omitempty"`  // only of a running server with backup.repository
	ByHand []backup.Manual `json:"by_hand,omitempty"` // backups to and drills of other repositories, newest first; only of a running server
}

// Endpoints are the addresses of a running server; empty ones are switched off.
type Endpoints struct {
	MCP     string `json:"mcp,omitempty"`
	Health  string `json:"health,omitempty"`
	Metrics string `json:"metrics,omitempty"`
	Stdio   bool   `json:"stdio,omitempty"`

	WebSocket string `json:"websocket,omitempty"`
	TCP       string `json:"tcp,omitempty"` // host:port
}

// Log describes the write-ahead log.
type Log struct {
	ID          string `json:"id"`
	FirstIndex  uint64 `json:"first_index"`
	LastIndex   uint64 `json:"last_index"`
	Segments    int    `json:"segments"`
	BytesOnDisk int64  `json:"bytes_on_disk"`
	Encrypted   bool   `json:"encrypted"`

	// Of a stopped store only:
	TornTail bool     `json:"torn_tail,omitempty"` // the last write did not finish, the next start cuts it
	Damage   []string `json:"damage,omitempty"`    // `erlmcp verify` says more
}

// Store describes the engine.
type Store struct {
	AppliedIndex   uint64 `json:"applied_index"`
	DurableIndex   uint64 `json:"durable_index"` // everything up to here is in the sorted store; the rest is replayed from the log
	StateHash      string `json:"state_hash"`    // of the state at AppliedIndex
	BytesOnDisk    uint64 `json:"bytes_on_disk,omitempty"`
	UnflushedBytes int64  `json:"unflushed_bytes,omitempty"`
	Pending        int    `json:"pending,omitempty"`
	FreeDisk       uint64 `json:"free_disk,omitempty"`
	Commits        uint64 `json:"commits,omitempty"` // acknowledged since the start
}

// Ledger counts what production looks like right now.
type Ledger struct {
	WorkInProgress map[string]int `json:"work_in_progress"` // per bucket
	OverLimit      []string       `json:"over_limit,omitempty"`
	OpenAndons     int            `json:"open_andons"`
	CriticalAndons int            `json:"critical_andons"`
}

// Recovery tells what the start of the running server found.
type Recovery struct {
	Created         bool     `json:"created,omitempty"`
	LogEntries      uint64   `json:"log_entries"`
	ReplayedEntries uint64   `json:"replayed_entries"`
	TornTail        string   `json:"torn_tail,omitempty"`
	Repairs         []string `json:"repairs,omitempty"`
	OpenSeconds     float64  `json:"open_seconds"`
}
