package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
)

func TestEveryCommandExplainsItselfWithExamplesAndExitCodes(t *testing.T) {
	a := &app{}
	for _, cmd := range a.rootCommand().Commands() {
		r := run(t, cmd.Name(), "--help")
		require.Zero(t, r.code, cmd.Name())
		require.Greater(t, len(cmd.Short), 10, cmd.Name())
		if cmd.RunE != nil && cmd.Name() != "config" {
			require.NotEmpty(t, cmd.Long, cmd.Name())
			require.NotEmpty(t, cmd.Example, cmd.Name())
			require.Contains(t, r.stdout, "Examples:")
		}
		for _, word := range []string{"TODO", "string "} {
			require.NotContains(t, r.stdout, word, cmd.Name())
		}
	}
	require.Contains(t, run(t, "--help").stdout, "Exit codes: 0 success; 1 failure, or damage found; 2 wrong usage or configuration.")
}

func TestWrongUsageExitsWithTwoAndPointsToTheHelp(t *testing.T) {
	for _, args := range [][]string{
		{"serv"},
		{"serve", "--lisen", "x"},
		{"serve", "extra"},
		{"verify", "extra"},
		{"health", "--timeout", "soon"},
		{"config", "chek"},
		{"version", "--yaml"},
	} {
		r := run(t, args...)
		require.Equal(t, 2, r.code, "%v: %s", args, r.stderr)
		require.Contains(t, r.stderr, "erlmcp: ", args)
		require.Contains(t, r.stderr, "--help' for usage", args)
		require.Empty(t, r.stdout, args)
	}
	require.Contains(t, run(t, "serv").stderr, "did you mean serve?")
	require.Contains(t, run(t, "config", "chek").stderr, "did you mean check?")
}

func TestBadConfigurationExitsWithTwoNamesTheKeyAndTouchesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "erlmcp.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	for _, tc := range []struct {
		name, yaml string
		env, args  []string
		want       string
	}{
		{"unknown key", "server:\n  lisen: x\n", nil, nil, file + ":2: server.lisen: unknown key; did you mean server.listen?"},
		{"bad value", "log:\n  level: loud\n", nil, nil, file + `:2: log.level: "loud" is not one of`},
		{"not YAML", "server: [", nil, nil, "is not valid YAML"},
		{"variable", "", []string{"ERLMCP_MCP_SESSION_TIMEOUT=5"}, nil, `environment ERLMCP_MCP_SESSION_TIMEOUT: mcp.session_timeout: "5" has no unit`},
		{"unknown variable", "", []string{"ERLMCP_DATADIR=x"}, nil, "environment ERLMCP_DATADIR: unknown variable; did you mean ERLMCP_DATA_DIR?"},
		{"flag", "", nil, []string{"--metrics-listen", "9090"}, `flag --metrics-listen: server.metrics_listen: "9090" is not an address`},
		{"set without value", "", nil, []string{"--set", "log.level"}, `flag --set: "log.level" is not KEY=VALUE`},
		{"set unknown", "", nil, []string{"--set", "log.lvel=info"}, "flag --set: log.lvel: unknown key; did you mean log.level?"},
		{"bad key", "", []string{"ERLMCP_DATA_KEY=canary"}, nil, "environment ERLMCP_DATA_KEY: is not a key of 32 bytes"},
		{"missing key file", "", nil, []string{"--data-key-file", "/nowhere/key"}, "the key file cannot be read"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			write(tc.yaml)
			dir := filepath.Join(t.TempDir(), "data")
			for _, command := range []string{"serve", "config check"} {
				args := append(strings.Fields(command), "--config", file, "--data", dir)
				r := runEnv(t, environment(t, tc.env...), append(args, tc.args...)...)
				require.Equal(t, 2, r.code, "%s: %s", command, r.stderr)
				require.Contains(t, r.stderr, tc.want, command)
				require.NotContains(t, r.stderr, "canary")
				require.NotContains(t, r.stdout, "usable")
				require.NoDirExists(t, dir)
			}
		})
	}
}

func TestServeWithNothingToListenOnIsRefused(t *testing.T) {
	r := run(t, "serve", "--data", t.TempDir(), "--listen", "off")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "nobody could reach the server")
}

func TestPrintedDefaultsPassTheCheck(t *testing.T) {
	printed := run(t, "config", "print-defaults")
	require.Zero(t, printed.code)
	file := filepath.Join(t.TempDir(), "erlmcp.yaml")
	require.NoError(t, os.WriteFile(file, []byte(printed.stdout), 0o600))
	r := run(t, "config", "check", "--config", file, "--listen", "127.0.0.1:7")
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "The configuration is usable. At-rest encryption: off.")
	require.Regexp(t, `server.listen +127.0.0.1:7 +flag --listen`, r.stdout)
	require.Regexp(t, `log.level +info +file `, r.stdout)

	r = runEnv(t, environment(t, "ERLMCP_LOG_FORMAT=json", "ERLMCP_DATA_KEY="+strings.Repeat("ab", 32)), "config", "check", "--json")
	require.Zero(t, r.code, r.stderr)
	var doc struct {
		Valid, Encrypted bool
		Settings         []struct{ Key, Value, Origin string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &doc))
	require.True(t, doc.Valid)
	require.True(t, doc.Encrypted)
	require.NotContains(t, r.stdout, "abab", "a key is never printed")
	found := false
	for _, s := range doc.Settings {
		found = found || s.Key == "log.format" && s.Value == "json" && s.Origin == "environment ERLMCP_LOG_FORMAT"
	}
	require.True(t, found)
}

func TestVersionForPeopleAndMachines(t *testing.T) {
	r := run(t, "version")
	require.Zero(t, r.code)
	require.Regexp(t, `^erlmcp v0\.0\.0-test.*, go1\..*, \w+/\w+\n$`, r.stdout)
	var info struct{ Version string }
	require.NoError(t, json.Unmarshal([]byte(run(t, "version", "--json").stdout), &info))
	require.Equal(t, "v0.0.0-test", info.Version)
}

func TestCompletionKnowsCommandsFlagsAndSettings(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := run(t, "completion", shell)
		require.Zero(t, r.code, shell)
		require.Contains(t, r.stdout, "erlmcp", shell)
	}
	require.Contains(t, run(t, "__complete", "ser").stdout, "serve")
	require.Contains(t, run(t, "__complete", "serve", "--set", "").stdout, "storage.retain_log=")
	require.Contains(t, run(t, "__complete", "serve", "--log-level", "").stdout, "debug")
}

func TestStatusOfARunningAndAStoppedServerAgree(t *testing.T) {
	s := start(t, t.TempDir())
	createOrder(t, s.connect(), "status")
	live := run(t, "status", "--data", s.dir)
	require.Zero(t, live.code, live.stderr)
	require.Contains(t, live.stdout, "running, pid")
	require.Contains(t, live.stdout, s.run.MCPURL)

	var before, after admin.Status
	require.NoError(t, json.Unmarshal([]byte(run(t, "status", "--data", s.dir, "--json").stdout), &before))
	require.True(t, before.Running)
	require.Equal(t, admin.Green, before.Health.Status)
	require.True(t, before.Recovery.Created)
	require.NotZero(t, before.Store.AppliedIndex)
	require.Equal(t, before.Store.AppliedIndex, before.Log.LastIndex)
	require.Zero(t, s.stop())

	files := fingerprint(t, s.dir)
	stopped := run(t, "status", "--data", s.dir, "--json")
	require.Zero(t, stopped.code, stopped.stderr)
	require.NoError(t, json.Unmarshal([]byte(stopped.stdout), &after))
	require.False(t, after.Running)
	require.Equal(t, before.Log.ID, after.Log.ID)
	// A graceful stop writes the last audit records and gives its tasks back.
	require.GreaterOrEqual(t, after.Log.LastIndex, before.Log.LastIndex)
	require.Equal(t, after.Log.LastIndex, after.Store.AppliedIndex)
	require.NotEmpty(t, after.Store.StateHash)
	require.Equal(t, files, fingerprint(t, s.dir), "looking changes nothing")
	require.Contains(t, run(t, "status", "--data", s.dir).stdout, "not running")
}

func TestStatusWhereNothingIsExitsWithOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	r := run(t, "status", "--data", dir)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "no store in this directory")
	require.NoDirExists(t, dir)
}

func TestHealthAnswersWithItsExitCode(t *testing.T) {
	s := start(t, t.TempDir())
	r := run(t, "health", "--data", s.dir)
	require.Zero(t, r.code, r.stdout)
	require.Contains(t, r.stdout, "healthy (serving)")
	var h admin.Health
	require.NoError(t, json.Unmarshal([]byte(run(t, "health", "--data", s.dir, "--json").stdout), &h))
	require.Equal(t, admin.Green, h.Status)

	session := s.connect()
	call(t, session, "andon_trigger", map[string]any{
		"failure_type": "test_failure", "sku_id": "SKU-001", "stage": "testing", "severity": "critical",
	}, nil)
	r = run(t, "health", "--data", s.dir)
	require.Equal(t, 1, r.code, r.stdout)
	require.Regexp(t, `andon +degraded +1 open, 1 of them critical`, r.stdout)
	require.Zero(t, s.stop())

	r = run(t, "health", "--data", s.dir, "--json")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "no server is running on this data directory")
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &h))
	require.Equal(t, admin.Red, h.Status)
}

func TestVerifyPassesOnARunningAndOnAStoppedServer(t *testing.T) {
	s := start(t, t.TempDir())
	session := s.connect()
	for _, source := range []string{"one", "two", "three"} {
		createOrder(t, session, source)
	}
	for _, mode := range []string{"live", "stopped"} {
		r := run(t, "verify", "--data", s.dir)
		require.Zero(t, r.code, r.stdout+r.stderr)
		require.Contains(t, r.stdout, "Intact. "+s.dir+", "+mode)
		for _, title := range []string{"write-ahead log chain", "sorted store files", "state hash", "JSON documents", "SHA-256 checksums", "indexes", "receipt chains", "references", "change log"} {
			require.Regexp(t, title+` +ok`, r.stdout)
		}
		asJSON := run(t, "verify", "--data", s.dir, "--json")
		require.Zero(t, asJSON.code)
		var report integrity.Report
		require.NoError(t, json.Unmarshal([]byte(asJSON.stdout), &report))
		require.True(t, report.Valid)
		require.Equal(t, mode, report.Mode)
		require.Len(t, report.Checks, 9)
		for _, c := range report.Checks {
			require.True(t, c.Passed, c.Name)
			if c.Name != integrity.CheckFiles { // a young store may have nothing flushed yet
				require.NotZero(t, c.Checked, c.Name)
			}
		}
		if mode == "live" {
			require.NoError(t, session.Close())
			require.Zero(t, s.stop())
		}
	}
}

// damageLog flips one byte in the middle of the first change in the log.
func damageLog(t testing.TB, dir, marker string) string {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.seg"))
	require.NoError(t, err)
	for _, name := range segments {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		if i := strings.Index(string(data), marker); i >= 0 {
			data[i] ^= 0x01
			require.NoError(t, os.WriteFile(name, data, 0o600))
			return name
		}
	}
	require.FailNow(t, "the marker is not in the log")
	return ""
}

func TestVerifyNamesDamageAndLeavesTheDirectoryAsItWas(t *testing.T) {
	s := start(t, t.TempDir())
	session := s.connect()
	createOrder(t, session, "marker-of-the-first-order")
	createOrder(t, session, "second")
	s.kill()
	segment := damageLog(t, s.dir, "marker-of-the-first-order")
	before := fingerprint(t, s.dir)

	r := run(t, "verify", "--data", s.dir)
	require.Equal(t, 1, r.code, r.stdout+r.stderr)
	require.Regexp(t, `write-ahead log chain +DAMAGE`, r.stdout)
	require.Contains(t, r.stdout, filepath.Base(segment))
	require.Contains(t, r.stdout, "what:")
	require.Contains(t, r.stdout, "next:")
	require.Contains(t, r.stdout, "NOT RUN")
	require.Contains(t, r.stdout, "DAMAGED")
	require.Equal(t, before, fingerprint(t, s.dir), "a damaged directory stays as it was found")

	var report integrity.Report
	require.NoError(t, json.Unmarshal([]byte(run(t, "verify", "--data", s.dir, "--json").stdout), &report))
	require.False(t, report.Valid)
	require.NotZero(t, report.Findings())

	refused := run(t, "serve", "--data", s.dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
	require.Equal(t, 1, refused.code)
	require.Contains(t, refused.stderr, "DAMAGE 1 of 1")
	require.Contains(t, refused.stderr, "tcpsdump wal "+s.dir)
}

func TestVerifyFindsDamageBelowARunningServer(t *testing.T) {
	s := start(t, t.TempDir())
	session := s.connect()
	createOrder(t, session, "marker-of-the-first-order")
	createOrder(t, session, "second")
	damageLog(t, s.dir, "marker-of-the-first-order")
	r := run(t, "verify", "--data", s.dir)
	require.Equal(t, 1, r.code, r.stdout+r.stderr)
	require.Regexp(t, `write-ahead log chain +DAMAGE`, r.stdout)
	require.Contains(t, r.stdout, "live")
}

func TestVerifyWithNothingToCheckExitsWithTwoAndCreatesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	r := run(t, "verify", "--data", dir)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "no store in this directory")
	require.NoDirExists(t, dir)
}

func TestEncryptedDirectoryNeedsItsKey(t *testing.T) {
	key := "ERLMCP_DATA_KEY=" + strings.Repeat("0f", 32)
	dir := t.TempDir()
	s := startEnv(t, environment(t, key), dir)
	createOrder(t, s.connect(), "a-secret-source")
	s.kill()
	for name, content := range fingerprint(t, dir) {
		require.NotContains(t, content, "a-secret-source", name)
	}
	for _, tc := range []struct {
		env  []string
		want string
	}{
		{nil, "ERLMCP_DATA_KEY"},
		{[]string{"ERLMCP_DATA_KEY=" + strings.Repeat("1f", 32)}, "wrong"},
	} {
		serve := runEnv(t, environment(t, tc.env...), "serve", "--data", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
		require.Equal(t, 1, serve.code)
		require.Contains(t, serve.stderr, tc.want)
		verify := runEnv(t, environment(t, tc.env...), "verify", "--data", dir)
		require.Equal(t, 2, verify.code, verify.stdout)
		require.Contains(t, verify.stderr, tc.want)
	}
	ok := runEnv(t, environment(t, key), "verify", "--data", dir)
	require.Zero(t, ok.code, ok.stdout+ok.stderr)

	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("0f", 32)+"\n"), 0o600))
	require.Zero(t, run(t, "verify", "--data", dir, "--data-key-file", file).code)
}

func TestLongDirectoryNamesWork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 15))
	require.Greater(t, len(admin.SocketPath(dir)), 108)
	s := start(t, dir)
	require.Zero(t, run(t, "health", "--data", dir).code)
	require.Contains(t, run(t, "status", "--data", dir).stdout, "running, pid")
	require.Zero(t, s.stop())
}
