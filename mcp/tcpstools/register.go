package tcpstools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/tcps"
)

// Instructions tell a model how to work with the ledger; pass them to
// mcp.Options.
const Instructions = `This server is the production ledger of a software factory run by the Toyota Code Production System (TCPS).
Work is pulled, never pushed: every work order answers a demand signal, waits in the queue of one bucket
(security, reliability, compliance, cost, features, technical_debt) and may start only while the bucket has a free WIP slot.
Priority runs from 1 to 10, 10 is the most urgent. A defect stops the line: trigger an andon event; its product and orders stay
blocked until the event is resolved with root cause, fix and prevention. Every finished step leaves a receipt that never changes.
Usual course: work_order_create, work_order_next (or work_order_start), work_order_progress per stage with gate evidence,
receipt_store, work_order_complete. When a call is refused, its code and message say what to do.
Repeat a change safely by giving it an idempotency_key.`

// tools holds what the handlers need.
type tools struct {
	rt     *mcp.Runtime
	ledger *tcps.Ledger
	store  *engine.Store
}

// Register adds tools, resources, prompts and completions to the runtime's
// server and starts the notifications of changed resources, which end with the
// runtime.
func Register(r *mcp.Runtime, ledger *tcps.Ledger, store *engine.Store) error {
	if r == nil || ledger == nil || store == nil {
		return errors.New("tcpstools: runtime, ledger and store are required")
	}
	t := &tools{rt: r, ledger: ledger, store: store}
	r.Server().AddReceivingMiddleware(describeErrors)
	t.addWorkOrderTools()
	t.addLineTools()
	t.addReceiptTools()
	t.addVerifyTask()
	t.addResources()
	t.addPrompts()
	t.addCompletions()
	r.Go(t.watch)
	return nil
}

// Kinds of tools, for the annotations that clients base their consent on.
type kind int

const (
	reads   kind = iota // changes nothing
	adds                // adds to the ledger
	changes             // replaces or ends something; a person may want to be asked
)

// add registers one tool. fn gets a context that names the client as actor.
func add[In, Out any](t *tools, k kind, name, title, description string, fn func(context.Context, In) (Out, error)) {
	closed, destructive := false, k == changes
	annotations := &sdk.ToolAnnotations{Title: title, OpenWorldHint: &closed, ReadOnlyHint: k == reads, IdempotentHint: k == reads}
	if k != reads {
		annotations.DestructiveHint = &destructive
	}
	tool := &sdk.Tool{
		Name: name, Title: title, Description: description, Annotations: annotations,
		OutputSchema: outputSchema[Out](),
	}
	sdk.AddTool(t.rt.Server(), tool, func(ctx context.Context, req *sdk.CallToolRequest, in In) (*sdk.CallToolResult, Out, error) {
		if k != reads && engine.IsStale(ctx) {
			var none Out
			return nil, none, &refusal{Code: codeInvalidArguments, Message: "only tools that read take " + mcp.MetaStale + "; changes are made on current state"}
		}
		ctx = tcps.WithActor(ctx, actor(req.ClientInfo()))
		if keyed, ok := any(in).(interface{ key() string }); ok {
			key := keyed.key()
			if key == "" {
				var err error
				if key, err = mcp.IdempotencyKey(req); err != nil {
					var none Out
					return nil, none, err
				}
			}
			if key != "" {
				ctx = tcps.WithIdempotencyKey(ctx, key)
			}
		}
		out, err := fn(ctx, in)
		if err != nil {
			return nil, out, toolError(err)
		}
		text, err := encode(out)
		if err != nil {
			return nil, out, toolError(err)
		}
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: text}}}, out, nil
	})
}

// outputSchema describes what the structured content of a tool may be: its
// output, or a refusal. Clients of the TypeScript SDK check the content of
// errors too, and drop the whole answer when it does not fit.
func outputSchema[Out any]() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "object", AnyOf: []*jsonschema.Schema{schemaOf[Out](), schemaOf[refusal]()}}
}

// schemaOf panics for types that have no schema: a programming error that the
// first start shows.
func schemaOf[T any]() *jsonschema.Schema {
	s, err := jsonschema.For[T](nil)
	if err != nil {
		panic(fmt.Sprintf("tcpstools: no schema for %T: %v", *new(T), err))
	}
	return s
}

// Keyed is embedded in the input of every tool that changes something.
type Keyed struct {
	IdempotencyKey string `json:"idempotency_key,omitempty" jsonschema:"any text of 1 to 512 bytes that is unique to this change; repeating the call with it returns the first result and changes nothing"`
}

func (k Keyed) key() string { return k.IdempotencyKey }

// maxClientName bounds what a client can put into the change log by its name.
const maxClientName = 64

// actor is how the change log names a client.
func actor(client *sdk.Implementation) string {
	if client == nil || client.Name == "" {
		return "mcp:unknown"
	}
	name := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, client.Name)
	return "mcp:" + name[:min(len(name), maxClientName)]
}

// encode renders v for people and models: compact, without HTML escapes.
func encode(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", fmt.Errorf("encode the result: %w", err)
	}
	return strings.TrimRight(b.String(), "\n"), nil
}
