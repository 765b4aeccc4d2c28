package config

import (
	"log/slog"
	"time"
)

// Off is the value of an address setting that switches its listener off.
const Off = "off"

// Config is the complete configuration of one process. The zero value is not useful: use [Default] or [Load].
type Config struct {
	DataDir string // directory of the store; never empty after Load
	Server  Server
	MCP     MCP
	Auth    Auth
	Limits  Limits
	Audit   Audit
	Tracing Tracing
	Storage Storage
	Log     Log
	Backup  Backup
	Cluster Cluster

	origins map[string]Origin
}

// Server holds the HTTP listeners.
type Server struct {
	Listen          string        // host:port of /mcp, /health and /ready, or Off
	TCPListen       string        // host:port of MCP as lines over TCP, or Off
	MetricsListen   string        // host:port of /metrics, or Off
	ShutdownTimeout time.Duration // upper bound of a graceful stop
	AllowedHosts    []string      // extra Host header values that /mcp accepts
	AllowedOrigins  []string      // Origin header values that /mcp accepts
	TLS             TLS           // of the main listener and of raw TCP
}

// TLS names the files of a certificate; both are empty or none is.
type TLS struct {
	CertFile string
	KeyFile  string
}

// MCP holds the limits of the protocol runtime.
type MCP struct {
	MaxMessageBytes int64         // largest JSON-RPC message, 1 KiB..100 MiB
	SessionTimeout  time.Duration // an idle session is forgotten after this
	EvictAfter      time.Duration // an idle session is kept on disk only after this
	EventTTL        time.Duration // life of a stream's events after the last one
	StreamEvents    int64         // events kept of one call's stream
	StreamAfter     time.Duration // a call that takes longer is answered by a stream
	Tasks           Tasks
}

// Tasks holds the limits of durable tasks.
type Tasks struct {
	Workers    int64         // handlers at once
	Queue      int64         // tasks that wait for a worker
	Unfinished int64         // tasks that have not ended
	WaitGrace  time.Duration // how long a waiting handler stays in memory
	TTL        time.Duration // a result is kept for this long
	TimeLimit  time.Duration // of the running time, for tools without a limit of their own
	InputLimit time.Duration // longest wait for an answer
	Lease      time.Duration // a member silent for so long loses its tasks to the others

	QueuePerPrincipal, UnfinishedPerPrincipal int64 // 0: a quarter
}

// Storage holds the limits of the storage engine. Sizes are bytes.
type Storage struct {
	SegmentSize     int64
	MemTableSize    int64
	MaxUnflushed    int64
	FlushInterval   time.Duration
	RetainLog       int64
	MaxPending      int64
	MaxPendingBytes int64
	MinFreeDisk     int64
	MaxValueBytes   int64
	MaxKeyBytes     int64
	DataKeyFile     string // file that holds the at-rest key; empty: none
}

// Log holds the settings of the process's own log, which goes to stderr.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// Origin says where the value of a setting came from.
type Origin struct {
	Kind string // "default", "file", "environment" or "flag"
	Name string // the file with its line, the variable, or the flag; empty for a default
}

// String renders the origin for a person, for example "file erlmcp.yaml:4".
func (o Origin) String() string {
	if o.Name == "" {
		return o.Kind
	}
	return o.Kind + " " + o.Name
}

// Origin reports where the value of key came from. An unknown key has the origin of a default.
func (c *Config) Origin(key string) Origin {
	if o, ok := c.origins[key]; ok {
		return o
	}
	return Origin{Kind: "default"}
}

// IsSet reports whether key was given by a file, the environment or a flag, even if to its default value.
func (c *Config) IsSet(key string) bool {
	_, ok := c.origins[key]
	return ok
}

// Default returns the built-in configuration. DataDir is left empty, because its default depends on the environment:
// Load fills it in.
func Default() *Config {
	c := &Config{origins: map[string]Origin{}}
	for _, s := range settings {
		if err := s.set(c, s.def); err != nil {
			// Unreachable: TestEveryDefaultIsAccepted sets every default through the same function.
			panic("config: default of " + s.key + " is refused: " + err.Error())
		}
	}
	return c
}

// Value is one line of the effective configuration.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Values lists every setting with its effective value and its origin, in the order of the table.
func (c *Config) Values() []Value {
	out := make([]Value, 0, len(settings))
	for _, s := range settings {
		out = append(out, Value{Key: s.key, Value: s.show(c), Origin: c.Origin(s.key).String()})
	}
	return out
}
