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
	session, err := r.server.Connect(ctx, conn, nil)
	if err != nil {
		return fmt.Errorf("mcp: connect stdio: %w", err)
	}
	failed := make(chan error, 1)
	go func() {
		failed <- r.pump(ctx, newLineReader(in, r.opts.MaxMessageBytes), conn)
		conn.EndOfInput(ctx) // after the error is in failed: the session ends only now
	}()
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err := <-ended:
		return streamEnd(err, failed)
	case <-ctx.Done():
		_ = conn.Close()
		r.closeSession(session)
		return ctx.Err()
	case <-r.done:
		_ = conn.Close()
		r.closeSession(session)
		return nil
	}
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
		return fmt.Errorf("mcp: stdio session: %w", err)
	}
	return nil
}

// pump moves lines into conn until the input ends.
func (r *Runtime) pump(ctx context.Context, lines *lineReader, conn *Conn) error {
	for {
		line, err := lines.next()
		var bad *wireError
		switch {
		case errors.As(err, &bad):
			err = conn.Refuse(ctx, bad)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("mcp: read stdio: %w", err)
		default:
			r.stats.stdio.Add(1)
			err = conn.Receive(ctx, line)
		}
		if err != nil {
			return err
		}
	}
}
