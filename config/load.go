package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	envPrefix = "ERLMCP_"

	// ConfigFileEnv names the configuration file when no --config flag does.
	ConfigFileEnv = envPrefix + "CONFIG"

	// DataKeyEnv holds the at-rest key.
	DataKeyEnv = envPrefix + "DATA_KEY"
)

// Assignment is one setting given on the command line.
type Assignment struct {
	Flag  string // as the user wrote it, for error messages: "--listen", "--set"
	Key   string
	Value string
}

// Sources is what Load reads. All fields may be empty.
type Sources struct {
	File    string       // path of the YAML file; empty: $ERLMCP_CONFIG, or none
	Environ []string     // "NAME=value" pairs, normally os.Environ()
	Flags   []Assignment // applied in order

	ReadFile func(path string) ([]byte, error) // default os.ReadFile
}

// Load merges the sources over the defaults, strongest last, and checks the result. On failure the error is of type
// Errors and lists every problem that was found; nothing is applied in part.
func Load(src Sources) (*Config, error) {
	if src.ReadFile == nil {
		src.ReadFile = os.ReadFile
	}
	env := environment(src.Environ)
	l := loader{cfg: Default()}

	if src.File == "" {
		src.File = env[ConfigFileEnv]
	}
	if src.File != "" {
		l.file(src.File, src.ReadFile)
	}
	l.environ(src.Environ)
	for _, a := range src.Flags {
		l.assign(a.Key, a.Value, Origin{Kind: "flag", Name: a.Flag})
	}
	if len(l.errs) == 0 {
		l.finish(env)
	}
	if len(l.errs) > 0 {
		return nil, l.errs
	}
	return l.cfg, nil
}

// loader collects settings and problems while the sources are read.
type loader struct {
	cfg  *Config
	errs Errors
}

func (l *loader) fail(where, key, format string, args ...any) {
	l.errs = append(l.errs, &Error{Where: where, Key: key, Problem: fmt.Sprintf(format, args...)})
}

// assign gives one key its value, or records why that is not possible.
func (l *loader) assign(key, value string, from Origin) {
	where := from.String()
	if from.Kind == "file" {
		where = from.Name // compilers' form: editors jump to it
	}
	s, ok := lookup(key)
	if !ok {
		l.fail(where, key, "%s", unknownKey(key))
		return
	}
	if err := s.set(l.cfg, value); err != nil {
		l.fail(where, key, "%s", err)
		return
	}
	l.cfg.origins[key] = from
}

// unknownKey explains why a key is refused.
func unknownKey(key string) string {
	last := key[strings.LastIndexByte(key, '.')+1:]
	switch last {
	case "token", "tokens", "bearer", "client_secret":
		return "unknown key; secrets are never read from the configuration: `erlmcp token create` writes the hash of a token into the file " +
			"named by auth.token_file"
	case "data_key", "key", "password", "passphrase", "secret":
		return "unknown key; secrets are never read from the configuration: put the at-rest key into " + DataKeyEnv +
			" or into the file named by storage.data_key_file"
	}
	if isSection(key) {
		return "is a group of settings, not a setting"
	}
	var keys []string
	for _, s := range settings {
		if s.key[strings.LastIndexByte(s.key, '.')+1:] == last {
			return "unknown key; did you mean " + s.key + "?"
		}
		keys = append(keys, s.key)
	}
	if hint := didYouMean(key, keys); hint != "" {
		return "unknown key" + hint
	}
	return "unknown key; `erlmcp config print-defaults` lists the known ones"
}

// environ applies the ERLMCP_* variables. Names that belong to something else are left alone, see foreignVariable.
func (l *loader) environ(environ []string) {
	keys := make(map[string]string, len(settings))
	names := make([]string, 0, len(settings)+2)
	for _, s := range settings {
		keys[EnvName(s.key)] = s.key
		names = append(names, EnvName(s.key))
	}
	names = append(names, ConfigFileEnv, DataKeyEnv, BackupKeyEnv, SignPasswordEnv, ClusterSecretEnv)
	for _, pair := range environ {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || !strings.HasPrefix(name, envPrefix) {
			continue
		}
		if key, known := keys[name]; known {
			l.assign(key, value, Origin{Kind: "environment", Name: name})
			continue
		}
		if !foreignVariable(name) {
			l.fail("environment "+name, "", "unknown variable%s", didYouMean(name, names))
		}
	}
}

// foreignVariable recognises variables that start with ERLMCP_ and are not settings: those with a meaning of their own
// (secrets and the name of the file), those of the project's test programs, and the ones that Kubernetes adds to every container when
// a Service happens to be called "erlmcp". Refusing the last would break a deployment for the name of its Service.
func foreignVariable(name string) bool {
	switch name {
	case ConfigFileEnv, DataKeyEnv, ClusterSecretEnv, envPrefix + "CLUSTER_TOKEN", BackupKeyEnv, NewBackupKeyEnv, SignPasswordEnv, envPrefix + "PORT":
		return true
	}
	for _, prefix := range []string{"SERVICE_", "PORT_", "TEST_", "CRASH_", "FUZZ_", "SOAK_", "BENCH_", "CORRUPTION"} {
		if strings.HasPrefix(name, envPrefix+prefix) {
			return true
		}
	}
	return false
}

// environment indexes the variables; the last of two equal names wins, as in os.Getenv of a Go process.
func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	return env
}

// finish fills in what depends on the environment and checks settings against each other.
func (l *loader) finish(env map[string]string) {
	c := l.cfg
	if c.DataDir == "" {
		dir, err := defaultDataDir(env)
		if err != nil {
			l.fail("", "data_dir", "%s", err)
			return
		}
		c.DataDir = dir
	}
	if c.Storage.SegmentSize%4096 != 0 {
		l.fail(l.origin("storage.segment_size"), "storage.segment_size", "%d is not a multiple of 4096", c.Storage.SegmentSize)
	}
	// A transaction takes at most half a segment; a page or two of it is needed for everything but the value.
	if most := c.Storage.SegmentSize/2 - 8*kib; c.Storage.MaxValueBytes > most {
		l.fail(l.origin("storage.max_value_bytes"), "storage.max_value_bytes",
			"%s is too much for storage.segment_size (%s): a change takes at most half a log segment, which leaves %s for a value",
			formatSize(c.Storage.MaxValueBytes), formatSize(c.Storage.SegmentSize), formatSize(most))
	}
	if c.Storage.MaxPendingBytes < c.Storage.MaxValueBytes {
		l.fail(l.origin("storage.max_pending_bytes"), "storage.max_pending_bytes",
			"%s is less than storage.max_value_bytes (%s): the largest value could never be written",
			formatSize(c.Storage.MaxPendingBytes), formatSize(c.Storage.MaxValueBytes))
	}
	l.finishSafety()
	if a := c.Server.TCPListen; a != Off && (a == c.Server.Listen || a == c.Server.MetricsListen) && !strings.HasSuffix(a, ":0") {
		l.fail(l.origin("server.tcp_listen"), "server.tcp_listen", "%s is taken by another listener: each needs an address of its own", a)
	}
	if a := c.Server.Listen; a != Off && a == c.Server.MetricsListen && !strings.HasSuffix(a, ":0") {
		l.fail(l.origin("server.metrics_listen"), "server.metrics_listen", "%s is also server.listen: they need an address each", a)
	}
}

// origin is the place to name for a setting that is wrong in combination; a default names nothing.
func (l *loader) origin(key string) string {
	o := l.cfg.Origin(key)
	switch o.Kind {
	case "default":
		return ""
	case "file":
		return o.Name
	}
	return o.String()
}

// defaultDataDir follows the XDG base directory rules.
func defaultDataDir(env map[string]string) (string, error) {
	// The rules say that a relative XDG path is invalid and must be ignored.
	if base := env["XDG_DATA_HOME"]; filepath.IsAbs(base) {
		return filepath.Join(base, "erlmcp"), nil
	}
	if home := env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "erlmcp"), nil
	}
	return "", errors.New("no directory given and neither XDG_DATA_HOME nor HOME is set: use --data DIR")
}
