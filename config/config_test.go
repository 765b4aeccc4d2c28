package config

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// home gives every test a default data directory.
var home = []string{"HOME=/home/op"}

func load(t *testing.T, yaml string, src Sources) (*Config, error) {
	t.Helper()
	if yaml != "" {
		src.File = "erlmcp.yaml"
		src.ReadFile = func(path string) ([]byte, error) {
			require.Equal(t, "erlmcp.yaml", path)
			return []byte(yaml), nil
		}
	}
	src.Environ = append(append([]string{}, home...), src.Environ...)
	return Load(src)
}

func TestEveryDefaultIsAccepted(t *testing.T) {
	for _, s := range settings {
		require.NoError(t, s.set(&Config{}, s.def), s.key)
		require.NotEmpty(t, s.doc, "%s has no explanation", s.key)
		require.NotNil(t, s.show, s.key)
	}
	require.NotPanics(t, func() { Default() })
}

func TestPrintDefaultsIsTheGoldenFileAndIsAccepted(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, WriteDefaults(&out))
	golden := filepath.Join("testdata", "defaults.yaml")
	if *update {
		require.NoError(t, os.WriteFile(golden, out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String(), "run `go test ./config -update` if the change is wanted")

	got, err := load(t, out.String(), Sources{})
	require.NoError(t, err)
	plain, err := load(t, "", Sources{})
	require.NoError(t, err)
	for i, v := range got.Values() {
		require.Equal(t, plain.Values()[i].Value, v.Value, "%s changed on its way through the file", v.Key)
		require.True(t, strings.HasPrefix(v.Origin, "file erlmcp.yaml:"), "%s is missing from the printed defaults", v.Key)
	}
}

func TestFlagsBeatEnvironmentBeatsFileBeatsDefaults(t *testing.T) {
	yaml := "log: {level: debug, format: json}\nserver:\n  listen: 127.0.0.1:1\n"
	c, err := load(t, yaml, Sources{
		Environ: []string{"ERLMCP_SERVER_LISTEN=127.0.0.1:2", "ERLMCP_LOG_LEVEL=warn"},
		Flags:   []Assignment{{Flag: "--listen", Key: "server.listen", Value: "127.0.0.1:3"}},
	})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:3", c.Server.Listen)
	require.Equal(t, slog.LevelWarn, c.Log.Level)
	require.Equal(t, "json", c.Log.Format)
	require.Equal(t, 5*time.Second, c.Server.ShutdownTimeout)

	require.Equal(t, "flag --listen", c.Origin("server.listen").String())
	require.Equal(t, "environment ERLMCP_LOG_LEVEL", c.Origin("log.level").String())
	require.Equal(t, "file erlmcp.yaml:1", c.Origin("log.format").String())
	require.Equal(t, "default", c.Origin("server.shutdown_timeout").String())
	require.True(t, c.IsSet("server.listen"))
	require.False(t, c.IsSet("server.metrics_listen"))
}

func TestFileMayUseTheFormsPeopleWrite(t *testing.T) {
	c, err := load(t, `
# a comment
data_dir: "./data"
server:
  allowed_hosts: [a.example, "b.example"]
  allowed_origins:
    - https://app.example
mcp:
  # nothing set here
storage:
  retain_log: 1.5 GiB
  min_free_disk: 0
  max_pending: 10
mcp.session_timeout: 1h30m
`, Sources{})
	require.NoError(t, err)
	require.Equal(t, "./data", c.DataDir)
	require.Equal(t, []string{"a.example", "b.example"}, c.Server.AllowedHosts)
	require.Equal(t, []string{"https://app.example"}, c.Server.AllowedOrigins)
	require.Equal(t, int64(3)<<29, c.Storage.RetainLog)
	require.Zero(t, c.Storage.MinFreeDisk)
	require.EqualValues(t, 10, c.Storage.MaxPending)
	require.Equal(t, 90*time.Minute, c.MCP.SessionTimeout)
}

func TestFilesWithoutSettingsAreTheDefaults(t *testing.T) {
	for _, yaml := range []string{"\n", "# only a comment\n", "---\n", "server:\n", "{}\n"} {
		_, err := load(t, yaml, Sources{})
		require.NoError(t, err, "%q", yaml)
	}
}

func TestBadSourcesAreNamedWithPlaceKeyAndRemedy(t *testing.T) {
	for _, tc := range []struct {
		name string
		yaml string
		src  Sources
		want []string // one line each, in order
	}{
		{"unknown key", "server:\n  lisen: x\n", Sources{}, []string{"erlmcp.yaml:2: server.lisen: unknown key; did you mean server.listen?"}},
		{"unknown group", "servr:\n  listen: x\n", Sources{}, []string{"erlmcp.yaml:1: servr: unknown key"}},
		{"key in the wrong group", "listen: 127.0.0.1:80\n", Sources{}, []string{"erlmcp.yaml:1: listen: unknown key; did you mean server.listen?"}},
		{"far from anything", "zebra: 1\n", Sources{}, []string{"erlmcp.yaml:1: zebra: unknown key; `erlmcp config print-defaults` lists"}},
		{"secret in the file", "storage:\n  data_key: abc\n", Sources{}, []string{"erlmcp.yaml:2: storage.data_key: unknown key; secrets are never read from the configuration"}},
		{"twice", "log:\n  level: info\n  level: warn\n", Sources{}, []string{"level"}},
		{"twice in two forms", "log.level: info\nlog:\n  level: warn\n", Sources{}, []string{"erlmcp.yaml:3: log.level: is given twice: first on line 1"}},
		{"group as value", "server: 8080\n", Sources{}, []string{"erlmcp.yaml:1: server: a group of settings must be a mapping of keys to values, not integer"}},
		{"mapping as value", "data_dir:\n  a: b\n", Sources{}, []string{"erlmcp.yaml:1: data_dir: takes one value, not a mapping"}},
		{"list as value", "data_dir: [a]\n", Sources{}, []string{"erlmcp.yaml:1: data_dir: takes one value, not a list"}},
		{"no value", "log:\n  level:\n", Sources{}, []string{"erlmcp.yaml:2: log.level: has no value"}},
		{"list at the top", "- a\n", Sources{}, []string{"erlmcp.yaml:1: the file must be a mapping of keys to values, not a list"}},
		{"alias", "data_dir: &x a\n", Sources{}, []string{"erlmcp.yaml:1: data_dir: takes one value, not an anchor or alias"}},
		{"two documents", "log:\n  level: info\n---\nlog:\n  level: info\n", Sources{}, []string{"erlmcp.yaml: has 2 YAML documents"}},
		{"not YAML", "server:\n  listen: \"x\n", Sources{}, []string{"is not valid YAML"}},
		{"NUL", "a\x00b", Sources{}, []string{"is not valid YAML: a NUL byte at offset 1"}},
		{"choice", "log:\n  format: jsn\n", Sources{}, []string{`erlmcp.yaml:2: log.format: "jsn" is not one of text, json; did you mean json?`}},
		{"level", "log:\n  level: warning\n", Sources{}, []string{`log.level: "warning" is not one of debug, info, warn, error`}},
		{"duration without unit", "server:\n  shutdown_timeout: 5\n", Sources{}, []string{`"5" has no unit: write for example 5s`}},
		{"duration out of range", "server:\n  shutdown_timeout: 1ms\n", Sources{}, []string{"1ms is outside its range 1s..10m"}},
		{"not a duration", "server:\n  shutdown_timeout: soon\n", Sources{}, []string{`"soon" is not a duration`}},
		{"size", "mcp:\n  max_message_bytes: big\n", Sources{}, []string{`"big" is not a size`}},
		{"size out of range", "mcp:\n  max_message_bytes: 101MiB\n", Sources{}, []string{"101MiB is outside its range 1KiB..100MiB"}},
		{"negative size", "mcp:\n  max_message_bytes: -1\n", Sources{}, []string{`"-1" is negative`}},
		{"size overflow", "storage:\n  retain_log: 99999999TiB\n", Sources{}, []string{`"99999999TiB" is too large`}},
		{"count", "storage:\n  max_pending: 1.5\n", Sources{}, []string{`"1.5" is not a whole number`}},
		{"count out of range", "storage:\n  max_pending: 0\n", Sources{}, []string{"0 is outside its range 1..1048576"}},
		{"address", "server:\n  listen: 8080\n", Sources{}, []string{`"8080" is not an address: write host:port`}},
		{"port", "server:\n  listen: 127.0.0.1:70000\n", Sources{}, []string{"the port must be a number from 0 to 65535"}},
		{"segment alignment", "storage:\n  segment_size: 65537\n", Sources{}, []string{"erlmcp.yaml:2: storage.segment_size: 65537 is not a multiple of 4096", "storage.max_value_bytes: 16MiB is too much"}},
		{"value larger than a segment", "storage:\n  segment_size: 1MiB\n", Sources{}, []string{"storage.max_value_bytes: 16MiB is too much for storage.segment_size (1MiB): a change takes at most half a log segment, which leaves 504KiB for a value"}},
		{"queue smaller than a value", "storage:\n  max_pending_bytes: 1MiB\n", Sources{}, []string{"erlmcp.yaml:2: storage.max_pending_bytes: 1MiB is less than storage.max_value_bytes (16MiB)"}},
		{"one address twice", "server:\n  metrics_listen: 127.0.0.1:8080\n", Sources{}, []string{"erlmcp.yaml:2: server.metrics_listen: 127.0.0.1:8080 is also server.listen"}},
		{
			"unknown variable", "",
			Sources{Environ: []string{"ERLMCP_SERVER_LISTN=x"}},
			[]string{"environment ERLMCP_SERVER_LISTN: unknown variable; did you mean ERLMCP_SERVER_LISTEN?"},
		},
		{
			"bad variable", "",
			Sources{Environ: []string{"ERLMCP_LOG_LEVEL=loud"}},
			[]string{`environment ERLMCP_LOG_LEVEL: log.level: "loud" is not one of`},
		},
		{
			"bad flag", "",
			Sources{Flags: []Assignment{{Flag: "--listen", Key: "server.listen", Value: "nope"}}},
			[]string{`flag --listen: server.listen: "nope" is not an address`},
		},
		{
			"unknown key by flag", "",
			Sources{Flags: []Assignment{{Flag: "--set", Key: "log.levle", Value: "info"}}},
			[]string{`flag --set: log.levle: unknown key; did you mean log.level?`},
		},
		{
			"group by flag", "",
			Sources{Flags: []Assignment{{Flag: "--set", Key: "log", Value: "info"}}},
			[]string{`flag --set: log: is a group of settings, not a setting`},
		},
		{
			"all problems at once", "log:\n  level: loud\nserver:\n  lisen: x\n",
			Sources{Environ: []string{"ERLMCP_LOG_FORMAT=xml"}},
			[]string{"erlmcp.yaml:2: log.level", "erlmcp.yaml:4: server.lisen", "environment ERLMCP_LOG_FORMAT"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := load(t, tc.yaml, tc.src)
			require.Error(t, err)
			require.Nil(t, c)
			var all Errors
			require.ErrorAs(t, err, &all)
			require.Len(t, all, len(tc.want), "%s", err)
			for i, want := range tc.want {
				require.Contains(t, all[i].Error(), want)
				require.NotContains(t, all[i].Error(), "\n")
			}
			var one *Error
			require.ErrorAs(t, err, &one)
		})
	}
}

func TestMissingAndUnreadableFilesAreErrors(t *testing.T) {
	_, err := Load(Sources{File: "nowhere.yaml", Environ: home})
	require.ErrorContains(t, err, "nowhere.yaml: there is no such file; `erlmcp config print-defaults > nowhere.yaml`")

	_, err = Load(Sources{File: "x.yaml", Environ: home, ReadFile: func(string) ([]byte, error) { return nil, fs.ErrPermission }})
	require.ErrorContains(t, err, "x.yaml: cannot be read: permission denied")

	_, err = Load(Sources{File: "x.yaml", Environ: home, ReadFile: func(string) ([]byte, error) { return make([]byte, maxFileBytes+1), nil }})
	require.ErrorContains(t, err, "a configuration file has at most 1048576")
}

func TestEnvironmentMayNameTheFile(t *testing.T) {
	c, err := Load(Sources{
		Environ: append([]string{"ERLMCP_CONFIG=/etc/erlmcp.yaml"}, home...),
		ReadFile: func(path string) ([]byte, error) {
			require.Equal(t, "/etc/erlmcp.yaml", path)
			return []byte("data_dir: /srv"), nil
		},
	})
	require.NoError(t, err)
	require.Equal(t, "/srv", c.DataDir)
}

func TestVariablesOfOthersAreLeftAlone(t *testing.T) {
	_, err := load(t, "", Sources{Environ: []string{
		"ERLMCP_SERVICE_HOST=10.0.0.1", "ERLMCP_PORT=tcp://10.0.0.1:8080", "ERLMCP_PORT_8080_TCP=x", // a Kubernetes Service called erlmcp
		"ERLMCP_CRASH_STATES=10", "ERLMCP_DATA_KEY=", "ERLMCPX=1", "ERLMCP_BACKUP_ENCRYPTION_KEY=secret", "NOVALUE",
	}})
	require.NoError(t, err)
}

func TestDefaultDataDirectoryFollowsXDG(t *testing.T) {
	for _, tc := range []struct {
		env  []string
		want string
	}{
		{[]string{"HOME=/home/op"}, "/home/op/.local/share/erlmcp"},
		{[]string{"HOME=/home/op", "XDG_DATA_HOME=/data"}, "/data/erlmcp"},
		{[]string{"HOME=/home/op", "XDG_DATA_HOME=relative"}, "/home/op/.local/share/erlmcp"},
	} {
		c, err := Load(Sources{Environ: tc.env})
		require.NoError(t, err)
		require.Equal(t, tc.want, c.DataDir)
	}
	_, err := Load(Sources{})
	require.ErrorContains(t, err, "data_dir: no directory given and neither XDG_DATA_HOME nor HOME is set: use --data DIR")
}

func TestDataKeyComesFromEnvironmentOrFile(t *testing.T) {
	key := bytes.Repeat([]byte{0xab}, KeyBytes)
	for name, text := range map[string]string{
		"hex":        hex.EncodeToString(key),
		"upper hex":  strings.ToUpper(hex.EncodeToString(key)) + "\n",
		"base64":     base64.StdEncoding.EncodeToString(key),
		"url base64": base64.RawURLEncoding.EncodeToString(key),
		"raw":        string(key),
	} {
		c := Default()
		got, err := c.DataKey([]string{DataKeyEnv + "=" + text}, nil)
		require.NoError(t, err, name)
		require.Equal(t, key, got, name)

		c.Storage.DataKeyFile = "k"
		got, err = c.DataKey(nil, func(string) ([]byte, error) { return []byte(text), nil })
		require.NoError(t, err, name)
		require.Equal(t, key, got, name)
	}
	none, err := Default().DataKey(nil, nil)
	require.NoError(t, err)
	require.Nil(t, none)
}

func TestBadDataKeysAreRefusedWithoutRepeatingThem(t *testing.T) {
	const canary = "deadbeefcanary"
	c := Default()
	_, err := c.DataKey([]string{DataKeyEnv + "=" + canary}, nil)
	require.ErrorContains(t, err, "environment ERLMCP_DATA_KEY: is not a key of 32 bytes")
	require.NotContains(t, err.Error(), canary)

	_, err = c.DataKey([]string{DataKeyEnv + "="}, nil)
	require.Error(t, err, "an empty variable is a mistake, not a wish for plain text")

	c.Storage.DataKeyFile = "k"
	_, err = c.DataKey(nil, func(string) ([]byte, error) { return []byte(canary), nil })
	require.ErrorContains(t, err, "k: is not a key of 32 bytes")
	require.NotContains(t, err.Error(), canary)

	_, err = c.DataKey(nil, func(string) ([]byte, error) { return nil, fs.ErrNotExist })
	require.ErrorContains(t, err, "the key file cannot be read")

	_, err = c.DataKey([]string{DataKeyEnv + "=" + canary}, nil)
	require.ErrorContains(t, err, "give it in one place")
}

func TestSizesAndDurationsSurviveTheirOwnSpelling(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "1B": 1, "1 KiB": 1024, "1KB": 1000, "1kB": 1000, "0.5MiB": 512 * kib, "3GB": 3e9, "2TiB": 2 * tib, "1e3": 1000,
	} {
		n, err := parseSize(in)
		require.NoError(t, err, in)
		require.Equal(t, want, n, in)
		again, err := parseSize(formatSize(n))
		require.NoError(t, err)
		require.Equal(t, n, again)
	}
	for _, in := range []string{"", "MiB", "1XiB", "NaN", "inf", "1e30", "-5MiB", "-0.5"} {
		_, err := parseSize(in)
		require.Error(t, err, in)
	}
	for _, d := range []time.Duration{0, time.Second, 90 * time.Second, 30 * time.Minute, time.Hour, 720 * time.Hour, 10 * time.Minute, 100 * time.Second} {
		again, err := parseDuration(formatDuration(d))
		require.NoError(t, err)
		require.Equal(t, d, again)
	}
}

// FuzzFile holds Load to its promise for any file: a configuration that is complete and inside its bounds, or Errors.
func FuzzFile(f *testing.F) {
	var defaults bytes.Buffer
	require.NoError(f, WriteDefaults(&defaults))
	for _, seed := range []string{
		defaults.String(), "a: [1, 2", "? {a: b}\n: c\n", "<<: *x\n", "a: !!binary x\n", "server: {listen: 1}\n", "%YAML 1.2\n---\na\n",
		"data_dir: |\n  x\n", "log:\n  ? level\n  : info\n", "- - -\n", "\t", "a:\n- b\n c: d",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Load(Sources{File: "f", Environ: home, ReadFile: func(string) ([]byte, error) { return data, nil }})
		if err != nil {
			var all Errors
			require.True(t, errors.As(err, &all))
			require.NotEmpty(t, all)
			return
		}
		require.NotEmpty(t, c.DataDir)
		for _, s := range settings {
			require.NoError(t, s.set(Default(), s.show(c)), "%s is out of bounds: %q", s.key, s.show(c))
		}
	})
}
