package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

// patience is how long a test waits for what takes milliseconds on an idle machine.
const patience = 30 * time.Second

// logbook collects structured logs.
type logbook struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.b.Write(p)
}

// find returns the first entry with the given message.
func (l *logbook) find(msg string) map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.SplitSeq(l.b.String(), "\n") {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == msg {
			return entry
		}
	}
	return nil
}

// running is a node that Run is at work on.
type running struct {
	t      *testing.T
	disk   *simdisk.Disk
	dir    string
	log    *logbook
	cancel context.CancelCauseFunc
	ended  chan error
}

// runNode starts a node on a simulated disk.
func runNode(t *testing.T, disk *simdisk.Disk, settings ...config.Assignment) *running {
	t.Helper()
	dir := t.TempDir() // of the socket; the store is on the simulated disk
	cfg, err := config.Load(config.Sources{Flags: append([]config.Assignment{
		{Key: "data_dir", Value: dir},
		{Key: "server.listen", Value: "127.0.0.1:0"},
		{Key: "server.metrics_listen", Value: "off"},
		{Key: "storage.segment_size", Value: "1MiB"},
		{Key: "storage.max_value_bytes", Value: "64KiB"},
	}, settings...)})
	require.NoError(t, err)
	r := &running{t: t, disk: disk, dir: dir, log: &logbook{more: make(chan struct{}, 1)}, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	go func() {
		r.ended <- Run(ctx, Options{
			Config: cfg, FS: disk, Out: io.Discard, Executable: "erlmcp",
			Logger: slog.New(slog.NewJSONHandler(r.log, nil)),
		})
	}()
	t.Cleanup(func() { cancel(errors.New("the test is over")) })
	return r
}

// await returns the log entry with the given message as soon as it is there.
func (r *running) await(msg string) map[string]any {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		if entry := r.log.find(msg); entry != nil {
			return entry
		}
		select {
		case <-r.log.more:
		case <-timeout:
			require.FailNow(r.t, "no log entry "+msg)
		}
	}
}

func (r *running) end() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		require.FailNow(r.t, "Run did not return")
		return nil
	}
}

func fetch(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// blockOpening makes the first thing that the store does wait until release is called.
func blockOpening(disk *simdisk.Disk) (release func()) {
	gate := make(chan struct{})
	disk.Inject(simdisk.Fault{Kinds: simdisk.OpCreate | simdisk.OpMkdir | simdisk.OpWrite, Hook: func(simdisk.Op) { <-gate }})
	return sync.OnceFunc(func() { close(gate) })
}

func TestRecoveryIsVisibleAndServesNothing(t *testing.T) {
	disk := simdisk.New(simdisk.Options{})
	release := blockOpening(disk)
	defer release()
	r := runNode(t, disk)
	base := "http://" + r.await("listening")["listen"].(string)

	code, body := fetch(t, http.MethodGet, base+"/ready")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.JSONEq(t, `{"ready":false,"phase":"recovering","reason":"the server is recovering"}`, body)
	code, body = fetch(t, http.MethodPost, base+"/mcp")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, `"error":{"code":-32603`)
	code, body = fetch(t, http.MethodGet, base+"/health")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, `"recovering"`)

	release()
	r.await("serving")
	code, _ = fetch(t, http.MethodGet, base+"/ready")
	require.Equal(t, http.StatusOK, code)
	r.cancel(errors.New("enough"))
	require.NoError(t, r.end())
}

func TestStopDuringRecoveryDoesNotWaitForEver(t *testing.T) {
	disk := simdisk.New(simdisk.Options{})
	release := blockOpening(disk)
	r := runNode(t, disk, config.Assignment{Key: "server.shutdown_timeout", Value: "1s"})
	r.await("listening")
	r.cancel(errors.New("enough"))
	require.NoError(t, r.end())
	r.await("stopped during recovery; the next start begins it again")
	release()
}

func TestStopEndsInTimeEvenIfTheStoreCannotClose(t *testing.T) {
	disk := simdisk.New(simdisk.Options{})
	r := runNode(t, disk, config.Assignment{Key: "server.shutdown_timeout", Value: "1s"})
	r.await("serving")
	gate := make(chan struct{})
	defer close(gate)
	disk.Inject(simdisk.Fault{Kinds: simdisk.OpAny, Times: simdisk.Forever, Hook: func(simdisk.Op) { <-gate }})
	r.cancel(errors.New("enough"))
	require.NoError(t, r.end())
	r.await("stopped without waiting any longer; everything acknowledged is in the log and the next start replays it")
}

func TestFailStopReturnsAtOnceWithALetterAndAcknowledgesNothing(t *testing.T) {
	disk := simdisk.New(simdisk.Options{})
	r := runNode(t, disk)
	url := r.await("serving")["mcp"].(string)
	client := sdk.NewClient(&sdk.Implementation{Name: "t", Version: "1"}, nil)
	session, err := client.Connect(context.Background(), &sdk.StreamableClientTransport{Endpoint: url, MaxRetries: -1}, nil)
	require.NoError(t, err)

	disk.Inject(simdisk.Fault{Kinds: simdisk.OpSync, Glob: "*.seg", Times: simdisk.Forever, Err: syscall.EIO})
	answered := make(chan bool, 1)
	go func() {
		res, err := session.CallTool(context.Background(), &sdk.CallToolParams{Name: "work_order_create", Arguments: map[string]any{
			"signal": map[string]any{"type": "internal_request", "source": "s"}, "bucket": "features",
		}})
		answered <- err == nil && !res.IsError
	}()
	err = r.end()
	require.ErrorIs(t, err, ErrFailStop)
	require.ErrorContains(t, err, "input/output error")
	letter := r.await("fail-stop")["letter"].(string)
	for _, part := range []string{"what happened:", "what is intact:", "what it means:", "what to do:", r.dir} {
		require.Contains(t, letter, part)
	}
	select {
	case ok := <-answered:
		require.False(t, ok, "a change that is not on disk was acknowledged")
	case <-time.After(100 * time.Millisecond): // no answer at all is what a dead process gives
	}
}

func TestAdminSocketAnswersForTheNode(t *testing.T) {
	r := runNode(t, simdisk.New(simdisk.Options{}))
	r.await("serving")
	client := admin.NewClient(r.dir)
	status, err := client.Status(context.Background())
	require.NoError(t, err)
	require.True(t, status.Running)
	require.Equal(t, os.Getpid(), status.PID)
	report, err := client.Verify(context.Background(), nil)
	require.NoError(t, err)
	require.True(t, report.Valid, "%+v", report)

	r.cancel(errors.New("enough"))
	require.NoError(t, r.end())
	_, err = client.Status(context.Background())
	require.ErrorIs(t, err, admin.ErrNoServer)
}
