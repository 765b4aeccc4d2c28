package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
)

// Tools for conversations that are killed between any two messages (package
// test/conversation). Their work leaves a trace outside the store, so that
// somebody else can count how often it was done.

const (
	tableSteps   = "conversation_steps"   // key '/' step number -> ""
	tableWatched = "conversation_watched" // "text" -> text of test://watched-resource
)

const watchedURI = "test://watched-resource"

// A trace is a file of one line per thing that happened: "run KEY STEP" before
// a step's work and "finished KEY STEP" when its result is durable. A killed
// process loses none of it: the lines are in the operating system's hands.
type trace struct {
	mu   sync.Mutex
	file *os.File
}

func openTrace(path string) (*trace, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &trace{file: file}, err
}

func (t *trace) note(event, key string, step int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := fmt.Fprintf(t.file, "%s %s %d\n", event, key, step)
	return err
}

// work is what count_steps and long_job are asked for.
type work struct {
	Key   string `json:"key" jsonschema:"names the work in the trace; count_steps goes on with work of the same key"`
	Steps int    `json:"steps" jsonschema:"how many steps it has, 1 to 100"`
}

func (w work) check() error {
	if w.Steps < 1 || w.Steps > 100 || w.Key == "" || strings.ContainsAny(w.Key, " \n") {
		return errors.New("want a key without spaces, and 1 to 100 steps")
	}
	return nil
}

// conversation holds what its tools need.
type conversation struct {
	rt    *mcp.Runtime
	trace *trace
}

func addConversation(rt *mcp.Runtime, t *trace) {
	c := &conversation{rt: rt, trace: t}
	mcp.AddTool(rt, &sdk.Tool{Name: "count_steps", Description: "Does some steps, each once, and reports progress"},
		func(ctx context.Context, req *sdk.CallToolRequest, in work) (*sdk.CallToolResult, any, error) {
			if err := in.check(); err != nil {
				return nil, nil, err
			}
			res, err := c.count(ctx, req, in.Key, in.Steps)
			return res, nil, err
		})
	type finished struct {
		Key string `json:"key" jsonschema:"the work"`
	}
	mcp.AddTool(rt, &sdk.Tool{Name: "list_steps", Description: "Tells how many steps of some work are finished"},
		func(ctx context.Context, _ *sdk.CallToolRequest, in finished) (*sdk.CallToolResult, any, error) {
			res, err := c.list(ctx, in.Key)
			return res, nil, err
		})
	type change struct {
		Text string `json:"text" jsonschema:"the new text"`
	}
	mcp.AddTool(rt, &sdk.Tool{Name: "set_watched", Description: "Changes the text of test://watched-resource"},
		func(ctx context.Context, _ *sdk.CallToolRequest, in change) (*sdk.CallToolResult, any, error) {
			if err := c.put(ctx, tableWatched, "text", in.Text); err != nil {
				return nil, nil, err
			}
			rt.ResourceChanged(watchedURI)
			return text("changed to " + in.Text), nil, nil
		})
	addJob(rt, "long_job", "Does some steps as a task, asks a question in the middle, and goes on", mcp.TaskOptions{}, c.longJob)
	rt.Server().AddResource(&sdk.Resource{
		Name: "watched-resource", URI: watchedURI, MIMEType: "text/plain", Description: "A text that clients subscribe to",
	}, c.readWatched)
}

func (c *conversation) put(ctx context.Context, table, key, value string) error {
	_, err := c.rt.Store().Update(ctx, func(tx *engine.Tx) error {
		return tx.Put(table, []byte(key), []byte(value))
	})
	return err
}

func stepKey(key string, step int) string { return fmt.Sprintf("%s/%03d", key, step) }

// count does the steps that are not finished yet.
func (c *conversation) count(ctx context.Context, req *sdk.CallToolRequest, key string, steps int) (*sdk.CallToolResult, error) {
	for step := 1; step <= steps; step++ {
		if err := c.once(ctx, key, step); err != nil {
			return nil, err
		}
		if token := req.Params.GetProgressToken(); token != nil {
			err := req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
				ProgressToken: token, Progress: float64(step), Total: float64(steps), Message: stepKey(key, step),
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return text(fmt.Sprintf("%s: %d steps", key, steps)), nil
}

// once does a step unless it is finished.
func (c *conversation) once(ctx context.Context, key string, step int) error {
	done := false
	err := c.rt.Store().View(ctx, func(tx *engine.Tx) error {
		_, err := tx.Get(tableSteps, []byte(stepKey(key, step)))
		done = err == nil
		if errors.Is(err, engine.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if done { // perhaps by a process that was killed before it could say so
		return c.trace.note("finished", key, step)
	}
	if err := c.trace.note("run", key, step); err != nil {
		return err
	}
	if err := pause(ctx, 5*time.Millisecond); err != nil { // the work
		return err
	}
	if err := c.put(ctx, tableSteps, stepKey(key, step), ""); err != nil {
		return err
	}
	return c.trace.note("finished", key, step)
}

// longJob leaves the same trace, with the steps in the task's journal.
func (c *conversation) longJob(ctx context.Context, t *mcp.Task, in work) (*sdk.CallToolResult, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	who := "nobody"
	for step := 1; step <= in.Steps; step++ {
		err := t.Step(ctx, fmt.Sprintf("step %d", step), func(ctx context.Context) error {
			if err := c.trace.note("run", in.Key, step); err != nil {
				return err
			}
			return pause(ctx, 5*time.Millisecond) // the work
		})
		if err != nil {
			return nil, err
		}
		if err := c.trace.note("finished", in.Key, step); err != nil {
			return nil, err
		}
		if err := t.Progress("%d of %d steps", step, in.Steps); err != nil {
			return nil, err
		}
		if step != (in.Steps+1)/2 {
			continue
		}
		res, err := t.Elicit(ctx, askName())
		if err != nil {
			return nil, err
		}
		who, _ = res.Content["name"].(string)
		if err := t.Sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return text(fmt.Sprintf("%s: %d steps for %s", in.Key, in.Steps, who)), nil
}

func (c *conversation) list(ctx context.Context, key string) (*sdk.CallToolResult, error) {
	n := 0
	err := c.rt.Store().View(ctx, func(tx *engine.Tx) error {
		for step := 1; ; step++ {
			_, err := tx.Get(tableSteps, []byte(stepKey(key, step)))
			if errors.Is(err, engine.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			n = step
		}
	})
	return text(fmt.Sprintf("%s: %d steps", key, n)), err
}

func (c *conversation) readWatched(ctx context.Context, _ *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
	body := "Watched resource content"
	err := c.rt.Store().View(ctx, func(tx *engine.Tx) error {
		value, err := tx.Get(tableWatched, []byte("text"))
		switch {
		case err == nil:
			body = string(value)
		case !errors.Is(err, engine.ErrNotFound):
			return err
		}
		return nil
	})
	return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: watchedURI, MIMEType: "text/plain", Text: body}}}, err
}
