package mcp

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// This file runs the tools/call requests of HTTP sessions past the SDK's
// message queue, which moves every message over four goroutines. The handler,
// its middleware, its session and what it may do are the same; its context
// ends with the connection, or when the client cancels the request.

// isDirect reports whether env may go the short way. c.mu is held.
func (c *Conn) isDirect(env *envelope) bool {
	return c.http != nil && env.method == methodToolsCall && env.isCall() && env.version == "" && env.params != nil &&
		c.initialized && !c.initID.IsValid() && !c.isEnded && !c.isClosed
}

// startDirect starts a call. On a closed connection its context has ended.
func (c *Conn) startDirect(call *Call, params []byte) {
	ctx, cancel := context.WithTimeout(c.life, c.rt.opts.CallTimeout)
	c.mu.Lock()
	call.cancel = cancel
	c.mu.Unlock()
	c.rt.workers.run(func() { c.runDirect(call.within(ctx), call, params) })
}

func (c *Conn) runDirect(ctx context.Context, call *Call, params []byte) {
	defer call.cancel()
	data := beginAnswer(make([]byte, 0, 512), call.rawID)
	data, err := c.callDirectly(ctx, call, params, data)
	if err != nil {
		data, _ = encodeFailure(call.rawID, err)
	} else {
		data = append(data, '}')
	}
	if limit := c.rt.opts.MaxMessageBytes; int64(len(data)) > limit {
		data, _ = encodeFailure(call.rawID, answerTooLarge(len(data), limit))
	}
	if c.answered(&jsonrpc.Response{ID: call.ID}) != call {
		return // the connection was closed
	}
	c.rt.stats.bytesOut.Add(int64(len(data)))
	defer c.settle()
	if err := c.http.deliver(ctx, call, &Event{Data: data, Final: true}); err != nil {
		c.rt.log.Debug("answer not delivered", "session", c.opts.SessionID[:8], "error", err)
	}
}

// callDirectly is callTool; a panic of somebody's middleware costs the call only.
func (c *Conn) callDirectly(ctx context.Context, call *Call, params, buf []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.rt.stats.panics.Add(1)
			c.rt.log.Error("middleware panicked", "method", call.Method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "internal error; the server log has the details"}
		}
	}()
	return c.rt.callTool(ctx, c.http.ss, call.extra, params, false, buf)
}

// cancelDirect ends the direct call that a notifications/cancelled names.
func (c *Conn) cancelDirect(params []byte) {
	id := member(params, "requestId")
	if id == nil || checkID(id) != "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if call := c.calls[decodeID(id)]; call != nil && call.cancel != nil {
		call.cancel()
	}
}

func answerTooLarge(size int, limit int64) *jsonrpc.Error {
	return &jsonrpc.Error{Code: CodeMessageTooLarge, Message: fmt.Sprintf(
		"the answer has %d bytes, more than the limit of %d; ask for less", size, limit)}
}
