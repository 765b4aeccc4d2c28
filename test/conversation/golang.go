package conversation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/failover"
)

//lint:file-ignore SA1019 logging is deprecated by 2026-07-28 and used by clients of the sessions

// goClient is the official Go SDK.
type goClient struct {
	script
	url, version string
	http         *http.Client // nil: the SDK's own
	client       *sdk.Client
	session      *sdk.ClientSession
}

// TalkGo has the whole conversation in a session of revision 2025-11-25. With
// several URLs it works through the failover transport.
func TalkGo(urls []string, run string, tries int) Report {
	c := &goClient{url: urls[0], version: "2025-11-25", script: script{run: run, tries: tries}}
	if base, err := transport(urls); err != nil {
		return c.end(err)
	} else if base != nil {
		c.http = &http.Client{Transport: base}
	}
	c.client = c.newClient(nil)
	return c.end(c.talk())
}

// transport is how the members of a cluster are reached; nil: there is one server.
func transport(urls []string) (http.RoundTripper, error) {
	if len(urls) == 1 {
		return nil, nil
	}
	return failover.New(failover.Options{Endpoints: urls, Patience: patience, Try: 2 * time.Second})
}

func (c *goClient) newClient(capabilities *sdk.ClientCapabilities) *sdk.Client {
	return sdk.NewClient(&sdk.Implementation{Name: "conversation", Version: "1"}, &sdk.ClientOptions{
		Capabilities: capabilities,
		ElicitationHandler: func(_ context.Context, req *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			return &sdk.ElicitResult{Action: "accept", Content: fill(req.Params.RequestedSchema)}, nil
		},
		ResourceUpdatedHandler: func(context.Context, *sdk.ResourceUpdatedNotificationRequest) {
			c.add(func(r *Report) { r.Updates++ })
		},
		ProgressNotificationHandler: func(_ context.Context, req *sdk.ProgressNotificationClientRequest) {
			c.add(func(r *Report) { r.Progress = append(r.Progress, c.unmarked(req.Params.Message)) })
		},
		LoggingMessageHandler: func(_ context.Context, req *sdk.LoggingMessageRequest) {
			c.add(func(r *Report) { r.Logs = append(r.Logs, fmt.Sprint(req.Params.Data)) })
		},
	})
}

// end closes the session and returns the report. A session whose end the
// server does not hear of ends by itself some time later.
func (c *goClient) end(err error) Report {
	if c.session != nil {
		_ = c.session.Close()
	}
	out := c.get()
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// fill answers a form: every field gets its own name.
func fill(schema any) map[string]any {
	content := make(map[string]any)
	object, _ := schema.(map[string]any)
	fields, _ := object["properties"].(map[string]any)
	for name := range fields {
		content[name] = "my " + name
	}
	return content
}

func (c *goClient) talk() error {
	return runSteps(
		func() error { return c.step("connect", c.connect) },
		func() error { return c.step("list", c.list) },
		func() error {
			return c.step("log level", func(ctx context.Context) (string, error) {
				return "", c.session.SetLoggingLevel(ctx, &sdk.SetLoggingLevelParams{Level: "info"})
			})
		},
		func() error {
			return c.step("subscribe", func(ctx context.Context) (string, error) {
				return "", c.session.Subscribe(ctx, &sdk.SubscribeParams{URI: watchedURI})
			})
		},
		func() error {
			return c.call("count", "count_steps", map[string]any{"key": "count" + c.run, "steps": 5}, "p1")
		},
		func() error { return c.change("first") },
		func() error { return c.call("elicit", "test_elicitation", map[string]any{"message": "Who?"}, nil) },
		func() error { return c.call("log", "test_tool_with_logging", nil, nil) },
		func() error {
			return c.call("job", "long_job", map[string]any{"key": "job" + c.run, "steps": 4}, nil, mcp.MetaIdempotencyKey, "job-1"+c.run)
		},
		func() error { return c.change("second") },
		func() error { return c.call("recall", "list_steps", map[string]any{"key": "count" + c.run}, nil) },
	)
}

// watchedURI is the resource that conversations subscribe to.
const watchedURI = "test://watched-resource"

func runSteps(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *goClient) connect(ctx context.Context) (string, error) {
	transport := &sdk.StreamableClientTransport{Endpoint: c.url, HTTPClient: c.http}
	session, err := c.client.Connect(ctx, transport, &sdk.ClientSessionOptions{ProtocolVersion: c.version})
	if err != nil {
		return "", err
	}
	if got := session.InitializeResult().ProtocolVersion; got != c.version {
		// The SDK takes every failure of server/discover for an old server.
		return "", errors.Join(fmt.Errorf("the client fell back to protocol %s", got), session.Close())
	}
	c.session = session
	c.add(func(r *Report) { r.Sessions++ })
	return c.version, nil
}

func (c *goClient) list(ctx context.Context) (string, error) {
	var names []string
	for tool, err := range c.session.Tools(ctx, nil) {
		if err != nil {
			return "", err
		}
		names = append(names, tool.Name)
	}
	if !slices.Contains(names, "count_steps") {
		return "", fmt.Errorf("count_steps is not among the tools %v", names)
	}
	return "", nil
}

// call calls a tool, with more members for its _meta.
func (c *goClient) call(step, tool string, args map[string]any, token any, meta ...string) error {
	return c.step(step, func(ctx context.Context) (string, error) {
		params := &sdk.CallToolParams{Name: tool, Arguments: args}
		if args == nil {
			params.Arguments = map[string]any{}
		}
		for i := 0; i+1 < len(meta); i += 2 {
			params.Meta = sdk.Meta{meta[i]: meta[i+1]}
		}
		if token != nil {
			params.SetProgressToken(token)
		}
		res, err := c.session.CallTool(ctx, params)
		if err != nil {
			return "", err
		}
		return textOf(res.Content, res.IsError)
	})
}

// textOf joins the texts of an answer.
func textOf(content []sdk.Content, isError bool) (string, error) {
	var texts []string
	for _, part := range content {
		if t, ok := part.(*sdk.TextContent); ok {
			texts = append(texts, t.Text)
		}
	}
	all := strings.Join(texts, "\n")
	if isError {
		return "", fmt.Errorf("the tool failed: %s", all)
	}
	return all, nil
}

// change changes the watched resource, waits until the server says so on the
// standalone stream, and reads it.
func (c *goClient) change(text string) error {
	before := c.get().Updates
	if err := c.call("change "+text, "set_watched", map[string]any{"text": text}, nil); err != nil {
		return err
	}
	return c.step("hear "+text, func(ctx context.Context) (string, error) {
		if err := until(ctx, func() bool { return c.get().Updates > before }); err != nil {
			return "", fmt.Errorf("no notification that %s changed: %w", watchedURI, err)
		}
		res, err := c.session.ReadResource(ctx, &sdk.ReadResourceParams{URI: watchedURI})
		if err != nil {
			return "", err
		}
		return res.Contents[0].Text, nil
	})
}
