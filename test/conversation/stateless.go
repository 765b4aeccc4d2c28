package conversation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
)

// statelessClient is the official Go SDK with protocol 2026-07-28: no session,
// questions in answers, and a durable task.
type statelessClient struct {
	goClient
	tap  *tap
	task string
}

// A tap keeps the id of the last task that an answer brought: the SDK's
// CallTool has no place for it.
type tap struct {
	next http.RoundTripper

	mu   sync.Mutex
	task string
}

func (t *tap) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil || req.Header.Get("Mcp-Name") != "long_job" {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	for line := range bytes.Lines(body) {
		var msg struct {
			Result struct {
				TaskID string `json:"taskId"`
			} `json:"result"`
		}
		if json.Unmarshal(bytes.TrimPrefix(line, []byte("data: ")), &msg) == nil && msg.Result.TaskID != "" {
			t.mu.Lock()
			t.task = msg.Result.TaskID
			t.mu.Unlock()
		}
	}
	return resp, nil
}

// take returns the id and forgets it.
func (t *tap) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.task
	t.task = ""
	return id
}

type taskParams struct {
	sdk.ParamsBase
	TaskID         string         `json:"taskId"`
	InputResponses map[string]any `json:"inputResponses,omitempty"`
}

type taskResult struct {
	sdk.ResultBase
	Status        string                     `json:"status"`
	InputRequests map[string]json.RawMessage `json:"inputRequests"`
	Result        *sdk.CallToolResult        `json:"result"`
}

// TalkStateless has the conversation of revision 2026-07-28.
func TalkStateless(urls []string, run string, tries int) Report {
	c := &statelessClient{tap: &tap{next: http.DefaultTransport}}
	if base, err := transport(urls); err != nil {
		return c.end(err)
	} else if base != nil {
		c.tap.next = base
	}
	c.goClient = goClient{url: urls[0], script: script{run: run, tries: tries}, version: "2026-07-28", http: &http.Client{Transport: c.tap}}
	c.client = c.newClient(&sdk.ClientCapabilities{Extensions: map[string]any{mcp.ExtensionTasks: map[string]any{}}})
	err := errors.Join(
		sdk.AddSendingCustomMethod[*taskParams, *taskResult](c.client, "tasks/get"),
		sdk.AddSendingCustomMethod[*taskParams, *taskResult](c.client, "tasks/update"),
	)
	if err == nil {
		err = c.talk()
	}
	return c.end(err)
}

func (c *statelessClient) talk() error {
	var listening context.CancelFunc
	defer func() {
		if listening != nil {
			listening()
		}
	}()
	return runSteps(
		func() error { return c.step("connect", c.connect) },
		func() error { return c.step("list", c.list) },
		func() error { return c.step("subscribe", c.subscribe) },
		func() error {
			return c.call("count", "count_steps", map[string]any{"key": "count" + c.run, "steps": 5}, "p1")
		},
		func() error { return c.changeStateless("first") },
		func() error { return c.call("rounds", "test_input_required_result_multi_round", nil, nil) },
		func() error { return c.step("job", c.create) },
		func() error {
			ctx, cancel := context.WithCancel(context.Background())
			listening = cancel
			go c.listen(ctx)
			return nil
		},
		func() error { return c.step("ask", c.awaitQuestion) },
		func() error { return c.step("same", c.create) },
		func() error { return c.step("end", c.awaitEnd) },
		func() error { return c.step("told", c.told) },
		func() error { return c.changeStateless("second") },
		func() error { return c.call("recall", "list_steps", map[string]any{"key": "count" + c.run}, nil) },
	)
}

// WantedStateless are the steps and what they end with.
var WantedStateless = []WantedStep{
	{"connect", "2026-07-28"},
	{"list", ""},
	{"subscribe", ""},
	{"count", "count: 5 steps"},
	{"change first", "changed to first"},
	{"hear first", "first"},
	{"rounds", "my name likes my color"},
	{"job", ""},
	{"ask", ""},
	{"same", ""},
	{"end", "job: 4 steps for my name"},
	{"told", "completed"},
	{"change second", "changed to second"},
	{"hear second", "second"},
	{"recall", "count: 5 steps"},
}

// create starts the task, with a key that makes a repetition the same task.
func (c *statelessClient) create(ctx context.Context) (string, error) {
	_, err := c.session.CallTool(ctx, &sdk.CallToolParams{
		Meta: sdk.Meta{mcp.MetaIdempotencyKey: "job-1" + c.run},
		Name: "long_job", Arguments: map[string]any{"key": "job" + c.run, "steps": 4},
	})
	if err != nil {
		return "", err
	}
	id := c.tap.take()
	if id == "" {
		return "", errors.New("the answer brought no task")
	}
	if c.task == "" {
		c.task = id // before anybody else reads it
	}
	if c.task != id {
		return "", fmt.Errorf("the same key made two tasks, %s and %s", c.task, id)
	}
	return "", nil
}

// poll asks for the task until done says so. A poll that fails because the
// server went away is repeated: that changes nothing.
func (c *statelessClient) poll(ctx context.Context, done func(*taskResult) (bool, error)) error {
	for {
		res, err := sdk.CallCustomMethod[*taskParams, *taskResult](ctx, c.session, "tasks/get", &taskParams{TaskID: c.task})
		if err != nil {
			return err
		}
		if ok, err := done(res); ok || err != nil {
			return err
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitQuestion waits until the task asks, and answers.
func (c *statelessClient) awaitQuestion(ctx context.Context) (string, error) {
	answers := make(map[string]any)
	err := c.poll(ctx, func(t *taskResult) (bool, error) {
		for key := range t.InputRequests {
			answers[key] = &sdk.ElicitResult{Action: "accept", Content: map[string]any{"name": "my name"}}
		}
		// Behind the question it is too late to ask; an earlier attempt did.
		return len(answers) > 0 || t.Status == "completed", nil
	})
	if err != nil || len(answers) == 0 {
		return "", err
	}
	_, err = sdk.CallCustomMethod[*taskParams, *taskResult](ctx, c.session, "tasks/update", &taskParams{TaskID: c.task, InputResponses: answers})
	return "", err
}

func (c *statelessClient) awaitEnd(ctx context.Context) (text string, err error) {
	err = c.poll(ctx, func(t *taskResult) (bool, error) {
		switch t.Status {
		case "completed":
			text, err = textOf(t.Result.Content, t.Result.IsError)
			return true, err
		case "working", "input_required":
			return false, nil
		}
		return true, fmt.Errorf("the task is %s", t.Status)
	})
	return text, err
}

// told waits until the stream of task notifications told of the end.
func (c *statelessClient) told(ctx context.Context) (string, error) {
	err := until(ctx, func() bool {
		list := c.get().Statuses
		return len(list) > 0 && list[len(list)-1] == "completed"
	})
	return "completed", err
}

// subscribe opens a listen stream for the watched resource. The SDK does not
// open it again when it broke, and does not say that it did.
func (c *statelessClient) subscribe(ctx context.Context) (string, error) {
	params := &sdk.SubscribeParams{URI: watchedURI}
	return "", errors.Join(c.session.Unsubscribe(ctx, &sdk.UnsubscribeParams{URI: watchedURI}), c.session.Subscribe(ctx, params))
}

// changeStateless changes the watched resource. A client that hears nothing
// subscribes again and reads: it may have missed the change.
func (c *statelessClient) changeStateless(text string) error {
	before := c.get().Updates
	if err := c.call("change "+text, "set_watched", map[string]any{"text": text}, nil); err != nil {
		return err
	}
	return c.step("hear "+text, func(ctx context.Context) (string, error) {
		soon, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if until(soon, func() bool { return c.get().Updates > before }) != nil {
			c.add(func(r *Report) { r.Unheard++ })
			if _, err := c.subscribe(ctx); err != nil {
				return "", err
			}
		}
		res, err := c.session.ReadResource(ctx, &sdk.ReadResourceParams{URI: watchedURI})
		if err != nil {
			return "", err
		}
		return res.Contents[0].Text, nil
	})
}

// listen keeps a stream of task notifications open: when it breaks it opens
// another.
func (c *statelessClient) listen(ctx context.Context) {
	for id := 1000; ctx.Err() == nil; id++ {
		if err := c.listenOnce(ctx, id); err != nil && ctx.Err() == nil {
			c.add(func(r *Report) { r.Breaks = append(r.Breaks, err.Error()) })
			_ = wait(ctx, 20*time.Millisecond)
		}
	}
}

func (c *statelessClient) listenOnce(ctx context.Context, id int) error {
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": id, "method": "subscriptions/listen",
		"params": map[string]any{
			"_meta": map[string]any{
				sdk.MetaKeyProtocolVersion:    "2026-07-28",
				sdk.MetaKeyClientInfo:         map[string]any{"name": "conversation", "version": "1"},
				sdk.MetaKeyClientCapabilities: map[string]any{"extensions": map[string]any{mcp.ExtensionTasks: map[string]any{}}},
			},
			"notifications": map[string]any{"taskIds": []string{c.task}},
		},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen",
	} {
		req.Header.Set(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return c.hear(resp.Body)
}

// hear reads the notifications of one stream.
func (c *statelessClient) hear(stream io.Reader) error {
	lines := bufio.NewReader(stream)
	for {
		frame, err := readFrame(lines)
		if err != nil {
			return err
		}
		var msg struct {
			Method string `json:"method"`
			Params struct {
				TaskID string `json:"taskId"`
				Status string `json:"status"`
			} `json:"params"`
		}
		if e := parseFrame(frame); len(e.data) > 0 && json.Unmarshal(e.data, &msg) == nil && msg.Method == "notifications/tasks" && msg.Params.TaskID == c.task {
			c.add(func(r *Report) { r.Statuses = append(r.Statuses, msg.Params.Status) })
		}
	}
}
