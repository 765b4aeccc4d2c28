package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ServeStdio serves one client over a pair of byte streams: newline-delimited
// JSON-RPC, the stdio transport of MCP. Nothing but protocol messages is
// written to out.
//
// It returns nil when the client closed in and every call received before was
// answered, and ctx's error when ctx ended first. Frames that break a rule
// (over the size limit, not UTF-8, not JSON-RPC) are answered with an error
// and the stream goes on.
//
// A reader that does not return from Read when ctx ends keeps one goroutine
// alive until it does; standard input is such a reader.
func (r *Runtime) ServeStdio(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn := r.NewConn(&lineSink{out: out}, ConnOptions{})
	return r.serveFrames(ctx, conn, newLineReader(in, r.opts.MaxMessageBytes).next, &r.stats.stdio)
}

// streamEnd picks the error that ended a stream: what the reader met, or else
// what the session met.
func streamEnd(err error, failed <-chan error) error {
	select {
	case readErr := <-failed:
		if readErr != nil && !errors.Is(readErr, ErrConnClosed) {
			return readErr
		}
	default:
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("mcp: session: %w", err)
	}
	return nil
}
