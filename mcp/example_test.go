package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// tempDir returns a directory for an example; a real server has a fixed one.
func tempDir() string {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	return dir
}

// client connects the official SDK's client to a runtime over HTTP.
func client(r *mcp.Runtime, o *sdk.ClientOptions) (session *sdk.ClientSession, hangUp func()) {
	web := httptest.NewServer(r.Handler())
	c := sdk.NewClient(&sdk.Implementation{Name: "example", Version: "1"}, o)
	session, err := c.Connect(context.Background(), &sdk.StreamableClientTransport{Endpoint: web.URL}, nil)
	if err != nil {
		log.Fatal(err)
	}
	return session, func() {
		_ = session.Close()
		_ = r.Close() // ends the streams that web.Close waits for
		web.Close()
	}
}

// say calls a tool and prints the text of its answer.
func say(session *sdk.ClientSession, tool string, args map[string]any) {
	res, err := session.CallTool(context.Background(), &sdk.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Content[0].(*sdk.TextContent).Text)
}

// A server with one tool. In a program the last lines would be
//
//	log.Fatal(http.ListenAndServe("127.0.0.1:8080", r.Handler()))
func Example() {
	dir := tempDir()
	defer os.RemoveAll(dir)

	r, err := mcp.Open(dir, mcp.Options{Name: "greeter"})
	if err != nil {
		log.Fatal(err)
	}
	type input struct {
		Name string `json:"name" jsonschema:"who is greeted"`
	}
	mcp.AddTool(r, &sdk.Tool{Name: "greet", Description: "Greets somebody"},
		func(_ context.Context, _ *sdk.CallToolRequest, in input) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "Hello, " + in.Name + "!"}}}, nil, nil
		})

	session, hangUp := client(r, nil)
	defer hangUp()
	say(session, "greet", map[string]any{"name": "Ada"})
	// Output: Hello, Ada!
}

// What a tool writes in a transaction is on disk before its answer leaves.
func ExampleOpen() {
	dir := tempDir()
	defer os.RemoveAll(dir)

	type counted struct {
		Count int `json:"count"`
	}
	serve := func() *mcp.Runtime {
		r, err := mcp.Open(dir, mcp.Options{})
		if err != nil {
			log.Fatal(err)
		}
		mcp.AddTool(r, &sdk.Tool{Name: "count", Description: "Counts its calls"},
			func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, counted, error) {
				var out counted
				_, err := r.Store().Update(ctx, func(tx *engine.Tx) error {
					value, err := tx.Get("counters", []byte("calls"))
					if err != nil && !errors.Is(err, engine.ErrNotFound) {
						return err
					}
					out.Count = len(value) + 1
					return tx.Put("counters", []byte("calls"), append(value, '|'))
				})
				return nil, out, err
			})
		return r
	}

	for range 2 { // the second process finds what the first one kept
		session, hangUp := client(serve(), nil)
		say(session, "count", nil)
		say(session, "count", nil)
		hangUp()
	}
	// Output:
	// {"count":1}
	// {"count":2}
	// {"count":3}
	// {"count":4}
}

// A resource and the notification that it changed.
func ExampleRuntime_ResourceChanged() {
	r, err := mcp.NewRuntime(nil, mcp.Options{})
	if err != nil {
		log.Fatal(err)
	}
	const uri = "weather://today"
	r.Server().AddResource(&sdk.Resource{Name: "weather", URI: uri, Description: "The weather"},
		func(context.Context, *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
			return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: uri, Text: "sunny"}}}, nil
		})

	changed := make(chan string, 1)
	session, hangUp := client(r, &sdk.ClientOptions{
		ResourceUpdatedHandler: func(_ context.Context, req *sdk.ResourceUpdatedNotificationRequest) { changed <- req.Params.URI },
	})
	defer hangUp()
	if err := session.Subscribe(context.Background(), &sdk.SubscribeParams{URI: uri}); err != nil {
		log.Fatal(err)
	}
	r.ResourceChanged(uri)
	fmt.Println(<-changed)
	// Output: weather://today
}

// A prompt whose argument completes.
func ExampleRuntime_CompletePrompt() {
	r, err := mcp.NewRuntime(nil, mcp.Options{})
	if err != nil {
		log.Fatal(err)
	}
	r.Server().AddPrompt(&sdk.Prompt{
		Name: "translate", Description: "Translates a text",
		Arguments: []*sdk.PromptArgument{{Name: "language", Description: "into which language", Required: true}},
	}, func(_ context.Context, req *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
		ask := "Translate what follows into " + req.Params.Arguments["language"] + "."
		return &sdk.GetPromptResult{Messages: []*sdk.PromptMessage{{Role: "user", Content: &sdk.TextContent{Text: ask}}}}, nil
	})
	r.CompletePrompt("translate", func(_ context.Context, _, prefix string, _ map[string]string) ([]string, error) {
		var fitting []string
		for _, language := range []string{"finnish", "french", "german"} {
			if strings.HasPrefix(language, prefix) {
				fitting = append(fitting, language)
			}
		}
		return fitting, nil
	})

	session, hangUp := client(r, nil)
	defer hangUp()
	res, err := session.Complete(context.Background(), &sdk.CompleteParams{
		Ref:      &sdk.CompleteReference{Type: "ref/prompt", Name: "translate"},
		Argument: sdk.CompleteParamsArgument{Name: "language", Value: "f"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Completion.Values)
	// Output: [finnish french]
}

// A server that its client starts as a child process calls
//
//	err := r.ServeStdio(ctx, os.Stdin, os.Stdout)
func ExampleRuntime_ServeStdio() {
	r, err := mcp.NewRuntime(nil, mcp.Options{Name: "child", Version: "2"})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()

	// Two pipes stand for standard input and output.
	stdin, toServer := io.Pipe()
	fromServer, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- r.ServeStdio(context.Background(), stdin, stdout) }()

	client := sdk.NewClient(&sdk.Implementation{Name: "parent", Version: "1"}, nil)
	session, err := client.Connect(context.Background(), &sdk.IOTransport{Reader: fromServer, Writer: toServer}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(session.InitializeResult().ServerInfo.Name, session.InitializeResult().ServerInfo.Version)
	_ = session.Close()
	fmt.Println(<-ended)
	// Output:
	// child 2
	// <nil>
}

// A task that pays once, however often its call is repeated and its process
// killed: the step's result is in the journal before the next step starts, and
// calls with one idempotency key are one task.
func ExampleAddTaskTool() {
	dir := tempDir()
	defer os.RemoveAll(dir)
	r, err := mcp.Open(dir, mcp.Options{})
	if err != nil {
		log.Fatal(err)
	}
	type order struct {
		Cents int `json:"cents" jsonschema:"what it costs"`
	}
	type receipt struct {
		Payment string `json:"payment"`
		Parcel  string `json:"parcel"`
	}
	payments := 0
	mcp.AddTaskTool(r, &sdk.Tool{Name: "order", Description: "Pays, then ships"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, t *mcp.Task, in order) (out receipt, err error) {
			out.Payment, err = mcp.Step(ctx, t, "pay", func(context.Context) (string, error) {
				payments++
				return fmt.Sprintf("payment %d of %d cents", payments, in.Cents), nil
			})
			if err != nil {
				return out, err
			}
			out.Parcel, err = mcp.Step(ctx, t, "ship", func(context.Context) (string, error) {
				return "parcel for " + out.Payment, nil
			})
			return out, err
		})

	session, hangUp := client(r, nil)
	defer hangUp()
	for range 2 {
		// This client does not know tasks: it waits for the result.
		res, err := session.CallTool(context.Background(), &sdk.CallToolParams{
			Meta: sdk.Meta{mcp.MetaIdempotencyKey: "order-17"},
			Name: "order", Arguments: order{Cents: 250},
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(res.Content[0].(*sdk.TextContent).Text)
	}
	// Output:
	// {"payment":"payment 1 of 250 cents","parcel":"parcel for payment 1 of 250 cents"}
	// {"payment":"payment 1 of 250 cents","parcel":"parcel for payment 1 of 250 cents"}
}

// A task that asks a person. It may take days and any number of restarts until
// the answer comes; meanwhile the task occupies no worker.
func ExampleTask_Elicit() {
	dir := tempDir()
	defer os.RemoveAll(dir)
	r, err := mcp.Open(dir, mcp.Options{})
	if err != nil {
		log.Fatal(err)
	}
	type file struct {
		Name string `json:"name" jsonschema:"the file"`
	}
	mcp.AddTaskTool(r, &sdk.Tool{Name: "delete", Description: "Deletes a file if its owner agrees"}, mcp.TaskOptions{Resumable: true},
		func(ctx context.Context, t *mcp.Task, in file) (*sdk.CallToolResult, error) {
			answer, err := t.Elicit(ctx, &sdk.ElicitParams{
				Message:         "Delete " + in.Name + "?",
				RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{"sure": map[string]any{"type": "boolean"}}},
			})
			if err != nil {
				return nil, err
			}
			verdict := "kept"
			if answer.Action == "accept" && answer.Content["sure"] == true {
				verdict = "deleted"
			}
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: in.Name + " is " + verdict}}}, nil
		})

	session, hangUp := client(r, &sdk.ClientOptions{
		ElicitationHandler: func(_ context.Context, req *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			fmt.Println(req.Params.Message)
			return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"sure": true}}, nil
		},
	})
	defer hangUp()
	say(session, "delete", map[string]any{"name": "old.txt"})
	// Output:
	// Delete old.txt?
	// old.txt is deleted
}
