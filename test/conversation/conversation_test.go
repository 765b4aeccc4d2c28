package conversation

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/nodejs"
)

var fixtures struct {
	once sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if fixtures.path != "" {
		_ = os.RemoveAll(filepath.Dir(fixtures.path))
	}
	os.Exit(code)
}

// build compiles the fixture server, once for all tests.
func build(t *testing.T) string {
	t.Helper()
	fixtures.once.Do(func() {
		var dir string
		if dir, fixtures.err = os.MkdirTemp("", "conversation"); fixtures.err != nil {
			return
		}
		fixtures.path = filepath.Join(dir, "fixtures")
		if out, err := exec.Command("go", "build", "-o", fixtures.path, "../../mcp/conformance").CombinedOutput(); err != nil {
			fixtures.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	require.NoError(t, fixtures.err)
	return fixtures.path
}

// talk has one conversation, kills the server behind the message with number
// killAt (0: never), and returns how many messages there were.
func talk(t *testing.T, bin string, client Client, wanted []WantedStep, killAt int) int {
	t.Helper()
	dir := t.TempDir()
	srv := &server{bin: bin, dir: dir}
	require.NoError(t, srv.start())
	var failure error
	w := NewWire(func(_ *Wire, n, _ int) {
		if n == killAt {
			srv.kill()
			failure = srv.start()
		}
	}, func() *url.URL { return srv.at })
	kills := min(killAt, 1)
	got := client(w.URLs(), "", 1+kills)
	w.Close()
	srv.kill()
	wrong := append(Judge(wanted, got, kills, filepath.Join(dir, "effects")), w.Rules()...)
	if failure != nil {
		wrong = append(wrong, "the server did not start again: "+failure.Error())
	}
	names := w.Messages()
	if len(wrong) > 0 {
		t.Errorf("killed behind message %v:", killAt)
		for _, line := range wrong {
			t.Error(line)
		}
		for i, name := range names {
			t.Logf("%3d %s", i+1, name)
		}
		t.Logf("the server logged: %s", srv.stderr)
	}
	return len(names)
}

func TestGoClientSurvivesKills(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers for some seconds")
	}
	survive(t, TalkGo, WantedInSession)
}

func TestStatelessGoClientSurvivesKills(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers for some seconds")
	}
	survive(t, TalkStateless, WantedStateless)
}

func TestTypeScriptClientSurvivesKills(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers for some seconds")
	}
	client, err := TypeScript(nodejs.Require(t), t.TempDir())
	require.NoError(t, err)
	survive(t, client, WantedInSession)
}

// survive kills the server behind every message, or behind six of them unless
// ERLMCP_CONVERSATIONS=all.
func survive(t *testing.T, client Client, wanted []WantedStep) {
	t.Parallel()
	bin := build(t)
	n := talk(t, bin, client, wanted, 0)
	require.False(t, t.Failed(), "the conversation fails even without a kill")
	stride := (n + 5) / 6
	if os.Getenv("ERLMCP_CONVERSATIONS") == "all" {
		stride = 1
	}
	t.Logf("%d messages, killed behind every %d of them", n, stride)
	for at := (stride + 1) / 2; at <= n; at += stride {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			t.Parallel()
			talk(t, bin, client, wanted, at)
		})
	}
}
