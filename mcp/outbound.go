package mcp

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// This file is the outbound half of Conn: what the SDK writes is committed to
// the journal and only then delivered.

// Write implements [sdk.Connection]: commit, then deliver.
func (c *Conn) Write(ctx context.Context, msg jsonrpc.Message) error {
	if c.http == nil { // the streams of HTTP have an order each
		c.writeMu.Lock()
		defer c.writeMu.Unlock()
	}
	switch m := msg.(type) {
	case *jsonrpc.Response:
		return c.writeResponse(ctx, m)
	case *jsonrpc.Request:
		return c.writeRequest(ctx, m)
	}
	return fmt.Errorf("mcp: cannot write a %T", msg)
}

func (c *Conn) writeResponse(ctx context.Context, resp *jsonrpc.Response) error {
	defer c.settle()
	call := c.answered(resp)
	data, err := encodeResponse(resp)
	if err != nil {
		return err
	}
	if limit := c.rt.opts.MaxMessageBytes; int64(len(data)) > limit {
		if data, err = encodeResponse(&jsonrpc.Response{ID: resp.ID, Error: answerTooLarge(len(data), limit)}); err != nil {
			return err
		}
	}
	ev := Event{Data: data, Final: true}
	if c.http != nil {
		if call == nil {
			return rejected("the answer belongs to no open request")
		}
		c.rt.stats.bytesOut.Add(int64(len(data)))
		return c.http.deliver(ctx, call, &ev)
	}
	if call != nil {
		ev.Stream = call.stream
		if b := call.batch; b != nil {
			b.parts = append(b.parts, data)
			if b.left--; b.left > 0 {
				return nil
			}
			if ev.Data, err = marshal(b.parts); err != nil {
				return err
			}
		}
	}
	return c.send(ctx, ev)
}

// encodeResponse encodes an answer; the SDK leaves out an id it does not know.
func encodeResponse(resp *jsonrpc.Response) ([]byte, error) {
	if resp.Error != nil {
		resp = &jsonrpc.Response{ID: resp.ID, Error: normalise(resp.Error)}
	}
	if !resp.ID.IsValid() && resp.Error != nil {
		return (&wireError{Code: jsonrpc.CodeInvalidRequest, Message: resp.Error.Error()}).encode(), nil
	}
	return jsonrpc.EncodeMessage(resp)
}

// answered removes the call that resp answers from the open ones.
func (c *Conn) answered(resp *jsonrpc.Response) *Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.calls[resp.ID]
	if call == nil {
		return nil
	}
	delete(c.calls, resp.ID)
	c.rt.calls.Delete(call.extra)
	if call.Method == "initialize" && call.ID == c.initID {
		c.initID = jsonrpc.ID{}
		c.version, _ = unquote(member(resp.Result, "protocolVersion"))
		c.initialized = resp.Error == nil
	}
	return call
}

func (c *Conn) writeRequest(ctx context.Context, req *jsonrpc.Request) error {
	out := &jsonrpc.Request{ID: req.ID, Method: req.Method, Params: req.Params}
	switch {
	case req.IsCall():
		wire, err := c.journal.NextRequestID(ctx)
		if err != nil {
			return fmt.Errorf("mcp: request id: %w", err)
		}
		if out.ID, err = jsonrpc.MakeID(float64(wire)); err != nil {
			return err
		}
		if !c.expect(wire, req.ID) {
			return rejected("the client closed its input and cannot answer " + req.Method)
		}
	case req.Method == "notifications/cancelled":
		out.Params = c.rebaseCancel(req.Params)
	}
	data, err := jsonrpc.EncodeMessage(out)
	if err != nil {
		return err
	}
	if c.http == nil {
		return c.send(ctx, Event{Stream: c.streamOf(ctx), Data: data})
	}
	c.rt.stats.bytesOut.Add(int64(len(data)))
	ev := Event{Data: data, request: req.IsCall(), repeatable: repeatable(req.Method)}
	err = c.http.deliver(ctx, c.openCall(ctx), &ev)
	if err != nil && req.IsCall() {
		c.unexpect(req.ID)
	}
	return err
}

// methodUpdated tells a client that a resource it subscribes to changed.
const methodUpdated = "notifications/resources/updated"

// repeatable tells the messages that say nothing new when they are repeated
// before anybody read them.
func repeatable(method string) bool {
	switch method {
	case methodUpdated, "notifications/tools/list_changed",
		"notifications/prompts/list_changed", "notifications/resources/list_changed":
		return true
	}
	return false
}

// rejected is an error of Write that fails one message only: the SDK ends the
// connection on every error but those with this code (its ErrRejected).
func rejected(why string) error {
	return &jsonrpc.Error{Code: -32005, Message: why}
}

// expect notes that the client owes an answer.
func (c *Conn) expect(wire int64, id jsonrpc.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isEnded {
		return false
	}
	c.sent[wire] = id
	return true
}

// unexpect takes back expect for a request of the SDK that was not sent.
func (c *Conn) unexpect(id jsonrpc.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for wire, open := range c.sent {
		if open == id {
			delete(c.sent, wire)
		}
	}
}

// rebaseCancel replaces the SDK's request id in a cancellation by the one the
// client knows.
func (c *Conn) rebaseCancel(params json.RawMessage) json.RawMessage {
	var fields map[string]any
	if err := json.Unmarshal(params, &fields); err != nil {
		return params
	}
	id, err := jsonrpc.MakeID(fields["requestId"])
	if err != nil {
		return params
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for wire, open := range c.sent {
		if open == id {
			delete(c.sent, wire)
			fields["requestId"] = wire
			if out, err := marshal(fields); err == nil {
				return out
			}
		}
	}
	return params
}

// streamOf names the call that a message belongs to, if it is still open.
func (c *Conn) streamOf(ctx context.Context) string {
	if call := c.openCall(ctx); call != nil {
		return call.stream
	}
	return ""
}

// openCall returns the call that a message belongs to, if it is still open.
func (c *Conn) openCall(ctx context.Context) *Call {
	call, ok := CallFrom(ctx)
	if !ok || call.conn != c {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[call.ID] != call {
		return nil
	}
	return call
}

// send commits and delivers. c.writeMu is held.
func (c *Conn) send(ctx context.Context, ev Event) error {
	if err := c.journal.Commit(ctx, &ev); err != nil {
		return fmt.Errorf("mcp: outbound message not committed, so not sent: %w", err)
	}
	c.rt.stats.bytesOut.Add(int64(len(ev.Data)))
	return c.sink.Deliver(ctx, ev)
}
