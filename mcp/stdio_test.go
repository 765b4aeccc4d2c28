package mcp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/mcp"
)

const initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`

// pipe runs a whole stdio conversation whose input is known beforehand, as
// `printf ... | erlmcp serve --stdio` does.
func pipe(t testing.TB, o mcp.Options, lines ...string) []rpcAnswer {
	t.Helper()
	r, _ := newRuntime(t, o)
	var out bytes.Buffer
	require.NoError(t, r.ServeStdio(t.Context(), strings.NewReader(strings.Join(lines, "\n")), &out))
	return parseLines(t, out.Bytes())
}

func parseLines(t testing.TB, out []byte) []rpcAnswer {
	t.Helper()
	var answers []rpcAnswer
	for line := range bytes.SplitSeq(out, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var a rpcAnswer
		require.NoError(t, json.Unmarshal(line, &a), "stdout carries something else: %q", line)
		require.Equal(t, "2.0", a.JSONRPC)
		answers = append(answers, a)
	}
	return answers
}

func byID(answers []rpcAnswer, id string) *rpcAnswer {
	for i := range answers {
		if string(answers[i].ID) == id {
			return &answers[i]
		}
	}
	return nil
}

func echoCall(id, text string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"echo","arguments":{"text":%q}}}`, id, text)
}

func TestPipedConversationIsAnsweredToTheLastCall(t *testing.T) {
	lines := []string{initialize, initialized}
	for i := range 50 {
		lines = append(lines, echoCall(fmt.Sprint(100+i), fmt.Sprint("text ", i)))
	}
	answers := pipe(t, mcp.Options{}, lines...)
	require.Len(t, answers, 51)
	for i := range 50 {
		a := byID(answers, fmt.Sprint(100+i))
		require.NotNil(t, a)
		require.Contains(t, string(a.Result), fmt.Sprint("text ", i))
	}
}

func TestBadLinesAreAnsweredAndTheStreamGoesOn(t *testing.T) {
	const limit = 4096
	long := `{"params":{"text":"` + strings.Repeat("x", 5*limit) + `"},"jsonrpc":"2.0","method":"ping","id":"long"}`
	for _, c := range []struct {
		name, line string
		code       int
		id         string
	}{
		{"not JSON", "hello", -32700, "null"},
		{"cut short", `{"jsonrpc":"2.0","id":5,"meth`, -32700, "null"},
		{"two messages on a line", initialized + initialized, -32700, "null"},
		{"invalid UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"\xff\"}", -32700, "5"},
		{"NUL bytes", "\x00\x00", -32700, "null"},
		{"too long", long, mcp.CodeMessageTooLarge, `"long"`},
		{"too long and no JSON", strings.Repeat("x", 3*limit), mcp.CodeMessageTooLarge, "null"},
		{"a number", "17", -32600, "null"},
		{"null id", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, -32600, "null"},
		{"wrong version", `{"jsonrpc":"3.0","id":5,"method":"ping"}`, -32600, "5"},
		{"params array", `{"jsonrpc":"2.0","id":5,"method":"ping","params":[]}`, -32602, "5"},
		{"unknown method", `{"jsonrpc":"2.0","id":5,"method":"no/such"}`, -32601, "5"},
		{"request without id", `{"jsonrpc":"2.0","method":"tools/list"}`, 0, ""},
		{"unknown tool", `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"nope"}}`, -32602, "5"},
		{"wrong type", `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":[]}}`, -32602, "5"},
		{"no params", `{"jsonrpc":"2.0","id":5,"method":"tools/call"}`, -32600, "5"},
		{"initialize twice", strings.Replace(initialize, `"id":1`, `"id":5`, 1), -32603, "5"},
		{"batch", "[" + initialized + "]", -32600, "null"},
		{"removed in this protocol", stateless("5", "ping", ""), -32601, "5"},
		{"stray answer", `{"jsonrpc":"2.0","id":5,"result":{}}`, 0, ""},
		{"stray error", `{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":"x"}}`, 0, ""},
		{"unknown notification", `{"jsonrpc":"2.0","method":"notifications/none"}`, 0, ""},
		{"cancellation of nothing", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":77}}`, 0, ""},
		{"cancellation of nonsense", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}`, 0, ""},
		{"empty line", "  \r", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers := pipe(t, mcp.Options{MaxMessageBytes: limit}, "\uFEFF"+initialize+"\r", "", initialized, c.line, echoCall("99", "alive"), "")
			after := byID(answers, "99")
			require.NotNil(t, after, "the stream did not go on: %+v", answers)
			require.Contains(t, string(after.Result), "alive")
			if c.code == 0 {
				require.Len(t, answers, 2)
				return
			}
			require.Len(t, answers, 3)
			var bad rpcAnswer
			for _, a := range answers {
				if a.Error.Code != 0 {
					bad = a
				}
			}
			require.Equal(t, c.code, bad.Error.Code, bad.Error.Message)
			require.Equal(t, c.id, string(bad.ID))
			require.NotEmpty(t, bad.Error.Message)
		})
	}
}

func TestNothingButPingBeforeInitialize(t *testing.T) {
	answers := pipe(t, mcp.Options{},
		`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":2,"method":"ping"}`,
		stateless("3", "tools/list", ""))
	require.Equal(t, mcp.CodeNotInitialized, byID(answers, "1").Error.Code)
	require.Zero(t, byID(answers, "2").Error.Code)
	require.Contains(t, string(byID(answers, "3").Result), "echo")
}

func TestBatchesOnStdioFollowTheProtocolVersion(t *testing.T) {
	batch := `[` + echoCall("10", "a") + `,` + initialized + `,` + echoCall(`"b"`, "b") + `]`
	old := strings.Replace(initialize, oldProtocol, "2025-03-26", 1)

	r, _ := newRuntime(t, mcp.Options{})
	var out bytes.Buffer
	require.NoError(t, r.ServeStdio(t.Context(), strings.NewReader(old+"\n"+batch), &out))
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	require.Len(t, lines, 2)
	var answers []rpcAnswer
	require.NoError(t, json.Unmarshal(lines[1], &answers), "%s", lines[1])
	require.Len(t, answers, 2)
	require.Contains(t, string(byID(answers, `"b"`).Result), "b")

	refused := pipe(t, mcp.Options{}, initialize, batch)
	require.Equal(t, -32600, byID(refused, "null").Error.Code)
	require.Len(t, refused, 2, "no message of a refused batch runs")

	early := pipe(t, mcp.Options{}, batch)
	require.Equal(t, -32600, byID(early, "null").Error.Code)
}

func TestIDInUseIsRefusedAndTheFirstCallIsAnswered(t *testing.T) {
	r, release := newRuntime(t, mcp.Options{})
	in, feed := io.Pipe()
	outR, outW := io.Pipe()
	go func() { _ = r.ServeStdio(context.Background(), in, outW); _ = outW.Close() }()
	answers := bufio.NewScanner(outR)
	next := func() rpcAnswer {
		require.True(t, answers.Scan())
		return parseLines(t, answers.Bytes())[0]
	}
	send := func(line string) { _, err := io.WriteString(feed, line+"\n"); require.NoError(t, err) }
	send(initialize)
	next()
	wait := `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"wait","arguments":{}}}`
	send(wait)
	send(wait)
	second := next()
	require.Equal(t, -32600, second.Error.Code)
	require.Contains(t, second.Error.Message, "still running")
	close(release)
	require.Contains(t, string(next().Result), "released")
	send(echoCall("5", "the id is free again"))
	require.Contains(t, string(next().Result), "free again")
	require.NoError(t, feed.Close())
	require.False(t, answers.Scan())
}

func TestTooManyUnansweredRequestsAreRefused(t *testing.T) {
	r, release := newRuntime(t, mcp.Options{MaxPending: 2})
	in, feed := io.Pipe()
	outR, outW := io.Pipe()
	go func() { _ = r.ServeStdio(context.Background(), in, outW); _ = outW.Close() }()
	answers := bufio.NewScanner(outR)
	go func() { _, _ = io.WriteString(feed, initialize+"\n") }()
	require.True(t, answers.Scan()) // initialize counts until it is answered
	go func() {
		for id := 5; id <= 7; id++ {
			_, _ = fmt.Fprintf(feed, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"wait","arguments":{}}}`+"\n", id)
		}
	}()
	got := make(map[string]rpcAnswer)
	for answers.Scan() {
		a := parseLines(t, answers.Bytes())[0]
		got[string(a.ID)] = a
		if a.Error.Code != 0 {
			close(release)
		}
		if len(got) == 3 {
			_ = feed.Close()
		}
	}
	require.Equal(t, mcp.CodeOverloaded, got["7"].Error.Code)
	require.Contains(t, string(got["5"].Result), "released")
	require.Contains(t, string(got["6"].Result), "released")
}

func TestAnswerOverTheLimitBecomesAnError(t *testing.T) {
	answers := pipe(t, mcp.Options{MaxMessageBytes: 4096}, initialize,
		`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"big","arguments":{"bytes":5000}}}`,
		`{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"big","arguments":{"bytes":100}}}`)
	require.Equal(t, mcp.CodeMessageTooLarge, byID(answers, "5").Error.Code)
	require.Zero(t, byID(answers, "6").Error.Code)
}

func TestElicitationOverStdio(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	s := connectStdio(t, r, oldProtocol, &sdk.ClientOptions{
		ElicitationHandler: func(_ context.Context, req *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
		},
	})
	for range 3 {
		require.JSONEq(t, `{"text":"accept Ada"}`, text(t, call(t, s, "ask", textIn{"your name?"})))
	}
}

func TestQuestionToAClientThatLeftFailsAtOnce(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	withElicitation := strings.Replace(initialize, `"capabilities":{}`, `"capabilities":{"elicitation":{}}`, 1)
	ask := `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"ask","arguments":{"text":"?"}}}`
	var out bytes.Buffer
	start := time.Now()
	require.NoError(t, r.ServeStdio(t.Context(), strings.NewReader(withElicitation+"\n"+ask), &out))
	require.Less(t, time.Since(start), 5*time.Second)
	for line := range bytes.SplitSeq(bytes.TrimSpace(out.Bytes()), []byte("\n")) {
		if bytes.Contains(line, []byte(`"id":5`)) && bytes.Contains(line, []byte(`"result"`)) {
			require.Contains(t, string(line), "closed its input")
			return
		}
	}
	t.Fatalf("the call was not answered: %s", out.Bytes())
}

func TestProgressReachesTheClientBeforeTheAnswer(t *testing.T) {
	answers := pipe(t, mcp.Options{}, initialize,
		`{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"progress","arguments":{},"_meta":{"progressToken":"p"}}}`)
	require.Len(t, answers, 5)
	require.Equal(t, "5", string(answers[4].ID))
}

func TestServeStdioEndsWithItsContext(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	in, feed := io.Pipe()
	defer feed.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.ServeStdio(ctx, in, io.Discard) }()
	_, err := io.WriteString(feed, initialize+"\n")
	require.NoError(t, err)
	cancel()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(5 * time.Second):
		t.Fatal("still serving")
	}
}

func TestServeStdioReportsABrokenCarrier(t *testing.T) {
	r, _ := newRuntime(t, mcp.Options{})
	err := r.ServeStdio(t.Context(), io.MultiReader(strings.NewReader(initialize+"\n"), failingReader{}), io.Discard)
	require.ErrorContains(t, err, "the disk of the pipe broke")

	in, feed := io.Pipe()
	defer feed.Close()
	go func() { _, _ = io.WriteString(feed, initialize+"\n") }()
	err = r.ServeStdio(t.Context(), in, failingWriter{})
	require.ErrorContains(t, err, "nobody reads")
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("the disk of the pipe broke") }

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

// FuzzStdio looks for input that ends the stream early, blocks it, panics, or
// makes something other than JSON-RPC appear on the output.
func FuzzStdio(f *testing.F) {
	f.Add([]byte(initialize + "\n" + echoCall("2", "x")))
	f.Add([]byte("\xef\xbb\xbf{}\r\n\n[]\n\x00\xff"))
	f.Add([]byte(strings.Repeat("[", 3000)))
	f.Add([]byte(initialize + "\n" + `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"panic"}}`))
	f.Add([]byte(stateless("1", "server/discover", "") + "\n" + stateless("1", "subscriptions/listen", `"notifications":{"toolsListChanged":true}`)))
	f.Add([]byte(strings.Replace(initialize, oldProtocol, "2024-11-05", 1) + "\n[" + echoCall("2", "x") + "]"))
	f.Add([]byte(initialize + "\n" + `{"jsonrpc":"2.0","id":-1,"method":"initialize","params":{"protocolVersion":5}}`))
	r, err := mcp.NewRuntime(nil, mcp.Options{MaxMessageBytes: 2048, CallTimeout: time.Second})
	require.NoError(f, err)
	f.Cleanup(func() { _ = r.Close() })
	addTools(r, nil)
	f.Fuzz(func(t *testing.T, input []byte) {
		if bytes.Contains(input, []byte("wait")) || bytes.Contains(input, []byte("ask")) || bytes.Contains(input, []byte(`\`)) {
			return // may rightly run into the time limit
		}
		probe := append(append([]byte(nil), input...), "\n"+stateless(`"probe"`, "tools/list", "")...)
		var out bytes.Buffer
		start := time.Now()
		err := r.ServeStdio(t.Context(), bytes.NewReader(probe), &out)
		require.NoError(t, err)
		require.Less(t, time.Since(start), 5*time.Second, "something waited for an answer that cannot come")
		require.Contains(t, out.String(), `"id":"probe"`)
		for line := range bytes.SplitSeq(bytes.TrimSpace(out.Bytes()), []byte("\n")) {
			require.True(t, json.Valid(line), "%q", line)
		}
	})
}
