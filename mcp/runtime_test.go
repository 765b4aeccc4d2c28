package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

type textIn struct {
	Text string `json:"text" jsonschema:"what to say"`
}

type textOut struct {
	Text string `json:"text"`
}

// newRuntime returns a runtime with a few small tools. release unblocks the
// tool "wait".
func newRuntime(t testing.TB, o mcp.Options) (r *mcp.Runtime, release chan struct{}) {
	t.Helper()
	r, err := mcp.NewRuntime(nil, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	release = make(chan struct{})
	addTools(r, release)
	return r, release
}

func addTools(r *mcp.Runtime, release <-chan struct{}) {
	s := r.Server()
	sdk.AddTool(s, &sdk.Tool{Name: "echo", Description: "says it back"},
		func(_ context.Context, _ *sdk.CallToolRequest, in textIn) (*sdk.CallToolResult, textOut, error) {
			return nil, textOut(in), nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "panic", Description: "fails badly"},
		func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, textOut, error) {
			panic("a bug in a tool")
		})
	sdk.AddTool(s, &sdk.Tool{Name: "fail", Description: "fails"},
		func(_ context.Context, _ *sdk.CallToolRequest, in textIn) (*sdk.CallToolResult, textOut, error) {
			return nil, textOut{}, fmt.Errorf("no: %s", in.Text)
		})
	sdk.AddTool(s, &sdk.Tool{Name: "wait", Description: "waits"},
		func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, textOut, error) {
			select {
			case <-release:
				return nil, textOut{Text: "released"}, nil
			case <-ctx.Done():
				return nil, textOut{}, ctx.Err()
			}
		})
	sdk.AddTool(s, &sdk.Tool{Name: "progress", Description: "reports progress"},
		func(ctx context.Context, req *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, textOut, error) {
			for i := range 3 {
				err := req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
					ProgressToken: req.Params.GetProgressToken(), Progress: float64(i), Total: 3,
				})
				if err != nil {
					return nil, textOut{}, err
				}
			}
			return nil, textOut{Text: "done"}, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "ask", Description: "asks the user"},
		func(ctx context.Context, req *sdk.CallToolRequest, in textIn) (*sdk.CallToolResult, textOut, error) {
			res, err := req.Session.Elicit(ctx, &sdk.ElicitParams{
				Message:         in.Text,
				RequestedSchema: json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"}}}`),
			})
			if err != nil {
				return nil, textOut{}, err
			}
			return nil, textOut{Text: fmt.Sprint(res.Action, " ", res.Content["name"])}, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "big", Description: "answers with many bytes"},
		func(_ context.Context, _ *sdk.CallToolRequest, in struct {
			Bytes int `json:"bytes"`
		},
		) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: strings.Repeat("x", in.Bytes)}}}, nil, nil
		})
	s.AddResource(&sdk.Resource{URI: "test://one", Name: "one", MIMEType: "text/plain"},
		func(_ context.Context, req *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
			return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: req.Params.URI, Text: "1"}}}, nil
		})
	s.AddPrompt(&sdk.Prompt{Name: "greet", Arguments: []*sdk.PromptArgument{{Name: "who"}}},
		func(_ context.Context, req *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
			return &sdk.GetPromptResult{Messages: []*sdk.PromptMessage{{
				Role: "user", Content: &sdk.TextContent{Text: "Greet " + req.Params.Arguments["who"]},
			}}}, nil
		})
	r.CompletePrompt("greet", func(_ context.Context, _, prefix string, _ map[string]string) ([]string, error) {
		var out []string
		for i := range 150 {
			if name := fmt.Sprintf("name-%03d", i); strings.HasPrefix(name, prefix) {
				out = append(out, name)
			}
		}
		return out, nil
	})
}

func serveHTTP(t testing.TB, r *mcp.Runtime) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		r.Close() // first: it ends the streams that srv.Close waits for
		srv.Close()
	})
	return srv
}

// connectHTTP connects the official client; version pins the generation.
func connectHTTP(t testing.TB, url, version string, o *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	return connect(t, &sdk.StreamableClientTransport{Endpoint: url}, version, o)
}

func connect(t testing.TB, transport sdk.Transport, version string, o *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "tester", Version: "1"}, o)
	session, err := client.Connect(t.Context(), transport, &sdk.ClientSessionOptions{ProtocolVersion: version})
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close() })
	return session
}

const (
	newProtocol = "2026-07-28"
	oldProtocol = "2025-11-25"
)

// carriers lists every way in: each test of protocol behaviour runs over all.
func carriers(t *testing.T, o mcp.Options, co *sdk.ClientOptions, test func(t *testing.T, r *mcp.Runtime, s *sdk.ClientSession)) {
	for _, version := range []string{newProtocol, oldProtocol} {
		t.Run("http/"+version, func(t *testing.T) {
			r, _ := newRuntime(t, o)
			test(t, r, connectHTTP(t, serveHTTP(t, r).URL, version, co))
		})
		t.Run("stdio/"+version, func(t *testing.T) {
			r, _ := newRuntime(t, o)
			test(t, r, connectStdio(t, r, version, co))
		})
	}
}

func connectStdio(t testing.TB, r *mcp.Runtime, version string, co *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- r.ServeStdio(context.Background(), inR, outW)
		_ = outW.Close()
	}()
	session := connect(t, &sdk.IOTransport{Reader: outR, Writer: inW}, version, co)
	t.Cleanup(func() {
		_ = session.Close()
		select {
		case err := <-served:
			if !errors.Is(err, io.ErrClosedPipe) { // a notification met the closed end
				require.NoError(t, err)
			}
		case <-time.After(10 * time.Second):
			t.Error("ServeStdio did not return after the client closed its input")
		}
	})
	return session
}

func text(t testing.TB, res *sdk.CallToolResult) string {
	t.Helper()
	require.NotEmpty(t, res.Content)
	c, ok := res.Content[0].(*sdk.TextContent)
	require.True(t, ok, "content is %T", res.Content[0])
	return c.Text
}

func call(t testing.TB, s *sdk.ClientSession, tool string, args any) *sdk.CallToolResult {
	t.Helper()
	res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: args})
	require.NoError(t, err)
	return res
}

func TestOfficialClientIsServedOnEveryCarrier(t *testing.T) {
	carriers(t, mcp.Options{Name: "unit", Version: "9"}, nil, func(t *testing.T, r *mcp.Runtime, s *sdk.ClientSession) {
		tools, err := s.ListTools(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, tools.Tools, 7)

		require.JSONEq(t, `{"text":"hällo <&> \n"}`, text(t, call(t, s, "echo", textIn{"hällo <&> \n"})))

		res := call(t, s, "fail", textIn{"because"})
		require.True(t, res.IsError)
		require.Contains(t, text(t, res), "because")

		read, err := s.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "test://one"})
		require.NoError(t, err)
		require.Equal(t, "1", read.Contents[0].Text)

		_, err = s.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "test://none"})
		require.ErrorContains(t, err, "not found")

		prompt, err := s.GetPrompt(t.Context(), &sdk.GetPromptParams{Name: "greet", Arguments: map[string]string{"who": "Ada"}})
		require.NoError(t, err)
		require.Equal(t, "Greet Ada", prompt.Messages[0].Content.(*sdk.TextContent).Text)

		require.EqualValues(t, 2, r.Stats().ToolCalls)
		require.EqualValues(t, 1, r.Stats().ToolErrors)
	})
}

func TestPanicInAHandlerCostsOnlyItsRequest(t *testing.T) {
	carriers(t, mcp.Options{}, nil, func(t *testing.T, r *mcp.Runtime, s *sdk.ClientSession) {
		_, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "panic", Arguments: struct{}{}})
		require.ErrorContains(t, err, "internal error")
		require.Equal(t, `{"text":"still here"}`, text(t, call(t, s, "echo", textIn{"still here"})))
		require.EqualValues(t, 1, r.Stats().Panics)
	})
}

func TestCompletionIsCappedAndSaysSo(t *testing.T) {
	carriers(t, mcp.Options{}, nil, func(t *testing.T, _ *mcp.Runtime, s *sdk.ClientSession) {
		complete := func(ref *sdk.CompleteReference, prefix string) (*sdk.CompleteResult, error) {
			return s.Complete(t.Context(), &sdk.CompleteParams{Ref: ref, Argument: sdk.CompleteParamsArgument{Name: "who", Value: prefix}})
		}
		greet := &sdk.CompleteReference{Type: "ref/prompt", Name: "greet"}
		res, err := complete(greet, "name-")
		require.NoError(t, err)
		require.Len(t, res.Completion.Values, 100)
		require.Equal(t, 150, res.Completion.Total)
		require.True(t, res.Completion.HasMore)

		res, err = complete(greet, "name-14")
		require.NoError(t, err)
		require.Len(t, res.Completion.Values, 10)
		require.False(t, res.Completion.HasMore)

		_, err = complete(&sdk.CompleteReference{Type: "ref/prompt", Name: "no such prompt"}, "")
		require.ErrorContains(t, err, "nothing to complete")
	})
}

func TestHandlerOverItsTimeLimitIsAnswered(t *testing.T) {
	carriers(t, mcp.Options{CallTimeout: 50 * time.Millisecond}, nil, func(t *testing.T, _ *mcp.Runtime, s *sdk.ClientSession) {
		res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "wait", Arguments: struct{}{}})
		if err != nil {
			require.ErrorContains(t, err, "time limit")
			return
		}
		require.True(t, res.IsError)
		require.Contains(t, text(t, res), "deadline")
	})
}

func TestSubscribersLearnOfChanges(t *testing.T) {
	for _, carrier := range []string{"http", "stdio"} {
		t.Run(carrier, func(t *testing.T) {
			got := make(chan string, 100)
			co := &sdk.ClientOptions{ResourceUpdatedHandler: func(_ context.Context, req *sdk.ResourceUpdatedNotificationRequest) {
				got <- req.Params.URI
			}}
			r, _ := newRuntime(t, mcp.Options{MaxSubscriptions: 2})
			var s *sdk.ClientSession
			if carrier == "http" {
				s = connectHTTP(t, serveHTTP(t, r).URL, oldProtocol, co)
			} else {
				s = connectStdio(t, r, oldProtocol, co)
			}
			require.NoError(t, s.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "test://one"}))
			require.NoError(t, s.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "test://two"}))
			err := s.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "test://three"})
			require.ErrorContains(t, err, "maximum")
			require.Equal(t, 2, r.Stats().Subscriptions)

			// The standalone stream of an HTTP client opens beside its requests.
			require.Eventually(t, func() bool {
				r.ResourceChanged("test://one", "test://nobody")
				select {
				case uri := <-got:
					require.Equal(t, "test://one", uri)
					return true
				case <-time.After(20 * time.Millisecond):
					return false
				}
			}, 5*time.Second, time.Millisecond)

			require.NoError(t, s.Unsubscribe(t.Context(), &sdk.UnsubscribeParams{URI: "test://one"}))
			for len(got) > 0 {
				<-got
			}
			r.AllResourcesChanged()
			for {
				uri := <-got
				if uri == "test://two" {
					break
				}
			}
		})
	}
}

func TestListenersOfTheStatelessProtocolLearnOfChanges(t *testing.T) {
	for _, carrier := range []string{"http", "stdio"} {
		t.Run(carrier, func(t *testing.T) {
			got := make(chan string, 100)
			co := &sdk.ClientOptions{ResourceUpdatedHandler: func(_ context.Context, req *sdk.ResourceUpdatedNotificationRequest) {
				got <- req.Params.URI
			}}
			r, _ := newRuntime(t, mcp.Options{})
			var s *sdk.ClientSession
			if carrier == "http" {
				s = connectHTTP(t, serveHTTP(t, r).URL, newProtocol, co)
			} else {
				s = connectStdio(t, r, newProtocol, co)
			}
			require.NoError(t, s.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "test://one"}))
			require.Eventually(t, func() bool {
				r.ResourceChanged("test://one", "test://two")
				select {
				case uri := <-got:
					require.Equal(t, "test://one", uri)
					return true
				case <-time.After(20 * time.Millisecond):
					return false
				}
			}, 5*time.Second, time.Millisecond)
			call(t, s, "echo", textIn{"calls go on beside the subscription"})
			if carrier == "http" {
				require.Equal(t, 1, r.Stats().Streams)
			}
			require.NoError(t, s.Unsubscribe(t.Context(), &sdk.UnsubscribeParams{URI: "test://one"}))
			require.Eventually(t, func() bool { return r.Stats().Subscriptions == 0 && r.Stats().Streams == 0 }, 5*time.Second, time.Millisecond)
		})
	}
}

func TestBurstOfChangesIsOneNotification(t *testing.T) {
	got := make(chan string, 10000)
	co := &sdk.ClientOptions{ResourceUpdatedHandler: func(_ context.Context, req *sdk.ResourceUpdatedNotificationRequest) {
		got <- req.Params.URI
	}}
	r, _ := newRuntime(t, mcp.Options{})
	s := connectStdio(t, r, oldProtocol, co)
	require.NoError(t, s.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "test://one"}))
	for range 5000 {
		r.ResourceChanged("test://one")
	}
	<-got
	call(t, s, "echo", textIn{"a round trip behind the notifications"})
	require.Less(t, len(got), 50)
}

func TestManyClientsAtOnce(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	srv := serveHTTP(t, r)
	var all sync.WaitGroup
	for i := range 8 {
		version := newProtocol
		if i%2 == 0 {
			version = oldProtocol
		}
		s := connectHTTP(t, srv.URL, version, nil)
		for j := range 4 {
			all.Add(1)
			go func() {
				defer all.Done()
				for k := range 10 {
					want := fmt.Sprintf("%d-%d-%d", i, j, k)
					res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo", Arguments: textIn{want}})
					if err != nil {
						t.Error(err)
						return
					}
					if got := text(t, res); got != fmt.Sprintf(`{"text":%q}`, want) {
						t.Errorf("got %s, want %s", got, want)
					}
				}
			}()
		}
	}
	all.Wait()
	require.EqualValues(t, 320, r.Stats().ToolCalls)
	require.Eventually(t, func() bool { return r.Stats().InFlight == 0 }, 5*time.Second, time.Millisecond)
}

func TestCloseEndsStreamsAndRefusesNewRequests(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	s := connectHTTP(t, srv.URL, oldProtocol, nil)
	call(t, s, "echo", textIn{"hi"})
	require.Eventually(t, func() bool { return r.Stats().Streams == 1 }, 5*time.Second, time.Millisecond)

	start := time.Now()
	r.Close()
	require.Less(t, time.Since(start), 4*time.Second)
	require.Eventually(t, func() bool { return r.Stats().Streams == 0 }, 5*time.Second, time.Millisecond)
	status, answer, _ := post(t, srv.URL, nil, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, mcp.CodeOverloaded, answer.Error.Code)
}

func TestFailedStoreStopsTheService(t *testing.T) {
	store := newFaultyStore(t)
	r, err := mcp.NewRuntime(store, mcp.Options{})
	require.NoError(t, err)
	defer r.Close()
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	const ping = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`
	status, _, _ := post(t, srv.URL, nil, ping)
	require.Equal(t, http.StatusOK, status)
	close(store.failed)
	status, answer, _ := post(t, srv.URL, nil, ping)
	require.Equal(t, http.StatusInternalServerError, status)
	require.Contains(t, answer.Error.Message, "fsync failed")
}

func TestOptionsOutOfRangeAreRefused(t *testing.T) {
	for _, o := range []mcp.Options{
		{MaxMessageBytes: 1023},
		{MaxMessageBytes: mcp.MaxMessageBytes + 1},
		{MaxMessageBytes: -1},
		{SessionTimeout: -1},
		{MaxPending: -1},
	} {
		_, err := mcp.NewRuntime(nil, o)
		require.Error(t, err, "%+v", o)
	}
}

// rpcAnswer is a JSON-RPC response with an error.
type rpcAnswer struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   struct {
		Code    int             `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	} `json:"error"`
}

// post sends one raw HTTP request with usable defaults for the headers.
// A header with the value "-" is left out.
func post(t testing.TB, url string, header map[string]string, body string) (int, rpcAnswer, http.Header) {
	t.Helper()
	return do(t, http.MethodPost, url, header, strings.NewReader(body))
}

func do(t testing.TB, method, url string, header map[string]string, body io.Reader) (int, rpcAnswer, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	for k, v := range header {
		switch {
		case v == "-":
			req.Header.Del(k)
		case k == "Host":
			req.Host = v
		default:
			req.Header.Set(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		data = lastEvent(data)
	}
	var answer rpcAnswer
	if len(data) > 0 {
		require.NoError(t, json.Unmarshal(data, &answer), "status %d, body %q", resp.StatusCode, data)
		require.Equal(t, "2.0", answer.JSONRPC)
	}
	return resp.StatusCode, answer, resp.Header
}

func lastEvent(stream []byte) []byte {
	var last []byte
	for line := range bytes.SplitSeq(stream, []byte("\n")) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			last = data
		}
	}
	return last
}
