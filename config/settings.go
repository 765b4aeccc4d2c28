package config

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

// setting is one row of the table: everything the package knows about one key.
type setting struct {
	key  string
	def  string   // as it would be written in the file
	doc  []string // comment lines of print-defaults
	list bool     // the value is a list; in the environment and in flags: separated by commas
	set  func(c *Config, v string) error
	show func(c *Config) string
}

// settings is the table of all settings, in the order of print-defaults.
var settings = slices.Concat(generalSettings, safetySettings, clusterSettings, backupSettings)

var generalSettings = []setting{
	textSetting("data_dir", "", func(c *Config) *string { return &c.DataDir },
		"Directory of the store. One process at a time may use it.",
		"Empty: $XDG_DATA_HOME/erlmcp, or ~/.local/share/erlmcp when that variable is not set.",
		"Relative paths start at the working directory of the process."),

	addressSetting("server.listen", "127.0.0.1:8080", func(c *Config) *string { return &c.Server.Listen },
		"Address of /mcp, /health and /ready. Port 0 picks a free one and prints it.",
		"With --stdio it is only opened when it is set; \"off\" (allowed with --stdio) never opens it.",
		"An address that other machines reach needs authentication (see auth), or auth.allow_anonymous."),
	addressSetting("server.tcp_listen", Off, func(c *Config) *string { return &c.Server.TCPListen },
		"Address of MCP over raw TCP, one JSON-RPC message per line, or \"off\". With authentication the first line of a",
		"connection is \"Authorization: Bearer TOKEN\". With server.tls it is TLS."),
	addressSetting("server.metrics_listen", "127.0.0.1:9090", func(c *Config) *string { return &c.Server.MetricsListen },
		"Address of Prometheus /metrics, or \"off\". With --stdio it is only opened when it is set."),
	durationSetting("server.shutdown_timeout", "5s", time.Second, 10*time.Minute,
		func(c *Config) *time.Duration { return &c.Server.ShutdownTimeout },
		"Longest graceful stop after SIGTERM or SIGINT. When it ends the process exits with what is on disk: everything",
		"acknowledged is there."),
	listSetting("server.allowed_hosts", func(c *Config) *[]string { return &c.Server.AllowedHosts },
		"Host header values that /mcp accepts besides the loopback names and the listen address (protection against DNS",
		"rebinding). Example: [mcp.example.com]"),
	listSetting("server.allowed_origins", func(c *Config) *[]string { return &c.Server.AllowedOrigins },
		"Origin header values that /mcp accepts from browsers. Example: [\"https://app.example.com\"]"),
	textSetting("server.tls.cert_file", "", func(c *Config) *string { return &c.Server.TLS.CertFile },
		"File with the certificate of server.listen and server.tcp_listen, PEM, followed by those that vouch for it.",
		"Empty: no TLS. A new certificate in the file is used within a second, or at once after SIGHUP."),
	textSetting("server.tls.key_file", "", func(c *Config) *string { return &c.Server.TLS.KeyFile },
		"File with the private key of the certificate, PEM, readable by the server only."),

	sizeSetting("mcp.max_message_bytes", "16MiB", kib, 100*mib, func(c *Config) *int64 { return &c.MCP.MaxMessageBytes },
		"Largest JSON-RPC message, over HTTP and stdio. A longer one is answered with error -32012 and dropped."),
	durationSetting("mcp.session_timeout", "30m", time.Second, 30*24*time.Hour,
		func(c *Config) *time.Duration { return &c.MCP.SessionTimeout },
		"A session without a request for this long is forgotten."),
	durationSetting("mcp.evict_after", "5m", time.Second, 30*24*time.Hour, func(c *Config) *time.Duration { return &c.MCP.EvictAfter },
		"A session without a request for this long, and without subscriptions, is kept on disk only; its next request brings it back."),
	durationSetting("mcp.event_ttl", "1h", time.Second, 30*24*time.Hour, func(c *Config) *time.Duration { return &c.MCP.EventTTL },
		"How long the events of a session's streams can be asked for again (Last-Event-ID) after the last one."),
	countSetting("mcp.stream_events", "100", 1, 100_000, func(c *Config) *int64 { return &c.MCP.StreamEvents },
		"Events kept of the stream of one call, the newest; a client that resumes behind older ones is refused. 16 MiB at most."),
	durationSetting("mcp.stream_after", "30ms", time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.MCP.StreamAfter },
		"A call of a session that takes longer is answered by an event stream, which its client can resume; quicker ones cost no",
		"commit for it."),
	countSetting("mcp.tasks.workers", "64", 1, 1<<16, func(c *Config) *int64 { return &c.MCP.Tasks.Workers },
		"Handlers of durable tasks that run at once."),
	countSetting("mcp.tasks.queue", "1000", 1, 1<<20, func(c *Config) *int64 { return &c.MCP.Tasks.Queue },
		"Tasks that may wait for a worker. One more is refused with error -32010 (overloaded) at once."),
	countSetting("mcp.tasks.unfinished", "10000", 1, 1<<24, func(c *Config) *int64 { return &c.MCP.Tasks.Unfinished },
		"Tasks that may be unfinished, those that wait for people included."),
	countSetting("mcp.tasks.queue_per_principal", "0", 0, 1<<20, func(c *Config) *int64 { return &c.MCP.Tasks.QueuePerPrincipal },
		"Of mcp.tasks.queue, how many one principal may have, so that nobody keeps the others out. 0: a quarter of it.",
		"Without authentication all clients are one principal and have the whole queue."),
	countSetting("mcp.tasks.unfinished_per_principal", "0", 0, 1<<24, func(c *Config) *int64 { return &c.MCP.Tasks.UnfinishedPerPrincipal },
		"The same of mcp.tasks.unfinished."),
	durationSetting("mcp.tasks.wait_grace", "5s", time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.MCP.Tasks.WaitGrace },
		"A task that waits for an answer longer than this, or sleeps longer, waits on disk only; its handler is started again",
		"from its journal when the wait is over. Tools that cannot be resumed wait in memory."),
	durationSetting("mcp.tasks.ttl", "1h", time.Second, 365*24*time.Hour, func(c *Config) *time.Duration { return &c.MCP.Tasks.TTL },
		"How long the result of a task is kept after its end."),
	durationSetting("mcp.tasks.time_limit", "5m", time.Second, 30*24*time.Hour, func(c *Config) *time.Duration { return &c.MCP.Tasks.TimeLimit },
		"Longest running time of a task whose tool sets none; waiting for input is not counted."),
	durationSetting("mcp.tasks.input_limit", "168h", time.Second, 365*24*time.Hour, func(c *Config) *time.Duration { return &c.MCP.Tasks.InputLimit },
		"Longest time that a task waits for an answer."),
	durationSetting("mcp.tasks.lease", "15s", 300*time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.MCP.Tasks.Lease },
		"A member of a cluster that is silent for this long loses its running tasks to the others. Too short costs work done",
		"twice, never results: what the old holder writes is refused. The same on all members; unused on a single node."),

	sizeSetting("storage.segment_size", "64MiB", 64*kib, 4*gib, func(c *Config) *int64 { return &c.Storage.SegmentSize },
		"Size of a log segment file. A multiple of 4096."),
	sizeSetting("storage.mem_table_size", "16MiB", mib, gib, func(c *Config) *int64 { return &c.Storage.MemTableSize },
		"Size of a memory table of the sorted store."),
	sizeSetting("storage.max_unflushed", "256MiB", mib, tib, func(c *Config) *int64 { return &c.Storage.MaxUnflushed },
		"Most log that a restart may have to replay. A flush starts at half of it; commits wait at all of it."),
	durationSetting("storage.flush_interval", "30s", time.Second, 24*time.Hour,
		func(c *Config) *time.Duration { return &c.Storage.FlushInterval },
		"Changes older than this are flushed into the sorted store."),
	sizeSetting("storage.retain_log", "256MiB", 0, 1024*tib, func(c *Config) *int64 { return &c.Storage.RetainLog },
		"Flushed log that is kept for audit, watches and tcpsdump. Only whole segments are recycled."),
	countSetting("storage.max_pending", "4096", 1, 1<<20, func(c *Config) *int64 { return &c.Storage.MaxPending },
		"Transactions that may wait to be committed. Above it writers get \"overloaded\" at once."),
	sizeSetting("storage.max_pending_bytes", "64MiB", 64*kib, 64*gib, func(c *Config) *int64 { return &c.Storage.MaxPendingBytes },
		"Bytes of transactions that may wait to be committed."),
	sizeSetting("storage.min_free_disk", "128MiB", 0, tib, func(c *Config) *int64 { return &c.Storage.MinFreeDisk },
		"Below this much free space writes are refused with \"no space\"; reads go on; writes resume by themselves."),
	sizeSetting("storage.max_value_bytes", "16MiB", kib, 31*mib, func(c *Config) *int64 { return &c.Storage.MaxValueBytes },
		"Largest value of a row. It must fit, with 8 KiB to spare, into half of storage.segment_size."),
	sizeSetting("storage.max_key_bytes", "1KiB", 64, 64*kib, func(c *Config) *int64 { return &c.Storage.MaxKeyBytes },
		"Largest key of a row."),
	textSetting("storage.data_key_file", "", func(c *Config) *string { return &c.Storage.DataKeyFile },
		"File with the 256-bit key that encrypts the data directory (AES-256-GCM): 32 raw bytes, 64 hex digits or base64.",
		"Empty: the environment variable ERLMCP_DATA_KEY; without that the directory is not encrypted.",
		"The key itself has no setting: secrets are never read from this file."),

	levelSetting("log.level", "info",
		"Least severe message that is logged: debug, info, warn or error. Logs go to stderr."),
	choiceSetting("log.format", "text", []string{"text", "json"}, func(c *Config) *string { return &c.Log.Format },
		"text for people, json for collectors."),
}

// lookup finds the row of a key.
func lookup(key string) (*setting, bool) {
	for i := range settings {
		if settings[i].key == key {
			return &settings[i], true
		}
	}
	return nil, false
}

// isSection reports whether key is the name of a group of settings, such as "server".
func isSection(key string) bool {
	for i := range settings {
		if strings.HasPrefix(settings[i].key, key+".") {
			return true
		}
	}
	return false
}

// EnvName returns the environment variable of a key: server.listen is ERLMCP_SERVER_LISTEN.
func EnvName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func textSetting(key, def string, at func(*Config) *string, doc ...string) setting {
	return setting{
		key: key, def: def, doc: doc,
		set: func(c *Config, v string) error {
			if strings.ContainsRune(v, 0) {
				return fmt.Errorf("must not contain a NUL character")
			}
			*at(c) = v
			return nil
		},
		show: func(c *Config) string { return *at(c) },
	}
}

func choiceSetting(key, def string, choices []string, at func(*Config) *string, doc ...string) setting {
	return setting{
		key: key, def: def, doc: doc,
		set: func(c *Config, v string) error {
			for _, choice := range choices {
				if v == choice {
					*at(c) = v
					return nil
				}
			}
			return fmt.Errorf("%q is not one of %s%s", v, strings.Join(choices, ", "), didYouMean(v, choices))
		},
		show: func(c *Config) string { return *at(c) },
	}
}

func levelSetting(key, def string, doc ...string) setting {
	names := []string{"debug", "info", "warn", "error"}
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	return setting{
		key: key, def: def, doc: doc,
		set: func(c *Config, v string) error {
			for i, name := range names {
				if v == name {
					c.Log.Level = levels[i]
					return nil
				}
			}
			return fmt.Errorf("%q is not one of %s%s", v, strings.Join(names, ", "), didYouMean(v, names))
		},
		show: func(c *Config) string { return strings.ToLower(c.Log.Level.String()) },
	}
}

func addressSetting(key, def string, at func(*Config) *string, doc ...string) setting {
	return setting{
		key: key, def: def, doc: doc,
		set: func(c *Config, v string) error {
			if v != Off {
				if err := checkAddress(v); err != nil {
					return err
				}
			}
			*at(c) = v
			return nil
		},
		show: func(c *Config) string { return *at(c) },
	}
}

// checkAddress accepts host:port with a numeric port; the host may be empty (all addresses) or a name.
func checkAddress(v string) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return fmt.Errorf("%q is not an address: write host:port, for example 127.0.0.1:8080 or [::1]:8080, or %q", v, Off)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q is not an address: the port must be a number from 0 to 65535", v)
	}
	return nil
}

func durationSetting(key, def string, lo, hi time.Duration, at func(*Config) *time.Duration, doc ...string) setting {
	return setting{
		key: key, def: def, doc: append(doc, fmt.Sprintf("Range: %s..%s.", formatDuration(lo), formatDuration(hi))),
		set: func(c *Config, v string) error {
			d, err := parseDuration(v)
			if err != nil {
				return err
			}
			if d < lo || d > hi {
				return fmt.Errorf("%s is outside its range %s..%s", v, formatDuration(lo), formatDuration(hi))
			}
			*at(c) = d
			return nil
		},
		show: func(c *Config) string { return formatDuration(*at(c)) },
	}
}

func sizeSetting(key, def string, lo, hi int64, at func(*Config) *int64, doc ...string) setting {
	return setting{
		key: key, def: def, doc: append(doc, fmt.Sprintf("Range: %s..%s.", formatSize(lo), formatSize(hi))),
		set: func(c *Config, v string) error {
			n, err := parseSize(v)
			if err != nil {
				return err
			}
			if n < lo || n > hi {
				return fmt.Errorf("%s is outside its range %s..%s", v, formatSize(lo), formatSize(hi))
			}
			*at(c) = n
			return nil
		},
		show: func(c *Config) string { return formatSize(*at(c)) },
	}
}

func countSetting(key, def string, lo, hi int64, at func(*Config) *int64, doc ...string) setting {
	return setting{
		key: key, def: def, doc: append(doc, fmt.Sprintf("Range: %d..%d.", lo, hi)),
		set: func(c *Config, v string) error {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return fmt.Errorf("%q is not a whole number", v)
			}
			if n < lo || n > hi {
				return fmt.Errorf("%d is outside its range %d..%d", n, lo, hi)
			}
			*at(c) = n
			return nil
		},
		show: func(c *Config) string { return strconv.FormatInt(*at(c), 10) },
	}
}

func listSetting(key string, at func(*Config) *[]string, doc ...string) setting {
	return setting{
		key: key, def: "", list: true, doc: doc,
		set: func(c *Config, v string) error {
			var items []string
			for item := range strings.SplitSeq(v, ",") {
				if item = strings.TrimSpace(item); item != "" {
					items = append(items, item)
				}
			}
			*at(c) = items
			return nil
		},
		show: func(c *Config) string { return strings.Join(*at(c), ",") },
	}
}
