package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

// serveVariable makes the test binary a server: "DIR ADDRESS".
const serveVariable = "ERLMCP_TEST_SERVE"

func TestMain(m *testing.M) {
	if where := os.Getenv(serveVariable); where != "" {
		if err := serveForKill(where); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1) // it is meant to be killed
	}
	os.Exit(m.Run())
}

func serveForKill(where string) error {
	dir, address, _ := strings.Cut(where, " ")
	r, err := mcp.Open(dir, mcp.Options{StreamAfter: time.Millisecond})
	if err != nil {
		return err
	}
	addTools(r, nil)
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "count", Description: "counts until it is killed"},
		func(ctx context.Context, req *sdk.CallToolRequest, in struct {
			To int `json:"to"`
		},
		) (*sdk.CallToolResult, textOut, error) {
			for i := range in.To {
				if err := req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
					ProgressToken: req.Params.GetProgressToken(), Progress: float64(i + 1),
				}); err != nil {
					return nil, textOut{}, err
				}
				time.Sleep(2 * time.Millisecond)
			}
			return nil, textOut{Text: "counted"}, nil
		})
	sdk.AddTool(r.Server(), &sdk.Tool{Name: "change", Description: "changes test://one"},
		func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, textOut, error) {
			r.ResourceChanged("test://one")
			return nil, textOut{Text: "changed"}, nil
		})
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("http://" + l.Addr().String())
	return http.Serve(l, r.Handler())
}

// killable is a server process that gets killed and started again.
type killable struct {
	t       *testing.T
	dir     string
	address string
	url     string
	cmd     *exec.Cmd
}

func newKillable(t *testing.T) *killable {
	v := &killable{t: t, dir: t.TempDir(), address: "127.0.0.1:0"}
	v.start()
	t.Cleanup(v.kill)
	return v
}

func (v *killable) start() {
	v.t.Helper()
	v.cmd = exec.Command(os.Args[0])
	v.cmd.Env = append(os.Environ(), serveVariable+"="+v.dir+" "+v.address)
	v.cmd.Stderr = os.Stderr
	out, err := v.cmd.StdoutPipe()
	require.NoError(v.t, err)
	require.NoError(v.t, v.cmd.Start())
	url, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(v.t, err, "the server did not start")
	v.url = strings.TrimSpace(url)
	v.address = strings.TrimPrefix(v.url, "http://") // the same one next time
}

func (v *killable) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

func (v *killable) restart() {
	v.t.Helper()
	v.kill()
	v.start()
}

func TestOfficialClientGoesOnAfterKillNine(t *testing.T) {
	v := newKillable(t)
	var counted atomic.Int64
	var disorder atomic.Bool
	updated := make(chan string, 1000)
	s := connectHTTP(t, v.url, oldProtocol, &sdk.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, req *sdk.ProgressNotificationClientRequest) {
			if n := int64(req.Params.Progress); !counted.CompareAndSwap(n-1, n) {
				disorder.Store(true)
			}
		},
		ResourceUpdatedHandler: func(_ context.Context, req *sdk.ResourceUpdatedNotificationRequest) { updated <- req.Params.URI },
	})
	require.NoError(t, s.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "test://one"}))

	// A long call is interrupted: every event that was committed arrives once, in order, and then an error instead of silence.
	answered := make(chan error, 1)
	go func() {
		params := &sdk.CallToolParams{Name: "count", Arguments: map[string]any{"to": 1 << 30}}
		params.SetProgressToken("p")
		_, err := s.CallTool(t.Context(), params)
		answered <- err
	}()
	require.Eventually(t, func() bool { return counted.Load() > 5 }, 20*time.Second, time.Millisecond)
	v.restart()
	select {
	case err := <-answered:
		require.ErrorContains(t, err, "the server restarted while it ran")
	case <-time.After(30 * time.Second):
		t.Fatal("the interrupted call has no answer")
	}
	require.False(t, disorder.Load(), "progress was lost or repeated")

	// The session and its subscription are there.
	require.Equal(t, `{"text":"still here"}`, text(t, call(t, s, "echo", textIn{"still here"})))
	select {
	case uri := <-updated:
		require.Equal(t, "test://one", uri, "what it subscribes to may have changed meanwhile")
	case <-time.After(30 * time.Second):
		t.Fatal("the subscription did not survive")
	}
	for len(updated) > 0 {
		<-updated
	}
	call(t, s, "change", struct{}{})
	select {
	case <-updated:
	case <-time.After(30 * time.Second):
		t.Fatal("no notification after the restart")
	}
}

func TestServerRequestIDsNeverRepeatAfterKillNine(t *testing.T) {
	v := newKillable(t)
	status, _, header := post(t, v.url, nil, strings.Replace(initialize, `"capabilities":{}`, `"capabilities":{"elicitation":{}}`, 1))
	require.Equal(t, http.StatusOK, status)
	h := map[string]string{"Mcp-Session-Id": header.Get("Mcp-Session-Id"), "Mcp-Protocol-Version": oldProtocol}
	seen := map[int64]bool{}
	for life := range 3 {
		s := listen(t, http.MethodPost, v.url, h, fmt.Sprintf(
			`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ask","arguments":{"text":"?"}}}`, 10+life))
		e := s.must()
		for e.data == "" { // priming
			e = s.must()
		}
		var q struct{ ID int64 }
		require.NoError(t, json.Unmarshal([]byte(e.data), &q))
		require.NotZero(t, q.ID)
		require.False(t, seen[q.ID], "request id %d was used before", q.ID)
		seen[q.ID] = true
		v.restart()

		answer := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":{"action":"accept","content":{"name":"Ada"}}}`, q.ID)
		status, refusal, _ := post(t, v.url, h, answer)
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, refusal.Error.Message, "too late")
		rest := listen(t, http.MethodGet, v.url, with(h, "Last-Event-ID", e.id), "").rest()
		require.Contains(t, rest[len(rest)-1].data, "the server restarted while it ran")
	}
	status, refusal, _ := post(t, v.url, h, `{"jsonrpc":"2.0","id":100000,"result":{}}`)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, refusal.Error.Message, "never sent")
}
